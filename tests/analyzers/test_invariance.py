"""No score depends on padding, packing or the batch: every registered analyzer, on a model with grouped keys.

In float64 the definitions themselves are compared. In float32 sums in another order differ in their last digits, so
there the analyzers whose scores are shares are held to 1e-6.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from circuits.training.tokenizer import build_tokenizer
from interp.analyzers import ANALYZERS, Analyzer, analyzer_named, known_names
from interp.analyzers.analyzer import Shape
from interp.analyzers.distant_mass import DistantMass
from interp.analyzers.local_heads import LocalHeads
from interp.analyzers.massive_activations import MassiveActivations
from interp.analyzers.received import OneTextReader
from interp.analyzers.shape import DelimiterMass
from interp.analyzers.sinks import Sinks
from interp.data import sequences
from interp.model.model import Model
from interp.model.tokens import TokenBatch
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap
from tests.tiny_models import tiny_llama

SHAPE = Shape(n_layers=2, n_heads=4, kind="self")
# The defaults of these ask for longer texts, a tokenizer, or activations that a random model does not have.
SMALL: dict[str, Analyzer] = {
    "delimiter-mass": DelimiterMass(ids=(5, 9)),
    "distant-mass": DistantMass(sink=2, recent=5),
    "local-heads": LocalHeads(sink=2, recent=5),
    "massive-activations": MassiveActivations(min_magnitude=1.0, min_ratio=3.0),
    "sinks": Sinks(epsilon=0.1, min_queries=5),
}
TEXT_ANALYZERS = [SMALL.get(name) or analyzer_named(name) for name in known_names("self") if name != "visual-sinks"]
ONE_TEXT = [a for a in TEXT_ANALYZERS if isinstance(a.reader(SHAPE), OneTextReader)]
SEVERAL = [a for a in TEXT_ANALYZERS if a not in ONE_TEXT]
SHARES = [a for a in SEVERAL if getattr(a.reader(SHAPE), "value_range", None) == (0.0, 1.0)]


@cache
def model(dtype: torch.dtype) -> Model:
    made = tiny_llama(tokenizer=build_tokenizer())
    made.hf.to(dtype)
    return made


def rows() -> list[list[int]]:
    """Three texts of 25, 41 and 31 tokens; the second half of each repeats the first, as induction needs it."""
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randint(3, 60, (n,), generator=generator).tolist() for n in (12, 20, 15)]
    return [[1, *half, *half] for half in halves]


TOKENS = [str(i) for i in rows()[0]]


@cache
def scanned(side: Any, dtype: torch.dtype, batch_size: int, block_bytes: int) -> dict[str, HeadScores | TokenMap]:
    """One pass of all analyzers over the three texts."""
    data = model(dtype).pad(rows(), padding_side=side)
    return interp.scan(model(dtype), data, SEVERAL, batch_size=batch_size, block_bytes=block_bytes)


@cache
def watched(side: Any, block_bytes: int) -> dict[str, HeadScores | TokenMap]:
    """All analyzers of one text on the first, padded to the length of the second, which a scan would cut off."""
    padded = model(torch.float64).pad(rows(), padding_side=side)
    one = TokenBatch(padded.tokens[:1], padded.mask[:1], prepend_bos=True)
    assert one.padding_side == side
    readers = {analyzer.name: analyzer.reader(SHAPE) for analyzer in ONE_TEXT}
    with torch.inference_mode(), interp.watch(model(torch.float64), *readers.values(), block_bytes=block_bytes):
        model(torch.float64)(one)
    return {name: reader.result(Provenance(model="m"), TOKENS) for name, reader in readers.items()}


@cache
def unpadded() -> dict[str, HeadScores | TokenMap]:
    return interp.scan(model(torch.float64), torch.tensor(rows()[:1]), ONE_TEXT)


@cache
def packed(n: int, batch_size: int) -> dict[str, HeadScores | TokenMap]:
    """One pass over documents packed into rows, which arrive anew every time."""
    data = sequences(model(torch.float64), documents(), n=n, length=33)
    return interp.scan(model(torch.float64), data, SEVERAL, batch_size=batch_size)


def documents() -> Iterator[str]:
    words = ["Mary", "John", "gave", "the", "ring", "to", "school", "and", "went", "a"]
    for start in range(30):
        half = " ".join(words[(start + 3 * step) % 10] for step in range(6 + start % 5))
        yield f"{half} {half}"


def numbers(result: HeadScores | TokenMap) -> dict[str, Tensor]:
    """Every number of a result: scores or values, chance, and all columns."""
    found = result.to_frame().select_dtypes("number")
    return {str(name): torch.tensor(found[name].to_numpy(dtype=float)) for name in found}


def same(found: HeadScores | TokenMap, expected: HeadScores | TokenMap, atol: float) -> None:
    found_numbers, expected_numbers = numbers(found), numbers(expected)
    assert list(found_numbers) == list(expected_numbers)
    assert any(bool((values == values).any()) for values in expected_numbers.values())
    for name, values in expected_numbers.items():
        torch.testing.assert_close(found_numbers[name], values, atol=atol, rtol=0, equal_nan=True, msg=name)


def by_name(analyzers: list[Analyzer]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [analyzer.name for analyzer in analyzers])


@pytest.mark.parametrize(("side", "batch_size", "block_bytes"), [("right", 3, 10**4), ("left", 2, 10**6)])
@by_name(SEVERAL)
def test_batches_and_padding_change_no_score(name: str, side: str, batch_size: int, block_bytes: int) -> None:
    expected = scanned("right", torch.float64, 1, 10**6)[name]
    same(scanned(side, torch.float64, batch_size, block_bytes)[name], expected, 1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
@by_name(SHARES)
def test_single_precision_keeps_shares_to_1e_6(name: str, side: str) -> None:
    same(scanned(side, torch.float32, 3, 10**6)[name], scanned("right", torch.float32, 1, 10**6)[name], 1e-6)


@pytest.mark.parametrize(("side", "block_bytes"), [("left", 4000), ("right", 10**6)])
@by_name(ONE_TEXT)
def test_padding_changes_nothing_about_one_text(name: str, side: str, block_bytes: int) -> None:
    found, expected = watched(side, block_bytes)[name], unpadded()[name]
    same(found, expected, 1e-6)  # stored in float32
    if name == "massive-activations":
        assert expected.notes["massive"] and found.notes["massive"] == expected.notes["massive"]
        assert found.notes["medians"] == pytest.approx(expected.notes["medians"], rel=1e-6)


@by_name(SEVERAL)
def test_packed_rows_are_scored_like_any_tokens(name: str) -> None:
    """A row of several documents is one text; which rows share a batch changes nothing."""
    same(packed(4, 3)[name], packed(4, 1)[name], 1e-12)


def test_packing_cuts_the_same_rows_however_many_are_asked_for() -> None:
    few, many = (sequences(model(torch.float64), documents(), n=n, length=33) for n in (2, 4))
    assert torch.equal(few.tokens, many.tokens[:2]) and bool(many.mask.all()) and many.tokens.shape == (4, 33)


def test_every_analyzer_of_text_is_here() -> None:
    of_pictures = {"visual-sinks", "patch-distance"}
    assert {analyzer.name for analyzer in TEXT_ANALYZERS} | of_pictures == {one.name for one in ANALYZERS}
