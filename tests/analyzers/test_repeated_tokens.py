"""Random models that read one token over and over: what Gu et al. 2024 (arXiv 2410.10781) prove about their sinks."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.analyzers.sinks import SinkTokens
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.model.model import Model
from interp.results import HeadScores, TokenMap
from tests.architectures import GPT2_SIZES, SPECIAL_TOKENS, make, randomised
from tests.tiny_models import tiny_llama

N = 40
TOKEN, DIM = 7, 9
SAME = torch.full((1, N), TOKEN)
UNIFORM = torch.ones(N, N).tril() / torch.arange(1, N + 1)[:, None]


def gpt2(*, positions: bool) -> PreTrainedModel:
    """A random GPT-2, with its learned positions or with none."""
    model: Any = randomised(partial(make, "GPT2Config", "GPT2LMHeadModel", GPT2_SIZES))
    if not positions:
        model.transformer.wpe.weight.data.zero_()
    return model


def maps_of(model: Model, tokens: Tensor = SAME) -> Tensor:
    """``[layer, head, query, key]``."""
    return torch.stack([pattern[0] for pattern in interp.capture_patterns(model, tokens).patterns.values()])


def first_tokens(model: Model) -> HeadScores:
    found = interp.scan(model, SAME, ["sinks"])["sinks"]
    assert isinstance(found, HeadScores)
    return found


def hidden_states(model: Model) -> Tensor:
    """``[layer, position, d_model]``, the embeddings first and without what the last norm gives."""
    with torch.no_grad():
        return torch.cat(model.hf(SAME, output_hidden_states=True).hidden_states[:-1])


def test_without_positions_every_map_is_uniform_and_nothing_is_a_sink() -> None:
    model = Model(gpt2(positions=False), None, name="no positions")
    torch.testing.assert_close(maps_of(model), UNIFORM.expand(2, 4, N, N), atol=1e-6, rtol=0)
    found = first_tokens(model)
    assert isinstance(found.chance, Tensor)
    torch.testing.assert_close(found.scores, found.chance, atol=1e-6, rtol=0)
    assert found.notes["sink rate"] == 0


def test_learned_positions_tell_equal_tokens_apart() -> None:
    model = Model(gpt2(positions=True), None, name="positions")
    assert float((maps_of(model) - UNIFORM).abs().max()) > 0.1
    states = hidden_states(model)
    assert float((states - states[:, :1]).abs().max()) > 0.1


def test_rotary_positions_keep_equal_tokens_equal_and_bound_every_weight() -> None:
    """With ``||q|| ||k|| / sqrt(d) <= xi`` no weight of row t (from 1) exceeds ``e^(2 xi) / (e^(2 xi) + t - 1)``."""
    assert bound(torch.tensor(1.0), torch.tensor(64)) == pytest.approx(0.104975, abs=5e-7)
    model = tiny_llama(n_layers=3)
    states = hidden_states(model)
    torch.testing.assert_close(states, states[:, :1].expand_as(states), atol=1e-5, rtol=0)
    capture = interp.capture_patterns(model, SAME, queries_and_keys=True)
    for layer, (query, key) in capture.queries_and_keys.items():
        key = key.repeat_interleave(2, 1)
        xi = (query.norm(dim=-1) * key.norm(dim=-1)).amax(-1)[0] * model.d_head**-0.5
        largest = capture.patterns[layer][0].amax(-1)
        assert bool((largest <= bound(xi[:, None], torch.arange(1, N + 1)) + 1e-6).all())
        assert float((capture.patterns[layer][0] - UNIFORM).abs().max()) > 0.01


def bound(xi: Tensor, t: Tensor) -> Tensor:
    return (2 * xi).exp() / ((2 * xi).exp() + t - 1)


class _Maps(Reader):
    """Whole maps of the decoder."""

    def __init__(self) -> None:
        self.maps: dict[int, Tensor] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        whole = self.maps.setdefault(rows.layer, torch.zeros(4, N, N))
        whole[:, rows.queries[:, None], rows.keys] = rows.pattern[0]


@pytest.mark.parametrize("token", [7, 9])
def test_alibi_depends_on_the_distance_alone(token: int) -> None:
    """ALiBi is T5's bias by distance with one bucket per distance: weights ``exp(-m (q - k))`` over their row's sum."""
    sizes = {
        **SPECIAL_TOKENS, "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "relative_attention_num_buckets": 100, "relative_attention_max_distance": 200, "decoder_start_token_id": 0,
    }  # fmt: skip
    hf: Any = randomised(partial(make, "T5Config", "T5ForConditionalGeneration", sizes))
    slopes = torch.tensor([2.0**-power for power in range(1, 5)])
    bias = hf.decoder.block[0].layer[0].SelfAttention.relative_attention_bias
    bias.weight.data = -torch.arange(100.0)[:, None] * slopes
    reader = _Maps()
    with torch.no_grad(), interp.watch(Model(hf, None, name="alibi"), reader):
        hf(input_ids=torch.arange(5, 12)[None], decoder_input_ids=torch.full((1, N), token))
    distance = torch.arange(N)[:, None] - torch.arange(N)
    expected = (-slopes[:, None, None] * distance.clamp_min(0)).exp().tril()
    for layer in range(2):
        torch.testing.assert_close(reader.maps[layer], expected / expected.sum(-1, keepdim=True), atol=2e-6, rtol=0)


def test_a_sink_of_position_moves_with_its_position_vector() -> None:
    """As in GPT2-XL: with the vectors of positions 0 and 5 exchanged, the sink is at position 5."""
    hf: Any = gpt2(positions=False)
    hf.transformer.wpe.weight.data[0, DIM] = 50
    # Every query has 6 where every key has what its position brings.
    attention = hf.transformer.h[0].attn.c_attn
    attention.weight.data[:, :64], attention.bias.data[:64] = 0, 0
    attention.bias.data[3:32:8] = 6
    attention.weight.data[DIM, 32 + 3 : 64 : 8] = 6
    assert sink_positions(hf) == [0]
    hf.transformer.wpe.weight.data[[0, 5]] = hf.transformer.wpe.weight.data[[5, 0]]
    assert sink_positions(hf) == [5]


def sink_positions(hf: PreTrainedModel) -> list[int]:
    """Positions that are sinks in every head of the first layer."""
    found = interp.scan(Model(hf, None, name="position"), SAME, [SinkTokens()])["sink-tokens"]
    assert isinstance(found, TokenMap)
    return (found.values[0] == 1).nonzero().flatten().tolist()
