"""A scan that stops goes on, and gives the numbers of one that did not."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import interp
from circuits.training.tokenizer import build_tokenizer
from interp import checkpoint as checkpoint_module
from interp.analyzers import known_names
from interp.analyzers.analyzer import Analyzer, AnalyzerReader, HeadMeanReader, Shape
from interp.analyzers.matching import Induction
from interp.analyzers.reader_state import pack_reader
from interp.errors import InputError, ResultFormatError
from interp.model.tokens import TokenBatch
from interp.results import HeadScores, TokenMap
from interp.scanning import scan
from tests.tiny_models import tiny_llama

HEAD_ANALYZERS = ["first-token", "duplicate-token", "induction", "entropy"]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return tiny_llama()


@pytest.fixture(scope="module")
def data(model: interp.Model) -> TokenBatch:
    generator = torch.Generator().manual_seed(1)
    return model.pad([torch.randint(3, 20, (6 + 5 * i,), generator=generator).tolist() for i in range(6)])


@pytest.fixture
def stops(model: interp.Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every batch is saved; the scan is interrupted before the pass with the number in the list."""
    at: list[int] = []
    passes = 0

    def interrupt(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes in at:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "SHARE", math.inf)
    handle = model.hf.register_forward_pre_hook(interrupt)
    yield at
    handle.remove()


def same(left: HeadScores | TokenMap, right: HeadScores | TokenMap) -> None:
    frames = [result.to_frame().select_dtypes("number") for result in (left, right)]
    assert list(frames[0]) == list(frames[1])
    first, second = (torch.tensor(frame.to_numpy(dtype=float)) for frame in frames)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6, equal_nan=True)


def test_saving_takes_its_share_of_the_time(
    model: interp.Model, data: TokenBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of ours on which a save takes one second: after the first batch, and then every twenty seconds."""
    now = 0.0
    saved: list[float] = []

    def replace_file(*_: Any) -> None:
        nonlocal now
        saved.append(now)
        now += 1

    monkeypatch.setattr(checkpoint_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(checkpoint_module, "replace_file", replace_file)
    kept = checkpoint_module.Checkpoint(tmp_path, {}, {})
    for n_examples in range(9):
        now += 6
        kept.keep(n_examples)
    kept.keep(9, last=True)
    assert saved == [6, 31, 56, 57]


def test_an_interrupted_scan_goes_on_with_another_batch_size(
    model: interp.Model, data: TokenBatch, stops: list[int], tmp_path: Path
) -> None:
    whole = scan(model, data, HEAD_ANALYZERS, batch_size=2)  # three passes
    stops.append(5)
    with pytest.raises(KeyboardInterrupt):
        scan(model, data, HEAD_ANALYZERS, batch_size=1, checkpoint=tmp_path)  # the second pass does not happen
    stops.append(8)
    with pytest.raises(KeyboardInterrupt):
        scan(model, data, HEAD_ANALYZERS, batch_size=2, checkpoint=tmp_path)
    stops[:] = [10]
    resumed = scan(model, data, HEAD_ANALYZERS, batch_size=4, checkpoint=tmp_path)
    for name, result in resumed.items():
        assert result.notes["examples"] == whole[name].notes["examples"]
        same(result, whole[name])


def test_a_finished_scan_is_not_run_again(
    model: interp.Model, data: TokenBatch, stops: list[int], tmp_path: Path
) -> None:
    first = scan(model, data, HEAD_ANALYZERS, checkpoint=tmp_path)
    stops.append(2)
    again = scan(model, data, HEAD_ANALYZERS, checkpoint=tmp_path)
    same(first["entropy"], again["entropy"])


def test_another_scan_is_refused(model: interp.Model, data: TokenBatch, tmp_path: Path) -> None:
    scan(model, data, ["entropy"], checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"holds another scan \(other prompts\)"):
        scan(model, data.tokens[:2, :6], ["entropy"], checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"holds another scan \(other analyzers\).*delete this one to start anew"):
        scan(model, data, ["induction"], checkpoint=tmp_path)


def test_damaged_and_unwritable_places(model: interp.Model, data: TokenBatch, tmp_path: Path) -> None:
    scan(model, data, ["entropy"], checkpoint=tmp_path)
    path = tmp_path / checkpoint_module.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultFormatError, match="is damaged.*Delete it to start anew"):
        scan(model, data, ["entropy"], checkpoint=tmp_path)
    save_file({}, path, metadata={"scan": '{"identity": 3}'})
    with pytest.raises(ResultFormatError, match="is damaged"):
        scan(model, data, ["entropy"], checkpoint=tmp_path)
    with pytest.raises(InputError, match="cannot be saved to .*Choose another path"):
        scan(model, data, ["entropy"], checkpoint=path)


class _Odd(Analyzer):
    name = "odd"

    def reader(self, shape: Shape) -> AnalyzerReader:
        reader = HeadMeanReader(shape, name=self.name, unit="", value_range=None)
        vars(reader)["generator"] = torch.Generator()
        return reader


def test_a_reader_that_cannot_be_saved_is_refused_before_the_scan(
    model: interp.Model, data: TokenBatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="HeadMeanReader.generator holds a Generator"):
        scan(model, data, [_Odd()], checkpoint=tmp_path)


@pytest.mark.parametrize("name", [name for name in known_names("self") if name != "visual-sinks"])
def test_every_analyzer_can_be_named_saved_and_brought_back(
    name: str, data: TokenBatch, stops: list[int], tmp_path: Path
) -> None:
    model = tiny_llama(tokenizer=build_tokenizer())
    try:
        whole, inputs = scan(model, data, [name], batch_size=2)[name], data
    except InputError as error:
        assert "one text" in str(error)
        inputs = TokenBatch(data.tokens[-1:], data.mask[-1:], data.prepend_bos)
        whole = scan(model, inputs, [name])[name]
    scan(model, inputs, [name], batch_size=2, checkpoint=tmp_path)
    same(scan(model, inputs, [name], checkpoint=tmp_path)[name], whole)


def test_the_record_of_a_scan_names_every_analyzer_with_its_parameters(model: interp.Model, data: TokenBatch) -> None:
    for result in scan(model, data, ["entropy", Induction(normalisation="mean_per_entry")]).values():
        found = result.provenance.parameters["analyzers"]
        assert list(found) == ["entropy", "induction"] and found["entropy"] == "Entropy()"
        assert found["induction"].startswith("Induction(normalisation='mean_per_entry', ")


def test_padding_is_cut_off_for_each_batch(model: interp.Model, data: TokenBatch) -> None:
    widths: list[int] = []
    handle = model.hf.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    scan(model, data, ["entropy"], batch_size=2)
    handle.remove()
    assert widths == [11, 21, 31]


def test_the_state_holds_every_attribute() -> None:
    reader = HeadMeanReader(Shape(n_layers=1, n_heads=1, kind="self"), name="x", unit="", value_range=(0.0, 1.0))
    tensors: dict[str, torch.Tensor] = {}
    reader._examples.append(torch.ones(1, 1, 1))
    packed = pack_reader(reader, tensors)["object"]
    assert set(packed) == set(vars(reader)) and packed["shape"] == {"parameter": "Shape"}
    assert packed["_examples"] == {"list": [{"tensor": ["0", "cpu"]}]} and packed["name"] == "x"
