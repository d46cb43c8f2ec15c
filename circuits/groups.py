"""Whether heads do a task together: ablate or keep a group of them, against random groups of the same layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import answer_logits, batches, by_length
from circuits.patching import attention_heads
from circuits.study import Study
from circuits.tasks import TaskPrompts
from interp.errors import InputError
from interp.heads import HeadRef
from interp.interventions.ablate_heads import ablate_heads
from interp.interventions.capture_heads import CaptureHeads

RANDOM_GROUPS = 10
# Reference prompts per template of the task, and at least so many altogether.
REFERENCES_PER_TEMPLATE, FEWEST_REFERENCES = 6, 100


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Accuracy in [0, 1] and mean metric on the clean prompts."""

    accuracy: float
    metric: float

    def to_dict(self) -> dict[str, float]:
        return {"accuracy": self.accuracy, "metric": self.metric}


def random_groups(
    heads: Sequence[HeadRef], every: Sequence[HeadRef], *, n: int, seed: int
) -> tuple[list[list[HeadRef]], dict[int, int]]:
    """Groups with as many heads in each layer as `heads` has, drawn among the layer's other heads.

    A layer with too few others lends all of them, and some heads of the group itself.

    Returns:
        The groups, and by layer how many heads of `heads` itself every group had to take.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = Counter(head.layer for head in heads)
    others = {layer: [h for h in every if h.layer == layer and h not in heads] for layer in wanted}
    shared = {layer: count - len(others[layer]) for layer, count in wanted.items() if count > len(others[layer])}
    groups: list[list[HeadRef]] = []
    for _ in range(n):
        group: list[HeadRef] = []
        for layer, count in sorted(wanted.items()):
            own = [head for head in heads if head.layer == layer]
            group += _draw(others[layer], min(count, len(others[layer])), generator)
            group += _draw(own, shared.get(layer, 0), generator)
        groups.append(sorted(group))
    return groups, shared


class MeanAblation:
    """Mean ablation of groups of heads on a task's prompts.

    An ablated head's outputs become their mean over corrupted prompts of the same template and length, at the same
    position: it says what kind of sentence this is and nothing of this one. *Source*: Wang et al. 2022, arXiv
    2211.00593, whose reference prompts draw all names anew; here they are the task's own corruption, of further prompts
    of the task beside those studied.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        references = [study.prompts, *_further(study)]
        self.n_references = sum(len(prompts) for prompts in references)
        self.groups: dict[tuple[int, int], int] = {}
        self.means = self._means(references, [self._keys(prompts) for prompts in references])

    def performance(self, ablated: Sequence[HeadRef]) -> Performance:
        """How well the task is done on the clean prompts with these heads ablated."""
        model, task, prompts = self.study.model, self.study.task, self.study.prompts
        heads = torch.zeros(model.n_layers, model.n_heads, dtype=torch.bool)
        for head in ablated:
            heads[head.layer, head.head] = True
        logits = torch.cat([self._logits(part, heads) for _, part in batches(prompts, task, self.study.batch_size)])
        return Performance(
            accuracy=float(task.correct(logits, prompts).double().mean()),
            metric=float(task.metric(logits, prompts).double().mean()),
        )

    def _logits(self, batch: TaskPrompts, heads: Bool[Tensor, "layer head"]) -> Float[Tensor, "prompt vocab"]:
        needed = heads.any(-1).nonzero().flatten().tolist()
        with torch.inference_mode():
            editor = ablate_heads(heads, self.values(batch, needed))
            return answer_logits(self.study.model, batch.clean, self._ends(batch), editor)

    def values(
        self, batch: TaskPrompts, layers: Iterable[int]
    ) -> dict[int, Float[Tensor, "prompt position head d_head"]]:
        """The outputs that these prompts' heads get when they are ablated."""
        rows, end = self._keys(batch), batch.clean.shape[1]
        return {layer: self.means[layer][rows, :end] for layer in layers}

    def _ends(self, prompts: TaskPrompts) -> Int[Tensor, " prompt"]:
        return prompts.positions[self.study.task.answer_position]

    def _keys(self, prompts: TaskPrompts) -> Int[Tensor, " prompt"]:
        """The group of each prompt: its template and its length."""
        pairs = zip(prompts.template.tolist(), self._ends(prompts).tolist(), strict=True)
        return torch.tensor([self.groups.setdefault(pair, len(self.groups)) for pair in pairs])

    def _means(
        self, references: Sequence[TaskPrompts], keys: Sequence[Tensor]
    ) -> dict[int, Float[Tensor, "group position head d_head"]]:
        width = max(prompts.corrupted.shape[1] for prompts in references)
        sums: dict[int, Float[Tensor, "group position head d_head"]] = {}
        for prompts, groups in zip(references, keys, strict=True):
            for place, batch in batches(prompts, self.study.task, self.study.batch_size):
                reader = CaptureHeads()
                with torch.inference_mode():
                    answer_logits(self.study.model, batch.corrupted, self._ends(batch), reader)
                for layer, z in reader.z.items():
                    if layer not in sums:
                        sums[layer] = torch.zeros(len(self.groups), width, *z.shape[2:], device=z.device)
                    sums[layer][:, : z.shape[1]].index_add_(0, groups[place].to(z.device), z.float())
        counts = torch.bincount(torch.cat(list(keys)), minlength=len(self.groups)).view(-1, 1, 1, 1)
        return {layer: total / counts.to(total) for layer, total in sums.items()}


