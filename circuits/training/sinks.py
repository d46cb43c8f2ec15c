"""Did attention sinks emerge? How much of a head's attention rests on the first token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel


def first_token_mass(model: PreTrainedModel, tokens: Int[Tensor, "row token"]) -> Float[Tensor, "layer head"]:
    """Mean attention to the first token over all later queries of rows without padding; in [0, 1].

    Attention spread evenly over the keys would give the mean of 1 / (query + 1).
    """
    implementation = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation("eager")  # the only one that hands its patterns out
    try:
        with torch.inference_mode():
            patterns = model(input_ids=tokens, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(implementation)
    return torch.stack([pattern[:, :, 1:, 0].float().mean(dim=(0, 2)) for pattern in patterns])
