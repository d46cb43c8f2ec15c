"""Visual sinks: sink values by hand, and a planted massive activation in a tiny LLaVA."""

from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers import analyzer_named
from interp.analyzers.analyzer import Shape
from interp.analyzers.visual_sinks import VisualSinks, image_tokens, sink_values, tau_of
from interp.attention.rows import Stream
from interp.errors import InputError, ModelNotSupported
from interp.model.model import Inputs, Model
from interp.results import TokenMap
from tests.architectures import IMAGE_TOKEN
from tests.attention.models import fresh, loaded

DIM, PATCH, N_PATCHES = 5, 4, 9
TEXT, TEXT_PLACE = 20, 1
# Three words, nine patches, four words.
IDS = torch.tensor([[10, TEXT, 12, *[IMAGE_TOKEN] * N_PATCHES, 30, 31, 32, 33]])
PIXELS = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def test_sink_values_of_the_method_file() -> None:
    noise = torch.randn(6, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
    noise[2, 1415] = -50
    values = sink_values(noise, [1415, 2533])
    assert float(values[2]) == pytest.approx(63.46, abs=0.05)
    assert float(values[[0, 1, 3, 4, 5]].max()) < 4
    ones = torch.randn(1, 4096, generator=torch.Generator().manual_seed(1))
    for magnitude, phi in ((100.0, 53.9), (1000.0, 63.87)):
        ones[0, 7] = magnitude
        assert float(sink_values(ones, [7])) == pytest.approx(phi, abs=0.2)
        assert float(sink_values(ones * 3, [7])) == pytest.approx(phi, abs=0.2)  # no scale
    narrow = torch.zeros(1, 64)
    narrow[0, 3] = 1000
    assert float(sink_values(narrow, [3])) == pytest.approx(8)


def test_sink_values_are_a_share_of_the_squared_norm_and_never_exceed_the_root_of_the_width() -> None:
    vectors = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) ** 3
    values = torch.stack([sink_values(vectors, [dim]) for dim in range(64)], -1)
    share = vectors.square() / vectors.square().sum(-1, keepdim=True)
    torch.testing.assert_close(values.square() / 64, share, atol=1e-6, rtol=1e-5)
    assert float(values.max()) <= 8 < 20  # tau = 20 needs a width above 400
    assert pytest.approx(0.0977, abs=5e-5) == 20**2 / 4096


def visual_sinks(model: Model, inputs: Inputs, *, dims: Any = None, tau: float = 20.0, **images: Tensor) -> TokenMap:
    analyzer = VisualSinks(image_tokens=image_tokens(model), dims=None if dims is None else tuple(dims), tau=tau)
    found = interp.scan(model, inputs, [analyzer], images=images)["visual-sinks"]
    assert isinstance(found, TokenMap)
    return found


def planted(model: Model, *, text: bool) -> Model:
    """A large entry in one dimension of one patch's projected feature, and of one word's embedding."""

    def plant(module: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output.view(-1, N_PATCHES, output.shape[-1])[:, PATCH, DIM] = 5000
        return output

    model.hf.model.multi_modal_projector.register_forward_hook(plant)
    if text:
        with torch.no_grad():
            model.hf.get_input_embeddings().weight[TEXT, DIM] = -5000
    return model


@pytest.mark.parametrize("dims", [None, (DIM, 7)])
def test_a_planted_massive_activation_is_found_with_given_and_detected_dimensions(dims: Any) -> None:
    model = planted(fresh("llava"), text=True)
    result = visual_sinks(model, IDS, dims=dims, tau=4.0, pixel_values=PIXELS)
    assert result.notes["image"] == tuple(range(3, 3 + N_PATCHES))
    assert result.notes["visual_sinks"] == ((3 + PATCH,), (3 + PATCH,))
    assert result.notes["text_sinks"] == ((TEXT_PLACE,), (TEXT_PLACE,))
    assert result.notes["dims"] == ((DIM,) if dims is None else dims,) * 2
    states = model.hf(IDS, pixel_values=PIXELS, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        x = states[layer][0].detach()
        used = x[:, list(dims or (DIM,))].abs().amax(-1)
        torch.testing.assert_close(result.values[layer], used / (x.square().mean(-1) + 1e-6).sqrt())


def test_without_a_massive_word_nothing_is_detected() -> None:
    model = planted(fresh("llava"), text=False)
    result = visual_sinks(model, IDS, tau=4.0, pixel_values=PIXELS)
    assert result.notes["visual_sinks"] == ((), ()) and bool(result.values.isnan().all())
    given = visual_sinks(model, IDS, dims=[DIM], tau=4.0, pixel_values=PIXELS)
    assert given.notes["visual_sinks"] == ((3 + PATCH,), (3 + PATCH,)) and given.notes["text_sinks"] == ((), ())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: Any) -> None:
    model = loaded("llava")
    expected = visual_sinks(model, IDS, dims=[DIM], tau=1.0, pixel_values=PIXELS)
    padded = model.pad([IDS[0].tolist(), [*IDS[0].tolist(), 7, 8, 9]], padding_side=side)
    one = type(padded)(padded.tokens[:1], padded.mask[:1], padded.prepend_bos)
    found = visual_sinks(model, one, dims=[DIM], tau=1.0, pixel_values=PIXELS)
    torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=1e-5)
    assert found.notes["visual_sinks"] == expected.notes["visual_sinks"] != ((), ())


def test_refusals_say_what_to_do() -> None:
    model = loaded("llava")
    with pytest.raises(InputError, match=r"tau=20 cannot be reached: sink values end at 5.66.* such as 1.8 for"):
        visual_sinks(model, IDS, pixel_values=PIXELS)
    reader = VisualSinks(image_tokens=frozenset({IMAGE_TOKEN})).reader(Shape(n_layers=2, n_heads=4, kind="self"))
    with pytest.raises(InputError, match=r"no image token \(\[60\]\) in the prompt"):
        reader.begin(Stream(tokens=torch.arange(4, 20)[None], valid=None, past=0))
    with pytest.raises(InputError, match="visual-sinks reads a prompt with a picture. Give one"):
        interp.scan(model, IDS, ["visual-sinks"])
    with pytest.raises(InputError, match="Images were given for 1 batches, but there are 2"):
        interp.scan(model, IDS.repeat(2, 1), ["entropy"], batch_size=1, images={"pixel_values": PIXELS})
    with pytest.raises(InputError, match=r"dims=\(32,\): expected dimensions from 0 to 31"):
        visual_sinks(model, IDS, dims=[32], tau=4.0, pixel_values=PIXELS)
    with pytest.raises(InputError, match="visual-sinks describes the tokens of one text"):
        visual_sinks(model, IDS.repeat(2, 1), tau=4.0, pixel_values=PIXELS.repeat(2, 1, 1, 1))
    with pytest.raises(ModelNotSupported, match="llama names no image token"):
        interp.scan(loaded("llama"), IDS, ["visual-sinks"])


def test_the_name_stands_for_the_models_own_image_tokens() -> None:
    model = loaded("llava")
    expected = VisualSinks(image_tokens=frozenset({IMAGE_TOKEN}), tau=tau_of(model))
    assert analyzer_named("visual-sinks", model) == expected
    # 20 is 9.8 % of the squared norm at a width of 4096, and out of reach at 32.
    assert tau_of(model) == pytest.approx(1.7678, abs=1e-4)
    with pytest.raises(InputError, match="needs a model's image tokens"):
        analyzer_named("visual-sinks")
