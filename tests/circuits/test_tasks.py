"""What holds for the prompts of every task."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.tasks import TASKS, Task, TaskPrompts, get_task, task_names
from interp.errors import InputError

ALL = [
    *(get_task(name) for name in task_names() if name != "needle"),
    get_task("ioi", corruption="s2_io_flip"),
    get_task("ioi", corruption="abc"),
    get_task("induction", block_length=(3, 3)),
    get_task("relations", relation="word-plural"),
    get_task("passage", condition="contradicted"),
    get_task("passage", condition="absent"),
    get_task("needle", length=(10, 40)),
    get_task("docstring", corruption="random_answer"),
]
CHANGED = {
    "ioi": ("S2",),
    "ioi abc": ("IO", "S1", "S2"),
    "induction": ("A1",),
    "greater-than": ("YY",),
    "relations": ("SUBJECT",),
    "docstring": ("A_def", "B_def", "A_doc", "B_doc"),
    "docstring random_answer": ("C_def",),
    "coloured-objects": ("QUESTION",),
    "agreement": ("SUBJECT",),
    "pronoun": ("NAME",),
    "passage": ("VALUE",),
    "passage absent": ("SUBJECT",),
    "needle": ("NEEDLE",),
}
"""Positions at which clean and corrupted prompts differ, and nowhere else."""


@pytest.fixture(params=ALL, ids=str)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture
def prompts(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> TaskPrompts:
    return task.prompts(word_tokenizer, n=60, seed=1)


def test_rows_are_aligned(prompts: TaskPrompts, word_tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(prompts) == 60
    assert prompts.clean.shape == prompts.corrupted.shape == prompts.attention_mask.shape
    assert prompts.prepend_bos and (prompts.clean[:, 0] == word_tokenizer.bos_token_id).all()
    assert (prompts.positions["END"] == prompts.attention_mask.sum(dim=1) - 1).all()
    assert word_tokenizer.unk_token_id not in prompts.clean
    assert (prompts.answer != prompts.wrong).all()


def test_corruption_changes_the_declared_positions_only(task: Task, prompts: TaskPrompts) -> None:
    option = getattr(task, "corruption", getattr(task, "condition", ""))
    changed = CHANGED.get(f"{task.name} {option}", CHANGED[task.name])
    expected = torch.zeros_like(prompts.clean, dtype=torch.bool)
    for name in changed:
        expected.scatter_(1, prompts.positions[name][:, None], True)
    assert torch.equal(prompts.clean != prompts.corrupted, expected)


def test_tokens_are_the_text(prompts: TaskPrompts, word_tokenizer: PreTrainedTokenizerBase) -> None:
    for row, text, mask in zip(prompts.clean, prompts.texts, prompts.attention_mask, strict=True):
        assert word_tokenizer.decode(row[mask.bool()][1:]) == text


def test_same_seed_same_prompts_other_seed_others(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    before = torch.get_rng_state()
    first, again, other = (task.prompts(word_tokenizer, n=20, seed=seed) for seed in (5, 5, 6))
    assert first.texts == again.texts
    assert torch.equal(first.corrupted, again.corrupted)
    assert first.texts != other.texts
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone


def test_fewer_prompts_are_a_beginning_of_more(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    if task.name != "induction":
        few, many = (task.prompts(word_tokenizer, n=n, seed=0) for n in (10, 30))
        assert few.texts == many.texts[:10]


def test_no_prompt_twice(prompts: TaskPrompts) -> None:
    assert len(set(zip(prompts.texts, prompts.corrupted_texts, strict=True))) == len(prompts)


def test_train_and_test_share_no_prompt(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    train, test = (set(task.prompts(word_tokenizer, n=300, seed=0, split=s).texts) for s in ("train", "test"))
    assert not train & test


def test_select_keeps_everything_aligned(prompts: TaskPrompts) -> None:
    chosen = prompts.select([7, 3])
    assert chosen.texts == (prompts.texts[7], prompts.texts[3])
    assert torch.equal(chosen.positions["END"], prompts.positions["END"][[7, 3]])
    assert torch.equal(chosen.clean[1], prompts.clean[3])
    assert len(prompts.select(prompts.answer == prompts.answer[0])) == (prompts.answer == prompts.answer[0]).sum()
    assert len(prompts.select(slice(10, 15))) == 5


def test_metric_does_not_see_a_constant_added_to_all_logits(task: Task, prompts: TaskPrompts) -> None:
    logits = torch.randn(len(prompts), int(prompts.clean.max()) + 500, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(task.metric(logits, prompts), task.metric(logits + 3, prompts), atol=1e-4, rtol=1e-4)


def test_right_logits_are_correct(task: Task, prompts: TaskPrompts) -> None:
    logits = torch.zeros(len(prompts), int(prompts.clean.max()) + 500)
    logits[torch.arange(len(prompts)), prompts.answer] = 20.0
    assert task.correct(logits, prompts).all()
    assert (task.metric(logits, prompts) > 0).all()
    assert 0 < task.chance < 1


def test_without_bos_everything_moves_by_one(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    with_bos, without = (task.prompts(word_tokenizer, n=10, seed=0, prepend_bos=bos) for bos in (True, False))
    assert torch.equal(with_bos.clean[:, 1:], without.clean)
    for name, position in without.positions.items():
        assert torch.equal(with_bos.positions[name], position + 1)


def test_documents_end_in_determined_answers(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    documents, again = (task.documents(word_tokenizer, n=30, seed=2) for _ in range(2))
    assert documents == again != task.documents(word_tokenizer, n=30, seed=3)
    for document in documents:
        assert len(document.tokens) == len(document.determined) < 512
        assert 0 < sum(document.determined) < len(document.tokens)
        assert not {word_tokenizer.unk_token_id, word_tokenizer.bos_token_id} & set(document.tokens)


def test_training_texts_hold_no_test_prompt(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    texts = {word_tokenizer.decode(document.tokens) for document in task.documents(word_tokenizer, n=200, seed=0)}
    prompts = task.prompts(word_tokenizer, n=60, seed=0).texts
    assert not [text for text in texts if text.startswith(prompts)]


def test_registry_names_are_unique() -> None:
    assert len(set(task_names())) == len(TASKS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda tokenizer: get_task("iou"),
            "Unknown task 'iou'; the tasks are ioi, induction, greater-than, docstring",
        ),
        (lambda tokenizer: get_task("ioi", corruption="s3"), "Unknown corruption 's3' of ioi; choose from s2_random"),
        (lambda tokenizer: get_task("ioi", colour="red"), "The task 'ioi' does not take these options"),
        (lambda tokenizer: get_task("relations", relation="x"), "Unknown relation 'x'; choose from country-capital"),
        (
            lambda tokenizer: get_task("passage", condition="x"),
            "Unknown condition 'x' of passage; choose from supported",
        ),
        (lambda tokenizer: get_task("docstring", corruption="x"), "Unknown corruption 'x' of docstring; choose from"),
        (lambda tokenizer: get_task("needle", length=(9, 3)), "length must be .fewest, most. tokens"),
        (lambda tokenizer: get_task("needle", depth=2.0), "depth must be between 0 and 1, got 2.0"),
        (lambda tokenizer: get_task("induction", block_length=(1, 2)), "block_length must be"),
        (lambda tokenizer: get_task("ioi").prompts(tokenizer, n=0, seed=0), "at least 1, got 0"),
        (lambda tokenizer: get_task("induction").prompts(tokenizer, n=0, seed=0), "at least 1, got 0"),
        (lambda tokenizer: get_task("ioi").prompts(tokenizer, n=1, seed=0, split="dev"), "Unknown split 'dev'"),
        (
            lambda tokenizer: get_task("relations", relation="animal-young").prompts(tokenizer, n=100_000, seed=0),
            "distinct relations prompts of this split can be written with this tokenizer, 100000 were asked for",
        ),
        (
            lambda tokenizer: get_task("induction", block_length=(3, 9000)).prompts(tokenizer, n=1, seed=0),
            "Blocks of 9000 tokens need 18002 ordinary tokens",
        ),
    ],
)
def test_errors_say_what_to_do(call, message: str, word_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=message):
        call(word_tokenizer)
