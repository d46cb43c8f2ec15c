"""`interp.load`: what it accepts, and one sentence with the fix for everything that is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from interp.attention.session import watch
from interp.errors import InputError, ModelNotSupported
from interp.model.embedded import cached_names, embedded_names, embedded_path
from interp.model.load import load
from interp.model.model import Model
from tests.architectures import ARCHITECTURES, NOT_DISPATCHING, randomised, token_rows
from tests.attention.reference import Recorder
from tests.model.checkpoints import LLAMA, saved_llama, word_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def configure(directory: Path, **changes: Any) -> None:
    """Change entries of config.json; None takes an entry out."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


# --- what loads --------------------------------------------------------------------------------------------------


def test_a_directory_loads_with_its_own_weights_and_tokenizer(checkpoint: Path) -> None:
    model = load(checkpoint)
    tokens = model.to_tokens("then mary gave")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(checkpoint)(tokens).logits
        assert torch.equal(model(tokens), expected)
    assert tokens.tolist() == [[1, 4, 5, 6]]
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.d_head, model.n_ctx) == (2, 4, 2, 8, 64)
    assert model.name == str(checkpoint) and model.dtype == torch.float32 and not model.hf.training
    assert repr(model) == f"Model({str(checkpoint)!r}, 2 layers x 4 heads, torch.float32, cpu)"


def test_a_directory_loads_by_a_relative_path(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert load(f"./{checkpoint.name}").n_heads == 4
    assert load(checkpoint.name).n_heads == 4


def test_a_model_in_memory_is_used_as_it_is_and_put_into_eval_mode() -> None:
    hf, tokenizer = LLAMA.build().train(), word_tokenizer()
    model = load(hf, tokenizer)
    assert model.hf is hf and model.tokenizer is tokenizer and not hf.training
    assert model.name == "LlamaForCausalLM"
    assert load(hf, device="cpu").device == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", torch.bfloat16])
def test_weights_are_read_in_the_dtype_asked_for(checkpoint: Path, dtype: Any) -> None:
    model = load(checkpoint, dtype=dtype)
    assert model.dtype == torch.bfloat16
    assert model("then mary gave").dtype == torch.bfloat16
    assert model.capabilities.output_difference < 0.05


def test_the_dtype_of_the_checkpoint_is_kept_when_none_is_asked_for(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    LLAMA.build().to(torch.float16).save_pretrained(tmp_path)
    assert load(tmp_path).dtype == torch.float16


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_a_device_map_of_one_device(checkpoint: Path, device_map: Any) -> None:
    assert torch.equal(load(checkpoint, device_map=device_map)("then mary"), load(checkpoint)("then mary"))


def test_rows_arrive_from_a_model_dispatched_by_accelerate() -> None:
    """As device_map spreads a large model, here with all parts on the CPU but with the hooks of accelerate."""
    parts = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
    hf = dispatch_model(LLAMA.build(), dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    spread, plain, tokens = load(hf), load(LLAMA.build()), torch.tensor(token_rows((12, 12)))
    assert isinstance(hf, LlamaForCausalLM) and hasattr(hf.model.layers[1], "_hf_hook")
    recorders = Recorder(), Recorder()
    for model, recorder in zip((spread, plain), recorders, strict=True):
        with torch.no_grad(), watch(model, recorder):
            model(tokens)
    for place in (("self", 0), ("self", 1)):
        assert torch.equal(recorders[0].pattern(place), recorders[1].pattern(place))


def test_a_model_without_a_tokenizer_takes_token_ids() -> None:
    model = load(LLAMA.build())
    assert model(torch.tensor([4, 5, 6])).shape == (1, 3, 64)
    with pytest.raises(InputError, match="LlamaForCausalLM was loaded without a tokenizer.*Pass token ids"):
        model("then mary gave")


def test_a_tokenizer_given_replaces_the_missing_one(tmp_path: Path) -> None:
    directory = saved_llama(tmp_path, tokenizer=False)
    assert load(directory, word_tokenizer()).to_tokens("mary").tolist() == [[1, 5]]


def test_embedded_names_are_directories_that_come_with_the_package() -> None:
    for name in embedded_names():
        path = embedded_path(name)
        assert path is not None and (path / "config.json").is_file()
    assert embedded_path("no-such-model") is None


def test_cached_names_of_an_absent_cache_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "absent"))
    assert cached_names() == []


# --- broken directories ------------------------------------------------------------------------------------------


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_tensor(directory: Path) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated weights": (truncate, "weights of .* cannot be read: .*download or copy them again"),
    "empty weights": (
        lambda path: (path / "model.safetensors").write_bytes(b""),
        "cannot be read: .* Expected complete safetensors",
    ),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "cannot be read: .*no file named"),
    "missing tensor": (
        drop_a_tensor,
        r"lack or misfit 1 tensors of LlamaForCausalLM \(model.layers.1.self_attn.q_proj.weight.*would be random",
    ),
    "more layers than weights": (
        lambda path: configure(path, num_hidden_layers=3),
        "lack or misfit 9 tensors of LlamaForCausalLM",
    ),
    "fewer layers than weights": (
        lambda path: configure(path, num_hidden_layers=1),
        "hold 9 tensors of layers that its config.json does not have.*cut short",
    ),
    "another width": (lambda path: configure(path, hidden_size=64), "weights of .* cannot be read: .*config.json"),
    "weights of another class": (
        lambda path: configure(path, architectures=["GPT2LMHeadModel"]),
        "lack or misfit 28 tensors of GPT2LMHeadModel",
    ),
    "damaged config": (
        lambda path: (path / "config.json").write_text('{"model_type": '),
        "config.json cannot be used: .*not a valid JSON file.* Repair or replace it",
    ),
    "impossible config": (
        lambda path: configure(path, hidden_size="many"),
        "config.json cannot be used: Validation error for field 'hidden_size'",
    ),
    "config without a type": (lambda path: (path / "config.json").write_text("{}"), "Should have a `model_type`"),
    "config without a class": (
        lambda path: configure(path, architectures=None),
        'names no architecture.* Add "architectures"',
    ),
    "unknown class": (
        lambda path: configure(path, architectures=["NovelForCausalLM"]),
        "wants the class NovelForCausalLM, which transformers .* does not have. Upgrade",
    ),
    "no config": (lambda path: (path / "config.json").unlink(), "holds no config.json.* Check the path"),
    "no tokenizer": (
        lambda path: [(path / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "comes without a usable tokenizer .*or pass tokenizer=",
    ),
}


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_the_empty_tokenizer_of_a_family_is_none(tmp_path: Path, family: str) -> None:
    """Without its files, transformers makes one of special tokens (and T5's of a space)."""
    row = next(row for row in ARCHITECTURES if row.name == family)
    row.build().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"comes without a usable tokenizer \(it knows no words\). Put tokenizer.json"):
        load(tmp_path)


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_directory_is_refused_with_the_fix(copy: Path, damage: str) -> None:
    destroy, message = BROKEN[damage]
    destroy(copy)
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(copy)


