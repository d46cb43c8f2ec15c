"""Aligned clean and corrupted prompts of a task, as tensors: what every study of a task starts from."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TaskPrompts:
    """Examples of one task; clean and corrupted rows have the same tokens except where the corruption changed one.

    Rows are padded on the right to one length. Causal models give the real tokens the same numbers with and without
    padding on the right, so the mask is needed only by what averages over tokens.
    """

    task: str
    clean: Int[Tensor, "prompt token"]
    corrupted: Int[Tensor, "prompt token"]
    attention_mask: Int[Tensor, "prompt token"]
    answer: Int[Tensor, " prompt"]
    """Token that should follow the clean prompt."""
    wrong: Int[Tensor, " prompt"]
    """Token that the metric compares it with."""
    positions: dict[str, Int[Tensor, " prompt"]]
    """Named token positions, from the left, a BOS counted."""
    template: Int[Tensor, " prompt"]
    """Index into `template_names`."""
    template_names: tuple[str, ...]
    """Named SUBSET/NUMBER, so that results can be reported per subset: "ABBA/3", "country-capital/0"."""
    prepend_bos: bool
    texts: tuple[str, ...]
    corrupted_texts: tuple[str, ...]
    answers: Int[Tensor, "prompt answer"] | None = None
    """All tokens of answers of several, the first of which is `answer`; -1 after the end of a shorter one."""
    choices: Int[Tensor, "prompt choice"] | None = None
    """Tokens of a metric over many answers (the 100 two-digit numbers of greater-than)."""
    choice_sign: Float[Tensor, "prompt choice"] | None = None
    """+1 for a choice that is right, -1 for one that is wrong."""

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def subsets(self) -> tuple[str, ...]:
        """The subset of each prompt."""
        return tuple(self.template_names[index].rpartition("/")[0] for index in self.template.tolist())

    def with_answers(self, position: str) -> tuple[Int[Tensor, "prompt longer"], Int[Tensor, "prompt longer"]]:
        """Clean rows with their whole answers after the named position, and the attention mask of these."""
        assert self.answers is not None
        at = self.positions[position][:, None]
        longest = self.answers.shape[1]
        places = at + 1 + torch.arange(longest)
        tokens = torch.cat([self.clean, self.clean[:, :1].expand(-1, longest)], dim=1)
        tokens = tokens.scatter(1, places, self.answers.clamp_min(0))
        known = at + (self.answers >= 0).sum(dim=1, keepdim=True)
        return tokens, (torch.arange(tokens.shape[1]) <= known).long()

    def select(self, index: slice | list[int] | Int[Tensor, " selected"] | Bool[Tensor, " prompt"]) -> "TaskPrompts":
        """The prompts with these indices, in this order."""
        rows = torch.arange(len(self))[index]

        def take(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows]
            if isinstance(value, dict):
                return {name: take(tensor) for name, tensor in value.items()}
            return value

        values = {field.name: take(getattr(self, field.name)) for field in fields(self)}
        values |= {
            name: tuple(getattr(self, name)[row] for row in rows.tolist()) for name in ("texts", "corrupted_texts")
        }
        return TaskPrompts(**values)
