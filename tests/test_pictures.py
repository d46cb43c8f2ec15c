"""Pictures from files: what a model that sees is given, and scans of them by kind of attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

import interp
from interp import checkpoint as checkpoint_module
from interp.analyzers import known_names
from interp.errors import InputError
from interp.model.model import Model
from interp.pictures import picture_prompts
from interp.provenance import hash_images
from interp.results import HeadScores
from tests.architectures import sample_inputs
from tests.attention.models import ROWS, fresh, loaded
from tests.circuits.vision import tiny_vision_model

N_IMAGE = 64


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pictures of different size and content, one of them grey."""
    directory = tmp_path_factory.mktemp("pictures")
    for index, (mode, size) in enumerate((("RGB", (64, 64)), ("L", (30, 90)), ("RGB", (50, 40)))):
        picture = Image.new(mode, size, 40 * index)
        picture.paste(200, (index, 5, 20, 25 + index))
        picture.save(directory / f"{index}.png")
    return sorted(directory.iterdir())


@pytest.fixture(scope="module")
def model() -> Model:
    hf, processor = tiny_vision_model()
    return interp.load(hf, processor.tokenizer, processor=processor)


@pytest.fixture(scope="module")
def vit() -> Model:
    model = fresh("vit")
    model.processor = ViTImageProcessor(size={"height": 12, "width": 12})
    return model


def test_a_picture_stands_for_its_token_or_in_front_of_the_text(model: Model, pictures: list[Path]) -> None:
    alone, images = picture_prompts(model, pictures)
    assert alone is not None and alone.prepend_bos and alone.tokens.shape == (3, 1 + N_IMAGE)
    assert [image["pixel_values"].shape for image in images] == [(1, 3, 64, 64)] * 3
    token = int(alone.tokens[0, 1])
    assert bool((alone.tokens[:, 1:] == token).all())
    before, _ = picture_prompts(model, pictures[:1], "red circle")
    within, _ = picture_prompts(model, pictures[:1], "red <image> circle")
    assert before is not None and within is not None
    words = model.to_tokens("red circle", prepend_bos=False)[0].tolist()
    assert before.tokens[0, -2:].tolist() == words and int(before.tokens[0, 1]) == token
    assert within.tokens[0, 1::65].tolist()[:1] == words[:1] and int(within.tokens[0, -1]) == words[1]


def test_models_that_read_pictures_alone(vit: Model, pictures: list[Path]) -> None:
    data, images = picture_prompts(vit, pictures)
    assert data is None and [list(image) for image in images] == [["pixel_values"]] * 3
    found = interp.scan(vit, data, ["entropy"], images=images)["entropy"]
    assert isinstance(found, HeadScores)
    assert found.notes["examples"] == 3 and found.ci_low is not None
    assert found.provenance.prompt_hash is None and found.provenance.parameters["kind"] == "vision"
    together = {"pixel_values": torch.cat([image["pixel_values"] for image in images])}
    at_once = interp.scan(vit, None, ["entropy"], images=together)["entropy"]
    assert isinstance(at_once, HeadScores)
    torch.testing.assert_close(at_once.scores, found.scores, atol=1e-6, rtol=0)


def test_models_with_a_text_beside_the_picture(pictures: list[Path]) -> None:
    """CLIP's processor has no token for the picture: texts go to a tower of their own."""
    model = fresh("llava")
    asked: list[str] = []

    def processor(images: Any, text: str, return_tensors: str) -> dict[str, torch.Tensor]:
        asked.append(text)
        return {"input_ids": torch.tensor([[1, 5, 2]]), "pixel_values": torch.zeros(1, 3, 12, 12)}

    model.processor = processor
    data, _ = picture_prompts(model, pictures[:2])
    assert data is not None and data.tokens.tolist() == [[1, 5, 2]] * 2 and asked == ["", ""]
    picture_prompts(model, pictures[:1], "a dog")
    assert asked[-1] == "a dog"


def test_prompts_of_different_length_are_told_apart_by_their_mask(pictures: list[Path]) -> None:
    """Qwen's processor makes as many tokens as the picture is large."""
    model = fresh("llava")
    lengths = iter([3, 5])
    model.processor = lambda **_: {"input_ids": torch.arange(1, next(lengths) + 1)[None], "sizes": [[2, 1]]}
    data, images = picture_prompts(model, pictures[:2])
    assert data is not None and data.mask.sum(1).tolist() == [3, 5] and images == [{"sizes": [[2, 1]]}] * 2


def test_numbers_have_the_dtype_of_the_model(vit: Model, pictures: list[Path]) -> None:
    half = fresh("vit")
    half.hf.to(torch.bfloat16)
    half.processor = vit.processor
    (image,) = picture_prompts(half, pictures[:1])[1]
    assert image["pixel_values"].dtype == torch.bfloat16


def test_the_hash_tells_pictures_apart(model: Model, pictures: list[Path]) -> None:
    _, images = picture_prompts(model, pictures)
    assert hash_images(images) == hash_images(picture_prompts(model, pictures)[1])
    assert len({hash_images(images), hash_images(images[::-1]), hash_images(images[:2]), hash_images([])}) == 4
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    assert hash_images([{"a": half}]) != hash_images([{"a": half.T}]) != hash_images([{"a": half.tolist()}])


