"""What a task is: prompts with named positions, and how well logits answer them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from random import Random
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks.documents import Document, MarkedText, encode_documents
from circuits.tasks.encode import encode_prompts
from circuits.tasks.prompts import TaskPrompts
from circuits.tasks.split import check_split
from circuits.tasks.text import Example


class Task(ABC):
    """A behaviour that a model shows or does not show on prompts of one kind.

    A task is a frozen dataclass of its options in one file, entered in `circuits.tasks.TASKS`. One that is made of text
    derives from `TextTask` and says which examples there are; the rest is shared.
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

    @abstractmethod
    def documents(
        self, tokenizer: PreTrainedTokenizerBase, *, n: int, seed: int, split: str = "train"
    ) -> list[Document]:
        """`n` training texts, each with its answers, and which of their tokens the context determines."""

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


class TextTask(Task):
    """A task whose prompts are sentences: it says which examples there are, and the tokenizer does the rest."""

    @property
    @abstractmethod
    def template_names(self) -> tuple[str, ...]:
        """Names of the sentence patterns, SUBSET/NUMBER."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Named positions to find in the prompts."""
        return self.key_positions

    @abstractmethod
    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples of a split, of words that the tokenizer has as single tokens.

        Raises:
            InputError: the tokenizer has too few of them.
        """

    def texts(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[MarkedText]:
        """Endless training texts; by default a prompt with its answer."""
        for example in self.examples(tokenizer, random, split):
            answer = example.answer + example.rest
            yield MarkedText.join([(example.clean.text, False), (answer, True), (example.end, False)])

    def complete(self, prompts: TaskPrompts, tokenizer: PreTrainedTokenizerBase) -> TaskPrompts:  # noqa: ARG002
        """Prompts with what a metric over many tokens needs besides."""
        return prompts

    def prompts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        n: int,
        seed: int,
        split: str = "test",
        prepend_bos: bool | None = None,
    ) -> TaskPrompts:
        check_split(split)
        prompts = encode_prompts(
            self.examples(tokenizer, Random(f"{self.name}-{split}-{seed}"), split),
            tokenizer,
            task=self.name,
            n=n,
            slots=self.slots,
            template_names=self.template_names,
            prepend_bos=prepend_bos,
        )
        return self.complete(prompts, tokenizer)

    def documents(
        self, tokenizer: PreTrainedTokenizerBase, *, n: int, seed: int, split: str = "train"
    ) -> list[Document]:
        check_split(split)
        random = Random(f"{self.name}-documents-{split}-{seed}")
        return encode_documents(self.texts(tokenizer, random, split), tokenizer, task=self.name, n=n)


class PairTask(TextTask):
    """A task that asks which of two tokens is more probable: right is the answer before the wrong one."""

    @property
    def chance(self) -> float:
        """One of the two tokens."""
        return 0.5

    def correct(self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts) -> Bool[Tensor, " prompt"]:
        """Whether the answer has a larger logit than the wrong token."""
        return self.metric(logits, prompts) > 0

    def measurements(
        self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts
    ) -> dict[str, Float[Tensor, " prompt"]]:
        """Besides: whether the answer is the best token of the whole vocabulary."""
        top = (logits.argmax(dim=-1) == prompts.answer).float()
        return super().measurements(logits, prompts) | {"top-1 accuracy": top}
