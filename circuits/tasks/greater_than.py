"""Greater-than: a war that began in 1732 ends in a later year of the century."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks.prompts import TaskPrompts
from circuits.tasks.split import in_split
from circuits.tasks.task import TextTask
from circuits.tasks.text import Example, fill
from circuits.tasks.words import token_count, word_list
from interp.errors import InputError

TEMPLATE = "The {NOUN} lasted from the year {XX}{YY} to the year {XX}"
CENTURIES = tuple(range(11, 19))
YEARS = tuple(range(2, 99))
"""Start years within the century: a later and an earlier two-digit number exist for each."""


@dataclass(frozen=True, kw_only=True)
class GreaterThan(TextTask):
    """Greater-than on years.

    "The NOUN lasted from the year XXYY to the year XX" is answered by any two-digit number above YY. `answer` is one
    number drawn from those above YY and `wrong` one drawn from the others; the metric takes all hundred of them.
    A combination is a noun with a start year. The corruption replaces YY by 01.

    Source: Hanna, Liu, Variengien 2023, arXiv 2305.00586. Difference from the official data: a list of nouns of this
    project.
    """

    name = "greater-than"
    description = "greater-than: the second year of a span is later than the first"
    source = "Hanna et al. 2023, arXiv 2305.00586"
    metric_name = "probability difference"
    key_positions = ("YY", "END")

    @property
    def chance(self) -> float:
        """All hundred numbers alike."""
        return sum(year < 49 for year in YEARS) / len(YEARS)

    @property
    def template_names(self) -> tuple[str, ...]:
        return ("lasted/0",)

    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples; the answer is uniform over the later years, the wrong token over the others."""
        number_tokens(tokenizer)  # refuses tokenizers that cut years in other ways
        words = word_list("durations")
        nouns = [word for word, count in zip(words, token_count(tokenizer, words), strict=True) if count]
        while True:
            noun, century, year = random.choice(nouns), random.choice(CENTURIES), random.choice(YEARS)
            if not in_split(split, noun, f"{century}{year:02d}"):
                continue
            filling = {"NOUN": noun, "XX": str(century), "YY": f"{year:02d}"}
            yield Example(
                clean=fill(TEMPLATE, filling),
                corrupted=fill(TEMPLATE, filling | {"YY": "01"}),
                answer=f"{random.randint(year + 1, 99):02d}",
                wrong=f"{random.randint(0, year):02d}",
                template=0,
            )

    def complete(self, prompts: TaskPrompts, tokenizer: PreTrainedTokenizerBase) -> TaskPrompts:
        """The hundred numbers, and which of them are later years."""
        numbers = number_tokens(tokenizer)
        start = _start_years(prompts, numbers)
        sign = torch.where(torch.arange(100) > start[:, None], 1.0, -1.0)
        return replace(prompts, choices=numbers.expand(len(prompts), -1), choice_sign=sign)

    def metric(self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts) -> Float[Tensor, " prompt"]:
        """Probability of the years above YY minus that of the hundred's others (YY among these); in [-1, 1]."""
        probabilities, sign = _choice_probabilities(logits, prompts)
        return (probabilities * sign).sum(dim=-1)

    def correct(self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts) -> Bool[Tensor, " prompt"]:
        """Whether the years above YY are together more probable than the others of the hundred."""
        return self.metric(logits, prompts) > 0

    def measurements(
        self, logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts
    ) -> dict[str, Float[Tensor, " prompt"]]:
        """Besides: mass on the valid years, and total variation distance from the uniform distribution over them.

        A model that always says 99 has all its mass on valid years; only the distance shows that it did not read YY.
        """
        probabilities, sign = _choice_probabilities(logits, prompts)
        valid = (sign > 0).float()
        ideal = valid / valid.sum(dim=-1, keepdim=True)
        return super().measurements(logits, prompts) | {
            "valid-year mass": (probabilities * valid).sum(dim=-1),
            "distance to uniform": (ideal - probabilities).clamp_min(0).sum(dim=-1),
        }

    def chance_of(self, measurement: str) -> float:
        """The uniform distribution over the hundred numbers."""
        valid = sum(99 - year for year in YEARS) / (100 * len(YEARS))
        values = {"valid-year mass": valid, self.metric_name: 2 * valid - 1, "distance to uniform": 1 - valid}
        return values.get(measurement, self.chance)


def number_tokens(tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, "100"]:
    """The tokens of "00" to "99" after a two-digit century.

    A number that follows no century as a token of its own (GPT-2 has 1100, 1200, ... as single tokens) is taken from
    the vocabulary by its digits.

    Raises:
        InputError: the tokenizer does not cut four-digit years into two pairs of digits.
    """
    carrier, vocabulary = "the year", tokenizer.get_vocab()
    numbers = [f"{number:02d}" for number in range(100)]
    tokens: dict[str, int] = {}
    for century in CENTURIES:
        head = tokenizer(f"{carrier} {century}", add_special_tokens=False)["input_ids"]
        rows = tokenizer([f"{carrier} {century}{number}" for number in numbers], add_special_tokens=False)["input_ids"]
        for number, ids in zip(numbers, rows, strict=True):
            if ids[:-1] == head and ids[-1] != tokenizer.unk_token_id:
                tokens.setdefault(number, ids[-1])
    found = len(tokens)
    tokens |= {number: vocabulary[number] for number in numbers if number not in tokens and number in vocabulary}
    if found < 90 or len(tokens) < 100:
        raise InputError(
            f"The tokenizer cuts years into a century and two digits for only {found} of the 100 two-digit numbers; "
            "greater-than needs a tokenizer that does so, as GPT-2's."
        )
    return torch.tensor([tokens[number] for number in numbers])


def _start_years(prompts: TaskPrompts, numbers: Int[Tensor, "100"]) -> Int[Tensor, " prompt"]:
    """YY of each prompt, read off its token."""
    year_token = prompts.clean.gather(1, prompts.positions["YY"][:, None])
    return (numbers == year_token).int().argmax(dim=-1)


def _choice_probabilities(
    logits: Float[Tensor, "prompt vocab"], prompts: TaskPrompts
) -> tuple[Float[Tensor, "prompt choice"], Float[Tensor, "prompt choice"]]:
    """Probabilities of the hundred numbers under the full softmax, and +1 or -1 for each."""
    assert prompts.choices is not None and prompts.choice_sign is not None
    probabilities = logits.float().softmax(dim=-1)
    return probabilities.gather(1, prompts.choices.to(logits.device)), prompts.choice_sign.to(logits.device)
