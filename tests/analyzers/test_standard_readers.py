"""The standard readers on hand-made patterns with known answers, and on a real model against full maps."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers import ANALYZERS, analyzer_named, known_names, matching, resolve
from interp.analyzers.analyzer import Shape
from interp.analyzers.matching import equal_pairs
from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap
from tests.analyzers import hand_made
from tests.analyzers.hand_made import uniform
from tests.architectures import IMAGE_TOKEN
from tests.attention.models import loaded

HEAD_ANALYZERS = ["first-token", "previous-token", "duplicate-token", "induction", "entropy"]


def perfect(n: int, targets: dict[int, list[int]]) -> Tensor:
    """Every query attends evenly to its targets, or to BOS where it has none."""
    pattern = torch.zeros(n, n)
    for query in range(n):
        for key in targets.get(query, [0]):
            pattern[query, key] = 1 / len(targets.get(query, [0]))
    return pattern


def read(name: str, pattern: Tensor, tokens: Tensor, valid: Tensor | None = None) -> HeadScores:
    """One reader over one map made by hand ``[query, key]``."""
    result = hand_made.read(analyzer_named(name), pattern, tokens, valid)
    assert isinstance(result, HeadScores)
    return result


def repeated(length: int, copies: int) -> Tensor:
    return torch.cat([torch.tensor([0]), torch.arange(1, length + 1).repeat(copies)])


def induction_targets(tokens: Tensor) -> dict[int, list[int]]:
    ids = tokens.tolist()
    found = {i: [j for j in range(1, i + 1) if ids[j - 1] == ids[i]] for i in range(len(ids))}
    return {i: keys for i, keys in found.items() if keys}


def test_perfect_induction_head_on_four_copies_scores_one() -> None:
    tokens = repeated(25, 4)
    head = perfect(101, induction_targets(tokens))
    assert read("induction", head, tokens)["L0H0"] == pytest.approx(1, abs=1e-6)
    assert read("duplicate-token", head, tokens)["L0H0"] == 0


def test_uniform_attention_gives_the_published_chance_levels() -> None:
    tokens = repeated(25, 4)
    result = read("induction", uniform(101), tokens)
    assert result["L0H0"] == pytest.approx(0.0307, abs=5e-5)
    previous = read("previous-token", uniform(101), tokens)
    harmonic = sum(1 / i for i in range(1, 102))
    assert previous["L0H0"] == pytest.approx((harmonic - 1) / 100, abs=1e-6)
    assert previous["L0H0"] * 100 / 101 == pytest.approx(0.0416, abs=5e-5)  # as counted over all rows


@pytest.mark.parametrize("name", HEAD_ANALYZERS)
def test_chance_is_the_score_of_uniform_attention(name: str) -> None:
    tokens = torch.tensor([0, 5, 6, 5, 5, 7, 6, 5, 9, 6])
    result = read(name, uniform(10), tokens)
    assert result["L0H0"] == pytest.approx(result.chance, abs=1e-6)


def test_perfect_previous_token_and_sink_heads() -> None:
    tokens = repeated(10, 2)
    previous = perfect(21, {i: [i - 1] for i in range(1, 21)})
    assert read("previous-token", previous, tokens)["L0H0"] == 1
    sink = perfect(21, {})
    assert read("first-token", sink, tokens)["L0H0"] == 1
    for name in ("induction", "duplicate-token"):
        assert read(name, sink, tokens)["L0H0"] == 0
    assert read("entropy", sink, tokens)["L0H0"] == pytest.approx(0, abs=1e-6)


def test_entropy_of_uniform_rows_is_the_mean_logarithm_of_the_visible_keys() -> None:
    result = read("entropy", uniform(12), torch.arange(12))
    assert result["L0H0"] == pytest.approx(sum(math.log(n) for n in range(1, 13)) / 12, abs=1e-6)


def test_immediate_repeats_count_the_diagonal_for_induction() -> None:
    diagonal = torch.eye(3)
    assert read("induction", diagonal, torch.tensor([4, 4, 4]))["L0H0"] == 1
    assert read("duplicate-token", diagonal, torch.tensor([4, 4, 4]))["L0H0"] == 0


def test_nothing_repeats_gives_nan_not_zero() -> None:
    result = read("induction", uniform(5), torch.arange(5))
    assert math.isnan(result["L0H0"])
    assert [head.label for head in result.unmeasured] == ["L0H0"]


def test_padding_takes_no_part() -> None:
    tokens = torch.tensor([0, 5, 6, 5, 6])
    padded = torch.cat([torch.tensor([3, 3]), tokens])
    valid = torch.tensor([False, False, True, True, True, True, True])
    pattern = torch.zeros(7, 7)
    pattern[2:, 2:] = uniform(5)
    pattern[:2, 0] = 1
    for name in ("first-token", "previous-token", "duplicate-token", "induction"):
        assert read(name, pattern, padded, valid)["L0H0"] == pytest.approx(read(name, uniform(5), tokens)["L0H0"])


def test_equal_pairs_against_a_double_loop() -> None:
    tokens = torch.randint(0, 6, (3, 40), generator=torch.Generator().manual_seed(0))
    pairs = equal_pairs(tokens)
    expected = {
        (b, i, j) for b in range(3) for i in range(40) for j in range(i) if tokens[b, i] == tokens[b, j]
    }  # fmt: skip
    assert set(zip(pairs.example.tolist(), pairs.query.tolist(), pairs.key.tolist(), strict=True)) == expected
    assert (pairs.query.diff() >= 0).all()


def test_registry_holds_each_name_once_and_refuses_others() -> None:
    assert len(set(known_names())) == len(ANALYZERS)
    with pytest.raises(InputError, match="no analyzer 'sinks-of-doom'. Choose from first-token"):
        resolve(["sinks-of-doom"])
    with pytest.raises(InputError, match="named twice: entropy"):
        resolve(["entropy", "entropy"])


STORY = [
    "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball.",
    "Tom and Sam saw a dog. The dog was big. Tom was happy and the dog was happy.",
    "One day, a bird flew.",
]


@pytest.fixture(scope="module")
def model(stories260k: Path) -> interp.Model:
    return interp.load(stories260k)


@pytest.mark.parametrize(
    ("batch_size", "block_bytes", "side"), [(1, 10**6, "right"), (3, 999, "right"), (2, 1, "left")]
)
def test_scan_of_real_text_equals_full_maps_whatever_the_batch(
    model: interp.Model, batch_size: int, block_bytes: int, side: str
) -> None:
    data = model.batch(STORY, padding_side=side)
    result = interp.scan(model, data, HEAD_ANALYZERS, batch_size=batch_size, block_bytes=block_bytes)
    examples = [slow_scores(model, text) for text in STORY]
    for name in HEAD_ANALYZERS:
        scores = result[name]
        assert isinstance(scores, HeadScores)
        expected = torch.stack([example[name] for example in examples]).nanmean(0)
        torch.testing.assert_close(scores.scores, expected.double(), atol=1e-6, rtol=0)


def slow_scores(model: interp.Model, text: str) -> dict[str, Tensor]:
    """The definitions, word for word, in loops over full maps."""
    capture = interp.capture_patterns(model, text)
    ids = capture.tokens[0].tolist()
    pattern = torch.stack([capture.patterns[layer][0] for layer in range(model.n_layers)])
    n = len(ids)
    earlier = {i: [j for j in range(i) if ids[j] == ids[i]] for i in range(n)}
    later = {i: [j for j in range(1, i + 1) if ids[j - 1] == ids[i]] for i in range(n)}
    return {
        "first-token": torch.stack([pattern[:, :, i, 0] for i in range(1, n)]).mean(0),
        "previous-token": torch.stack([pattern[:, :, i, i - 1] for i in range(1, n)]).mean(0),
        "duplicate-token": _mean([pattern[:, :, i, keys].sum(-1) for i, keys in earlier.items() if keys], pattern),
        "induction": _mean([pattern[:, :, i, keys].sum(-1) for i, keys in later.items() if keys], pattern),
        "entropy": torch.stack([torch.special.entr(pattern[:, :, i]).sum(-1) for i in range(n)]).mean(0),
    }


def _mean(values: list[Tensor], pattern: Tensor) -> Tensor:
    return torch.stack(values).mean(0) if values else torch.full(pattern.shape[:2], torch.nan)


def test_scores_agree_with_transformer_lens_detectors(model: interp.Model) -> None:
    from transformer_lens.head_detector import detect_head

    text = STORY[1]
    n = model.to_tokens(text).shape[1]
    ours = interp.scan(model, text, ["previous-token"])["previous-token"]
    theirs = detect_head(model.bridge, text, "previous_token_head")
    assert isinstance(ours, HeadScores)
    # Theirs counts the first row, which has no previous token.
    torch.testing.assert_close(ours.scores.float() * (n - 1) / n, theirs, atol=1e-5, rtol=0)


def test_received_mass_of_one_text(model: interp.Model) -> None:
    result = interp.scan(model, STORY[0], ["received-mass"], block_bytes=999)["received-mass"]
    assert isinstance(result, TokenMap)
    maps = interp.capture_patterns(model, STORY[0])
    n = len(result.tokens)
    expected = torch.stack([maps.patterns[layer][0].sum(-2) for layer in range(5)]) / torch.arange(n, 0, -1)
    torch.testing.assert_close(result.values.float(), expected, atol=1e-6, rtol=1e-5)
    assert result.tokens[:2] == ("<s>", " Once")
    with pytest.raises(InputError, match="one text"):
        interp.scan(model, STORY, ["received-mass"])


def test_intervals_and_examples_are_reported(model: interp.Model) -> None:
    several = interp.scan(model, STORY, ["entropy"])["entropy"]
    single = interp.scan(model, STORY[0], ["entropy"])["entropy"]
    assert isinstance(several, HeadScores) and isinstance(single, HeadScores)
    assert several.notes["examples"] == 3 and several.ci_low is not None
    assert (several.ci_low <= several.scores).all()
    assert single.ci_low is None
    assert several.provenance.prepend_bos is True
    assert several.provenance.prompt_hash != single.provenance.prompt_hash


def test_scan_while_generating_reads_every_row_once(model: interp.Model) -> None:
    """A cached generation gives the same scores as one pass over its output."""
    shape = Shape(n_layers=5, n_heads=8, kind="self")
    readers = [analyzer.reader(shape) for analyzer in resolve(HEAD_ANALYZERS)]
    with torch.inference_mode(), interp.watch(model, *readers):
        tokens = model.generate(STORY[2], max_new_tokens=6)
    whole = interp.scan(model, tokens[:, :-1], HEAD_ANALYZERS)  # the last token never gets a forward pass
    for reader, name in zip(readers, HEAD_ANALYZERS, strict=True):
        stepwise = reader.result(Provenance(model="m"), [])
        expected = whole[name]
        assert isinstance(stepwise, HeadScores) and isinstance(expected, HeadScores)
        torch.testing.assert_close(stepwise.scores, expected.scores, atol=1e-6, rtol=0, equal_nan=True)


def test_equal_tokens_are_searched_once_per_pass(model: interp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def counted(tokens: Tensor, valid: Tensor | None, *, first_query: int) -> matching.EqualPairs:
        searched.append(first_query)
        return equal_pairs(tokens, valid, first_query=first_query)

    monkeypatch.setattr(matching, "equal_pairs", counted)
    interp.scan(model, STORY, ["duplicate-token", "induction"], batch_size=2)
    assert searched == [0, 0]
    assert not matching._pairs


def test_patches_of_an_image_are_no_copies_of_each_other() -> None:
    """Nine placeholders of one id stand between words that repeat; the scores are those of the words alone."""
    model, patches = loaded("llava"), [IMAGE_TOKEN] * 9
    tokens = torch.tensor([[10, 20, 12, *patches, 30, 20, 12, 33]])
    pixels = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    found = interp.scan(model, tokens, ["duplicate-token", "induction"], images={"pixel_values": pixels})
    maps = interp.capture_patterns(model, tokens, pixel_values=pixels).patterns
    for name, targets in (("duplicate-token", {13: 1, 14: 2}), ("induction", {13: 2, 14: 3})):
        pairs = [torch.stack([maps[layer][0, :, query, key] for layer in (0, 1)]) for query, key in targets.items()]
        scores = found[name]
        assert isinstance(scores, HeadScores)
        torch.testing.assert_close(scores.scores.float(), torch.stack(pairs).mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["previous-token", "duplicate-token", "induction", "cmr", "distant-mass", "local-heads", "mean-distance"]
)
def test_what_compares_positions_reads_no_cross_attention(name: str) -> None:
    """The positions of a decoder's queries say nothing of those of its encoder's keys."""
    t5, tokens = loaded("t5"), torch.arange(4, 10)[None]
    with pytest.raises(InputError, match="Cross attention joins two texts, which have no distances"):
        reader = analyzer_named(name).reader(Shape(n_layers=2, n_heads=4, kind="cross"))
        with interp.watch(t5, reader):
            t5.hf(input_ids=tokens, decoder_input_ids=tokens)


def test_equal_tokens_of_embeddings_are_not_known(model: interp.Model) -> None:
    reader = analyzer_named("induction").reader(Shape(n_layers=5, n_heads=8, kind="self"))
    embeddings = model.hf.get_input_embeddings()(model.to_tokens(STORY[2]))
    with (
        torch.inference_mode(),
        interp.watch(model, reader),
        pytest.raises(InputError, match="the model got embeddings or images. Pass token ids"),
    ):
        model.hf(inputs_embeds=embeddings)


def test_bad_scans_say_what_to_do(model: interp.Model) -> None:
    with pytest.raises(InputError, match="list of prompts is empty"):
        interp.scan(model, [], ["entropy"])
    with pytest.raises(InputError, match="A prompt is empty"):
        interp.scan(model, "", ["entropy"])
    with pytest.raises(InputError, match="no cross attention; it has self"):
        interp.scan(model, "a", ["entropy"], kind="cross")
    with pytest.raises(InputError, match="batch_size=0"):
        interp.scan(model, "a", ["entropy"], batch_size=0)
