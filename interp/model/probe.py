"""The load-time probe: a model whose attention cannot be read and edited faithfully is refused, never guessed at.

Checks, on a few tokens:
    dispatch    every attention layer calls the transformers attention interface (`discover_sites`)
    agreement   outputs equal the model's own eager attention
    rows        attention rows sum to one (to less only with a learned sink logit)
    causality   zeroing every row changes the output, for each kind of attention

It also measures what can differ between supported models, above all whether left padding leaves real tokens alone.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from interp.attention.implementation import attention_implementation
from interp.attention.participants import Editor, Participant, Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.attention.sites import SiteMap
from interp.errors import ModelNotSupported
from interp.model.discover import discover_sites
from interp.model.padding import left_padded_inputs
from interp.model.probe_inputs import probe_inputs

# Largest accepted difference, relative to the largest output, from the model's own attention.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Capabilities:
    """What the probe found out about a model.

    Attributes:
        kinds: kinds of attention that can be read and edited.
        sink_logits: rows sum to less than one because a learned sink logit takes part.
        generates: the model can generate text.
        takes_images: the model takes pictures.
        left_padding: text may be padded on the left; False where that changes the numbers of real tokens.
        output_difference: largest difference from eager attention, relative to the largest output.
    """

    kinds: tuple[str, ...]
    sink_logits: bool
    generates: bool
    takes_images: bool
    left_padding: bool
    output_difference: float


class _RowSums(Reader):
    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        self.worst, self.sink_logits = 0.0, False

    def read_rows(self, rows: AttentionRows) -> None:
        excess = rows.pattern.sum(-1) - 1
        if rows.sink_logit:
            self.sink_logits = True
            excess = excess.clamp_min(0)
        self.worst = max(self.worst, float(excess.abs().max()))


class _ZeroRows(Editor):
    def __init__(self, kind: str) -> None:
        self.kinds = frozenset({kind})

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        return torch.zeros_like(rows.pattern)


def probe(hf: PreTrainedModel) -> tuple[SiteMap, Capabilities]:
    """Check a model and describe it.

    Raises:
        ModelNotSupported: a check failed; the message names it and gives the numbers.
    """
    name = type(hf).__name__
    inputs = probe_inputs(hf)
    with torch.no_grad(), _rotary_offsets_kept(hf):
        site_map = discover_sites(hf, inputs)
        kinds = tuple(sorted({site.kind for sites in site_map.sites.values() for site in sites}))
        with attention_implementation(hf, "eager"):
            expected = output_tensor(hf(**inputs))
        sums = _RowSums(frozenset(kinds))
        plain = _watched_output(site_map, inputs, sums)
        difference = _relative_difference(plain, expected)
        if not difference <= TOLERANCE.get(expected.dtype, 5e-2):
            raise ModelNotSupported(
                f"{name} failed the agreement check: with interp's attention its outputs differ from its own by "
                f"{difference:.2g} (relative). Its attention does something interp does not know; please report it."
            )
        if not sums.worst <= 1e-3:
            raise ModelNotSupported(
                f"{name} failed the row check: attention rows are off one by up to {sums.worst:.2g}, "
                "so they are not probabilities. Please report this model."
            )
        for kind in kinds:
            if _relative_difference(_watched_output(site_map, inputs, _ZeroRows(kind)), plain) == 0:
                raise ModelNotSupported(
                    f"{name} failed the causality check: zeroing every {kind} attention row left the output unchanged, "
                    "so edits would have no effect. Please report this model."
                )
        left_padding = "input_ids" in inputs and _left_padding_is_harmless(hf, site_map, inputs, plain)
    capabilities = Capabilities(
        kinds=kinds,
        sink_logits=sums.sink_logits,
        generates=bool(hf.can_generate()),
        takes_images="vision" in kinds,
        left_padding=left_padding,
        output_difference=difference,
    )
    return site_map, capabilities


@contextmanager
def _rotary_offsets_kept(hf: PreTrainedModel) -> Generator[None]:
    """Qwen-VL decodes with the offsets of the last images it saw, and those must not be the probe's."""
    owners: list[Any] = [module for module in hf.modules() if hasattr(module, "rope_deltas")]
    offsets = [module.rope_deltas for module in owners]
    try:
        yield
    finally:
        for module, offset in zip(owners, offsets, strict=True):
            module.rope_deltas = offset


def _watched_output(site_map: SiteMap, inputs: dict[str, Tensor], *participants: Participant) -> Tensor:
    with watch(site_map, *participants):
        return output_tensor(site_map.hf(**inputs))


def _left_padding_is_harmless(
    hf: PreTrainedModel, site_map: SiteMap, inputs: dict[str, Tensor], expected: Tensor
) -> bool:
    """Whether two columns of padding in front leave the output of the real tokens as it is."""
    shape = inputs["input_ids"].shape
    padded = {name: pad(value, (2, 0)) for name, value in inputs.items() if value.shape == shape}
    tokens = padded["input_ids"]
    padded |= left_padded_inputs(hf, tokens, pad(torch.ones(shape, dtype=torch.long), (2, 0)).to(tokens.device))
    output = _watched_output(site_map, inputs | padded)
    if output.dim() > 1 and output.shape[1] == expected.shape[1] + 2:
        output = output[:, 2:]
    return _relative_difference(output, expected) <= TOLERANCE.get(expected.dtype, 5e-2)


def output_tensor(output: Any) -> Tensor:
    """The logits of a Hugging Face output, or its first floating-point tensor where there are none."""
    for name in ("logits", "logits_per_image", "prediction_logits", "last_hidden_state"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    return next(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


def _relative_difference(left: Tensor, right: Tensor) -> float:
    largest = right.float().abs().max().clamp_min(1e-6)
    return float((left.float() - right.float()).abs().max() / largest)
