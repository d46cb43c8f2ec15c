"""Indirect object identification: the sentence ends with the name that was mentioned once."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from circuits.tasks.ioi_templates import TEMPLATE_NAMES, TEMPLATES
from circuits.tasks.split import in_split
from circuits.tasks.task import PairTask
from circuits.tasks.text import Example, fill
from circuits.tasks.words import single_token_words, word_list
from interp.errors import InputError

CORRUPTIONS = ("s2_random", "s2_io_flip", "abc")


@dataclass(frozen=True, kw_only=True)
class IndirectObject(PairTask):
    """Indirect object identification (IOI).

    "Then, S1 and IO went to the PLACE. S2 gave a OBJECT to" is answered by IO, where S1 and S2 are the same name; 15
    patterns, each with the subject first (BABA) and with the indirect object first (ABBA).

    A combination is the unordered pair of names, and the pair of place and object; the test split holds out both.

    Corruptions: `s2_random` replaces S2 by a third name, so that no name is repeated; `s2_io_flip` replaces S2 by IO,
    so that the two names change their parts; `abc` replaces IO, S1 and S2 by three other names.

    Source: Wang et al. 2022, arXiv 2211.00593. Difference from the official data: a list of names, places and objects
    of this project, and no prompt twice.
    """

    name = "ioi"
    description = "indirect object identification: which of two names receives"
    source = "Wang et al. 2022, arXiv 2211.00593"
    key_positions = ("IO", "S1", "S1+1", "S2", "END")
    corruption: str = "s2_random"

    def __post_init__(self) -> None:
        if self.corruption not in CORRUPTIONS:
            raise InputError(f"Unknown corruption {self.corruption!r} of ioi; choose from {', '.join(CORRUPTIONS)}.")

    @property
    def template_names(self) -> tuple[str, ...]:
        return TEMPLATE_NAMES

    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples, templates in turn, so that every prefix is balanced between BABA and ABBA."""
        names = single_token_words(tokenizer, word_list("names"), what="names", at_least=20)
        places, objects = word_list("places"), word_list("objects")
        scenes = [(place, thing) for place in places for thing in objects if in_split(split, place, thing)]
        half = len(TEMPLATES) // 2
        while True:
            for pattern in random.sample(range(half), half):
                for template in (pattern, pattern + half):
                    yield self._example(template, _draw_names(names, random, split), random.choice(scenes))

    def _example(self, template: int, names: list[str], scene: tuple[str, str]) -> Example:
        indirect, subject, *others = names
        words = {"IO": indirect, "S1": subject, "S2": subject, "PLACE": scene[0], "OBJECT": scene[1]}
        changed = {
            "s2_random": {"S2": others[0]},
            "s2_io_flip": {"S2": indirect},
            "abc": dict(zip(("IO", "S1", "S2"), others, strict=True)),
        }[self.corruption]
        return Example(
            clean=fill(TEMPLATES[template], words),
            corrupted=fill(TEMPLATES[template], words | changed),
            answer=f" {indirect}",
            wrong=f" {subject}",
            template=template,
        )


def _draw_names(names: tuple[str, ...], random: Random, split: str) -> list[str]:
    """Five different names, of which the first two are a pair of this split."""
    while True:
        drawn = random.sample(names, 5)
        if in_split(split, *sorted(drawn[:2])):
            return drawn
