"""`interp sinks`: the table and the JSON."""

import json
from pathlib import Path

import pytest
import torch

import interp
from interp.analyzers.sinks import Sinks
from interp.results import HeadScores
from tests.cli.conftest import Command

TEXT = " ".join(f"w{index}" for index in (*range(1, 30), *range(1, 30)))


def test_the_table_says_rate_layers_heads_tokens_and_massive_activations(
    command: Command, circuit_directory: Path
) -> None:
    code, out, err = command("sinks", TEXT, "--model", circuit_directory, "--top", "3")
    assert code == 0 and err == ""
    assert "Attention sinks on 59 tokens (epsilon 0.3)" in out
    assert "sink rate of the first token ' <s>'" in out and "(chance 0.0 %)" in out and "by layer: L0 0.0 %" in out
    # A head with zero weights looks everywhere alike.
    (row,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["L1H0"]]
    assert row[1:3] == ["0.08", "0.08"]
    words = " ".join(out.split())
    assert "massive activations: none" in words and "thresholds 100 and 1000 times" in words
    assert "with BOS, interp 0.1.0" in words
    assert max(map(len, out.splitlines())) <= 100
    assert "warning" not in out


def test_json_holds_what_the_scan_gives(command: Command, circuit_directory: Path, tmp_path: Path) -> None:
    code, out, err = command("sinks", TEXT, "--model", circuit_directory, "--epsilon", "0.05", "--json", "-")
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    expected = interp.scan(interp.load(circuit_directory), TEXT, [Sinks(epsilon=0.05)])["sinks"]
    assert isinstance(expected, HeadScores)
    assert document["notes"]["sink rate"] == expected.notes["sink rate"] > 0
    scores = {head["label"]: head["score"] for head in document["heads"]}
    assert scores == {head.label: pytest.approx(expected[head]) for head in expected.heads}
    assert document["sink tokens"][0]["token"] == " <s>" and document["sink tokens"][0]["kind"] == "special"
    assert len(document["tokens"]) == 59 and document["massive activations"]["entries"] == []
    assert document["massive activations and sinks"]["massive"] == 0
    assert document["notes"]["norms before W_O"] == []


def test_sink_tokens_and_massive_activations_are_listed(command: Command, tmp_path: Path) -> None:
    from tests.hand_weighted import induction_model, letters_tokenizer

    hf = induction_model()
    with torch.no_grad():
        hf.transformer.wte.weight[7, 3] = 4000.0
    letters_tokenizer(tmp_path)
    hf.save_pretrained(tmp_path)
    text = " ".join(f"w{index}" for index in (1, 7, *range(8, 50)))
    code, out, _ = command("sinks", text, "--model", tmp_path, "--epsilon", "0.08")
    assert code == 0
    words = " ".join(out.split())
    assert "w7' (position 2), dimension 3: 4000" in words and "entering layers 0 to 1" in words
    assert "sink tokens" in words and "<s>' special" in words
    assert "with massive activations 1, both" in words


def test_short_texts_come_with_a_warning(command: Command, circuit_directory: Path) -> None:
    _, out, _ = command("sinks", "w1 w2 w3", "--model", circuit_directory)
    words = " ".join(out.split())
    assert "warning: 1 of 1 texts have fewer than 32 tokens (the shortest 4)" in words
    assert "(chance 100.0 %)" in words


def test_bad_epsilon_is_one_sentence(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("sinks", TEXT, "--model", circuit_directory, "--epsilon", "2")
    assert code == 2 and out == ""
    assert err.strip() == "interp: epsilon=2.0: expected a share of attention between 0 and 1, such as 0.3."


def test_visual_sinks_of_a_picture(command: Command, vision_directory: Path, tmp_path: Path) -> None:
    options = ("--model", vision_directory, "--dim", "5", "--tau", "2", "--quiet")
    line = ("sinks", "Describe the picture.", *options, "--image", vision_directory / "red.png")
    code, out, err = command(*line, "--json", "-", "--save", tmp_path)
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    found = document["visual sinks"]
    image = found["notes"]["image"]
    assert len(image) > 4 and image == list(range(image[0], image[0] + len(image))) and image[0] <= 1
    values = torch.tensor(found["values"])
    assert values.shape == (2, len(document["tokens"])) and found["notes"]["dims"] == [[5], [5]]
    for layer in range(2):
        assert found["notes"]["visual_sinks"][layer] == [key for key in image if values[layer, key] > 2]
    saved = interp.load_result(tmp_path / "visual-sinks")
    assert isinstance(saved, interp.TokenMap) and torch.equal(saved.values, values)
    other = json.loads(command(*line[:-1], vision_directory / "blue.png", "--json", "-")[1])["visual sinks"]
    assert other["values"] != found["values"]  # the picture, not the token that stands for it
    code, out, _ = command(*line)
    assert f"visual sinks among {len(image)} image tokens (tau 2)" in out and code == 0


def test_the_image_token_can_stand_in_the_text(command: Command, vision_directory: Path) -> None:
    options = ("--model", vision_directory, "--dim", "5", "--tau", "2", "--json", "-", "--quiet")
    _, out, _ = command("sinks", "Describe <image> the picture.", *options, "--image", vision_directory / "red.png")
    document = json.loads(out)
    image = document["visual sinks"]["notes"]["image"]
    first, last = image[0], image[-1]
    assert first > 1 and {document["tokens"][place] for place in image} == {document["tokens"][first]}
    assert len(document["tokens"]) > last + 3


def test_pictures_that_cannot_be_used(command: Command, circuit_directory: Path, vision_directory: Path) -> None:
    picture = vision_directory / "red.png"
    code, _, err = command("sinks", TEXT, "--model", circuit_directory, "--image", picture)
    assert code == 1 and "names no image token in its configuration" in err
    code, _, err = command("sinks", TEXT, "--model", vision_directory, "--image", __file__)
    assert code == 2 and "cannot be read as a picture" in err
    line = ("sinks", "red", "--model", vision_directory, "--image", picture, "--dim", "5", "--quiet")
    code, _, err = command(*line, "--tau", "20")
    assert code == 2 and "tau=20 cannot be reached" in err
    code, out, err = command(*line)  # without --tau, its equal at a width of 32
    assert code == 0 and "(tau 1.77)" in out, err
