"""The methods that will stand on the hook, each in a few lines: the interface must carry them all."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from interp.attention.participants import Editor, Reader
from interp.attention.rows import AttentionRows, LayerCall, Stream
from interp.attention.session import watch
from interp.attention.sites import SiteMap
from interp.model.probe import probe

N_TOKENS = 9


@pytest.fixture(scope="module")
def site_map() -> SiteMap:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval()
    for parameter in hf.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return probe(hf)[0]


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 50, (2, N_TOKENS), generator=torch.Generator().manual_seed(1))


def run(site_map: SiteMap, ids: Tensor, *participants: Reader | Editor) -> Tensor:
    with torch.no_grad(), watch(site_map, *participants, block_bytes=2000):
        return site_map.hf(ids).logits


class Maps(Reader):
    """Full maps by layer, cloned."""

    def __init__(self) -> None:
        self.maps: dict[int, Tensor] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        shape = (*rows.pattern.shape[:2], N_TOKENS, N_TOKENS)
        full = self.maps.setdefault(rows.layer, torch.zeros(shape))
        full[:, :, rows.queries[:, None], rows.keys[None]] = rows.pattern


class Calibration(Editor):
    """Attention calibration (ACT): rows lose mass at keys whose column mean is high; sums run on while decoding."""

    def __init__(self, kept: float) -> None:
        self.kept = kept
        self.sums: dict[int, Tensor] = {}
        self.seen: dict[int, int] = {}

    def observe_rows(self, rows: AttentionRows) -> None:
        n_keys = int(rows.keys[-1]) + 1
        old = self.sums.get(rows.layer, torch.zeros(*rows.pattern.shape[:2], 0))
        sums = torch.cat([old, old.new_zeros(*old.shape[:2], max(0, n_keys - old.shape[-1]))], -1)
        sums[..., :n_keys] += rows.pattern.sum(2)
        self.sums[rows.layer] = sums
        self.seen[rows.layer] = int(rows.queries[-1]) + 1

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        n_keys = len(rows.keys)
        divisor = self.seen[rows.layer] - torch.arange(n_keys)
        sinks = self.sums[rows.layer][..., :n_keys] / divisor > 0.2
        sinks[..., 0] = False
        taken = (rows.pattern * sinks[:, :, None]).sum(-1, keepdim=True) * (1 - self.kept)
        rest = (rows.pattern * ~sinks[:, :, None]).sum(-1, keepdim=True)
        spread = torch.where(sinks[:, :, None], self.kept, 1 + taken / rest)
        return torch.where(rest > 0, rows.pattern * spread, rows.pattern)


def test_calibration_sees_the_same_column_sums_in_one_pass_and_while_decoding(site_map: SiteMap, ids: Tensor) -> None:
    whole, stepwise, plain = Calibration(1.0), Calibration(1.0), Maps()
    run(site_map, ids, whole)
    run(site_map, ids, plain)
    with torch.no_grad(), watch(site_map, stepwise):
        cache = site_map.hf(ids[:, :6], use_cache=True).past_key_values
        for position in range(6, N_TOKENS):
            cache = site_map.hf(ids[:, position : position + 1], past_key_values=cache).past_key_values
    for layer in (0, 1):
        torch.testing.assert_close(whole.sums[layer], plain.maps[layer].sum(2))
        torch.testing.assert_close(stepwise.sums[layer], whole.sums[layer])


def test_calibration_moves_mass_and_keeps_row_sums(site_map: SiteMap, ids: Tensor) -> None:
    edited, plain = Maps(), Maps()
    run(site_map, ids, plain)
    run(site_map, ids, Calibration(0.4), edited)
    assert (edited.maps[0] - plain.maps[0]).abs().max() > 0.01
    torch.testing.assert_close(edited.maps[0].sum(-1), torch.ones(2, 4, N_TOKENS))
    assert torch.equal(run(site_map, ids, Calibration(1.0)), run(site_map, ids, Maps()))


class Redistribution(Editor):
    """Visual redistribution (VAR): text queries move mass from one image key to the others, image by sample."""

    queries = torch.arange(5, N_TOKENS)

    def __init__(self, image: Tensor) -> None:
        self.image = image

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        image = self.image[:, rows.keys][:, None, None]
        moved = 0.6 * rows.pattern[..., 1:2]
        others = image & (rows.keys != 1)
        share = rows.pattern * others
        edited = rows.pattern + moved * share / share.sum(-1, keepdim=True)
        edited[..., 1:2] = rows.pattern[..., 1:2] - moved
        return edited


def test_redistribution_touches_only_its_rows(site_map: SiteMap, ids: Tensor) -> None:
    image = torch.zeros(2, N_TOKENS, dtype=torch.bool)
    image[0, 1:4] = image[1, 1:5] = True
    plain, edited = Maps(), Maps()
    run(site_map, ids, plain)
    run(site_map, ids, Redistribution(image), edited)
    difference = (plain.maps[0] - edited.maps[0]).abs()
    assert difference[:, :, :5].max() == 0
    assert difference[:, :, 5:, 1].min() > 0
    torch.testing.assert_close(edited.maps[0].sum(-1), torch.ones(2, 4, N_TOKENS))


class TwoStreams(Editor):
    """Head reinforcement (VHR): samples 0 and 1 are one prompt with and without its image, in lockstep."""

    def __init__(self) -> None:
        self.divergence: dict[int, Tensor] = {}

    def edit_z(self, call: LayerCall) -> Tensor:
        divergence = (call.z[0, -1] - call.z[1, -1]).norm(dim=-1)
        self.divergence[call.layer] = divergence
        factor = torch.where(divergence > divergence.median(), 2.0, 1.0)
        return call.z * factor[:, None]


def test_two_streams_scale_heads_layer_by_layer(site_map: SiteMap, ids: Tensor) -> None:
    editor = TwoStreams()
    assert not torch.equal(run(site_map, ids, editor), run(site_map, ids))
    assert sorted(editor.divergence) == [0, 1]
    assert editor.divergence[1].shape == (4,)


class Lookback(Reader):
    """Lookback ratio of every generated token, per sample under left padding."""

    phase = "decode"

    def __init__(self) -> None:
        self.context = 0
        self.ratios: list[Tensor] = []

    def begin(self, stream: Stream) -> None:
        assert stream.tokens is not None
        if stream.past == 0:
            self.context = stream.tokens.shape[1]

    def read_rows(self, rows: AttentionRows) -> None:
        key_valid = torch.ones(2, len(rows.keys), dtype=torch.bool) if rows.key_valid is None else rows.key_valid
        in_context = (rows.keys < self.context) & key_valid
        n_context, n_new = in_context.sum(-1), (rows.keys >= self.context).sum()
        context = (rows.pattern[:, :, 0] * in_context[:, None]).sum(-1) / n_context[:, None]
        new = (rows.pattern[:, :, 0] * (rows.keys >= self.context)).sum(-1) / n_new
        self.ratios.append(context / (context + new))


def test_lookback_ratios_in_batched_generation_equal_single_ones(site_map: SiteMap, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[1, :4] = 0

    def ratios(tokens: Tensor, mask: Tensor) -> Tensor:
        reader = Lookback()
        with torch.no_grad(), watch(site_map, reader):
            site_map.hf.generate(tokens, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return torch.stack([ratio[-1] for ratio in reader.ratios])

    single = ids[1:, 4:].expand(2, -1)
    torch.testing.assert_close(ratios(ids, mask), ratios(single, torch.ones_like(single)), atol=1e-5, rtol=1e-5)
    assert len(ratios(ids, mask)) == 3 * 2


class FusedMap(Reader):
    """Head-fused maps for rollout: ``[batch, query, key]`` instead of one map per head."""

    def __init__(self) -> None:
        self.rollout = torch.eye(N_TOKENS).expand(2, -1, -1).clone()
        self.mean: dict[int, Tensor] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        mean = self.mean.setdefault(rows.layer, torch.zeros(2, N_TOKENS, N_TOKENS))
        mean[:, rows.queries[:, None], rows.keys[None]] = rows.pattern.mean(1)


def test_rollout_from_fused_maps(site_map: SiteMap, ids: Tensor) -> None:
    fused, maps = FusedMap(), Maps()
    run(site_map, ids, fused)
    run(site_map, ids, maps)
    torch.testing.assert_close(fused.mean[1], maps.maps[1].mean(1))


class KeepBlocks(Reader):
    """Blocks as part of the graph, for gradient-times-attention relevance."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []

    def read_rows(self, rows: AttentionRows) -> None:
        self.blocks.append(rows.pattern)