def _further(study: Study) -> list[TaskPrompts]:
    """Further prompts of the task for the means, as many as there are; none where a small task has no more."""
    task, prompts = study.task, study.prompts
    n = max(FEWEST_REFERENCES, REFERENCES_PER_TEMPLATE * len(prompts.template_names))
    n = min(n, task.most_prompts or n)
    try:
        more = task.prompts(study.model.tokenizer, n=n, seed=study.seed + 1, prepend_bos=prompts.prepend_bos)
    except InputError:
        return []
    return [by_length(more, task)]


def _draw(heads: Sequence[HeadRef], n: int, generator: torch.Generator) -> list[HeadRef]:
    return [heads[index] for index in torch.randperm(len(heads), generator=generator)[:n].tolist()]


def group_test(study: Study, heads: Sequence[HeadRef], *, n_random: int = RANDOM_GROUPS) -> dict[str, Any]:
    """Ablate these heads together, and keep only them, each against random groups of the same layers.

    Returns:
        JSON-like: ``heads``; ``reference prompts``; ``shared`` (by layer, how many heads of the group the random ones
        had to take); accuracy and metric of ``ablated``, ``kept`` and ``nothing kept``, and lists of both for
        ``random ablated`` and ``random kept``.
    """
    every = attention_heads(study.model)
    groups, shared = random_groups(heads, every, n=n_random, seed=study.seed)
    ablation = MeanAblation(study)
    hidden = None if study.progress is None else not study.progress
    with tqdm(total=3 + 2 * n_random, desc="ablating groups", unit="group", disable=hidden) as bar:

        def ablated(group: Sequence[HeadRef]) -> Performance:
            bar.update()
            return ablation.performance(group)

        def kept(group: Sequence[HeadRef]) -> Performance:
            return ablated([head for head in every if head not in group])

        return {
            "heads": [head.label for head in heads],
            "reference prompts": ablation.n_references,
            "shared": {f"layer {layer}": count for layer, count in shared.items()},
            "ablated": ablated(heads).to_dict(),
            "kept": kept(heads).to_dict(),
            "nothing kept": ablated(every).to_dict(),
            "random ablated": _lists([ablated(group) for group in groups]),
            "random kept": _lists([kept(group) for group in groups]),
        }


def _lists(performances: Sequence[Performance]) -> dict[str, list[float]]:
    return {"accuracy": [p.accuracy for p in performances], "metric": [p.metric for p in performances]}
