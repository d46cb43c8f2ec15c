"""`interp in-context`: the score, the heads, the formats."""

import json
from pathlib import Path

import pandas as pd
import pytest

from interp.results import HeadScores, LossCurve
from tests.cli.conftest import Command


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """Twenty words, three times over, so that the induction circuit knows the later ones."""
    path = tmp_path / "words.txt"
    path.write_text("\n".join(" ".join(f"w{1 + (k + i) % 60}" for i in (*range(20),) * 3) for k in range(6)))
    return path


def line(directory: Path, text: Path) -> tuple[object, ...]:
    return ("in-context", "--model", directory, "--text", text, "--sample-by", "line", "--apart", "--early", "10",
            "--late", "50", "--quiet")  # fmt: skip


def test_the_induction_circuit_learns_in_context(command: Command, circuit_directory: Path, repeated: Path) -> None:
    code, out, err = command(*line(circuit_directory, repeated))
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "loss at 50 minus loss at 10 -" in words and "6 texts" in words
    heads = [row.split()[0] for row in out.splitlines() if row.split()[:1] and row.split()[0].startswith("L")]
    assert set(heads[:2]) == {"L0H0", "L1H1"} and len(heads) == 4
    assert max(map(len, out.splitlines())) <= 100
    _, alone, _ = command(*line(circuit_directory, repeated), "--no-heads")
    assert "L1H1" not in alone and "loss at 50 minus loss at 10 -" in " ".join(alone.split())


def test_formats_agree(command: Command, circuit_directory: Path, repeated: Path, tmp_path: Path) -> None:
    csv, saved = tmp_path / "heads.csv", tmp_path / "saved"
    code, out, _ = command(*line(circuit_directory, repeated), "--json", "-", "--csv", csv, "--save", saved)
    assert code == 0
    document = json.loads(out, parse_constant=pytest.fail)
    curve, scores = LossCurve.load(saved / "curve"), HeadScores.load(saved / "heads")
    assert document["score"] == curve.score < -1 and len(document["positions"]) == 51
    frame = pd.read_csv(csv).set_index("label")
    assert frame["score"]["L1H1"] == pytest.approx(scores["L1H1"]) and document["heads"]["heads"][0]["score"] > 1


def test_patterns_can_be_kept(command: Command, circuit_directory: Path, repeated: Path) -> None:
    """The previous-token head serves the keys of the other alone, so that it helps nobody where patterns are kept."""
    effects = {}
    for ablation in ("full", "pattern-preserving"):
        _, out, _ = command(*line(circuit_directory, repeated), "--ablation", ablation, "--json", "-")
        heads = json.loads(out)["heads"]["heads"]
        effects[ablation] = {head["label"]: head["score"] for head in heads}
    assert effects["full"]["L0H0"] > 1 and effects["pattern-preserving"]["L0H0"] < 0.1
    assert effects["pattern-preserving"]["L1H1"] > 1


@pytest.mark.usefixtures("unchecked_annotations")
def test_an_unknown_ablation(command: Command, circuit_directory: Path, repeated: Path) -> None:
    code, _, err = command(*line(circuit_directory, repeated), "--ablation", "half")
    assert code == 2 and "There is no ablation 'half'. Choose from full, pattern-preserving." in err


def test_texts_that_are_too_short(command: Command, circuit_directory: Path, repeated: Path) -> None:
    code, out, err = command(*line(circuit_directory, repeated), "--late", "90")
    assert (code, out) == (2, "") and "needs at least 2 of at least 92" in err
    code, _, err = command("in-context", "--model", circuit_directory)
    assert code == 2 and "Give one of --text FILE and --dataset NAME" in err
