"""Greater-than: the metric on distributions whose value is known."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.tasks import TaskPrompts, get_task
from circuits.tasks.greater_than import number_tokens
from interp.errors import InputError


@pytest.fixture
def prompts(word_tokenizer: PreTrainedTokenizerBase) -> TaskPrompts:
    return get_task("greater-than").prompts(word_tokenizer, n=80, seed=0)


@pytest.fixture
def years(prompts: TaskPrompts) -> torch.Tensor:
    """YY of each prompt, read off its text."""
    return torch.tensor([int(text.split("year ")[1].split()[0][2:]) for text in prompts.texts])


def logits_of(probabilities: torch.Tensor, prompts: TaskPrompts, vocabulary: int) -> torch.Tensor:
    """Logits with these probabilities of the hundred numbers and none elsewhere."""
    logits = torch.full((len(prompts), vocabulary), -1e4)
    return logits.scatter(1, prompts.choices, probabilities.clamp_min(1e-30).log())


def test_years_have_later_and_earlier_numbers(prompts: TaskPrompts, years: torch.Tensor) -> None:
    assert ((years >= 2) & (years <= 98)).all()
    assert torch.equal((prompts.choice_sign > 0).sum(dim=1), 99 - years)


def test_answer_is_above_and_wrong_is_not(prompts: TaskPrompts, years: torch.Tensor) -> None:
    numbers = prompts.choices[0].tolist()
    answers = torch.tensor([numbers.index(token) for token in prompts.answer.tolist()])
    wrong = torch.tensor([numbers.index(token) for token in prompts.wrong.tolist()])
    assert (answers > years).all()
    assert (wrong <= years).all()


def test_uniform_distribution_has_the_value_of_the_formula(
    prompts: TaskPrompts, years: torch.Tensor, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    logits = logits_of(torch.full((len(prompts), 100), 0.01), prompts, len(word_tokenizer))
    task = get_task("greater-than")
    torch.testing.assert_close(task.metric(logits, prompts), (98 - 2 * years) / 100, atol=1e-5, rtol=0)
    measured = task.measurements(logits, prompts)
    torch.testing.assert_close(measured["distance to uniform"], (1 + years) / 100, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("offset", "value"), [(1, 1.0), (0, -1.0)])
def test_point_mass_is_plus_or_minus_one(
    offset: int, value: float, prompts: TaskPrompts, years: torch.Tensor, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    point = torch.nn.functional.one_hot(years + offset, 100).float()
    metric = get_task("greater-than").metric(logits_of(point, prompts, len(word_tokenizer)), prompts)
    torch.testing.assert_close(metric, torch.full_like(metric, value))


def test_ideal_distribution_is_perfect(prompts: TaskPrompts, word_tokenizer: PreTrainedTokenizerBase) -> None:
    valid = (prompts.choice_sign > 0).float()
    logits = logits_of(valid / valid.sum(dim=1, keepdim=True), prompts, len(word_tokenizer))
    measured = get_task("greater-than").measurements(logits, prompts)
    assert measured["accuracy"].all()
    torch.testing.assert_close(measured["valid-year mass"], torch.ones(len(prompts)))
    torch.testing.assert_close(measured["distance to uniform"], torch.zeros(len(prompts)), atol=1e-5, rtol=0)


def test_noun_and_year_are_held_out_together(word_tokenizer: PreTrainedTokenizerBase) -> None:
    def combinations(split: str) -> set[tuple[str, str]]:
        texts = get_task("greater-than").prompts(word_tokenizer, n=2000, seed=0, split=split).texts
        return {(text.split()[1], text.split()[6]) for text in texts}

    assert not combinations("train") & combinations("test")


def test_numbers_follow_each_other_in_every_tokenizer(
    word_tokenizer: PreTrainedTokenizerBase, bpe_tokenizer: PreTrainedTokenizerBase
) -> None:
    for tokenizer in (word_tokenizer, bpe_tokenizer):
        texts = tokenizer.convert_ids_to_tokens(number_tokens(tokenizer).tolist())
        assert texts == [f"{number:02d}" for number in range(100)]


def test_tokenizer_with_single_digits_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, **{str(digit): digit + 1 for digit in range(10)}}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    with pytest.raises(InputError, match="for only 0 of the 100 two-digit numbers; greater-than needs a tokenizer"):
        number_tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))
