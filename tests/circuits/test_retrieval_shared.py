"""Needles that share a haystack: where they stand, that sharing changes no score, and what is refused."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.retrieval import (
    NEEDLES,
    Needle,
    NeedlePrompt,
    needle_heads,
    needle_prompts,
    random_needle_prompts,
    razor_heads,
    retrieval_heads,
)
from circuits.retrieval.needles import turns
from circuits.retrieval.prefix import SharedPrefix, shared_order
from interp.errors import InputError
from interp.model.model import Model
from interp.provenance import hash_prompts
from tests.circuits.test_retrieval_needle import slow_scores, story
from tests.hand_weighted import INDUCTION_HEAD, N_HEADS, letters_tokenizer
from tests.tiny_models import tiny_llama

STONE = Needle(text="The key of the door is under the red stone.", question="Where?", answer="under the red stone")
LAKE = Needle(text="The boat of the man swims on the blue lake.", question="What swims?", answer="on the blue lake")
TEMPLATE = "{context}\nQuestion: {question} Answer: {answer}"


@pytest.fixture(scope="module")
def text_prompts(stories: Model) -> list[NeedlePrompt]:
    return needle_prompts(stories, story(), lengths=[250, 330], depths=[0.0, 0.4, 1.0], shared=True)


@pytest.fixture(scope="module")
def random_prompts(stories: Model) -> list[NeedlePrompt]:
    return random_needle_prompts(stories, lengths=[150, 200], depths=[0.0, 0.3, 0.6, 0.9], n_needles=6, shared=True)


@pytest.mark.parametrize(("n_needles", "n_depths"), [(1, 5), (3, 5), (4, 4), (7, 3)])
def test_each_needle_stands_at_every_depth_once(n_needles: int, n_depths: int) -> None:
    depths = [index / n_depths for index in range(n_depths)]
    found = turns(n_needles, depths[::-1])
    assert len(found) == n_depths
    for needle in range(n_needles):
        assert sorted(places[needle] for places in found) == depths
    if n_needles <= n_depths:
        assert all(len(set(places)) == n_needles for places in found)


def haystacks(prompts: list[NeedlePrompt]) -> dict[tuple[int, ...], list[NeedlePrompt]]:
    """The prompts of every haystack."""
    found: dict[tuple[int, ...], list[NeedlePrompt]] = {}
    for prompt in prompts:
        found.setdefault(tuple(prompt.tokens[: prompt.question_start].tolist()), []).append(prompt)
    return found


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_sentences_stand_at_their_depths_for_any_tokenizer(
    kind: str, word_tokenizer: PreTrainedTokenizerBase, bpe_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = tiny_llama(tokenizer=word_tokenizer if kind == "word" else bpe_tokenizer)
    options = {"lengths": [110], "depths": (0.0, 0.5, 1.0), "template": TEMPLATE}
    prompts = needle_prompts(model, story(), [STONE, LAKE], shared=True, **options)
    assert [prompt.name for prompt in prompts] == ["Where?", "What swims?"] * 3
    for prompt, needle, wanted in zip(prompts, [STONE, LAKE] * 3, [0, 0.5, 0.5, 1, 1, 0], strict=True):
        assert torch.equal(prompt.answer, prompt.needle_tokens) and prompt.hidden == 2
        before = model.tokenizer.decode(prompt.tokens[: prompt.needle[0]], skip_special_tokens=True)
        haystack, _, lead = before.rpartition(needle.text.split(" of")[0])
        assert f"{needle.text.split(' of')[0]}{lead}".split() == needle.text.split(needle.answer)[0].split()
        assert not haystack.strip() or wanted == 1 or haystack.strip().endswith(".")
        # One sentence of the story, this needle's own words before the answer, and the other needle.
        assert abs(prompt.depth - wanted) * prompt.question_start < 52
        context = model.tokenizer.decode(prompt.tokens[: prompt.question_start])
        assert len(context.split("key")) == len(context.split("boat")) == 2
    assert max(prompt.answer_start for prompt in prompts) <= 113
    assert [len(group) for group in haystacks(prompts).values()] == [2, 2, 2]
    assert [prompt.hidden for prompt in needle_prompts(model, story(), [STONE, LAKE], **options)] == [1] * 6


def test_random_needles_have_their_tokens_alone(random_prompts: list[NeedlePrompt]) -> None:
    groups = haystacks(random_prompts)
    assert [len(group) for group in groups.values()] == [6] * 8
    for tokens, group in groups.items():
        places = [range(prompt.needle[0] - 4, prompt.needle[1]) for prompt in group]
        assert all(not set(one) & set(other) for one, other in combinations(places, 2))
        for prompt, place in zip(group, places, strict=True):
            needle = [tokens[position] for position in place]
            assert prompt.tokens[prompt.question_start :].tolist() == needle and prompt.hidden == 6
            assert all(tokens.count(token) == 1 for token in needle)
    assert {prompt.answer_start for prompt in random_prompts} == {150, 200}
    depths = [prompt.depth for prompt in random_prompts if prompt.name == "random needle 2"]
    assert sorted(depths[:4]) == pytest.approx([0, 0.3, 0.6, 0.9], abs=0.12)


@pytest.mark.parametrize("kind", ["text", "random"])
def test_a_shared_cache_gives_what_each_prompt_gives_alone(
    stories: Model, text_prompts: list[NeedlePrompt], random_prompts: list[NeedlePrompt], kind: str
) -> None:
    prompts = (text_prompts if kind == "text" else random_prompts)[:12]
    found = needle_heads(stories, prompts)
    recall, soft = slow_scores(stories, prompts)
    torch.testing.assert_close(found.scores, recall, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.columns["soft"], soft, atol=1e-6, rtol=0)
    alone = [needle_heads(stories, [prompt]) for prompt in prompts[::-1]]
    torch.testing.assert_close(torch.stack([one.scores for one in alone]).mean(0), found.scores, atol=1e-6, rtol=0)
    masses = torch.stack([one.columns["soft"] for one in alone]).mean(0)
    torch.testing.assert_close(masses, found.columns["soft"], atol=1e-6, rtol=0)
    assert [one["hidden"] for one in found.notes["instances"]] == [prompt.hidden for prompt in prompts]


def test_a_haystack_is_run_once_for_all_its_needles(stories: Model, random_prompts: list[NeedlePrompt]) -> None:
    prefix = SharedPrefix(stories)
    with torch.inference_mode():
        for index in shared_order([prompt.tokens for prompt in random_prompts]):
            prompt = random_prompts[index]
            prefix.run(prompt.tokens[:-1], keep=len(prompt.answer))
    questions = sum(len(prompt.tokens) - 1 - prompt.question_start for prompt in random_prompts)
    assert prefix.rows_run <= sum(map(len, haystacks(random_prompts))) + questions


@pytest.mark.parametrize("scoring", ["teacher-forced", "decode"])
def test_among_other_needles_the_induction_head_set_by_hand_finds_its_own(circuit: Model, scoring: str) -> None:
    options = {"lengths": [80], "depths": [0.0, 0.5, 1.0], "n_needles": 3, "answer": 6}
    expected = torch.zeros(2, N_HEADS, dtype=torch.float64)
    expected[INDUCTION_HEAD] = 1
    for shared in (False, True):
        prompts = random_needle_prompts(circuit, shared=shared, **options)
        found = needle_heads(circuit, prompts, scoring=scoring, max_new_tokens=8)
        torch.testing.assert_close(found.scores, expected)
        assert found.notes["counted"] == 9


def test_where_no_question_counts_one_prompt_of_a_haystack_is_enough(circuit: Model) -> None:
    options = {"lengths": [60], "depths": [0.25, 1.0], "n_needles": 2, "shared": True}
    window = {"sink": 2, "recent": 8}
    scores = retrieval_heads(circuit, ["distant-mass"], progress=False, **options, **window)["distant-mass"]
    prompts = random_needle_prompts(circuit, **options)
    assert scores.provenance.prompt_hash in [hash_prompts([prompt.tokens]) for prompt in prompts[:2]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Needle(text="The hat is in the box.", question="Where?", answer="in the box"), "have the same question"),
        (Needle(text="The cat is under the red stone.", question="Who?", answer="The cat"), "stands in both"),
    ],
)
def test_needles_that_fit_one_question_cannot_share(stories: Model, other: Needle, message: str) -> None:
    with pytest.raises(InputError, match=message):
        needle_prompts(stories, story(), [STONE, other], lengths=[200], shared=True)
    assert needle_prompts(stories, story(), [STONE, other], lengths=[200], depths=[0.5])


def test_what_leaves_no_room_is_refused(circuit: Model, stories: Model) -> None:
    with pytest.raises(InputError, match="no room for 6 needles.*fewer or shorter needles"):
        random_needle_prompts(circuit, lengths=[100], n_needles=6, shared=True)
    with pytest.raises(InputError, match="no room for 3 needles"):
        random_needle_prompts(circuit, lengths=[40], n_needles=3, shared=True)
    with pytest.raises(InputError, match="between 0"):
        random_needle_prompts(circuit, lengths=[60], depths=[-0.1])
    with pytest.raises(InputError, match="Needles \\(0\\)"):
        random_needle_prompts(circuit, lengths=[60], n_needles=0)
    with pytest.raises(InputError, match="Choose other lengths"):
        needle_prompts(stories, story(), NEEDLES, lengths=[120], shared=True)


def test_methods_that_read_no_needles_need_no_room_for_them(tmp_path: Path) -> None:
    model = tiny_llama(tokenizer=letters_tokenizer(tmp_path, n_tokens=12))
    for haystack in (None, "w1 w2 w3"):
        found = retrieval_heads(model, ["razor"], haystack=haystack, seed=3, progress=False)
        assert torch.equal(found["razor"].scores, razor_heads(model, seed=3).scores)
    with pytest.raises(InputError, match="11 ordinary tokens leave no room for 1 needles"):
        retrieval_heads(model, ["razor", "needle"], progress=False)
