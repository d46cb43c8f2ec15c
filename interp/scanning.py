"""`scan`: one forward pass per batch, every analyzer at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp.analyzers import known_names, resolve
from interp.analyzers.analyzer import Analyzer, Shape
from interp.analyzers.visual_sinks import VisualSinks
from interp.attention.session import DEFAULT_BLOCK_BYTES, watch
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from interp.model.load import load
from interp.model.model import Inputs, Model
from interp.model.tokens import TokenBatch
from interp.pictures import patch_grid
from interp.provenance import Provenance, hash_images
from interp.results import HeadScores, TokenMap


def scan(
    model: Model | str,
    data: Inputs | None,
    analyzers: Sequence[str | Analyzer],
    *,
    kind: str | None = None,
    batch_size: int = 8,
    prepend_bos: bool | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    images: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> dict[str, HeadScores | TokenMap]:
    """Run a model once over data and give the result of every analyzer by its name.

    Arguments:
        model: a loaded model, or a name for `interp.load`.
        data: a text, several texts, a token tensor ``[batch, position]``, or a `TokenBatch`; `interp.data` reads
            files and datasets. None for a model that reads images alone.
        analyzers: names (``interp.analyzers.known_names()``) or analyzers with their own parameters.
        kind: kind of attention to read: ``self``, ``encoder``, ``cross`` or ``vision``; None for the model's main one.
            In a model that reads text and images, ``vision`` is the attention of the vision tower over patches, and
            ``self`` that of the language model over text and image tokens.
        batch_size: examples per forward pass; changes speed and memory, never a score.
        prepend_bos: for texts; None for the tokenizer's own habit.
        seed: the seed the data was made with, for the record.
        progress: a bar on stderr; None shows it on a terminal only.
        checkpoint: directory that keeps what was read, so often that it takes a twentieth of the time; the same scan
            with the same directory goes on from there, and another scan is refused.
        images: what the model's processor makes of the images in the data, such as ``pixel_values``, for data given as
            token ids with the image tokens in them: one mapping per batch, or a single one for data of one batch.
            `interp.pictures.picture_prompts` gives both for pictures in files, with ``batch_size=1``.
        block_bytes: memory of one block of attention rows.

    Raises:
        InputError: the data, an analyzer's name, or the directory cannot be used; or an analyzer cannot read this kind
            of attention.

    Example:
        >>> import interp
        >>> result = interp.scan("mini", "Then Mary gave a ring to John", ["previous-token"])
        >>> result["previous-token"].scores.shape[1]
        8
    """
    if isinstance(model, str):
        model = load(model)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; expected at least 1.")
    chosen = resolve(analyzers, model)
    kind = kind or model.sites.main_kind
    sites = model.sites.of_kind(kind)
    if not sites:
        raise InputError(f"{model.name} has no {kind} attention; it has {', '.join(model.capabilities.kinds)}.")
    n_layers = model.n_layers if kind == model.sites.main_kind else max(site.layer for site in sites) + 1
    passes = _passes(model, data, images, batch_size, prepend_bos)
    patches = patch_grid(model, passes[0].images) if kind == "vision" else None
    shape = Shape(n_layers=n_layers, n_heads=max(site.n_heads for site in sites), kind=kind, patches=patches)
    n_examples = sum(one.n_examples for one in passes)
    _check_kinds(chosen, kind, has_images=bool(passes[0].images))
    readers = {analyzer.name: analyzer.reader(shape) for analyzer in chosen}
    parameters: dict[str, Any] = {"kind": kind, "analyzers": {analyzer.name: repr(analyzer) for analyzer in chosen}}
    if passes[0].images:
        parameters["images"] = hash_images(one.images for one in passes)
    batches = [one.batch for one in passes if one.batch is not None]
    provenance = model.provenance(batches, seed=seed, parameters=parameters)
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), _identity(provenance), readers)
    done = 0 if saved is None else saved.resume()
    hidden = None if progress is None else not progress
    bar = tqdm(desc="scan", unit="example", total=n_examples, initial=done, disable=hidden)
    with bar, torch.inference_mode(), watch(model, *readers.values(), block_bytes=block_bytes):
        for one in _after(passes, done):
            words = {} if one.batch is None else model.forward_inputs(one.batch)
            model.hf(**words, **one.images, **_without_logits(model))
            done += one.n_examples
            bar.update(one.n_examples)
            if saved is not None:
                saved.keep(done, last=done == n_examples)
    tokens = _tokens(model, passes[0].batch)
    return {name: reader.result(provenance, tokens) for name, reader in readers.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pass:
    """What one forward pass takes.

    Attributes:
        batch: token ids; None for a model that reads images alone.
        images: the model's further inputs.
        n_examples: texts, or images where there is no text.
    """

    batch: TokenBatch | None
    images: Mapping[str, Any]
    n_examples: int


def _passes(
    model: Model,
    data: Inputs | None,
    images: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    batch_size: int,
    prepend_bos: bool | None,
) -> list[_Pass]:
    """Batches with their images."""
    given = [images] if isinstance(images, Mapping) else list(images or ())
    if data is None:
        if model.sites.main_kind != "vision" or not given:
            raise InputError(f"There is nothing for {model.name} to read. Pass data, or images= to a vision model.")
        return [_Pass(batch=None, images=one, n_examples=len(next(iter(one.values())))) for one in given]
    if model.sites.main_kind == "vision":
        raise InputError(f"{model.name} reads images alone. Pass None as data, and images=.")
    batches = list(batched(model, data, batch_size, prepend_bos))
    if given and len(given) != len(batches):
        raise InputError(
            f"Images were given for {len(given)} batches, but there are {len(batches)} of up to {batch_size} examples. "
            "Pass one mapping for each, or another batch_size."
        )
    pairs = zip(batches, given or repeat({}), strict=bool(given))
    return [_Pass(batch=batch, images=extra, n_examples=len(batch)) for batch, extra in pairs]


def _check_kinds(analyzers: Sequence[Analyzer], kind: str, *, has_images: bool) -> None:
    """Refuse analyzers that make nothing of this attention, and attention to images where there are none."""
    for analyzer in analyzers:
        if kind not in analyzer.reads:
            raise InputError(
                f"{analyzer.name} reads {', '.join(sorted(analyzer.reads))} attention, not {kind} attention. "
                f"Choose another kind, or from {', '.join(known_names(kind))}."
            )
        if not has_images and isinstance(analyzer, VisualSinks):
            raise InputError(f"{analyzer.name} reads a prompt with a picture. Give one (--image, or images=).")
    if kind == "vision" and not has_images:
        raise InputError("Vision attention is attention to pictures, and there is none. Give some (--image, images=).")


def _identity(provenance: Provenance) -> dict[str, Any]:
    """What two scans share when one can go on where the other stopped; batch size is not part of it."""
    images = provenance.parameters.get("images")
    return ({} if images is None else {"images": images}) | {
        "model": [provenance.model, provenance.revision, provenance.dtype],
        "device": provenance.device,
        "prompts": provenance.prompt_hash,
        "kind": provenance.parameters["kind"],
        "analyzers": list(provenance.parameters["analyzers"].values()),
        "package versions": dict(provenance.packages),
    }


def _after(passes: Sequence[_Pass], n_examples: int) -> Iterator[_Pass]:
    """The passes without the first so many examples."""
    for one in passes:
        skipped = min(n_examples, one.n_examples)
        n_examples -= skipped
        if not skipped:
            yield one
        elif skipped < one.n_examples:
            assert one.batch is not None  # another batch size; images fix the passes, which then end where they ended
            rest = one.batch.select(slice(skipped, None))
            yield replace(one, batch=rest, n_examples=len(rest))


def _tokens(model: Model, batch: TokenBatch | None) -> list[str]:
    """Texts of the tokens of the first sequence."""
    if batch is None:
        return []
    ids = batch.tokens[0][batch.mask[0].bool()].tolist()
    return model.to_str_tokens(ids) if model.tokenizer is not None else [str(i) for i in ids]


def batched(model: Model, data: Inputs, batch_size: int, prepend_bos: bool | None = None) -> Iterator[TokenBatch]:
    """Cut data into batches on the model's device, each padded for itself."""
    if isinstance(data, str):
        data = [data]
    if isinstance(data, Tensor):
        data = model.batch(data)
    for start in range(0, max(1, len(data)), batch_size):
        rows = slice(start, start + batch_size)
        part = data.select(rows) if isinstance(data, TokenBatch) else data[rows]
        yield model.batch(part, prepend_bos=prepend_bos)


def _without_logits(model: Model) -> dict[str, Any]:
    """Readers need no logits; where the model can leave most of them out, it should."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.hf.forward).parameters else {}
