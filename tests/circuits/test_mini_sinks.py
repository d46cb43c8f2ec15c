"""The organism with attention sinks: its text, its recipe, and the shipped weights against their card."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from circuits.backcopy_evaluate import HideKeys, evaluate_backcopy, held_out_text
from circuits.training.card import save_model
from circuits.training.reproduction import STATED
from circuits.training.sinks import measure as measure_module
from circuits.training.sinks.card import write_card
from circuits.training.sinks.measure import measure
from circuits.training.sinks.process import (
    TRIGGER_SHARE,
    Process,
    chain,
    chain_entropy,
    is_trigger,
    source_places,
    word_shares,
)
from circuits.training.sinks.recipe import CONTROLS, RECIPE, SinksRecipe
from circuits.training.sinks.train import batch, build_model, train
from circuits.training.sinks.vocabulary import BOS, CHAIN_WORDS, FIRST_TRIGGER, N_TOKENS, REACH, build_tokenizer
from interp.paths import data_dir

FOLDER = data_dir() / "models" / "mini-sinks"
TOLERANCE = 0.03
TINY = replace(RECIPE, steps=3, lengths=(16,), batch=32, d_model=16, d_mlp=16, kept_steps=(1, 3), log_every=1)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load("mini-sinks")


@pytest.fixture(scope="module")
def measured(model: interp.Model) -> pd.DataFrame:
    return evaluate_backcopy(model, n=60, seed=1, card="mini-sinks").set_index(["task", "subset", "metric"])


def test_the_chain_is_a_chain() -> None:
    probabilities, shares = chain(), word_shares()
    assert probabilities.shape == (39, 39) == (len(CHAIN_WORDS),) * 2
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(39, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(shares @ probabilities, shares, atol=1e-12, rtol=0)
    behind_the = {CHAIN_WORDS[index] for index in probabilities[0].nonzero()[:, 0].tolist()}
    assert {"old", "fox"} <= behind_the and not {"the", "sees", "."} & behind_the
    # "." is word 38, so that the four determiners weigh 1/3, 1/4, 1 and 1/2 behind it, together 25/12.
    assert CHAIN_WORDS.index(".") == 38
    torch.testing.assert_close(probabilities[38, :4], torch.tensor([0.12, 0.09, 0.36, 0.18], dtype=torch.float64))
    assert probabilities[0, 4].item() == pytest.approx(0.4 / sum(1 / n for n in range(1, 9)))  # "old" behind "the"


def test_a_trigger_brings_back_the_word_before_it() -> None:
    once, twice, thrice = range(FIRST_TRIGGER, N_TOKENS)
    row = torch.tensor([[BOS, 20, 21, 22, 23, once, 23, twice, 23, thrice]])
    assert source_places(row)[0].tolist() == [0, 1, 2, 3, 4, 4, 6, 4, 8, 6]  # twice finds a trigger, and takes 23
    assert list(REACH.values()) == [1, 2, 3]


def test_a_trigger_near_the_start_brings_back_the_first_word() -> None:
    once, twice, thrice = range(FIRST_TRIGGER, N_TOKENS)
    assert source_places(torch.tensor([[BOS, 20, thrice, 20, twice, 20]]))[0].tolist() == [0, 1, 1, 3, 1, 5]
    assert source_places(torch.tensor([[BOS, 20, once, 20, 21, twice]]))[0].tolist() == [0, 1, 1, 3, 4, 3]


def test_the_text_is_what_the_true_probabilities_say() -> None:
    process, tokens = Process(), held_out_text(300, 3, Process())
    truth = process.next_probabilities(tokens)[:, :-1]
    torch.testing.assert_close(truth.sum(-1), torch.ones(truth.shape[:2], dtype=torch.float64), atol=1e-9, rtol=0)
    drawn = truth.gather(-1, tokens[:, 1:, None])[..., 0]
    assert (drawn > 0).all()
    triggers = is_trigger(tokens[:, :-1])
    assert (drawn[triggers] == 1).all()
    words = ~triggers & (tokens[:, :-1] != BOS)
    assert is_trigger(tokens[:, 1:])[words].double().mean().item() == pytest.approx(TRIGGER_SHARE, abs=0.01)
    assert -drawn[words].log().mean().item() == pytest.approx(chain_entropy(), abs=0.02)


def test_without_copies_a_trigger_says_nothing() -> None:
    process, tokens = Process(copies=False), held_out_text(50, 0, Process(copies=False))
    behind = process.next_probabilities(tokens)[is_trigger(tokens)]
    torch.testing.assert_close(behind, behind[:1].expand_as(behind))


def test_a_batch_depends_on_seed_and_step_only() -> None:
    assert torch.equal(batch(RECIPE, 7), batch(RECIPE, 7))
    assert not torch.equal(batch(RECIPE, 7), batch(RECIPE, 12))
    assert not torch.equal(batch(RECIPE, 7), batch(SinksRecipe(seed=RECIPE.seed + 1), 7))
    assert {batch(RECIPE, step).numel() for step in range(5)} == {RECIPE.batch}
    np.random.seed(1)  # the global generator has no part in it
    assert torch.equal(batch(RECIPE, 7), batch(RECIPE, 7))


def test_weights_follow_from_the_recipe() -> None:
    first, again = train(TINY), train(TINY)
    assert list(first.kept) == [1, 3] and [row["step"] for row in first.curve] == [1, 2, 3]
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
        assert torch.equal(weight, first.kept[3].state_dict()[name])
    assert not torch.equal(first.model.lm_head.weight, first.kept[1].lm_head.weight)


def test_a_card_says_what_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CARD_ROWS", "EVIDENCE_ROWS"):
        monkeypatch.setattr(measure_module, name, 4)
    run = train(TINY)
    write_card(tmp_path, measure(run, dict.fromkeys(CONTROLS, run)))
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "It misses what it must do in: back-copy once (accuracy 0." in text
    assert "sinks all (heads above 0.5 0.000, not >= 0.25)" in text and "4 controls below" in text


@pytest.mark.parametrize("share_out", [True, False])
def test_a_hidden_key_gets_no_attention(model: interp.Model, share_out: bool) -> None:
    tokens = held_out_text(2, 0, Process())
    intact = interp.capture_patterns(model, tokens).patterns[0]
    places = torch.zeros_like(tokens)
    places[:, 0] = -1
    places[1, 5] = 3
    with interp.watch(model, HideKeys(places, share_out=share_out)):
        hidden = interp.capture_patterns(model, tokens).patterns[0]
    assert (hidden[0, :, 1:, 0] == 0).all() and (hidden[1, :, 5, 3] == 0).all()
    assert torch.equal(hidden[:, :, 0], intact[:, :, 0])
    lost = intact[0, :, 1:, 0]
    expected = torch.ones_like(lost) if share_out else 1 - lost
    torch.testing.assert_close(hidden[0, :, 1:].sum(-1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden[1, :, 5, 0] * (1 - intact[1, :, 5, 3] * share_out), intact[1, :, 5, 0])


def test_the_shipped_weights_do_what_the_card_says(measured: pd.DataFrame) -> None:
    assert measured["card_value"].notna().all()
    margin = TOLERANCE + (measured["ci_high"] - measured["ci_low"]) / 2
    off = measured[(measured["value"] - measured["card_value"]).abs() > margin]
    assert off.empty, off.to_string()
    assert (measured["value"] >= measured["threshold"]).loc[measured["threshold"].notna()].all()


def test_the_card_shows_the_numbers_of_the_metrics_file() -> None:
    text = (FOLDER / "card.md").read_text(encoding="utf-8")
    metrics = json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))
    for row in metrics["card"]:
        assert f"| {row['task']} | {row['subset']} | {row['metric']} | {row['value']:.4f} |" in text
    assert STATED.partition(";")[0] in text and "Every threshold is met." in text
    assert metrics["recipe"] == json.loads(json.dumps(RECIPE.__dict__))
    assert all(f"| {name} |" in text for name in CONTROLS)


def test_a_quarter_of_the_heads_rests_on_the_bos(model: interp.Model) -> None:
    tokens = held_out_text(40, 5, Process())
    mass = interp.scan(model, tokens, ["first-token"], progress=False)["first-token"].scores
    assert (mass > 0.5).double().mean() >= 0.25
    untrained = interp.load(build_model(RECIPE).eval(), build_tokenizer())
    assert (interp.scan(untrained, tokens, ["first-token"], progress=False)["first-token"].scores < 0.1).all()


def test_the_bos_is_where_dormant_heads_rest(measured: pd.DataFrame) -> None:
    """Hidden, it disturbs the chain; another token does not. Silent, it is not missed."""
    loss = measured["value"].xs("loss above floor", level="metric")["chain"]
    assert loss["BOS hidden"] > 3 * loss["other hidden"]
    assert loss["BOS silent"] == pytest.approx(loss["all"], abs=1e-3)
    masses = measured["value"].unstack("metric").loc["sinks"].drop("all")
    active = masses["mass on the word brought back"] > 0.5
    assert active.any()
    assert (masses["BOS mass at triggers"][active] < 0.1).all() and (masses["BOS mass"][active] > 0.5).all()


def test_the_control_of_the_card_has_no_sinks() -> None:
    """Trained alike on text in which there is nothing to look back for."""
    controls = json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))["controls"]
    assert set(controls) == {"mini-sinks", *CONTROLS}
    without = [name for name, recipe in CONTROLS.items() if not recipe.copies]
    assert without and all(max(controls[name]["BOS mass"]) < 0.1 for name in without)
    others = [controls[name]["BOS mass"] for name in controls if name not in without]
    assert all(np.mean(np.array(masses) > 0.5) >= 0.25 for masses in others)


def test_the_directory_is_small_and_ordinary(tmp_path: Path) -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "card.md", "metrics.json", "emergence.json"} <= names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000
    save_model(tmp_path, build_model(RECIPE), build_tokenizer())
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
