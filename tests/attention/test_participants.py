"""Selection: which layers, kinds, query rows and phases a participant sees, and that the rest stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.attention.participants import Editor, Reader
from interp.attention.rows import AttentionRows, LayerCall
from interp.attention.session import watch
from tests.architectures import sample_inputs, token_rows
from tests.attention.models import EXACT, ROWS, ids, loaded, logits
from tests.attention.reference import Recorder


class Some(Recorder):
    """A recorder of chosen query positions, layers or phases."""

    def __init__(self, **selection: Any) -> None:
        super().__init__()
        for name, value in selection.items():
            setattr(self, name, value)


def padded(side: str) -> dict[str, Tensor]:
    """Two rows of 12 and 8 tokens as inputs of the Llama."""
    model = loaded("llama")
    return model.forward_inputs(model.pad(token_rows((12, 8)), padding_side=side))  # type: ignore[arg-type]


@pytest.mark.parametrize("block_bytes", [1, 900, 2**20])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "bert", "t5"])
@pytest.mark.parametrize("most", [False, True])
def test_chosen_rows_equal_those_of_a_reader_of_everything(name: str, block_bytes: int, most: bool) -> None:
    """A few rows apart beside the fused kernel, and a run of most rows, for which all are computed."""
    model, inputs = loaded(name), sample_inputs(ROWS[name])
    everything, some = Recorder(), Some(queries=torch.arange(2, 50) if most else torch.tensor([3, -1]))
    with torch.no_grad():
        with watch(model, everything):
            expected = model.hf(**inputs).logits
        with watch(model, some, block_bytes=block_bytes):
            output = model.hf(**inputs).logits
    torch.testing.assert_close(output, expected, **EXACT)
    assert some.rows.keys() == everything.rows.keys()
    for place in everything.rows:
        queries = torch.cat([block[0] for block in some.rows[place]])
        full = everything.pattern(place)
        assert queries.tolist() == (list(range(2, full.shape[2])) if most else [3, full.shape[2] - 1])
        torch.testing.assert_close(some.pattern(place)[:, :, queries], full[:, :, queries], **EXACT)
        torch.testing.assert_close(some.z(place), everything.z(place), **EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_chosen_rows_of_a_padded_batch(side: str) -> None:
    model, everything, some = loaded("llama"), Recorder(), Some(queries=torch.tensor([0, -1]))
    with torch.no_grad(), watch(model, everything):
        expected = model.hf(**padded(side)).logits
    with torch.no_grad(), watch(model, some):
        output = model.hf(**padded(side)).logits
    real = padded(side)["attention_mask"].bool()
    torch.testing.assert_close(output[real], expected[real], **EXACT)
    assert bool(output.isfinite().all())
    for place in everything.rows:
        torch.testing.assert_close(
            some.pattern(place)[:, :, [0, 11]], everything.pattern(place)[:, :, [0, 11]], **EXACT
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_marked_in_rows_and_calls(side: str) -> None:
    model = loaded("llama")
    mask = padded(side)["attention_mask"].bool()
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Validity(Reader):
        def read_rows(self, rows: AttentionRows) -> None:
            assert rows.query_valid is not None and rows.key_valid is not None
            assert torch.equal(rows.query_valid, mask[:, rows.queries])
            assert torch.equal(rows.key_valid, mask[:, rows.keys])
            seen.append((rows.pattern.clone(), rows.visible, rows.first_key))

    with torch.no_grad(), watch(model, Validity(), block_bytes=700):
        model.hf(**padded(side))
    assert len(seen) > 4
    for pattern, visible, first_key in seen:
        assert first_key.tolist() == ([0, 4] if side == "left" else [0, 0])
        assert bool((pattern.sum(1)[~visible & visible.any(-1, keepdim=True)] == 0).all())


@pytest.mark.parametrize("wanted", [[], [40]])
def test_no_row_chosen_means_no_row_shown_and_the_fused_kernel(wanted: list[int]) -> None:
    model, none = loaded("llama"), Some(queries=torch.tensor(wanted, dtype=torch.long))
    with watch(model, none):
        output = logits(model, ids())
    assert not none.rows and len(none.calls["self", 0]) == 1
    assert torch.equal(output, logits(model, ids()))


def test_layers_and_kinds_are_respected() -> None:
    model, inputs = loaded("t5"), sample_inputs(ROWS["t5"])
    chosen = Some(layers=frozenset({1}), kinds=frozenset({"cross", "encoder"}))
    with torch.no_grad(), watch(model, chosen):
        model.hf(**inputs)
    assert chosen.rows.keys() == chosen.calls.keys() == {("cross", 1), ("encoder", 1)}


@pytest.mark.parametrize(("phase", "expected"), [("prefill", [12]), ("decode", [1, 1]), ("both", [12, 1, 1])])
def test_phases_are_respected(phase: str, expected: list[int]) -> None:
    model, chosen = loaded("llama"), Some(phase=phase)
    with watch(model, chosen):
        model.hf.generate(input_ids=ids(), max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=-1)
    assert [call.z.shape[1] for call in chosen.calls["self", 1]] == expected
    assert sum(len(queries) for queries, _, _ in chosen.rows["self", 1]) == sum(expected)


def test_negative_queries_count_from_the_end_of_every_call() -> None:
    model, last = loaded("llama"), Some(queries=torch.tensor([-1]))
    with watch(model, last):
        model.hf.generate(input_ids=ids(), max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=-1)
    assert [queries.tolist() for queries, _, _ in last.rows["self", 0]] == [[11], [12], [13]]


def test_shared_weights_know_their_layer() -> None:
    """ALBERT runs one attention module once per layer."""
    model, recorder, second = loaded("albert"), Recorder(), Some(layers=frozenset({1}))
    with watch(model, recorder, second):
        logits(model, ids())
    assert recorder.rows.keys() == {("self", 0), ("self", 1)} and second.rows.keys() == {("self", 1)}
    assert torch.equal(recorder.pattern(("self", 1)), second.pattern(("self", 1)))
    assert not torch.allclose(recorder.pattern(("self", 0)), recorder.pattern(("self", 1)), atol=0.01)


class UniformRow(Editor):
    """Spreads the rows it was given evenly over what they see."""

    def __init__(self, queries: Tensor | None) -> None:
        self.queries = queries

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        visible = rows.visible[:, None].expand_as(rows.pattern)
        return visible / visible.sum(-1, keepdim=True)


@pytest.mark.parametrize("block_bytes", [1, 2**20])
@pytest.mark.parametrize("name", ["llama", "gpt_oss", "bert"])
def test_an_edit_of_chosen_rows_leaves_every_other_row_alone(name: str, block_bytes: int) -> None:
    model, plain, edited = loaded(name), Recorder(), Recorder()
    editor = UniformRow(torch.tensor([5]))
    editor.layers = frozenset({0})
    with watch(model, plain):
        logits(model, ids())
    with watch(model, editor, edited, block_bytes=block_bytes):
        logits(model, ids())
    before, after = plain.pattern(("self", 0)), edited.pattern(("self", 0))
    others = torch.arange(12) != 5
    torch.testing.assert_close(after[:, :, others], before[:, :, others], **EXACT)
    seen = before[0, 0, 5] > 0
    torch.testing.assert_close(after[:, :, 5, seen], torch.full_like(after[:, :, 5, seen], 1 / int(seen.sum())))
    z_before, z_after = plain.z(("self", 0)), edited.z(("self", 0))
    torch.testing.assert_close(z_after[:, others], z_before[:, others], **EXACT)
    assert float((z_after[:, 5] - z_before[:, 5]).abs().max()) > 0.01


def test_an_edit_of_chosen_rows_is_the_same_with_and_without_a_reader_of_all_rows() -> None:
    """Without the reader the other rows come from the fused kernel."""
    model = loaded("llama")
    with watch(model, UniformRow(torch.tensor([5, 7]))):
        fused = logits(model, ids())
    with watch(model, UniformRow(torch.tensor([5, 7])), Recorder()):
        shown = logits(model, ids())
    torch.testing.assert_close(fused, shown, **EXACT)
    assert float((fused - logits(model, ids())).abs().max()) > 0.01


class Nothing(Editor):
    def edit_rows(self, rows: AttentionRows) -> None:
        return None

    def edit_z(self, call: LayerCall) -> None:
        return None


def test_an_editor_that_returns_nothing_changes_nothing() -> None:
    model = loaded("llama")
    with watch(model, Recorder()):
        plain = logits(model, ids())
    with watch(model, Nothing(), Recorder()):
        assert torch.equal(logits(model, ids()), plain)


class ColumnSums(Editor):
    """Notes how much every key receives before the first row changes."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.received = torch.zeros(12)

    def observe_rows(self, rows: AttentionRows) -> None:
        self.order.append("observe")
        self.received[rows.keys] += rows.pattern.sum((0, 1, 2))

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        self.order.append("edit")
        assert float(self.received.sum()) == pytest.approx(2 * 4 * 12, rel=1e-5)
        return torch.zeros_like(rows.pattern)


def test_an_observing_editor_sees_every_row_before_it_changes_the_first() -> None:
    model, editor = loaded("llama"), ColumnSums()
    editor.layers = frozenset({0})
    with watch(model, editor, block_bytes=1500):
        logits(model, ids())
    n_blocks = editor.order.count("observe")
    assert n_blocks > 1 and editor.order == ["observe"] * n_blocks + ["edit"] * n_blocks


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_the_residual_stream_in_front_of_a_block_is_given_to_those_who_ask(name: str) -> None:
    model, inputs = loaded(name), sample_inputs(ROWS[name])
    asking, not_asking = Some(wants_residual=True), Recorder()
    with torch.no_grad(), watch(model, not_asking):
        model.hf(**inputs)
    with torch.no_grad(), watch(model, asking):
        output = model.hf(**inputs, output_hidden_states=True)
    hidden = output.decoder_hidden_states if name == "t5" else output.hidden_states
    for layer in (0, 1):
        (call,) = asking.calls["self", layer]
        assert call.residual is not None and torch.equal(call.residual, hidden[layer])
        assert not_asking.calls["self", layer][0].residual is None
