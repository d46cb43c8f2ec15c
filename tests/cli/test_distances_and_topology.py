"""`interp distances` and `interp topology`: the tables and the formats."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from interp.results import HeadDistances, HeadFeatures, HeadScores
from tests.cli.conftest import Command

# In the induction circuit L0H1 and L1H0 have zero weights and look everywhere alike.
DATA = ("--task", "induction", "--n", "2", "--quiet")


def test_heads_that_attend_alike_stand_in_one_group(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("distances", "--model", circuit_directory, *DATA, "--clusters", "3", "--top", "1")
    assert (code, err) == (0, "")
    words = " ".join(out.split())  # where lines break depends on the name of the directory
    assert "3 groups of heads that attend alike" in words and "2 texts" in words
    assert "L0H1, L1H0" in words and "nearest: L0H1 and L1H0 0.000" in words
    assert max(map(len, out.splitlines())) <= 100
    _, out, _ = command("distances", "--model", circuit_directory, *DATA, "--head", "L1H0", "--top", "1")
    assert "nearest: L1H0 and L0H1 0.000" in out


def test_distances_in_every_format(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    csv, saved = tmp_path / "pairs.csv", tmp_path / "saved"
    targets = ("--json", "-", "--csv", csv, "--save", saved)
    code, out, _ = command("distances", "--model", circuit_directory, *DATA, *targets)
    assert code == 0
    document = json.loads(out, parse_constant=pytest.fail)
    pairs = HeadDistances.load(saved / "distances").to_frame()
    assert len(pairs) == 6 and pd.read_csv(csv)["distance"].tolist() == pytest.approx(pairs["distance"].tolist())
    assert [pair["distance"] for pair in document["pairs"]] == pytest.approx(pairs["distance"].tolist())
    heads = {head["label"]: head for head in document["heads"]}
    assert (
        heads["L0H1"]["cluster"]
        == heads["L1H0"]["cluster"]
        == HeadScores.load(saved / "clusters").columns["cluster"][0, 1]
    )
    assert heads["L0H1"]["to_uniform"] == pytest.approx(0, abs=1e-6)
    same, other = (math.dist(*((heads[a]["x"], heads[a]["y"]) for a in ("L1H0", b))) for b in ("L0H1", "L1H1"))
    assert same < 0.05 < other


def test_features_of_the_graphs(command: Command, circuit_directory: Path) -> None:
    code, out, err = command(
        "topology", "--model", circuit_directory, *DATA, "--threshold", "0.5", "--threshold", "0.9"
    )
    assert (code, err) == (0, "")
    rows = {row[0]: row for line in out.splitlines() if len(row := line.split()) in (4, 6)}
    assert {name.partition("@")[2] for name in rows if "@" in name} == {"0.5", "0.9"}
    # The previous-token head is its canonical pattern but for the BOS, and its graph is one path.
    assert rows["to_previous"][3] == "L0H0" and float(rows["to_previous"][2]) < 0.3
    assert rows["b0@0.5"][2:4] == ["1", "L0H0"]
    assert max(map(len, out.splitlines())) <= 100


def test_features_in_every_format(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    csv, parquet, saved = tmp_path / "f.csv", tmp_path / "f.parquet", tmp_path / "saved"
    targets = ("--json", "-", "--csv", csv, "--parquet", parquet, "--save", saved)
    code, out, _ = command("topology", "--model", circuit_directory, *DATA, "--threshold", "0.5", *targets)
    assert code == 0
    document = json.loads(out, parse_constant=pytest.fail)
    frame = HeadFeatures.load(saved).to_frame()
    assert len(frame) == 8 and set(frame) >= {"b0@0.5", "b1@0.5", "h0_sum", "to_first"}
    for column in ("b1@0.5", "h0_mean", "to_first"):
        expected = pytest.approx(frame[column].tolist())
        assert pd.read_csv(csv)[column].tolist() == pd.read_parquet(parquet)[column].tolist() == expected
        assert [row[column] for row in document["rows"]] == expected
    assert document["uniform"][0]["b0@0.5"] > 1


@pytest.mark.parametrize("name", ["distances", "topology"])
def test_a_source_is_needed(command: Command, circuit_directory: Path, name: str) -> None:
    code, out, err = command(name, "--model", circuit_directory)
    assert (code, out) == (2, "") and "Give one of --text FILE, --dataset NAME and --task NAME" in err


def test_parameters_out_of_range(command: Command, circuit_directory: Path) -> None:
    code, _, err = command("distances", "--model", circuit_directory, *DATA, "--clusters", "9")
    assert code == 2 and "expected three heads or more and 2 to 3 groups" in err
    code, _, err = command("topology", "--model", circuit_directory, *DATA, "--threshold", "0")
    assert code == 2 and "expected ascending numbers above 0" in err
