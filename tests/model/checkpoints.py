"""A small word-level tokenizer and a checkpoint directory, as the loader meets them on disk."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.architectures import ARCHITECTURES, VOCABULARY

LLAMA = next(row for row in ARCHITECTURES if row.name == "llama")
WORDS = ["then", "mary", "gave", "a", "ring", "to", "john", "and", "he", "thanked", "her", "for", "it"]


def word_tokenizer(*, bos: bool = True, bos_habit: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    """One id per word, from 4 on; 0 is padding, 1 BOS, 2 EOS, 3 unknown."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    rest = [f"w{index}" for index in range(VOCABULARY - len(special) - len(WORDS))]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS, *rest])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    if bos and bos_habit:
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
        )
    names = {"unk_token": "<unk>", "eos_token": "<eos>"}
    names |= {"bos_token": "<bos>"} if bos else {}
    names |= {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def saved_llama(directory: Path, *, tokenizer: bool = True) -> Path:
    """The tiny Llama of the matrix as an ordinary Hugging Face directory."""
    LLAMA.build().save_pretrained(directory)
    if tokenizer:
        word_tokenizer().save_pretrained(directory)
    return directory
