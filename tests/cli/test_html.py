"""--html of every command: one page that stands by itself, with what the terminal shows, and no text as markup."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.report.test_page import Reader

EVIL = "</script><script>alert(1)</script>"
TASK = ("--task", "induction")
WORDS = " ".join(f"w{1 + i * i % 50}" for i in range(400))
# The command, what the page shows in words, and whether it shows heads as a grid.
PAGES = {
    "scan": (("scan", *TASK, "--n", "2", "--analyzers", "induction,entropy"), "Highest of each analyzer", True),
    "one text": (("scan", "--text", "TEXT", "--n", "1", "--length", "9", "--analyzers", "received-mass"), "key", False),
    "sinks": (("sinks", f"{WORDS[:100]} {EVIL}"), "sink rate of the first token", True),
    "importance": (("importance", *TASK, "--n-prompts", "4"), "chance: 0.00", True),
    "compare": (("compare", "MODEL", "MODEL", "--analyzers", "induction"), "unchanged", True),
    "distances": (("distances", *TASK, "--n", "2"), "groups of heads", False),
    "topology": (("topology", *TASK, "--n", "2", "--threshold", "0.5"), "b0@0.5", True),
    "composition": (("composition", "--kind", "k"), "Strongest compositions of heads", True),
    "in-context": (
        ("in-context", "--text", "TEXT", "--n", "4", "--early", "5", "--late", "20"), "loss at 20 minus", True
    ),
    "retrieval": (("retrieval", "--method", "needle", "--length", "60", "--depths", "2"), "needles: 6 prompts", True),
    "find-heads": (("find-heads", *TASK, "--n-prompts", "4", "--top", "1"), "by causal effect", True),
    "evaluate": (("evaluate", "--model", "WORDS", "--task", "ioi", "--n-prompts", "4"), "on held-out prompts", False),
    "catalogue": (
        ("catalogue", "--text", "TEXT", "--length", "90", "--types", "previous-token,induction"), "The rules", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_every_command_writes_a_page(
    command: Command, circuit_directory: Path, words_directory: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a<b>.txt").write_text(WORDS)
    line, said, has_grid = PAGES[name]
    paths = {"TEXT": tmp_path / "a<b>.txt", "MODEL": circuit_directory, "WORDS": words_directory}
    given = [paths.get(part, part) for part in line]
    model = () if name in ("compare", "evaluate") else ("--model", circuit_directory)
    code, out, err = command(*given, *model, "--html", tmp_path / "page.html", "--quiet")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Reader(page)
    assert page.startswith("<!doctype html>") and said in " ".join(found.text.split())
    assert not [attributes for _, attributes in found.tags if "src" in attributes]
    assert "<script>alert" not in page and "<b>.txt" not in page
    grids = [attributes for tag, attributes in found.tags if tag == "table" and "cells" in (attributes["class"] or "")]
    assert bool(grids) == (has_grid or name in ("one text", "distances", "catalogue"))
    if has_grid:
        assert "L1H1: " in found.text  # the tip of a head
    assert said in " ".join(out.split()) or name == "catalogue"


def test_the_types_of_the_circuit_are_on_the_page(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    options = ("--length", "90", "--types", "previous-token,induction", "--quiet")
    code, page, err = command(
        "catalogue", "--model", circuit_directory, "--text", tmp_path / "words.txt", *options, "--html", "-"
    )
    assert code == 0 and err == ""
    assert page.startswith("<!doctype html>") and page.endswith("</html>\n")  # and no table behind it
    found = Reader(page)
    assert "previous-token: 1 head" in found.text and "induction: 1 head" in found.text
    assert re.search(r"induction: 1\.00 \(1\.00 to 1\.00\), chance 0\.0\d, needs 0\.40, percentile 100", found.text)
    assert "arXiv 2209.11895" in found.text and 'href="https://arxiv.org/abs/2209.11895"' in page
    assert {"#L0H0", "#L1H1"} <= {attributes.get("href") for _, attributes in found.tags}
    assert {"L0H0", "L1H1"} <= {attributes.get("id") for _, attributes in found.tags}


def test_only_one_thing_goes_to_standard_output(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("scan", "--model", circuit_directory, *TASK, "--html", "-", "--json", "-")
    assert (code, out) == (2, "")
    assert "--json - and --html - both want standard output" in err and err.count("\n") == 1


def test_a_page_that_cannot_be_written_is_one_sentence(command: Command, circuit_directory: Path) -> None:
    line = ("scan", "--model", circuit_directory, *TASK, "--n", "2", "--analyzers", "entropy", "--quiet")
    code, _, err = command(*line, "--html", "/nowhere/page.html")
    assert code == 2 and "/nowhere/page.html cannot be written" in err and err.count("\n") == 1
