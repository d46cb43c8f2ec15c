"""Where a result came from: model, precision, device, seed, versions, prompts, parameters, fallbacks taken."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from interp import __version__
from interp.frozen import freeze_json

RECORDED_PACKAGES = ("torch", "transformers", "transformer_lens")
SCHEMA_VERSION = 1


def package_versions() -> dict[str, str]:
    """Versions of the packages on which the numbers depend."""
    return {"interp": __version__} | {name: _version(name) for name in RECORDED_PACKAGES}


def hash_prompts(prompts: Iterable[Tensor | Sequence[int]]) -> str:
    """SHA-256 of token ids, prompt by prompt, so that one can tell whether two results saw the same text.

    Arguments:
        prompts: one row of token ids per prompt, as a `[batch, position]` tensor or as rows of any length.

    Returns:
        64 hexadecimal digits; they depend on the order of the prompts and on where one ends and the next begins.
    """
    digest = hashlib.sha256()
    for prompt in prompts:
        ids = prompt.tolist() if isinstance(prompt, Tensor) else prompt
        digest.update(",".join(str(int(token)) for token in ids).encode() + b";")
    return digest.hexdigest()


def hash_images(images: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of what a model's processor made of images, so that one can tell whether two results saw the same ones.

    Arguments:
        images: one mapping per forward pass, such as ``{"pixel_values": ...}``.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for inputs in images:
        for name, value in sorted(inputs.items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(str(tuple(value.shape)).encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:
                digest.update(repr(value).encode())
        digest.update(b";")
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything needed to say how a number arose and to compute it again.

    Arguments:
        model: embedded name, hub id, directory, or class name of an in-memory model.
        revision: hub revision, where one was asked for.
        dtype, device: as torch prints them without prefix, such as "bfloat16" and "cuda:0".
        seed: seed of every random choice, where there was one.
        prompt_hash: from `hash_prompts`.
        prepend_bos: whether a beginning-of-sequence token stands before each prompt; None if unknown.
        padding_side: "left" or "right"; None if nothing was padded.
        special_tokens: role to text, such as {"bos": "<s>"}.
        parameters: the method's parameters, JSON-like.
        warnings: one sentence per fallback taken.
        packages: package name to version.
        created: time in UTC, ISO 8601.
        schema_version: version of this list of fields.
    """

    model: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int | None = None
    prompt_hash: str | None = None
    prepend_bos: bool | None = None
    padding_side: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict[str, str])
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    warnings: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=package_versions)
    created: str = field(default_factory=_now)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in ("special_tokens", "parameters", "packages", "warnings"):
            object.__setattr__(self, name, freeze_json(getattr(self, name), where=f"Provenance.{name}"))

    def with_warnings(self, *sentences: str) -> "Provenance":
        """A copy that records further fallbacks, each once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *sentences))))

    def to_dict(self) -> dict[str, Any]:
        """Field name to value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def summary(self) -> str:
        """One line for the foot of a table or figure."""
        bos = {True: "with BOS", False: "without BOS", None: None}[self.prepend_bos]
        padding = self.padding_side and f"{self.padding_side} padding"
        seed = None if self.seed is None else f"seed {self.seed}"
        revision = self.revision and f"revision {self.revision}"
        package = f"interp {self.packages.get('interp', 'unknown')}"
        parts = [self.model, revision, self.dtype, self.device, bos, padding, seed, package, *self.warnings]
        return ", ".join(part for part in parts if part)
