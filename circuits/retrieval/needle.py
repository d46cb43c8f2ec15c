"""`needle_heads`: the heads that copy a hidden sentence into the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import check_language_model
from circuits.retrieval.copying import copy_chance, copy_hits, copy_mass, copy_recall, rouge_recall
from circuits.retrieval.needles import NeedlePrompt
from circuits.retrieval.prefix import SharedPrefix, shared_order
from interp.analyzers.analyzer import chance_of_layers
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.statistics import bootstrap_interval

Scoring = Literal["teacher-forced", "decode"]
RETRIEVAL, STRONG = 0.1, 0.5
ANSWERED = 0.5


def needle_heads(
    model: Model,
    prompts: Sequence[NeedlePrompt],
    *,
    scoring: Scoring = "teacher-forced",
    max_new_tokens: int = 50,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadScores:
    """Score every head by the share of the needle that it copies while the model answers.

    *Formula*: `copy_recall` of the answer's attention rows, mean over instances.
    *Source*: Wu et al. 2024, arXiv 2404.15574. Differences from the official code: a set of tokens as in the paper,
    not a sum over steps; the needle is known exactly; and by default the right answer is given (``"teacher-forced"``):
    its rows come out of one forward pass without decoding, every instance counts, and a prefix that prompts share is
    run once, which is the whole haystack of prompts made with ``shared=True``. ``"decode"`` lets the model answer and
    counts the instances where it recalls over half of the answer's words (ROUGE-1), as the paper does.

    Only the rows that produce answer tokens are read; all others stay on the fused kernel.

    Arguments:
        prompts: from `needle_prompts` or `random_needle_prompts`.
        max_new_tokens: where decoding ends if neither the end-of-sequence token nor a new line comes.
        seed: of the bootstrap over instances.

    Returns:
        `scores` in [0, 1] with a 95 % interval; `chance` that of a head whose argmax is a random visible key.
        `columns`: ``soft`` (`copy_mass`) and ``activation frequency`` (share of instances with a copied token).
        `labels`: ``strength``, "strong" from 0.5, "retrieval" from 0.1, "weak" above 0, else "none".
        `notes`: chance of the soft score, the number of instances counted, and where each of them was, how many needles
        were hidden there, and whether the model answers it (teacher-forced: every token of the answer is the model's
        first choice).

    Raises:
        InputError: no prompts, not a causal language model, or (decode) no instance that the model answers.

    Example:
        >>> import interp
        >>> from circuits.retrieval import needle_heads, random_needle_prompts
        >>> model = interp.load("mini")
        >>> found = needle_heads(model, random_needle_prompts(model, lengths=[64], depths=[0.5], n_needles=1))
        >>> found.scores.shape
        torch.Size([4, 8])
    """
    check_language_model(model)
    if scoring not in get_args(Scoring) or not prompts:
        raise InputError(
            f"scoring={scoring!r} with {len(prompts)} prompts; expected one of {', '.join(get_args(Scoring))} and at "
            "least one prompt."
        )
    bar = tqdm(total=len(prompts), desc="needles", unit="prompt", disable=None if progress is None else not progress)
    with torch.inference_mode(), bar:
        instances: list[_Instance] = []
        for instance in _measured(model, prompts, scoring, max_new_tokens):
            instances.append(instance)
            bar.update()
    counted = [instance for instance in instances if instance.answered or scoring == "teacher-forced"]
    if not counted:
        raise InputError(
            f"{model.name} answers none of {len(prompts)} needles, so no head copied anything into an answer. "
            "Use scoring='teacher-forced', which gives the answer, or shorter prompts."
        )
    return _result(model, prompts, instances, counted, seed, {"scoring": scoring, "max_new_tokens": max_new_tokens})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Instance:
    """One answered prompt: scores and their chance levels (of both in each layer), and whether the answer was right."""

    prompt: NeedlePrompt
    recall: Float[Tensor, "layer head"]
    mass: Float[Tensor, "layer head"]
    chance: Float[Tensor, "layer 2"]
    answered: bool


class _AnswerRows(Reader):
    """Of every row it is shown: the most attended position, and the attention to the needle."""

    def __init__(self, model: Model, needle: tuple[int, int], queries: Int[Tensor, " position"]) -> None:
        self.queries = queries
        self.needle = torch.arange(*needle)
        self.shape = (model.n_layers, model.n_heads)
        self._attended: dict[int, list[Int[Tensor, "head step"]]] = {}
        self._mass: dict[int, list[Float[Tensor, "head step token"]]] = {}
        self._seen: dict[int, list[Bool[Tensor, "step token"]]] = {}
        self._visible: dict[int, list[Float[Tensor, " step"]]] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        pattern = rows.pattern[0]
        column = self.needle.to(rows.keys.device) - rows.keys[0]
        inside = (column >= 0) & (column < len(rows.keys))
        place = column.clamp(0, len(rows.keys) - 1)
        mass = pattern[..., place] * inside
        largest = pattern.max(-1).indices  # the first of several, as argmax, in a third of its time
        self._attended.setdefault(rows.layer, []).append((largest + rows.keys[0]).cpu())
        self._mass.setdefault(rows.layer, []).append(mass.cpu())
        self._seen.setdefault(rows.layer, []).append((rows.visible[0][:, place] & inside).cpu())
        self._visible.setdefault(rows.layer, []).append(rows.n_visible[0].cpu())

    def instance(self, prompt: NeedlePrompt, answer: Int[Tensor, " step"], answered: bool) -> _Instance:
        """Scores of what was read while this answer was written; NaN for layers without softmax attention."""
        recall, mass = torch.full((2, *self.shape), torch.nan, dtype=torch.float64)
        chance = torch.full((self.shape[0], 2), torch.nan, dtype=torch.float64)
        for layer, attended in self._attended.items():
            hits = copy_hits(torch.cat(attended, -1)[None], answer, prompt.needle_tokens, prompt.needle[0])[0]
            recall[layer, : len(hits)] = copy_recall(hits, answer, prompt.needle_tokens)
            mass[layer, : len(hits)] = copy_mass(torch.cat(self._mass[layer], 1), answer, prompt.needle_tokens)
            seen, visible = torch.cat(self._seen[layer]), torch.cat(self._visible[layer])
            chance[layer] = chance.new_tensor(copy_chance(seen, visible, answer, prompt.needle_tokens))
        return _Instance(prompt=prompt, recall=recall, mass=mass, chance=chance, answered=answered)


def _measured(
    model: Model, prompts: Sequence[NeedlePrompt], scoring: Scoring, max_new_tokens: int
) -> Iterator[_Instance]:
    prefix = SharedPrefix(model)
    for index in shared_order([prompt.tokens for prompt in prompts]):
        prompt = prompts[index]
        if scoring == "teacher-forced":
            yield _teacher_forced(model, prefix, prompt)
        else:
            yield _decoded(model, prefix, prompt, max_new_tokens)


def _teacher_forced(model: Model, prefix: SharedPrefix, prompt: NeedlePrompt) -> _Instance:
    rows = torch.arange(prompt.answer_start - 1, len(prompt.tokens) - 1)
    reader = _AnswerRows(model, prompt.needle, rows)
    with watch(model, reader):
        logits = prefix.run(prompt.tokens[:-1], keep=len(rows))
    return reader.instance(prompt, prompt.answer, bool((logits.argmax(-1).cpu() == prompt.answer).all()))


def _decoded(model: Model, prefix: SharedPrefix, prompt: NeedlePrompt, max_new_tokens: int) -> _Instance:
    reader = _AnswerRows(model, prompt.needle, torch.tensor([-1]))
    written: list[int] = []
    with watch(model, reader):
        logits = prefix.run(prompt.tokens[: prompt.answer_start], keep=1)
        while len(written) < max_new_tokens:
            written.append(int(logits[-1].argmax()))
            if _ends(model, written[-1]) or len(written) == max_new_tokens:
                break
            logits = prefix.step(written[-1])
    text, reference = (model.tokenizer.decode(ids, skip_special_tokens=True) for ids in (written, prompt.answer))
    return reader.instance(prompt, torch.tensor(written), rouge_recall(text, reference) > ANSWERED)


def _ends(model: Model, token: int) -> bool:
    return token == model.tokenizer.eos_token_id or "\n" in model.tokenizer.decode([token])


def _result(
    model: Model,
    prompts: Sequence[NeedlePrompt],
    instances: Sequence[_Instance],
    counted: Sequence[_Instance],
    seed: int,
    parameters: dict[str, str | int],
) -> HeadScores:
    recall = torch.stack([instance.recall for instance in counted])
    soft = torch.stack([instance.mass for instance in counted])
    scores = recall.mean(0)
    low, high = bootstrap_interval(recall, seed=seed)
    chances = torch.stack([instance.chance for instance in counted])
    places = [
        {
            "needle": i.prompt.name,
            "length": i.prompt.answer_start,
            "depth": i.prompt.depth,
            "hidden": i.prompt.hidden,
            "answered": i.answered,
        }
        for i in instances
    ]
    return HeadScores(
        name=f"needle retrieval ({parameters['scoring']})",
        unit="share of the needle copied",
        scores=scores,
        value_range=(0.0, 1.0),
        ci_low=low,
        ci_high=high,
        chance=chance_of_layers(chances[..., 0].mean(0), model.n_heads),
        columns={
            "soft": soft.nanmean(0),
            "activation frequency": recall.gt(0).double().mean(0).masked_fill(scores.isnan(), torch.nan),
        },
        labels={"strength": tuple(tuple(map(_strength, row)) for row in scores.tolist())},
        higher_is="more of the answer copied",
        provenance=model.provenance(
            [model.batch(prompt.tokens) for prompt in prompts], seed=seed, parameters=parameters
        ),
        notes={"chance soft": float(chances[..., 1].nanmean()), "counted": len(counted), "instances": places},
    )


def _strength(score: float) -> str:
    if score != score:
        return "not measured"
    if score >= RETRIEVAL:
        return "strong" if score >= STRONG else "retrieval"
    return "weak" if score > 0 else "none"
