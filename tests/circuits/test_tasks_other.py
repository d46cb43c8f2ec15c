"""Induction, relations, the word lists and tokenizers of other kinds."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.tasks import get_task, task_names
from circuits.tasks.relations import RELATIONS
from circuits.tasks.words import single_token_words, word_list, word_pairs
from interp.errors import InputError


@pytest.mark.parametrize(("corruption", "offset"), [("first", 0), ("successor", 1)])
def test_induction_answer_followed_the_token_before(
    word_tokenizer: PreTrainedTokenizerBase, corruption: str, offset: int
) -> None:
    prompts = get_task("induction", block_length=(4, 12), corruption=corruption).prompts(word_tokenizer, n=200, seed=0)
    distances = prompts.positions["END"] - prompts.positions["A1"]
    assert distances.min() == 4 and distances.max() == 12
    for row, corrupted, answer, wrong in zip(
        prompts.clean.tolist(), prompts.corrupted.tolist(), prompts.answer, prompts.wrong, strict=True
    ):
        first = row.index(row[-1])  # the earliest occurrence of the last token
        assert row[first + 1] == answer
        assert [place for place, token in enumerate(corrupted) if token != row[place]] == [first + offset]
        assert corrupted[first + offset] == wrong
        assert wrong not in row


def test_induction_leaves_special_tokens_out(word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("induction").prompts(word_tokenizer, n=200, seed=0, prepend_bos=False)
    assert not set(prompts.clean.unique().tolist()) & set(word_tokenizer.all_special_ids)


def test_relations_ask_known_words_in_held_out_sentences(word_tokenizer: PreTrainedTokenizerBase) -> None:
    task = get_task("relations")
    train = task.prompts(word_tokenizer, n=4000, seed=0, split="train")
    test = task.prompts(word_tokenizer, n=300, seed=0)
    assert set(test.subsets) == {relation.name for relation in RELATIONS}
    assert set(test.answer.tolist()) <= set(train.answer.tolist())  # every fact is told in training
    assert not {*train.texts, *train.corrupted_texts} & {*test.texts, *test.corrupted_texts}


@pytest.mark.parametrize("name", [relation.name for relation in RELATIONS])
def test_every_subject_is_asked_once_before_any_is_asked_again(
    name: str, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    task = get_task("relations", relation=name)
    texts = task.prompts(word_tokenizer, n=task.most_prompts, seed=0).texts
    assert len(set(texts)) == task.most_prompts == len(word_pairs(name))


def test_relation_answers_belong_to_their_subjects(word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("relations", relation="country-capital").prompts(word_tokenizer, n=50, seed=0)
    capital = dict(word_pairs("country-capital"))
    for index in range(len(prompts)):
        at = prompts.positions["SUBJECT"][index]
        assert capital[word_tokenizer.decode(prompts.clean[index, at])] == word_tokenizer.decode(prompts.answer[index])
        assert capital[word_tokenizer.decode(prompts.corrupted[index, at])] == word_tokenizer.decode(
            prompts.wrong[index]
        )


@pytest.mark.parametrize("name", [relation.name for relation in RELATIONS])
def test_relation_tables_have_one_answer_per_subject(name: str) -> None:
    pairs = word_pairs(name)
    assert len({subject for subject, _ in pairs}) == len({answer for _, answer in pairs}) == len(pairs)
    assert all(subject != answer for subject, answer in pairs)


@pytest.mark.parametrize("name", task_names())
def test_byte_level_tokenizer_gets_aligned_prompts(name: str, bpe_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task(name).prompts(bpe_tokenizer, n=40, seed=0)
    assert not prompts.prepend_bos  # it puts none of its own accord, like GPT-2's
    changed = (prompts.clean != prompts.corrupted).sum(dim=1)
    assert torch.equal(changed, torch.full_like(changed, 4 if name == "docstring" else 1))
    for index, text in enumerate(prompts.texts):
        length = int(prompts.attention_mask[index].sum())
        assert bpe_tokenizer.decode(prompts.clean[index, :length]) == text
        if name != "induction":
            answered = bpe_tokenizer.decode([*prompts.clean[index, :length].tolist(), int(prompts.answer[index])])
            assert bpe_tokenizer(answered)["input_ids"][-1] == prompts.answer[index]


def test_byte_level_tokenizer_takes_a_bos_when_asked(bpe_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("ioi").prompts(bpe_tokenizer, n=4, seed=0, prepend_bos=True)
    assert (prompts.clean[:, 0] == bpe_tokenizer.bos_token_id).all()


def test_too_few_single_token_words_is_one_sentence(stories260k) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories260k)
    with pytest.raises(InputError, match="names are a single token for this tokenizer, but the task needs 20; use a"):
        get_task("ioi").prompts(tokenizer, n=4, seed=0)


def test_unknown_words_are_not_single_tokens(word_tokenizer: PreTrainedTokenizerBase) -> None:
    assert single_token_words(word_tokenizer, ["Mary", "Xyzzy"], what="names", at_least=1) == ("Mary",)


def test_word_level_tokenizer_round_trips(word_tokenizer: PreTrainedTokenizerBase) -> None:
    for text in (
        "Then, Mary and John went to the store.",
        'The king said, "it is 1732" ("I know")!',
        "def load(self, size, name):\n    return size",
        "Question: what color is it?\nAnswer: Red",
        "it isn't Mary's",
    ):
        ids = word_tokenizer(text)["input_ids"]
        assert word_tokenizer.unk_token_id not in ids
        assert word_tokenizer.decode(ids, skip_special_tokens=True) == text
    assert word_tokenizer.tokenize("1732") == ["▁17", "32"]
    assert 1500 < len(word_tokenizer) < 3000


def test_slot_words_are_in_the_vocabulary_of_mini(word_tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("names", "places", "objects", "durations"):
        words = word_list(name)
        assert single_token_words(word_tokenizer, words, what=name, at_least=1) == words
