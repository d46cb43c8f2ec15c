"""The recipe of `mini-vl`: batches that mean what they say, and weights that follow from the seed."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from circuits.evaluate import KEY
from circuits.training.vision import card as card_module
from circuits.training.vision.architecture import build_model, build_tokenizer
from circuits.training.vision.batches import (
    END,
    NAMES,
    PREFIX,
    TARGETS,
    pack,
    packed_batch,
    packed_hidden,
    patch_names,
    pixel_values,
    training_scenes,
)
from circuits.training.vision.card import CHAIR_RANGE, THRESHOLDS, measure, requirements, save, write_card
from circuits.training.vision.language import caption, existence_question, shape_question
from circuits.training.vision.sinks import sink_report
from circuits.training.vision.train import train
from interp.model.load import load
from tests.circuits.vision import CIRCLE, SCENE, TINY, save_tiny_vision_model, tiny_vision_model

EXCHANGES = [caption(SCENE, SCENE.shapes), shape_question(CIRCLE), existence_question("ring", SCENE.shapes)]


def test_exchanges_in_one_row_are_read_as_if_each_stood_alone() -> None:
    model, processor = tiny_vision_model()
    picture = SCENE.draw()[0]
    rows = [EXCHANGES, EXCHANGES[::-1], EXCHANGES[:1]]  # other orders and paddings
    batch = pack(torch.tensor(np.stack([picture] * 3)), rows, processor.tokenizer)
    with torch.inference_mode():
        packed = model.lm_head(packed_hidden(model, batch))
        for row, exchanges in enumerate(rows):
            for part, exchange in enumerate(exchanges, start=1):
                text = f"<image> {exchange.prompt} {exchange.answer}"
                alone = processor(images=Image.fromarray(picture), text=text, return_tensors="pt")
                ours = batch.parts[row] == part
                assert batch.tokens[row, ours].tolist() == [*alone["input_ids"][0, PREFIX:].tolist(), 2]
                expected = model(**alone).logits[0, PREFIX:]
                torch.testing.assert_close(packed[row, ours][:-1], expected, atol=1e-4, rtol=1e-4)


def test_targets_are_the_answers_and_their_end() -> None:
    _, processor = tiny_vision_model()
    batch = pack(torch.tensor(SCENE.draw()[0])[None], [EXCHANGES], processor.tokenizer)
    for part, exchange in enumerate(EXCHANGES, start=1):
        ours = batch.parts == part
        assert (
            processor.tokenizer.decode(batch.tokens[ours & (batch.kinds == TARGETS.index(exchange.kind))])
            == exchange.answer
        )
        assert processor.tokenizer.decode(batch.tokens[ours & (batch.kinds == END)]) == "</s>"
    assert (batch.kinds[:, :PREFIX] == -1).all()


def test_pictures_enter_training_as_the_processor_would_give_them() -> None:
    _, processor = tiny_vision_model()
    picture = SCENE.draw()[0]
    given = processor(images=Image.fromarray(picture), text="<image>", return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values(torch.tensor(picture)[None]), given)


def test_patches_are_named_after_what_they_show() -> None:
    names = {respect: values[0].reshape(8, 8) for respect, values in patch_names([SCENE]).items()}
    shape = names["shape"]
    assert (shape[1:3, 1:3] == NAMES["shape"].index("circle")).all()  # a large circle around pixel (16, 16)
    assert (shape[6:, 3:5] == NAMES["shape"].index("star")).any()
    assert shape[4, 4] == 0 and names["colour"][4, 4] == -1 and names["size"][4, 4] == -1
    assert names["colour"][1, 1] == NAMES["colour"].index("red")
    assert (names["size"][:2, 5:7] == NAMES["size"].index("small")).any()  # a small star around pixel (48, 8)
    assert not (names["size"] == NAMES["size"].index("small"))[2:].any()
    assert (names["row"][1, 1], names["column"][1, 1]) == (0, 0)
    assert names["column"][4].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]  # empty patches: where they lie themselves


def test_a_stage_says_what_is_asked() -> None:
    _, processor = tiny_vision_model()
    stage = replace(TINY.stages[1], rounds=2, captions=False)
    batch = packed_batch([SCENE], stage, np.random.default_rng(0), processor.tokenizer)
    assert batch.parts.max() == 12
    assert TARGETS.index("caption") not in batch.kinds
    assert (
        TARGETS.index("caption")
        in packed_batch([SCENE], TINY.stages[1], np.random.default_rng(0), processor.tokenizer).kinds
    )


def test_a_hidden_picture_is_blank_and_keeps_its_answers() -> None:
    _, processor = tiny_vision_model()
    hidden, shown = (
        packed_batch(
            [SCENE, SCENE], replace(TINY.stages[1], hidden=count), np.random.default_rng(0), processor.tokenizer
        )
        for count in (1, 0)
    )
    assert not hidden.pictures[0].any() and shown.pictures[0].any()
    assert torch.equal(hidden.pictures[1], shown.pictures[1])
    assert torch.equal(hidden.tokens, shown.tokens) and torch.equal(hidden.kinds, shown.kinds)


def test_scenes_depend_on_seed_and_step_only() -> None:
    assert training_scenes(TINY, 1)[0] == training_scenes(TINY, 1)[0]
    assert training_scenes(TINY, 1)[0] != training_scenes(TINY, 2)[0]
    assert training_scenes(replace(TINY, seed=1), 1)[0] != training_scenes(TINY, 1)[0]


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    whole, _, progress = train(TINY, tmp_path / "whole")
    train(TINY, tmp_path / "parts", stop_at=1)  # within the naming of patches
    parts, _, resumed = train(TINY, tmp_path / "parts")
    assert "from step 1" in caplog.text
    assert progress["step"] == resumed["step"] == 4
    assert [set(record) & {"size", "caption"} for record in progress["curve"]] == [{"size"}] * 2 + [{"caption"}] * 2
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name])


def test_the_saved_directory_loads_in_transformers_and_here(tmp_path: Path) -> None:
    save_tiny_vision_model(tmp_path)
    model, _ = tiny_vision_model()
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(
        images=Image.fromarray(SCENE.draw()[0]).resize((200, 200)), text="<image> Is there a star?", return_tensors="pt"
    )
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 64
    with torch.inference_mode():
        again = LlavaForConditionalGeneration.from_pretrained(tmp_path)(**inputs).logits
        torch.testing.assert_close(again, model(**inputs).logits)
    loaded = load(str(tmp_path))
    assert type(loaded.processor).__name__ == "LlavaProcessor"
    assert (loaded.n_layers, loaded.n_heads, loaded.n_kv_heads) == (2, 8, 4)
    assert "torchvision" not in sys.modules


def test_words_first_look_at_what_is_like_them() -> None:
    model = build_model(TINY, build_tokenizer())
    attention = model.model.language_model.layers[0].self_attn
    queries, keys = (p.weight.view(heads, 4, 32) for p, heads in ((attention.q_proj, 8), (attention.k_proj, 4)))
    assert torch.equal(queries[::2], keys)
    assert queries[1::2].std() < 0.3 * keys.std()


def test_sinks_of_even_attention() -> None:
    model, processor = tiny_vision_model()
    for layer in model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    assert np.array(sink_report(model, processor, [SCENE])["tower_evenness"]).min() < 0.999
    for layer in model.model.vision_tower.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.q_proj.bias)
    report = sink_report(model, processor, [SCENE, SCENE])
    np.testing.assert_allclose(report["top_patch_share"], [1 / 64] * 2, atol=1e-4)
    np.testing.assert_allclose(report["empty_share"], [report["empty_patches"]] * 2, atol=1e-3)
    np.testing.assert_allclose(report["tower_evenness"], np.ones((1, 4)), atol=1e-4)
    np.testing.assert_allclose(report["image_mass"], 64 * np.array(report["first_token_mass"]), rtol=0.01)


def card_rows(**changed: float) -> pd.DataFrame:
    values = {
        ("colour", "all", "accuracy"): 0.95,
        ("position", "all", "accuracy"): 0.95,
        ("colour", "blank picture", "accuracy"): 0.2,
        ("position", "blank picture", "accuracy"): 0.2,
        ("shape", "blank picture", "accuracy"): 0.2,
        ("existence", "random", "F1"): 0.9,
        ("existence", "adversarial", "F1"): 0.8,
        ("caption", "all", "CHAIR_S"): 0.2,
    } | {tuple(key.split("/")): value for key, value in changed.items()}
    return pd.DataFrame([{**dict(zip(KEY, key, strict=True)), "value": v, "chance": 0.15} for key, v in values.items()])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"position/all/accuracy": 0.89}, "position all accuracy"),
        ({"existence/random/F1": 0.84}, "existence random F1"),
        ({"existence/adversarial/F1": 0.88}, "F1 falls by 0.020"),
        ({"caption/all/CHAIR_S": 0.41}, "CHAIR_S 0.410"),
        ({"caption/all/CHAIR_S": 0.09}, "CHAIR_S 0.090"),
        ({"colour/blank picture/accuracy": 0.26}, "colour with a blank picture"),
        ({"shape/blank picture/accuracy": 0.04}, "shape with a blank picture"),
    ],
)
def test_requirements(changed: dict[str, float], words: str | None) -> None:
    missed = [text for text, met in requirements(card_rows(**changed)).items() if not met]
    assert len(missed) == (words is not None)
    assert words is None or missed[0].startswith(words)
    assert THRESHOLDS["existence", "random", "F1"] == 0.85 and CHAIR_RANGE == (0.1, 0.4)


def test_the_card_holds_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_module, "CARD_SCENES", 4)
    monkeypatch.setattr(card_module, "SINK_SCENES", 1)
    model, processor = tiny_vision_model()
    metrics = measure(TINY, model, processor, {"step": 4, "seconds": 60.0, "curve": []})
    save(tmp_path, model, processor)
    write_card(tmp_path, metrics)
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["card"] == metrics["card"]
    for row in metrics["card"]:
        assert f"| {row['task']} | {row['subset']} | {row['metric']} | {row['value']:.3f} |" in text
    assert "MISSED: colour all accuracy" in text and "requirements are missed" in text
