"""HeadScores: checks on the way in, ranking, frame, figure, HTML, round trip."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import plotly.io
import pytest
import torch

from interp.errors import InputError
from interp.heads import HeadRef
from interp.provenance import Provenance
from interp.results import HeadScores

NAN = float("nan")


@pytest.fixture
def make(provenance: Provenance) -> Callable[..., HeadScores]:
    def build(scores: list[list[float]] | torch.Tensor, **others: Any) -> HeadScores:
        values = scores if isinstance(scores, torch.Tensor) else torch.tensor(scores)
        return HeadScores(**{"name": "effect", "unit": "logits", "provenance": provenance, "scores": values} | others)

    return build


@pytest.fixture
def full(make: Callable[..., HeadScores]) -> HeadScores:
    """Every field in use; L0H1 was not measured."""
    return make(
        [[0.5, NAN, -2.0], [1.5, 0.5, 0.0]],
        value_range=(None, 8.0),
        chance=torch.tensor([[0.1] * 3, [0.2] * 3]),
        ci_low=torch.tensor([[0.4, NAN, -2.5], [1.0, 0.25, -0.5]]),
        ci_high=torch.tensor([[0.6, NAN, -1.5], [2.0, 0.75, 0.5]]),
        columns={"zeta": torch.arange(6).view(2, 3), "alpha": torch.tensor([[True, False, True], [False] * 3])},
        labels={"role": (("induction", "", "other"), ("<b>", "other", "other"))},
        signed=True,
        higher_is="more helpful",
        notes={"clean": 3.5, "by_position": {"END": [1, 2]}},
    )


class TestRanking:
    def test_highest_first(self, full: HeadScores) -> None:
        assert [head.label for head in full.top(3)] == ["L1H0", "L0H0", "L1H1"]

    def test_ties_go_to_the_lower_layer_then_the_lower_head(self, make: Callable[..., HeadScores]) -> None:
        tied = make([[1.0, 2.0, 2.0], [2.0, 1.0, 2.0]])
        assert [head.label for head in tied.top()] == ["L0H1", "L0H2", "L1H0", "L1H2", "L0H0", "L1H1"]

    def test_by_magnitude(self, full: HeadScores) -> None:
        assert [head.label for head in full.top(2, absolute=True)] == ["L0H2", "L1H0"]

    def test_by_a_column(self, full: HeadScores) -> None:
        assert full.top(1, by="zeta") == [HeadRef(1, 2)]
        assert [head.label for head in full.top(3, by="alpha")] == ["L0H0", "L0H2", "L0H1"]

    def test_unmeasured_heads_have_no_rank_but_are_listed(self, full: HeadScores) -> None:
        assert len(full.top(100)) == len(full.top()) == 5
        assert full.unmeasured == [HeadRef(0, 1)]

    def test_nothing_measured(self, make: Callable[..., HeadScores]) -> None:
        assert make([[NAN, NAN]]).top(3) == []

    def test_infinite_scores_are_ranked(self, make: Callable[..., HeadScores]) -> None:
        assert make([[-float("inf"), 0.0, float("inf")]]).top() == [HeadRef(0, 2), HeadRef(0, 1), HeadRef(0, 0)]

    @pytest.mark.parametrize("k", [0, -1])
    def test_asking_for_none_is_refused(self, full: HeadScores, k: int) -> None:
        with pytest.raises(InputError, match=rf"top\(k={k}\) asks for no heads: expected a positive number"):
            full.top(k)

    def test_an_unknown_column_is_refused_with_the_known_ones(self, full: HeadScores) -> None:
        with pytest.raises(InputError, match="no column 'role' to rank by: expected one of score, zeta, alpha"):
            full.top(1, by="role")


class TestLookup:
    @pytest.mark.parametrize("head", ["L1H0", "1.0", (1, 0), HeadRef(1, 0)])
    def test_every_spelling(self, full: HeadScores, head: object) -> None:
        assert full[head] == 1.5

    def test_stack(self, make: Callable[..., HeadScores]) -> None:
        encoder = make([[1.0, 2.0]], stack="E")
        assert encoder["EL0H1"] == encoder["0.1"] == 2.0
        assert encoder.top(1) == [HeadRef(0, 1, "E")]
        with pytest.raises(InputError, match="no score of DL0H1: expected a head from EL0H0 to EL0H1"):
            encoder["DL0H1"]

    @pytest.mark.parametrize("head", ["2.0", "0.3"])
    def test_outside_the_model(self, full: HeadScores, head: str) -> None:
        with pytest.raises(InputError, match=r"no score of L\dH\d: expected a head from L0H0 to L1H2"):
            full[head]


@pytest.mark.usefixtures("unchecked_annotations")
class TestChecks:
    @pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(1, 2, 3), torch.zeros(0, 3)])
    def test_scores_have_two_axes(self, make: Callable[..., HeadScores], scores: torch.Tensor) -> None:
        with pytest.raises(InputError, match=r"scores has shape \[.*expected a non-empty \[layer, head\]"):
            make(scores)

    def test_scores_are_floating_point(self, make: Callable[..., HeadScores]) -> None:
        with pytest.raises(InputError, match="torch.int64: expected .* floating point"):
            make([[1, 2]])

    @pytest.mark.parametrize(
        ("name", "others"),
        [
            ("ci_low", {"ci_low": torch.zeros(2, 2)}),
            ("chance", {"chance": torch.zeros(1, 3)}),
            ("extra", {"columns": {"extra": torch.zeros(2)}}),
        ],
    )
    def test_shapes_agree(self, make: Callable[..., HeadScores], name: str, others: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=rf"'{name}' has shape \[.*\], expected \[1, 2\] as the scores have"):
            make([[1.0, 2.0]], **others)

    @pytest.mark.parametrize("rows", [(("a",),), (("a", "b"), ("c", "d")), ()])
    def test_labels_have_the_shape_of_the_scores(self, make: Callable[..., HeadScores], rows: Any) -> None:
        with pytest.raises(InputError, match="labels 'role' are not 1 layers of 2 words"):
            make([[1.0, 2.0]], labels={"role": rows})

    @pytest.mark.parametrize("others", [{"columns": {"score": torch.zeros(1, 1)}}, {"labels": {"score": (("a",),)}}])
    def test_names_of_the_frame_are_taken(self, make: Callable[..., HeadScores], others: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=r"column names \['score'\] are taken"):
            make([[1.0]], **others)

    def test_a_column_and_a_label_may_not_share_a_name(self, make: Callable[..., HeadScores]) -> None:
        with pytest.raises(InputError, match=r"column names \['role'\] are taken"):
            make([[1.0]], columns={"role": torch.zeros(1, 1)}, labels={"role": (("a",),)})

    def test_the_stack_is_one_of_three(self, make: Callable[..., HeadScores]) -> None:
        with pytest.raises(InputError, match="stack='X' is not a stack: expected ''"):
            make([[1.0]], stack="X")

    def test_notes_are_json(self, make: Callable[..., HeadScores]) -> None:
        with pytest.raises(InputError, match="HeadScores.notes holds a Tensor"):
            make([[1.0]], notes={"metric": torch.tensor(1.0)})


class TestFrozen:
    def test_fields_cannot_be_replaced(self, full: HeadScores) -> None:
        with pytest.raises(FrozenInstanceError):
            full.name = "other"  # type: ignore[misc]

    def test_tensors_are_copied_on_the_way_in(self, make: Callable[..., HeadScores]) -> None:
        source, column = torch.ones(1, 1), torch.ones(1, 1)
        result = make(source, columns={"column": column})
        source.zero_()
        column.zero_()
        assert result["0.0"] == result.columns["column"].item() == 1.0

    def test_half_precision_becomes_float32(self, make: Callable[..., HeadScores]) -> None:
        assert make(torch.ones(1, 1, dtype=torch.bfloat16)).scores.dtype == torch.float32

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
    def test_it_crosses_processes(self, full: HeadScores, clone: Callable[[HeadScores], HeadScores]) -> None:
        assert clone(full).to_frame().equals(full.to_frame())


class TestFrame:
    def test_tidy_columns(self, full: HeadScores) -> None:
        frame = full.to_frame()
        assert list(frame) == [
            *("layer", "head", "label", "score", "ci_low", "ci_high", "chance"),
            *("zeta", "alpha", "role"),
        ]
        assert len(frame) == 6
        row = frame[frame["label"] == "L1H0"].iloc[0]
        assert (row["layer"], row["head"], row["score"], row["zeta"], row["role"]) == (1, 0, 1.5, 3, "<b>")
        assert row["chance"] == pytest.approx(0.2)

    def test_unmeasured_heads_stay_as_nan(self, full: HeadScores) -> None:
        assert full.to_frame()["score"].isna().tolist() == [False, True, False, False, False, False]

    def test_chances_of_heads(self, full: HeadScores, make: Callable[..., HeadScores]) -> None:
        assert full.chances[:, 1].tolist() == pytest.approx([0.1, 0.2])
        assert make([[1.0, NAN]], chance=0.5).chances.tolist() == [[0.5, 0.5]]
        assert make([[1.0, 2.0]]).chances.isnan().all()

    @pytest.mark.usefixtures("unchecked_annotations")
    def test_one_chance_for_all_and_no_interval(self, make: Callable[..., HeadScores]) -> None:
        frame = make([[1.0, 2.0]], chance=1).to_frame()
        assert frame["chance"].tolist() == [1.0, 1.0]
        assert frame["ci_low"].isna().all()


class TestFigure:
    def test_the_trace_holds_the_numbers(self, full: HeadScores) -> None:
        figure = full.plot()
        (trace,) = figure.data
        assert torch.equal(torch.tensor(trace.z).nan_to_num(9), full.scores.nan_to_num(9))
        assert trace.customdata[1][0] == "L1H0"
        assert figure.layout.xaxis.title.text == "head"
        assert figure.layout.yaxis.title.text == "layer"
        assert figure.layout.yaxis.autorange == "reversed"
        assert trace.colorbar.title.text == "logits"

    def test_signed_scores_are_centred_at_zero(self, full: HeadScores) -> None:
        (trace,) = full.plot().data
        assert (trace.zmin, trace.zmax) == (-2.0, 2.0)

    def test_unsigned_scores_are_not(self, make: Callable[..., HeadScores]) -> None:
        (trace,) = make([[1.0, 3.0]]).plot().data
        assert trace.zmin is None

    def test_nothing_measured_can_still_be_drawn(self, make: Callable[..., HeadScores]) -> None:
        assert make([[NAN]], signed=True).plot().data[0].zmax == 1.0

    def test_names_are_escaped(self, make: Callable[..., HeadScores]) -> None:
        figure = make([[1.0]], name="<b>x</b>", unit="<i>").plot()
        assert figure.layout.title.text == "&lt;b&gt;x&lt;/b&gt;"
        assert "<i>" not in figure.data[0].hovertemplate

    def test_plotly_settings_stay_as_they_were(self, full: HeadScores) -> None:
        before = plotly.io.templates.default
        full.plot()
        assert plotly.io.templates.default == before


class TestText:
    def test_repr_is_short(self, full: HeadScores) -> None:
        assert repr(full) == "HeadScores('effect', 2 layers x 3 heads, highest L1H0 1.5 logits, 1 not measured)"

    def test_repr_without_unit_and_without_numbers(self, make: Callable[..., HeadScores]) -> None:
        assert repr(make([[2.0]], unit="")) == "HeadScores('effect', 1 layers x 1 heads, highest L0H0 2)"
        assert repr(make([[NAN]])) == "HeadScores('effect', 1 layers x 1 heads, 1 not measured)"

    def test_html_says_what_is_shown_and_what_is_missing(self, full: HeadScores) -> None:
        page = full._repr_html_()
        assert page.index("L0H2") < page.index("L1H0")
        assert "5 of 6 heads, by magnitude. Not measured: 1." in page
        assert full.provenance.summary in page
        assert "<td>0.75</td>" in page

    def test_html_explains_the_direction_of_unsigned_scores(self, make: Callable[..., HeadScores]) -> None:
        page = make([[float(head) for head in range(12)]], higher_is="more induction-like")._repr_html_()
        assert "10 of 12 heads, highest first; a higher score is more induction-like." in page
        assert "L0H11" in page
        assert "L0H1<" not in page

    def test_html_is_escaped_and_self_contained(self, make: Callable[..., HeadScores]) -> None:
        evil = "<script>alert(1)</script>"
        provenance = Provenance(model=evil, warnings=(evil,))
        page = make([[1.0]], name=evil, unit=evil, provenance=provenance, labels={evil: ((evil,),)})._repr_html_()
        assert "<script" not in page
        assert page.count("&lt;script&gt;") >= 5
        assert "http" not in page


class TestRoundTrip:
    def test_everything_comes_back(self, full: HeadScores, tmp_path: Path) -> None:
        loaded = HeadScores.load(full.save(tmp_path / "deep" / "result"))
        assert loaded.to_frame().equals(full.to_frame())
        assert loaded.provenance == full.provenance
        assert loaded.notes == full.notes
        for name in ("name", "unit", "value_range", "signed", "higher_is", "stack", "labels"):
            assert getattr(loaded, name) == getattr(full, name)
        assert {name: values.dtype for name, values in loaded.columns.items()} == {
            "zeta": torch.int64,
            "alpha": torch.bool,
        }

    def test_defaults_come_back(self, make: Callable[..., HeadScores], tmp_path: Path) -> None:
        loaded = HeadScores.load(make([[1.0]], chance=0.5).save(tmp_path))
        assert loaded.chance == 0.5
        assert loaded.ci_low is None
        assert loaded.columns == {}

    def test_numbers_are_bitwise_the_same(self, make: Callable[..., HeadScores], tmp_path: Path) -> None:
        scores = torch.randn(4, 8, dtype=torch.float64)
        assert torch.equal(HeadScores.load(make(scores).save(tmp_path)).scores, scores)
