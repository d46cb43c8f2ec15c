"""What a task is: prompts with named positions, and how well logits answer them."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks.prompts import TaskPrompts


class Task(ABC):
    """A behaviour that a model shows or does not show on prompts of one kind.

    A task is a frozen dataclass of its options in one file, entered in `circuits.tasks.TASKS`. A task made of text says
    which examples there are and hands them to `encode_prompts`; the rest is shared.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    source: ClassVar[str]
    metric_name: ClassVar[Literal["logit difference", "probability difference"]] = "logit difference"
    answer_position: ClassVar[str] = "END"
    key_positions: ClassVar[tuple[str, ...]]
    """Named positions that a head's attention is reported to."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Share of correct answers of a model that knows the kind of answer but not which one; each task says how."""

    @property
    def most_prompts(self) -> int | None:
        """How many different clean test prompts there are, where there are few; None for as good as endless."""
        return None

    @abstractmethod
    def prompts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        n: int,
        seed: int,
        split: str = "test",
        prepend_bos: bool | None = None,
    ) -> TaskPrompts:
        """`n` distinct prompts of a split; the same seed gives the same prompts on every machine.

        Raises:
            InputError: the tokenizer has too few of the task's words as single tokens.
        """

    def metric(self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts) -> Float[Tensor, " prompt"]:
        """Logit of the answer minus logit of the wrong token at END, in nats; 0 means undecided, no bounds."""
        return (logits.gather(1, prompts.answer[:, None]) - logits.gather(1, prompts.wrong[:, None])).squeeze(1)

    def correct(self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts) -> Bool[Tensor, " prompt"]:
        """Whether the answer has the largest logit of the whole vocabulary."""
        return logits.argmax(dim=-1) == prompts.answer

    def measurements(
        self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts
    ) -> dict[str, Float[Tensor, " prompt"]]:
        """Every number that `circuits.evaluate` reports, per prompt."""
        return {"accuracy": self.correct(logits, prompts).float(), self.metric_name: self.metric(logits, prompts)}

    def chance_of(self, measurement: str) -> float:
        """What a model that cannot tell answer from wrong gets, in the unit of the measurement."""
        return self.chance if measurement == "accuracy" else 0.0
