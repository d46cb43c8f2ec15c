"""The shipped model `mini` does what its card says, and loads as an ordinary model."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from circuits.evaluate import card_values, evaluate
from circuits.training.card import THRESHOLDS
from circuits.training.tokenizer import build_tokenizer
from interp.paths import data_dir

LARGEST_FILE = 3_000_000
TOLERANCE = 0.05
"""Of shares and masses between the card's prompts and the fewer ones here, beside half of their interval."""


@pytest.fixture(scope="module", params=("mini", "mini-b"))
def folder(request: pytest.FixtureRequest) -> Path:
    return data_dir() / "models" / request.param


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> pd.DataFrame:
    return evaluate(model, tokenizer, n=50, seed=1, card=folder.name)


def test_every_number_agrees_with_the_card(measured: pd.DataFrame) -> None:
    assert measured["card_value"].notna().all()
    shares = measured[~measured["metric"].str.contains("logit")]
    margin = TOLERANCE + (shares["ci_high"] - shares["ci_low"]) / 2
    off = shares[(shares["value"] - shares["card_value"]).abs() > margin]
    assert off.empty, off.to_string()


def test_the_thresholds_are_met(measured: pd.DataFrame) -> None:
    required = measured[measured["threshold"].notna()]
    assert set(required["task"]) == {task for task, _ in THRESHOLDS}
    missed = required[required["ci_high"] < required["threshold"]]
    assert missed.empty, missed.to_string()


def test_the_card_meets_every_threshold(folder: Path) -> None:
    card, text = card_values(folder.name), (folder / "card.md").read_text(encoding="utf-8")
    stated = card.set_index(["task", "metric"])["threshold"]
    assert all((stated.loc[[key]] == threshold).all() for key, threshold in THRESHOLDS.items())
    assert not (card["card_value"] < card["threshold"]).any()
    assert "Every threshold is met." in text


def test_the_card_shows_the_numbers_of_the_metrics_file(folder: Path) -> None:
    text = (folder / "card.md").read_text(encoding="utf-8")
    for row in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["card"]:
        assert f"| {row['task']} | {row['subset']} | {row['metric']} | {row['value']:.3f} |" in text


def test_directory_is_small_and_complete(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "card.md"} <= names
    assert (folder / "model.safetensors").stat().st_size < LARGEST_FILE
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_tokenizer_is_the_one_that_the_word_lists_give(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.is_fast
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer("Mary")["input_ids"][0] == tokenizer.bos_token_id
    assert None not in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)


def test_model_is_a_llama_with_grouped_query_attention(model: PreTrainedModel) -> None:
    config = model.config
    assert config.model_type == "llama"
    assert (config.num_attention_heads, config.num_key_value_heads) == (8, 4)
    assert config.max_position_embeddings >= 512


def test_it_continues_a_sentence(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = tokenizer("Then, Mary and Simon went to the store. Simon gave a drink to", return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(output[0], skip_special_tokens=True).endswith("to Mary.")


def test_transformer_lens_loads_the_directory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer, device="cpu")
    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert tokenizer.decode(bridge(tokens)[0, -1].argmax()) == "Paris"
