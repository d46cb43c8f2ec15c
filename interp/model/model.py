"""`Model`: a loaded, probed model and its tokenizer, as everything else in this package takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from interp.attention.sites import AttentionSite, SiteMap
from interp.errors import InputError
from interp.model.bridge import bridge_view
from interp.model.padding import left_padded_inputs, padding_of_positions
from interp.model.probe import Capabilities, output_tensor, probe
from interp.model.tokens import PaddingSide, TokenBatch, encode, pad, str_tokens
from interp.provenance import Provenance, hash_prompts

Inputs = str | Sequence[str] | Tensor | TokenBatch
DECODER_TEXTS = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
"""Inputs that say what the decoder of an encoder-decoder reads."""
UNKNOWN = 0.01
"""Share of words unknown to the tokenizer from which on a result says so."""


class Model:
    """A model whose attention can be read and edited. Made by `interp.load`.

    Model
    ├── hf            the Hugging Face model, unchanged
    ├── tokenizer, processor
    ├── sites         where attention happens (found by the load-time probe)
    ├── capabilities  what the probe found out
    ├── bridge        a TransformerLens TransformerBridge sharing the weights, built when first used
    └── model(...), model.generate(...), model.to_tokens(...), model.to_str_tokens(...)
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        *,
        name: str,
        processor: Any = None,
        revision: str | None = None,
    ) -> None:
        self.hf = hf.eval()
        self.tokenizer = tokenizer
        self.processor = processor
        self.name = name
        self.revision = revision
        self.sites: SiteMap
        self.capabilities: Capabilities
        self.sites, self.capabilities = probe(hf)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.n_layers} layers x {self.n_heads} heads, {self.dtype}, {self.device})"

    @property
    def text_config(self) -> PretrainedConfig:
        """The configuration of the text model (the whole configuration for a text-only model)."""
        return self.hf.config.get_text_config()

    @property
    def main_sites(self) -> list[AttentionSite]:
        """The sites of the main stack by layer: text, or vision for a vision-only model."""
        return self.sites.of_kind(self.sites.main_kind)

    @property
    def n_layers(self) -> int:
        """Layers of the main stack. Hybrid models count their layers without softmax attention too."""
        found = max(site.layer for site in self.main_sites) + 1
        configured = getattr(self.text_config, "num_hidden_layers", 0)
        return max(found, configured) if self.sites.main_kind == "self" else found

    @property
    def n_heads(self) -> int:
        """Query heads per layer (the most of any layer)."""
        return max(site.n_heads for site in self.main_sites)

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads per layer; query head ``h`` uses KV head ``h // (n_heads // n_kv_heads)``."""
        return max(site.n_kv_heads for site in self.main_sites)

    @property
    def d_head(self) -> int:
        """Width of one head's output."""
        return max(site.d_head for site in self.main_sites)

    @property
    def n_ctx(self) -> int | None:
        """Longest sequence the model accepts in tokens; None if it sets no limit."""
        n_positions = getattr(self.text_config, "max_position_embeddings", None)
        padding = padding_of_positions(self.hf)
        # RoBERTa numbers its positions from the one behind the padding token's.
        return n_positions if n_positions is None or padding is None else n_positions - padding - 1

    @property
    def d_vocab(self) -> int:
        """Token ids that the model knows, which are the rows of its embedding.

        Raises:
            InputError: it reads pictures alone.
        """
        self._check_reads_tokens()
        embedding: Any = self.hf.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @property
    def predicts_next_token(self) -> bool:
        """Whether it predicts every next token of a text, as a decoder without an encoder does."""
        return self.capabilities.generates and "encoder" not in self.capabilities.kinds

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters as they are, not as a configuration says."""
        return next(p.dtype for p in self.hf.parameters() if p.is_floating_point())

    @cached_property
    def bridge(self) -> Any:
        """A TransformerLens ``TransformerBridge`` on the same weights: change one, change both.

        Only GPT-NeoX's queries, keys and values, which lie interleaved in one matrix, are copies there.
        """
        return bridge_view(self.hf, self.tokenizer, self.name)

    def batch(
        self,
        inputs: Inputs,
        *,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "right",
    ) -> TokenBatch:
        """Whatever describes sequences, as one `TokenBatch` on the model's device.

        Arguments:
            inputs: a text, several texts, a token tensor ``[position]`` or ``[batch, position]`` without padding, or
                a `TokenBatch`.
            prepend_bos: None for the tokenizer's own habit; only for texts.

        Raises:
            InputError: empty prompt, no tokenizer, or more tokens than the context holds.
        """
        if isinstance(inputs, TokenBatch):
            batch = inputs
        elif isinstance(inputs, Tensor):
            tokens = inputs[None] if inputs.dim() == 1 else inputs
            bos = getattr(self.tokenizer, "bos_token_id", None)
            starts = bos is not None and tokens.shape[1] > 0 and bool((tokens[:, 0] == bos).all())
            batch = TokenBatch(tokens.long(), torch.ones_like(tokens, dtype=torch.long), starts)
        else:
            self.check_reads_text()
            texts = [inputs] if isinstance(inputs, str) else list(inputs)
            if not texts:
                raise InputError("The list of prompts is empty; expected at least one. Pass some text.")
            batch = encode(self.tokenizer, texts, prepend_bos=prepend_bos, padding_side=padding_side)
        self._check(batch.tokens)
        return batch.to(self.device)

    def check_reads_text(self) -> None:
        """Refuse a model that text cannot be given to.

        Raises:
            InputError: it reads pictures alone, or has no tokenizer.
        """
        self._check_reads_tokens()
        if self.tokenizer is None:
            raise InputError(f"{self.name} was loaded without a tokenizer, so text cannot be used. Pass token ids.")

    def pad(self, rows: Sequence[Sequence[int]], *, padding_side: PaddingSide = "right") -> TokenBatch:
        """One `TokenBatch` from token id lists of different lengths."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        starts = bos is not None and all(len(row) > 0 and row[0] == bos for row in rows)
        batch = pad(rows, pad_id=self._pad_id, padding_side=padding_side, prepend_bos=starts)
        self._check(batch.tokens)
        return batch.to(self.device)

    def to_tokens(self, text: str | Sequence[str], *, prepend_bos: bool | None = None) -> Int[Tensor, "batch position"]:
        """Token ids of one text, or of several texts of equal length."""
        batch = self.batch(text, prepend_bos=prepend_bos)
        if batch.padding_side is not None:
            raise InputError(
                "The texts have different lengths, and a plain token tensor cannot say what is padding. "
                "Use model.batch(texts), which carries the mask."
            )
        return batch.tokens

    def to_str_tokens(self, inputs: str | Int[Tensor, " position"] | Sequence[int]) -> list[str]:
        """Text of every token of one sequence, leading spaces included."""
        ids = self.to_tokens(inputs)[0].tolist() if isinstance(inputs, str) else [int(i) for i in inputs]
        return str_tokens(self.tokenizer, ids)

    def __call__(self, inputs: Inputs, **kwargs: Any) -> Float[Tensor, "batch position vocab"]:
        """Logits. `kwargs` go to the Hugging Face model (``pixel_values``, ``past_key_values``, ...)."""
        return output_tensor(self.hf(**self.forward_inputs(self.batch(inputs), **kwargs)))

    def generate(self, inputs: Inputs, *, max_new_tokens: int = 32, **kwargs: Any) -> Int[Tensor, "batch position"]:
        """Greedy continuation (unless `kwargs` say otherwise), prompt included; hooks are live in every step."""
        if not self.capabilities.generates:
            raise InputError(f"{self.name} cannot generate text. Use a causal or encoder-decoder language model.")
        if kwargs.get("num_beams", 1) > 1:
            raise InputError("Beam search reorders sequences under way, which readers cannot follow. Use num_beams=1.")
        # An encoder-decoder pads the text of its encoder and continues another; a decoder continues the text itself.
        side: PaddingSide = "right" if self.hf.config.is_encoder_decoder else "left"
        batch = self.batch(inputs, padding_side=side)
        if batch.padding_side not in (None, side):
            raise InputError(
                f"Generation with {self.name} needs padding on the {side}. "
                f"Use model.batch(texts, padding_side='{side}')."
            )
        if not self.hf.config.is_encoder_decoder:
            self._check(batch.tokens, max_new_tokens)
        options = {"do_sample": False, "pad_token_id": self._pad_id, **kwargs}
        generate: Any = self.hf.generate
        return generate(input_ids=batch.tokens, attention_mask=batch.mask, max_new_tokens=max_new_tokens, **options)

    def forward_inputs(self, batch: TokenBatch, **others: Any) -> dict[str, Any]:
        """Keywords for ``hf(...)``: the mask where something is padded, positions that skip left padding, `others`.

        Raises:
            InputError: an encoder-decoder without a text of its decoder among the `others`; or the batch is padded on
                the left, and on this model that would change the numbers.
        """
        if self.hf.config.is_encoder_decoder and others.keys().isdisjoint(DECODER_TEXTS):
            raise InputError(
                f"{self.name} is an encoder-decoder, whose decoder reads a text of its own. Use a model with one "
                "stack, or give decoder_input_ids= where that can be given, as to interp.capture_patterns."
            )
        return dict(**self._keywords(batch), **others)

    def _keywords(self, batch: TokenBatch) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.tokens}
        if batch.padding_side is None:
            return inputs
        if batch.padding_side == "right":
            return {**inputs, "attention_mask": batch.mask}
        if not self.capabilities.left_padding:
            raise InputError(
                f"{self.name} numbers positions from the first column, so left padding changes what it computes for "
                "real tokens. Pad on the right (padding_side='right')."
            )
        return left_padded_inputs(self.hf, batch.tokens, batch.mask)

    def provenance(
        self,
        batches: Sequence[TokenBatch],
        *,
        seed: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ) -> Provenance:
        """Where a result on these batches comes from."""
        rows = [row[kept.bool()] for batch in batches for row, kept in zip(batch.tokens, batch.mask, strict=True)]
        special = getattr(self.tokenizer, "special_tokens_map", {})
        return Provenance(
            model=self.name,
            revision=self.revision,
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            seed=seed,
            prompt_hash=hash_prompts(rows) if batches else None,
            prepend_bos=all(batch.prepend_bos for batch in batches) if batches else None,
            padding_side=next((batch.padding_side for batch in batches if batch.padding_side), None),
            special_tokens={role: text for role, text in special.items() if isinstance(text, str)},
            parameters=dict(parameters or {}),
            warnings=(*warnings, *self._unknown_tokens(rows)),
        )

    def _unknown_tokens(self, rows: Sequence[Tensor]) -> Iterator[str]:
        """A sentence where the tokenizer lacks words of the text; GPT-2's own unknown token ends its texts."""
        unknown, size = getattr(self.tokenizer, "unk_token_id", None), sum(map(len, rows))
        others = [getattr(self.tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad")]
        if unknown is None or unknown in others or not size:
            return
        share = sum(int((row == unknown).sum()) for row in rows) / size
        if share >= UNKNOWN:
            yield f"{share:.0%} of the tokens are words that {self.name} does not know ({self.tokenizer.unk_token})"

    @property
    def _pad_id(self) -> int:
        ids = (
            getattr(self.tokenizer, "pad_token_id", None),
            getattr(self.tokenizer, "eos_token_id", None),
            getattr(self.text_config, "pad_token_id", None),
        )
        return next((i for i in ids if i is not None), 0)

    def _check_reads_tokens(self) -> None:
        if self.sites.main_kind == "vision":
            raise InputError(f"{self.name} reads pictures and no text. Use a model of text.")

    def _check(self, tokens: Int[Tensor, "batch position"], n_new: int = 0) -> None:
        """Refuse token ids that the model cannot take, alone or with `n_new` more behind them."""
        length = tokens.shape[1]
        if tokens.numel() == 0:
            raise InputError("A prompt is empty; attention needs at least one token. Pass some text.")
        if self.n_ctx is not None and length + n_new > self.n_ctx:
            more = f" and {n_new} new ones are to follow" if n_new else ""
            raise InputError(
                f"A prompt has {length} tokens{more}, but {self.name} takes at most {self.n_ctx}. "
                "Shorten it or cut it into pieces."
            )
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.d_vocab:
            raise InputError(
                f"Token ids run from {int(tokens.min())} to {int(tokens.max())}, but {self.name} knows 0 to "
                f"{self.d_vocab - 1}. Use the tokenizer that belongs to the model."
            )
