"""A random GPT-2 with copying heads planted in it, for benchmarks of retrieval."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.model.model import Model
from tests.hand_weighted import letters_tokenizer

N_LAYERS, N_HEADS, D_HEAD, N_TOKENS, N_POSITIONS = 6, 8, 64, 1024, 2200
TOKEN, PREVIOUS, POSITION = (slice(start, start + D_HEAD) for start in (0, D_HEAD, 2 * D_HEAD))
PREVIOUS_TOKEN_HEAD = (0, 3)
COPYING_HEADS = {(2, 1): 40.0, (2, 4): 20.0, (2, 6): 10.0}
"""Heads that look behind the earlier copy of their token, each with the sharpness of its softmax."""


def planted_model(directory: Path) -> Model:
    """A random GPT-2 with one previous-token head and three copying heads.

    Tokens are random directions of one subspace; positions are phases of random frequencies in another, so that one
    step back is a rotation. The other heads write little.
    """
    torch.manual_seed(0)
    d_model = N_HEADS * D_HEAD
    config = GPT2Config(
        vocab_size=N_TOKENS, n_positions=N_POSITIONS, n_embd=d_model, n_layer=N_LAYERS, n_head=N_HEADS,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in hf.transformer.h:
            block.attn.c_proj.weight.mul_(0.1)
            block.mlp.c_proj.weight.mul_(0.1)
        frequencies = torch.rand(D_HEAD // 2) * math.pi
        phases = torch.arange(N_POSITIONS)[:, None] * frequencies
        embed, positions = hf.transformer.wte.weight.zero_(), hf.transformer.wpe.weight.zero_()
        embed[:, TOKEN] = torch.nn.functional.normalize(torch.randn(N_TOKENS, D_HEAD), dim=-1)
        positions[:, POSITION] = torch.cat([phases.cos(), phases.sin()], 1) / (D_HEAD / 2) ** 0.5
        cosine, sine = torch.diag(frequencies.cos()), torch.diag(frequencies.sin())
        one_back = torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)])
        _plant(hf, PREVIOUS_TOKEN_HEAD, 30.0, (POSITION, one_back), POSITION, PREVIOUS, 1.0)
        for head, sharpness in COPYING_HEADS.items():
            _plant(hf, head, sharpness, (TOKEN, torch.eye(D_HEAD)), PREVIOUS, TOKEN, 2.0)
    return interp.load(hf, letters_tokenizer(directory, N_TOKENS))


def _plant(
    hf: GPT2LMHeadModel,
    head: tuple[int, int],
    sharpness: float,
    query: tuple[slice, Tensor],
    key: slice,
    target: slice,
    gain: float,
) -> None:
    """Let a head match `query` with `key` and copy the token it finds to `target`.

    The layer norm in front multiplies unit vectors by about ``sqrt(d_model / 3)``, which is divided out.
    """
    layer, index = head
    attention = hf.transformer.h[layer].attn
    inside = slice(index * D_HEAD, (index + 1) * D_HEAD)
    d_model = N_HEADS * D_HEAD
    norm = (d_model / 3) ** 0.5
    parts = [attention.c_attn.weight[:, start * d_model :][:, inside] for start in range(3)]
    for part in (*parts, attention.c_proj.weight[inside]):
        part.zero_()
    parts[0][query[0]] = query[1] * sharpness * D_HEAD**0.5 / norm
    parts[1][key] = torch.eye(D_HEAD) / norm
    parts[2][TOKEN] = torch.eye(D_HEAD) / norm
    attention.c_proj.weight[inside][:, target] = torch.eye(D_HEAD) * gain
