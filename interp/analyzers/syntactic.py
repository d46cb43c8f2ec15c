"""Syntactic heads: heads that look from a word to its governor, or back, relation by relation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.analyzers.conllu import Sentence
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.errors import InputError
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import HeadScores
from interp.statistics import bootstrap_weights, percentile_interval, wilson_interval

# Whose attention names the governor of a dependent: the dependent's own, or that which the dependent receives.
DIRECTIONS = ("dependent->governor", "governor->dependent")
ALL = "all"
LEAST_SENTENCES = 10
"""Fewer sentences say nothing of others."""
ORDER = (
    "relation", "direction", "sentences", "arcs", "head", "accuracy", "ci_low", "ci_high", "offset", "baseline",
    "baseline_low", "baseline_high", "random", "difference", "difference_low", "difference_high", "verdict",
)  # fmt: skip


def words_of_tokens(offsets: Sequence[tuple[int, int]], sentence: Sentence) -> list[int]:
    """Index of the word in which each token's first character other than a space lies; -1 for special tokens.

    Arguments:
        offsets: characters of each token in the sentence's text.
    """
    word_at = [-1] * len(sentence.text)
    for index, word in enumerate(sentence.words):
        word_at[word.start : word.end] = [index] * (word.end - word.start)
    written = [[word_at[c] for c in range(*span) if not sentence.text[c].isspace()] for span in offsets]
    return [words[0] if words else -1 for words in written]


def membership(words: Int[Tensor, "batch token"], n_words: int) -> Float[Tensor, "batch token word"]:
    """1 where a token belongs to a word."""
    return (words[..., None] == torch.arange(n_words, device=words.device)).float()


def word_attention(
    pattern: Float[Tensor, "batch head query key"],
    query_words: Float[Tensor, "batch query word"],
    key_words: Float[Tensor, "batch key word"],
) -> Float[Tensor, "batch head word word"]:
    """Attention between words: the **sum** over the tokens of the key word, the **mean** over those of the query word.

    Rows keep their sums but for what goes to tokens outside of words. Weights of `query_words` are ``1 / tokens of the
    word``, so a part of the query tokens gives its part of the mean.

    Example:
        >>> pattern = torch.tensor([[[[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]]])
        >>> two_words = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
        >>> word_attention(pattern, two_words / two_words.sum(1, keepdim=True), two_words)[0, 0].tolist()
        [[0.5, 0.5], [0.25, 0.75]]
    """
    return query_words.mT[:, None] @ (pattern @ key_words[:, None])


def predicted_governors(
    attention: Float[Tensor, "head word word"], candidates: Bool[Tensor, "word word"]
) -> Int[Tensor, "head word"]:
    """The candidate that each word (first axis) looks at most; -1 where it has none."""
    found = attention.masked_fill(~candidates, -1).argmax(-1)
    return found.masked_fill(~candidates.any(-1), -1)


def best_offset(offsets: Mapping[int, int]) -> int:
    """Governor minus dependent where it is most often; of equal ones the nearest, then the one to the left.

    Example:
        >>> best_offset({-1: 2, 1: 2, 3: 1})
        -1
    """
    return min(offsets, key=lambda offset: (-offsets[offset], abs(offset), offset))


def held_out_difference(
    correct: Float[Tensor, "sentence head"], offsets: Sequence[Mapping[int, int]], *, seed: int
) -> tuple[float, float, float]:
    """How much more accurate the best head is than the best offset, on sentences where neither was chosen.

    *Formula*: every second sentence makes a half. Of either half the head with the most correct arcs and the most
    frequent offset are taken, and compared on the other one: ``(arcs right by head - arcs right by offset) / arcs``
    over all sentences. *Range* [-1, 1]. *Interval*: bootstrap over sentences, which keeps the arcs of a sentence
    together; the choices are not made anew. NaN for fewer than `LEAST_SENTENCES`.

    Arguments:
        correct: arcs that each head gets right; NaN for a head that is not there.
        offsets: how often each offset occurs.

    Returns:
        The difference and the ends of its 95 % interval.
    """
    n = len(offsets)
    if n < LEAST_SENTENCES:
        return torch.nan, torch.nan, torch.nan
    gain = torch.zeros(n, dtype=torch.float64)
    for half in (0, 1):
        head = int(correct[1 - half :: 2].sum(0).nan_to_num(-1).argmax())
        offset = best_offset(sum(map(Counter[int], offsets[1 - half :: 2]), Counter[int]()))
        hits = torch.tensor([float(counted.get(offset, 0)) for counted in offsets[half::2]], dtype=torch.float64)
        gain[half::2] = correct[half::2, head].double() - hits
    arcs = torch.tensor([float(sum(counted.values())) for counted in offsets], dtype=torch.float64)
    weights = bootstrap_weights(n, seed=seed)
    low, high = percentile_interval((weights @ gain) / (weights @ arcs))
    return float(gain.sum() / arcs.sum()), float(low), float(high)


@dataclass(eq=False)
class _Tally:
    """Arcs of one relation in one direction, in one sentence or in all."""

    correct: Float[Tensor, "layer head"]
    arcs: int = 0
    guessed: float = 0.0
    offsets: Counter[int] = field(default_factory=Counter[int])

    def __iadd__(self, other: _Tally) -> _Tally:
        self.correct = self.correct + other.correct
        self.arcs += other.arcs
        self.guessed += other.guessed
        self.offsets.update(other.offsets)
        return self

    @property
    def accuracy(self) -> Float[Tensor, "layer head"]:
        return self.correct.double() / self.arcs


def _facts(by_sentence: Sequence[_Tally], total: _Tally, seed: int) -> dict[str, Any]:
    """What belongs beside the accuracy."""
    offset = best_offset(total.offsets)
    baseline = total.offsets[offset] / total.arcs
    low, high = wilson_interval(torch.tensor(baseline, dtype=torch.float64), total.arcs)
    correct = torch.stack([tally.correct.flatten() for tally in by_sentence])
    difference = held_out_difference(correct, [tally.offsets for tally in by_sentence], seed=seed)
    return {
        "sentences": len(by_sentence),
        "arcs": total.arcs,
        "offset": offset,
        "baseline": baseline,
        "baseline_low": float(low),
        "baseline_high": float(high),
        "random": total.guessed / total.arcs,
        **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
    }


class _WordMaps(Reader):
    """Word-level maps of one batch of sentences."""

    def __init__(self, kind: str) -> None:
        self.kinds = frozenset({kind})

    def start(self, words: Int[Tensor, "batch token"]) -> None:
        """Take the words of the next batch's tokens."""
        self.key_words = membership(words, int(words.max().clamp_min(0)) + 1)
        self.query_words = self.key_words / self.key_words.sum(1, keepdim=True).clamp_min(1)
        self.maps: dict[int, Float[Tensor, "batch head word word"]] = {}
        self.sees: dict[int, Bool[Tensor, "batch word word"]] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        queries = self.query_words.to(rows.pattern)[:, rows.queries]
        keys = self.key_words.to(rows.pattern)[:, rows.keys]
        attention = word_attention(rows.pattern, queries, keys)
        sees = word_attention(rows.visible[:, None].to(rows.pattern), queries, keys)[:, 0] > 0
        old = rows.layer in self.maps
        self.maps[rows.layer] = self.maps[rows.layer] + attention if old else attention
        self.sees[rows.layer] = self.sees[rows.layer] | sees.cpu() if old else sees.cpu()

    def seen(self) -> Bool[Tensor, "batch word word"]:
        """Which words see which others in every layer."""
        seen = torch.stack(list(self.sees.values())).all(0)
        return seen & ~torch.eye(seen.shape[-1], dtype=torch.bool)


def syntactic_heads(
    model: Model,
    sentences: Sequence[Sentence],
    *,
    excluded: Collection[str] = ("punct",),
    kind: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadScores:
    """How often each head points from a word to its governor, over all relations and for each.

    *Formula*: token attention becomes word attention (`word_attention`); the predicted governor of a word is the other
    word that it looks at most (``dependent->governor``), or that looks at it most (``governor->dependent``); accuracy
    is the share of arcs predicted. The score is that of all relations in the better direction, named in the label
    ``direction``; the columns are ``<relation> <direction>``. *Range* [0, 1]. *Interval*: Wilson, as if arcs were
    independent, and not corrected for choosing the direction.
    *Chance* is the best fixed offset on the same arcs, "the governor is always the next word but one": a head is worth
    naming only above it. The note ``relations`` holds, by relation and direction, the number of arcs, the best offset
    (governor minus dependent), its accuracy ``baseline`` with a Wilson interval, and that of a ``random`` word among
    those seen. Head and offset are both the best on the arcs that they are scored on; ``difference`` compares them on
    sentences where neither was chosen (`held_out_difference`).

    *What a causal model can show*: a word sees only words to its left, so its own attention can name only governors to
    the left, and the attention it receives only governors to the right. Each direction is scored, and its baseline
    taken, on the arcs that it can express; the note ``causal`` says so and ``arcs`` gives the numbers. An encoder is
    scored on every arc in both directions. The same rule leaves out arcs beyond a sliding window.

    *Source*: Clark et al. 2019, arXiv 1906.04341. *Differences from their code*: it averages over query tokens in the
    paper but takes the first of them by default, we average; its rule that a possessor may be named at its 's is left
    out, as Universal Dependencies attach the 's to the possessor; words are tokenised in their sentence, not alone.
    A token across two words counts for the first; arcs of a word left without a token are not scored (note
    ``words without a token``). Attention to and from special tokens takes no part. The root is not predicted.

    Arguments:
        sentences: from `interp.analyzers.conllu.read_conllu`.
        excluded: relations that are not counted among all relations; they keep their columns.
        kind: kind of attention; None for the model's main one.
        batch_size: sentences per forward pass; changes speed, never a score.
        seed: of the bootstrap.
        progress: a bar on stderr; None shows it on a terminal only.
    """
    kind = kind or model.sites.main_kind
    sites = model.sites.of_kind(kind)
    if not sites or kind == "cross":
        raise InputError(f"Arcs join words of one text, but {kind} attention of {model.name} does not.")
    if not getattr(model.tokenizer, "is_fast", False):
        raise InputError(f"{model.name} has no fast tokenizer, which alone says where tokens stand in a sentence.")
    if not sentences or batch_size < 1:
        raise InputError(f"{len(sentences)} sentences in batches of {batch_size}: expected at least one of both.")
    shape = max(site.layer for site in sites) + 1, max(site.n_heads for site in sites)
    tallies: dict[tuple[str, str], list[_Tally]] = {}
    reader, batches, n_lost, causal = _WordMaps(kind), [], 0, True
    bar = tqdm(range(0, len(sentences), batch_size), desc="syntax", disable=None if progress is None else not progress)
    for start in bar:
        part = sentences[start : start + batch_size]
        encoded = [model.tokenizer(sentence.text, return_offsets_mapping=True) for sentence in part]
        batches.append(model.pad([entry.input_ids for entry in encoded]))
        words = [words_of_tokens(entry.offset_mapping, one) for entry, one in zip(encoded, part, strict=True)]
        width = batches[-1].tokens.shape[1]
        reader.start(torch.tensor([[*row, *[-1] * (width - len(row))] for row in words], device=model.device))
        with torch.inference_mode(), watch(model, reader):
            model.hf(**model.forward_inputs(batches[-1]))
        seen = reader.seen()
        causal &= not bool(seen.triu(1).any())
        for index, (sentence, row) in enumerate(zip(part, words, strict=True)):
            n_lost += len(sentence.words) - len({word for word in row if word >= 0})
            own: dict[tuple[str, str], _Tally] = {}
            for name, tally in _tallies(reader, seen, index, sentence, shape, excluded):
                own.setdefault(name, _Tally(torch.zeros(shape)))
                own[name] += tally
            for name, tally in own.items():
                tallies.setdefault(name, []).append(tally)
    notes = {"sentences": len(sentences), "words without a token": n_lost, "causal": causal}
    provenance = model.provenance(batches, seed=seed, parameters={"excluded": sorted(excluded)})
    return _scores(tallies, notes, provenance, seed)


def best_heads(scores: HeadScores) -> pd.DataFrame:
    """The most accurate head for each relation and direction, beside the best fixed offset.

    Columns: relation, direction, sentences, arcs; head, its accuracy and interval; offset, its accuracy ``baseline``
    and interval; random. Head and offset are the best of all on these very arcs, so on new text expect somewhat less
    of both, the more so the fewer the arcs. ``difference`` is free of that: the best head less the best offset on
    sentences where neither was chosen. ``verdict``: "better" or "worse" where its interval excludes 0, "open" where it
    does not, "too few" with fewer than ten sentences.

    Arguments:
        scores: result of `syntactic_heads`.
    """
    if "relations" not in scores.notes:
        raise InputError(f"{scores.name!r} holds no relations; expected the result of syntactic_heads.")
    rows: list[dict[str, Any]] = []
    for relation, directions in scores.notes["relations"].items():
        for direction, facts in directions.items():
            column = f"{relation} {direction}"
            head = scores.top(1, by=column)[0]
            accuracy = scores.columns[column][head.layer, head.head]
            low, high = wilson_interval(accuracy, facts["arcs"])
            interval = {"ci_low": float(low), "ci_high": float(high)}
            row = {"relation": relation, "direction": direction, "head": head.label, "accuracy": float(accuracy)}
            verdict = {"verdict": _verdict(facts["difference_low"], facts["difference_high"])}
            rows.append(row | interval | dict(facts) | verdict)
    return pd.DataFrame(rows, columns=list(ORDER))


def _verdict(low: float, high: float) -> str:
    if low != low:
        return "too few"
    return "better" if low > 0 else "worse" if high < 0 else "open"


def _tallies(
    reader: _WordMaps,
    seen: Bool[Tensor, "batch word word"],
    index: int,
    sentence: Sentence,
    shape: tuple[int, int],
    excluded: Collection[str],
) -> Iterator[tuple[tuple[str, str], _Tally]]:
    """Every arc of one sentence that a direction can express, under its relation and under all of them."""
    for direction in DIRECTIONS:
        own = direction == DIRECTIONS[0]
        candidates = seen[index] if own else seen[index].mT
        n_candidates = candidates.sum(-1).tolist()
        named = torch.full((*shape, len(candidates)), torch.nan, dtype=torch.float64)
        for layer, maps in reader.maps.items():
            attention = maps[index].cpu() if own else maps[index].mT.cpu()
            named[layer, : len(attention)] = predicted_governors(attention, candidates).double()
        for dependent, word in enumerate(sentence.words):
            governor = word.head
            if governor is None or max(dependent, governor) >= len(candidates) or not candidates[dependent, governor]:
                continue
            there = named[..., dependent]
            correct = torch.where(there.isnan(), there, (there == governor).double()).float()
            tally = _Tally(correct, 1, 1 / n_candidates[dependent], Counter({governor - dependent: 1}))
            yield (word.relation, direction), tally
            if word.relation not in excluded:
                yield (ALL, direction), tally


def _scores(
    tallies: Mapping[tuple[str, str], Sequence[_Tally]], notes: dict[str, Any], provenance: Provenance, seed: int
) -> HeadScores:
    directions = [direction for direction in DIRECTIONS if (ALL, direction) in tallies]
    if not directions:
        raise InputError("No sentence holds an arc that the model could show: expected sentences of several words.")
    totals = {name: _total(by_sentence) for name, by_sentence in sorted(tallies.items())}
    facts: dict[str, dict[str, Any]] = {}
    for (relation, direction), total in totals.items():
        facts.setdefault(relation, {})[direction] = _facts(tallies[relation, direction], total, seed)
    accuracy = torch.stack([totals[ALL, direction].accuracy for direction in directions])
    best = accuracy.nan_to_num(-1).argmax(0)
    score = accuracy.gather(0, best[None])[0]
    arcs, baseline = (
        torch.tensor([float(facts[ALL][direction][name]) for direction in directions], dtype=torch.float64)
        for name in ("arcs", "baseline")
    )
    low, high = wilson_interval(score, arcs[best])
    return HeadScores(
        name="syntactic heads",
        scores=score,
        unit="accuracy",
        value_range=(0.0, 1.0),
        chance=baseline[best],
        ci_low=low,
        ci_high=high,
        columns={f"{relation} {direction}": total.accuracy for (relation, direction), total in totals.items()},
        labels={"direction": tuple(tuple(directions[index] for index in row) for row in best.tolist())},
        provenance=provenance,
        notes={**notes, "relations": facts},
    )


def _total(by_sentence: Sequence[_Tally]) -> _Tally:
    total = _Tally(torch.zeros_like(by_sentence[0].correct, dtype=torch.float64))
    for tally in by_sentence:
        total += tally
    return total
