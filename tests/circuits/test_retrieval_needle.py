"""The needle protocol: where needles come to stand, and which heads copy them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import interp
from circuits.retrieval import NEEDLES, Needle, NeedlePrompt, needle_heads, needle_prompts, random_needle_prompts
from circuits.retrieval.haystack import token_span
from interp.errors import InputError
from interp.interventions.ablate_heads import ablate_heads
from interp.model.model import Model
from tests.hand_weighted import INDUCTION_HEAD, N_HEADS, letters_tokenizer
from tests.tiny_models import tiny_llama

WHO = ("Tom", "Lily", "The dog", "A bird", "Mom", "The little girl")
DID = ("went to the park", "saw a big red ball", "was very happy", "ran to the tree", "liked to play", "sat on the bed")


def story(n_sentences: int = 120, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(6, (n_sentences, 2), generator=generator).tolist()
    return " ".join(f"{WHO[who]} {DID[did]}." for who, did in draws)


@pytest.fixture(scope="module")
def circuit_prompts(circuit: Model) -> list[NeedlePrompt]:
    return random_needle_prompts(
        circuit, lengths=[60, 100], depths=[0.0, 0.5, 1.0], n_needles=2, cue=4, answer=6, seed=3
    )


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_needles_stand_where_they_should_for_any_tokenizer(
    kind: str, word_tokenizer: PreTrainedTokenizerBase, bpe_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = tiny_llama(tokenizer=word_tokenizer if kind == "word" else bpe_tokenizer)
    needle = Needle(text="The key of the door is under the red stone.", question="Where?", answer="under the red stone")
    template = "{context}\nQuestion: {question} Answer: {answer}"
    depths = (0.0, 0.5, 1.0)
    prompts = needle_prompts(model, story(), [needle], lengths=[100], depths=depths, template=template)
    for wanted, prompt in zip(depths, prompts, strict=True):
        assert abs(prompt.answer_start - 100) <= 3
        assert torch.equal(prompt.answer, prompt.needle_tokens)
        before = model.tokenizer.decode(prompt.tokens[: prompt.needle[0]], skip_special_tokens=True)
        haystack, _, lead = before.rpartition("The key")
        assert lead.split() == ["of", "the", "door", "is"]
        assert wanted == 1 or not haystack.strip() or haystack.strip().endswith(".")
        # One sentence of the story, and the part of the needle in front of the answer.
        assert abs(prompt.depth - wanted) * prompt.question_start < 26
    assert prompts[0].needle[0] < 14
    assert prompts[-1].needle[1] >= prompts[-1].question_start - 2


def test_a_near_copy_before_the_needle_is_not_taken_for_it(stories: Model) -> None:
    haystack = "Tom sat under the very big red tree. " * 2 + story()
    needle = Needle(
        text="The cat sat under the very big red bed.", question="Where?", answer="under the very big red bed"
    )
    (prompt,) = needle_prompts(stories, haystack, [needle], lengths=[260], depths=[0.6])
    assert torch.equal(prompt.needle_tokens, prompt.answer)
    assert prompt.needle[0] > 40


def test_a_needle_is_found_exactly_or_not_at_all() -> None:
    offsets = [(0, 3), (4, 8), (8, 9)]
    assert token_span(offsets, 2, 5) == (0, 2) and token_span(offsets, 8, 9) == (2, 3)
    with pytest.raises(InputError, match="no token for characters 3 to 4"):
        token_span(offsets, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [4000]}, "the haystack has"),
        ({"lengths": [30]}, "Choose other lengths"),
        ({"lengths": [200], "depths": [1.5]}, "between 0"),
        ({"lengths": []}, "must be given"),
        ({"lengths": [200], "template": "{context} {answer}"}, "expected {context}, {question}, {answer}"),
    ],
)
def test_what_cannot_be_written_is_refused(stories: Model, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        needle_prompts(stories, story(), **arguments)


def test_an_answer_must_stand_in_its_needle() -> None:
    with pytest.raises(InputError, match="does not stand in the needle"):
        Needle(text="The sky is blue.", question="Colour?", answer="green")


@pytest.mark.parametrize("scoring", ["teacher-forced", "decode"])
def test_the_induction_head_set_by_hand_is_the_only_retrieval_head(
    circuit: Model, circuit_prompts: list[NeedlePrompt], scoring: str
) -> None:
    found = needle_heads(circuit, circuit_prompts, scoring=scoring, max_new_tokens=9)
    expected = torch.zeros(2, N_HEADS, dtype=torch.float64)
    expected[INDUCTION_HEAD] = 1
    torch.testing.assert_close(found.scores, expected)
    torch.testing.assert_close(found.columns["activation frequency"], expected)
    assert found.columns["soft"][INDUCTION_HEAD] > 0.99
    assert found.labels["strength"] == (("none", "none"), ("none", "strong"))
    assert found.notes["counted"] == len(circuit_prompts)
    assert all(instance["answered"] for instance in found.notes["instances"])
    assert 0.01 < found.chance < 0.03
    # Heads with zero weights attend uniformly, which is what chance means.
    assert float(found.columns["soft"][1, 0]) == pytest.approx(found.notes["chance soft"], rel=1e-4)


def test_without_the_retrieval_head_the_answer_is_lost(circuit: Model, circuit_prompts: list[NeedlePrompt]) -> None:
    prompt = circuit_prompts[1]
    rows = slice(prompt.answer_start - 1, -1)

    def accuracy(head: tuple[int, int]) -> float:
        heads = torch.zeros(2, N_HEADS, dtype=torch.bool)
        heads[head] = True
        zeros = {layer: torch.zeros(1, 1, N_HEADS, circuit.d_head) for layer in (0, 1)}
        with torch.no_grad(), interp.watch(circuit, ablate_heads(heads, zeros)):
            written = circuit(prompt.tokens)[0, rows].argmax(-1)
        return float((written == prompt.answer).double().mean())

    assert accuracy((1, 0)) == 1
    assert accuracy(INDUCTION_HEAD) == 0


def test_a_model_that_answers_nothing_says_so(tmp_path: Path) -> None:
    model = tiny_llama(tokenizer=letters_tokenizer(tmp_path))
    prompts = random_needle_prompts(model, lengths=[60], depths=[0.5], n_needles=1)
    with pytest.raises(InputError, match="answers none of 1 needles.*teacher-forced"):
        needle_heads(model, prompts, scoring="decode", max_new_tokens=4)


def slow_scores(model: Model, prompts: list[NeedlePrompt]) -> tuple[Tensor, Tensor]:
    """Recall and mass from full maps, one prompt, head and step at a time."""
    recall, soft = torch.zeros(2, len(prompts), model.n_layers, model.n_heads, dtype=torch.float64)
    for index, prompt in enumerate(prompts):
        maps = interp.capture_patterns(model, prompt.tokens).patterns
        ids = prompt.tokens.tolist()
        wanted = set(ids[slice(*prompt.needle)])
        steps = [step for step in range(prompt.answer_start, len(ids)) if ids[step] in wanted]
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                copied = set()
                for step in steps:
                    row = maps[layer][0, head, step - 1]
                    targets = [key for key in range(*prompt.needle) if ids[key] == ids[step]]
                    soft[index, layer, head] += sum(float(row[key]) for key in targets) / len(steps)
                    if int(row.argmax()) in targets:
                        copied.add(ids[step])
                recall[index, layer, head] = len(copied) / len(wanted)
    return recall.mean(0), soft.mean(0)


def test_a_real_model_against_full_maps_in_any_order(stories: Model) -> None:
    needles = [
        Needle(
            text="The key was under the big red stone.", question="Where was the key?", answer="under the big red stone"
        ),
        NEEDLES[1],
    ]
    prompts = needle_prompts(stories, story(), needles, lengths=[160, 260], depths=[0.0, 0.5, 1.0])
    found = needle_heads(stories, prompts)
    recall, soft = slow_scores(stories, prompts)
    torch.testing.assert_close(found.scores, recall, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.columns["soft"], soft, atol=1e-6, rtol=0)
    assert float(found.scores.max()) > 0.02
    backwards = needle_heads(stories, prompts[::-1])
    torch.testing.assert_close(backwards.scores, found.scores, atol=1e-6, rtol=0)
    alone = torch.stack([needle_heads(stories, [prompt]).columns["soft"] for prompt in prompts]).mean(0)
    torch.testing.assert_close(alone, soft, atol=1e-6, rtol=0)
