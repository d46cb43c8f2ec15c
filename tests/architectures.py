"""Tiny random models of every architecture that the hook is tested on: one literal table of name, builder and traits.

Weights are drawn with a standard deviation of 0.2, so that attention patterns are far from uniform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

VOCABULARY, WIDTH, CONTEXT = 64, 32, 64
N_LAYERS, N_HEADS, N_KV_HEADS, D_HEAD = 2, 4, 2, 8

SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# Most families name their sizes this way; each configuration takes the names that it knows.
COMMON: dict[str, Any] = {
    **SPECIAL_TOKENS,
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": CONTEXT,
}
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": N_KV_HEADS, "head_dim": D_HEAD}
# One key-value head per query head.
EQUAL: dict[str, Any] = {**COMMON, "num_key_value_heads": N_HEADS, "head_dim": D_HEAD}
ENCODER_DECODER: dict[str, Any] = {
    **SPECIAL_TOKENS,
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": N_LAYERS,
    "decoder_layers": N_LAYERS,
    "encoder_attention_heads": N_HEADS,
    "decoder_attention_heads": N_HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": CONTEXT,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP_VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": N_HEADS,
    "image_size": 12,
    "patch_size": 4,
    "projection_dim": 16,
}
IMAGE_TOKEN = 60


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: model type, with a suffix for a variant.
        construct: makes the model with the weights of its own initialiser.
        kinds: kinds of attention that it has.
        grouped: several query heads share a key-value head.
        cached: the model decodes with a cache.
        left_padded: text can be padded on the left (bart and its kin number positions from the first column).
        fast: part of the subset that runs every time.
        scale: standard deviation of the weights.
    """

    name: str
    construct: Callable[[], PreTrainedModel]
    kinds: frozenset[str] = frozenset({"self"})
    grouped: bool = False
    cached: bool = True
    left_padded: bool = True
    fast: bool = False
    scale: float = 0.2

    def build(self) -> PreTrainedModel:
        """The model in evaluation mode, with the same random weights every time."""
        return randomised(self.construct, self.scale)


def randomised(construct: Callable[[], PreTrainedModel], scale: float = 0.2) -> PreTrainedModel:
    """A model in evaluation mode whose matrices, biases and sink logits are drawn from N(0, scale)."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = construct()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith(("bias", "sinks")):
                parameter.normal_(0, scale)
    return model.eval()


def make(config: str, model: str, sizes: dict[str, Any], **changes: Any) -> PreTrainedModel:
    """A model of a class of transformers, from a configuration of the given sizes and changes to them."""
    made: PretrainedConfig = getattr(transformers, config)(**{**sizes, **changes})
    return getattr(transformers, model)(made)


def decoder(prefix: str, sizes: dict[str, Any] = GROUPED, **changes: Any) -> Callable[[], PreTrainedModel]:
    """Makes the causal language model of a family."""
    return partial(make, f"{prefix}Config", f"{prefix}ForCausalLM", sizes, **changes)


def encoder(prefix: str, sizes: dict[str, Any] = COMMON, **changes: Any) -> Callable[[], PreTrainedModel]:
    """Makes the masked language model of a family."""
    return partial(make, f"{prefix}Config", f"{prefix}ForMaskedLM", sizes, **changes)


def llava() -> PreTrainedModel:
    """LLaVA: a CLIP tower of 9 patches in front of a grouped-query Llama."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP_VISION),
        text_config=transformers.LlamaConfig(**GROUPED),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=9,
    )
    return transformers.LlavaForConditionalGeneration(config)


def qwen2_5_vl() -> PreTrainedModel:
    """Qwen2.5-VL: windowed vision attention (layer 1 sees everything), multimodal rotary positions in the text."""
    vision = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_heads": N_HEADS,
        "out_hidden_size": WIDTH,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**GROUPED, "rope_parameters": rope},
        image_token_id=IMAGE_TOKEN,
        video_token_id=IMAGE_TOKEN + 1,
        vision_start_token_id=IMAGE_TOKEN + 2,
        vision_end_token_id=IMAGE_TOKEN + 3,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


SELF = frozenset({"self"})
VISION = frozenset({"vision"})
BOTH = frozenset({"self", "vision"})
SEQ2SEQ = frozenset({"self", "encoder", "cross"})
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "num_key_value_heads": N_HEADS, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "first_k_dense_replace": 1, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
}  # fmt: skip
SLIDING_THEN_FULL = ["sliding_attention", "full_attention"]
LINEAR_BETWEEN = ["full_attention", "linear_attention", "full_attention"]

