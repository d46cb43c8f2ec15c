"""When a head is of a type: a literal table of rules, and the judgement as pure functions on tensors.

A head is of a type when the whole 95 % interval of its score reaches the threshold *and* lies beyond chance. Where the
interval straddles the threshold the type is uncertain. What does not clearly beat chance is never a type, however low
the threshold. A rule can have several conditions, which all must hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from interp.analyzers.shape import BROAD
from interp.errors import InputError
from interp.head_catalogue import VERDICTS
from interp.results import HeadScores

NOT_MEASURED, NO, UNCERTAIN, IMPLIED, YES = range(len(VERDICTS))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a measured number must be.

    Attributes:
        measure: name of a score, or ``score: column`` for one of its columns (which has no interval of its own).
        threshold: what it must reach.
        below: it must be as low as the threshold, not as high.
        relative: the threshold is a share of the way from chance to the end of the range.
        against_chance: it must also lie beyond chance; False only where another condition of the rule asks that.
    """

    measure: str
    threshold: float
    below: bool = False
    relative: bool = False
    against_chance: bool = True

    def __str__(self) -> str:
        if self.relative:
            end = "lowest" if self.below else "highest"
            return f"{self.measure} at least {self.threshold:.3g} of the way from chance to its {end} value"
        return f"{self.measure} {'<=' if self.below else '>='} {self.threshold:.3g}"