# --- names, devices, dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["someone/some-model", "no-such-model", "not a name!"])
def test_a_hub_id_without_network_is_refused(name: str) -> None:
    with pytest.raises(
        InputError, match=f"{name!r} is not an embedded model, not a directory, not in the local.*spell"
    ):
        load(name)


@pytest.mark.parametrize("path", ["./no/such/directory", "no/such/directory", "/no/such", "~/no-such-model"])
def test_a_path_that_does_not_exist_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=f"There is no directory {path}. Check the path"):
        load(path)


def test_a_file_is_no_model(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"config.json is a file. Give the directory that holds config.json"):
        load(checkpoint / "config.json")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InputError, match="name of the model is empty"):
        load("")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_and_absent_is_refused(checkpoint: Path, device: str) -> None:
    with pytest.raises(
        InputError, match=f"Device '{device}' was asked for, but torch sees 0 CUDA devices.*device='cpu'"
    ):
        load(checkpoint, device=device)


def test_an_unknown_device_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="Device 'gpu' is unknown to torch"):
        load(checkpoint, device="gpu")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="MPS is here")
def test_a_device_that_this_torch_cannot_use_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="Device 'mps' cannot be used by this build of torch. Use 'cpu'"):
        load(checkpoint, device="mps")


def test_a_device_without_numbers_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="Device 'meta' cannot be used"):
        load(checkpoint, device="meta")


def test_an_unknown_dtype_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="Dtype 'float13' is unknown. Use one of float32,"):
        load(checkpoint, dtype="float13")


def test_device_and_device_map_contradict_each_other(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="Both device and device_map were given"):
        load(checkpoint, device="cpu", device_map="auto")


@pytest.mark.parametrize("options", [{"dtype": "bf16"}, {"device_map": "auto"}])
def test_choices_of_reading_do_not_fit_a_model_in_memory(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="this model is in memory"):
        load(LLAMA.build(), **options)  # type: ignore[arg-type]


def test_a_model_that_does_not_dispatch_is_refused(tmp_path: Path) -> None:
    randomised(NOT_DISPATCHING["bloom"]).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelNotSupported, match="BloomForCausalLM failed the dispatch check"):
        load(tmp_path)


# --- prompts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return load(checkpoint)


@pytest.mark.parametrize("prompt", ["", "  \n", ["then", ""], torch.zeros(1, 0).long()])
def test_an_empty_prompt_is_refused(model: Model, prompt: Any) -> None:
    with pytest.raises(InputError, match="A prompt is empty; attention needs at least one token"):
        model(prompt)


def test_an_empty_list_of_prompts_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="list of prompts is empty"):
        model([])


def test_a_prompt_longer_than_the_context_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="A prompt has 71 tokens, but .* takes at most 64. Shorten it"):
        model("then " * 70)
    assert model("then " * 63).shape[1] == 64


def test_generation_beyond_the_context_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="has 61 tokens and 4 new ones are to follow, but .* takes at most 64"):
        model.generate("then " * 60, max_new_tokens=4)
    assert model.generate("then " * 60, max_new_tokens=3).shape == (1, 64)


@pytest.mark.parametrize(("ids", "words"), [([4, 64], "4 to 64"), ([-1, 4], "-1 to 4")])
def test_token_ids_of_another_vocabulary_are_refused(model: Model, ids: list[int], words: str) -> None:
    with pytest.raises(InputError, match=f"Token ids run from {words}, but .* knows 0 to 63"):
        model(torch.tensor(ids))
