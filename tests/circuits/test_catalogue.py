"""The head catalogue: what heads are, judged by intervals, thresholds and chance."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from circuits import own_text as own_text_module
from circuits.catalogue import catalogue, needles_for
from circuits.head_rules import (
    HEAD_TYPES,
    IMPLIED,
    NO,
    NOT_MEASURED,
    UNCERTAIN,
    YES,
    Condition,
    Evidence,
    HeadType,
    implied,
    judge,
    judge_all,
)
from circuits.own_text import own_text
from circuits.retrieval import NEEDLES, needle_heads
from interp.analyzers import ANALYZERS
from interp.errors import InputError
from interp.head_catalogue import HeadCatalogue, percentiles
from interp.model.model import Model
from interp.model.tokens import TokenBatch
from interp.model_scores import MODEL_SCORES, score_model
from interp.provenance import Provenance
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.architectures import ARCHITECTURES
from tests.hand_weighted import INDUCTION_HEAD, PREVIOUS_TOKEN_HEAD, induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


def architecture(name: str) -> Model:
    return interp.load(next(row for row in ARCHITECTURES if row.name == name).build())


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def given(score: float, low: float, high: float, chance: float = 0.1) -> Evidence:
    return Evidence(score=one(score), low=one(low), high=one(high), chance=one(chance), lowest=-1.0, highest=1.0)


@pytest.mark.parametrize(
    ("condition", "evidence", "verdict"),
    [
        ({}, (0.5, 0.45, 0.55), YES),
        ({}, (0.5, 0.4, 0.6), YES),
        ({}, (0.5, 0.39, 0.61), UNCERTAIN),
        ({}, (0.35, 0.25, 0.45), UNCERTAIN),
        ({}, (0.3, 0.25, 0.39), NO),
        ({}, (0.5, 0.45, 0.55, 0.45), NO),
        ({}, (0.5, 0.45, 0.55, 0.6), NO),
        ({"against_chance": False}, (0.5, 0.45, 0.55, 0.6), YES),
        ({}, (math.nan, math.nan, math.nan), NOT_MEASURED),
        ({}, (0.5, math.nan, math.nan), YES),
        ({"below": True, "threshold": 0.05}, (0.02, 0.01, 0.03), YES),
        ({"below": True, "threshold": 0.05}, (0.04, 0.01, 0.07), UNCERTAIN),
        ({"below": True, "threshold": 0.05}, (0.2, 0.1, 0.3), NO),
        ({"below": True, "threshold": 0.05}, (0.04, 0.03, 0.05, 0.045), NO),
        # a tenth of the way from 0.1 to 1, and half of the way from 0.1 down to -1
        ({"relative": True, "threshold": 0.1}, (0.25, 0.2, 0.3), YES),
        ({"relative": True, "threshold": 0.1}, (0.18, 0.17, 0.18), NO),
        ({"relative": True, "threshold": 0.5, "below": True}, (-0.5, -0.55, -0.46), YES),
        ({"relative": True, "threshold": 0.5, "below": True}, (-0.4, -0.44, -0.35), NO),
    ],
)
def test_a_condition_asks_the_whole_interval_and_chance(
    condition: dict, evidence: tuple[float, ...], verdict: int
) -> None:
    found = judge(Condition(**{"measure": "m", "threshold": 0.4, **condition}), given(*evidence))
    assert int(found.verdict) == verdict


def test_confidence_is_that_of_a_normal_mean() -> None:
    condition = Condition(measure="m", threshold=0.4)
    # The threshold is the lower end of the interval: 97.5 % of the distribution lie above it.
    assert float(judge(condition, given(0.5, 0.4, 0.6)).confidence) == pytest.approx(0.975, abs=1e-4)
    assert float(judge(condition, given(0.4, 0.3, 0.5)).confidence) == pytest.approx(0.5)
    assert float(judge(condition, given(0.5, 0.5, 0.5)).confidence) == 1
    assert math.isnan(float(judge(condition, given(0.5, math.nan, math.nan)).confidence))
    assert float(judge(condition, given(0.25, 0.2, 0.3)).progress) == pytest.approx(0.5)
    # Where chance itself passes the threshold (a short text), what is below chance has gone no part of the way.
    assert [float(judge(condition, given(score, 0, 1, 0.46)).progress) for score in (0.3, 0.45, 0.5)] == [0, 0, 1]


def scores(value: float, error: float | None, provenance: Provenance, column: float = 0.0) -> HeadScores:
    return HeadScores(
        name="m", unit="", scores=one(value), chance=0.1, value_range=(0.0, 1.0), provenance=provenance,
        ci_low=None if error is None else one(value - error), ci_high=None if error is None else one(value + error),
        columns={"c": one(column)},
    )  # fmt: skip


def test_all_conditions_of_a_rule_must_hold(provenance: Provenance) -> None:
    kind = HeadType(
        name="both", meaning="", source="",
        conditions=(Condition(measure="a", threshold=0.4), Condition(measure="b", threshold=0.4)),
    )  # fmt: skip

    def verdict(a: HeadScores, b: HeadScores) -> int:
        return int(judge_all(kind, {"a": a, "b": b}).verdict)

    clear, unclear, low = (scores(value, 0.1, provenance) for value in (0.6, 0.45, 0.2))
    unknown = scores(math.nan, 0.1, provenance)
    assert verdict(clear, clear) == YES
    assert verdict(clear, unclear) == UNCERTAIN
    assert verdict(unknown, unclear) == NOT_MEASURED
    assert verdict(unknown, low) == NO
    # Two errors of 2.5 % leave at least 95 %.
    half = scores(0.5, 0.1, provenance)
    assert float(judge_all(kind, {"a": half, "b": half}).confidence) == pytest.approx(0.95, abs=1e-3)
    assert float(judge_all(kind, {"a": half, "b": low}).confidence) == 0


def test_without_any_interval_a_rule_is_uncertain_at_best(provenance: Provenance) -> None:
    column = Condition(measure="a: c", threshold=0.5)
    alone = HeadType(name="t", meaning="", source="", conditions=(column,))
    beside = HeadType(name="t", meaning="", source="", conditions=(column, Condition(measure="a", threshold=0.3)))
    found = {"a": scores(0.9, 0.1, provenance, column=0.9)}
    assert int(judge_all(alone, found).verdict) == UNCERTAIN
    assert int(judge_all(beside, found).verdict) == YES
    assert int(judge_all(beside, {"a": scores(0.9, None, provenance, column=0.9)}).verdict) == UNCERTAIN
    assert int(judge_all(beside, {"a": scores(0.9, 0.1, provenance, column=0.4)}).verdict) == NO


def test_a_type_that_another_says_already_is_implied() -> None:
    general = HeadType(name="general", meaning="", source="", conditions=(), implied_by=("special", "absent"))
    special = HeadType(name="special", meaning="", source="", conditions=())
    verdicts = torch.tensor([[[YES, YES, NO]], [[YES, UNCERTAIN, YES]]], dtype=torch.int8)
    expected = torch.tensor([[[IMPLIED, YES, NO]], [[YES, UNCERTAIN, YES]]], dtype=torch.int8)
    assert torch.equal(implied([general, special], verdicts), expected)


def test_the_table_of_types_is_in_order() -> None:
    names = [kind.name for kind in HEAD_TYPES]
    assert len(set(names)) == len(names)
    known = {analyzer.name for analyzer in ANALYZERS} | set(MODEL_SCORES) | {"needle"}
    for kind in HEAD_TYPES:
        assert {condition.measure.partition(": ")[0] for condition in kind.conditions} <= known
        assert set(kind.implied_by) <= set(names)
        assert any(condition.against_chance for condition in kind.conditions)


def test_percentiles_count_the_other_heads() -> None:
    found = percentiles(torch.tensor([[0.1, math.nan, 0.4], [0.4, 0.2, 0.9]]))
    expected = torch.tensor([[0.0, math.nan, 62.5], [62.5, 25.0, 100.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert percentiles(torch.ones(1, 1)).isnan().all()


def test_the_circuit_set_by_hand_is_classified_exactly(circuit: Model) -> None:
    found = catalogue(circuit, n=8, length=90)
    types = {(head.layer, head.head): found.types_of(head) for head in found.heads}
    expected = {PREVIOUS_TOKEN_HEAD: ["previous-token"], INDUCTION_HEAD: ["induction"]}
    assert types == {head: expected.get(head, []) for head in types}
    assert not any(found.types_of(head, "uncertain") for head in found.heads)
    for kind, head in (("retrieval", "L1H1"), ("prefix-matching", "L1H1"), ("streaming", "L0H0")):
        assert [str(found_head) for found_head in found.heads_of(kind)] == [head]
    # Heads with zero weights look everywhere alike, which is no type, and not near to one.
    assert [found.nearest(head) for head in ((0, 1), (1, 0))] == ["", ""]
    assert found.labels["k-composition from"][1][1] == "L0H0"
    assert found.notes["needles answered"] == "15 of 15"
    assert list(found.notes["left out"]) == ["delimiter"]
    frame = found.to_frame().set_index(["label", "type"])
    assert frame.loc[("L1H1", "induction"), "score"] > 0.999
    assert frame.loc[("L1H1", "induction"), "percentile"] == 100
    assert frame.loc[("L1H0", "induction"), "verdict"] == "no"
    assert frame.loc[("L0H0", "fixed-offset"), "verdict"] == "implied"
    assert found.measures["offset"][PREVIOUS_TOKEN_HEAD] == -1
    assert "1 previous-token, 1 induction" in repr(found) and "L1H1" in found._repr_html_()


@pytest.mark.parametrize(("factor", "expected"), [(-1.0, "copy-suppression"), (0.0, "prefix-matching")])
def test_what_a_head_writes_tells_induction_from_its_opposite(tmp_path: Path, factor: float, expected: str) -> None:
    hf = induction_model()
    with torch.no_grad():
        hf.transformer.h[1].attn.c_proj.weight.mul_(factor)
    model = interp.load(hf, letters_tokenizer(tmp_path))
    found = catalogue(model, types=["induction", "copy-suppression", "prefix-matching"])
    assert found.types_of(INDUCTION_HEAD) == [expected]
    assert found.notes["text"] == "none"  # nothing here needs ordinary text


def test_random_weights_have_no_types() -> None:
    # Their attention is not uniform, but nowhere near a threshold.
    model = tiny_llama(seed=3)
    tokens = torch.randint(3, 60, (8, 80), generator=torch.Generator().manual_seed(0))
    found = catalogue(model, tokens)
    assert not any(found.types_of(head) or found.types_of(head, "uncertain") for head in found.heads)
    assert set(found.notes["left out"]) == {"retrieval", "delimiter"}
    # Not even with thresholds that everything reaches: chance is not beaten.
    low = catalogue(model, tokens, types=["previous-token", "sink"], thresholds={"previous-token": 0.0, "sink": 0.0})
    clear = low.verdicts == YES
    assert torch.equal(clear, low.ci_low > low.chance) and not bool(clear.all())


def story_tokens(stories: Model) -> TokenBatch:
    texts = ("Once upon a time, there was a little girl named Lily. She saw a big dog in the park.",
             "Tom had a red ball. He liked to play with it. One day, the ball was gone, and Tom was sad.",
             "The cat sat on the mat.")  # fmt: skip
    return stories.batch([text * copies for text, copies in zip(texts, (4, 3, 5), strict=True)])


def test_percentiles_of_types_with_low_scores_count_the_heads_above(stories: Model) -> None:
    found = catalogue(stories, story_tokens(stories), types=["streaming", "local"])
    streaming, local = (found.types.index(name) for name in ("streaming", "local"))
    torch.testing.assert_close(found.percentile[streaming], 100 - percentiles(found.scores[streaming]))
    torch.testing.assert_close(found.percentile[local], percentiles(found.scores[local]))


def test_scores_are_those_of_the_single_analyzers(stories: Model) -> None:
    tokens = story_tokens(stories)
    found = catalogue(stories, tokens, seed=5)
    assert found.types == tuple(kind.name for kind in HEAD_TYPES) and not found.notes["left out"]
    measured: dict[str, HeadScores] = {}
    for name in ("previous-token", "diagonal-offset", "delimiter-mass", "local-mass", "distant-mass"):
        measured |= interp.scan(stories, tokens, [name])
    repeats = repeated_tokens(stories, seed=5)
    measured |= interp.scan(stories, repeats, ["induction", "duplicate-token"])
    measured["needle"] = needle_heads(stories, needles_for(stories, [], seed=5)[0], seed=5)
    measured |= score_model(stories, ["copying-logits"], seed=5)
    for index, kind in enumerate(HEAD_TYPES):
        name = kind.conditions[0].measure
        if name in measured:
            expected = measured[name]
            torch.testing.assert_close(found.scores[index], expected.scores.double())
            torch.testing.assert_close(found.ci_low[index], expected.ci_low.double())
    torch.testing.assert_close(found.measures["copying-logits"], measured["copying-logits"].scores)


def test_batch_size_and_padding_change_nothing(stories: Model) -> None:
    tokens = story_tokens(stories)
    types = [kind.name for kind in HEAD_TYPES if kind.name not in ("retrieval", "induction", "copy-suppression")]
    whole = catalogue(stories, tokens, types=types)
    wider = TokenBatch(
        torch.nn.functional.pad(tokens.tokens, (7, 5)), torch.nn.functional.pad(tokens.mask, (7, 5)), True
    )
    left = catalogue(stories, wider, types=types, batch_size=1)
    torch.testing.assert_close(left.scores, whole.scores, atol=1e-6, rtol=0)
    torch.testing.assert_close(left.ci_low, whole.ci_low, atol=1e-6, rtol=0, equal_nan=True)
    assert torch.equal(left.verdicts, whole.verdicts)


def test_a_catalogue_is_saved_and_loaded(stories: Model, tmp_path: Path) -> None:
    found = catalogue(stories, story_tokens(stories), types=["previous-token", "no-op", "local", "duplicate-token"])
    loaded = interp.load_result(found.save(tmp_path / "heads"))
    assert isinstance(loaded, HeadCatalogue)
    assert loaded.to_frame().equals(found.to_frame()) and loaded.heads_frame().equals(found.heads_frame())
    assert loaded.notes == found.notes or loaded.notes["rules"].keys() == found.notes["rules"].keys()
    assert loaded.counts() == found.counts()


def test_documents_are_cut_and_searched_for_needles(stories: Model) -> None:
    documents = ["Lily saw a dog in the park. The dog was big and brown. " * 60]
    found = catalogue(stories, documents, types=["local"], n=4, length=64)
    assert found.notes["text"] == "4 x 64 tokens of text given"
    prompts, words = needles_for(stories, documents, seed=0)
    assert words == "sentences in the text" and {prompt.name for prompt in prompts} == {n.question for n in NEEDLES}
    prompts, words = needles_for(stories, ["Lily saw a dog."], seed=0)
    assert words.startswith("random tokens") and len(prompts) == 15
    # One text has no interval, so nothing is certain.
    short = catalogue(stories, "Lily saw a dog.", types=["local"])
    assert not short.heads_of("local") and short.heads_of("local", "uncertain", "no")


def test_needles_are_random_for_a_tokenizer_without_their_words(circuit: Model) -> None:
    assert needles_for(circuit, ["w1 w2 w3 " * 200], seed=0)[1].startswith("random tokens")


def test_thresholds_are_adjustable(stories: Model) -> None:
    tokens = story_tokens(stories)
    high = catalogue(stories, tokens, types=["local"], thresholds={"local": 0.999})
    low = catalogue(stories, tokens, types=["local"], thresholds={"local": 0.5})
    assert len(low.heads_of("local")) > len(high.heads_of("local", "yes", "uncertain"))
    assert torch.equal(low.scores, high.scores) and bool((low.threshold == 0.5).all())
    with pytest.raises(InputError, match="no type 'locale'. Choose from previous-token"):
        catalogue(stories, tokens, types=["locale"])
    for thresholds in ({"local": math.nan}, {"sink": 0.5}):
        with pytest.raises(InputError, match="The threshold .* cannot be used; expected a number for one of local"):
            catalogue(stories, tokens, types=["local"], thresholds=thresholds)
    with pytest.raises(InputError, match="no head L7H0 here: expected one from L0H0 to L4H7"):
        low.types_of("L7H0")


def test_an_encoder_leaves_out_what_looks_back() -> None:
    model = architecture("bert")
    tokens = torch.randint(5, 40, (4, 40), generator=torch.Generator().manual_seed(0))
    found = catalogue(model, tokens)
    assert set(found.types) == {"previous-token", "fixed-offset", "sink", "no-op", "local", "broad"}
    left_out = found.notes["left out"]
    assert all("look back" in left_out[name] for name in ("induction", "retrieval", "streaming"))
    assert "copying-weights" in left_out and "no tokenizer" in left_out["delimiter"]
    with pytest.raises(InputError, match="None of these types.*sink: the model writes no text itself; give one"):
        catalogue(model, types=["sink", "induction"])


@pytest.mark.parametrize("name", ["t5", "vit"])
def test_models_of_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="the catalogue reads one text with one stack"):
        catalogue(architecture(name))


class TestOwnText:
    def test_it_is_drawn_from_the_model_and_the_seed_alone(self) -> None:
        model = tiny_llama()
        first = own_text(model, n=3, length=20, seed=1)
        torch.manual_seed(99)
        assert torch.equal(own_text(model, n=3, length=20, seed=1).tokens, first.tokens)
        assert not torch.equal(own_text(model, n=3, length=20, seed=2).tokens, first.tokens)
        assert first.tokens.shape == (3, 20) and first.padding_side is None

    def test_each_token_follows_the_models_probabilities(self, tmp_path: Path) -> None:
        model = tiny_llama(tokenizer=letters_tokenizer(tmp_path))
        drawn = own_text(model, n=20_000, length=3, seed=0).tokens
        assert bool((drawn[:, 0] == 0).all())  # the BOS that the tokenizer puts in front
        common = int(drawn[:, 1].mode().values)
        for before, found in (([0], drawn[:, 1]), ([0, common], drawn[drawn[:, 1] == common, 2])):
            with torch.inference_mode():
                expected = model(torch.tensor([before]))[0, -1].softmax(-1)
            shares = found.bincount(minlength=len(expected)) / len(found)
            # About the distance of so many draws of 64 tokens from their own distribution.
            assert float((shares - expected).abs().sum()) / 2 < 4 / len(found) ** 0.5

    @pytest.mark.parametrize(("n", "length"), [(0, 20), (3, 1), (3, 129)])
    def test_what_the_model_cannot_write_is_refused(self, n: int, length: int) -> None:
        with pytest.raises(InputError, match=f"{n} sequences of {length} tokens were asked for; expected at least one"):
            own_text(tiny_llama(), n=n, length=length, seed=0)

    def test_the_cache_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny_llama()
        cached = own_text(model, n=2, length=30, seed=4)
        monkeypatch.setattr(own_text_module, "accepts", lambda model, name: False)
        assert torch.equal(own_text(model, n=2, length=30, seed=4).tokens, cached.tokens)

    def test_an_encoder_writes_none(self) -> None:
        with pytest.raises(InputError, match="writes no text of its own"):
            own_text(architecture("bert"), n=1, length=4, seed=0)
