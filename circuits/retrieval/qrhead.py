"""QRHead: heads through which a question looks at the document that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import check_language_model
from circuits.retrieval.haystack import sentence_starts, token_span
from circuits.retrieval.needles import NEEDLES, Needle
from circuits.retrieval.prefix import SharedPrefix
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.statistics import bootstrap_interval
from interp.stimuli import first_tokens

Measure = Literal["mass", "ndcg"]
INSTRUCTION = "Here are some paragraphs:\n\n"
CLOSING = "Please find information that is relevant to the following query in the paragraphs above.\n\nQuery: "
NULL_QUERY = "N/A"
DEVIATIONS = 2.0
NDCG_AT = 10


@dataclass(frozen=True, kw_only=True)
class QRExample:
    """A question over documents.

    Attributes:
        documents: their texts, in the order in which the model reads them.
        query: the question.
        gold: indices of the documents that answer it.
    """

    documents: tuple[str, ...]
    query: str
    gold: tuple[int, ...]

    def __post_init__(self) -> None:
        wrong = [index for index in self.gold if not 0 <= index < len(self.documents)]
        if wrong or not self.gold or len(set(self.gold)) == len(self.documents) or not all(self.documents):
            raise InputError(
                f"An example has {len(self.documents)} documents and the gold ones {list(self.gold)}; expected at "
                "least one gold document and one other, indices from 0, and no empty document."
            )


def qr_examples(
    haystack: str, needles: Sequence[Needle] = NEEDLES, *, n_documents: int = 8, sentences: int = 3, seed: int = 0
) -> list[QRExample]:
    """One example per needle: passages of a text, one of which has the needle in its middle.

    Arguments:
        haystack: a text of at least ``n_documents * sentences`` sentences per needle.
        sentences: length of a passage.
        seed: of the place of the gold passage.
    """
    starts = [*sentence_starts(haystack), len(haystack)]
    parts = [haystack[start:end].strip() for start, end in zip(starts, starts[1:], strict=False)]
    parts = [part for part in parts if part]
    wanted = len(needles) * n_documents * sentences
    if n_documents < 2 or sentences < 1 or len(parts) < wanted:
        raise InputError(
            f"{len(needles)} needles in {n_documents} passages of {sentences} sentences need {wanted} sentences and at "
            f"least two passages; the text has {len(parts)} sentences. Give a longer text, or ask for fewer."
        )
    generator = torch.Generator().manual_seed(seed)
    examples: list[QRExample] = []
    for index, needle in enumerate(needles):
        gold = int(torch.randint(n_documents, (1,), generator=generator))
        passages: list[str] = []
        for number in range(n_documents):
            start = (index * n_documents + number) * sentences
            passage = parts[start : start + sentences]
            if number == gold:
                passage.insert(sentences // 2, needle.text)
            passages.append(" ".join(passage))
        examples.append(QRExample(documents=tuple(passages), query=needle.question, gold=(gold,)))
    return examples


def qr_heads(
    model: Model,
    examples: Sequence[QRExample],
    *,
    measure: Measure = "mass",
    seed: int = 0,
    progress: bool | None = None,
) -> HeadScores:
    """Score heads by the attention that a question pays to its gold document.

    *Formula*: mean attention of the rows from the closing instruction to the end, minus the same with the query "N/A";
    per document the sum over its tokens except those at or below mean - 2 standard deviations (`document_scores`).
    ``"mass"``: that sum over gold documents, mean over examples; *range* [-1, 1], `chance` 0. ``"ndcg"``: NDCG@10 of
    the documents ranked by it; *range* [0, 1], `chance` that of a random order.
    *Source*: Zhang et al. 2025, arXiv 2506.09944 (LongMemEval uses "mass", BEIR "ndcg"). Differences from the official
    code: documents are found where they were written, not by first occurrence; scores in float32.

    Only the question's rows are read; the documents are run once for both queries where the cache allows it.

    Arguments:
        seed: of the bootstrap over examples.

    Returns:
        `scores` with a 95 % interval; `columns`: the other measure.

    Raises:
        InputError: no examples, an unknown measure, or not a causal language model.
    """
    check_language_model(model)
    if measure not in get_args(Measure) or not examples:
        raise InputError(
            f"measure={measure!r} with {len(examples)} examples; expected one of {', '.join(get_args(Measure))} and at "
            "least one example."
        )
    prefix = SharedPrefix(model)
    values: dict[str, list[Float[Tensor, "layer head"]]] = {"mass": [], "ndcg": []}
    chances: list[float] = []
    prompts: list[Int[Tensor, " position"]] = []
    hidden = None if progress is None else not progress
    with torch.inference_mode():
        for example in tqdm(examples, desc="questions", unit="example", disable=hidden):
            prompt, null = _prompt(model, example, example.query), _prompt(model, example, NULL_QUERY)
            calibrated = _attention(model, prefix, prompt) - _attention(model, prefix, null)
            found = document_scores(calibrated, prompt.documents)
            values["mass"].append(found[..., list(example.gold)].sum(-1))
            values["ndcg"].append(ndcg(found, example.gold))
            chances.append(chance_ndcg(len(example.documents), len(set(example.gold))))
            prompts.append(prompt.tokens)
    (other,) = set(values) - {measure}
    chosen = torch.stack(values[measure])
    low, high = bootstrap_interval(chosen, seed=seed)
    return HeadScores(
        name=f"question to document ({measure})",
        unit="attention mass" if measure == "mass" else "NDCG@10",
        scores=chosen.mean(0),
        value_range=(-1.0, 1.0) if measure == "mass" else (0.0, 1.0),
        signed=measure == "mass",
        ci_low=low,
        ci_high=high,
        chance=0.0 if measure == "mass" else sum(chances) / len(chances),
        columns={other: torch.stack(values[other]).mean(0)},
        higher_is="more attention from the question to its document",
        provenance=model.provenance(
            [model.batch(tokens) for tokens in prompts], seed=seed, parameters={"measure": measure}
        ),
        notes={"examples": len(examples)},
    )


def document_scores(
    calibrated: Float[Tensor, "*head token"], documents: Sequence[tuple[int, int]]
) -> Float[Tensor, "*head document"]:
    """Score of every document: the sum over its tokens without the outliers below.

    A token is dropped if its score is at most mean - 2 standard deviations (unbiased) of its document and head; a
    document of one token, or of equal scores, keeps everything. To rank documents by several heads, sum `calibrated`
    over them first.

    Arguments:
        calibrated: attention to every token, minus that of the null query.
        documents: half-open token spans.
    """
    scores: list[Tensor] = []
    for start, end in documents:
        tokens = calibrated[..., start:end]
        spread = tokens.std(-1, keepdim=True, correction=1 if end - start > 1 else 0)
        low = tokens <= tokens.mean(-1, keepdim=True) - DEVIATIONS * spread
        scores.append((tokens * ~(low & (spread > 0))).sum(-1))
    return torch.stack(scores, -1)


def ndcg(scores: Float[Tensor, "*head document"], gold: Sequence[int]) -> Float[Tensor, "*head"]:
    """NDCG@10 of documents ranked by score; of equal scores the earlier document comes first. NaN where a score is.

    Example:
        >>> round(float(ndcg(torch.tensor([0.1, 0.9, 0.5]), [2])), 6)
        0.63093
    """
    relevant = torch.zeros(scores.shape[-1], dtype=torch.float64)
    relevant[list(gold)] = 1
    ranked = relevant[scores.argsort(dim=-1, descending=True, stable=True).cpu()]
    discount = _discounts(scores.shape[-1])
    ideal = discount[: int(relevant.sum())].sum()
    found = (ranked * discount).sum(-1) / ideal
    return found.masked_fill(scores.isnan().any(-1).cpu(), torch.nan)


def chance_ndcg(n_documents: int, n_gold: int) -> float:
    """Expected NDCG@10 of a random order.

    Example:
        >>> round(chance_ndcg(2, 1), 6)
        0.815465
    """
    discount = _discounts(n_documents)
    return float(n_gold / n_documents * discount.sum() / discount[:n_gold].sum())


def _discounts(n_documents: int) -> Float[Tensor, " document"]:
    ranks = torch.arange(n_documents, dtype=torch.float64)
    return torch.where(ranks < NDCG_AT, 1 / torch.log2(ranks + 2), 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prompt:
    """Tokens, where the question's rows begin, and the token span of every document."""

    tokens: Int[Tensor, " position"]
    question_start: int
    documents: list[tuple[int, int]]