ARCHITECTURES = (
    Architecture(name="llama", construct=decoder("Llama"), grouped=True, fast=True),
    # The window is shorter than every prompt of the tests.
    Architecture(name="mistral", construct=decoder("Mistral", sliding_window=5), grouped=True, fast=True),
    Architecture(name="mixtral", construct=decoder("Mixtral", **EXPERTS), grouped=True),
    Architecture(name="qwen2", construct=decoder("Qwen2"), grouped=True),
    Architecture(name="qwen3", construct=decoder("Qwen3"), grouped=True),
    Architecture(name="qwen2_moe", construct=decoder("Qwen2Moe", **QWEN_EXPERTS), grouped=True),
    Architecture(name="qwen3_moe", construct=decoder("Qwen3Moe", **QWEN_EXPERTS), grouped=True),
    Architecture(name="gemma", construct=decoder("Gemma"), grouped=True),
    Architecture(
        name="gemma2",
        construct=decoder("Gemma2", sliding_window=5, attn_logit_softcapping=2.0, layer_types=SLIDING_THEN_FULL),
        grouped=True,
        fast=True,
    ),
    Architecture(
        name="gemma3_text",
        construct=partial(
            make, "Gemma3TextConfig", "Gemma3ForCausalLM", GROUPED, sliding_window=5, layer_types=SLIDING_THEN_FULL
        ),
        grouped=True,
    ),
    Architecture(name="phi", construct=decoder("Phi"), grouped=True),
    Architecture(name="phi3", construct=decoder("Phi3"), grouped=True),
    Architecture(name="phimoe", construct=decoder("Phimoe", **EXPERTS), grouped=True),
    Architecture(name="stablelm", construct=decoder("StableLm"), grouped=True),
    Architecture(name="olmo", construct=decoder("Olmo"), grouped=True),
    Architecture(name="olmo2", construct=decoder("Olmo2"), grouped=True),
    Architecture(
        name="olmo3", construct=decoder("Olmo3", sliding_window=5, layer_types=SLIDING_THEN_FULL), grouped=True
    ),
    Architecture(name="olmoe", construct=decoder("Olmoe", num_experts=4, num_experts_per_tok=2), grouped=True),
    Architecture(name="cohere", construct=decoder("Cohere"), grouped=True),
    Architecture(
        name="cohere2", construct=decoder("Cohere2", sliding_window=5, layer_types=SLIDING_THEN_FULL), grouped=True
    ),
    Architecture(name="starcoder2", construct=decoder("Starcoder2", sliding_window=5), grouped=True),
    Architecture(name="granite", construct=decoder("Granite"), grouped=True),
    Architecture(name="glm", construct=decoder("Glm"), grouped=True),
    Architecture(name="glm4", construct=decoder("Glm4"), grouped=True),
    Architecture(name="gpt_neox", construct=decoder("GPTNeoX", COMMON)),
    Architecture(
        name="gpt_oss",
        construct=decoder("GptOss", sliding_window=5, layer_types=SLIDING_THEN_FULL, **EXPERTS),
        grouped=True,
        fast=True,
    ),
    Architecture(name="gpt2", construct=partial(make, "GPT2Config", "GPT2LMHeadModel", GPT2_SIZES), fast=True),
    Architecture(name="gpt_bigcode", construct=decoder("GPTBigCode", GPT2_SIZES), grouped=True),
    Architecture(name="opt", construct=decoder("OPT", ffn_dim=48, word_embed_proj_dim=WIDTH)),
    # Its norms multiply by one plus their weight, so activations are twice as large as elsewhere.
    Architecture(name="nemotron", construct=decoder("Nemotron"), grouped=True, scale=0.1),
    Architecture(name="persimmon", construct=decoder("Persimmon", EQUAL)),
    Architecture(name="smollm3", construct=decoder("SmolLM3"), grouped=True),
    Architecture(
        name="exaone4", construct=decoder("Exaone4", sliding_window=5, layer_types=SLIDING_THEN_FULL), grouped=True
    ),
    Architecture(name="ernie4_5", construct=decoder("Ernie4_5"), grouped=True),
    Architecture(name="helium", construct=decoder("Helium"), grouped=True),
    Architecture(name="seed_oss", construct=decoder("SeedOss"), grouped=True),
    Architecture(name="biogpt", construct=decoder("BioGpt", COMMON)),
    Architecture(
        # With linear attention first, transformers 5.23 decodes from wrong positions, whoever computes attention.
        name="minimax",
        construct=decoder("MiniMax", layer_types=LINEAR_BETWEEN, num_hidden_layers=3, block_size=4, **EXPERTS),
        grouped=True,
    ),
    # Multi-head latent attention: queries and keys of 12, values of 6.
    Architecture(name="deepseek_v3", construct=decoder("DeepseekV3", COMMON, **LATENT)),
    Architecture(name="bert", construct=encoder("Bert"), cached=False, fast=True),
    Architecture(
        name="roberta",
        construct=encoder("Roberta", max_position_embeddings=CONTEXT + 2, pad_token_id=1, bos_token_id=0),
        cached=False,
    ),
    Architecture(
        name="distilbert",
        construct=encoder("DistilBert", dim=WIDTH, hidden_dim=48, n_layers=N_LAYERS, n_heads=N_HEADS),
        cached=False,
    ),
    Architecture(name="electra", construct=encoder("Electra", embedding_size=WIDTH), cached=False),
    Architecture(name="albert", construct=encoder("Albert", embedding_size=16), cached=False),
    Architecture(
        name="modernbert",
        construct=encoder(
            "ModernBert", local_attention=6, layer_types=SLIDING_THEN_FULL, cls_token_id=1, sep_token_id=2
        ),
        cached=False,
    ),
    Architecture(
        name="bart",
        construct=partial(make, "BartConfig", "BartForConditionalGeneration", ENCODER_DECODER),
        kinds=SEQ2SEQ,
        left_padded=False,
    ),
    Architecture(
        name="mbart",
        construct=partial(make, "MBartConfig", "MBartForConditionalGeneration", ENCODER_DECODER),
        kinds=SEQ2SEQ,
        left_padded=False,
    ),
    Architecture(
        name="marian",
        construct=partial(make, "MarianConfig", "MarianMTModel", ENCODER_DECODER, scale_embedding=True),
        kinds=SEQ2SEQ,
        left_padded=False,
    ),
    Architecture(
        name="pegasus",
        construct=partial(make, "PegasusConfig", "PegasusForConditionalGeneration", ENCODER_DECODER),
        kinds=SEQ2SEQ,
        left_padded=False,
    ),
    Architecture(
        name="t5",
        construct=partial(
            make,
            "T5Config",
            "T5ForConditionalGeneration",
            SPECIAL_TOKENS,
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=D_HEAD,
            d_ff=48,
            num_layers=N_LAYERS,
            num_heads=N_HEADS,
            decoder_start_token_id=0,
        ),
        kinds=SEQ2SEQ,
        fast=True,
    ),
    Architecture(
        name="clip_vision",
        construct=partial(make, "CLIPVisionConfig", "CLIPVisionModel", CLIP_VISION),
        kinds=VISION,
        cached=False,
        left_padded=False,
    ),
    Architecture(
        name="vit",
        construct=partial(make, "ViTConfig", "ViTForImageClassification", CLIP_VISION),
        kinds=VISION,
        cached=False,
        left_padded=False,
    ),
    Architecture(name="llava", construct=llava, kinds=BOTH, grouped=True, fast=True),
    Architecture(name="qwen2_5_vl", construct=qwen2_5_vl, kinds=BOTH, grouped=True),
)

