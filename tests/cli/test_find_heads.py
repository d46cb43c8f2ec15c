"""`interp find-heads`: the table, the formats, and what goes where."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp.cli.export import to_json
from tests.cli.conftest import Command

OPTIONS = ("--task", "induction", "--n-prompts", "12")


def test_the_table_names_the_heads_and_what_they_do(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("find-heads", *OPTIONS, "--model", circuit_directory, "--quiet")
    assert code == 0 and err == ""
    assert "Heads that do induction, by causal effect (12 prompts, exact)" in out
    row = next(line for line in out.splitlines() if "L1H1" in line)
    assert row.split()[:3] == ["1", "L1H1", "induction"]
    assert "+1.00 to +1.00" in row and "END->A1+1 1.00" in row
    assert "clean: logit difference" in out and "chance: accuracy 0.10" in out
    assert "without this head: accuracy 0.00" in out and "random groups of the same layers" in out
    assert "seed 0, interp 0.1.0" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out


def test_one_prompt_has_no_interval(command: Command, circuit_directory: Path) -> None:
    code, out, err = command(
        "find-heads", "--task", "induction", "--n-prompts", "1", "--model", circuit_directory, "--quiet"
    )
    assert code == 0 and err == ""
    assert "(1 prompt, exact)" in out
    row = next(line for line in out.splitlines() if "L1H1" in line)
    assert "+1.00  " in row and "–" in row and " to " not in row


def test_json_on_standard_output_is_nothing_but_json(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("find-heads", *OPTIONS, "--model", circuit_directory, "--json", "-")
    assert code == 0
    document = json.loads(out, parse_constant=pytest.fail)
    assert [head["label"] for head in document["heads"]] == ["L1H1", "L0H0", "L0H1", "L1H0"]
    best = document["heads"][0]
    assert best["role"] == "induction" and best["score"] == pytest.approx(1, abs=1e-4)
    assert document["provenance"]["parameters"]["n_prompts"] == 12
    assert document["notes"]["clean"]["accuracy"] == 1
    assert "warning" not in err


def test_csv_json_and_the_saved_result_agree(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    targets = ("--csv", tmp_path / "heads.csv", "--json", tmp_path / "heads.json", "--save", tmp_path / "saved")
    code, out, _ = command("find-heads", *OPTIONS, "--model", circuit_directory, *targets)
    assert code == 0 and "L1H1" in out
    frame = pd.read_csv(tmp_path / "heads.csv")
    records = json.loads((tmp_path / "heads.json").read_text())["heads"]
    saved = interp.load_result(tmp_path / "saved")
    assert isinstance(saved, interp.HeadScores)
    assert frame["label"].tolist() == [record["label"] for record in records]
    for record, score in zip(records, frame["score"], strict=True):
        assert record["score"] == pytest.approx(score) == saved[record["label"]]


def test_numbers_that_json_lacks_become_null() -> None:
    assert json.loads(to_json({"a": float("nan"), "b": [float("inf"), 1.5]})) == {"a": None, "b": [None, 1.5]}


def test_top_chooses_rows_and_group(command: Command, circuit_directory: Path) -> None:
    _, out, _ = command("find-heads", *OPTIONS, "--model", circuit_directory, "--top", "3", "--quiet")
    cells = [line.split() for line in out.splitlines()]
    assert [row[0] for row in cells if len(row) > 1 and row[1] in ("L0H0", "L0H1", "L1H0", "L1H1")] == ["1", "2", "3"]
    assert "without these 3 heads" in out


def test_attribution_says_what_was_patched(command: Command, circuit_directory: Path) -> None:
    _, out, _ = command(
        "find-heads", *OPTIONS, "--model", circuit_directory, "--method", "attribution", "--top", "1", "--quiet"
    )
    assert "(12 prompts, attribution)" in out
    assert "2 heads then patched exactly" in out


def test_nothing_else_reaches_the_streams_of_a_process(circuit_directory: Path) -> None:
    """No progress of loading, no notices of other libraries; a bar only where there is a terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "interp.cli", "find-heads", *OPTIONS, "--model", circuit_directory, "--json", "-"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)


def test_the_table_honours_no_color(command: Command, circuit_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = command("find-heads", *OPTIONS, "--model", circuit_directory, "--quiet")
    assert "\x1b[1m" in out
    assert not re.search("\x1b\\[[0-9;]*(3|4|9)[0-9]", out)
