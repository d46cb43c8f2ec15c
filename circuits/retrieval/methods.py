"""Every method on one model and one text, so that their rankings can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from circuits.forward import check_language_model
from circuits.retrieval.duo import LEARNING_RATE, PENALTY, PROBES, STEPS, duo_gates, duo_surrogate
from circuits.retrieval.haystack import needle_prompts
from circuits.retrieval.needle import Scoring, needle_heads
from circuits.retrieval.needles import NEEDLES, Needle, NeedlePrompt
from circuits.retrieval.qrhead import qr_examples, qr_heads
from circuits.retrieval.random_haystack import random_needle_prompts
from circuits.retrieval.razor import razor_heads
from interp.analyzers.distant_mass import DistantMass
from interp.analyzers.local_heads import LocalHeads
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.scanning import scan

LONGEST, ANSWER_ROOM = 2048, 64


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalData:
    """What the methods are run on.

    Attributes:
        haystack: a long text; None for random tokens.
        needles: hidden in a haystack of text; `n_needles` among random tokens.
        lengths, depths, shared: of the prompts.
        window: sinks and recent keys for the methods that have them; empty for each method's own.
        scoring: of the needle protocol.
        steps, learning_rate: of the optimised gates.
        penalty: of both kinds of gates.
        probes: of the expansion around gates of 1.
        seed, progress: for every method.
    """

    model: Model
    haystack: str | None
    needles: Sequence[Needle]
    n_needles: int
    lengths: Sequence[int]
    depths: Sequence[float]
    shared: bool
    window: Mapping[str, int]
    scoring: Scoring
    steps: int
    learning_rate: float
    penalty: float
    probes: int
    seed: int
    progress: bool | None

    @cached_property
    def prompts(self) -> list[NeedlePrompt]:
        """Needles in the haystack, built for the first method that reads them: some models have no room for any."""
        places: dict[str, Any] = {"lengths": self.lengths, "depths": self.depths, "shared": self.shared}
        if self.haystack is None:
            return random_needle_prompts(self.model, n_needles=self.n_needles, seed=self.seed, **places)
        return needle_prompts(self.model, self.haystack, self.needles, **places)

    @property
    def options(self) -> dict[str, Any]:
        return {"seed": self.seed, "progress": self.progress}


def retrieval_heads(
    model: Model,
    methods: Sequence[str] = ("needle", "razor", "distant-mass"),
    *,
    haystack: str | None = None,
    needles: Sequence[Needle] = NEEDLES,
    lengths: Sequence[int] | None = None,
    depths: int | Sequence[float] = 5,
    shared: bool = False,
    n_needles: int | None = None,
    sink: int | None = None,
    recent: int | None = None,
    scoring: Scoring = "teacher-forced",
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    penalty: float = PENALTY,
    probes: int = PROBES,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, HeadScores]:
    """Score the heads of a model by several methods, on the same needles where they read any.

    Arguments:
        methods: names out of `METHODS`.
        haystack: a long text; None for random tokens, in which needles are found by literal match only (and which
            "qrhead" cannot use).
        needles: for a haystack of text.
        lengths: tokens of the prompts; None for a quarter, half and the whole of the context, at most 2048 tokens.
        depths: so many places of each needle, evenly spaced from start to end, or the places themselves, in [0, 1].
        shared: hide all needles in one haystack, in as many haystacks as there are depths, instead of each alone.
        n_needles: random needles, without a haystack of text; None for as many as `needles`. DuoAttention hides ten.
        sink, recent: window of streaming heads; None for each method's own.
        scoring: of "needle".
        steps, learning_rate: of "duo-gates".
        penalty: of "duo-gates" and "duo-surrogate"; DuoAttention's lambda.
        probes: of "duo-surrogate".

    Returns:
        By method, in the order given. `agreement(rankings(...))` compares them.

    Raises:
        InputError: an unknown method, or what the methods themselves refuse, such as prompts with no room for needles
            ("razor" and "qrhead" read no such prompts).
    """
    check_language_model(model)
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods or len(set(methods)) < len(methods):
        raise InputError(f"Methods {list(methods)}: expected each method once out of {', '.join(METHODS)}.")
    if n_needles is not None and haystack is not None:
        raise InputError(
            f"{n_needles} random needles were asked for, but the haystack is a text. Leave out one of the two."
        )
    if lengths is None:
        longest = min(model.n_ctx or LONGEST, LONGEST) - ANSWER_ROOM
        lengths = [longest // 4, longest // 2, longest]
    window = {name: size for name, size in (("sink", sink), ("recent", recent)) if size is not None}
    data = RetrievalData(
        model=model, haystack=haystack, needles=needles, n_needles=len(needles) if n_needles is None else n_needles,
        lengths=lengths, depths=_places(depths), shared=shared, window=window, scoring=scoring, steps=steps,
        learning_rate=learning_rate, penalty=penalty, probes=probes, seed=seed, progress=progress,
    )  # fmt: skip
    return {name: METHODS[name](data) for name in methods}


def rankings(found: Mapping[str, HeadScores]) -> dict[str, Float[Tensor, "layer head"]]:
    """By method, numbers that are higher for heads in more need of the far context; the soft needle score comes too."""
    ranked: dict[str, Tensor] = {}
    for name, scores in found.items():
        ranked[name] = -scores.scores if name == "local-heads" else scores.scores
        if name == "needle":
            ranked["needle, soft"] = scores.columns["soft"]
    return ranked


def _places(depths: int | Sequence[float]) -> Sequence[float]:
    if not isinstance(depths, int):
        return depths
    if depths < 1:
        raise InputError(f"depths={depths}: expected at least one place for each needle.")
    return [index / (depths - 1) for index in range(depths)] if depths > 1 else [0.5]


def _needle(data: RetrievalData) -> HeadScores:
    return needle_heads(data.model, data.prompts, scoring=data.scoring, **data.options)


def _razor(data: RetrievalData) -> HeadScores:
    return razor_heads(data.model, **data.options)


def _qrhead(data: RetrievalData) -> HeadScores:
    if data.haystack is None:
        raise InputError("qrhead needs passages of text to tell apart. Give a haystack, or leave qrhead out.")
    return qr_heads(data.model, qr_examples(data.haystack, data.needles, seed=data.seed), **data.options)


def _distant_mass(data: RetrievalData) -> HeadScores:
    return _scanned(data, DistantMass(**data.window))


def _local_heads(data: RetrievalData) -> HeadScores:
    return _scanned(data, LocalHeads(**data.window))


def _scanned(data: RetrievalData, analyzer: DistantMass | LocalHeads) -> HeadScores:
    """An analyzer on the longest prompt of every needle; on one of those that differ in the question only."""
    longest: dict[str, NeedlePrompt] = {}
    for prompt in data.prompts:
        known = longest.get(prompt.name)
        if known is None or prompt.answer_start > known.answer_start:
            longest[prompt.name] = prompt
    haystacks = {tuple(prompt.tokens[: prompt.question_start].tolist()): prompt for prompt in longest.values()}
    batch = data.model.pad([prompt.tokens.tolist() for prompt in haystacks.values()])
    found = scan(data.model, batch, [analyzer], batch_size=1, seed=data.seed, progress=data.progress)[analyzer.name]
    assert isinstance(found, HeadScores)
    return found


def _duo_surrogate(data: RetrievalData) -> HeadScores:
    return duo_surrogate(
        data.model, data.prompts, penalty=data.penalty, probes=data.probes, **data.window, **data.options
    )


def _duo_gates(data: RetrievalData) -> HeadScores:
    chosen = {"steps": data.steps, "learning_rate": data.learning_rate, "penalty": data.penalty}
    return duo_gates(data.model, data.prompts, **chosen, **data.window, **data.options)


METHODS: Mapping[str, Callable[[RetrievalData], HeadScores]] = {
    "needle": _needle,
    "razor": _razor,
    "distant-mass": _distant_mass,
    "local-heads": _local_heads,
    "qrhead": _qrhead,
    "duo-surrogate": _duo_surrogate,
    "duo-gates": _duo_gates,
}
"""Every method by its name."""