def test_gradient_times_attention(site_map: SiteMap, ids: Tensor) -> None:
    keeper = KeepBlocks()
    with watch(site_map, keeper, block_bytes=2000):
        value = site_map.hf(ids).logits[:, -1, 7].sum()
    gradients = torch.autograd.grad(value, keeper.blocks)
    relevance = [(g * block).clamp_min(0).sum() for g, block in zip(gradients, keeper.blocks, strict=True)]
    assert len(keeper.blocks) > 2
    assert sum(relevance) > 0


class Gates(Editor):
    """One gate per head, with gradients."""

    def __init__(self, gates: Tensor) -> None:
        self.gates = gates

    def edit_z(self, call: LayerCall) -> Tensor:
        return call.z * self.gates[call.layer, :, None]


def test_gates_have_the_gradient_of_leaving_a_head_out_to_first_order(site_map: SiteMap, ids: Tensor) -> None:
    gates = torch.ones(2, 4, requires_grad=True)
    with watch(site_map, Gates(gates)):
        value = site_map.hf(ids).logits[0, -1, 7]
    (gradient,) = torch.autograd.grad(value, gates)
    step = 1e-2
    shifted = torch.ones(2, 4)
    shifted[1, 2] += step
    lowered = torch.ones(2, 4)
    lowered[1, 2] -= step
    slope = (run(site_map, ids, Gates(shifted)) - run(site_map, ids, Gates(lowered)))[0, -1, 7] / (2 * step)
    torch.testing.assert_close(slope, gradient[1, 2], rtol=1e-2, atol=1e-3)
    assert torch.equal(run(site_map, ids, Gates(torch.ones(2, 4))), run(site_map, ids))


