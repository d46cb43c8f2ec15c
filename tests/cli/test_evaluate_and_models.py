"""`interp evaluate` and `interp models`."""

import json
from pathlib import Path

import pytest

from interp.model import embedded
from tests.architectures import ARCHITECTURES
from tests.cli.conftest import Command
from tests.model.checkpoints import word_tokenizer


def test_evaluate_prints_a_row_per_measurement(command: Command, words_directory: Path) -> None:
    code, out, _ = command("evaluate", "--model", words_directory, "--task", "ioi", "--n-prompts", "8", "--quiet")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert sum(row[:3] == ["ioi", subset, "accuracy"] for row in rows for subset in ("ABBA", "BABA", "all")) == 3
    assert max(map(len, out.splitlines())) <= 100


def test_evaluate_as_json(command: Command, circuit_directory: Path) -> None:
    _, out, err = command("evaluate", "--model", circuit_directory, "--n-prompts", "4", "--json", "-")
    rows = json.loads(out, parse_constant=pytest.fail)["measurements"]
    left_out = [row["task"] for row in rows if row["n"] == 0]
    assert left_out and all(row["value"] is None for row in rows if row["n"] == 0)
    assert "Left out: ioi, " in err


def test_models_that_continue_no_prompt_are_refused(command: Command, tmp_path: Path) -> None:
    """An encoder, whose scores would mean nothing, and a model of pictures with a processor."""
    rows = {row.name: row for row in ARCHITECTURES}
    for name, said in (("bert", "is not a language model that continues a prompt"), ("vit", "has no tokenizer")):
        rows[name].build().save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / "bert")
        code, out, err = command("evaluate", "--model", tmp_path / name, "--quiet")
        assert (code, out) == (2, "") and said in err
    code, out, err = command("evaluate", "--n-prompts", "0")
    assert (code, out) == (2, "") and "'--n-prompts'" in err


def test_evaluate_measures_mini_sinks_on_its_own_text(command: Command) -> None:
    code, out, _ = command("evaluate", "--model", "mini-sinks", "--n-prompts", "4", "--quiet")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert sum(row[:2] == ["back-copy", "thrice"] for row in rows) == 1
    assert sum(row[:1] == ["sinks"] and row[2:4] == ["BOS", "mass"] and row[1] != "all" for row in rows) == 8
    assert max(map(len, out.splitlines())) <= 100
    assert sum(row[:3] == ["task", "subset", "metric"] for row in rows) == 1  # one table, with the card in it
    (loss,) = [row for row in rows if row[:3] == ["chain", "all", "loss"]]
    low, high = map(float, loss[-3].split("–"))
    assert 0.001 < low < float(loss[-4]) < high < 0.003
    code, _, err = command("evaluate", "--model", "mini-sinks", "--task", "ioi")
    assert code == 2
    assert "mini-sinks is measured on text of its own. Leave --task out." in err


def test_models_lists_what_is_here(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "embedded_names", lambda: ["mini"])
    monkeypatch.setattr(embedded, "cached_names", list)
    code, out, _ = command("models")
    assert code == 0
    assert out == "embedded:\n  mini\nin the Hugging Face cache:\n  (none)\n"
