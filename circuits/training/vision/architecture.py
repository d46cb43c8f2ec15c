"""The untrained model and its processor: LLaVA (arXiv 2304.08485) at a size that two CPU cores can train."""

from itertools import chain
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from circuits.training.tokenizer import SPACE, word_level_tokenizer
from circuits.training.vision.language import words
from circuits.training.vision.recipe import SceneRecipe
from circuits.training.vision.scenes import IMAGE_SIZE, PATCH_SIZE

IMAGE_TOKEN = "<image>"
N_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
CONTEXT = 256
ROPE_THETA = 1e5
"""Higher than Llama's 1e4, so that more of a head's 16 dimensions can match a word with a patch at any distance."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token per word, the space before the word included, and a BOS in front."""
    ordinary = dict.fromkeys(chain((".", "?"), (SPACE + word for word in words())))
    return word_level_tokenizer(ordinary, cut_at=r"[.?]", context=CONTEXT, padding_side="left", special=(IMAGE_TOKEN,))


def build_processor() -> LlavaProcessor:
    """Pictures of any size become 64 x 64 pixels in [0, 2]; `<image>` becomes one token per patch."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.0] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # the class token, which "default" takes away again
    )


def build_model(recipe: SceneRecipe, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights from the recipe's seed."""
    special: Any = tokenizer
    ids = {f"{role}_token_id": getattr(special, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    vision = CLIPVisionConfig(
        hidden_size=recipe.d_vision,
        intermediate_size=4 * recipe.d_vision,
        projection_dim=recipe.d_vision,
        num_hidden_layers=recipe.n_vision_layers,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE_TOKEN],
        image_seq_length=N_PATCHES,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = LlavaForConditionalGeneration(config)
        let_like_attend_to_like(model)
    return model


@torch.no_grad()
def let_like_attend_to_like(model: LlavaForConditionalGeneration) -> None:
    """Give every second query head of the text model the same random matrix as its keys.

    Its scores then start as similarities, so that a word looks at the patches that lie near it in the embedding; the
    other heads start small, as Llama's do. *Source*: mimetic initialization, arXiv 2305.09828, without its noise.
    """
    config = model.config.get_text_config()
    inner: Any = model.model
    for layer in inner.language_model.layers:
        keys = layer.self_attn.k_proj.weight.normal_(0, config.hidden_size**-0.5)
        groups = layer.self_attn.q_proj.weight.view(config.num_key_value_heads, -1, config.head_dim, config.hidden_size)
        groups[:, 0] = keys.view(config.num_key_value_heads, config.head_dim, config.hidden_size)
