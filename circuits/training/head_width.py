"""Narrow heads first: in wide ones induction forms with the wrong layer-0 heads.

The answer stands one place after the earlier copy of the current token, so a layer-0 head that looks back one place is
all that an induction head needs. But a place k further on serves as well, once one layer-0 head brings the token k back
there and another one the token k - 1 back. On repeated long blocks all k are equally good. With 24 or 32 dimensions
(theta 1e4) the trials of this recipe ended with k of 4 to 7; with 16 dimensions five of six had k = 1.
"""

from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention


def narrow(model: LlamaForCausalLM, width: int) -> None:
    """Let every head use `width` of its dimensions, until `widen`: the others get no gradient while all are zero."""
    with torch.no_grad():
        for weight, unused in _unused(model, width):
            weight[unused] = 0.0


def widen(model: LlamaForCausalLM, width: int, *, scale: float, seed: int) -> None:
    """Give the unused dimensions random weights with this standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight, unused in _unused(model, width):
            weight.add_(torch.randn(weight.shape, generator=generator) * scale * unused)


def _unused(model: LlamaForCausalLM, width: int) -> Iterator[tuple[Float[Tensor, "out in"], Bool[Tensor, "out in"]]]:
    """The attention weights, and which entries belong to head dimensions that heads of this width do not have.

    What is left are the pairs of dimensions that turn fastest with the position, and as many of the values.
    """
    d_head = int(model.config.head_dim or 0)
    unused = torch.arange(d_head // 2).repeat(2) >= width // 2
    for layer in model.model.layers:
        attention = cast(LlamaAttention, layer.self_attn)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            rows = unused.repeat(projection.weight.shape[0] // d_head)
            yield projection.weight, rows[:, None].expand_as(projection.weight)
        columns = unused.repeat(attention.o_proj.weight.shape[1] // d_head)
        yield attention.o_proj.weight, columns.expand_as(attention.o_proj.weight)