def _prompt(model: Model, example: QRExample, query: str) -> _Prompt:
    text, spans = INSTRUCTION, list[tuple[int, int]]()
    for number, document in enumerate(example.documents, start=1):
        text += f"[{number}] "
        spans.append((len(text), len(text) + len(document)))
        text += f"{document}\n\n"
    question = len(text)
    text += CLOSING + query
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets, lead = encoded["offset_mapping"], first_tokens(model)
    tokens = torch.tensor([*lead, *encoded["input_ids"]])
    model.batch(tokens)
    places = [token_span(offsets, start, end) for start, end in spans]
    return _Prompt(
        tokens=tokens,
        question_start=len(lead) + token_span(offsets, question, len(text))[0],
        documents=[(len(lead) + first, len(lead) + last) for first, last in places],
    )


class _QuestionRows(Reader):
    """Mean attention of the question's rows to everything before the question."""

    def __init__(self, model: Model, prompt: _Prompt) -> None:
        self.n_rows = len(prompt.tokens) - prompt.question_start
        self.queries = torch.arange(prompt.question_start, len(prompt.tokens))
        self.mass = torch.zeros(model.n_layers, model.n_heads, prompt.question_start, dtype=torch.float64)
        self.layers_read: set[int] = set()

    def read_rows(self, rows: AttentionRows) -> None:
        self.layers_read.add(rows.layer)
        seen = int((rows.keys < self.mass.shape[-1]).sum())
        mass = rows.pattern[0, :, :, :seen].double().sum(1).cpu() / self.n_rows
        start = int(rows.keys[0])
        self.mass[rows.layer, : mass.shape[0], start : start + seen] += mass

    def result(self) -> Float[Tensor, "layer head token"]:
        """NaN for layers without softmax attention."""
        absent = [layer for layer in range(self.mass.shape[0]) if layer not in self.layers_read]
        self.mass[absent] = torch.nan
        return self.mass


def _attention(model: Model, prefix: SharedPrefix, prompt: _Prompt) -> Float[Tensor, "layer head token"]:
    reader = _QuestionRows(model, prompt)
    with watch(model, reader):
        prefix.run(prompt.tokens, keep=reader.n_rows)
    return reader.result()
