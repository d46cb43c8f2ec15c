"""The same scan on two models of one shape: which heads emerged, strengthened, weakened or vanished."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers import Analyzer
from interp.errors import AnalysisWarning, InputError
from interp.model.load import load
from interp.model.model import Inputs, Model
from interp.model.tokens import TokenBatch
from interp.results import HeadScores, Provenance
from interp.scanning import scan
from interp.statistics import rank_correlation
from interp.stimuli import repeated_tokens

HAS_IT = 0.25
"""Least selectivity ``(score - chance) / (highest - chance)`` of a head that has a property at all."""
LEVEL = 0.05
N_PARTS, LEAST_PARTS, N_SPLITS = 20, 8, 1000
DEFAULT_ANALYZERS = ("first-token", "previous-token", "duplicate-token", "induction", "entropy")
DEFAULT_EXAMPLES = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Differences:
    """What separates two models, against splits of the data.

    Attributes:
        difference: second minus first, mean over all parts of the data.
        null_sd: standard deviation of differences between halves of the data within one model, brought to the size of
            the whole data.
        p: familywise p-value: chance that any head of the table shows a difference as large beside its null.
    """

    difference: Float[Tensor, "layer head"]
    null_sd: Float[Tensor, "layer head"]
    p: Float[Tensor, "layer head"]


def split_differences(
    first: Float[Tensor, "part layer head"],
    second: Float[Tensor, "part layer head"],
    *,
    n_splits: int = N_SPLITS,
    seed: int = 0,
) -> Differences:
    """Compare two models on the same parts of the data with a null from halves of it.

    *Formula*: for random halves of the parts, ``(mean over one half - mean over the other) / sqrt(2)`` within each
    model is what other data alone do to a difference of means over all parts (a half has half as many). With s its
    root mean square over both models and all splits, ``T = difference / s``; the p-value of a head is the share of
    splits, of either model, whose largest ``|T|`` of *all* heads reaches its own (maximum statistic of Westfall and
    Young 1993, one added to both counts). So 5 % is the probability of any false alarm in the whole table, however many
    heads there are. Both models read the same data, so the test is on the careful side.

    Heads that were measured in fewer than all parts are NaN. A model against itself gives p = 1 everywhere.
    """
    models = torch.stack([first, second]).double()
    n_parts = models.shape[1]
    signs = _halves(n_parts, n_splits, seed)
    centred = models - models.mean(1, keepdim=True)
    null = torch.einsum("sp,mplh->mslh", signs, centred).flatten(0, 1) / 2**0.5
    sd = null.square().mean(0).sqrt()
    difference = models[1].mean(0) - models[0].mean(0)
    exact = sd <= 1e-12  # every part gives the same number: a difference is then certain, and no difference is none
    scale = sd.masked_fill(exact, 1e-12)
    largest = (null / scale).abs().nan_to_num(0).flatten(1).amax(1)
    reached = (largest[:, None, None] >= (difference / scale).abs()).sum(0)
    p = ((1 + reached) / (1 + len(largest))).masked_fill(difference == 0, 1.0)
    return Differences(difference=difference, null_sd=sd, p=p.masked_fill(difference.isnan(), torch.nan))


def _halves(n_parts: int, n_splits: int, seed: int) -> Float[Tensor, "split part"]:
    """Weights whose sum with the parts is the mean of one random half minus that of the other."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n_splits, n_parts, generator=generator).argsort(-1)
    half = n_parts // 2
    return torch.where(order < half, 1 / half, -1 / (n_parts - half)).double()


