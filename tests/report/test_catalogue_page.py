"""The page of a catalogue: every head, every type, every rule."""

import torch

from circuits.head_rules import HEAD_TYPES, NO, UNCERTAIN, YES
from interp.head_catalogue import PER_TYPE, HeadCatalogue
from interp.report import catalogue_page
from interp.report.catalogue import NAMED, STYLES, type_grid
from interp.report.grids import luminance
from interp.results import Provenance
from tests.report.test_page import EVIL, Reader

TYPES = ("induction", "sink", "fixed-offset")


def catalogue(verdicts: torch.Tensor) -> HeadCatalogue:
    """A catalogue of three types with scores of a half, thresholds of 0.4, and offsets of -2."""
    half = torch.full(verdicts.shape, 0.5)
    values = dict.fromkeys(PER_TYPE, half) | {"percentile": half * 100, "threshold": half - 0.1}
    return HeadCatalogue(
        name=f"heads of {EVIL}",
        unit="",
        types=TYPES,
        **values,
        verdicts=verdicts.to(torch.int8),
        measures={"offset": torch.full(verdicts.shape[1:], -2.0)},
        provenance=Provenance(model=EVIL),
        notes={
            "text": "none",
            "left out": {"retrieval": EVIL},
            "rules": {kind: {"meaning": EVIL, "rule": f"{kind} >= 0.4", "source": "ours"} for kind in TYPES},
        },
    )


# L0H0 is an induction head and a sink, L0H1 perhaps looks at a fixed offset, L0H2 has no type.
VERDICTS = torch.tensor([[[YES, NO, NO]], [[YES, NO, NO]], [[NO, UNCERTAIN, NO]]])


def test_every_type_has_a_colour_and_a_name_of_its_own() -> None:
    assert set(STYLES) == {kind.name for kind in HEAD_TYPES}
    assert len({code for code, _ in STYLES.values()}) == len(STYLES)
    for _, colour in STYLES.values():
        parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (luminance(f"rgb({parts[0]}, {parts[1]}, {parts[2]})") + 0.05) / 0.05 > 4.5  # black text on it


def test_a_cell_says_what_its_head_is() -> None:
    both, perhaps, nothing = type_grid(catalogue(VERDICTS)).rows[0][1]
    assert both is not None and perhaps is not None and nothing is not None
    assert both.lines == ["induction", "sink"] and not both.dashed
    assert both.background == "linear-gradient(to right, #E69F00 0% 50%, #009E73 50% 100%)"
    evidence = "0.50 (0.50 to 0.50), chance 0.50, needs 0.40, percentile 50, confidence 0.50"
    assert both.tip == ["L0H0", f"induction: {evidence}", f"sink: {evidence}"]
    assert perhaps.lines == ["fixed-offset?"] and perhaps.dashed and perhaps.background == "#C7E6F8"
    assert perhaps.tip == ["L0H1", f"fixed-offset -2?: {evidence}"]
    assert nothing.lines == ["–"] and nothing.background == "" and nothing.tip[1].startswith("no type, nearest")


def test_wide_models_have_short_names() -> None:
    grid = type_grid(catalogue(VERDICTS.repeat(1, 1, 5)))
    assert len(grid.columns) == 15 > NAMED
    assert [cell.lines for cell in grid.rows[0][1][:3] if cell] == [["IN", "SI"], ["FO?"], ["–"]]
    assert [(key.code, key.text) for key in grid.keys] == [("IN", "induction: 5 heads"), ("SI", "sink: 5 heads")]


def test_the_page_holds_the_heads_the_rules_and_what_was_left_out() -> None:
    found = Reader(catalogue_page(catalogue(VERDICTS)).html())
    words = " ".join(found.text.split())
    assert "1 of 3 heads have a clear type" in words
    assert {a["id"] for tag, a in found.tags if "id" in a} == {"L0H0", "L0H1", "L0H2"}
    assert "fixed-offset >= 0.4" in words and "left out: retrieval, because" in words
    assert [tag for tag, _ in found.tags].count("script") == 1  # nothing of the untrusted texts
