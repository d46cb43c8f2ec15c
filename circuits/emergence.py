"""Emergence: what every head does at checkpoint after checkpoint of a training run.

    measure_emergence(checkpoints, metrics)    by metric, one score per head and checkpoint
    shipped_emergence("mini")                  the same, as it was measured when an embedded model was trained
    write_emergence(folder, curves)            what writes them there, at the end of a training

The metrics, each an analyzer of `interp.scan` on one set of texts for all checkpoints:
    induction         prefix matching on random tokens, repeated; with the accuracy of the whole model on the
                      repetition, and its in-context-learning score there
    sinks             attention to the first token of ordinary text; with the model's sink rate, Sink_1 at 0.3
    previous-token    attention to the previous token of ordinary text
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from circuits.own_text import own_text
from interp.analyzers import Analyzer
from interp.analyzers.in_context import in_context_score
from interp.analyzers.matching import Induction
from interp.analyzers.positional import FirstTokenMass, PreviousToken
from interp.analyzers.sinks import Sinks
from interp.emergence import Emergence
from interp.errors import InputError, ResultFormatError
from interp.model.embedded import embedded_path
from interp.model.load import load
from interp.model.model import Inputs, Model
from interp.results import HeadScores
from interp.scanning import batched, scan
from interp.stimuli import first_tokens, repeated_tokens

Source = str | Path | PreTrainedModel
CHECKPOINT_NAME = re.compile(r"(?:step|checkpoint)[-_]?(\d+)")
EXAMPLES, BATCH = 40, 8
FILE = "emergence.json"
TEXTS, TEXT_TOKENS = 100, 64
"""Size of the ordinary text, as in the study of sinks by Gu et al."""
OWN_TEXT = "text that the last checkpoint wrote itself"


class Measured(NamedTuple):
    """One metric at one checkpoint: a score per head, and the whole model's value and chance by name."""

    heads: HeadScores
    model: Mapping[str, tuple[float, float]]


