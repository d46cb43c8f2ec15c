"""What a model is measured on: prompts of a task, or plain text; the same questions are asked of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from circuits.forward import answer_logits, batches
from circuits.groups import MeanAblation
from circuits.patching import attention_heads
from circuits.study import Study
from circuits.tasks import TaskPrompts
from interp.attention.kernel import row_dtype
from interp.attention.participants import Participant
from interp.attention.session import watch
from interp.errors import InputError
from interp.heads import HeadRef
from interp.interventions.capture_heads import CaptureHeads
from interp.model.model import Inputs, Model
from interp.model.tokens import TokenBatch
from interp.results import Provenance

HeadOutputs = dict[int, Float[Tensor, "example position head d_head"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Some examples in one batch.

    Attributes:
        rows: their places among all examples.
        tokens: token ids; `n_tokens` of each row are real and take part.
        source: what the objective made them from.
    """

    rows: Int[Tensor, " example"]
    tokens: Int[Tensor, "example position"]
    n_tokens: Int[Tensor, " example"]
    source: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Of every example (of every copy of it, copy by copy) the metric, higher is better, and the accuracy in [0, 1]."""

    metric: Float[Tensor, " example"]
    accuracy: Float[Tensor, " example"]


class Objective(ABC):
    """Examples with a metric that a model does well or badly on.

    Attributes:
        name: such as "ioi" or "text".
        metric_name, unit: of the metric; higher is better.
        chance: metric and accuracy of a model that knows nothing of the example.
    """

    name: str
    metric_name: str
    unit: str
    chance: dict[str, float]

    def __init__(self, model: Model, *, batch_size: int, progress: bool | None, seed: int) -> None:
        self.model = model
        self.batch_size = batch_size
        self.bar_hidden = None if progress is None else not progress
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self) -> Iterator[Examples]:
        """All examples, at most `batch_size` at a time."""

    @abstractmethod
    def measure(self, batch: Examples, *participants: Participant, copies: int = 1) -> Measured:
        """Run the batch, `copies` of it below each other, with these readers and editors."""

    @abstractmethod
    def means(self, batch: Examples, layers: Sequence[int]) -> HeadOutputs:
        """Mean outputs of every head, for mean ablation; the position axis may be 1."""

    @abstractmethod
    def others(self, batch: Examples) -> HeadOutputs:
        """Outputs of every head on another example, for resample ablation."""

    @abstractmethod
    def halves(self) -> tuple[Objective, Objective]:
        """Every second example, and the rest: one half to choose heads by, one to measure the choice on."""

    @abstractmethod
    def provenance(self, parameters: dict[str, Any], problems: Sequence[str]) -> Provenance:
        """Where a result on these examples comes from."""

    @cached_property
    def heads(self) -> list[HeadRef]:
        """Every head of the model, layer by layer."""
        return attention_heads(self.model)

    @cached_property
    def absent(self) -> Bool[Tensor, "layer head"]:
        """True where a layer has no such head."""
        absent = torch.ones(self.model.n_layers, self.model.n_heads, dtype=torch.bool)
        absent[[head.layer for head in self.heads], [head.head for head in self.heads]] = False
        return absent

    def measured(self) -> Measured:
        """Metric and accuracy of every example with the model as it is."""
        with torch.no_grad():
            found = [self.measure(batch) for batch in self.batches()]
        return Measured(
            metric=torch.cat([part.metric for part in found]), accuracy=torch.cat([part.accuracy for part in found])
        )

    def _first_and_second(self) -> tuple[list[int], list[int]]:
        if len(self) < 2:
            raise InputError(
                f"{len(self)} example cannot be divided into one half to choose heads by and one to measure them on; "
                "give at least two."
            )
        return list(range(0, len(self), 2)), list(range(1, len(self), 2))


class TaskObjective(Objective):
    """The clean prompts of a task and the task's own metric at END.

    Mean ablation takes the means of `circuits.groups.MeanAblation` (same template, same position); resample ablation
    the outputs on the prompt's own corruption (noising, as in `circuits.patching`).
    """

    def __init__(self, study: Study) -> None:
        hidden = study.progress
        super().__init__(study.model, batch_size=study.batch_size, progress=hidden, seed=study.seed)
        task = study.task
        self.study = study
        self.name, self.metric_name = task.name, task.metric_name
        self.unit = "nats" if task.metric_name == "logit difference" else "probability"
        self.chance = {"metric": task.chance_of(task.metric_name), "accuracy": task.chance_of("accuracy")}

    def __len__(self) -> int:
        return len(self.study.prompts)

    def batches(self) -> Iterator[Examples]:
        for place, prompts in batches(self.study.prompts, self.study.task, self.batch_size):
            yield Examples(
                rows=torch.arange(len(self))[place],
                tokens=prompts.clean,
                n_tokens=self._ends(prompts) + 1,
                source=prompts,
            )

    def measure(self, batch: Examples, *participants: Participant, copies: int = 1) -> Measured:
        prompts: TaskPrompts = batch.source.select(torch.arange(len(batch.tokens)).repeat(copies))
        logits = answer_logits(self.model, prompts.clean, self._ends(prompts), *participants)
        task = self.study.task
        return Measured(metric=task.metric(logits, prompts), accuracy=task.correct(logits, prompts).float())

    def means(self, batch: Examples, layers: Sequence[int]) -> HeadOutputs:
        return self._mean_ablation.values(batch.source, layers)

    def others(self, batch: Examples) -> HeadOutputs:
        heads, prompts = CaptureHeads(), batch.source
        with torch.no_grad():
            answer_logits(self.model, prompts.corrupted, self._ends(prompts), heads)
        return heads.z

    def halves(self) -> tuple[Objective, Objective]:
        first, second = (self.study.prompts.select(rows) for rows in self._first_and_second())
        return TaskObjective(replace(self.study, prompts=first)), TaskObjective(replace(self.study, prompts=second))

    def provenance(self, parameters: dict[str, Any], problems: Sequence[str]) -> Provenance:
        return self.study.provenance(parameters, list(problems))

    @cached_property
    def _mean_ablation(self) -> MeanAblation:
        return MeanAblation(self.study)

    def _ends(self, prompts: TaskPrompts) -> Int[Tensor, " prompt"]:
        return prompts.positions[self.study.task.answer_position]


class TextObjective(Objective):
    """Plain text: the mean log-probability of each next token, in nats per token (minus the language-model loss).

    Accuracy is the share of tokens that have the largest logit. Every example counts alike, whatever its length.
    Chance is a uniform guess over the vocabulary. Mean ablation takes the mean over all tokens of all examples;
    resample ablation the outputs on another example at the same position, drawn by the seed.
    """

    name = "text"
    metric_name = "log-probability per token"
    unit = "nats per token"

    def __init__(self, model: Model, text: Inputs, *, batch_size: int, progress: bool | None, seed: int) -> None:
        if not model.predicts_next_token:
            raise InputError(f"{model.name} does not predict the next token of a text. Use a decoder-only model.")
        super().__init__(model, batch_size=batch_size, progress=progress, seed=seed)
        self.text = model.batch(text)
        lengths = self.text.mask.sum(-1)
        if int(lengths.min()) < 2:
            raise InputError("A text of one token has no next token to predict; give texts of at least two tokens.")
        embedding: Any = model.hf.get_output_embeddings()
        n_vocab = int(embedding.weight.shape[0])
        self.chance = {"metric": -float(torch.tensor(float(n_vocab)).log()), "accuracy": 1 / n_vocab}

    def __len__(self) -> int:
        return len(self.text)

    def batches(self) -> Iterator[Examples]:
        for start in range(0, len(self), self.batch_size):
            yield self._examples(torch.arange(start, min(start + self.batch_size, len(self))))

    def measure(self, batch: Examples, *participants: Participant, copies: int = 1) -> Measured:
        text: TokenBatch = batch.source
        text = TokenBatch(text.tokens.repeat(copies, 1), text.mask.repeat(copies, 1), text.prepend_bos)
        with watch(self.model, *participants) if participants else nullcontext():
            logits = self.model(text, use_cache=False)[:, :-1]
        targets = text.tokens[:, 1:]
        counted = (text.mask[:, 1:] * text.mask[:, :-1]).float()
        logits = logits.to(row_dtype(logits.dtype))
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(counted)
        right = (logits.argmax(-1) == targets).float()
        n_targets = counted.sum(-1)
        return Measured(
            metric=(-(loss * counted).sum(-1) / n_targets).cpu(),
            accuracy=((right * counted).sum(-1) / n_targets).cpu(),
        )

    def means(self, batch: Examples, layers: Sequence[int]) -> HeadOutputs:
        return {layer: self._token_means[layer].expand(len(batch.tokens), -1, -1, -1) for layer in layers}

    def others(self, batch: Examples) -> HeadOutputs:
        return self._outputs(self._examples(self._donors[batch.rows]))

    def halves(self) -> tuple[Objective, Objective]:
        first, second = (self._part(torch.tensor(rows)) for rows in self._first_and_second())
        return first, second

    def provenance(self, parameters: dict[str, Any], problems: Sequence[str]) -> Provenance:
        return self.model.provenance([self.text], seed=self.seed, parameters=parameters, warnings=problems)

    @cached_property
    def _token_means(self) -> HeadOutputs:
        sums: HeadOutputs = {}
        for batch in self.batches():
            mask = batch.source.mask[..., None, None]
            for layer, z in self._outputs(batch).items():
                total = (z.double() * mask).sum((0, 1), keepdim=True)
                sums[layer] = sums[layer] + total if layer in sums else total
        return {layer: (total / self.text.mask.sum()).float() for layer, total in sums.items()}

    @cached_property
    def _donors(self) -> Int[Tensor, " example"]:
        """For every example another one, each once."""
        if len(self) < 2 or not bool(self.text.mask.all()):
            raise InputError(
                "Resample ablation takes a head's outputs from another text at the same position, so it needs two "
                "texts or more, all with the same number of tokens; cut the texts to one length."
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(self.seed))
        donors = torch.empty_like(order)
        donors[order] = order.roll(1)  # in a cycle through all examples nobody gets their own outputs
        return donors

    def _outputs(self, batch: Examples) -> HeadOutputs:
        heads = CaptureHeads()
        with torch.no_grad():
            self.measure(batch, heads)
        return heads.z

    def _examples(self, rows: Int[Tensor, " example"]) -> Examples:
        part = self.text.select(rows)
        return Examples(rows=rows, tokens=part.tokens, n_tokens=part.mask.sum(-1).cpu(), source=part)

    def _part(self, rows: Int[Tensor, " example"]) -> TextObjective:
        progress = None if self.bar_hidden is None else not self.bar_hidden
        return TextObjective(
            self.model, self.text.select(rows), batch_size=self.batch_size, progress=progress, seed=self.seed
        )
