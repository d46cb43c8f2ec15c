"""A model that was trained again is held against the card of the shipped one."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from circuits.training.reproduction import OTHER_TOLERANCE, SHARE_TOLERANCE, STATED, close, compare_with_card
from interp.paths import data_dir


@pytest.fixture
def metrics() -> dict[str, Any]:
    return json.loads((data_dir() / "models" / "mini" / "metrics.json").read_text(encoding="utf-8"))


def row(metrics: dict[str, Any], task: str, metric: str) -> dict[str, Any]:
    return next(row for row in metrics["card"] if (row["task"], row["metric"]) == (task, metric))


def test_the_shipped_numbers_agree_with_themselves(metrics: dict[str, Any]) -> None:
    (line,), agrees = compare_with_card("mini", metrics)
    assert agrees
    assert line.startswith(f"{len(metrics['card'])} numbers beside the card's: shares differ by at most 0.000 (allowed")


def test_a_card_of_shares_alone_tells_of_shares_alone() -> None:
    shipped = json.loads((data_dir() / "models" / "mini-sinks" / "metrics.json").read_text(encoding="utf-8"))
    (line,), agrees = compare_with_card("mini-sinks", shipped)
    assert agrees
    assert line == f"{len(shipped['card'])} numbers beside the card's: shares differ by at most 0.000 (allowed 0.05)."


@pytest.mark.parametrize(
    ("task", "metric", "change", "agrees"),
    [
        ("ioi", "accuracy", -0.9 * SHARE_TOLERANCE, True),
        ("ioi", "accuracy", -1.1 * SHARE_TOLERANCE, False),
        ("ioi", "logit difference", 1.0, True),
        ("ioi", "logit difference", -6.0, False),
        ("needle", "exact match", float("nan"), False),
    ],
)
def test_each_number_has_its_tolerance(
    metrics: dict[str, Any], task: str, metric: str, change: float, agrees: bool
) -> None:
    row(metrics, task, metric)["value"] += change
    lines, found = compare_with_card("mini", metrics)
    assert found is agrees
    assert agrees or lines[1].startswith(f"out of tolerance: {task} ")


def test_a_number_that_is_missing_is_out_of_tolerance(metrics: dict[str, Any]) -> None:
    metrics["card"].remove(row(metrics, "docstring", "accuracy"))
    lines, agrees = compare_with_card("mini", metrics)
    assert not agrees
    assert lines[1].startswith("out of tolerance: docstring docstring accuracy")


def test_another_recipe_is_not_compared(metrics: dict[str, Any]) -> None:
    metrics["recipe"]["seed"] += 1
    assert compare_with_card("mini", metrics) == (
        ["The recipe is not the one of the card of mini, so the numbers were not compared."],
        True,
    )


def test_a_new_model_has_no_card(metrics: dict[str, Any]) -> None:
    assert compare_with_card("new", metrics) == (["new has no card yet, so nothing was compared."], True)


def test_a_trial_is_not_compared(metrics: dict[str, Any]) -> None:
    metrics["card"] = []
    (line,), agrees = compare_with_card("mini", metrics, whole=False)
    assert agrees and line == "The run was stopped before its last step, so the numbers were not compared."


def test_a_card_that_is_not_reproduced_ends_with_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    close(tmp_path, (["fine"], True))
    with pytest.raises(SystemExit) as stopped:
        close(tmp_path, (["out of tolerance: ioi"], False))
    assert stopped.value.code == 1
    assert caplog.messages == [f"fine\nsaved to {tmp_path}", f"out of tolerance: ioi\nsaved to {tmp_path}"]


def test_the_cards_state_the_tolerance() -> None:
    assert f"{SHARE_TOLERANCE:g}" in STATED
    assert f"{OTHER_TOLERANCE:.0%}" in STATED
    for name in ("mini", "mini-b", "mini-vl"):
        assert STATED in (data_dir() / "models" / name / "card.md").read_text(encoding="utf-8")
