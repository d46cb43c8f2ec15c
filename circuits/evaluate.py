"""How well a model does the tasks, on held-out combinations, with confidence intervals and chance levels."""

import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.summaries import scored_summaries
from circuits.tasks import Task, TaskPrompts, get_task, task_names
from circuits.tasks.induction import Induction
from circuits.tasks.needle import Needle
from circuits.tasks.passage import CONDITIONS, UNSUPPORTED, Passage
from circuits.tasks.relations import RELATIONS, Relations
from interp.errors import AnalysisWarning, InputError
from interp.paths import data_dir
from interp.statistics import RESAMPLES, TAILS, wilson_interval

INDUCTION_BLOCKS = (10, 25, 50, 100)
NEEDLE_LENGTHS = ((50, 100), (150, 200), (350, 400))
PROMPTS_PER_SUMMARY = 4
"""A summary is written for every fourth prompt, since each takes some forty forward passes."""
SHARES = ("accuracy", "top-1 accuracy", "exact match", UNSUPPORTED)
"""Measurements that are right or wrong per prompt; their interval is Wilson's, the others' a bootstrap."""
BATCH = 64
KEY = ["task", "subset", "metric"]


def evaluate(
    model: Callable[..., Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int = 200,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    card: str | None = None,
) -> pd.DataFrame:
    """Measure a model on the test split of the tasks.

    Arguments:
        model: a Hugging Face causal language model, or any callable with its keywords `input_ids` and `attention_mask`
            that returns logits, or an object with `.logits`.
        n: prompts of each case (each block length of induction, each relation, each condition of passage, each length
            of needle, each other task). A case with fewer distinct prompts uses all it has.
        tasks: names of tasks; None takes all and reports with n = 0 those that the tokenizer cannot write.
        card: name of an embedded model, whose stated values then stand beside the measured ones.

    Returns:
        One row per (task, subset, metric): n, value, 95 % interval, chance, and with a card its value and threshold.
        Accuracies and masses are in [0, 1], logit differences in nats.

    Raises:
        InputError: an unknown task, a task asked for by name that the tokenizer cannot write, none that it can, no
            prompts, or a missing card.
    """
    if n < 1:
        raise InputError(f"{n} prompts of each case were asked for; expected at least 1.")
    rows: list[dict[str, Any]] = []
    left_out: dict[str, list[str]] = {}
    for name in task_names() if tasks is None else dict.fromkeys(tasks):
        for subset, case in _cases(name):
            try:
                rows += _measure(model, tokenizer, case, n, seed)
            except InputError as error:
                if tasks is not None:
                    raise
                left_out.setdefault(str(error), []).append(name if subset == "all" else f"{name} ({subset})")
                rows.append({"task": name, "subset": subset, "n": 0, "metric": "accuracy", "value": float("nan")})
    if not any(row["n"] for row in rows):
        raise InputError(f"No task can be measured. {next(iter(left_out), 'Name one.')}")
    for reason, names in left_out.items():
        warnings.warn(f"Left out: {', '.join(names)}. {reason}", AnalysisWarning, stacklevel=2)
    frame = pd.DataFrame(rows, columns=["task", "subset", "n", "metric", "value", "ci_low", "ci_high", "chance"])
    return frame if card is None else frame.merge(card_values(card), on=KEY, how="left")


def card_values(name: str) -> pd.DataFrame:
    """What the card of an embedded model states: task, subset, metric, card_value, threshold (NaN where none).

    Raises:
        InputError: no embedded model of this name has a metrics file.
    """
    path = data_dir() / "models" / name / "metrics.json"
    if not path.is_file():
        raise InputError(f"There is no card of a model {name!r}: {path} does not exist.")
    stated = json.loads(path.read_text(encoding="utf-8"))["card"]
    frame = pd.DataFrame(stated).rename(columns={"value": "card_value"})
    return frame.loc[:, [*KEY, "card_value", "threshold"]]


def _cases(name: str) -> list[tuple[str, Task]]:
    """The task with the options that are measured apart, each with the name of its subset."""
    if name == Induction.name:
        return [(f"block {length}", Induction(block_length=(length, length))) for length in INDUCTION_BLOCKS]
    if name == Relations.name:
        return [(relation.name, Relations(relation=relation.name)) for relation in RELATIONS]
    if name == Passage.name:
        return [(condition, Passage(condition=condition)) for condition in CONDITIONS]
    if name == Needle.name:
        return [(f"{length[0]}-{length[1]} tokens", Needle(length=length)) for length in NEEDLE_LENGTHS]
    return [("all", get_task(name))]


def _measure(
    model: Callable[..., Any], tokenizer: PreTrainedTokenizerBase, task: Task, n: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of one case: every subset, and all of them together where there are several."""
    prompts = task.prompts(tokenizer, n=min(n, task.most_prompts or n), seed=seed, split="test")
    first_of = {text: index for index, text in reversed(list(enumerate(prompts.texts)))}
    prompts = prompts.select(sorted(first_of.values()))  # one clean prompt counts once, however many corruptions it has
    measurements = task.measurements(answer_logits(model, prompts, task.answer_position), prompts)
    if prompts.answers is not None:
        measurements["exact match"] = exact_match(model, prompts, task.answer_position)
    subsets = np.array(prompts.subsets)
    names = list(dict.fromkeys(prompts.subsets))
    rows = []
    for subset in names if len(names) == 1 else [*names, "all"]:
        chosen = np.ones(len(subsets), dtype=bool) if subset == "all" else subsets == subset
        for metric, values in measurements.items():
            numbers = values.double().cpu().numpy()[chosen]
            low, high = share_interval(numbers) if metric in SHARES else bootstrap(numbers, seed)
            row = {"task": task.name, "subset": subset, "n": len(numbers), "metric": metric, "value": numbers.mean()}
            rows.append(row | {"ci_low": low, "ci_high": high, "chance": task.chance_of(metric)})
    if isinstance(task, Passage) and task.condition == "absent":
        rows.append(_measure_summaries(model, tokenizer, task, max(1, n // PROMPTS_PER_SUMMARY), seed))
    return rows


def _measure_summaries(
    model: Callable[..., Any], tokenizer: PreTrainedTokenizerBase, task: Passage, n: int, seed: int
) -> dict[str, Any]:
    """Share of the sentences in greedy summaries that the passage does not state; the interval resamples summaries."""
    scored = scored_summaries(model, tokenizer, task.summaries(tokenizer, n=n, seed=seed))
    counts = np.array([[len(s), sum(sentence.verdict != "supported" for sentence in s)] for s in scored])
    row: dict[str, Any] = {"task": task.name, "subset": "summary", "metric": "unsupported sentences"}
    row |= {"n": int(counts[:, 0].sum()), "chance": 1 - task.chance}
    if row["n"] == 0:
        return row | {"value": float("nan")}
    totals = counts[resampled(len(counts), seed)].sum(axis=1)
    low, high = np.quantile(totals[:, 1] / np.maximum(totals[:, 0], 1), TAILS)
    return row | {"value": counts[:, 1].sum() / row["n"], "ci_low": low, "ci_high": high}


def exact_match(model: Callable[..., Any], prompts: TaskPrompts, position: str = "END") -> Float[Tensor, " prompt"]:
    """1 where every token of the answer is the best one after those before it, which is what greedy decoding writes."""
    assert prompts.answers is not None
    device = getattr(model, "device", torch.device("cpu"))
    matches = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts.select(slice(start, start + BATCH))
        tokens, mask = batch.with_answers(position)
        assert batch.answers is not None
        places = batch.positions[position][:, None] + torch.arange(batch.answers.shape[1])
        with torch.inference_mode():
            output = model(input_ids=tokens.to(device), attention_mask=mask.to(device))
        values = output if isinstance(output, Tensor) else output.logits
        best = values[torch.arange(len(batch))[:, None], places].argmax(dim=-1).cpu()
        matches.append(((best == batch.answers) | (batch.answers < 0)).all(dim=1).float())
    return torch.cat(matches)


def answer_logits(
    model: Callable[..., Any], prompts: TaskPrompts, position: str = "END"
) -> Float[Tensor, "prompt vocab"]:
    """Logits at the named position of every clean prompt, in float32 on the CPU."""
    device = getattr(model, "device", torch.device("cpu"))
    logits = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts.select(slice(start, start + BATCH))
        with torch.inference_mode():
            output = model(input_ids=batch.clean.to(device), attention_mask=batch.attention_mask.to(device))
            values = output if isinstance(output, Tensor) else output.logits
            logits.append(values[torch.arange(len(batch)), batch.positions[position]].float().cpu())
    return torch.cat(logits)


def share_interval(outcomes: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, from outcomes 0 and 1."""
    low, high = wilson_interval(torch.tensor(outcomes.mean()), len(outcomes))
    return float(low), float(high)


def bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of a mean, from resampling the prompts with replacement; NaN for a single prompt."""
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values[resampled(len(values), seed)].mean(axis=1), TAILS)
    return float(low), float(high)


def resampled(n: int, seed: int) -> Int[np.ndarray, "resample item"]:
    """Indices of `n` items drawn with replacement, once for every resample of a bootstrap."""
    return np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
