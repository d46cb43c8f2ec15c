"""`Study`: a model, a task and its prompts, checked once; what every step of an analysis takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from circuits.forward import answer_logits, batches, by_length, check_language_model
from circuits.patching import attention_heads
from circuits.tasks import Task, TaskPrompts, get_task
from interp.errors import InputError
from interp.model.model import Model
from interp.model.tokens import TokenBatch
from interp.results import Provenance


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What is studied, and how.

    Attributes:
        prompts: from short to long.
        top: how many heads make the group that is tested together.
    """

    model: Model
    task: Task
    prompts: TaskPrompts
    seed: int
    top: int
    batch_size: int
    progress: bool | None

    @classmethod
    def of(
        cls,
        model: Model,
        task: str | Task,
        *,
        n_prompts: int,
        seed: int,
        top: int | None,
        batch_size: int,
        progress: bool | None,
    ) -> Study:
        """Check the arguments and write the prompts.

        Raises:
            InputError: as `find_heads` says.
        """
        check_language_model(model)
        for name, value in (("n_prompts", n_prompts), ("top", 1 if top is None else top), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name}={value}: expected at least 1.")
        known = get_task(task) if isinstance(task, str) else task
        prompts = known.prompts(model.tokenizer, n=min(n_prompts, known.most_prompts or n_prompts), seed=seed)
        model.batch(prompts.clean[:1])  # refuses prompts that are longer than the context
        n_heads = len(attention_heads(model))
        return cls(
            model=model,
            task=known,
            prompts=by_length(prompts, known),
            seed=seed,
            top=min(n_heads, top or max(1, min(10, n_heads // 4))),
            batch_size=batch_size,
            progress=progress,
        )

    def baseline(self) -> dict[str, dict[str, float]]:
        """Mean metric and accuracy on clean and on corrupted prompts, and by chance."""
        task, found = self.task, {}
        for name in ("clean", "corrupted"):
            logits = []
            for _, batch in batches(self.prompts, task, self.batch_size):
                with torch.inference_mode():
                    ends = batch.positions[task.answer_position]
                    logits.append(answer_logits(self.model, getattr(batch, name), ends))
            answered = torch.cat(logits)
            found[name] = {
                "metric": float(task.metric(answered, self.prompts).double().mean()),
                "accuracy": float(task.correct(answered, self.prompts).double().mean()),
            }
        chance = {"metric": task.chance_of(task.metric_name), "accuracy": task.chance_of("accuracy")}
        return found | {"chance": chance}

    def provenance(self, parameters: dict[str, Any], problems: list[str]) -> Provenance:
        """Where a result of this study comes from; the prompt hash covers clean and corrupted prompts."""
        prompts = self.prompts
        tokens = (prompts.clean, prompts.corrupted)
        return self.model.provenance(
            [TokenBatch(rows, prompts.attention_mask, prompts.prepend_bos) for rows in tokens],
            seed=self.seed,
            parameters={"task": repr(self.task), "n_prompts": len(prompts), "top": self.top} | parameters,
            warnings=problems,
        )
