"""`interp importance`: the tables, the formats, task and text."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuits.importance import PruningCurve
from interp.results import load_result
from tests.cli.conftest import Command

OPTIONS = ("--task", "induction", "--n-prompts", "8")


def test_the_table_ranks_the_heads(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("importance", *OPTIONS, "--model", circuit_directory, "--quiet", "--top", "2")
    assert code == 0 and err == ""
    assert "importance for induction (absolute), 8 examples" in out
    rows = {line.split()[1]: line.split() for line in out.splitlines() if line[:2].strip() in ("1", "2")}
    assert set(rows) == {"L0H0", "L1H1"}
    assert "the model: logit difference" in out and "chance: 0.00, 0.10" in out
    assert "rank correlation with zero ablation" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_curve_stands_beside_random_orders(command: Command, circuit_directory: Path) -> None:
    code, out, _ = command(
        "importance", *OPTIONS, "--model", circuit_directory, "--quiet", "--curve", "--percent", "50", "--n-random", "3"
    )
    assert code == 0
    assert "pruning heads on induction (zero ablation)" in out
    assert "2 (50%)" in out and "area between absolute and random: +" in out
    assert max(map(len, out.splitlines())) <= 100


def test_every_example_goes_to_a_file(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    code, out, err = command(
        "importance", *OPTIONS, "--model", circuit_directory, "--by-example", tmp_path / "all.csv", "--json", "-"
    )
    assert code == 0, err
    frame = pd.read_csv(tmp_path / "all.csv")
    assert len(frame) == 8 * 4 and frame["example"].nunique() == 8
    heads = {head["label"]: head for head in json.loads(out)["heads"]}
    for label, part in frame.groupby("label"):
        for name in ("signed", "absolute", "zero"):
            assert part[name].mean() == pytest.approx(heads[str(label)][name], abs=1e-5)
    code, _, err = command("importance", *OPTIONS, "--model", circuit_directory, "--by-example", "nowhere/all.csv")
    assert code == 2 and "nowhere/all.csv cannot be written" in err
    code, out, err = command("importance", *OPTIONS, "--model", circuit_directory, "--by-example", "-")
    assert (code, out) == (2, "") and "Name a file instead" in err


def test_formats_agree(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    targets = ("--json", "-", "--csv", tmp_path / "heads.csv", "--save", tmp_path / "saved")
    code, out, err = command("importance", *OPTIONS, "--model", circuit_directory, "--ablation", "mean", *targets)
    assert code == 0
    document = json.loads(out, parse_constant=pytest.fail)
    frame = pd.read_csv(tmp_path / "heads.csv")
    assert [head["label"] for head in document["heads"]] == frame["label"].tolist()
    assert frame["mean"].tolist() == pytest.approx([head["mean"] for head in document["heads"]])
    assert "zero" not in frame
    saved = load_result(tmp_path / "saved")
    assert saved.name == document["name"]


def test_the_curve_as_json_csv_and_directory(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    arguments = ("--curve", "--percent", "50", "--n-random", "2", "--ablation", "none", "--json", "-")
    targets = ("--csv", tmp_path / "curve.csv", "--save", tmp_path / "saved")
    _, out, _ = command("importance", *OPTIONS, "--model", circuit_directory, *arguments, *targets)
    document = json.loads(out, parse_constant=pytest.fail)
    assert document["notes"]["agreement"] == {}
    assert set(document["curve"]["area between"]) == {"absolute"}
    frame = pd.read_csv(tmp_path / "curve.csv")
    assert frame["n_pruned"].tolist() == [0, 2, 4] * 3
    assert frame["metric"].tolist() == pytest.approx([point["metric"] for point in document["curve"]["points"]])
    assert PruningCurve.load(tmp_path / "saved" / "curve").orders == ("absolute", "random", "random")


def curve_of(command: Command, directory: Path, *options: object) -> dict[str, Any]:
    """The JSON document of a curve in steps of a half."""
    line = (
        "importance",
        *OPTIONS,
        "--model",
        directory,
        "--curve",
        "--percent",
        "50",
        "--n-random",
        "1",
        "--json",
        "-",
    )
    code, out, err = command(*line, *options)
    assert code == 0, err
    return json.loads(out, parse_constant=pytest.fail)


def test_a_curve_by_other_scores_and_ablations(command: Command, circuit_directory: Path) -> None:
    document = curve_of(
        command, circuit_directory, "--curve-by", "signed", "--curve-by", "mean", "--curve-ablation", "uniform",
        "--keep-per-layer", "1", "--no-normalise", "--batch-size", "3",
    )  # fmt: skip
    parameters = document["curve"]["provenance"]["parameters"]
    assert parameters["methods"] == ["signed", "mean"] and parameters["ablation"] == "uniform"
    assert {point["n_pruned"] for point in document["curve"]["points"]} == {0, 2}  # one head of each layer stays
    assert document["unit"] == "nats" and not parameters["normalise_layers"]
    best = max(document["heads"], key=lambda head: head["score"])
    assert best["score"] == pytest.approx(best["absolute"])


def test_a_curve_ranked_anew_after_every_step(command: Command, circuit_directory: Path) -> None:
    document = curve_of(command, circuit_directory, "--recompute")
    assert document["curve"]["provenance"]["parameters"]["recompute"]
    assert set(document["curve"]["area between"]) == {"absolute"}
    code, _, err = command(
        "importance", *OPTIONS, "--model", circuit_directory, "--curve", "--recompute", "--curve-by", "zero", "--quiet"
    )
    assert code == 2 and "cannot rank here; choose from absolute, signed" in err


def test_the_loss_of_a_text(command: Command, words_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Mary gave the ring to John and went to the school . " * 20)
    code, out, _ = command(
        "importance", "--text", tmp_path / "text.txt", "--length", "16", "--n-prompts", "4", "--model", words_directory,
        "--ablation", "resample", "--quiet",
    )  # fmt: skip
    assert code == 0
    assert "importance for text (absolute), 4 examples" in out
    assert "log-probability per token" in out and "warning: The model is no better than chance on text" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "size"), "Unknown method 'size'"),
        (("--ablation", "knockout"), "Unknown ablation 'knockout'"),
        (("--task", "chess"), "Unknown task 'chess'"),
        (("--text", "nowhere.txt"), "--task changes nothing beside --text"),
    ],
)
def test_what_the_line_names_is_part_of_its_usage(
    command: Command, circuit_directory: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, err = command("importance", *OPTIONS, "--model", circuit_directory, "--quiet", *options)
    assert code == 2
    assert said in err and "Traceback" not in err
