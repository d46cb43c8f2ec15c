"""`catalogue`: what the heads of a model are, each with its types and the evidence for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuits.forward import check_language_model
from circuits.head_rules import HeadType, chosen_types, evidence, implied, judge_all
from circuits.own_text import own_text
from circuits.retrieval import NEEDLES, NeedlePrompt, needle_heads, needle_prompts, random_needle_prompts
from interp.analyzers import Analyzer, analyzer_named
from interp.analyzers.analyzer import Shape
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.data import sequences
from interp.errors import InputError, ModelNotSupported
from interp.head_catalogue import HeadCatalogue, percentiles
from interp.model.load import load
from interp.model.model import Model
from interp.model.tokens import TokenBatch
from interp.model_scores import MODEL_SCORES, score_model
from interp.results import HeadScores, Provenance
from interp.scanning import scan
from interp.stimuli import repeated_tokens

N_TEXTS, LENGTH = 16, 256
ON_TEXT = (
    "previous-token",
    "diagonal-offset",
    "sinks",
    "delimiter-mass",
    "local-mass",
    "distant-mass",
    "normalised-entropy",
)
ON_REPEATS = ("induction", "duplicate-token")
NEEDLE_LENGTH, ANSWER_ROOM, NEEDLE_DEPTHS = 512, 64, (0.0, 0.25, 0.5, 0.75, 1.0)
RANDOM_NEEDLES = "random tokens in random tokens, found by literal match"
TEXT_NEEDLES = "sentences in the text"
TOKEN_CHARACTERS = 20
"""No more characters per token are read of a text."""
COLUMNS = {"offset": ("diagonal-offset", "offset"), "no-op": ("sinks", "no-op")}
"""Measures of the result that are columns of a score."""


def catalogue(
    model: Model | str,
    text: str | Iterable[str] | Tensor | TokenBatch | None = None,
    *,
    types: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    n: int = N_TEXTS,
    length: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadCatalogue:
    """Say of every head of a model what it is, with the evidence.

    Measured are ordinary text (`ON_TEXT`) and repeated random tokens (`ON_REPEATS`) in one scan each, needle prompts,
    and what the model has by itself (`MODEL_SCORES`): copying, composition and prefix matching from weights. With
    `types` only what these need is measured. What a model does not allow is left out; ``notes["left out"]`` says why.

    The rules, their thresholds and sources are `circuits.head_rules.HEAD_TYPES`. A head can have several types or none.

    Arguments:
        text: documents, cut into `n` packed sequences; or token ids, used as they are. None for text that the model
            writes itself (`own_text`), which only language models can.
        types: names of types; None for all.
        thresholds: other values that the score of a type has to reach, such as ``{"induction": 0.5}``.
        n, length: sequences of text and their tokens; length None for 256, or the context if that is shorter.
        batch_size: changes speed and memory, never a score.
        seed: of random tokens, needles, the model's own text, null distributions and the bootstrap.

    Raises:
        InputError: an unknown type, a text that cannot be used, a model of pictures or one with an encoder and a
            decoder, or nothing could be measured.

    Example:
        >>> from circuits.catalogue import catalogue
        >>> catalogue("mini", types=["induction", "prefix-matching"]).scores.shape
        torch.Size([2, 4, 8])
    """
    loaded = load(model) if isinstance(model, str) else model
    causal = _looks_back(loaded)
    chosen = chosen_types(types, thresholds or {})
    kinds = [kind for kind in chosen if causal or not kind.causal]
    names = {name for kind in kinds for name in _measures(kind)} | (set() if types else set(MODEL_SCORES))
    writes = causal and loaded.capabilities.generates and not names.isdisjoint(ON_TEXT)
    size = min(LENGTH, loaded.n_ctx or LENGTH) if length is None else length
    if text is None and writes:
        tokens, documents = own_text(loaded, n=n, length=size, seed=seed, progress=progress), list[str]()
    else:
        tokens, documents = _given(loaded, text, n, size)
    study = _Study(loaded, seed=seed, options={"batch_size": batch_size, "progress": progress})
    study.measure(names, tokens, documents)
    left_out = {kind.name: "only heads that look back alone can be so" for kind in chosen if kind not in kinds}
    left_out |= {kind.name: study.missing[name] for kind in kinds for name in _measures(kind) if name in study.missing}
    kinds = [kind for kind in kinds if kind.name not in left_out]
    if not kinds:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"None of these types can be looked for in {loaded.name} ({reasons}).")
    if study.needles == RANDOM_NEEDLES:  # which is what induction heads do
        kinds = [replace(kind, implied_by=("induction",)) if kind.name == "retrieval" else kind for kind in kinds]
    parameters = {"n": n, "length": size, "types": [kind.name for kind in kinds]}
    provenance = loaded.provenance([] if tokens is None else [tokens], seed=seed, parameters=parameters)
    warnings = [sentence for scores in study.found.values() for sentence in scores.provenance.warnings]
    origin = "given" if text is not None else "that the model wrote itself, at temperature 1"
    notes = {
        "text": "none" if tokens is None else f"{len(tokens)} x {tokens.tokens.shape[1]} tokens of text {origin}",
        "left out": left_out | {name: why for name, why in study.missing.items() if name in MODEL_SCORES},
    }
    return _result(kinds, study, provenance=provenance.with_warnings(*warnings), notes=notes)


class _Directions(Reader):
    """Whether any query sees a later key."""

    def __init__(self) -> None:
        self.look_back = True

    def read_rows(self, rows: AttentionRows) -> None:
        self.look_back &= not bool((rows.visible & (rows.keys > rows.queries[:, None])).any())


def _looks_back(model: Model) -> bool:
    """Whether attention is causal.

    Raises:
        InputError: the model reads pictures only, or has an encoder and a decoder.
    """
    kinds = model.capabilities.kinds
    if "self" not in kinds or "encoder" in kinds or "cross" in kinds:
        raise InputError(
            f"{model.name} has attention of the kinds {', '.join(kinds)}; the catalogue reads one text with one stack. "
            "Use interp.scan with kind=, or another model."
        )
    reader = _Directions()
    with torch.inference_mode(), watch(model, reader):
        model.hf(**model.forward_inputs(model.batch(torch.arange(4)[None])))
    return reader.look_back


def _given(model: Model, text: Any, n: int, length: int) -> tuple[TokenBatch | None, list[str]]:
    """The text given as tokens, and as documents where it is text."""
    if text is None:
        return None, []
    if isinstance(text, Tensor | TokenBatch):
        return model.batch(text), []
    documents = _some([text] if isinstance(text, str) else text, TOKEN_CHARACTERS * max(n * length, NEEDLE_LENGTH))
    return sequences(model, documents, n=n, length=length), documents


def _some(documents: Iterable[str], n_characters: int) -> list[str]:
    """The first documents, and the first of their characters."""
    kept: list[str] = []
    for document in documents:
        kept.append(document[:n_characters])
        n_characters -= len(document)
        if n_characters <= 0:
            break
    return kept


class _Study:
    """What was found of a model by the name of the score, and why the rest is missing."""

    def __init__(self, model: Model, *, seed: int, options: Mapping[str, Any]) -> None:
        self.model, self.seed, self.options = model, seed, options
        self.found: dict[str, HeadScores] = {}
        self.missing: dict[str, str] = {}
        self.needles, self.answered = "none", ""

    def measure(self, names: set[str], tokens: TokenBatch | None, documents: Sequence[str]) -> None:
        """Measure what has these names, as far as the model allows it."""
        on_text, on_repeats = ([name for name in group if name in names] for group in (ON_TEXT, ON_REPEATS))
        if tokens is None:
            self.missing |= dict.fromkeys(on_text, "the model writes no text itself; give one")
        else:
            self._read_text(tokens, on_text)
        if on_repeats:
            self._attempt(on_repeats, lambda: self._read_repeats(on_repeats))
        for name in (name for name in MODEL_SCORES if name in names):
            self._attempt([name], lambda name=name: self.found.update(score_model(self.model, [name], seed=self.seed)))
        if "needle" in names:
            self._attempt(["needle"], lambda: self._read_needles(documents))

    def _read_text(self, tokens: TokenBatch, names: Sequence[str]) -> None:
        analyzers: list[Analyzer] = []
        for name in names:
            self._attempt([name], lambda name=name: analyzers.append(self._on_text(name)))
        self._scan(tokens, analyzers)
        if "delimiter-mass" in self.found and not self.found["delimiter-mass"].chances.any():
            del self.found["delimiter-mass"]
            self.missing["delimiter-mass"] = "the text has no full stops, commas and separators"

    def _read_repeats(self, names: Sequence[str]) -> None:
        self._scan(repeated_tokens(self.model, seed=self.seed), [analyzer_named(name) for name in names])

    def _read_needles(self, documents: Sequence[str]) -> None:
        check_language_model(self.model)
        prompts, self.needles = needles_for(self.model, documents, seed=self.seed)
        progress: bool | None = self.options["progress"]
        scores = needle_heads(self.model, prompts, seed=self.seed, progress=progress)
        self.found["needle"] = scores
        self.answered = f"{sum(each['answered'] for each in scores.notes['instances'])} of {len(prompts)}"

    def _on_text(self, name: str) -> Analyzer:
        analyzer = analyzer_named(name, self.model)
        analyzer.reader(Shape(n_layers=1, n_heads=1, kind=self.model.sites.main_kind))  # refuses what it cannot use
        return analyzer

    def _scan(self, data: Any, analyzers: Sequence[Analyzer]) -> None:
        if analyzers:
            found = scan(self.model, data, analyzers, seed=self.seed, **self.options)
            self.found |= {name: scores for name, scores in found.items() if isinstance(scores, HeadScores)}

    def _attempt(self, names: Sequence[str], run: Callable[[], Any]) -> None:
        try:
            run()
        except (InputError, ModelNotSupported) as error:
            self.missing |= dict.fromkeys(names, str(error))


def needles_for(model: Model, documents: Sequence[str], *, seed: int) -> tuple[list[NeedlePrompt], str]:
    """Needles in the documents where these are long enough and the tokenizer has their words, else random ones.

    Raises:
        InputError: not even random tokens have room.
    """
    length = min(model.n_ctx or NEEDLE_LENGTH, NEEDLE_LENGTH) - ANSWER_ROOM
    words = " ".join(f"{needle.text} {needle.question}" for needle in NEEDLES)
    unknown = model.tokenizer.unk_token_id
    if documents and (unknown is None or unknown not in model.tokenizer(words).input_ids):
        try:
            return needle_prompts(model, "\n\n".join(documents), lengths=[length], depths=NEEDLE_DEPTHS), TEXT_NEEDLES
        except InputError:
            pass  # too short a text, or a tokenizer without offsets
    return random_needle_prompts(model, lengths=[length], depths=NEEDLE_DEPTHS, seed=seed), RANDOM_NEEDLES


def _measures(kind: HeadType) -> list[str]:
    """Names of the scores that a type rests on."""
    return list(dict.fromkeys(condition.measure.partition(": ")[0] for condition in kind.conditions))


def _result(
    kinds: Sequence[HeadType], study: _Study, *, provenance: Provenance, notes: Mapping[str, Any]
) -> HeadCatalogue:
    found = study.found
    judged = [judge_all(kind, found) for kind in kinds]
    shown = [evidence(kind.conditions[0].measure, found) for kind in kinds]
    signs = [-1 if kind.conditions[0].below else 1 for kind in kinds]
    measures = {name: scores.scores for name, scores in found.items()}
    measures |= {name: found[score].columns[column] for name, (score, column) in COLUMNS.items() if score in found}
    return HeadCatalogue(
        name=f"heads of {study.model.name}",
        unit="",
        types=tuple(kind.name for kind in kinds),
        scores=torch.stack([part.score for part in shown]),
        ci_low=torch.stack([part.low for part in shown]),
        ci_high=torch.stack([part.high for part in shown]),
        chance=torch.stack([part.chance for part in shown]),
        threshold=torch.stack([part.threshold for part in judged]),
        percentile=torch.stack([percentiles(sign * part.score) for sign, part in zip(signs, shown, strict=True)]),
        confidence=torch.stack([part.confidence for part in judged]),
        progress=torch.stack([part.progress for part in judged]),
        verdicts=implied(kinds, torch.stack([part.verdict for part in judged])),
        measures=measures,
        labels={f"{name} from": found[name].labels["source"] for name in found if "source" in found[name].labels},
        provenance=provenance,
        notes={
            **notes,
            "needles": study.needles,
            "needles answered": study.answered,
            "rules": {kind.name: {"meaning": kind.meaning, "rule": kind.rule, "source": kind.source} for kind in kinds},
        },
    )