def measure_emergence(
    checkpoints: str | Path | Mapping[int, Source],
    metrics: Sequence[str] = ("induction", "sinks", "previous-token"),
    *,
    text: Inputs | None = None,
    text_name: str = "the given text",
    name: str | None = None,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> dict[str, Emergence]:
    """Measure the heads of every checkpoint, one checkpoint in memory at a time.

    *Metrics*: ``induction`` is `interp.analyzers.matching.Induction` on 40 rows of `repeated_tokens` (25 random tokens,
    four times); the whole model's ``copying accuracy`` is that of `copying_accuracy` (chance: one of the block's
    tokens), its ``in-context score (nats)`` that of `in_context_score` on the same rows, the last token against the
    middle of the first copy, with its control as chance. ``sinks`` is `FirstTokenMass`; the model's ``sink rate`` is
    that of `Sinks` at epsilon 0.3, with that of uniform attention as chance. ``previous-token`` is `PreviousToken`.

    *Source*: Olsson et al. 2022, arXiv 2209.11895, who follow prefix matching and in-context learning through training;
    Gu et al. 2024, arXiv 2410.10781, who follow Sink_1. Difference: Olsson et al. take the in-context-learning score on
    natural text, 500th against 50th token.

    Arguments:
        checkpoints: a directory as `checkpoint_series` reads it, or models by training step: whatever `interp.load`
            takes.
        metrics: keys of `METRICS`.
        text: ordinary text for sinks and previous tokens; None for 100 rows of 64 tokens that the last checkpoint
            writes (`own_text`).
        text_name: what the text is, for the record.
        name: the training run's name in results; None for the directory, or the last checkpoint's name.
        tokenizer: for all checkpoints; None for each one's own.
        seed: of random tokens and of the checkpoint's own text.
        notes: further facts for the results' notes, such as the recipe.

    Raises:
        InputError: fewer than two checkpoints, checkpoints of different shapes or vocabularies, an unknown metric, or
            models that predict no next token where that is needed (induction, and text of their own).

    Example:
        >>> found = measure_emergence({0: "mini", 100: "mini"}, ["induction"])
        >>> found["induction"].scores.shape
        torch.Size([2, 4, 8])
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise InputError(f"There is no metric {', '.join(unknown)!r}. Choose from {', '.join(METRICS)}.")
    series = checkpoint_series(checkpoints)
    if text is None and set(metrics) & set(TEXT_METRICS):
        last = load(series[max(series)], tokenizer, device=device, dtype=dtype)
        length = min(TEXT_TOKENS, last.n_ctx or TEXT_TOKENS)
        text, text_name = own_text(last, n=TEXTS, length=length, seed=seed, progress=progress), OWN_TEXT
        del last
    measured: dict[str, list[Measured]] = {metric: [] for metric in metrics}
    identity: _Identity | None = None
    bar = tqdm(series.items(), desc="measure", unit="checkpoint", disable=None if progress is None else not progress)
    for step, source in bar:
        model = load(source, tokenizer, device=device, dtype=dtype)
        found = _Identity(step, model.n_layers, model.n_heads, _vocabulary(model))
        identity = identity or found
        identity.check(found)
        for metric in metrics:
            measured[metric].append(METRICS[metric](model, text, seed))
        del model  # makes room for the next one
    run = name or (str(checkpoints) if isinstance(checkpoints, str | Path) else None)
    curves = {metric: _joined(metric, list(series), found, run, text_name) for metric, found in measured.items()}
    return {metric: replace(found, notes={**found.notes, **(notes or {})}) for metric, found in curves.items()}


def checkpoint_series(checkpoints: str | Path | Mapping[int, Source]) -> dict[int, Source]:
    """The checkpoints by training step, in order.

    Arguments:
        checkpoints: models by step, or a directory whose subdirectories are models named ``step-00100``, ``step1000``
            (Pythia's revisions) or ``checkpoint-500`` (the Trainer of transformers); others are left out.

    Raises:
        InputError: fewer than two checkpoints, or two of the same step.
    """
    if isinstance(checkpoints, Mapping):
        found, where = list(checkpoints.items()), "The mapping"
    else:
        folder = Path(checkpoints)
        if not folder.is_dir():
            raise InputError(f"There is no directory {folder}. Check the path.")
        named = [(CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
        found, where = [(int(match[1]), path) for match, path in named if match], str(folder)
    steps = sorted(step for step, _ in found)
    if len(steps) < 2:
        raise InputError(
            f"{where} holds {len(steps)} checkpoints; expected at least two, in directories named by their training "
            "step, such as step-00100, step1000 or checkpoint-500."
        )
    if twice := sorted({step for step in steps if steps.count(step) > 1}):
        raise InputError(f"{where} holds several checkpoints of step {twice[0]}. Leave one of them.")
    return dict(sorted(found, key=lambda pair: pair[0]))


def copying_accuracy(
    logits: Float[Tensor, "example position vocab"], tokens: Int[Tensor, "example position"], first: int
) -> Float[Tensor, " example"]:
    """Share of the tokens behind the first copy that get the highest logit, by example; in [0, 1].

    Arguments:
        tokens: a block of different tokens over and over, as `repeated_tokens` gives.
        first: position of the first token that has an earlier copy. It cannot be foreseen; all behind it can.
    """
    return (logits[:, first:-1].argmax(-1) == tokens[:, first + 1 :]).double().mean(-1)


def shipped_emergence(name: str) -> dict[str, Emergence]:
    """The curves of an embedded model, by metric, measured on its checkpoints when it was trained.

    Raises:
        InputError: no such model is embedded, or none were measured.
        ResultFormatError: the file is damaged.
    """
    folder = embedded_path(name)
    if folder is None or not (folder / FILE).is_file():
        raise InputError(
            f"{name} comes without curves of its training. Give its checkpoints (--checkpoints DIR), directories "
            "named step-00100 and so on."
        )
    try:
        documents = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultFormatError(f"{folder / FILE} is no JSON ({error}). Restore it from a copy.") from error
    return {key: Emergence.from_document(found, where=str(folder / FILE)) for key, found in documents.items()}


def write_emergence(folder: Path, curves: Mapping[str, Emergence]) -> None:
    """Put what `measure_emergence` found into the folder of an embedded model, where `shipped_emergence` reads it."""
    document = {metric: found.to_document() for metric, found in curves.items()}
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _induction(model: Model, _: Inputs | None, seed: int) -> Measured:
    if not model.capabilities.generates:
        raise InputError(
            f"{model.name} predicts no next token, so nothing can be said of its copying. Choose another metric."
        )
    tokens = repeated_tokens(model, seed=seed, n_examples=EXAMPLES)
    first = len(tokens[0].unique())  # all tokens differ until the block begins again
    with torch.inference_mode():
        parts = [copying_accuracy(model(part), part.tokens, first) for part in batched(model, tokens, BATCH)]
    curve = in_context_score(model, tokens, early=first // 2, late=tokens.shape[1] - 2, batch_size=BATCH)
    (heads,) = _scores(model, tokens, seed, Induction())
    return Measured(
        heads,
        {
            "copying accuracy": (float(torch.cat(parts).mean()), 1 / (first - len(first_tokens(model)))),
            "in-context score (nats)": (curve.score, curve.control),
        },
    )


def _sinks(model: Model, text: Inputs | None, seed: int) -> Measured:
    heads, rates = _scores(model, text, seed, FirstTokenMass(), Sinks())
    heads = replace(heads, provenance=heads.provenance.with_warnings(*rates.provenance.warnings))
    return Measured(heads, {"sink rate": (rates.notes["sink rate"], rates.notes["uniform attention"]["sink rate"])})


def _previous_token(model: Model, text: Inputs | None, seed: int) -> Measured:
    (heads,) = _scores(model, text, seed, PreviousToken())
    return Measured(heads, {})


METRICS: Mapping[str, Callable[[Model, Any, int], Measured]] = {
    "induction": _induction,
    "sinks": _sinks,
    "previous-token": _previous_token,
}
"""What can be measured; those of `TEXT_METRICS` on ordinary text."""
TEXT_METRICS = ("sinks", "previous-token")


def _scores(model: Model, data: Any, seed: int, *analyzers: Analyzer) -> list[HeadScores]:
    found = scan(model, data, analyzers, batch_size=BATCH, seed=seed, progress=False)
    return [scores for scores in found.values() if isinstance(scores, HeadScores)]


class _Identity(NamedTuple):
    """What all checkpoints of a training run share."""

    step: int
    n_layers: int
    n_heads: int
    vocabulary: dict[str, int]

    def check(self, other: _Identity) -> None:
        if self[1:3] != other[1:3]:
            raise InputError(
                f"Step {self.step} has {self.n_layers} layers x {self.n_heads} heads, step {other.step} "
                f"{other.n_layers} x {other.n_heads}. Give the checkpoints of one training run."
            )
        if self.vocabulary != other.vocabulary:
            raise InputError(
                f"Steps {self.step} and {other.step} have different vocabularies. Give the checkpoints of one "
                "training run, or the tokenizer of all."
            )


def _vocabulary(model: Model) -> dict[str, int]:
    return {} if model.tokenizer is None else model.tokenizer.get_vocab()


def _joined(metric: str, steps: list[int], measured: Sequence[Measured], run: str | None, text_name: str) -> Emergence:
    last = measured[-1].heads
    curves = {
        name: torch.tensor([part.model[name] for part in measured], dtype=torch.float64).unbind(1)
        for name in measured[0].model
    }
    texts = text_name if metric in TEXT_METRICS else "random tokens, repeated"
    return Emergence(
        name=metric,
        unit=last.unit,
        value_range=last.value_range,
        provenance=replace(last.provenance, model=run or last.provenance.model),
        steps=torch.tensor(steps),
        scores=torch.stack([part.heads.scores for part in measured]),
        chance=float(last.chances.nanmean()),
        model={name: values for name, (values, _) in curves.items()},
        model_chance={name: chance for name, (_, chance) in curves.items()},
        notes={"measured on": f"{last.notes['examples']} sequences: {texts}"},
    )
