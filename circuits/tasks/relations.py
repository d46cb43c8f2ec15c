"""Relations: facts of one word, such as the capital of a country or the plural of a noun."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from circuits.tasks.split import stable_number
from circuits.tasks.task import TextTask
from circuits.tasks.text import Example, fill
from circuits.tasks.words import single_token_words, word_pairs
from interp.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation: sentences that ask for it; its pairs stand in `data/relations/NAME.tsv`."""

    name: str
    templates: tuple[str, ...]


RELATIONS = (
    Relation(
        name="country-capital",
        templates=(
            "The capital of {SUBJECT} is",
            "The capital city of {SUBJECT} is called",
            "In {SUBJECT} the capital is",
            "The government of {SUBJECT} sits in",
            "The king went to {SUBJECT} and visited the capital,",
            "On a map of {SUBJECT} the capital is named",
        ),
    ),
    Relation(
        name="word-opposite",
        templates=(
            "The opposite of {SUBJECT} is",
            "It is not {SUBJECT} but",
            "If the answer is not {SUBJECT} it must be",
            "The word {SUBJECT} is the opposite of",
            "First it was {SUBJECT} and then it was the opposite,",
            "I say {SUBJECT} and you say the opposite,",
        ),
    ),
    Relation(
        name="word-plural",
        templates=(
            "The plural of {SUBJECT} is",
            "One {SUBJECT} and two",
            "I saw one {SUBJECT} and then many",
            "She has a {SUBJECT} but he has three",
            "There was only one {SUBJECT} here but there are many",
            "He found a {SUBJECT} near some other",
        ),
    ),
    Relation(
        name="verb-past",
        templates=(
            "The past tense of {SUBJECT} is",
            "Today they {SUBJECT} and yesterday they",
            "We often {SUBJECT} now and once we",
            "You can {SUBJECT} today because yesterday you",
            "I {SUBJECT} every day and last week I",
            "They will {SUBJECT} tomorrow as they often",
        ),
    ),
    Relation(
        name="country-language",
        templates=(
            "The language of {SUBJECT} is",
            "People in {SUBJECT} speak",
            "The books of {SUBJECT} are written in",
            "Many children in {SUBJECT} learn to read",
            "To live in {SUBJECT} you should learn",
            "The radio of {SUBJECT} speaks in",
        ),
    ),
    Relation(
        name="adjective-comparative",
        templates=(
            "The comparative of {SUBJECT} is",
            "This one is {SUBJECT} but that one is",
            "Yesterday it was {SUBJECT} and today it is even",
            "He is {SUBJECT} and she is even",
            "Now it is {SUBJECT} but soon it will be",
            "The first is {SUBJECT} and the second is much",
        ),
    ),
    Relation(
        name="animal-young",
        templates=(
            "A young {SUBJECT} is called a",
            "The baby of a {SUBJECT} is a",
            "The {SUBJECT} took care of its",
            "The child of the {SUBJECT} is a little",
            "Near the {SUBJECT} we saw its small",
            "The {SUBJECT} is the parent of a",
        ),
    ),
    Relation(
        name="profession-place",
        templates=(
            "The {SUBJECT} works in the",
            "You find the {SUBJECT} in the",
            "Every morning the {SUBJECT} goes to the",
            "The place of the {SUBJECT} is the",
            "After lunch the {SUBJECT} went back to the",
            "We met the {SUBJECT} at the",
        ),
    ),
    Relation(
        name="number-successor",
        templates=(
            "The number after {SUBJECT} is",
            "She counted to {SUBJECT} and then came",
            "First comes {SUBJECT} and next comes",
            "One more than {SUBJECT} is",
            "After page {SUBJECT} comes page",
            "Last year it was {SUBJECT} and this year it is",
        ),
    ),
    Relation(
        name="male-female",
        templates=(
            "The other gender of {SUBJECT} is",
            "Change the gender of {SUBJECT} and you get",
            "The word {SUBJECT} is for one gender and for the other it is",
            "In the story the {SUBJECT} is now a",
            "Not the {SUBJECT} but the",
            "On one side stood the {SUBJECT} and on the other the",
        ),
    ),
)
TEMPLATES = tuple((relation, pattern) for relation in RELATIONS for pattern in relation.templates)
TEMPLATE_NAMES = tuple(f"{relation.name}/{i}" for relation in RELATIONS for i in range(len(relation.templates)))


