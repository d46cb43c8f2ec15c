"""Pictures from files, as `interp.scan` and the models that see take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.model.model import Model
from interp.model.tokens import TokenBatch


def picture_prompts(
    model: Model, paths: Sequence[str | Path], prompt: str | None = None
) -> tuple[TokenBatch | None, list[dict[str, Any]]]:
    """What a model reads of pictures, one example for each: ``interp.scan(model, data, ..., batch_size=1, images=)``.

    Arguments:
        paths: files such as PNG and JPEG.
        prompt: text around each picture; the picture takes the place of its image token, or stands in front.

    Returns:
        Token ids with those that stand for the picture among them, None for a model that reads pictures alone; and
        the model's further inputs, such as ``pixel_values``, by picture.

    Raises:
        InputError: a file is no picture, the model takes none or came without its processor, or a prompt was given to
            a model that reads pictures alone.

    Example:
        >>> import interp
        >>> picture_prompts(interp.load("mini"), ["photo.png"])
        Traceback (most recent call last):
        ...
        interp.errors.InputError: mini takes no pictures. Use a model that does, such as mini-vl.
    """
    if not model.capabilities.takes_images:
        raise InputError(f"{model.name} takes no pictures. Use a model that does, such as mini-vl.")
    if model.processor is None:
        raise InputError(
            f"{model.name} came without a processor, which makes numbers of pictures. Put preprocessor_config.json "
            "beside the weights, or pass processor= to interp.load."
        )
    rows: list[list[int]] = []
    images: list[dict[str, Any]] = []
    for path in paths:
        inputs = dict(model.processor(images=read_picture(path), return_tensors="pt", **_words(model, prompt)))
        ids, mask = inputs.pop("input_ids", None), inputs.pop("attention_mask", None)
        if ids is not None:
            rows.append((ids[0] if mask is None else ids[0][mask[0].bool()]).tolist())
        images.append({name: _on_device(value, model) for name, value in inputs.items()})
    return (model.pad(rows) if rows else None), images


def read_picture(path: str | Path) -> Any:
    """A picture in red, green and blue.

    Raises:
        InputError: the file is not there, or no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read as a picture ({error.strerror or error}). Give a file such as a PNG or JPEG."
        ) from error


def patch_grid(model: Model, images: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of patches in the pictures of one batch, None where the model's config has no ``patch_size``.

    Arguments:
        images: the model's inputs, with ``pixel_values`` ``[picture, channel, height, width]``.
    """
    config = model.hf.config
    size = getattr(getattr(config, "vision_config", config), "patch_size", None)
    pixels = images.get("pixel_values")
    if pixels is None or pixels.ndim < 4 or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return pixels.shape[-2] // height, pixels.shape[-1] // width


def _words(model: Model, prompt: str | None) -> dict[str, str]:
    """The text that goes to the processor beside a picture."""
    if model.sites.main_kind == "vision":
        if prompt is not None:
            raise InputError(f"{model.name} reads pictures alone. Leave the prompt {prompt!r} out.")
        return {}
    token, text = getattr(model.processor, "image_token", None), prompt or ""
    if token is None or token in text:  # models such as CLIP have a text beside the picture, not around it
        return {"text": text}
    return {"text": f"{token} {text}".rstrip()}


def _on_device(value: Any, model: Model) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(model.device, model.dtype if torch.is_floating_point(value) else None)
