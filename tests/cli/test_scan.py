"""`interp scan`: sources, formats, and going on."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp import checkpoint as checkpoint_module
from interp.analyzers import known_names
from interp.model.model import Model
from interp.model_scores import MODEL_SCORES
from tests.cli.conftest import Command

STORY = "Tom and Sam saw a dog. The dog was big.\n\nLily had a ball. The ball was red.\n"
ESCAPE = "\x1b[31mred"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(STORY * 3)
    return path


def test_the_table_shows_the_highest_heads_of_each_analyzer(command: Command, stories260k: Path, text: Path) -> None:
    code, out, err = command(
        "scan", "--model", stories260k, "--text", text, "--length", "16", "--n", "4", "--top", "2", "--quiet"
    )
    assert code == 0 and err == ""
    rows = [line.split() for line in out.splitlines()]
    for name in ("first-token", "previous-token", "duplicate-token", "induction", "entropy"):
        assert sum(row[:1] == [name] for row in rows) == 1
    assert sum(any(cell.startswith("L") and "H" in cell for cell in row[:2]) for row in rows) == 10
    assert "95 % interval" in out and "with BOS" in out
    assert max(map(len, out.splitlines())) <= 100 and "\x1b" not in out


def test_every_format_holds_the_same_numbers(command: Command, stories260k: Path, text: Path, tmp_path: Path) -> None:
    targets = {name: tmp_path / f"heads.{name}" for name in ("json", "csv", "parquet")}
    code, _, _ = command(
        "scan", "--model", stories260k, "--text", text, "--length", "16", "--analyzers", "entropy, previous-token",
        *(part for name, path in targets.items() for part in (f"--{name}", path)), "--save", tmp_path / "saved",
    )  # fmt: skip
    assert code == 0
    document = json.loads(targets["json"].read_text(), parse_constant=pytest.fail)
    from_csv, from_parquet = pd.read_csv(targets["csv"]), pd.read_parquet(targets["parquet"])
    assert from_csv["analyzer"].unique().tolist() == ["entropy", "previous-token"]
    assert from_csv["score"].tolist() == pytest.approx(from_parquet["score"].tolist())
    for name in ("entropy", "previous-token"):
        part = from_csv[from_csv["analyzer"] == name]
        rows = document[name]["rows"]
        saved = interp.load_result(tmp_path / "saved" / name)
        assert isinstance(saved, interp.HeadScores)
        assert part["score"].tolist() == pytest.approx([row["score"] for row in rows])
        assert part["score"].tolist() == pytest.approx(saved.scores.flatten().tolist())
        assert document[name]["notes"]["examples"] > 1


def test_sinks_of_a_scan_are_those_of_the_command_that_is_named_so(
    command: Command, stories260k: Path, tmp_path: Path
) -> None:
    """With what heads write measured behind W_O in both."""
    path = tmp_path / "story.txt"
    path.write_text(STORY.strip())
    options = ("--model", stories260k, "--json", "-", "--quiet")
    line = ("scan", *options, "--text", path, "--analyzers", "sinks", "--set", "sinks.epsilon=0.15")
    code, out, err = command(*line)
    assert code == 0, err
    scanned = json.loads(out)["sinks"]
    named = json.loads(command("sinks", STORY.strip(), *options, "--epsilon", "0.15")[1])
    assert scanned["notes"] == named["notes"] and scanned["notes"]["norms before W_O"] == []
    found = {row["label"]: row for row in scanned["rows"]}
    assert len(found) == len(named["heads"]) == 40
    for row in named["heads"]:
        assert found[row["label"]]["no-op"] == pytest.approx(row["no-op"], abs=1e-9)
        assert found[row["label"]]["output norm"] == pytest.approx(row["output norm"], abs=1e-9)
    assert max(row["no-op"] for row in named["heads"]) > 0.05


def test_parameters_of_analyzers(command: Command, stories260k: Path, text: Path) -> None:
    line = ("scan", "--model", stories260k, "--text", text, "--length", "16", "--n", "2", "--quiet", "--json", "-")
    names = ("--analyzers", "local-mass,mean-distance,delimiter-mass,previous-token")
    given = ("local-mass.window=1", "mean-distance.skip_first=true", "delimiter-mass.ids=5,6",
             "previous-token.normalisation=sum_per_query")  # fmt: skip
    code, out, err = command(*line, *names, *(part for value in given for part in ("--set", value)))
    assert code == 0, err
    found = json.loads(out)
    used = found["local-mass"]["provenance"]["parameters"]["analyzers"]
    assert "window=1" in used["local-mass"] and "skip_first=True" in used["mean-distance"]
    assert "(5, 6)" in used["delimiter-mass"]
    plain = json.loads(command(*line, "--analyzers", "local-mass")[1])["local-mass"]["rows"]
    assert all(a["score"] < b["score"] for a, b in zip(found["local-mass"]["rows"], plain, strict=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("window=1", "--set window=1 is not ANALYZER.PARAMETER=VALUE with one of local-mass, mean-distance"),
        ("entropy.window=1", "with one of local-mass, mean-distance"),
        ("local-mass.width=1", "local-mass has no parameter 'width': it has window."),
        ("local-mass.window=wide", "--set local-mass.window=wide: expected a whole number."),
        ("mean-distance.skip_first=1", "--set mean-distance.skip_first=1: expected true or false."),
        ("local-mass.window=-1", "local-mass was given window=-1: expected at least 1."),
    ],
)
def test_parameters_that_there_are_not(command: Command, stories260k: Path, text: Path, given: str, said: str) -> None:
    line = ("scan", "--model", stories260k, "--text", text, "--analyzers", "local-mass,mean-distance", "--quiet")
    code, out, err = command(*line, "--set", given)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_what_no_head_could_be_measured_by_has_a_row(command: Command, stories260k: Path, text: Path) -> None:
    """Local heads are those that see 144 tokens, and there are 16."""
    line = ("scan", "--model", stories260k, "--text", text, "--length", "16", "--n", "1", "--quiet")
    code, out, _ = command(*line, "--analyzers", "entropy,local-heads")
    assert code == 0 and next(line.split()[:3] for line in out.splitlines() if "local-heads" in line) == [
        "local-heads",
        "nothing",
        "measured",
    ]
    assert "read: 1 sequence of at most 16 tokens" in out


def test_prompts_of_a_task_and_json_alone(command: Command, circuit_directory: Path) -> None:
    code, out, err = command(
        "scan", "--model", circuit_directory, "--task", "induction", "--n", "4", "--analyzers", "induction",
        "--seed", "3", "--json", "-", "--quiet",
    )  # fmt: skip
    assert code == 0 and err == ""
    found = json.loads(out, parse_constant=pytest.fail)["induction"]
    assert found["provenance"]["seed"] == 3 and found["notes"]["examples"] == 4
    assert max(found["rows"], key=lambda row: row["score"])["label"] == "L1H1"


def test_a_map_of_one_text_shows_its_tokens_without_their_terminal_codes(
    command: Command, stories260k: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(f"Lily {ESCAPE} ball")
    options = ("--model", stories260k, "--text", path, "--quiet", "--analyzers", "received-mass")
    code, out, _ = command("scan", *options, "--top", "1000")
    assert code == 0
    assert "L4H7 key 0 '<s>'" in out and "\\x1b" in out and "\x1b" not in out
    path.write_text(STORY * 3)
    code, _, err = command("scan", *options, "--length", "16", "--n", "2")
    assert code == 2 and "describes the tokens of one text" in err
    assert command("scan", *options, "--length", "16", "--n", "1")[0] == 0


def test_an_interrupted_command_goes_on(
    command: Command, stories260k: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "SHARE", math.inf)
    passes: list[int] = []

    def forward_inputs(model: Model, batch: object, whole: object = Model.forward_inputs) -> object:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(Model, "forward_inputs", forward_inputs)
    line = ("scan", "--model", stories260k, "--text", text, "--length", "16", "--n", "5", "--batch-size", "1",
            "--analyzers", "entropy", "--save", tmp_path / "saved", "--json", "-", "--quiet")  # fmt: skip
    assert command(*line)[0] == 130
    code, resumed, _ = command(*line)
    assert code == 0 and len(passes) == 6  # two before the interruption, one broken off, three after it
    other = tuple(tmp_path / "other" if part == tmp_path / "saved" else part for part in line)
    whole = json.loads(command(*other)[1])["entropy"]["rows"]
    found = json.loads(resumed)["entropy"]["rows"]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in whole], abs=1e-9)
    code, _, err = command(*(14 if part == "16" else part for part in line))
    assert code == 2 and "holds another scan (other prompts)" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give one of --text FILE, --dataset NAME, --task NAME and --image FILE"),
        (("--text", "a.txt", "--task", "ioi"), "A scan reads one source"),
        (("--text", "nowhere.txt"), "There is no file nowhere.txt"),
        (("--text", __file__, "--length", "1"), "of 2 to"),
        (("--text", __file__, "--sample-by", "word"), "choose one of document, paragraph, line"),
        (("--dataset", "nobody/nothing"), "Couldn't reach 'nobody/nothing'"),
        (("--task", "induction", "--analyzers", "sinkz"), "There is no analyzer 'sinkz'. Choose from"),
        (("--task", "induction", "--n", "0"), "must be at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked_annotations")
def test_usage_errors_are_one_sentence(
    command: Command, circuit_directory: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = command("scan", "--model", circuit_directory, *arguments)
    assert code == 2 and out == ""
    assert said in err and err.startswith("interp: ") and err.count("\n") == 1


def test_a_wrong_name_lists_every_analyzer(command: Command, circuit_directory: Path) -> None:
    _, _, err = command("scan", "--model", circuit_directory, "--task", "induction", "--analyzers", "all")
    assert all(name in err for name in (*known_names(), *MODEL_SCORES))
