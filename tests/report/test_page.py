"""Pages: nothing from elsewhere, no text of others as markup, the same tables as on a terminal."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
import torch

from interp.head_distances import HeadDistances
from interp.head_pairs import HeadPairs
from interp.report import (
    Cell,
    Grid,
    Key,
    Page,
    distance_grid,
    head_grid,
    head_grids,
    pair_grids,
    titled_table,
    token_grid,
)
from interp.report.grids import MOST_TOKENS, luminance, palette
from interp.results import HeadScores, Provenance, TokenMap

EVIL = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"{{ 7 * 7 }}"
FROM = Provenance(model=EVIL, prompt_hash="ab", special_tokens={"bos": EVIL}, warnings=(EVIL,))


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def scores(values: list[list[float]], **further: object) -> HeadScores:
    return HeadScores(name="induction", scores=torch.tensor(values), unit="mass", provenance=FROM, **further)  # type: ignore[arg-type]


def table() -> object:
    made = titled_table(f"title {EVIL}")
    made.add_column("head")
    made.add_column("score", justify="right")
    made.add_row("L0H1", "0.50")
    made.add_section()
    made.add_row("L0H1", EVIL)
    return made


def page(*blocks: object) -> str:
    return Page(title=f"Heads of {EVIL}", blocks=blocks, provenance=FROM).html()  # type: ignore[arg-type]


def everything() -> list[object]:
    tokens = TokenMap(
        name="received", values=torch.rand(2, 3), dims=("layer", "key"), tokens=("<s>", EVIL, "c"), unit=EVIL,
        provenance=FROM,
    )  # fmt: skip
    labels = {"role": ((EVIL, "b"),)}
    odd = Grid(
        title=EVIL, corner=EVIL, columns=[EVIL], rows=[(EVIL, [Cell([EVIL], [EVIL], "#FFFFFF", name="L0H1")])],
        notes=[EVIL], keys=[Key("#FFFFFF", EVIL, EVIL)],
    )  # fmt: skip
    return [EVIL, table(), head_grid(scores([[0.5, 1.0]], labels=labels)), token_grid(tokens), odd]


def test_text_of_others_stays_text() -> None:
    made = page(*everything())
    found = Reader(made)
    assert "alert(1)" in found.text and "{{ 7 * 7 }}" in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]


def test_a_page_needs_nothing_from_elsewhere() -> None:
    made = page(*everything())
    found = Reader(made)
    assert not [a for _, a in found.tags if "src" in a]
    assert not [tag for tag, _ in found.tags if tag in ("link", "iframe", "object")]
    assert "url(" not in made and "@import" not in made
    assert len(made) < 40_000  # no plotly without a figure


def test_plotly_comes_along_once_where_a_figure_is_drawn() -> None:
    figure = go.Figure(layout={"title": {"text": EVIL}})
    figure.add_scatter(y=[1, 2], name=EVIL)
    made = page(figure, "between", figure)
    assert len(made) < 6_000_000 and made.count("plotly.js v") >= 1
    assert made.count("<script>alert") == 0
    assert not [attributes for tag, attributes in Reader(made).tags if tag == "script" and "src" in attributes]


def test_a_table_keeps_its_sections_and_names_the_first_row_of_a_head() -> None:
    made = page(table())
    found = Reader(made)
    assert [attributes["id"] for tag, attributes in found.tags if tag == "td" and "id" in attributes] == ["L0H1"]
    assert [tag for tag, _ in found.tags].count("tbody") == 2
    assert ("th", {"scope": "col", "class": "right"}) in found.tags
    # Above the table, since a caption would be broken to its width.
    tags = [tag for tag, _ in found.tags]
    assert "caption" not in tags and tags.index("h2") < tags.index("table")


def test_cells_lead_to_rows_and_only_to_those_that_are_there() -> None:
    found = Reader(page(table(), head_grid(scores([[0.5, 1.0]]))))
    links = [attributes for tag, attributes in found.tags if tag == "a" and "tabindex" in attributes]
    assert [link.get("href") for link in links] == [None, "#L0H1"]
    assert [link["tabindex"] for link in links] == ["0", "-1"]  # arrow keys reach the others


def test_arxiv_numbers_are_links() -> None:
    found = Reader(page("Olsson et al. 2022, arXiv 2209.11895; not 12345.678901"))
    assert [a["href"] for tag, a in found.tags if tag == "a"] == ["https://arxiv.org/abs/2209.11895"]


def test_the_foot_says_where_the_numbers_came_from() -> None:
    text = Reader(page()).text
    assert f"Warning: {EVIL}" in text and "prompt hash" in text and "packages" in text
    assert "revision" not in text  # not known


def test_a_grid_of_heads_holds_what_is_known_of_them() -> None:
    low, high = torch.tensor([[0.1, 0.4]]), torch.tensor([[0.3, 0.6]])
    grid = head_grid(
        scores(
            [[0.2, float("nan")]], chance=0.03, ci_low=low, ci_high=high, columns={"offset": torch.tensor([[-2, 1]])}
        )
    )
    first, second = grid.rows[0][1]
    assert first is not None and second is not None
    assert (first.lines, second.lines) == (["0.20"], ["–"])
    assert first.tip[0] == "L0H0: 0.2 mass (95 % interval 0.1 to 0.3), chance 0.03"
    assert first.tip[1] == "offset -2" and second.background == ""
    assert "chance 0.03; not measured: 1" in grid.notes[0]


@pytest.mark.parametrize(
    ("values", "texts"),
    [([0.5, 12.25], ["0.5", "12.2"]), ([300.0, 2.0], ["300", "2"]), ([0.001, 0.002], ["0.0010", "0.0020"])],
)
def test_numbers_have_as_many_decimals_as_the_largest_bears(values: list[float], texts: list[str]) -> None:
    assert [cell.lines[0] for cell in head_grid(scores([values])).rows[0][1] if cell] == texts


def test_signed_scores_are_centred_and_text_can_be_read_on_every_colour() -> None:
    cells = head_grid(scores([[-1.0, 0.0, 1.0]], signed=True)).rows[0][1]
    middle = cells[1]
    assert middle is not None and luminance(middle.background) > 0.8
    for name in ("RdBu_r", "Cividis"):
        for colour in palette(name):
            light = luminance(colour) < 0.18
            contrast = 1.05 / (luminance(colour) + 0.05) if light else (luminance(colour) + 0.05) / 0.05
            assert contrast > 4.5


def test_a_page_holds_so_many_cells_and_says_what_it_left_out() -> None:
    many = [HeadScores(name=f"score {i}", scores=torch.rand(40, 100), unit="", provenance=FROM) for i in range(3)]
    *grids, note = head_grids(many)
    assert [grid.title for grid in grids if isinstance(grid, Grid)] == ["score 0", "score 1"]
    assert note == "Not drawn, as a page holds 10,000 cells: score 2."


def pairs(n_layers: int, n_heads: int, name: str = "K-composition") -> HeadPairs:
    """Every pair of an earlier and a later head has a score, the first one far below chance."""
    shape = (n_layers, n_heads, n_layers, n_heads)
    layer = torch.arange(n_layers)
    earlier = (layer[:, None] < layer)[:, None, :, None].expand(shape)
    scores = torch.full(shape, 0.25).masked_fill(~earlier, torch.nan)
    scores[0, 0, 1, 0] = 0.05
    return HeadPairs(name=name, unit="", scores=scores, z=10 * scores, chance=0.25, provenance=FROM)


def test_pairs_are_coloured_by_their_distance_from_chance() -> None:
    (grid,) = pair_grids([pairs(3, 2)])
    assert isinstance(grid, Grid) and grid.ramp is not None and grid.ramp[:2] == ("-0.2", "0.2")
    assert grid.columns == ["L1H0", "L1H1", "L2H0", "L2H1"]
    assert [name for name, _ in grid.rows] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    below, at_chance = grid.rows[0][1][:2]
    assert below is not None and below.tip == ["L0H0 to L1H0: 0.05, chance 0.25, z 0.5"]
    assert at_chance is not None and luminance(at_chance.background) > 0.8 > luminance(below.background)
    assert [cell is None for cell in grid.rows[2][1]] == [True, True, False, False]
    assert "colour: score minus chance (0.25); empty" in grid.notes[0]


def test_pairs_of_large_models_are_left_out_with_a_note() -> None:
    """GPT-2 small has 9,504 pairs, two such grids are too many."""
    grid, note = pair_grids([pairs(12, 12), pairs(12, 12, "V-composition")])
    assert isinstance(grid, Grid) and note == "Pairs not drawn, as a page holds 10,000 cells: V-composition."


def test_tokens_beyond_the_first_are_cut_with_a_note() -> None:
    values = torch.rand(2, 3, MOST_TOKENS + 1)
    found = TokenMap(
        name="received", values=values, dims=("layer", "head", "key"), tokens=("a\n",) * values.shape[-1], unit="",
        provenance=FROM,
    )  # fmt: skip
    grid = token_grid(found)
    assert len(grid.columns) == MOST_TOKENS and grid.columns[0] == "a\\n"
    assert grid.notes == [f"the first {MOST_TOKENS} of {MOST_TOKENS + 1} tokens"] and "mean over heads" in grid.title
    cell = grid.rows[1][1][2]
    mean = float(values[1, :, 2].double().mean())
    assert cell is not None and cell.tip == [f"L1, token 2 'a\\n': {mean:.4g}"]


def test_a_grid_says_what_chance_is_and_what_was_not_measured() -> None:
    several = replace(scores([[0.5, 1.0]]), chance=torch.tensor([[0.25, 0.75]]))
    one = replace(several, chance=torch.tensor([[0.25, torch.nan]]))
    assert [head_grid(found).notes[0].split("; ")[1] for found in (several, one)] == [
        "chance 0.25 to 0.75",
        "chance 0.25",
    ]
    assert "chance" not in head_grid(replace(one, chance=None)).notes[0]
    values = torch.tensor([[0.5, torch.nan]])
    tokens = TokenMap(
        name="share", values=values, dims=("layer", "key"), tokens=("a", "b"), unit="", provenance=FROM, chance=0.5
    )
    assert token_grid(tokens).notes == ["chance 0.5; empty: not measured"]
    assert token_grid(replace(tokens, values=torch.ones(1, 2), chance=None)).notes == []


def test_distances_are_drawn_in_the_order_of_the_groups() -> None:
    divergence = torch.tensor([[0.0, 0.25, 0.04], [0.25, 0.0, 0.09], [0.04, 0.09, 0.0]])
    found = HeadDistances(
        name="distances", divergence=divergence, to_uniform=torch.zeros(3), labels=("L0H0", "L0H1", "L1H0"), unit="",
        provenance=FROM,
    )  # fmt: skip
    grid = distance_grid(found, [0, 2, 1], ["group 0", "group 1", "group 0"])
    assert isinstance(grid, Grid) and grid.columns == ["L0H0", "L1H0", "L0H1"]
    cell = grid.rows[0][1][1]
    assert cell is not None and cell.tip == ["L0H0 (group 0) and L1H0 (group 0)", "distance 0.2"]
    labels = tuple(f"L{i}H0" for i in range(101))
    large = HeadDistances(
        name="d", divergence=torch.zeros(101, 101), to_uniform=torch.zeros(101), labels=labels, unit="", provenance=FROM
    )
    assert "101 x 101 distances are not drawn" in str(distance_grid(large, range(101), [""] * 101))


def test_no_network_address_but_arxiv() -> None:
    assert set(re.findall(r"https?://[^/\"']+", page("arXiv 2209.11895", *everything()))) == {"https://arxiv.org"}
