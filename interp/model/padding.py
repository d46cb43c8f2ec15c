"""What left-padded text needs beside its mask, so that real tokens get the positions they have without padding."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel


def left_padded_inputs(
    hf: PreTrainedModel, tokens: Int[Tensor, "batch position"], mask: Int[Tensor, "batch position"]
) -> dict[str, Tensor]:
    """Keywords for ``hf(...)`` on left-padded tokens.

    Families number positions in four ways: as told by `position_ids`; from the tokens that are not the padding token
    (RoBERTa); from the mask, together with the images (Qwen-VL); or from the first column whatever the mask says
    (BART), which no keyword can repair. The load-time probe measures whether the result holds.
    """
    inputs = {"input_ids": tokens, "attention_mask": mask}
    padding = padding_of_positions(hf)
    if padding is not None:
        inputs["input_ids"] = tokens.masked_fill(mask == 0, padding)
    elif "position_ids" in inspect.signature(hf.forward).parameters and not _numbers_from_images(hf):
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    return inputs


def padding_of_positions(hf: nn.Module) -> int | None:
    """The padding token from which position embeddings are counted, where a model counts them so."""
    found: list[Any] = [
        getattr(module, "padding_idx", None)
        for name, module in hf.named_modules()
        if name.endswith("position_embeddings")
    ]
    return next((padding for padding in found if padding is not None), None)


def _numbers_from_images(hf: nn.Module) -> bool:
    return any(hasattr(module, "get_rope_index") for module in hf.modules())
