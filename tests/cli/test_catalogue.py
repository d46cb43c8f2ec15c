"""`interp catalogue`."""

import json
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp.cli import catalogue as catalogue_module
from interp.head_catalogue import HeadCatalogue
from tests.cli.conftest import Command

TYPES = "previous-token, induction,prefix-matching,streaming"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"w{1 + i * i % 50}" for i in range(800)))
    return path


def test_the_page_shows_every_head_with_its_evidence(command: Command, circuit_directory: Path, text: Path) -> None:
    line = ("catalogue", "--model", circuit_directory, "--text", text, "--length", "90", "--types", TYPES, "--quiet")
    code, out, err = command(*line)
    assert code == 0 and err == ""
    rows = {cells[0]: cells[1:] for cells in map(str.split, out.splitlines()) if cells and cells[0].startswith("L")}
    assert rows["L0H0"][:2] == ["previous-token", "1.00"] and rows["L1H1"][0] == "induction"
    assert rows["L0H1"] == rows["L1H0"] == ["–", "(near", "chance", "in", "all)"]
    assert "2 of 4 heads have a clear type" in out and "induction >= 0.4 and copying-logits" in out
    assert "text: 8 x 90 tokens of text given" in out
    assert "implied by what a head is listed as, and not repeated: prefix-matching 1, streaming 1 (heads)" in out
    assert max(map(len, out.splitlines())) <= 100 and "\x1b" not in out


def test_the_circuit_set_by_hand_has_its_two_heads_and_no_other(command: Command, circuit_directory: Path) -> None:
    """Of all types, and on text that the model writes itself."""
    line = ("catalogue", "--model", circuit_directory, "--n", "4", "--length", "90", "--json", "-", "--quiet")
    code, out, err = command(*line)
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    assert {head["label"]: head["types"] for head in document["heads"]} == {
        "L0H0": "previous-token", "L0H1": "", "L1H0": "", "L1H1": "induction",
    }  # fmt: skip
    assert len(document["notes"]["rules"]) > 10


def test_a_large_model_is_summed_up(
    command: Command, circuit_directory: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_module, "WHOLE", 3)
    line = ("catalogue", "--model", circuit_directory, "--text", text, "--length", "90", "--types", TYPES, "--quiet")
    _, out, _ = command(*line)
    rows = [line.split() for line in out.splitlines()]
    assert ["layer", "previous-token", "induction"] in rows and ["all", "1", "1"] in rows
    assert "Clearest heads of each type" in out and "L1H0" not in out
    assert "L1H0" in command(*line, "--all")[1]


def test_every_format_holds_the_same(command: Command, circuit_directory: Path, text: Path, tmp_path: Path) -> None:
    targets = {name: tmp_path / f"heads.{name}" for name in ("csv", "parquet")}
    code, out, _ = command(
        "catalogue", "--model", circuit_directory, "--text", text, "--text", text, "--length", "90", "--types",
        TYPES, "--threshold", "induction=0.9", "--json", "-", "--save", tmp_path / "saved", "--quiet",
        *(part for name, path in targets.items() for part in (f"--{name}", path)),
    )  # fmt: skip
    assert code == 0
    document = json.loads(out, parse_constant=pytest.fail)
    assert ">= 0.9" in document["notes"]["rules"]["induction"]["rule"]
    heads = {head["label"]: head for head in document["heads"]}
    assert heads["L1H1"]["types"] == "induction" and heads["L1H0"]["types"] == ""
    saved = interp.load_result(tmp_path / "saved")
    assert isinstance(saved, HeadCatalogue)
    for frame in (pd.read_csv(targets["csv"]), pd.read_parquet(targets["parquet"])):
        pd.testing.assert_frame_equal(frame, saved.to_frame())
    assert [row["score"] for row in heads["L1H1"]["evidence"]] == pytest.approx(saved.scores[:, 1, 1].tolist())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--types", "sinks"), "There is no type 'sinks'. Choose from previous-token"),
        (("--threshold", "induction"), "is not TYPE=NUMBER"),
        (("--threshold", "sinks=1"), "There is no type 'sinks'"),
        (("--text", "nowhere.txt"), "There is no file nowhere.txt"),
        (("--text", __file__, "--length", "1"), "of 2 to"),
        (("--json", "-", "--csv", "-"), "both want standard output"),
    ],
)
def test_usage_errors_are_one_sentence(
    command: Command, circuit_directory: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = command("catalogue", "--model", circuit_directory, *arguments)
    assert code == 2 and out == ""
    assert said in err and err.startswith("interp: ") and err.count("\n") == 1