def change_of(first: float, second: float, p: float, chance: float, highest: float | None) -> str:
    """What became of a head, in one word.

    A change counts below a familywise p of 0.05. With a known highest score a head *has* the property when its
    selectivity ``(score - chance) / (highest - chance)`` is at least 0.25; without one, every head has it.

    Example:
        >>> change_of(0.02, 0.9, 0.001, 0.03, 1.0), change_of(0.9, 0.02, 0.001, 0.03, 1.0)
        ('emerged', 'vanished')
        >>> change_of(0.5, 0.9, 0.001, 0.03, 1.0), change_of(0.5, 0.9, 0.4, 0.03, 1.0)
        ('strengthened', 'unchanged')
    """
    if not p < LEVEL:
        return "unchanged" if p == p else "not measured"
    before, after = (highest is None or (score - chance) / (highest - chance) >= HAS_IT for score in (first, second))
    if not before and not after:
        return "unchanged"
    if before and after:
        return "strengthened" if second > first else "weakened"
    return "emerged" if after else "vanished"


def compare_models(
    first: Model | str,
    second: Model | str,
    data: Inputs | None = None,
    analyzers: Sequence[str | Analyzer] = DEFAULT_ANALYZERS,
    *,
    n_parts: int = N_PARTS,
    batch_size: int = 8,
    prepend_bos: bool | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, HeadScores]:
    """Scan two models of one shape with the same data and say which heads emerged, strengthened, weakened or vanished.

    For a base model and a post-trained one, two checkpoints, or two seeds. Positions of heads mean the same in both
    only if one was trained from the other; two seeds are compared head by head all the same.

    Arguments:
        first, second: loaded models, or names; models given by name are loaded one after the other.
        data: texts, tokens or a `TokenBatch`; None for random tokens, repeated. The first model's tokenizer cuts texts.
        analyzers: those that give one score per head.
        n_parts: parts of the data, drawn at random, whose halves make the null (`split_differences`).
        seed: of parts, splits and random tokens.

    Returns:
        By analyzer, highest difference first with ``.top(absolute=True)``: `scores` second minus first; columns
        ``first``, ``second``, ``p`` (familywise over the heads of the table), ``null sd``, ``score chance`` (chance of
        the scores; that of their difference is 0); label ``change`` (`change_of`). `notes` hold the number of heads per
        change and Spearman's rank correlation of the two models.

    Raises:
        InputError: another number of layers or heads, tokenizers that cut the data differently, fewer than eight
            examples, or an analyzer without a score per head.

    *Source*: the question is that of Park et al. 2025, arXiv 2509.25758 (Thinking Sparks), who subtract circuits found
    by EAP-IG without a null; any score per head and part can be compared by `split_differences`.
    """
    loaded = load(first) if isinstance(first, str) else first
    shape, name = (loaded.n_layers, loaded.n_heads), loaded.name
    if not isinstance(second, str):
        _check_shape(second, name, shape)
    batch = _data(loaded, data, prepend_bos, seed)
    parts = _parts(batch, n_parts, seed)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": progress}
    measured = _measure(loaded, parts, analyzers, **options)
    text = _text_of(loaded, batch)
    del loaded
    other = load(second) if isinstance(second, str) else second
    _check_shape(other, name, shape)
    if text is not None and other.tokenizer is not None and text != _text_of(other, batch):
        raise InputError(f"{name} and {other.name} do not share a vocabulary. Compare models with one tokenizer.")
    again = _measure(other, parts, analyzers, **options)
    scanned = next(iter(again.values()))[0].provenance.parameters
    parameters = {"first": name, "second": other.name, "n_parts": len(parts), "n_splits": N_SPLITS, **scanned}
    problems = list(_other_keys(measured, again, name, other.name))
    for sentence in problems:
        warnings.warn(sentence, AnalysisWarning, stacklevel=2)
    provenance = other.provenance([batch], seed=seed, parameters=parameters, warnings=problems)
    return {key: _compared(measured[key], again[key], provenance, seed) for key in measured}


def _check_shape(other: Model, name: str, shape: tuple[int, int]) -> None:
    if (other.n_layers, other.n_heads) != shape:
        raise InputError(
            f"{name} has {shape[0]} layers x {shape[1]} heads, {other.name} {other.n_layers} x {other.n_heads}. "
            "Compare models of one shape."
        )


