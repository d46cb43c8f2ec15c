"""Models that tests share, and tokenizers of the kinds that the task generators must cope with."""

from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import interp
from interp.model.model import Model
from tests.hand_weighted import induction_model, letters_tokenizer


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The induction circuit set by hand."""
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


@pytest.fixture(scope="module")
def stories(stories260k: Path) -> Model:
    """A small model trained by others."""
    return interp.load(stories260k)


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of `mini`: one token per word, BOS in front."""
    from circuits.training.tokenizer import build_tokenizer

    return build_tokenizer()


@pytest.fixture(scope="session")
def bpe_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE like GPT-2's, without BOS of its own accord, that has most but not all words as one token."""
    from circuits.tasks.relations import RELATIONS
    from circuits.tasks.words import word_list, word_pairs

    known = [*word_list("names")[:60], *word_list("places"), *word_list("durations"), *word_list("vocabulary")[:600]]
    known += [word for relation in RELATIONS for pair in word_pairs(relation.name)[:60] for word in pair]
    years = [f"{century}{year:02d}" for century in range(10, 20) for year in range(100)]
    text = [f"the {word} and the {word}," for word in known] * 3 + [f"the year {year}" for year in years]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\d{1,2}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