# These compute attention in their own code, so nothing can be read or edited through the interface.
NOT_DISPATCHING: dict[str, Callable[[], PreTrainedModel]] = {
    "bloom": decoder("Bloom", hidden_size=WIDTH, n_layer=N_LAYERS, n_head=N_HEADS),
    "mpt": decoder("Mpt", SPECIAL_TOKENS, vocab_size=VOCABULARY, d_model=WIDTH, n_layers=N_LAYERS, n_heads=N_HEADS),
    "gptj": decoder("GPTJ", GPT2_SIZES, rotary_dim=4),
    "gpt_neo": decoder("GPTNeo", COMMON, num_layers=N_LAYERS, num_heads=N_HEADS, attention_types=[[["global"], 2]]),
    "falcon": decoder("Falcon", COMMON),
    "codegen": decoder("CodeGen", GPT2_SIZES, rotary_dim=4),
    "xglm": decoder("XGLM", d_model=WIDTH, num_layers=N_LAYERS, attention_heads=N_HEADS, ffn_dim=48),
    "deberta_v2": encoder("DebertaV2"),
}


def parameters(condition: Callable[[Architecture], bool] = lambda _: True) -> list[Any]:
    """Parameters of a test over architectures; all but the fast subset carry the marker `matrix`."""
    return [
        pytest.param(row, id=row.name, marks=() if row.fast else pytest.mark.matrix)
        for row in ARCHITECTURES
        if condition(row)
    ]


def token_rows(lengths: tuple[int, ...] = (12, 12)) -> list[list[int]]:
    """Random ordinary tokens, one list for every length."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, IMAGE_TOKEN - 1, (length,), generator=generator).tolist() for length in lengths]


def with_images(row: Architecture, rows: list[list[int]]) -> tuple[list[list[int]], dict[str, Tensor]]:
    """Token rows with the placeholders of one image behind the third token, and the keywords that bring the images."""
    generator = torch.Generator().manual_seed(2)
    n_images = len(rows)
    if row.name == "llava":
        extra = {"pixel_values": torch.randn(n_images, 3, 12, 12, generator=generator)}
        n_tokens = 9
    elif row.name == "qwen2_5_vl":
        # 8 x 4 patches in two windows; 2 x 2 patches merge into one token.
        pixels = torch.randn(n_images * 32, 3 * 4 * 4, generator=generator)
        extra = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 8, 4]] * n_images)}
        n_tokens = 8
    else:
        return rows, {}
    return [ids[:3] + [IMAGE_TOKEN] * n_tokens + ids[3:] for ids in rows], extra


def sample_inputs(row: Architecture, n_tokens: int = 12) -> dict[str, Tensor]:
    """Two samples without padding, as keywords of the model's forward."""
    if row.kinds == VISION:
        return {"pixel_values": torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2))}
    rows, extra = with_images(row, token_rows((n_tokens, n_tokens)))
    ids = torch.tensor(rows)
    if row.kinds == SEQ2SEQ:
        return {"input_ids": ids, "decoder_input_ids": ids[:, :7].flip(0)}
    if "image_grid_thw" in extra:
        extra["mm_token_type_ids"] = (ids == IMAGE_TOKEN).int()
    return {"input_ids": ids, **extra}
