"""`interp evaluate` of a model that takes images."""

from pathlib import Path

from tests.circuits.vision import save_tiny_vision_model
from tests.cli.conftest import Command


def test_evaluate_measures_drawn_scenes(command: Command, tmp_path: Path) -> None:
    save_tiny_vision_model(tmp_path)
    code, out, _ = command("evaluate", "--model", tmp_path, "--n-prompts", "3", "--quiet")
    assert code == 0
    rows = [" ".join(line.split()[:3]) for line in out.splitlines()]
    for metric in ("accuracy", "precision", "recall", "F1", "yes"):
        assert f"existence adversarial {metric}" in rows
    assert {"caption all CHAIR_S", "caption all CHAIR_I", "caption all recall", "caption all words"} <= set(rows)
    assert max(map(len, out.splitlines())) <= 100


def test_evaluate_has_no_text_tasks_for_it(command: Command, tmp_path: Path) -> None:
    save_tiny_vision_model(tmp_path)
    code, _, err = command("evaluate", "--model", tmp_path, "--task", "ioi")
    assert code != 0
    assert "is measured on drawn scenes. Leave --task out." in " ".join(err.split())
