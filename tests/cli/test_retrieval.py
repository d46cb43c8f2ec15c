"""`interp retrieval`: the table, the formats, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

from circuits.retrieval import Agreement
from interp.results import HeadScores
from tests.cli.conftest import Command
from tests.hand_weighted import letters_tokenizer
from tests.tiny_models import tiny_llama

OPTIONS = ("--method", "needle", "--method", "razor", "--length", "60", "--depths", "2", "--quiet")


def test_the_table_puts_the_retrieval_head_first(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("retrieval", "--model", circuit_directory, *OPTIONS)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    heads = [line[0] for line in lines if line and line[0].startswith("L")]
    assert heads[0] == "L1H1" and len(heads) == 4
    assert "needle and razor: rank correlation" in out and "(chance 0.25)" in out
    assert "needle soft" in out and "needles: 6 prompts, 6 answered by the model, 6 counted" in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_method_that_measures_nothing_takes_no_part_in_the_agreement(
    command: Command, circuit_directory: Path
) -> None:
    """No prompt of 60 tokens has one beyond four sinks and 64 recent tokens."""
    code, out, err = command("retrieval", "--model", circuit_directory, *OPTIONS, "--method", "distant-mass")
    assert (code, err) == (0, "")
    assert "not measured on these prompts, which may be too short for it: distant-mass" in " ".join(out.split())
    assert "needle and razor: rank correlation" in out and "and distant-mass" not in out
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["L1H1"])
    assert row[3] == "–" and "nan" not in out


def test_json_csv_and_saved_results_agree(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    csv, saved = tmp_path / "heads.csv", tmp_path / "saved"
    targets = ("--json", "-", "--csv", csv, "--save", saved)
    code, out, _ = command("retrieval", "--model", circuit_directory, *OPTIONS, *targets)
    document = json.loads(out, parse_constant=pytest.fail)
    assert code == 0 and set(document["methods"]) == {"needle", "razor"}
    assert len(document["agreement"]) == 3
    frame = pd.read_csv(csv)
    assert frame["label"].tolist()[0] == "L1H1" and frame["needle"].tolist() == [1, 0, 0, 0]
    for column in ("needle ci_low", "needle soft", "needle strength", "razor echo", "razor retrieval"):
        assert len(frame[column].dropna()) == 4
    assert HeadScores.load(saved / "needle")["L1H1"] == 1
    assert Agreement.load(saved / "agreement").methods == ("needle", "needle, soft", "razor")


def test_needles_of_a_file_at_every_depth_and_length(command: Command, words_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Mary gave the ring to John and went to the school . " * 30)
    needles = [
        {"text": "The ball is in the garden .", "question": "Where is the ball ?", "answer": "in the garden"},
        {"text": "Tom has the drink .", "question": "What has Tom ?", "answer": "the drink"},
    ]
    (tmp_path / "needles.jsonl").write_text("\n".join(map(json.dumps, needles)) + "\n")
    code, out, err = command(
        "retrieval", "--model", words_directory, "--haystack", tmp_path / "book.txt", "--needles",
        tmp_path / "needles.jsonl", "--length", "60", "--length", "80", "--depths", "3", "--method", "needle",
        "--method", "distant-mass", "--overlap", "2", "--json", "-", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    instances = document["methods"]["needle"]["notes"]["instances"]
    assert len(instances) == 12 and {one["needle"] for one in instances} == {"Where is the ball ?", "What has Tom ?"}
    assert len({round(one["length"], -1) for one in instances}) == 2
    assert {pair["k"] for pair in document["agreement"]} == {2}


def test_random_needles_share_a_haystack_at_chosen_depths(command: Command, circuit_directory: Path) -> None:
    code, out, err = command(
        "retrieval", "--model", circuit_directory, "--method", "needle", "--length", "60", "--random-needles", "2",
        "--depth", "0.25", "--depth", "1", "--shared", "--json", "-", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    methods = json.loads(out, parse_constant=pytest.fail)["methods"]
    instances = methods["needle"]["notes"]["instances"]
    assert [one["hidden"] for one in instances] == [2] * 4
    assert sorted(round(one["depth"], 1) for one in instances) == [0.2, 0.2, 1, 1]


def test_razor_needs_no_words_for_needles(command: Command, tmp_path: Path) -> None:
    tiny_llama(tokenizer=letters_tokenizer(tmp_path, n_tokens=12)).hf.save_pretrained(tmp_path)
    line = ("retrieval", "--model", tmp_path, "--quiet", "--method", "razor")
    code, out, err = command(*line)
    assert (code, err) == (0, "") and out.startswith("Heads by razor attention") and "L1H3" in out
    code, out, err = command(*line, "--method", "distant-mass")
    assert (code, out) == (2, "") and "11 ordinary tokens leave no room" in err and err.count("\n") == 1


def test_options_of_duo_attention(command: Command, circuit_directory: Path) -> None:
    code, out, err = command(
        "retrieval", "--model", circuit_directory, "--method", "duo-gates", "--method", "duo-surrogate",
        "--length", "50", "--depth", "0.3", "--random-needles", "1", "--sink", "2", "--recent", "8", "--steps", "3",
        "--learning-rate", "0.1", "--lambda", "0.2", "--probes", "2", "--json", "-", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    gates, surrogate = (
        json.loads(out)["methods"][name]["provenance"]["parameters"] for name in ("duo-gates", "duo-surrogate")
    )
    assert gates == {"sink": 2, "recent": 8, "steps": 3, "learning_rate": 0.1, "penalty": 0.2}
    assert surrogate == {"sink": 2, "recent": 8, "penalty": 0.2, "probes": 2}


def test_mistakes_are_one_sentence(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}')
    (tmp_path / "astray.jsonl").write_text('{"text": "a", "question": "b", "answer": "c"}')
    for arguments, message in (
        (("--method", "magic"), "each method once out of needle, razor"),
        (("--haystack", tmp_path / "none.txt"), "cannot be read as UTF-8 text"),
        (("--method", "qrhead", "--length", "60"), "qrhead needs passages of text"),
        (("--depths", "3", "--depth", "0.5"), "--depths 3 asks for evenly spaced places, --depth for chosen ones"),
        (("--depths", "0"), "depths=0: expected at least one place"),
        (("--depth", "1.5", "--length", "60"), "between 0 (start of the haystack) and 1 (end)"),
        (("--random-needles", "4", "--haystack", __file__), "4 random needles were asked for, but the haystack is a"),
        (("--random-needles", "9", "--shared", "--length", "90"), "no room for 9 needles"),
        (("--needles", tmp_path / "odd.jsonl"), "Give --haystack FILE too"),
        (("--needles", tmp_path / "odd.jsonl", "--haystack", __file__), "is no list of needles"),
        (("--needles", tmp_path / "astray.jsonl", "--haystack", __file__), "does not stand in the needle"),
    ):
        code, out, err = command("retrieval", "--model", circuit_directory, *arguments)
        assert code == 2 and out == "" and message in err