@dataclass(frozen=True, kw_only=True)
class Relations(TextTask):
    """One-word facts: "The capital of SUBJECT is" is answered by the capital.

    A combination is a sentence with a subject: for every subject one of the six sentences is held out for the test
    split, so that a test asks for a known fact in a way it was never asked. The corruption asks the same sentence about
    another subject; `wrong` is that one's answer. `relation` restricts the prompts to one relation.
    """

    name = "relations"
    description = "relations: one-word facts, as country to capital or word to opposite"
    source = "word lists of this project (data/relations)"
    key_positions = ("SUBJECT", "END")
    relation: str | None = None

    @property
    def chance(self) -> float:
        """A draw among the answers of the relation (of the shortest list, where several are asked)."""
        return max(1 / len(word_pairs(name)) for name in self._asked)

    @property
    def most_prompts(self) -> int:
        """One test sentence for each subject."""
        return sum(len(word_pairs(name)) for name in self._asked)

    @property
    def _asked(self) -> list[str]:
        return [relation.name for relation in RELATIONS if self.relation in (None, relation.name)]

    def __post_init__(self) -> None:
        names = [relation.name for relation in RELATIONS]
        if self.relation is not None and self.relation not in names:
            raise InputError(f"Unknown relation {self.relation!r}; choose from {', '.join(names)}.")

    @property
    def template_names(self) -> tuple[str, ...]:
        return TEMPLATE_NAMES

    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples, relations in turn; each subject comes once before any comes twice."""
        pairs = {name: _usable_pairs(tokenizer, name) for name in self._asked}
        combinations = {name: _combinations(name, pairs[name], split) for name in pairs}
        alike = {
            template: [combination for combination in found if combination[0] == template]
            for found in combinations.values()
            for template, _, _ in found
        }
        queues: dict[str, list[tuple[int, str, str]]] = {name: [] for name in pairs}
        while True:
            for name, queue in queues.items():
                if not queue:
                    queue.extend(random.sample(combinations[name], len(combinations[name])))
                template, subject, answer = queue.pop()
                _, other, wrong = random.choice([c for c in alike[template] if c[2] != answer])
                yield _example(template, subject, answer, other, wrong)


def _example(template: int, subject: str, answer: str, other: str, wrong: str) -> Example:
    pattern = TEMPLATES[template][1]
    return Example(
        clean=fill(pattern, {"SUBJECT": subject}),
        corrupted=fill(pattern, {"SUBJECT": other}),
        answer=f" {answer}",
        wrong=f" {wrong}",
        template=template,
    )


def _combinations(name: str, pairs: list[tuple[str, str]], split: str) -> list[tuple[int, str, str]]:
    """(template, subject, answer) of the split, those left out whose sentence no other subject shares."""
    templates = [index for index, (relation, _) in enumerate(TEMPLATES) if relation.name == name]
    found = [
        (template, subject, answer)
        for subject, answer in pairs
        for place, template in enumerate(templates)
        if (stable_number(subject, answer) % len(templates) == place) == (split == "test")
    ]
    answers = {template: {answer for at, _, answer in found if at == template} for template in templates}
    shared = [combination for combination in found if len(answers[combination[0]]) > 1]
    if not shared:
        raise InputError(
            f"The tokenizer has only {len(pairs)} pairs of {name} as single tokens, too few to ask two subjects in the "
            "same sentence; use a model whose vocabulary has whole words."
        )
    return shared


def _usable_pairs(tokenizer: PreTrainedTokenizerBase, name: str) -> list[tuple[str, str]]:
    """The pairs of which both words are one token."""
    pairs = word_pairs(name)
    words = list(dict.fromkeys(word for pair in pairs for word in pair))
    single = set(single_token_words(tokenizer, words, what=f"words of {name}", at_least=8))
    return [pair for pair in pairs if single.issuperset(pair)]
