"""Needle in a haystack: a code of several words, stated once in a long text, has to be copied."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from circuits.tasks.documents import MarkedText
from circuits.tasks.facts import ABOUT_PEOPLE, Fact, draw_value
from circuits.tasks.split import in_split
from circuits.tasks.task import TextTask
from circuits.tasks.text import Example, fill
from circuits.tasks.words import single_token_words, word_list
from interp.errors import InputError

KINDS = ("secret code", "password", "magic word")
STATEMENT, QUESTION = "The {KIND} of {KEY} is {VALUE}.", "\nQuestion: What is the {KIND} of {KEY}?\nAnswer:"
REQUESTS = (" {KEY} {KIND_WORD}", f" {STATEMENT.rpartition(' ')[0]}", QUESTION)
REQUEST_SHARES = (0.2, 0.2, 0.6)
VALUE_LENGTHS = (3, 4, 5)
HAYSTACK_SENTENCES = 300
"""So many different distractor sentences are drawn at once, of which each haystack takes some."""


@dataclass(frozen=True, kw_only=True)
class Needle(TextTask):
    """A needle of several words in a haystack.

    "... The secret code of Mary is river stone candle. ...\\nQuestion: What is the secret code of Mary?\\nAnswer:" is
    answered by the three to five words of the code. Around it stand sentences on other things, and the code of another
    person, so that the name has to be read. `answer` is the first word, `answers` are all of them; the corruption
    replaces the first word in the haystack by `wrong`.

    A combination is the code with its owner. NEEDLE and NEEDLE_END are the first and the last word
    of the code in the haystack, KEY is the name before it, QUESTION the name in the question.

    Source: after Wu et al. 2024, arXiv 2404.15574. Difference: short distractor sentences of this project instead of
    essays, and random words as needle, so that nothing but the haystack can give the answer.

    Arguments:
        length: fewest and most tokens of the distractors.
        depth: share of the distractors before the needle, in [0, 1]; None draws it for each prompt.
    """

    name = "needle"
    description = "needle: a code of several words is copied from a long text"
    source = "after Wu et al. 2024, arXiv 2404.15574"
    key_positions = ("KEY", "NEEDLE", "NEEDLE_END", "QUESTION", "END")
    length: tuple[int, int] = (50, 400)
    depth: float | None = None

    def __post_init__(self) -> None:
        shortest, longest = self.length
        if not 0 <= shortest <= longest:
            raise InputError(f"length must be (fewest, most) tokens with 0 <= fewest, got {self.length}.")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise InputError(f"depth must be between 0 and 1, got {self.depth}.")

    @property
    def chance(self) -> float:
        """A draw among the words of the codes."""
        return 1 / len(word_list("code_words"))

    def chance_of(self, measurement: str) -> float:
        """A whole code is never guessed."""
        return 0.0 if measurement == "exact match" else super().chance_of(measurement)

    @property
    def template_names(self) -> tuple[str, ...]:
        shortest, longest = self.length
        return tuple(f"{shortest}-{longest} tokens/{i}" for i in range(len(KINDS)))

    def examples(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[Example]:
        """Endless examples; length and depth are uniform."""
        return self._examples(tokenizer, random, split, lambda: random.randint(*self.length))

    def _examples(
        self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str, draw_length: Callable[[], int]
    ) -> Iterator[Example]:
        words = single_token_words(tokenizer, word_list("code_words"), what="words of the codes", at_least=20)
        names = single_token_words(tokenizer, word_list("names"), what="names", at_least=20)
        hay = _haystack(tokenizer, names, random)
        while True:
            kind, (key, other) = random.randrange(len(KINDS)), random.sample(names, 2)
            code, decoy, wrong = _codes(key, words, random, split)
            sentences = _draw_sentences(hay, draw_length(), random)
            sentences.insert(random.randrange(len(sentences) + 1), _statement(kind, other, decoy))
            depth = random.random() if self.depth is None else self.depth
            sentences.insert(round(depth * len(sentences)), _needle_pattern(kind, len(code)))
            filling = {"KEY": key, "QUESTION": key, "NEEDLE": code[0], "NEEDLE_END": code[-1]}
            filling |= {f"WORD{place}": word for place, word in enumerate(code)}
            pattern = " ".join(sentences) + QUESTION.format(KIND=KINDS[kind], KEY="{QUESTION}")
            yield Example(
                clean=fill(pattern, filling),
                corrupted=fill(pattern, filling | {"NEEDLE": wrong}),
                answer=f" {code[0]}",
                rest="".join(f" {word}" for word in code[1:]),
                wrong=f" {wrong}",
                template=kind,
            )

    def texts(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[MarkedText]:
        """Haystacks of nothing to the greatest length; in every second text short ones are the most frequent.

        The end of the code is determined too.
        """

        def draw_length() -> int:
            longest = self.length[1]
            return random.randint(0, longest) if random.random() < 0.5 else round(longest ** random.random()) - 1

        for example in self._examples(tokenizer, random, split, draw_length):
            answer = example.answer + example.rest + example.end
            yield MarkedText.join([(example.clean.text, False), (answer, True)])


@dataclass(frozen=True, kw_only=True)
class ListedNeedles(Needle):
    """Training texts only: the codes of several people, then all of them again, in short, as sentences or as answers.

    Half of the texts hide the codes in a haystack, so that one long text asks for several far things. Only the first
    word of each is a target: the others follow from it by induction.
    """

    def texts(self, tokenizer: PreTrainedTokenizerBase, random: Random, split: str) -> Iterator[MarkedText]:
        words = single_token_words(tokenizer, word_list("code_words"), what="words of the codes", at_least=20)
        names = single_token_words(tokenizer, word_list("names"), what="names", at_least=20)
        hay = _haystack(tokenizer, names, random)
        while True:
            owners = random.sample(names, random.randint(2, 4))
            secrets = [
                (random.randrange(len(KINDS)), owner, _codes(owner, words, random, split)[0]) for owner in owners
            ]
            ask = random.choices(REQUESTS, REQUEST_SHARES)[0]
            sentences = _draw_sentences(hay, random.randint(0, self.length[1]), random) if random.random() < 0.5 else []
            for secret in secrets:
                sentences.insert(random.randint(0, len(sentences)), _statement(*secret))
            parts = [(" ".join(sentences), False)]
            for kind, owner, code in random.sample(secrets, len(secrets)):
                request = ask.format(KIND=KINDS[kind], KIND_WORD=KINDS[kind].split()[-1], KEY=owner)
                parts += [(request, False), (f" {code[0]}", True), (f" {' '.join(code[1:])}.", False)]
            yield MarkedText.join(parts)


def _codes(key: str, words: Sequence[str], random: Random, split: str) -> tuple[list[str], list[str], str]:
    """The code, another code, and another first word, without a word in common."""
    while True:
        length = random.choice(VALUE_LENGTHS)
        drawn = random.sample(words, 2 * length + 1)
        if in_split(split, key, *drawn[:length]):
            return drawn[:length], drawn[length:-1], drawn[-1]


def _statement(kind: int, key: str, code: Sequence[str]) -> str:
    return STATEMENT.format(KIND=KINDS[kind], KEY=key, VALUE=" ".join(code))


def _needle_pattern(kind: int, length: int) -> str:
    """The sentence with a slot for each word of the code."""
    inner = [f"{{WORD{place}}}" for place in range(1, length - 1)]
    return _statement(kind, "{KEY}", ["{NEEDLE}", *inner, "{NEEDLE_END}"])


def _haystack(tokenizer: PreTrainedTokenizerBase, names: Sequence[str], random: Random) -> list[tuple[str, int]]:
    """Sentences on people, each with its number of tokens."""
    sentences = []
    for _ in range(HAYSTACK_SENTENCES):
        name, attribute = random.choice(names), random.choice(ABOUT_PEOPLE)
        fact = Fact(name, attribute, draw_value(name, attribute, random))
        sentences.append(fact.sentence(random.randrange(len(attribute.statements))))
    encoded = tokenizer([f" {sentence}" for sentence in sentences], add_special_tokens=False)["input_ids"]
    return [(sentence, len(ids)) for sentence, ids in zip(sentences, encoded, strict=True)]


def _draw_sentences(hay: Sequence[tuple[str, int]], length: int, random: Random) -> list[str]:
    """Sentences until the next one would exceed so many tokens."""
    chosen, total = [], 0
    for sentence, tokens in random.choices(hay, k=length):
        total += tokens
        if total > length:
            break
        chosen.append(sentence)
    return chosen