@dataclass(frozen=True, kw_only=True)
class HeadType:
    """A type of head.

    Attributes:
        name: in print.
        meaning: what such a head does, in a few words.
        conditions: the first one gives the score that is shown.
        source: where the thresholds come from.
        causal: only heads of causal models can be of this type.
        implied_by: types that say the same more precisely; a head that has one of them is not listed here as well.
    """

    name: str
    meaning: str
    conditions: tuple[Condition, ...]
    source: str
    causal: bool = False
    implied_by: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The conditions in words."""
        return " and ".join(map(str, self.conditions))


PREFIX_MATCHING = Condition(measure="induction", threshold=0.4)

HEAD_TYPES: tuple[HeadType, ...] = (
    HeadType(
        name="previous-token",
        meaning="looks at the token before",
        conditions=(Condition(measure="previous-token", threshold=0.5),),
        source="Clark et al. 2019, arXiv 1906.04341",
    ),
    HeadType(
        name="fixed-offset",
        meaning="looks at one fixed distance (measure `offset`; 0 is the token itself)",
        conditions=(Condition(measure="diagonal-offset", threshold=0.5),),
        source="Clark et al. 2019, arXiv 1906.04341, for the next token; here any offset",
        implied_by=("previous-token",),
    ),
    HeadType(
        name="duplicate-token",
        meaning="looks at earlier copies of the token",
        conditions=(Condition(measure="duplicate-token", threshold=0.4),),
        source="Wang et al. 2022, arXiv 2211.00593, have no number; that of induction",
        causal=True,
    ),
    HeadType(
        name="induction",
        meaning="looks at what followed earlier copies (prefix matching) and raises its logit (copying)",
        conditions=(PREFIX_MATCHING, Condition(measure="copying-logits", threshold=0.1, relative=True)),
        source="Olsson et al. 2022, arXiv 2209.11895, have no number; 0.4 is that of the ARENA course, 0.1 ours",
        causal=True,
    ),
    HeadType(
        name="copy-suppression",
        meaning="looks at what followed earlier copies and lowers its logit (anti-induction)",
        conditions=(
            PREFIX_MATCHING,
            Condition(measure="copying-logits", threshold=0.5, relative=True, below=True),
            Condition(measure="copying-weights", threshold=0.0, below=True),
        ),
        source="McDougall et al. 2023, arXiv 2310.04625, have no number; 0.5 is ours",
        causal=True,
    ),
    HeadType(
        name="prefix-matching",
        meaning="looks at what followed earlier copies; that it copies was not shown",
        conditions=(PREFIX_MATCHING,),
        source="Olsson et al. 2022, arXiv 2209.11895, have no number; 0.4 is that of the ARENA course",
        causal=True,
        implied_by=("induction", "copy-suppression"),
    ),
    HeadType(
        name="retrieval",
        meaning="copies a hidden sentence into the answer",
        conditions=(Condition(measure="needle", threshold=0.1),),
        source="Wu et al. 2024, arXiv 2404.15574",
        causal=True,
    ),
    HeadType(
        name="sink",
        meaning="rests on the first token",
        conditions=(Condition(measure="sinks", threshold=0.3),),
        source="Gu et al. 2024, arXiv 2410.10781",
    ),
    HeadType(
        name="no-op",
        meaning="rests on the first token and writes little",
        conditions=(
            Condition(measure="sinks: no-op", threshold=0.5),
            Condition(measure="sinks", threshold=0.3),
        ),
        source="Bondarenko et al. 2023, arXiv 2306.12929, have no number; 0.5 is ours",
    ),
    HeadType(
        name="delimiter",
        meaning="looks at full stops, commas and separators",
        conditions=(Condition(measure="delimiter-mass", threshold=0.6),),
        source="Clark et al. 2019, arXiv 1906.04341",
    ),
    HeadType(
        name="local",
        meaning="looks at the nearest ten tokens",
        conditions=(Condition(measure="local-mass", threshold=0.7, relative=True),),
        source="ours",
        implied_by=("previous-token", "fixed-offset"),
    ),
    HeadType(
        name="streaming",
        meaning="looks at nothing but the first 4 and the last 64 tokens",
        conditions=(Condition(measure="distant-mass", threshold=0.9, relative=True, below=True),),
        source="after Xiao et al. 2024, arXiv 2410.10819, and Donhauser et al. 2025, arXiv 2502.09647; 0.9 is ours",
        causal=True,
        implied_by=("previous-token", "fixed-offset", "sink", "local"),
    ),
    HeadType(
        name="broad",
        meaning="looks at many tokens, though not at all alike",
        conditions=(
            Condition(measure="normalised-entropy", threshold=BROAD, against_chance=False),
            Condition(measure="normalised-entropy", threshold=0.95, below=True),
        ),
        source="Clark et al. 2019, arXiv 1906.04341; that uniform attention is no type, and 0.95, are ours",
    ),
)


def chosen_types(names: Iterable[str] | None, thresholds: Mapping[str, float]) -> tuple[HeadType, ...]:
    """The types of these names in the order of the table, with other, absolute thresholds for their first conditions.

    Raises:
        InputError: a name is not in the table, no name is given, or a threshold is no number or of another type.
    """
    known = [kind.name for kind in HEAD_TYPES]
    wanted = known if names is None else list(names)
    unknown = [name for name in (*wanted, *thresholds) if name not in known]
    if unknown or not wanted:
        problem = f"no type {unknown[0]!r}" if unknown else "nothing to look for"
        raise InputError(f"There is {problem}. Choose from {', '.join(known)}.")
    for name, threshold in thresholds.items():
        if name not in wanted or not isfinite(threshold):
            raise InputError(
                f"The threshold {name}={threshold} cannot be used; expected a number for one of {', '.join(wanted)}."
            )
    return tuple(_with_threshold(kind, thresholds.get(kind.name)) for kind in HEAD_TYPES if kind.name in wanted)


def _with_threshold(kind: HeadType, threshold: float | None) -> HeadType:
    if threshold is None:
        return kind
    first, *others = kind.conditions
    return replace(kind, conditions=(replace(first, threshold=float(threshold), relative=False), *others))


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A measured number of every head, ``[layer, head]``; ends of the interval are NaN where there is none."""

    score: Float[Tensor, "layer head"]
    low: Float[Tensor, "layer head"]
    high: Float[Tensor, "layer head"]
    chance: Float[Tensor, "layer head"]
    lowest: float
    highest: float


