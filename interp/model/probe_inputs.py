"""A few tokens, and an image where the model takes one, to try a model with at load time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

N_TOKENS, N_DECODER_TOKENS = 7, 5


def probe_inputs(hf: PreTrainedModel) -> dict[str, Tensor]:
    """Keyword inputs for one small forward pass of a model of any supported shape.

    Encoder and decoder get different lengths, so that cross attention can be told from self attention.
    """
    config = hf.config
    device: torch.device = hf.device
    inputs: dict[str, Tensor]
    if not _takes_tokens(hf):
        inputs = {"pixel_values": _pixels(config)}
    elif getattr(config, "is_encoder_decoder", False):
        inputs = {"input_ids": _tokens(config, N_TOKENS), "decoder_input_ids": _tokens(config, N_DECODER_TOKENS)}
    elif hasattr(config, "vision_config") and hasattr(config, "image_token_id"):
        inputs = _with_image(config)
    elif hasattr(config, "vision_config") and hasattr(config, "text_config"):
        inputs = {"input_ids": _tokens(config.text_config, N_TOKENS), "pixel_values": _pixels(config.vision_config)}
    else:
        inputs = {"input_ids": _tokens(config.get_text_config(), N_TOKENS)}
    return {name: value.to(device) for name, value in inputs.items()}


def _takes_tokens(hf: PreTrainedModel) -> bool:
    return hf.main_input_name != "pixel_values"


def _tokens(config: PretrainedConfig, length: int) -> Tensor:
    """Distinct ordinary ids: special tokens can switch behaviour (padding masks, image slots)."""
    special = {
        value
        for name, value in config.to_dict().items()
        if name.endswith("_token_id") or name.endswith("_token_index")
        if isinstance(value, int)
    }
    ordinary = [token for token in range(3, config.vocab_size) if token not in special]
    stride = max(1, len(ordinary) // (2 * length))
    return torch.tensor([ordinary[::stride][:length]])


def _pixels(config: PretrainedConfig) -> Tensor:
    size = getattr(config, "image_size", 32)
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, getattr(config, "num_channels", 3), height, width, generator=generator)


def _with_image(config: Any) -> dict[str, Tensor]:
    """Text around one image, with the placeholder repeated once per patch as the processors do."""
    vision = config.vision_config
    text = _tokens(config.get_text_config(), N_TOKENS)
    if hasattr(vision, "spatial_merge_size"):
        side = 2 * vision.spatial_merge_size
        n_patches, n_image = side * side, 4
        width = getattr(vision, "in_channels", 3) * getattr(vision, "temporal_patch_size", 1) * vision.patch_size**2
        pixels = torch.rand(n_patches, width, generator=torch.Generator().manual_seed(0))
        extra = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]])}
    else:
        n_image = (vision.image_size // vision.patch_size) ** 2
        n_image += getattr(config, "vision_feature_select_strategy", "default") == "full"
        extra = {"pixel_values": _pixels(vision)}
    image = torch.full((1, n_image), config.image_token_id)
    ids = torch.cat([text[:, :2], image, text[:, 2:]], 1)
    if "image_grid_thw" in extra:
        extra["mm_token_type_ids"] = (ids == config.image_token_id).int()
    return {"input_ids": ids, **extra}
