"""Indirect object identification: the parts of the sentence are where the positions say."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.tasks import get_task
from circuits.tasks.ioi_templates import TEMPLATE_NAMES, TEMPLATES
from circuits.tasks.split import in_split
from circuits.tasks.words import word_list


@pytest.fixture(params=["word", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return request.getfixturevalue(f"{request.param}_tokenizer")


def test_subject_stands_twice_and_indirect_object_once(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("ioi").prompts(tokenizer, n=90, seed=0)
    for row, length, indirect, subject in zip(
        prompts.clean, prompts.attention_mask.sum(dim=1), prompts.answer, prompts.wrong, strict=True
    ):
        assert (row[:length] == indirect).sum() == 1
        assert (row[:length] == subject).sum() == 2


def test_positions_are_found_by_searching_the_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("ioi").prompts(tokenizer, n=90, seed=0)
    for index, row in enumerate(prompts.clean):
        subjects = (row == prompts.wrong[index]).nonzero().squeeze(1).tolist()
        at = {name: int(position[index]) for name, position in prompts.positions.items()}
        assert subjects == [at["S1"], at["S2"]]
        assert at["S1+1"] == at["S1"] + 1
        assert row[at["IO"]] == prompts.answer[index]
        first = "IO" if prompts.subsets[index] == "ABBA" else "S1"
        assert at[first] == min(at["IO"], at["S1"])


def test_every_pattern_has_both_orders_equally_often(word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("ioi").prompts(word_tokenizer, n=300, seed=0)
    assert len(TEMPLATES) == len(TEMPLATE_NAMES) == 30
    assert prompts.template.bincount(minlength=30).tolist() == [10] * 30


def test_pairs_of_names_and_scenes_are_held_out(word_tokenizer: PreTrainedTokenizerBase) -> None:
    def pairs(split: str) -> tuple[set[frozenset[int]], set[tuple[str, str]]]:
        prompts = get_task("ioi").prompts(word_tokenizer, n=2000, seed=0, split=split)
        names = {frozenset(pair) for pair in zip(prompts.answer.tolist(), prompts.wrong.tolist(), strict=True)}
        found = [set(text.replace(".", "").replace(",", "").split()) for text in prompts.texts]
        places, objects = set(word_list("places")), set(word_list("objects"))
        return names, {(*(w & places), *(w & objects)) for w in found if w & places and w & objects}

    (train_names, train_scenes), (test_names, test_scenes) = pairs("train"), pairs("test")
    assert not train_names & test_names
    assert not train_scenes & test_scenes
    assert train_scenes and test_scenes


def test_flip_corruption_repeats_the_indirect_object(word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("ioi", corruption="s2_io_flip").prompts(word_tokenizer, n=30, seed=0)
    assert torch.equal(prompts.corrupted.gather(1, prompts.positions["S2"][:, None]).squeeze(1), prompts.answer)


@pytest.mark.parametrize("corruption", ["s2_random", "abc"])
def test_random_corruptions_repeat_no_name(corruption: str, word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = get_task("ioi", corruption=corruption).prompts(word_tokenizer, n=60, seed=0)
    names = [prompts.corrupted.gather(1, prompts.positions[slot][:, None]) for slot in ("IO", "S1", "S2")]
    assert all(len(set(row)) == 3 for row in torch.cat(names, dim=1).tolist())


def test_no_name_is_part_of_another_slot_word() -> None:
    words = [*word_list("names"), *word_list("places"), *word_list("objects")]
    assert not [(name, word) for name in word_list("names") for word in words if name != word and name in word]


def test_held_out_share_is_a_fifth_and_the_same_everywhere() -> None:
    share = sum(in_split("test", str(number)) for number in range(10_000)) / 10_000
    assert share == pytest.approx(0.2, abs=0.02)
    assert in_split("test", "Mary", "John") != in_split("train", "Mary", "John")
    # Pinned, so that the split never changes unnoticed: it decides what "held out" means on the card.
    assert [number for number in range(8) if in_split("test", "a", str(number))] == [1, 3]
