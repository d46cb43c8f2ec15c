"""Sessions: nesting, threads, exceptions, and what is refused."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from interp.attention.participants import Editor, Reader
from interp.attention.rows import AttentionRows, LayerCall, Stream
from interp.attention.session import watch
from interp.errors import HookNotLive, InputError, ModelNotSupported
from interp.model.model import Model
from tests.architectures import GROUPED, decoder, randomised, sample_inputs
from tests.attention.models import EXACT, ROWS, fresh, ids, loaded, logits
from tests.attention.reference import Recorder


class Scale(Editor):
    """Multiplies the rows it sees and notes the sum of the first row before."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.seen: list[float] = []

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        self.seen.append(float(rows.pattern[0, 0, 0].sum()))
        return rows.pattern * self.factor


def test_nested_sessions_add_up_outer_participants_first() -> None:
    model, outer, inner = loaded("llama"), Scale(0.5), Scale(0.5)
    outer_reader, inner_reader = Recorder(), Recorder()
    with watch(model, outer, outer_reader), watch(model, inner, inner_reader):
        logits(model, ids())
    assert outer.seen == pytest.approx([1.0, 1.0])
    assert inner.seen == pytest.approx([0.5, 0.5])
    for place in inner_reader.rows:
        assert torch.equal(outer_reader.pattern(place), inner_reader.pattern(place))
        torch.testing.assert_close(inner_reader.pattern(place).sum(-1), torch.full((2, 4, 12), 0.25))


def test_leaving_an_inner_session_leaves_the_outer_one_open() -> None:
    model, outer, inner = loaded("llama"), Recorder(), Recorder()
    with watch(model, outer):
        with watch(model, inner):
            logits(model, ids())
        logits(model, ids())
    logits(model, ids())
    assert len(outer.calls["self", 0]) == 2
    assert len(inner.calls["self", 0]) == 1


def test_sessions_on_two_models_do_not_mix() -> None:
    llama, gpt2, seen_llama, seen_gpt2 = loaded("llama"), loaded("gpt2"), Recorder(), Recorder()
    with watch(llama, seen_llama), watch(gpt2, seen_gpt2):
        logits(llama, ids())
        logits(gpt2, ids(5))
    assert seen_llama.pattern(("self", 0)).shape[-1] == 12
    assert seen_gpt2.pattern(("self", 0)).shape[-1] == 5
    assert len(seen_llama.calls["self", 1]) == len(seen_gpt2.calls["self", 1]) == 1


def test_another_thread_is_not_watched_and_computes_the_same() -> None:
    model, recorder, results = loaded("llama"), Recorder(), []
    plain = logits(model, ids())
    with watch(model, recorder):
        thread = threading.Thread(target=lambda: results.append(logits(model, ids())))
        thread.start()
        thread.join()
    assert not recorder.rows
    torch.testing.assert_close(results[0], plain, **EXACT)


