"""Direct logit attribution: what each head writes into the residual stream at END, read by the unembedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.forward import batches
from circuits.tasks import Task, TaskPrompts
from interp.errors import ModelNotSupported
from interp.model.model import Model

# Largest accepted share of a logit difference (or of a block's output) that the parts do not explain.
TOLERANCE, HALF_TOLERANCE = 1e-3, 3e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectLogits:
    """Contributions to the logit difference at END with the final norm's scale frozen, in nats.

    Attributes:
        heads: `[layer, head, prompt]`; NaN throughout where `warning` says why.
        rest: embeddings, MLPs and biases.
        total: the model's own logit difference, which `heads` and `rest` add up to.
        warning: why nothing could be attributed; None when it could.
    """

    heads: Float[Tensor, "layer head prompt"]
    rest: Float[Tensor, " prompt"]
    total: Float[Tensor, " prompt"]
    warning: str | None = None


def direct_logits(model: Model, task: Task, prompts: TaskPrompts, *, batch_size: int = 64) -> DirectLogits:
    """Attribute the logit difference (answer minus wrong; the means of right and wrong choices for greater-than).

    *Formula*: ``(z_h W_O^h - mean) / scale * gamma . (W_U[answer] - W_U[wrong])``, mean only with LayerNorm.
    *Source*: Elhage et al. 2021; Wang et al. 2022, arXiv 2211.00593. On TransformerLens' bridge with the model's raw
    weights, so its final norm's own gamma is applied here; the sum is checked against the model's logits.
    """
    try:
        bridge = model.bridge
        readout = _Readout(bridge, model)
        parts = [readout.attribute(batch, task) for _, batch in batches(prompts, task, batch_size)]
    except ModelNotSupported as error:
        return _unknown(model, prompts, str(error))
    except (AttributeError, KeyError, NotImplementedError) as error:
        reason = (
            f"TransformerLens' view of {type(model.hf).__name__} lacks what direct logit attribution needs ({error})."
        )
        return _unknown(model, prompts, reason)
    heads, rest, total = (torch.cat(values, -1) for values in zip(*parts, strict=True))
    return DirectLogits(heads=heads, rest=rest, total=total)


def _unknown(model: Model, prompts: TaskPrompts, reason: str) -> DirectLogits:
    unknown = torch.full((len(prompts),), torch.nan)
    return DirectLogits(
        heads=unknown.expand(model.n_layers, model.n_heads, -1),
        rest=unknown,
        total=unknown,
        warning=f"No direct logit attribution: {reason}",
    )


class _Readout:
    """The last norm and the unembedding of a bridge, and the activations that they read."""

    def __init__(self, bridge: Any, model: Model) -> None:
        self.bridge, self.model, self.n_layers = bridge, model, model.n_layers
        self.weights_out: Float[Tensor, "layer head d_head d_model"] = bridge.W_O.float()
        self.unembed: Float[Tensor, "d_model vocab"] = bridge.W_U.float()
        self.norm: Any = bridge.ln_final
        self.tolerance = HALF_TOLERANCE if model.dtype in (torch.bfloat16, torch.float16) else TOLERANCE

    def attribute(
        self, batch: TaskPrompts, task: Task
    ) -> tuple[Float[Tensor, "layer head prompt"], Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """Heads, rest and total of one batch.

        Raises:
            ModelNotSupported: the heads do not add to the residual stream, or the norm does not explain the logits.
        """
        at = (torch.arange(len(batch)), batch.positions[task.answer_position])
        device = self.model.device
        with torch.inference_mode():
            logits, cache = self.bridge.run_with_cache(
                batch.clean.to(device), names_filter=_needed, prepend_bos=False, return_cache_object=True
            )
            written = torch.stack([self._written(cache, layer, at) for layer in range(self.n_layers)])
            direction = self._direction(batch)
            final = cache["resid_post", self.n_layers - 1][at].float()
            total = self._difference(logits[at].float(), batch)
            scale = cache["ln_final.hook_scale"][at].float()
            heads = self._read(written, scale, direction)
            whole = self._read(final[None, None], scale, direction)[0, 0]
            constant = self._constant(batch, direction)
        error = float((whole + constant - total).abs().max() / total.abs().max().clamp_min(1e-6))
        if not error < self.tolerance:
            raise ModelNotSupported(
                f"{self.model.name} does not read its logits off the last residual stream through one norm and the "
                f"unembedding (the logit differences disagree by {error:.2g} of the largest)."
            )
        return heads.cpu(), (total - heads.sum((0, 1))).cpu(), total.cpu()

    def _written(self, cache: Any, layer: int, at: tuple[Tensor, Tensor]) -> Float[Tensor, "head prompt d_model"]:
        """What each head adds to the residual stream, after checking that it does add it, unscaled and unnormed."""
        z = cache["z", layer][at].float()
        written = torch.einsum("phd,hdm->hpm", z, self.weights_out[layer])
        block = cache["resid_post", layer] - cache["resid_pre", layer] - cache["mlp_out", layer]
        # Only a bias, the same for every prompt, may remain.
        remainder = block[at].float() - written.sum(0)
        constant = remainder.mean(0) if len(remainder) > 1 else torch.zeros_like(remainder[0])
        bias = getattr(self.bridge.blocks[layer].attn, "b_O", None)
        error = (remainder - (constant if bias is None else bias.float())).norm() / block[at].float().norm()
        if not float(error) < self.tolerance * 10:
            raise ModelNotSupported(
                f"{self.model.name} normalises or scales the output of attention before adding it to the residual "
                f"stream (layer {layer}), so a head has no direct contribution of its own."
            )
        return written

    def _read(
        self,
        stack: Float[Tensor, "*component prompt d_model"],
        scale: Float[Tensor, "prompt 1"],
        direction: Float[Tensor, "prompt d_model"],
    ) -> Float[Tensor, "*component prompt"]:
        if self.bridge.cfg.normalization_type in ("LN", "LNPre"):
            stack = stack - stack.mean(-1, keepdim=True)
        return (stack / scale * self._gamma() * direction).sum(-1)

    def _gamma(self) -> Float[Tensor, " d_model"]:
        gamma = self.norm.weight.float()
        return gamma + 1 if getattr(self.bridge.cfg, "rmsnorm_uses_offset", False) else gamma

    def _direction(self, batch: TaskPrompts) -> Float[Tensor, "prompt d_model"]:
        vocabulary = self.unembed.T
        if batch.choices is None or batch.choice_sign is None:
            return vocabulary[batch.answer.to(vocabulary.device)] - vocabulary[batch.wrong.to(vocabulary.device)]
        weights = _choice_weights(batch).to(vocabulary.device)
        return torch.einsum("pc,pcm->pm", weights, vocabulary[batch.choices.to(vocabulary.device)])

    def _difference(self, logits: Float[Tensor, "prompt vocab"], batch: TaskPrompts) -> Float[Tensor, " prompt"]:
        if batch.choices is None or batch.choice_sign is None:
            tokens = torch.stack([batch.answer, batch.wrong], 1).to(logits.device)
            right, wrong = logits.gather(1, tokens).unbind(1)
            return right - wrong
        return (logits.gather(1, batch.choices.to(logits.device)) * _choice_weights(batch).to(logits.device)).sum(-1)

    def _constant(self, batch: TaskPrompts, direction: Float[Tensor, "prompt d_model"]) -> Float[Tensor, " prompt"]:
        """What the biases of the norm and of the unembedding add."""
        constant = torch.zeros(len(batch), device=direction.device)
        norm_bias, unembed_bias = getattr(self.norm, "bias", None), getattr(self.bridge, "b_U", None)
        if isinstance(norm_bias, Tensor):
            constant = constant + direction @ norm_bias.float()
        if isinstance(unembed_bias, Tensor):
            constant = constant + self._difference(unembed_bias.float().expand(len(batch), -1), batch)
        return constant


def _needed(name: str) -> bool:
    endings = ("attn.hook_z", "hook_resid_pre", "hook_resid_post", "hook_mlp_out")
    return name.endswith(endings) or name == "ln_final.hook_scale"


def _choice_weights(batch: TaskPrompts) -> Float[Tensor, "prompt choice"]:
    """Mean over the right choices minus mean over the wrong ones."""
    assert batch.choice_sign is not None
    right, wrong = (batch.choice_sign > 0).float(), (batch.choice_sign < 0).float()
    return right / right.sum(-1, keepdim=True) - wrong / wrong.sum(-1, keepdim=True)
