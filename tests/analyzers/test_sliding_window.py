"""Layers that see a few tokens only: scores count what a query sees, whatever the block and the batch it comes in."""

from functools import cache

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers import Analyzer, analyzer_named
from interp.analyzers.analyzer import Shape
from interp.analyzers.distant_mass import DistantMass
from interp.analyzers.matching import DuplicateToken, Induction
from interp.analyzers.positional import FirstTokenMass, PreviousToken
from interp.analyzers.received import OneTextReader
from interp.analyzers.rhythm import FutureInfluence
from interp.analyzers.shape import DelimiterMass, LocalMass
from interp.analyzers.targets import Normalisation
from interp.attention.kernel import MASKED
from interp.attention.rows import AttentionRows, Stream
from interp.interventions.uniform_attention import UniformAttention
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import HeadScores
from tests.analyzers.test_invariance import SHAPE, TEXT_ANALYZERS, same
from tests.architectures import ARCHITECTURES

WINDOW = 5
ROWS = {row.name: row for row in ARCHITECTURES}


@cache
def windowed(name: str) -> Model:
    """Mistral sees 5 tokens in both layers, Gemma 2 in its first one."""
    return interp.load(ROWS[name].build().double())


def texts() -> list[list[int]]:
    """Few different tokens, so that copies lie within the window and beyond it."""
    generator = torch.Generator().manual_seed(0)
    return [[1, *torch.randint(4, 12, (n,), generator=generator).tolist()] for n in (30, 17, 8)]


@cache
def eager_maps(name: str) -> list[Tensor]:
    """By text the maps of transformers' own attention, ``[layer, head, query, key]``."""
    hf = ROWS[name].build().double()
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        return [torch.cat(hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions) for ids in texts()]


def sees(name: str, layer: int, query: int, key: int) -> bool:
    window = WINDOW if name == "mistral" or layer == 0 else 10**6
    return 0 <= query - key < window


def by_pairs(name: str, ids: list[int], maps: Tensor, shift: int, normalisation: str) -> Tensor:
    """Attention to earlier copies (or what followed them) that the query sees, in plain loops over one text."""
    found = torch.full(maps.shape[:2], torch.nan, dtype=torch.float64)
    for layer in range(len(maps)):
        rows: list[Tensor] = []
        for i in range(len(ids)):
            keys = [j + shift for j in range(i) if ids[j] == ids[i] and sees(name, layer, i, j + shift)]
            attention = [maps[layer, :, i, j].double() for j in keys]
            rows += [torch.stack(attention).sum(0)] if keys and normalisation == "sum_per_query" else attention
        if rows:
            found[layer] = torch.stack(rows).mean(0)
    return found


def scanned(name: str, analyzer: Analyzer, batch_size: int, block_bytes: int) -> HeadScores:
    data = windowed(name).pad(texts())
    result = interp.scan(windowed(name), data, [analyzer], batch_size=batch_size, block_bytes=block_bytes)
    found = result[analyzer.name]
    assert isinstance(found, HeadScores)
    return found


@pytest.mark.parametrize(("batch_size", "block_bytes"), [(3, 10**6), (1, 3000), (2, 1)])
@pytest.mark.parametrize("kind", ["duplicate-token", "induction"])
@pytest.mark.parametrize("normalisation", ["sum_per_query", "mean_per_entry"])
@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_copies_beyond_the_window_are_no_targets(
    name: str, normalisation: Normalisation, kind: str, batch_size: int, block_bytes: int
) -> None:
    analyzer = {"duplicate-token": DuplicateToken, "induction": Induction}[kind](normalisation=normalisation)
    found = scanned(name, analyzer, batch_size, block_bytes)
    shift = int(kind == "induction")
    maps = zip(texts(), eager_maps(name), strict=True)
    expected = torch.stack([by_pairs(name, ids, text, shift, normalisation) for ids, text in maps]).nanmean(0)
    torch.testing.assert_close(found.scores, expected, atol=1e-6, rtol=0)


