"""Did visual sinks emerge? Attention of the text to single patches, and the largest activations that they carry."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from circuits.training.vision.batches import PREFIX, patch_names
from circuits.training.vision.language import caption
from circuits.training.vision.scenes import Scene


def sink_report(model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: list[Scene]) -> dict[str, Any]:
    """Attention from the words of true captions, and residual streams, averaged over scenes.

    Returns:
        By layer and head: `first_token_mass` (attention to BOS), `image_mass` (to all patches), and, of the tower,
        `tower_evenness` (entropy of the attention over that of even attention). By layer, heads
        together, as shares of the attention to the picture: `empty_share` (to patches that show nothing; these are
        `empty_patches` of all), `top_patch_share` (to the patch that gets most in each scene), `fixed_patch_share`
        (to the one patch that gets most over all scenes). By layer, for the stream that enters it: `largest_bos`,
        `largest_patch`, `largest_text` (the largest magnitude of an entry over the median magnitude of the layer; a
        massive activation has at least 1000).
    """
    per_scene = [_scene_report(model, processor, scene) for scene in scenes]
    mean = {name: torch.stack([report[name] for report in per_scene]).mean(0) for name in per_scene[0]}
    patches = mean.pop("patch_share")
    lists = {name: _rounded(values) for name, values in mean.items()}
    return lists | {"fixed_patch_share": _rounded(patches.amax(-1))}


def _scene_report(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scene: Scene
) -> dict[str, Float[Tensor, "..."]]:
    exchange = caption(scene, scene.shapes)
    call: Any = processor
    inputs = call(
        images=Image.fromarray(scene.draw()[0]),
        text=f"<image> {exchange.prompt} {exchange.answer}",
        return_tensors="pt",
    )
    implementation = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation("eager")  # the only one that hands its patterns out
    try:
        with torch.inference_mode():
            output = model(**inputs, output_attentions=True, output_hidden_states=True)
            inner: Any = model.model
            tower = torch.cat(inner.vision_tower(inputs["pixel_values"], output_attentions=True).attentions)
    finally:
        model.set_attn_implementation(implementation)
    rows = torch.cat(output.attentions)[:, :, PREFIX:].mean(2)  # layer, head, key
    empty = (patch_names([scene])["shape"] == 0)[0]
    evenness = torch.special.entr(tower).sum(-1).mean(-1) / math.log(tower.shape[-1])
    return (
        _attention_numbers(rows, empty) | _largest(torch.cat(output.hidden_states[:-1])) | {"tower_evenness": evenness}
    )


def _attention_numbers(
    rows: Float[Tensor, "layer head key"], empty: Bool[Tensor, " patch"]
) -> dict[str, Float[Tensor, "..."]]:
    image = rows[:, :, 1:PREFIX]
    share = image.mean(1) / image.mean(1).sum(-1, keepdim=True)
    return {
        "first_token_mass": rows[:, :, 0],
        "image_mass": image.sum(-1),
        "patch_share": share,
        "empty_share": share[:, empty].sum(-1),
        "empty_patches": empty.float().mean(),
        "top_patch_share": share.amax(-1),
    }


def _largest(streams: Float[Tensor, "layer token d_model"]) -> dict[str, Float[Tensor, " layer"]]:
    ratio = streams.abs() / streams.abs().flatten(1).median(1).values[:, None, None]
    largest = ratio.amax(-1)
    parts = {"bos": largest[:, :1], "patch": largest[:, 1:PREFIX], "text": largest[:, PREFIX:]}
    return {f"largest_{name}": values.amax(-1) for name, values in parts.items()}


def _rounded(values: Float[Tensor, "..."]) -> Any:
    return [_rounded(row) for row in values] if values.ndim else round(values.item(), 4)
