"""Visual sinks: image tokens that carry the language model's massive activations, and attention with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, Shape
from interp.analyzers.massive_activations import massive_mask, residual_of_text
from interp.analyzers.received import OneTextReader
from interp.attention.rows import LayerCall, Stream
from interp.errors import InputError, ModelNotSupported
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import TokenMap

EPSILON = 1e-6

SHARE = 20**2 / 4096
"""Share of the squared norm in one dimension that a sink value of 20 means in the models of Kang et al."""


@dataclass(frozen=True, kw_only=True)
class VisualSinks(Analyzer):
    """Sink values of all tokens of a prompt with images, and which image tokens are sinks.

    *Formula*: ``phi(x) = max_{d in dims} |x_d| / sqrt(mean_d x_d^2 + 1e-6)`` for the residual stream x entering a
    layer, ``[layer, key]``; a token is a sink of the layer if ``phi > tau``. *Range* [0, sqrt(d_model)]; ``phi^2 /
    d_model`` is the share of the squared norm in one dimension, so tau = 20 means 9.8 % at d_model = 4096.
    *Notes*: `image`, the positions of image tokens; `visual_sinks`, the sinks among them by layer; `text_sinks`, the
    other tokens that pass; `dims`, the dimensions used by layer.

    The prompt is one sequence of token ids with one image token per patch, as the processor makes them; the picture
    goes to the `images` of `interp.scan`.

    Arguments:
        image_tokens: token ids that stand for image patches; `image_tokens(model)`.
        dims: the sink dimensions of the language model, such as 1415 and 2533 of LLaMA-2-7B (LLaVA-1.5-7B), 2100 and
            4743 of LLaMA-2-13B, 458 and 2570 of Qwen2-VL-7B. None: in every layer those in which a text token has a
            massive activation (`massive_mask`); a layer without any has NaN and no sinks.
        tau: threshold; `tau_of(model)` is one that the model can reach.

    *Source*: Kang et al. 2025, arXiv 2503.03321. *Differences*: their code looks at layers from 2 on only, compares
    with the first prompt's sinks in every later prompt, and uses the 7B dimensions for 13B models.
    """

    name: ClassVar[str] = "visual-sinks"
    reads: ClassVar[frozenset[str]] = TEXT
    least: ClassVar[Mapping[str, float]] = {"tau": 0}
    image_tokens: frozenset[int]
    dims: tuple[int, ...] | None = None
    tau: float = 20.0

    @classmethod
    def for_model(cls, model: Model | None) -> VisualSinks:
        if model is None:
            raise InputError(f"{cls.name} needs a model's image tokens. Use VisualSinks(image_tokens=...).")
        return cls(image_tokens=image_tokens(model), tau=tau_of(model))

    def reader(self, shape: Shape) -> _VisualSinks:
        return _VisualSinks(shape, self)


def tau_of(model: Model) -> float:
    """The published threshold 20; for a model too narrow for it, that of the same share of the squared norm."""
    width: int = model.text_config.hidden_size
    return VisualSinks.tau if VisualSinks.tau < math.sqrt(width) else math.sqrt(SHARE * width)


def sink_values(residual: Float[Tensor, "*batch token d_model"], dims: Iterable[int]) -> Float[Tensor, "*batch token"]:
    """phi, the largest magnitude among the sink dimensions over the root mean square of the whole vector.

    Example:
        >>> sink_values(torch.tensor([[0.0, 0.0, 6.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), [2])
        tensor([2.0000, 1.0000])
    """
    rms = (residual.square().mean(-1) + EPSILON).sqrt()
    return residual[..., list(dims)].abs().amax(-1) / rms


def image_tokens(model: Model) -> frozenset[int]:
    """Ids of the tokens that stand for image (or video) patches."""
    found = model.sites.image_tokens
    if not found:
        raise ModelNotSupported(
            f"{model.name} names no image token in its configuration, so image tokens cannot be told from text. "
            "Visual sinks need a model that puts images among its text tokens, such as LLaVA."
        )
    return found


class _VisualSinks(OneTextReader):
    wants_residual = True
    phase = "prefill"

    def __init__(self, shape: Shape, parameters: VisualSinks) -> None:
        super().__init__(shape, parameters.name)
        self.parameters = parameters
        self.is_image: Bool[Tensor, " token"] = torch.zeros(0, dtype=torch.bool)
        self.values: dict[int, Float[Tensor, " token"]] = {}
        self.dims: dict[int, tuple[int, ...]] = {}

    def begin(self, stream: Stream) -> None:
        super().begin(stream)
        if stream.past > 0:
            return
        tokens = stream.tokens
        if tokens is not None:
            tokens = tokens[0] if stream.valid is None else tokens[0][stream.valid[0]]
            wanted = torch.tensor(sorted(self.parameters.image_tokens), device=tokens.device)
            self.is_image = torch.isin(tokens, wanted)
        if not self.is_image.any():
            raise InputError(
                f"There is no image token ({sorted(self.parameters.image_tokens)}) in the prompt. Pass the token ids "
                "that the processor makes of a prompt with an image."
            )

    def read_call(self, call: LayerCall) -> None:
        residual, dims = residual_of_text(call), self.parameters.dims
        d_model = residual.shape[-1]
        if self.parameters.tau >= math.sqrt(d_model):
            raise InputError(
                f"tau={self.parameters.tau:g} cannot be reached: sink values end at {math.sqrt(d_model):.3g}, the root "
                f"of the model's width {d_model}. Choose a smaller tau, such as {math.sqrt(SHARE * d_model):.2g} for "
                "the share of the squared norm that 20 means at a width of 4096."
            )
        if dims is None:
            massive = massive_mask(residual)[~self.is_image].any(0)
            dims = tuple(massive.nonzero().flatten().tolist())
        elif not all(0 <= dim < d_model for dim in dims) or not dims:
            raise InputError(f"dims={dims}: expected dimensions from 0 to {d_model - 1}, at least one.")
        self.dims[call.layer] = dims
        if dims:
            self.values[call.layer] = sink_values(residual, dims).cpu()

    def result(self, provenance: Provenance, tokens: list[str]) -> TokenMap:
        values = torch.full((self.shape.n_layers, len(tokens)), torch.nan)
        for layer, found in self.values.items():
            values[layer] = found
        image, passed = self.is_image.cpu(), values > self.parameters.tau
        return TokenMap(
            name=self.name,
            values=values,
            dims=("layer", "key"),
            tokens=tuple(tokens),
            unit="sink value phi",
            value_range=(0.0, None),
            provenance=provenance,
            notes={
                "tau": self.parameters.tau,
                "dims": [list(self.dims.get(layer, ())) for layer in range(self.shape.n_layers)],
                "image": _positions(image),
                "visual_sinks": [_positions(layer & image) for layer in passed],
                "text_sinks": [_positions(layer & ~image) for layer in passed],
            },
        )


def _positions(mask: Bool[Tensor, " token"]) -> list[int]:
    return mask.nonzero().flatten().tolist()
