"""The word-level tokenizers of the embedded models; that of `mini` is built from the word lists in `data/`."""

from collections.abc import Iterable, Sequence
from itertools import chain
from string import Formatter

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from circuits.tasks.agreement import TEMPLATES as AGREEMENT_TEMPLATES
from circuits.tasks.coloured_objects import OPENERS, SURFACES
from circuits.tasks.facts import ATTRIBUTES
from circuits.tasks.greater_than import TEMPLATE as GREATER_THAN_TEMPLATE
from circuits.tasks.ioi_templates import PATTERNS as IOI_PATTERNS
from circuits.tasks.needle import KINDS as NEEDLE_KINDS
from circuits.tasks.needle import QUESTION as NEEDLE_QUESTION
from circuits.tasks.needle import STATEMENT as NEEDLE_STATEMENT
from circuits.tasks.passage import SUMMARY as PASSAGE_SUMMARY
from circuits.tasks.pronoun import PATTERNS as PRONOUN_PATTERNS
from circuits.tasks.relations import RELATIONS
from circuits.tasks.words import word_list, word_pairs
from interp.paths import data_dir

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PUNCTUATION = (".", ",", ":", ";", "!", "?", "(", ")", '"', "\n", "=", "_", "-", "->", "'s", "$")
SPACE = "\u2581"  # the mark which SentencePiece and Metaspace write for a space


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of `mini`.

    Numbers are cut in pairs of digits, so that "1732" is the two tokens " 17" and "32". Punctuation is a token of its
    own.
    """
    return word_level_tokenizer(
        _tokens(), cut_at=rf"{SPACE}?\d{{1,2}}|->|'s|[.,:;!?()\"\n=_$-]", context=512, padding_side="right"
    )


def word_level_tokenizer(
    tokens: Iterable[str], *, cut_at: str, context: int, padding_side: str, special: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token per word, the space before the word included, as in Llama's tokenizers.

    A BOS is put in front.

    Arguments:
        tokens: the ordinary tokens in the order of their ids, words with `SPACE` before them.
        cut_at: regular expression of what is a token of its own within a word, such as a full stop.
        special: further special tokens, whose ids follow those of `SPECIAL_TOKENS`.
    """
    vocabulary = {token: index for index, token in enumerate(chain(SPECIAL_TOKENS.values(), special, tokens))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(cut_at), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    bos = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=context,
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
        **({"additional_special_tokens": list(special)} if special else {}),
        **SPECIAL_TOKENS,
    )


def _tokens() -> Iterable[str]:
    """Every ordinary token once, in a fixed order."""
    words = dict.fromkeys(word for word in _words() if word.replace("'", "").isalpha())
    digits = [f"{n:02d}" for n in range(100)] + [str(n) for n in range(10)]
    numbers = chain(digits, (SPACE + digit for digit in digits))
    # A bare space mark stands for the extra spaces of an indented line; marked punctuation follows a space.
    marks = chain(PUNCTUATION, (SPACE,))
    return dict.fromkeys(chain(marks, numbers, (SPACE + word for word in words), word_list("line_start")))


def _words() -> Iterable[str]:
    """Every word that a task can write, then the general vocabulary; repetitions included."""
    templates = chain(
        IOI_PATTERNS,
        [GREATER_THAN_TEMPLATE],
        chain.from_iterable(relation.templates for relation in RELATIONS),
        AGREEMENT_TEMPLATES,
        chain.from_iterable((sentence, end) for _, sentence, end in PRONOUN_PATTERNS),
        chain.from_iterable((*attribute.statements, attribute.question) for attribute in ATTRIBUTES),
        (*NEEDLE_KINDS, NEEDLE_STATEMENT, NEEDLE_QUESTION, PASSAGE_SUMMARY),
        (*SURFACES, *OPENERS),
    )
    for template in templates:
        literal = " ".join(text for text, *_ in Formatter().parse(template))
        yield from (word.strip('.,:;!?()"').removesuffix("'s") for word in literal.split())
    for path in sorted((data_dir() / "words").glob("*.txt")):
        yield from word_list(path.stem)
    for relation in RELATIONS:
        yield from chain.from_iterable(word_pairs(relation.name))
