"""Gendered pronouns: which pronoun stands for a name."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from circuits.tasks.split import in_split
from circuits.tasks.task import PairTask
from circuits.tasks.text import Example, fill
from circuits.tasks.words import single_token_words, word_list

PATTERNS = (
    ("subject", "So {NAME} is such a {ADJECTIVE} person, isn't", "?"),
    ("subject", "{NAME} was {ADJECTIVE} and went home because", " was there."),
    ("subject", "When {NAME} is {ADJECTIVE}, everyone asks what", " wants."),
    ("object", "Because {NAME} is so {ADJECTIVE}, everyone likes", "."),
    ("object", "The {ADJECTIVE} student met {NAME} and talked to", "."),
    ("possessive", "At the party the {ADJECTIVE} {NAME} lost", " ticket."),
    ("possessive", "{NAME} was {ADJECTIVE} and went to", " room."),
)
"""Subset, sentence up to the pronoun, and how it goes on in training."""
PRONOUNS = {"subject": ("she", "he"), "object": ("her", "him"), "possessive": ("her", "his")}


@dataclass(frozen=True, kw_only=True)
class Pronoun(PairTask):
    """Gendered pronouns.

    "So NAME is such a ADJECTIVE person, isn't" is answered by "she" or "he", as the name usually goes; other sentences
    ask for the object and the possessive. The corruption puts in a name of the other gender, and `wrong` is its
    pronoun. A combination is a name with an adjective.

    Source: the first sentence is that of Mathwin et al. 2023 (hackathon report). Difference: further sentences.
    """

    name = "pronoun"
    description = "gendered pronoun: she or he, as the name before"
    source = "Mathwin et al. 2023"
    key_positions = ("NAME", "END")

    @property
    def template_names(self) -> tuple[str, ...]:
        return tuple(f"{subset}/{i}" for i, (subset, _, _) in enumerate(PATTERNS))

    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples, sentences in turn; every second name is a man's."""
        names = [
            single_token_words(tokenizer, word_list(f"{gender}_names"), what=f"{gender} names", at_least=8)
            for gender in ("female", "male")
        ]
        adjectives = word_list("adjectives")
        while True:
            for template in random.sample(range(len(PATTERNS)), len(PATTERNS)):
                male = random.random() < 0.5
                name, adjective = random.choice(names[male]), random.choice(adjectives)
                if not in_split(split, name, adjective):
                    continue
                subset, pattern, end = PATTERNS[template]
                words = {"NAME": name, "ADJECTIVE": adjective}
                yield Example(
                    clean=fill(pattern, words),
                    corrupted=fill(pattern, words | {"NAME": random.choice(names[not male])}),
                    answer=f" {PRONOUNS[subset][male]}",
                    wrong=f" {PRONOUNS[subset][not male]}",
                    template=template,
                    end=end,
                )