def evidence(measure: str, found: Mapping[str, HeadScores]) -> Evidence:
    """A score, or a column of one, whose chance level is then 0."""
    name, _, column = measure.partition(": ")
    scores = found[name]
    lowest, highest = scores.value_range or (None, None)
    missing = torch.full_like(scores.scores, torch.nan, dtype=torch.float64)
    low, high = scores.ci_low, scores.ci_high
    return Evidence(
        score=(scores.columns[column] if column else scores.scores).double(),
        low=missing if column or low is None else low.double(),
        high=missing if column or high is None else high.double(),
        chance=torch.zeros_like(missing) if column or scores.chance is None else scores.chances,
        lowest=-torch.inf if lowest is None else lowest,
        highest=torch.inf if highest is None else highest,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What came of a condition, or of a rule with the threshold of its first one, ``[layer, head]``."""

    verdict: Int8[Tensor, "layer head"]
    threshold: Float[Tensor, "layer head"]
    confidence: Float[Tensor, "layer head"]
    progress: Float[Tensor, "layer head"]


def judge(condition: Condition, given: Evidence) -> Judgement:
    """One condition for every head.

    *Confidence*: ``Phi((score - threshold) / se)`` with the standard error ``max(high - score, score - low) / 1.96``:
    the longer side, as an interval can stop where the range does. NaN without an interval, when the score decides.

    Example:
        >>> one = lambda value: torch.tensor([[value]])
        >>> given = Evidence(score=one(0.5), low=one(0.3), high=one(0.7), chance=one(0.1), lowest=0.0, highest=1.0)
        >>> VERDICTS[judge(Condition(measure="", threshold=0.4), given).verdict]
        'uncertain'
        >>> VERDICTS[judge(Condition(measure="", threshold=0.2), given).verdict]
        'yes'
    """
    sign = -1 if condition.below else 1
    end = given.lowest if condition.below else given.highest
    score, chance = sign * given.score, sign * given.chance
    low, high = (-given.high, -given.low) if condition.below else (given.low, given.high)
    threshold = torch.full_like(score, sign * condition.threshold)
    if condition.relative:
        threshold = chance + condition.threshold * (sign * end - chance)
    error = torch.maximum(high - score, score - low) / 1.96
    exact = (score >= threshold).to(score.dtype)
    confidence = torch.where(error > 0, torch.special.ndtr((score - threshold) / error), exact)
    low, high = low.where(~low.isnan(), score), high.where(~high.isnan(), score)
    start = chance if condition.against_chance else torch.zeros_like(chance)
    beaten = low > chance if condition.against_chance else torch.ones_like(score, dtype=torch.bool)
    verdict = torch.full_like(score, UNCERTAIN, dtype=torch.int8)
    verdict[low >= threshold] = YES
    verdict[~beaten | (high < threshold)] = NO
    verdict[score.isnan()] = NOT_MEASURED
    return Judgement(
        verdict=verdict,
        threshold=sign * threshold,
        confidence=confidence.masked_fill(error.isnan(), torch.nan),
        progress=((score - start) / (threshold - start)).where(threshold > start, (score > start).to(score.dtype)),
    )


def judge_all(kind: HeadType, found: Mapping[str, HeadScores]) -> Judgement:
    """All conditions of a type: one that fails decides, then one that was not measured, then an uncertain one.

    The confidences p of k conditions with an interval give ``sum p - (k - 1)``, at least 0: so much at least is the
    probability of all. A rule none of whose scores has an interval (a single text) is uncertain at best.
    """
    judged = [judge(condition, evidence(condition.measure, found)) for condition in kind.conditions]
    verdicts = torch.stack([part.verdict for part in judged])
    verdict = verdicts.amin(0).masked_fill((verdicts == NO).any(0), NO)
    confidences = torch.stack([part.confidence for part in judged])
    known = (~confidences.isnan()).sum(0)
    confidence = (confidences.nan_to_num(0).sum(0) - (known - 1)).clamp_min(0)
    verdict[(verdict == YES) & (known == 0)] = UNCERTAIN
    return Judgement(
        verdict=verdict,
        threshold=judged[0].threshold,
        confidence=confidence.masked_fill(known == 0, torch.nan),
        progress=torch.stack([part.progress for part in judged]).amin(0),
    )


def implied(types: Iterable[HeadType], verdicts: Int8[Tensor, "type layer head"]) -> Int8[Tensor, "type layer head"]:
    """The verdicts, a yes turned into "implied" where a type that says more is a yes as well."""
    kinds = list(types)
    says: dict[str, Bool[Tensor, "layer head"]] = {
        kind.name: verdicts[index] == YES for index, kind in enumerate(kinds)
    }
    result = verdicts.clone()
    for index, kind in enumerate(kinds):
        for name in kind.implied_by:
            if name in says:
                result[index][says[kind.name] & says[name]] = IMPLIED
    return result
