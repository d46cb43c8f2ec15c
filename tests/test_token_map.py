"""TokenMap: checks on the way in, parts, ranking, frame, figure, HTML, round trip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import TokenEntry, TokenMap

NAN = float("nan")
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def make(provenance: Provenance) -> Callable[..., TokenMap]:
    def build(values: Any, dims: tuple[str, ...] = ("query", "key"), **others: Any) -> TokenMap:
        given = {"name": "flow", "unit": "", "provenance": provenance, "tokens": ("a", "b"), "dims": dims}
        return TokenMap(**given | {"values": torch.as_tensor(values)} | others)

    return build


@pytest.fixture
def full(make: Callable[..., TokenMap]) -> TokenMap:
    """2 layers x 2 heads x 1 query x 3 keys, counting up from 0."""
    return make(
        torch.arange(12.0).view(2, 2, 1, 3),
        ("layer", "head", "query", "key"),
        tokens=("<s>", "Mary", "\n"),
        query_tokens=("END",),
        unit="probability",
        value_range=(0.0, None),
        chance=0.25,
        notes={"residual": 0.5},
    )


@pytest.mark.usefixtures("unchecked_annotations")
class TestChecks:
    @pytest.mark.parametrize(
        "dims", [("key", "query"), ("layer", "head"), ("query", "query"), ("query", "position"), ("head", "layer")]
    )
    def test_axes_have_known_names_in_order(self, make: Callable[..., TokenMap], dims: tuple[str, ...]) -> None:
        with pytest.raises(InputError, match="TokenMap.dims is .* expected names out of .* HeadScores"):
            make(torch.zeros(2, 2), dims)

    def test_axes_match_the_tensor(self, make: Callable[..., TokenMap]) -> None:
        with pytest.raises(InputError, match="values has 3 axes, expected 2"):
            make(torch.zeros(1, 2, 2))

    def test_tokens_match_the_keys(self, make: Callable[..., TokenMap]) -> None:
        with pytest.raises(InputError, match="the key axis has 3 positions, but 2 token texts"):
            make(torch.zeros(2, 3))

    def test_tokens_match_the_queries(self, make: Callable[..., TokenMap]) -> None:
        with pytest.raises(InputError, match="the query axis has 2 positions, but 1 token texts"):
            make(torch.zeros(2, 2), query_tokens=("a",))

    @pytest.mark.parametrize("values", [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 0)])
    def test_values_are_floating_point_and_some(self, make: Callable[..., TokenMap], values: torch.Tensor) -> None:
        with pytest.raises(InputError, match="expected floating point numbers, at least one along every axis"):
            make(values)

    def test_the_tensor_is_copied(self, make: Callable[..., TokenMap]) -> None:
        source = torch.ones(2, 2)
        result = make(source)
        source.zero_()
        assert result.values.sum() == 4


class TestParts:
    def test_one_head(self, full: TokenMap) -> None:
        part = full.at(layer=1, head=0)
        assert part.dims == ("query", "key")
        assert part.values.tolist() == [[6.0, 7.0, 8.0]]
        assert part.tokens == full.tokens
        assert part.notes == {"residual": 0.5, "at": {"layer": 1, "head": 0}}

    def test_parts_of_parts_remember_both_choices(self, full: TokenMap) -> None:
        part = full.at(layer=1).at(head=1, query=0)
        assert part.dims == ("key",)
        assert part.notes["at"] == {"layer": 1, "head": 1, "query": 0}

    def test_an_axis_that_is_gone(self, full: TokenMap) -> None:
        with pytest.raises(InputError, match="no axis 'layer': expected one of head, query, key"):
            full.at(layer=0).at(layer=0)

    @pytest.mark.parametrize("head", [2, -1])
    def test_an_index_outside(self, full: TokenMap, head: int) -> None:
        with pytest.raises(InputError, match=f"head={head} is outside the map: expected a number from 0 to 1"):
            full.at(head=head)

    def test_no_token_axis_would_remain(self, full: TokenMap) -> None:
        with pytest.raises(InputError, match="with query or key among them"):
            full.at(query=0, key=0)


class TestRanking:
    def test_entries_carry_their_place_and_text(self, full: TokenMap) -> None:
        assert full.top(1) == [TokenEntry(11.0, layer=1, head=1, query=0, key=2, query_token="END", key_token="\n")]

    def test_ties_keep_the_order_of_positions(self, make: Callable[..., TokenMap]) -> None:
        top = make([[0.5, 1.0], [1.0, 0.5]]).top()
        assert [(entry.query, entry.key) for entry in top] == [(0, 1), (1, 0), (0, 0), (1, 1)]

    def test_by_magnitude_and_without_nan(self, make: Callable[..., TokenMap]) -> None:
        top = make([[-3.0, NAN], [1.0, -float("inf")]]).top(absolute=True)
        assert [entry.value for entry in top] == [-float("inf"), -3.0, 1.0]

    def test_absent_axes_are_none(self, make: Callable[..., TokenMap]) -> None:
        assert make([1.0, 2.0], ("key",)).top(1) == [TokenEntry(2.0, key=1, key_token="b")]

    def test_asking_for_none_is_refused(self, full: TokenMap) -> None:
        with pytest.raises(InputError, match=r"top\(k=0\) asks for nothing"):
            full.top(0)


class TestFrame:
    def test_tidy_columns(self, full: TokenMap) -> None:
        frame = full.to_frame()
        assert list(frame) == ["layer", "head", "label", "query", "query_token", "key", "key_token", "value"]
        assert frame.iloc[10].tolist() == [1, 1, "L1H1", 0, "END", 1, "Mary", 10.0]

    def test_columns_of_a_smaller_map(self, make: Callable[..., TokenMap]) -> None:
        assert list(make(torch.zeros(3, 2), ("layer", "key")).to_frame()) == ["layer", "key", "key_token", "value"]

    def test_values_without_measurement_stay(self, make: Callable[..., TokenMap]) -> None:
        assert make([NAN, 1.0], ("key",)).to_frame()["value"].isna().tolist() == [True, False]


class TestFigure:
    def test_a_map_over_pairs(self, make: Callable[..., TokenMap]) -> None:
        figure = make([[1.0, -2.0], [0.0, 0.5]], tokens=("<b>", "x\ny"), signed=True).plot()
        (trace,) = figure.data
        assert [list(row) for row in trace.z] == [[1.0, -2.0], [0.0, 0.5]]
        assert (trace.zmin, trace.zmax) == (-2.0, 2.0)
        assert figure.layout.xaxis.title.text == "key"
        assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;", "x\\ny"]
        assert trace.customdata[0][1] == "query 0 &#x27;&lt;b&gt;&#x27;, key 1 &#x27;x\\ny&#x27;"

    def test_bars_over_one_axis(self, make: Callable[..., TokenMap]) -> None:
        (trace,) = make([1.0, 3.0], ("key",)).plot().data
        assert trace.type == "bar"
        assert list(trace.y) == [1.0, 3.0]

    def test_layers_against_keys(self, make: Callable[..., TokenMap]) -> None:
        figure = make(torch.zeros(3, 2), ("layer", "key")).plot()
        assert figure.layout.yaxis.title.text == "layer"
        assert figure.layout.yaxis.ticktext is None

    def test_many_tokens_are_not_all_written_out(self, make: Callable[..., TokenMap]) -> None:
        figure = make(torch.zeros(100), ("key",), tokens=("t",) * 100).plot()
        assert figure.layout.xaxis.ticktext is None

    def test_the_title_says_which_part(self, full: TokenMap) -> None:
        assert full.at(layer=1, head=0).plot().layout.title.text == "flow (layer 1, head 0)"

    def test_more_than_two_axes_are_refused(self, full: TokenMap) -> None:
        with pytest.raises(InputError, match="layer, head, query, key cannot be drawn: expected at most two axes"):
            full.plot()


class TestText:
    def test_repr_is_short(self, full: TokenMap, make: Callable[..., TokenMap]) -> None:
        assert repr(full) == "TokenMap('flow', 2 layer x 2 head x 1 query x 3 key)"
        assert repr(make([NAN, 1.0], ("key",))) == "TokenMap('flow', 2 key, 1 not measured)"

    def test_html_shows_the_highest_and_counts_the_rest(self, full: TokenMap) -> None:
        page = full._repr_html_()
        assert "10 of 12 entries, highest first. Not measured: 0." in page
        assert '<th scope="col">probability</th>' in page
        assert "key 2 &#39;\\n&#39;" in page

    def test_html_escapes_tokens(self, make: Callable[..., TokenMap]) -> None:
        page = make(torch.ones(2, 2), tokens=(EVIL, "&amp;"), name=EVIL)._repr_html_()
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert "&amp;amp;" in page


class TestRoundTrip:
    def test_everything_comes_back(self, full: TokenMap, tmp_path: Path) -> None:
        loaded = TokenMap.load(full.save(tmp_path))
        assert loaded.to_frame().equals(full.to_frame())
        assert loaded.provenance == full.provenance
        for name in ("name", "unit", "dims", "tokens", "query_tokens", "value_range", "chance", "signed", "notes"):
            assert getattr(loaded, name) == getattr(full, name)

    def test_odd_token_text_comes_back(self, make: Callable[..., TokenMap], tmp_path: Path) -> None:
        tokens = ("\u2028\x00é\ud800", '"\\\n')
        assert TokenMap.load(make([1.0, 2.0], ("key",), tokens=tokens).save(tmp_path)).tokens == tokens
