"""Where attention happens in a model: one site per run of an attention module in a forward pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

MAIN_KINDS = ("self", "vision")
# A weight of another dtype is packed or goes with scales of its own: it is not the matrix that acts.
MATRIX_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer.

    Attributes:
        module_name: path of the attention module inside the Hugging Face model.
        kind: ``"self"`` (decoder or text encoder), ``"encoder"`` (of an encoder-decoder), ``"cross"``, ``"vision"``.
        layer: zero-based layer inside its stack.
        n_heads, n_kv_heads: query heads and key-value heads.
        d_head: width of one head's output z.
        output_name: path of the linear module that takes the outputs of all heads, and whose weight is W_O; None where
            something else comes first (a norm, a gate, windows put together again).
    """

    module_name: str
    kind: str
    layer: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    output_name: str | None


class SiteMap:
    """All sites of one model: for every attention module its sites in the order of its runs within a forward pass.

    A module that shares its weights between layers (ALBERT) has several sites; every other module has one.
    """

    def __init__(self, hf: nn.Module, runs: Sequence[tuple[nn.Module, AttentionSite]]) -> None:
        self.hf = hf
        self.sites: dict[nn.Module, tuple[AttentionSite, ...]] = {}
        for module, site in runs:
            self.sites[module] = (*self.sites.get(module, ()), site)
        kinds = {site.kind for _, site in runs}
        self.main_kind = "self" if "self" in kinds else "vision"

    @cached_property
    def parts(self) -> dict[str, nn.Module]:
        """The vision tower and the encoder, where there are any: `generate` runs them alone, ahead of the model."""
        paths = {site.kind: block_path(site.module_name) for sites in self.sites.values() for site in sites}
        # Above a block stands the list of blocks, and above that the module that runs them.
        return {
            kind: self.hf.get_submodule(path.rpartition(".")[0].rpartition(".")[0])
            for kind, path in paths.items()
            if kind in ("vision", "encoder")
        }

    @cached_property
    def image_tokens(self) -> frozenset[int]:
        """Ids of the tokens that stand for image (or video) patches; none in a model that reads text alone."""
        names = ("image_token_id", "image_token_index", "video_token_id")
        config = getattr(self.hf, "config", None)
        return frozenset(int(i) for name in names if (i := getattr(config, name, None)) is not None)

    def of_kind(self, kind: str) -> list[AttentionSite]:
        """The sites of one kind, by layer."""
        found = [site for sites in self.sites.values() for site in sites if site.kind == kind]
        return sorted(found, key=lambda site: site.layer)

    def module(self, site: AttentionSite) -> nn.Module:
        """The attention module of a site."""
        return self.hf.get_submodule(site.module_name)

    def output_weights(self, site: AttentionSite) -> Float[Tensor, "head d_value d_model"] | None:
        """W_O of every head of a site, a view of the model's own weight; its bias belongs to no head.

        None where no single matrix takes the heads' outputs, or its numbers are not at hand (quantised, offloaded).
        """
        if site.output_name is None:
            return None
        projection = self.hf.get_submodule(site.output_name)
        weight = projection.weight
        assert isinstance(weight, Tensor)
        if weight.is_meta or weight.dtype not in MATRIX_DTYPES:
            return None
        return (weight if isinstance(projection, Conv1D) else weight.T).unflatten(0, (site.n_heads, site.d_head))

    def block(self, site: AttentionSite) -> nn.Module:
        """The transformer block around a site: the module whose path ends at the layer number."""
        return self.hf.get_submodule(block_path(site.module_name))


def block_path(module_name: str) -> str:
    """Path up to the first number, such as ``model.layers.3`` for ``model.layers.3.self_attn``."""
    found = re.match(r"^(?:.*?\.)??\d+(?=\.|$)", module_name)
    return found.group(0) if found else module_name


def layer_number(module_name: str) -> int:
    """First number in a module's path; 0 for modules that carry none."""
    found = re.search(r"(?:^|\.)(\d+)(?=\.|$)", module_name)
    return int(found.group(1)) if found else 0
