"""How far and how evenly heads look: known answers, and slow definitions over the full maps of real models."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from circuits.training.tokenizer import build_tokenizer
from interp.analyzers import analyzer_named
from interp.analyzers.analyzer import Analyzer
from interp.analyzers.shape import (
    DelimiterMass,
    DiagonalOffset,
    LocalMass,
    MeanDistance,
    NormalisedEntropy,
    delimiter_ids,
)
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from tests.analyzers.hand_made import first, key_bias, previous, read, score, uniform
from tests.attention.models import loaded
from tests.tiny_models import tiny_llama

ALL = [
    NormalisedEntropy(),
    MeanDistance(),
    LocalMass(window=3),
    DiagonalOffset(reach=2),
    DelimiterMass(ids=(5, 9)),
]
STORY = [
    "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball.",
    "Tom and Sam saw a dog. The dog was big. Tom was happy and the dog was happy.",
    "One day, a bird flew.",
]


def test_entropy_is_one_for_uniform_and_zero_for_single_keys() -> None:
    assert score(NormalisedEntropy(), uniform(64)) == pytest.approx(1, abs=1e-6)
    for pattern in (previous(20), first(20), torch.eye(20)):
        assert score(NormalisedEntropy(), pattern) == pytest.approx(0, abs=1e-6)


def test_the_first_query_has_no_choice_and_does_not_count() -> None:
    pattern = uniform(2)
    pattern[1] = torch.tensor([0.9, 0.1])
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert score(NormalisedEntropy(), pattern) == pytest.approx(expected, abs=1e-6)
    assert math.isnan(score(NormalisedEntropy(), torch.eye(1)))


def test_a_sink_logit_takes_nothing_from_the_entropy_of_the_rest() -> None:
    assert score(NormalisedEntropy(), uniform(9) * 0.3, sink_logit=True) == pytest.approx(1, abs=1e-6)
    peaked = key_bias(9, 2.0)
    alone = score(NormalisedEntropy(), peaked)
    assert 0.5 < alone < 0.9
    assert score(NormalisedEntropy(), peaked * 0.3, sink_logit=True) == pytest.approx(alone, abs=1e-6)


def test_broad_heads_carry_a_label() -> None:
    assert read(NormalisedEntropy(), uniform(16)).labels["breadth"] == (("broad",),)  # type: ignore[union-attr]
    assert read(NormalisedEntropy(), first(16)).labels["breadth"] == (("",),)  # type: ignore[union-attr]


@pytest.mark.parametrize(("n_keys", "label"), [(44, ""), (45, "broad")])
def test_broad_is_3_8_nats_of_128_keys(n_keys: int, label: str) -> None:
    """The threshold of Clark et al. 2019: e^3.8 = 44.7 keys alike."""
    pattern = torch.zeros(128, 128)
    pattern[:, :n_keys] = 1 / n_keys
    assert read(NormalisedEntropy(), pattern, causal=False).labels["breadth"] == ((label,),)  # type: ignore[union-attr]


def test_mean_distance_of_the_published_heads() -> None:
    assert score(MeanDistance(first_query=1), previous(30)) == 1
    assert score(MeanDistance(), torch.eye(30)) == 0
    assert score(MeanDistance(), first(30)) == pytest.approx(14.5, abs=1e-6)
    result = read(MeanDistance(), uniform(60))
    assert isinstance(result, HeadScores)
    assert result["L0H0"] == pytest.approx(59 / 4, abs=1e-5)  # mean of (t - 1) / 2 over t = 1..60
    assert result.chance == pytest.approx(59 / 4, abs=1e-6)


def test_mean_distance_past_the_first_token() -> None:
    mixed = 0.9 * first(30) + 0.1 * previous(30)
    assert score(MeanDistance(), mixed) > 12
    # Query 1 sees only the first token's neighbour, itself, with mass 0; the others have their rest at distance 1.
    assert score(MeanDistance(skip_first=True, first_query=2), mixed) == pytest.approx(1, abs=1e-6)
    result = read(MeanDistance(skip_first=True), uniform(30))
    assert isinstance(result, HeadScores)
    assert result["L0H0"] == pytest.approx(sum((i - 1) / 2 for i in range(1, 30)) / 29, abs=1e-5)
    assert result.chance == pytest.approx(result["L0H0"], abs=1e-5)


def test_the_first_token_that_is_left_out_is_the_first_real_one() -> None:
    text, padded = key_bias(12, 2.0), torch.zeros(15, 15)
    padded[3:, 3:] = text
    valid = torch.arange(15) >= 3
    found = read(MeanDistance(skip_first=True), padded, valid=valid)
    expected = read(MeanDistance(skip_first=True), text)
    assert isinstance(found, HeadScores) and isinstance(expected, HeadScores)
    assert (found["L0H0"], found.chance) == pytest.approx((expected["L0H0"], expected.chance), abs=1e-6)


def test_local_mass_counts_the_current_token() -> None:
    assert score(LocalMass(window=1), torch.eye(9)) == 1
    assert score(LocalMass(window=1), previous(9)) == pytest.approx(1 / 9, abs=1e-6)
    assert score(LocalMass(window=2), previous(9)) == 1
    assert score(LocalMass(window=2), first(9)) == pytest.approx(2 / 9, abs=1e-6)


def test_offsets_of_shift_matrices() -> None:
    result = read(DiagonalOffset(reach=3), previous(12))
    assert isinstance(result, HeadScores)
    assert (result["L0H0"], int(result.columns["offset"][0, 0])) == (1, -1)
    assert set(result.columns) == {"offset", "-3", "-2", "-1", "+0"}  # no query of a causal map sees what follows
    following = torch.eye(12).roll(1, 1)
    following[-1] = torch.eye(12)[-1]
    after = read(DiagonalOffset(reach=3), following, causal=False)
    assert isinstance(after, HeadScores)
    assert (after["L0H0"], int(after.columns["offset"][0, 0])) == (1, 1)


def test_delimiters_by_token() -> None:
    tokens = torch.tensor([0, 7, 5, 8, 9, 7])
    pattern = torch.zeros(6, 6)
    pattern[:2, 0] = 1
    pattern[2:4, 2] = 1
    pattern[4:, 4] = 0.5
    pattern[4:, 1] = 0.5
    result = read(DelimiterMass(ids=(5, 9)), pattern, tokens)
    assert isinstance(result, HeadScores)
    assert result["L0H0"] == pytest.approx(3 / 6)
    assert result.chance == pytest.approx((1 / 3 + 1 / 4 + 2 / 5 + 2 / 6) / 6)
    with pytest.raises(InputError, match="no token ids"):
        read(DelimiterMass(ids=()), pattern, tokens)


@pytest.mark.parametrize("analyzer", ALL, ids=lambda a: a.name)
def test_chance_is_the_score_of_uniform_attention(analyzer: Analyzer) -> None:
    tokens = torch.tensor([0, 5, 6, 5, 5, 7, 6, 5, 9, 6])
    for pattern, causal in ((uniform(10), True), (torch.full((10, 10), 0.1), False)):
        result = read(analyzer, pattern, tokens, causal=causal)
        assert isinstance(result, HeadScores)
        assert result["L0H0"] == pytest.approx(float(result.chance), abs=1e-6)


@pytest.mark.parametrize("analyzer", ALL, ids=lambda a: a.name)
def test_padding_takes_no_part(analyzer: Analyzer) -> None:
    tokens = torch.tensor([0, 5, 6, 5, 6])
    mixed = 0.5 * uniform(5) + 0.3 * previous(5) + 0.2 * first(5)
    plain = read(analyzer, mixed, tokens)
    for before, after in ((2, 0), (0, 2)):
        pattern = torch.zeros(7, 7)
        pattern[before : 7 - after, before : 7 - after] = mixed
        pattern[: before or None, 0] += before > 0
        pattern[7 - after :, 1] += after > 0
        valid = torch.zeros(7, dtype=torch.bool)
        valid[before : 7 - after] = True
        padded = torch.full((7,), 5).masked_scatter(valid, tokens)
        result = read(analyzer, pattern, padded, valid)
        assert isinstance(result, HeadScores) and isinstance(plain, HeadScores)
        assert result["L0H0"] == pytest.approx(plain["L0H0"], abs=1e-6)
        assert float(result.chance) == pytest.approx(float(plain.chance), abs=1e-6)


@pytest.fixture(scope="module")
def model(stories260k: Path) -> Model:
    return interp.load(stories260k)


@pytest.mark.parametrize(
    ("batch_size", "block_bytes", "side"), [(1, 10**6, "right"), (3, 40_000, "right"), (2, 1, "left")]
)
def test_real_text_equals_full_maps_whatever_the_batch(
    model: Model, batch_size: int, block_bytes: int, side: str
) -> None:
    ids = delimiter_ids(model.tokenizer)
    analyzers = [*ALL[:-1], DelimiterMass(ids=ids)]
    data = model.batch(STORY, padding_side=side)  # type: ignore[arg-type]
    found = interp.scan(model, data, analyzers, batch_size=batch_size, block_bytes=block_bytes)
    slow = [slow_scores(model, model.to_tokens(text), ids) for text in STORY]
    compare(found, slow)  # type: ignore[arg-type]


def test_an_encoder_equals_full_maps() -> None:
    model = loaded("bert")
    tokens = torch.randint(3, 40, (2, 11), generator=torch.Generator().manual_seed(0))
    found = interp.scan(model, tokens, ALL, batch_size=1, block_bytes=999)
    compare(found, [slow_scores(model, row[None], (5, 9)) for row in tokens])  # type: ignore[arg-type]
    assert int(found["diagonal-offset"].columns["offset"].max()) > 0  # type: ignore[union-attr]


def compare(found: dict[str, HeadScores], slow: list[dict[str, Tensor]]) -> None:
    for name, scores in found.items():
        expected = torch.stack([example[name] for example in slow]).nanmean(0)
        if name == "diagonal-offset":
            expected = expected.amax(0)
        torch.testing.assert_close(scores.scores.double(), expected, atol=2e-6, rtol=1e-6)


def slow_scores(model: Model, tokens: Tensor, ids: tuple[int, ...]) -> dict[str, Tensor]:
    """The definitions in loops over the full maps of one text, in float64."""
    capture = interp.capture_patterns(model, tokens)
    pattern = torch.stack([capture.patterns[layer][0] for layer in range(model.n_layers)]).double()
    n = pattern.shape[-1]
    causal = bool((pattern.triu(1) == 0).all())
    seen = [range(i + 1 if causal else n) for i in range(n)]
    chosen = [j for j in range(n) if int(tokens[0, j]) in ids]

    def mean(rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).mean(0)

    def mass(i: int, keys: list[int]) -> Tensor:
        return pattern[:, :, i, keys].sum(-1)

    diagonals = []
    for offset in range(-2, (0 if causal else 2) + 1):
        diagonals.append(mean([pattern[:, :, i, i + offset] for i in range(n) if 0 <= i + offset < n]))
    lags = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    entropies = [torch.special.entr(pattern[:, :, i]).sum(-1) / math.log(len(seen[i])) for i in range(int(causal), n)]
    return {
        "normalised-entropy": mean(entropies),
        "mean-distance": mean([(pattern[:, :, i] * lags[i]).sum(-1) for i in range(n)]),
        "local-mass": mean([mass(i, [j for j in range(n) if abs(i - j) < 3]) for i in range(n)]),
        "diagonal-offset": torch.stack(diagonals),
        "delimiter-mass": mean([mass(i, chosen) for i in range(n)]),
    }


def test_delimiters_of_a_real_tokenizer(model: Model) -> None:
    ids = delimiter_ids(model.tokenizer)
    assert {model.tokenizer.decode([i]) for i in ids} >= {".", ","}
    found = interp.scan(model, STORY[0], [DelimiterMass(ids=ids)])["delimiter-mass"]
    assert isinstance(found, HeadScores) and 0 < float(found.chance or 0) < 0.2
    by_name = interp.scan(model, STORY[0], ["delimiter-mass"])["delimiter-mass"]
    assert isinstance(by_name, HeadScores) and torch.equal(by_name.scores, found.scores)


def test_delimiters_by_name_are_full_stops_commas_and_the_separator() -> None:
    tokenizer = build_tokenizer()
    tokenizer.sep_token = tokenizer.convert_ids_to_tokens(30)
    found = analyzer_named("delimiter-mass", tiny_llama(tokenizer=tokenizer))
    assert found == DelimiterMass(ids=(*delimiter_ids(tokenizer), 30))
    with pytest.raises(InputError, match="there is no tokenizer"):
        analyzer_named("delimiter-mass", tiny_llama())