def _other_keys(
    first: Mapping[str, Sequence[HeadScores]], second: Mapping[str, Sequence[HeadScores]], *names: str
) -> Iterator[str]:
    """A sentence where the models see different keys, as one with a sliding window and one without do."""
    for analyzer, parts in first.items():
        chances = [found[0].chances for found in (parts, second[analyzer])]
        if not torch.allclose(*chances, rtol=1e-6, atol=0, equal_nan=True):
            means = [float(chance.nanmean()) for chance in chances]
            yield (
                f"{names[0]} and {names[1]} see different keys: chance of {analyzer} is {means[0]:.3g} in the one and "
                f"{means[1]:.3g} in the other, and heads differ by that alone"
            )
            return


def _data(model: Model, data: Inputs | None, prepend_bos: bool | None, seed: int) -> TokenBatch:
    if data is None:
        return model.batch(repeated_tokens(model, seed=seed, n_examples=DEFAULT_EXAMPLES))
    return model.batch(data, prepend_bos=prepend_bos)


def _text_of(model: Model, batch: TokenBatch) -> list[str] | None:
    """The batch's tokens as the tokenizer reads them, each once."""
    if model.tokenizer is None:
        return None
    ids = batch.tokens[batch.mask.bool()].unique().tolist()
    known = [token for token in ids if token < len(model.tokenizer)]
    return [*model.to_str_tokens(known), str(len(known))]


def _parts(batch: TokenBatch, n_parts: int, seed: int) -> list[TokenBatch]:
    """The examples dealt to parts at random, as evenly as possible."""
    n_parts = min(n_parts, len(batch))
    if n_parts < LEAST_PARTS:
        raise InputError(
            f"{n_parts} parts of the data make no null distribution; expected at least {LEAST_PARTS} examples and "
            "parts. Give more texts, or cut long ones into several."
        )
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))
    return [batch.select(rows) for rows in order.tensor_split(n_parts)]


def _measure(
    model: Model, parts: Sequence[TokenBatch], analyzers: Sequence[str | Analyzer], **options: Any
) -> dict[str, list[HeadScores]]:
    """The result of every analyzer on every part."""
    found: dict[str, list[HeadScores]] = {}
    for part in parts:
        for name, result in scan(model, part, analyzers, **options).items():
            if not isinstance(result, HeadScores):
                raise InputError(f"{name} gives no score per head. Compare other analyzers.")
            found.setdefault(name, []).append(result)
    return found


def _compared(
    first: Sequence[HeadScores], second: Sequence[HeadScores], provenance: Provenance, seed: int
) -> HeadScores:
    values = [torch.stack([part.scores for part in parts]) for parts in (first, second)]
    found = split_differences(*values, seed=seed)
    means = [value.double().mean(0) for value in values]
    chance = torch.stack([part.chances for part in first]).mean(0)
    highest = first[0].value_range[1] if first[0].value_range is not None else None
    numbers = torch.stack([*means, found.p, chance.nan_to_num(0)], -1).tolist()
    changes = tuple(tuple(change_of(a, b, p, level, highest) for a, b, p, level in layer) for layer in numbers)
    every = [word for row in changes for word in row]
    notes: Mapping[str, Any] = {
        "changes": {word: every.count(word) for word in dict.fromkeys(every)},
        "rank correlation": rank_correlation(*means),
        "level": f"{LEVEL:.0%} familywise over the {len(every)} heads of this score",
        "parts": len(first),
    }
    return HeadScores(
        name=f"{first[0].name}: difference",
        scores=found.difference,
        unit=first[0].unit,
        signed=True,
        chance=0.0,
        columns={"first": means[0], "second": means[1], "p": found.p, "null sd": found.null_sd, "score chance": chance},
        labels={"change": changes},
        higher_is="more in the second model",
        provenance=provenance,
        notes=notes,
    )
