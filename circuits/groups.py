"""Whether heads do a task together: ablate or keep a group of them, against random groups of the same layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import answer_logits, batches, by_length
from circuits.patching import attention_heads
from circuits.tasks import Task, TaskPrompts
from interp.errors import InputError
from interp.heads import HeadRef
from interp.interventions.ablate_heads import ablate_heads
from interp.interventions.capture_heads import CaptureHeads
from interp.model.model import Model

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

    def __init__(self, model: Model, task: Task, prompts: TaskPrompts, *, seed: int, batch_size: int = 64) -> None:
        self.model, self.task, self.prompts, self.batch_size = model, task, by_length(prompts, task), batch_size
        references = [self.prompts, *_further(model, task, self.prompts, seed)]
        self.groups: dict[tuple[int, int], int] = {}
        self.n_references = sum(len(some) for some in references)
        keys = [self._keys(some) for some in references]
        width = max(some.corrupted.shape[1] for some in references)
        self.means = self._means(references, keys, width)

    def performance(self, ablated: Sequence[HeadRef]) -> Performance:
        """How well the task is done on the clean prompts with these heads ablated."""
        heads = torch.zeros(self.model.n_layers, self.model.n_heads, dtype=torch.bool)
        for head in ablated:
            heads[head.layer, head.head] = True
        logits = torch.cat(
            [self._logits(batch, heads) for _, batch in batches(self.prompts, self.task, self.batch_size)]
        )
        return Performance(
            accuracy=float(self.task.correct(logits, self.prompts).double().mean()),
            metric=float(self.task.metric(logits, self.prompts).double().mean()),
        )

    def _logits(self, batch: TaskPrompts, heads: Bool[Tensor, "layer head"]) -> Float[Tensor, "prompt vocab"]:
        rows, end = self._keys(batch), batch.clean.shape[1]
        needed = [layer for layer in range(self.model.n_layers) if bool(heads[layer].any())]
        values = {layer: self.means[layer][rows, :end] for layer in needed}
        with torch.inference_mode():
            return answer_logits(
                self.model, batch.clean, batch.positions[self.task.answer_position], ablate_heads(heads, values)
            )

    def _keys(self, prompts: TaskPrompts) -> Int[Tensor, " prompt"]:
        """The group of each prompt: its template and its length."""
        ends = prompts.positions[self.task.answer_position].tolist()
        pairs = zip(prompts.template.tolist(), ends, strict=True)
        return torch.tensor([self.groups.setdefault(pair, len(self.groups)) for pair in pairs])

    def _means(
        self, references: Sequence[TaskPrompts], keys: Sequence[Tensor], width: int
    ) -> dict[int, Float[Tensor, "group position head d_head"]]:
        sums: dict[int, Float[Tensor, "group position head d_head"]] = {}
        for some, groups in zip(references, keys, strict=True):
            for place, batch in batches(some, self.task, self.batch_size):
                reader = CaptureHeads()
                with torch.inference_mode():
                    answer_logits(self.model, batch.corrupted, batch.positions[self.task.answer_position], reader)
                for layer, z in reader.z.items():
                    if layer not in sums:
                        sums[layer] = torch.zeros(len(self.groups), width, *z.shape[2:], device=z.device)
                    sums[layer][:, : z.shape[1]].index_add_(0, groups[place].to(z.device), z.float())
        counts = torch.bincount(torch.cat(list(keys)), minlength=len(self.groups)).view(-1, 1, 1, 1)
        return {layer: total / counts.to(total) for layer, total in sums.items()}


def _further(model: Model, task: Task, prompts: TaskPrompts, seed: int) -> list[TaskPrompts]:
    """Further prompts of the task for the means, as many as there are; none where a small task has no more."""
    n = max(FEWEST_REFERENCES, REFERENCES_PER_TEMPLATE * len(prompts.template_names))
    try:
        more = task.prompts(
            model.tokenizer, n=min(n, task.most_prompts or n), seed=seed + 1, prepend_bos=prompts.prepend_bos
        )
    except InputError:
        return []
    return [by_length(more, task)]


def _draw(heads: Sequence[HeadRef], n: int, generator: torch.Generator) -> list[HeadRef]:
    return [heads[index] for index in torch.randperm(len(heads), generator=generator)[:n].tolist()]


def group_test(
    model: Model,
    task: Task,
    prompts: TaskPrompts,
    heads: Sequence[HeadRef],
    *,
    seed: int,
    n_random: int = RANDOM_GROUPS,
    batch_size: int = 64,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Ablate these heads together, and keep only them, each against random groups of the same layers.

    Returns:
        JSON-like: ``heads``, ``random_groups``, ``reference_prompts``, ``shared`` (by layer, how many heads of the
        group the random ones had to take), and accuracy and metric of ``ablated``, ``kept`` and ``nothing kept``, with
        lists of both for ``random ablated`` and ``random kept``.
    """
    every = attention_heads(model)
    groups, shared = random_groups(heads, every, n=n_random, seed=seed)
    ablation = MeanAblation(model, task, prompts, seed=seed, batch_size=batch_size)
    hidden = None if progress is None else not progress
    with tqdm(total=3 + 2 * n_random, desc="ablating groups", unit="group", disable=hidden) as bar:

        def performance(ablated: Sequence[HeadRef]) -> Performance:
            bar.update()
            return ablation.performance(ablated)

        def kept(group: Sequence[HeadRef]) -> Performance:
            return performance([head for head in every if head not in group])

        return {
            "heads": [head.label for head in heads],
            "reference_prompts": ablation.n_references,
            "shared": {f"layer {layer}": count for layer, count in shared.items()},
            "ablated": performance(heads).to_dict(),
            "kept": kept(heads).to_dict(),
            "nothing kept": performance(every).to_dict(),
            "random ablated": _lists([performance(group) for group in groups]),
            "random kept": _lists([kept(group) for group in groups]),
        }


def _lists(performances: Sequence[Performance]) -> dict[str, list[float]]:
    return {"accuracy": [p.accuracy for p in performances], "metric": [p.metric for p in performances]}
