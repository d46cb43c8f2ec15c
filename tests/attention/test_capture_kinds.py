"""Full maps of attention whose queries or keys are not the tokens of the text."""

import pytest
import torch

import interp
from interp.attention.implementation import attention_implementation
from interp.errors import InputError
from tests.architectures import sample_inputs
from tests.attention.models import ROWS, loaded


def eager_maps(name: str, which: str) -> tuple[torch.Tensor, ...]:
    model = loaded(name)
    with torch.no_grad(), attention_implementation(model.hf, "eager"):
        return model.hf(**sample_inputs(ROWS[name]), output_attentions=True)[which]


@pytest.mark.parametrize(
    ("kind", "which"),
    [("encoder", "encoder_attentions"), ("self", "decoder_attentions"), ("cross", "cross_attentions")],
)
def test_every_kind_of_an_encoder_decoder_has_its_own_size(kind: str, which: str) -> None:
    inputs = sample_inputs(ROWS["bart"])
    capture = interp.capture_patterns(
        loaded("bart"), inputs["input_ids"], kind=kind, decoder_input_ids=inputs["decoder_input_ids"]
    )
    expected = eager_maps("bart", which)
    assert len(capture.patterns) == len(expected)
    for layer, pattern in enumerate(expected):
        torch.testing.assert_close(capture.patterns[layer], pattern, atol=1e-5, rtol=0)


def test_a_tower_with_fewer_patches_than_tokens_has_no_empty_rows() -> None:
    inputs = sample_inputs(ROWS["llava"], n_tokens=12)
    capture = interp.capture_patterns(
        loaded("llava"), inputs["input_ids"], kind="vision", pixel_values=inputs["pixel_values"]
    )
    for pattern in capture.patterns.values():
        assert pattern.shape[-2:] == (10, 10)  # 9 patches and CLS, beside 21 tokens
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]), atol=1e-5, rtol=0)


def test_a_tower_with_more_patches_than_tokens_is_whole() -> None:
    inputs = sample_inputs(ROWS["qwen2_5_vl"])
    tokens = inputs.pop("input_ids")
    capture = interp.capture_patterns(loaded("qwen2_5_vl"), tokens, kind="vision", **inputs)
    for pattern in capture.patterns.values():
        assert pattern.shape[-2] == pattern.shape[-1] > tokens.shape[1]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]), atol=1e-5, rtol=0)


def test_queries_beyond_the_tower_are_refused() -> None:
    inputs = sample_inputs(ROWS["llava"])
    with pytest.raises(InputError, match=r"Query positions \[10\] lie outside the 10 positions"):
        interp.capture_patterns(
            loaded("llava"), inputs["input_ids"], kind="vision", pixel_values=inputs["pixel_values"], queries=[3, 10]
        )
