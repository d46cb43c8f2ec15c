"""An induction circuit with weights set by hand: two layers, and two heads that do anything at all.

A Hugging Face GPT-2 whose residual stream has the token (one-hot), the previous token (one-hot) and the position
(one-hot) as separate subspaces, ``d_model = 2 * n_tokens + n_positions``:

    L0H0    attends from each position to the one before and copies its token into the second subspace
    L1H1    attends from the token in the first subspace to the same token in the second one, that is to what followed
            its earlier copy, and adds it to the first subspace, which the unembedding reads

All other heads and all MLPs have zero weights. LayerNorm only rescales: every input has as many ones, so its mean and
variance are the same everywhere, and its bias puts the mean back.
"""

import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

N_TOKENS, N_POSITIONS, N_HEADS = 64, 120, 2
D_MODEL = 2 * N_TOKENS + N_POSITIONS
SHARPNESS = 50.0
COPY = 4.0
PREVIOUS_TOKEN_HEAD, INDUCTION_HEAD = (0, 0), (1, 1)

TOKEN = slice(0, N_TOKENS)
PREVIOUS = slice(N_TOKENS, 2 * N_TOKENS)
POSITION = slice(2 * N_TOKENS, D_MODEL)


def induction_model() -> GPT2LMHeadModel:
    """The model, in eval mode."""
    config = GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=N_POSITIONS,
        n_embd=D_MODEL,
        n_layer=2,
        n_head=N_HEADS,
        n_inner=4,
        bos_token_id=0,
        eos_token_id=0,
        layer_norm_epsilon=1e-12,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embed, positions = model.transformer.wte.weight, model.transformer.wpe.weight
        embed[:, TOKEN] = torch.eye(N_TOKENS)
        positions[:, POSITION] = torch.eye(N_POSITIONS)
        one, two = model.transformer.h
        # Ones in the residual stream: token and position; then also the previous token; then what induction adds.
        _undo_layer_norm(one.ln_1, ones=2)
        _undo_layer_norm(two.ln_1, ones=3)
        model.transformer.ln_f.weight.fill_(1.0)
        _write_previous_token_head(one.attn)
        _write_induction_head(two.attn)
    return model


def _undo_layer_norm(norm: torch.nn.LayerNorm, ones: int) -> None:
    """Make the norm the identity on vectors with this many ones and zeros otherwise."""
    mean = ones / D_MODEL
    deviation = math.sqrt(mean - mean**2)
    norm.weight.fill_(deviation)
    norm.bias.fill_(mean)


def _write_previous_token_head(attention: torch.nn.Module) -> None:
    query, key, value, output = _weights(attention, PREVIOUS_TOKEN_HEAD[1])
    n = N_POSITIONS
    # Position p asks for p - 1; position 0 has only itself.
    query[POSITION, :n] = torch.eye(n).roll(-1, 1) * _sharp()
    key[POSITION, :n] = torch.eye(n)
    value[TOKEN, :N_TOKENS] = torch.eye(N_TOKENS)
    output[:N_TOKENS, PREVIOUS] = torch.eye(N_TOKENS)


def _write_induction_head(attention: torch.nn.Module) -> None:
    query, key, value, output = _weights(attention, INDUCTION_HEAD[1])
    query[TOKEN, :N_TOKENS] = torch.eye(N_TOKENS) * _sharp()
    key[PREVIOUS, :N_TOKENS] = torch.eye(N_TOKENS)
    value[TOKEN, :N_TOKENS] = torch.eye(N_TOKENS)
    output[:N_TOKENS, TOKEN] = torch.eye(N_TOKENS) * COPY


def _sharp() -> float:
    """The scores are divided by the root of the head's width."""
    return SHARPNESS * math.sqrt(D_MODEL // N_HEADS)


def _weights(attention: torch.nn.Module, head: int) -> tuple[torch.Tensor, ...]:
    """Views of a head's query, key, value ``[d_model, d_head]`` and output weights ``[d_head, d_model]``."""
    d_head = D_MODEL // N_HEADS
    inside = slice(head * d_head, (head + 1) * d_head)
    joint = attention.c_attn.weight
    parts = [joint[:, start * D_MODEL : (start + 1) * D_MODEL][:, inside] for start in range(3)]
    return (*parts, attention.c_proj.weight[inside])


def letters_tokenizer(directory: Path, n_tokens: int = N_TOKENS) -> PreTrainedTokenizerBase:
    """A fast tokenizer with `n_tokens` one-letter words, the first of them a BOS that it puts in front."""
    vocabulary = {"<s>": 0} | {f"w{index}": index for index in range(1, n_tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<s>")
    fast.save_pretrained(directory)
    return PreTrainedTokenizerFast.from_pretrained(directory)
