"""Attention over grids of patches: the values of the method file, loops over full maps, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.analyzer import Shape
from interp.analyzers.patch_distance import Grid, PatchDistance
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError
from interp.results import HeadScores
from tests.analyzers import hand_made
from tests.architectures import IMAGE_TOKEN
from tests.attention.models import loaded
from tests.attention.reference import Recorder

# Three words, nine patches, four words.
IDS = torch.tensor([[10, 11, 12, *[IMAGE_TOKEN] * 9, 30, 31, 32, 33]] * 2)
PIXELS = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def read(pattern: Tensor, grid: tuple[int, int] | None = None) -> HeadScores:
    grid = grid or (math.isqrt(len(pattern)), math.isqrt(len(pattern)))
    found = hand_made.read(PatchDistance(grid=grid), pattern, causal=False, kind="vision", block=4)
    assert isinstance(found, HeadScores)
    return found


def numbers(scores: HeadScores, *names: str) -> list[float]:
    return [float(scores.columns[name]) for name in names]


def shift(down: int, right: int, size: int = 3) -> Tensor:
    """Every patch looks one step in this direction, or in the opposite one where the grid ends."""
    pattern = torch.zeros(size * size, size * size)
    for row in range(size):
        for column in range(size):
            inside = 0 <= row + down < size and 0 <= column + right < size
            sign = 1 if inside else -1
            pattern[row * size + column, (row + sign * down) * size + column + sign * right] = 1
    return pattern


def test_uniform_attention_on_nine_patches() -> None:
    scores = read(torch.full((9, 9), 1 / 9))
    assert scores["L0H0"] == pytest.approx(1.453311, abs=1e-6) == scores.chance
    assert numbers(scores, "hop 0", "hop 1", "hop 2") == pytest.approx([9 / 81, 40 / 81, 32 / 81], abs=1e-6)
    assert numbers(scores, "lead mass", "offset mass") == pytest.approx([0, 1 / 9], abs=1e-6)
    assert scores.labels["reach"] == (("",),)


def test_a_patch_that_looks_at_itself() -> None:
    scores = read(torch.eye(16))
    assert scores["L0H0"] == 0
    assert numbers(scores, "hop 0", "offset mass", "down", "right") == [1, 1, 0, 0]
    assert scores.labels["reach"] == (("local",),) and scores.notes["grid"] == (4, 4)


@pytest.mark.parametrize(("down", "right"), [(0, 1), (0, -1), (1, 0), (-1, 0)])
def test_a_shift_is_found_on_the_queries_that_can_take_it(down: int, right: int) -> None:
    scores = read(shift(down, right))
    assert scores["L0H0"] == pytest.approx(1)
    assert numbers(scores, "hop 1", "offset mass", "down", "right") == pytest.approx([1, 1, down, right])


def test_leading_tokens_are_no_patches() -> None:
    """One token in front takes 0.4 of every patch; where it looks itself does not count."""
    pattern = torch.zeros(10, 10)
    pattern[1:, 0] = 0.4
    pattern[1:, 1:] = 0.6 * torch.eye(9)
    pattern[0, 9] = 1
    scores = read(pattern)
    assert numbers(scores, "lead mass", "hop 0", "offset mass") == pytest.approx([0.4, 0.6, 0.6])
    assert scores["L0H0"] == 0 and scores.notes["leading tokens"] == 1
    assert scores.chance == pytest.approx(1.453311 * 9 / 10, abs=1e-6)


def test_other_grids_are_given() -> None:
    """Two rows of three: the key below is three tokens on."""
    pattern = torch.eye(6).roll(3, 1)
    scores = read(pattern, (2, 3))
    assert scores["L0H0"] == 1 and scores.notes["grid"] == (2, 3)
    assert numbers(scores, "hop 1") == [1]
    with pytest.raises(InputError, match="A grid of 3 x 3 patches does not fit into 6 tokens"):
        read(pattern, (3, 3))


def slow(pattern: Tensor, grid: Grid) -> dict[str, float]:
    """The definitions in loops over the full map of one head and image."""
    patches = range(grid.lead, len(pattern))
    place = {token: divmod(token - grid.lead, grid.columns) for token in patches}
    found = {"distance": 0.0, "lead mass": 0.0, "hop 0": 0.0, "hop 1": 0.0, "hop 2": 0.0}
    for query in patches:
        found["lead mass"] += float(pattern[query, : grid.lead].sum()) / len(patches)
        for key in patches:
            down, right = (b - a for a, b in zip(place[query], place[key], strict=True))
            found["distance"] += float(pattern[query, key]) * (down**2 + right**2) ** 0.5 / len(patches)
            found[f"hop {max(abs(down), abs(right))}"] += float(pattern[query, key]) / len(patches)
    return found


@pytest.mark.parametrize("block_bytes", [1, 10**6])
def test_a_vision_tower_equals_loops_over_full_maps(block_bytes: int) -> None:
    model = loaded("llava")
    images = {"pixel_values": PIXELS}
    scores = interp.scan(model, IDS, ["patch-distance"], kind="vision", images=images, block_bytes=block_bytes)
    found = scores["patch-distance"]
    assert isinstance(found, HeadScores) and found.notes["examples"] == 2
    recorder = Recorder()
    with torch.no_grad(), interp.watch(model, recorder):
        model(IDS, **images)
    for layer, head in ((0, 0), (1, 3)):
        expected = [slow(recorder.pattern(("vision", layer))[image, head], Grid.of(10, (3, 3))) for image in range(2)]
        assert float(found.scores[layer, head]) == pytest.approx(mean_of(expected, "distance"), abs=1e-6)
        for name in ("lead mass", "hop 0", "hop 1", "hop 2"):
            assert float(found.columns[name][layer, head]) == pytest.approx(mean_of(expected, name), abs=1e-6)
    everything = sum(found.columns[name] for name in ("lead mass", "hop 0", "hop 1", "hop 2"))
    torch.testing.assert_close(everything, torch.ones_like(found.scores).where(~found.scores.isnan(), torch.nan))


def mean_of(found: list[dict[str, float]], name: str) -> float:
    return sum(one[name] for one in found) / len(found)


def test_what_is_no_grid_is_refused() -> None:
    with pytest.raises(InputError, match="patch-distance reads vision attention, not self attention"):
        interp.scan(loaded("llama"), torch.tensor([[1, 5, 6]]), [PatchDistance()])
    with pytest.raises(InputError, match=r"given grid=\(3,\): expected rows and columns"):
        PatchDistance(grid=(3,))
    with pytest.raises(InputError, match="In layer 0 not all patches see each other"):
        hand_made.read(PatchDistance(grid=(3, 3)), hand_made.uniform(9), causal=True, kind="vision", block=9)
    with pytest.raises(InputError, match="How the patches of a picture lie cannot be told"):
        PatchDistance().reader(Shape(n_layers=1, n_heads=1, kind="vision"))
    reader = PatchDistance().reader(Shape(n_layers=1, n_heads=1, kind="vision", patches=(2, 2)))
    reader.read_rows(everyone_alike(4))
    with pytest.raises(InputError, match="Images of 4 and of 9 tokens have no common grid"):
        reader.read_rows(everyone_alike(9))


def everyone_alike(n: int) -> AttentionRows:
    stream = Stream(tokens=None, valid=None, past=0)
    return AttentionRows(
        layer=0, kind="vision", pattern=torch.full((1, 1, n, n), 1 / n), scores=torch.zeros(1, 1, n, n),
        queries=torch.arange(n), keys=torch.arange(n), stream=stream, key_stream=stream, decoding=False,
        sink_logit=False,
    )  # fmt: skip


def test_the_grid_follows_from_the_size_of_the_pictures() -> None:
    """Pictures of 8 x 24 pixels are 2 x 6 patches of 4, not the square of 3 x 3 that 13 tokens hold."""
    model = loaded("vit")
    wide = {"pixel_values": torch.randn(1, 3, 8, 24, generator=torch.Generator().manual_seed(0))}
    found = interp.scan(model, None, ["patch-distance"], images=wide | {"interpolate_pos_encoding": True})
    assert found["patch-distance"].notes["grid"] == (2, 6)
    assert found["patch-distance"].notes["leading tokens"] == 1
