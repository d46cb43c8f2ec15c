"""`interp compare`."""

import json
from pathlib import Path

import pytest

import interp
from tests.cli.conftest import Command


def test_compare_prints_changes_and_writes_them(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    line = ("compare", circuit_directory, circuit_directory, "--analyzers", "induction, entropy", "--quiet")
    code, out, _ = command(*line, "--save", tmp_path / "saved")
    assert code == 0
    assert "induction: 4 unchanged" in out and "L1H1" in out and "rank correlation" in out
    assert "chance" in next(line for line in out.splitlines() if line.split()[:1] == ["head"])
    saved = interp.load_result(tmp_path / "saved" / "induction")
    assert isinstance(saved, interp.HeadScores) and saved.columns["first"][1, 1] > 0.999
    _, out, _ = command(*line, "--json", "-", "--csv", tmp_path / "heads.csv")
    document = json.loads(out, parse_constant=pytest.fail)
    assert set(document) == {"induction", "entropy"} and len(document["induction"]["heads"]) == 4
    assert (tmp_path / "heads.csv").read_text().count("\n") == 9


def test_compare_reads_a_text(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{1 + i * i % 50}" for i in range(400)))
    line = ("compare", circuit_directory, circuit_directory, "--text", text, "--length", "32", "--quiet")
    code, out, err = command(*line, "--analyzers", "first-token")
    assert code == 0, err
    assert "first-token" in out


def test_models_of_two_shapes_are_a_usage_error(
    command: Command, circuit_directory: Path, words_directory: Path
) -> None:
    code, out, err = command("compare", circuit_directory, words_directory, "--quiet")
    assert (code, out) == (2, "") and "Compare models of one shape" in err