class OtherPattern(Editor):
    """The pattern of one head from another prompt."""

    layers = frozenset({1})

    def __init__(self, maps: Tensor, head: int) -> None:
        self.maps, self.head = maps, head

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        edited = rows.pattern.clone()
        edited[:, self.head] = self.maps[:, self.head][:, rows.queries][..., rows.keys]
        return edited


def test_pattern_from_another_prompt(site_map: SiteMap, ids: Tensor) -> None:
    source, result = Maps(), Maps()
    run(site_map, ids.flip(0), source)
    run(site_map, ids, OtherPattern(source.maps[1], 2), result)
    torch.testing.assert_close(result.maps[1][:, 2], source.maps[1][:, 2])
    assert not torch.allclose(result.maps[1][:, 1], source.maps[1][:, 1])


class Inject(Editor):
    """A vector added to one head's output at the last position of the prompt only."""

    layers = frozenset({0})
    phase = "prefill"

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def edit_z(self, call: LayerCall) -> Tensor:
        z = call.z.clone()
        z[:, -1, 1] += self.vector
        return z


def test_injected_vector_arrives_after_the_output_projection(site_map: SiteMap, ids: Tensor) -> None:
    vector = torch.randn(8, generator=torch.Generator().manual_seed(0))
    attention = site_map.module(site_map.of_kind("self")[0])
    seen: list[Tensor] = []
    handle = attention.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    run(site_map, ids)
    run(site_map, ids, Inject(vector))
    handle.remove()
    expected = attention.o_proj.weight[:, 8:16] @ vector
    torch.testing.assert_close(seen[1][:, -1] - seen[0][:, -1], expected.expand(2, -1), atol=1e-5, rtol=1e-5)
    assert torch.equal(seen[1][:, :-1], seen[0][:, :-1])


class AnswerRows(Reader):
    """A few answer rows of a long prompt: everything else stays on the fused kernel."""

    queries = torch.tensor([-2, -1])

    def __init__(self) -> None:
        self.n_rows = 0

    def read_rows(self, rows: AttentionRows) -> None:
        self.n_rows += len(rows.queries)


def test_few_rows_of_a_prefill(site_map: SiteMap, ids: Tensor) -> None:
    reader = AnswerRows()
    torch.testing.assert_close(run(site_map, ids, reader), run(site_map, ids))
    assert reader.n_rows == 2 * 2


class Residual(Reader):
    """The residual stream entering each layer, as visual sinks are found in it."""

    wants_residual = True

    def __init__(self) -> None:
        self.inputs: dict[int, Tensor] = {}

    def read_call(self, call: LayerCall) -> None:
        assert call.residual is not None
        self.inputs[call.layer] = call.residual


def test_residual_stream_is_the_input_of_each_block(site_map: SiteMap, ids: Tensor) -> None:
    reader = Residual()
    run(site_map, ids, reader)
    hidden = site_map.hf(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(reader.inputs[0], hidden[0])
    torch.testing.assert_close(reader.inputs[1], hidden[1])


@pytest.mark.parametrize(("phase", "calls"), [("both", 3), ("prefill", 1), ("decode", 2)])
def test_phase(site_map: SiteMap, ids: Tensor, phase: str, calls: int) -> None:
    class Count(Reader):
        n_calls = 0

        def read_call(self, call: LayerCall) -> None:
            self.n_calls += call.layer == 0

    counter = Count()
    counter.phase = phase
    with torch.no_grad(), watch(site_map, counter):
        site_map.hf.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert counter.n_calls == calls
