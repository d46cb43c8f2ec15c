"""Prompts that begin alike: what is taken from the cache equals what would have been computed."""

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicLayer

import interp
from circuits.retrieval import NEEDLES, needle_prompts
from circuits.retrieval.prefix import ROOM, RoomyLayer, SharedPrefix, shared_order
from interp.model.model import Model
from tests.circuits.test_retrieval_needle import story
from tests.tiny_models import tiny_llama


def test_prompts_share_the_haystack_before_the_needle(stories: Model) -> None:
    prompts = needle_prompts(stories, story(), NEEDLES[:1], lengths=[300], depths=[0.25, 0.5, 0.75, 1.0])
    tokens = [prompt.tokens for prompt in prompts]
    prefix = SharedPrefix(stories)
    with torch.inference_mode():
        for index in shared_order(tokens):
            shared = prefix.run(tokens[index], keep=3)
            fresh = SharedPrefix(stories).run(tokens[index], keep=3)
            torch.testing.assert_close(shared, fresh, atol=1e-4, rtol=1e-4)
    assert prefix.rows_run < 0.85 * sum(map(len, tokens))


def test_long_and_short_continuations_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut back, go on, decode, outgrow the room: always the logits of the whole sequence."""
    monkeypatch.setattr("circuits.retrieval.prefix.ROOM", 8)
    model = tiny_llama()
    trunk, prefix = torch.randint(3, 60, (40,)), SharedPrefix(model)
    with torch.inference_mode():
        for cut, added in ((40, 3), (40, 30), (40, 3), (12, 60), (12, 1), (30, 40)):
            tokens = torch.cat([trunk[:cut], torch.randint(3, 60, (added,))])
            torch.testing.assert_close(prefix.run(tokens, keep=1), model(tokens)[0, -1:], atol=1e-5, rtol=1e-5)
            stepped = torch.cat([tokens, torch.tensor([7])])
            torch.testing.assert_close(prefix.step(7), model(stepped)[0, -1:], atol=1e-5, rtol=1e-5)
            assert torch.equal(prefix.tokens, stepped)


def states(n_tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(1, 2, n_tokens, 4), torch.randn(1, 2, n_tokens, 3)


def test_a_layer_with_room_holds_what_the_usual_one_holds() -> None:
    usual, first = DynamicLayer(), states(9)
    usual.update(*first)
    roomy = RoomyLayer(*first)
    rooms = set()
    for n_tokens, cut in ((5, 2), (1, 0), (4, 6), (2 * ROOM, 2 * ROOM), (3, 0)):
        added = states(n_tokens)
        for held, expected in zip(roomy.update(*added), usual.update(*added), strict=True):
            assert torch.equal(held, expected)
        rooms.add(roomy.keys.data_ptr())
        roomy.crop(-cut)
        usual.crop(-cut)
        assert roomy.get_seq_length() == usual.get_seq_length() and torch.equal(roomy.values, usual.values)
    assert len(rooms) == 2  # moved once by the first short continuation, and once by the long one
    assert torch.equal(first[0], usual.keys[:, :, :9])


def test_a_cache_that_forgets_is_not_cut_back() -> None:
    config = MistralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = interp.load(MistralForCausalLM(config))
    one = torch.randint(3, 40, (30,))
    other = torch.cat([one[:20], torch.randint(3, 40, (10,))])
    prefix = SharedPrefix(model)
    with torch.inference_mode():
        prefix.run(one, keep=2)
        torch.testing.assert_close(prefix.run(other, keep=2), model(other)[0, -2:])
    assert prefix.rows_run == 60