def test_sessions_in_two_threads_see_their_own_tokens_only() -> None:
    model = loaded("llama")
    plain = model.hf.config._attn_implementation
    recorders, both_inside = {5: Recorder(), 9: Recorder()}, threading.Barrier(2, timeout=30)

    def run(length: int) -> None:
        with watch(model, recorders[length]):
            both_inside.wait()
            for _ in range(5):
                logits(model, ids(length))
            both_inside.wait()

    threads = [threading.Thread(target=run, args=(length,)) for length in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.hf.config._attn_implementation == plain
    for length, recorder in recorders.items():
        assert [call.z.shape[1] for call in recorder.calls["self", 0]] == [length] * 5


class FailingOnce(Reader):
    def __init__(self, method: str) -> None:
        self.method = method

    def _fail(self, method: str) -> None:
        if method == self.method:
            self.method = ""
            raise ArithmeticError(method)

    def begin(self, stream: Stream) -> None:
        self._fail("begin")

    def read_rows(self, rows: AttentionRows) -> None:
        self._fail("read_rows")

    def read_call(self, call: LayerCall) -> None:
        self._fail("read_call")


@pytest.mark.parametrize("method", ["begin", "read_rows", "read_call"])
def test_a_session_goes_on_after_an_exception_in_a_participant(method: str) -> None:
    model, recorder = loaded("llama"), Recorder()
    with watch(model, FailingOnce(method), recorder):
        with pytest.raises(ArithmeticError, match=method):
            logits(model, ids())
        recorder.rows.clear()
        seen = logits(model, ids(7))
    assert recorder.pattern(("self", 1)).shape[-1] == 7
    torch.testing.assert_close(seen, logits(model, ids(7)), **EXACT)


def test_a_session_goes_on_after_an_exception_in_the_model() -> None:
    model, recorder = loaded("albert"), Recorder()
    with watch(model, recorder):
        with pytest.raises(IndexError):
            logits(model, torch.full((1, 3), 10**6))
        logits(model, ids())
    assert recorder.rows.keys() == {("self", 0), ("self", 1)}


def test_a_participant_that_raises_does_not_keep_the_model_switched() -> None:
    model = fresh("llama")
    plain = model.hf.config._attn_implementation
    with pytest.raises(ArithmeticError), watch(model, FailingOnce("read_rows")):
        logits(model, ids())
    assert model.hf.config._attn_implementation == plain
    assert not model.hf._forward_pre_hooks and not model.hf._forward_hooks


def test_a_sub_module_alone_is_refused() -> None:
    model = loaded("llama")
    with watch(model, Recorder()), pytest.raises(HookNotLive, match="without its whole model"):
        model.hf.model(input_ids=ids())


def test_a_vision_tower_alone_is_read() -> None:
    model, recorder = loaded("llava"), Recorder()
    with torch.no_grad(), watch(model, recorder):
        model.hf.model.vision_tower(pixel_values=sample_inputs(ROWS["llava"])["pixel_values"])
    assert recorder.rows.keys() == {("vision", 0), ("vision", 1), ("vision", 2)}
    with watch(model), pytest.raises(HookNotLive, match="without its whole model"):
        model.hf.model.language_model(input_ids=ids())


def test_an_unknown_keyword_is_refused() -> None:
    model = loaded("llama")
    with watch(model), pytest.raises(ModelNotSupported, match="LlamaAttention passes head_gate to its attention"):
        logits(model, ids(), head_gate=torch.ones(4))


def test_an_unknown_keyword_without_a_value_is_harmless() -> None:
    model, recorder = loaded("llama"), Recorder()
    with watch(model, recorder):
        logits(model, ids(), head_gate=None)
    assert recorder.rows


def test_output_attentions_is_refused() -> None:
    model = loaded("llama")
    with watch(model), pytest.raises(ModelNotSupported, match="capture_patterns"):
        logits(model, ids(), output_attentions=True)


def test_active_dropout_is_refused() -> None:
    construct = decoder("Llama", {**GROUPED, "attention_dropout": 0.1})
    model = Model(randomised(construct), None, name="dropout")
    model.hf.train()
    with watch(model), pytest.raises(ModelNotSupported, match=r"dropout 0\.1 is active.*model\.eval\(\)"):
        logits(model, ids())


def test_a_four_dimensional_mask_is_refused() -> None:
    model = loaded("llama")
    mask = torch.ones(2, 1, 12, 12, dtype=torch.bool).tril()
    with watch(model), pytest.raises(InputError, match="not two-dimensional"):
        logits(model, ids(), attention_mask=mask)


class WrongShape(Editor):
    def edit_rows(self, rows: AttentionRows) -> Tensor:
        return rows.pattern[:, :1]


class WrongHeads(Editor):
    def edit_z(self, call: LayerCall) -> Tensor:
        return call.z[:, :, :1]


@pytest.mark.parametrize(("editor", "method"), [(WrongShape, "edit_rows"), (WrongHeads, "edit_z")])
def test_an_edit_of_another_shape_is_refused(editor: type[Editor], method: str, unchecked_annotations: None) -> None:
    model = loaded("llama")
    with watch(model, editor()), pytest.raises(HookNotLive, match=f"{method} returned shape .*, or None to leave"):
        logits(model, ids())