@pytest.mark.parametrize(
    ("name", "prompt", "said"),
    [
        ("llama", None, "llama takes no pictures. Use a model that does"),
        ("llava", None, "llava came without a processor.*pass processor= to interp.load"),
        ("vit", "a dog", "vit reads pictures alone. Leave the prompt 'a dog' out"),
    ],
)
def test_models_that_cannot_be_given_pictures(
    vit: Model, pictures: list[Path], name: str, prompt: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        picture_prompts(vit if name == "vit" else loaded(name), pictures, prompt)


def test_files_that_are_no_pictures(vit: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.png cannot be read as a picture \(No such file"):
        picture_prompts(vit, [tmp_path / "none.png"])
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match=r"text.png cannot be read as a picture \(cannot identify"):
        picture_prompts(vit, [tmp_path / "text.png"])


@pytest.mark.parametrize("name", known_names("vision"))
@pytest.mark.parametrize("tower", ["clip_vision", "llava"])
def test_what_reads_patches_does_so_in_every_tower(name: str, tower: str) -> None:
    model, inputs = loaded(tower), sample_inputs(ROWS[tower])
    found = interp.scan(model, inputs.pop("input_ids", None), [name], kind="vision", images=inputs)[name]
    assert isinstance(found, HeadScores) and found.notes["examples"] == 2
    # LLaVA reads what its tower's last layer but one gives.
    assert found.scores.shape == (3, 4) and not found.scores[:2].isnan().any()


@pytest.mark.parametrize("name", sorted(set(known_names()) - set(known_names("vision")) - {"delimiter-mass"}))
def test_what_reads_words_is_refused_for_patches(name: str) -> None:
    inputs = sample_inputs(ROWS["llava"])
    with pytest.raises(
        InputError, match=rf"^{name} reads (cross, )?encoder, self attention, not vision attention. Choose"
    ):
        interp.scan(loaded("llava"), inputs.pop("input_ids"), [name], kind="vision", images=inputs)


def test_pictures_one_by_one_have_the_scores_of_all_at_once(model: Model, pictures: list[Path]) -> None:
    data, images = picture_prompts(model, pictures, "red circle")
    together = {"pixel_values": torch.cat([image["pixel_values"] for image in images])}
    for kind, names in (("vision", ["patch-distance", "sinks"]), ("self", ["entropy", "induction"])):
        each = interp.scan(model, data, names, kind=kind, batch_size=1, images=images)
        whole = interp.scan(model, data, names, kind=kind, images=together)
        for name in names:
            found, expected = each[name], whole[name]
            assert isinstance(found, HeadScores) and isinstance(expected, HeadScores)
            torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0, equal_nan=True)
            torch.testing.assert_close(found.ci_low, expected.ci_low, atol=1e-6, rtol=0, equal_nan=True)


def test_a_scan_of_pictures_goes_on(
    model: Model, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "SHARE", math.inf)
    data, images = picture_prompts(model, pictures)
    names = ["patch-distance", "entropy"]

    def scan(given: list[dict[str, Any]], directory: Path | None = tmp_path) -> dict[str, Any]:
        return interp.scan(model, data, names, kind="vision", batch_size=1, images=given, checkpoint=directory)

    passes: list[int] = []
    whole: Callable[..., Any] = Model.forward_inputs

    def forward_inputs(model: Model, batch: object) -> object:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(Model, "forward_inputs", forward_inputs)
    with pytest.raises(KeyboardInterrupt):
        scan(images)
    resumed = scan(images)
    assert len(passes) == 4  # two before the interruption, one broken off, one after it
    for name, expected in scan(images, None).items():
        torch.testing.assert_close(resumed[name].scores, expected.scores, atol=1e-9, rtol=0, equal_nan=True)
    with pytest.raises(InputError, match=r"holds another scan \(other images\)"):
        scan(images[::-1])


@pytest.mark.parametrize(
    ("name", "has_data", "n_images", "said"),
    [
        ("vit", False, 0, "There is nothing for vit to read. Pass data, or images= to a vision model"),
        ("llama", False, 1, "There is nothing for llama to read"),
        ("vit", True, 1, "vit reads images alone. Pass None as data"),
        ("llava", True, 2, "Images were given for 2 batches, but there are 1 of up to 8 examples"),
        ("llava", True, 0, "Vision attention is attention to pictures, and there is none"),
        ("llama", True, 0, "llama has no vision attention; it has self"),
    ],
)
def test_data_and_images_that_do_not_go_together(name: str, has_data: bool, n_images: int, said: str) -> None:
    data = torch.tensor([[1, 5, 6]]) if has_data else None
    kind = "self" if name == "llama" and not has_data else "vision"
    images = [{"pixel_values": torch.zeros(1, 3, 12, 12)}] * n_images
    with pytest.raises(InputError, match=said):
        interp.scan(loaded(name), data, ["entropy"], kind=kind, images=images)