# By default it asks for queries that are farther off than the window.
NEAR = FutureInfluence(nearest=1, farthest=3)
NEAR_AND_OTHERS = [NEAR if analyzer.name == NEAR.name else analyzer for analyzer in TEXT_ANALYZERS]


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
@pytest.mark.parametrize("analyzer", NEAR_AND_OTHERS, ids=lambda analyzer: analyzer.name)
def test_blocks_of_keys_that_begin_behind_the_first_token_change_nothing(analyzer: Analyzer, name: str) -> None:
    model, one_text = windowed(name), isinstance(analyzer.reader(SHAPE), OneTextReader)
    data = model.pad(texts()[:1] if one_text else texts())
    small, whole = (interp.scan(model, data, [analyzer], block_bytes=size)[analyzer.name] for size in (3000, 10**6))
    same(small, whole, 1e-6 if one_text else 1e-12)


def test_a_window_that_hides_the_first_token_leaves_it_no_chance() -> None:
    found = scanned("mistral", FirstTokenMass(), 3, 3000)
    by_text = [sum(1 / (query + 1) for query in range(1, WINDOW)) / (len(ids) - 1) for ids in texts()]
    assert found.chance == pytest.approx(sum(by_text) / 3, abs=1e-9)
    maps = [text[:, :, 1:, 0].double().mean(-1) for text in eager_maps("mistral")]
    torch.testing.assert_close(found.scores, torch.stack(maps).mean(0), atol=1e-6, rtol=0)


def test_a_token_that_is_not_seen_is_no_previous_token() -> None:
    """Two chunks of three tokens that do not see each other, as in chunked attention."""
    chunk = torch.ones(3, 3, dtype=torch.bool).tril()
    seen, even = torch.block_diag(chunk, chunk), torch.block_diag(*[chunk / chunk.sum(-1, keepdim=True)] * 2)
    stream, every = Stream(tokens=torch.arange(6)[None], valid=None, past=0), torch.arange(6)
    reader = PreviousToken().reader(Shape(n_layers=1, n_heads=1, kind="self"))
    reader.read_rows(
        AttentionRows(
            layer=0, kind="self", pattern=even[None, None], scores=torch.where(seen, 0.0, MASKED)[None, None],
            queries=every, keys=every, stream=stream, key_stream=stream, decoding=False, sink_logit=False,
        )
    )  # fmt: skip
    found = reader.result(Provenance(model="by hand"), [])
    assert isinstance(found, HeadScores)
    assert found["L0H0"] == pytest.approx((1 / 2 + 1 / 3) / 2) and found.chance == pytest.approx(found["L0H0"])


EVEN = {
    "delimiter-mass": DelimiterMass(ids=(5, 9)),
    "distant-mass": DistantMass(sink=2, recent=4),
    "local-mass": LocalMass(window=3),
}
LIKE_THE_CHANCE = (
    "first-token", "previous-token", "duplicate-token", "induction", "entropy", "normalised-entropy", "mean-distance",
    "local-mass", "diagonal-offset", "delimiter-mass", "distant-mass", "sinks",
)  # fmt: skip


@pytest.mark.parametrize("name", LIKE_THE_CHANCE)
def test_chance_is_the_score_of_uniform_attention_in_layers_that_see_differently(name: str) -> None:
    model = windowed("gemma2")
    reader = (EVEN.get(name) or analyzer_named(name)).reader(Shape(n_layers=2, n_heads=4, kind="self"))
    with torch.inference_mode(), interp.watch(model, UniformAttention(torch.ones(2, 4, dtype=torch.bool)), reader):
        model(model.pad(texts()))
    found = reader.result(Provenance(model="m"), [])
    assert isinstance(found, HeadScores)
    torch.testing.assert_close(found.chances, found.scores.double(), atol=1e-6, rtol=0)
    assert name == "normalised-entropy" or not torch.allclose(found.chances[0], found.chances[1], atol=1e-3)


def test_chance_is_one_number_where_all_layers_see_alike() -> None:
    assert isinstance(scanned("mistral", LocalMass(window=3), 3, 10**6).chance, float)
