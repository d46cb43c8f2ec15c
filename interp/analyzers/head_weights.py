"""The weights of every head as they act on the residual stream, with the norms folded in and checked on activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelNotSupported
from interp.model.model import Model
from interp.results import Provenance

PROBE_TOKENS = 6
# Largest share of a layer's values or output that the folded weights may leave unexplained.
TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2
CENTRED = ("LN", "LNPre")


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadWeights:
    """Folded weights in the row-vector convention of TransformerLens, heads expanded to query heads.

    The gain of the norm before attention is folded into W_Q, W_K and W_V, that of the final norm into W_U; with
    LayerNorm also its centring, into these and into W_O. W_U is centred over the vocabulary, which no probability
    notices. What is left of a norm is a positive factor per position. Biases and rotations are left out.

    Attributes:
        layers: layer of every entry of the layer axis (hybrid models: those with attention).
        W_Q, W_K, W_V: ``[layer, head, d_model, d_head]``.
        W_O: ``[layer, head, d_head, d_model]``.
        W_E: embedding ``[vocab, d_model]``.
        W_U: unembedding ``[d_model, vocab]``.
        warnings: what the weights alone do not tell of this model, one sentence each.
    """

    layers: tuple[int, ...]
    W_Q: Float[Tensor, "layer head d_model d_head"]
    W_K: Float[Tensor, "layer head d_model d_head"]
    W_V: Float[Tensor, "layer head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    W_E: Float[Tensor, "vocab d_model"]
    W_U: Float[Tensor, "d_model vocab"]
    warnings: tuple[str, ...]

    def spread(self, values: Float[Tensor, "layer head"], model: Model) -> Float[Tensor, "model_layer head"]:
        """Values of the layers with attention at their places among all layers; NaN elsewhere."""
        everywhere = torch.full((model.n_layers, model.n_heads), torch.nan, dtype=values.dtype)
        everywhere[list(self.layers)] = values.cpu()
        return everywhere


def weights_provenance(model: Model, *, seed: int | None = None, **parameters: Any) -> Provenance:
    """Where a score from weights comes from: no prompts, and so neither BOS nor padding."""
    return replace(model.provenance([], seed=seed, parameters=parameters), prompt_hash=None, prepend_bos=None)


@torch.no_grad()
def head_weights(model: Model) -> HeadWeights:
    """Read the weights of a model through TransformerLens' bridge.

    Raises:
        ModelNotSupported: no bridge, two residual streams, other widths for keys and values (latent attention), or a
            run on a few tokens shows that attention does not read the residual stream through one norm or does not add
            to it unchanged (norms after attention, scaled branches).
    """
    bridge = model.bridge
    try:
        (layers, qk), (_, ov) = bridge.QK_for_attn_layers(), bridge.OV_for_attn_layers()
        gains = torch.stack([_gain(bridge, bridge.blocks[layer].ln1) for layer in layers])[:, None, :, None]
        final = _gain(bridge, bridge.ln_final)
        embedding, unembedding = bridge.W_E.detach().float(), bridge.W_U.float()
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ModelNotSupported(
            f"Scores from weights need TransformerLens' W_Q, W_K, W_V, W_O, W_E, W_U, ln1 and ln_final; its view of "
            f"{type(model.hf).__name__} lacks them ({error}). Use scores from attention instead."
        ) from error
    centred = bridge.cfg.normalization_type in CENTRED
    weights = HeadWeights(
        layers=tuple(layers),
        W_Q=_centred(gains * qk.A.float(), -2, centred),
        W_K=_centred(gains * qk.B.float().transpose(-2, -1), -2, centred),
        W_V=_centred(gains * ov.A.float(), -2, centred),
        W_O=_centred(ov.B.float(), -1, centred),
        W_E=_centred(embedding, -1, centred),
        W_U=_centred(_centred(final[:, None] * unembedding, 0, centred), 1, True),
        warnings=_warnings(bridge, layers[0]),
    )
    _check(model, weights)
    return weights


def _centred(weight: Tensor, dim: int, centred: bool) -> Tensor:
    return weight - weight.mean(dim, keepdim=True) if centred else weight


def _gain(bridge: Any, norm: Any) -> Float[Tensor, " d_model"]:
    weight = getattr(norm, "weight", None)
    if weight is None:  # OLMo's norm has no parameters
        return torch.ones(bridge.cfg.d_model, device=bridge.W_E.device)
    return weight.float() + 1 if getattr(bridge.cfg, "rmsnorm_uses_offset", False) else weight.float()


def _warnings(bridge: Any, layer: int) -> tuple[str, ...]:
    found: list[str] = []
    if "rotary" in str(getattr(bridge.cfg, "positional_embedding_type", "")):
        found.append("Rotary positions turn queries against keys; scores from W_QK leave the turn out.")
    if any(hasattr(bridge.blocks[layer].attn, name) for name in ("q_norm", "k_norm")):
        found.append("Queries and keys are normalised per head; scores from W_QK leave that norm out.")
    return tuple(found)


def _check(model: Model, weights: HeadWeights) -> None:
    """Compare values and written outputs with the model's own on a few tokens, up to constants (biases).

    Raises:
        ModelNotSupported: they disagree.
    """
    bridge = model.bridge
    n_tokens = min(PROBE_TOKENS, len(weights.W_E))
    tokens = torch.arange(1, n_tokens + 1, device=model.device)[None] * (len(weights.W_E) - 1) // n_tokens
    endings = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_v", "attn.hook_z")
    _, cache = bridge.run_with_cache(tokens, names_filter=lambda name: name.endswith(endings), prepend_bos=False)
    half = model.dtype in (torch.bfloat16, torch.float16)
    for place, layer in enumerate(weights.layers):
        try:
            before, after, mlp, value, z = (
                cache[name, layer][0].float() for name in ("resid_pre", "resid_post", "mlp_out", "v", "z")
            )
        except KeyError as error:
            raise _unsupported(model, layer, f"its view in TransformerLens lacks {error}") from error
        normed = _normed(bridge, before)
        group = weights.W_V.shape[1] // value.shape[1]
        read = torch.einsum("tm,hmd->thd", normed, weights.W_V[place, ::group])
        written = torch.einsum("thd,hdm->tm", z, weights.W_O[place])
        added = _centred(after - before - mlp, -1, bridge.cfg.normalization_type in CENTRED)
        for found, expected, what in (
            (read, value, "attention does not read the residual stream through one norm"),
            (written, added, "the output of attention is normalised or scaled before it is added"),
        ):
            error = _disagreement(found, expected)
            if not error < (HALF_TOLERANCE if half else TOLERANCE):
                raise _unsupported(model, layer, f"{what} (they disagree by {error:.2g})")


def _normed(bridge: Any, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """A norm without its gain and bias."""
    residual = _centred(residual, -1, bridge.cfg.normalization_type in CENTRED)
    return residual * torch.rsqrt(residual.square().mean(-1, keepdim=True) + bridge.cfg.eps)


def _disagreement(found: Float[Tensor, "token ..."], expected: Float[Tensor, "token ..."]) -> float:
    """Largest difference of the changes from the first token, as a share of the largest expected number."""
    difference = (found - found[:1]) - (expected - expected[:1])
    return float(difference.abs().max() / expected.abs().max().clamp_min(1e-6))


def _unsupported(model: Model, layer: int, problem: str) -> ModelNotSupported:
    return ModelNotSupported(
        f"Scores from weights do not hold for {model.name}: in layer {layer} {problem}. "
        "Use scores from attention instead."
    )
