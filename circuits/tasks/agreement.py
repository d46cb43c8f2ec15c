"""Subject-verb agreement: the verb has the number of its subject, not of the noun before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from circuits.tasks.documents import MarkedText
from circuits.tasks.split import in_split
from circuits.tasks.task import PairTask
from circuits.tasks.text import Example, fill
from circuits.tasks.words import single_token_words, word_list

TENSES = {"Today": ("is", "are"), "Yesterday": ("was", "were"), "For years": ("has", "have")}
"""The first words tell which verb comes; its number is for the subject to tell."""
CASES = {
    "prepositional phrase": "the {SUBJECT} near the {ATTRACTOR}",
    "two prepositional phrases": "the {SUBJECT} behind the {ATTRACTOR} near the {PLACE}",
    "subject relative clause": "the {SUBJECT} that met the {ATTRACTOR}",
    "object relative clause": "the {SUBJECT} that the {ATTRACTOR} saw",
    "within relative clause": "the {ATTRACTOR} that the {SUBJECT}",
}
TEMPLATES = tuple(f"{lead} {case}" for case in CASES.values() for lead in TENSES)
TEMPLATE_NAMES = tuple(f"{name}/{i}" for name in CASES for i in range(len(TENSES)))


@dataclass(frozen=True, kw_only=True)
class Agreement(PairTask):
    """Subject-verb agreement with an attractor.

    "Today the SUBJECT near the ATTRACTOR" is answered by "is" or "are". The attractor, a noun between subject and verb
    (before both within the relative clause), always has the other number in the prompts; in the training texts it has
    either, so that it tells nothing. The corruption gives the subject the other number, and `wrong` is the verb that
    this asks for.

    A combination is a subject with an attractor, whatever their numbers.

    Source: the cases of Marks et al. 2024, arXiv 2403.19647 (nounpp, rc, within_rc). Difference: words of this
    project, and a first word that tells the verb, so that one token is the answer.
    """

    name = "agreement"
    description = "subject-verb agreement: the verb agrees with its subject, not with a nearer noun"
    source = "after Marks et al. 2024, arXiv 2403.19647"
    key_positions = ("SUBJECT", "ATTRACTOR", "END")

    @property
    def template_names(self) -> tuple[str, ...]:
        return TEMPLATE_NAMES

    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples, templates in turn; every second subject is plural."""
        nouns = _nouns(tokenizer)
        while True:
            for template in random.sample(range(len(TEMPLATES)), len(TEMPLATES)):
                yield _example(template, nouns, random, split, same_number=False)

    def texts(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[MarkedText]:
        nouns, adjectives = _nouns(tokenizer), word_list("adjectives")
        while True:
            example = _example(random.randrange(len(TEMPLATES)), nouns, random, split, random.random() < 0.5)
            end = f" been {random.choice(adjectives)}." if "ha" in example.answer else f" {random.choice(adjectives)}."
            yield MarkedText.join([(example.clean.text, False), (example.answer, True), (end, False)])


def _nouns(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """(singular, plural) of people, each one token."""
    words = word_list("people")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    single = set(single_token_words(tokenizer, words, what="nouns", at_least=10))
    return [pair for pair in pairs if single.issuperset(pair)]


def _example(template: int, nouns: list[tuple[str, str]], random: Random, split: str, same_number: bool) -> Example:
    while True:
        subject, attractor = random.sample(nouns, 2)
        if in_split(split, subject[0], attractor[0]):
            break
    plural = random.random() < 0.5
    verbs = list(TENSES.values())[template % len(TENSES)]
    words = {
        "SUBJECT": subject[plural],
        "ATTRACTOR": attractor[plural == same_number],
        "PLACE": random.choice(word_list("places")),
    }
    return Example(
        clean=fill(TEMPLATES[template], words),
        corrupted=fill(TEMPLATES[template], words | {"SUBJECT": subject[not plural]}),
        answer=f" {verbs[plural]}",
        wrong=f" {verbs[not plural]}",
        template=template,
    )
