"""The evaluation table, on stand-ins for models whose scores are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits import evaluate as evaluate_module
from circuits.evaluate import bootstrap, card_values, evaluate, share_interval
from circuits.tasks import get_task, task_names
from interp.errors import AnalysisWarning, InputError
from tests.hand_weighted import letters_tokenizer


def knows_nothing(tokenizer: PreTrainedTokenizerBase):
    """A model that gives every token the same logit."""
    return lambda input_ids, attention_mask: torch.zeros(*input_ids.shape, len(tokenizer))


def inducts(tokenizer: PreTrainedTokenizerBase):
    """A model that expects what followed the earlier occurrence of the current token."""

    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*input_ids.shape, len(tokenizer))
        for row, ids in enumerate(input_ids.tolist()):
            for place in range(1, len(ids)):
                if ids[place] in ids[:place]:
                    logits[row, place, ids[ids.index(ids[place]) + 1]] = 5.0
        return logits

    return model


def test_a_model_that_knows_nothing_scores_chance(word_tokenizer: PreTrainedTokenizerBase) -> None:
    frame = evaluate(knows_nothing(word_tokenizer), word_tokenizer, n=100, tasks=["greater-than"])
    values = frame.set_index("metric")
    share = 100 / len(word_tokenizer)  # the hundred numbers' part of a uniform distribution over the vocabulary
    assert values.loc["valid-year mass", "value"] == pytest.approx(share * 0.49, rel=0.1)
    assert values.loc["valid-year mass", "chance"] == pytest.approx(0.49)
    assert abs(values.loc["probability difference", "value"]) < share


def test_perfect_induction_scores_one(word_tokenizer: PreTrainedTokenizerBase) -> None:
    frame = evaluate(inducts(word_tokenizer), word_tokenizer, n=20, tasks=["induction"])
    assert list(frame["subset"].unique()) == ["block 10", "block 25", "block 50", "block 100"]
    shares = frame[frame["metric"] == "accuracy"]
    assert (shares["value"] == 1).all() and (shares["ci_high"] == 1).all() and (shares["ci_low"] < 1).all()
    assert shares["chance"].tolist() == [0.1, 0.04, 0.02, 0.01]
    assert frame[frame["metric"] == "logit difference"]["value"].tolist() == [5.0] * 4


def test_rows_of_all_tasks(word_tokenizer: PreTrainedTokenizerBase) -> None:
    frame = evaluate(knows_nothing(word_tokenizer), word_tokenizer, n=30)
    assert frame.columns.tolist() == ["task", "subset", "n", "metric", "value", "ci_low", "ci_high", "chance"]
    assert not frame.duplicated(["task", "subset", "metric"]).any()
    assert set(frame[frame["task"] == "ioi"]["subset"]) == {"ABBA", "BABA", "all"}
    frame = frame[frame["n"] > 0]  # it writes no sentence that could be scored in a summary
    assert frame.notna().all().all()
    assert set(frame["task"]) == set(task_names())
    assert (frame["ci_low"] <= frame["value"]).all() and (frame["value"] <= frame["ci_high"]).all()


def test_a_task_that_cannot_be_written_is_reported_not_dropped(stories260k) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories260k)
    with pytest.warns(AnalysisWarning, match="^Left out: ") as caught:
        frame = evaluate(knows_nothing(tokenizer), tokenizer, n=5)
    left_out = dict(str(warning.message).removeprefix("Left out: ").split(". ", 1) for warning in caught)
    assert len(set(left_out.values())) == len(left_out) > 1  # each with its own reason
    (names,) = (names for names, reason in left_out.items() if "100 names" in reason)
    assert names.startswith("ioi, passage (supported)") and "greater-than" not in names
    assert frame[frame["task"] == "ioi"]["value"].isna().all()
    assert (frame[frame["task"] == "induction"]["n"] == 5).all()
    with pytest.raises(InputError, match="names are a single token"):
        evaluate(knows_nothing(tokenizer), tokenizer, n=5, tasks=["ioi"])


def test_nothing_to_measure_is_refused(
    word_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing = knows_nothing(word_tokenizer)
    with pytest.raises(InputError, match="0 prompts of each case were asked for; expected at least 1"):
        evaluate(knowing, word_tokenizer, n=0)
    monkeypatch.setattr(evaluate_module, "task_names", lambda: ["ioi"])
    with pytest.raises(InputError, match="No task can be measured. Only 0 of"):
        evaluate(knowing, letters_tokenizer(tmp_path), n=2)


def test_a_task_named_twice_is_measured_once_and_one_prompt_has_no_interval(
    word_tokenizer: PreTrainedTokenizerBase,
) -> None:
    frame = evaluate(knows_nothing(word_tokenizer), word_tokenizer, n=1, tasks=["greater-than", "greater-than"])
    assert not frame.duplicated(["subset", "metric"]).any()
    assert frame.set_index("metric").loc["probability difference", ["ci_low", "ci_high"]].isna().all()


def test_missing_card_is_one_sentence() -> None:
    with pytest.raises(InputError, match="There is no card of a model 'maxi'"):
        card_values("maxi")


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = share_interval(np.array([1.0] * 8 + [0.0] * 2))
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


def test_bootstrap_of_a_constant_is_the_constant() -> None:
    assert bootstrap(np.full(20, 2.5), seed=0) == (2.5, 2.5)


def test_unknown_task_is_refused(word_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="Unknown task 'sums'"):
        evaluate(knows_nothing(word_tokenizer), word_tokenizer, tasks=["sums"])


def test_chance_of_accuracy_is_the_tasks() -> None:
    assert get_task("ioi").chance_of("accuracy") == 0.5
    assert get_task("ioi").chance_of("logit difference") == 0.0
