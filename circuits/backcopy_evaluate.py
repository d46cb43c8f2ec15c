"""How well a model writes the text of `mini-sinks`, where its heads rest meanwhile, and what it needs the BOS for."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.evaluate import KEY, bootstrap, card_values, share_interval
from circuits.training.sinks.process import Process, is_trigger, source_places, word_shares
from circuits.training.sinks.vocabulary import FIRST_TRIGGER, REACH
from interp.attention.participants import Editor
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.capture import capture_patterns
from interp.heads import HeadRef
from interp.model.model import Model

ROW_TOKENS = 128
BATCH = 50
HELD_OUT = 10**9
"""Second number of the seed of held-out text, in place of a training step, of which there are fewer."""
START = 8
"""Words at the start of a row, where there are few others to look at, that are also measured apart."""
SINK = 0.5
"""Attention to the BOS above which a head is counted as resting on it."""


class HideKeys(Editor):
    """Takes one key away from every query, in all heads.

    Arguments:
        places: position of the key that each query shall not see; -1 for none.
        share_out: whether the other keys get its attention, in proportion to their own. If not, it is lost, and a
            head writes only what the other keys give it.
    """

    def __init__(self, places: Int[Tensor, "row query"], *, share_out: bool = True) -> None:
        self.places, self.share_out = places, share_out

    def edit_rows(self, rows: AttentionRows) -> Float[Tensor, "batch head query key"]:
        hidden = (self.places.to(rows.keys.device)[:, rows.queries, None] == rows.keys)[:, None]
        if not self.share_out:
            return rows.pattern.masked_fill(hidden, 0)
        # The softmax anew: what a head that looks at one key leaves to the others can round to 0.
        assert rows.scores is not None
        return rows.scores.masked_fill(hidden, torch.finfo(rows.scores.dtype).min).softmax(-1)


def held_out_text(n: int, seed: int, process: Process) -> Int[Tensor, "row token"]:
    """Rows of `ROW_TOKENS` tokens that training has not drawn."""
    return process.sample(n, ROW_TOKENS, np.random.default_rng([seed, HELD_OUT]))


def evaluate_backcopy(
    model: Model, *, n: int = 200, seed: int = 0, card: str | None = None, process: Process | None = None
) -> pd.DataFrame:
    """Measure a model on held-out text of the process.

    Arguments:
        n: rows of text, of `ROW_TOKENS` tokens each.
        card: name of an embedded model, whose stated values then stand beside the measured ones.
        process: that of the text; None for that of `mini-sinks`.

    Returns:
        One row per (task, subset, metric) as from `circuits.evaluate.evaluate`; `n` counts triggers, or rows of text.
        *back-copy*: share of the triggers behind which the word that they bring back is the likeliest (chance: always
        the commonest word). *chain*: behind ordinary words, the Kullback-Leibler divergence of the model from the true
        probabilities in nats, which is its loss above the entropy of the text (chance: how often words come); also of
        the first `START` words of a row alone. Both also while each query is kept from seeing one key: the BOS; any
        other one that it sees (the control); and the BOS with its attention lost instead of going to the other keys.
        *sinks*: attention of each head to the BOS, at all tokens behind it and at triggers, and at triggers to the
        word brought back (chance: uniform attention); the mean of the heads and the share of heads above `SINK`.
    """
    process = process or Process()
    tokens = held_out_text(n, seed, process)
    copied: list[dict[str, Any]] = []
    chained: list[dict[str, Any]] = []
    for subset, (places, share_out) in _hidings(tokens, seed).items():
        loss, right = _outcomes(model, tokens, process, places, share_out)
        copied += _copy_rows(tokens, right, subset) if process.copies else []
        chained += _chain_rows(tokens, loss, subset, seed, process)
    rows = copied + chained + _sink_rows(model, tokens, seed)
    frame = pd.DataFrame(rows, columns=[*KEY[:2], "n", "metric", "value", "ci_low", "ci_high", "chance"])
    return frame if card is None else frame.merge(card_values(card), on=KEY, how="left")


def _hidings(tokens: Int[Tensor, "row token"], seed: int) -> dict[str, tuple[Int[Tensor, "row query"] | None, bool]]:
    """By name: the key that each query shall not see, and whether the others get its attention."""
    bos = torch.zeros_like(tokens)
    bos[:, 0] = -1  # the BOS itself sees nothing else
    generator = torch.Generator().manual_seed(seed)
    other = 1 + (torch.rand(tokens.shape, generator=generator) * torch.arange(tokens.shape[1])).long()
    other[:, 0] = -1
    return {
        "all": (None, True),
        "BOS hidden": (bos, True),
        "other hidden": (other, True),
        "BOS silent": (bos, False),
    }


@torch.inference_mode()
def _outcomes(
    model: Model,
    tokens: Int[Tensor, "row token"],
    process: Process,
    places: Int[Tensor, "row query"] | None,
    share: bool,
) -> tuple[Float[Tensor, "row target"], Bool[Tensor, "row target"]]:
    """At every token but the last: divergence from the true probabilities, and whether the next token is likeliest."""
    losses, right = [], []
    for start in range(0, len(tokens), BATCH):
        part = tokens[start : start + BATCH]
        editors = [] if places is None else [HideKeys(places[start : start + BATCH], share_out=share)]
        with watch(model, *editors):
            logits = model(part)[:, :-1].double().cpu()
        truth = process.next_probabilities(part)[:, :-1]
        losses.append(-(torch.special.entr(truth) + truth * logits.log_softmax(-1)).sum(-1))
        right.append(logits.argmax(-1) == part[:, 1:])
    return torch.cat(losses), torch.cat(right)


def _copy_rows(
    tokens: Int[Tensor, "row token"], right: Bool[Tensor, "row target"], subset: str
) -> list[dict[str, Any]]:
    """Accuracy behind each trigger, and behind all of them where keys are hidden."""
    tokens = tokens[:, :-1]
    groups = {word: tokens == FIRST_TRIGGER + index for index, word in enumerate(REACH)}
    rows: list[dict[str, Any]] = []
    for name, chosen in (groups if subset == "all" else {subset: is_trigger(tokens)}).items():
        outcomes = right[chosen].double().numpy()
        low, high = share_interval(outcomes)
        row = {"task": "back-copy", "subset": name, "n": len(outcomes), "metric": "accuracy", "value": outcomes.mean()}
        rows.append(row | {"ci_low": low, "ci_high": high, "chance": float(word_shares().max())})
    return rows


def _chain_rows(
    tokens: Int[Tensor, "row token"], loss: Float[Tensor, "row target"], subset: str, seed: int, process: Process
) -> list[dict[str, Any]]:
    """Mean divergence behind ordinary words; that of the shares of all tokens is its chance level."""
    words = ~is_trigger(tokens[:, :-1])
    words[:, 0] = False
    truth = process.next_probabilities(tokens)[:, :-1][words]
    blind = -(torch.special.entr(truth) + torch.special.xlogy(truth, truth.mean(0))).sum(-1).mean()
    early = words & (torch.arange(tokens.shape[1] - 1) <= START)
    metrics = {"loss above floor": words, f"the same, first {START} words": early}
    return [
        _row("chain", subset, metric, _row_means(loss, chosen), seed, float(blind))
        for metric, chosen in metrics.items()
    ]


def _sink_rows(model: Model, tokens: Int[Tensor, "row token"], seed: int) -> list[dict[str, Any]]:
    """Attention of every head to the BOS and to the words brought back, and the share of heads that rest on the BOS."""
    masses = head_masses(model, tokens)
    at_triggers = is_trigger(tokens)
    behind_bos = torch.ones_like(at_triggers)
    behind_bos[:, 0] = False
    uniform = (1 / torch.arange(1, tokens.shape[1] + 1)).expand(tokens.shape)
    rows: list[dict[str, Any]] = []
    for metric, (target, chosen) in {
        "BOS mass": ("BOS", behind_bos),
        "BOS mass at triggers": ("BOS", at_triggers),
        "mass on the word brought back": ("source", at_triggers),
    }.items():
        for layer, heads in enumerate(masses[target]):
            rows += [
                _row(
                    "sinks",
                    HeadRef(layer, head).label,
                    metric,
                    _row_means(mass, chosen),
                    seed,
                    float(uniform[chosen].mean()),
                )
                for head, mass in enumerate(heads)
            ]
    every = masses["BOS"].flatten(0, 1).mean(0)
    rows.append(
        _row("sinks", "all", "BOS mass", _row_means(every, behind_bos), seed, float(uniform[behind_bos].mean()))
    )
    above = np.array([row["value"] > SINK for row in rows if row["metric"] == "BOS mass" and row["subset"] != "all"])
    share = {"task": "sinks", "subset": "all", "n": len(above), "metric": f"heads above {SINK:g}", "chance": 0.0}
    low, high = share_interval(above.astype(float))
    return [*rows, share | {"value": above.mean(), "ci_low": low, "ci_high": high}]


def head_masses(model: Model, tokens: Int[Tensor, "row token"]) -> dict[str, Float[Tensor, "layer head row token"]]:
    """Attention of every query of every head to the BOS, and to the word brought back (itself where no trigger is)."""
    found: dict[str, list[Tensor]] = {"BOS": [], "source": []}
    for part in tokens.split(BATCH):
        captured = capture_patterns(model, part)
        patterns = torch.stack([captured.patterns[layer].cpu() for layer in range(model.n_layers)])
        places = source_places(part)[None, :, None, :, None].expand(*patterns.shape[:-1], 1)
        found["BOS"].append(patterns[..., 0])
        found["source"].append(patterns.gather(-1, places).squeeze(-1))
    return {name: torch.cat(parts, 1).transpose(1, 2) for name, parts in found.items()}


def _row_means(values: Float[Tensor, "row token"], chosen: Bool[Tensor, "row token"]) -> Float[np.ndarray, " row"]:
    """Mean over the chosen tokens of each row that has any."""
    counts = chosen.sum(-1)
    return ((values.double() * chosen).sum(-1)[counts > 0] / counts[counts > 0]).numpy()


def _row(
    task: str, subset: str, metric: str, values: Float[np.ndarray, " row"], seed: int, chance: float
) -> dict[str, Any]:
    low, high = bootstrap(values, seed)
    row = {"task": task, "subset": subset, "n": len(values), "metric": metric, "value": float(values.mean())}
    return row | {"ci_low": low, "ci_high": high, "chance": chance}
