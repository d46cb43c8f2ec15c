"""Studies of a model whose layers see differently far measure every head against the chance level of its own layer."""

from collections.abc import Callable

import pytest
import torch
from pytest import MonkeyPatch
from transformers import PreTrainedTokenizerBase

import interp
from circuits.catalogue import catalogue
from circuits.effects import HeadEffects
from circuits.emergence import measure_emergence
from circuits.head_evidence import EvidenceTable
from circuits.key_attention import key_attention, key_pairs
from circuits.retrieval import QRExample, needle, needle_heads, qr_heads, random_needle_prompts, razor_heads
from circuits.retrieval.needle import Scoring
from circuits.study import Study
from interp.analyzers.conllu import parse_conllu
from interp.analyzers.copying import copying_from_logits
from interp.analyzers.syntactic import syntactic_heads
from interp.analyzers.topology import Topology, topological_features
from interp.comparison import compare_models
from interp.model.model import Model
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.architectures import ARCHITECTURES, GROUPED, decoder, randomised
from tests.tiny_models import tiny_windowed


@pytest.fixture(scope="module")
def model(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    return tiny_windowed(word_tokenizer)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(4, 60, (8, 40), generator=torch.Generator().manual_seed(0))


def scanned(model: Model, tokens: torch.Tensor, name: str) -> HeadScores:
    found = interp.scan(model, tokens, [name], progress=False)[name]
    assert isinstance(found, HeadScores) and isinstance(found.chance, torch.Tensor)
    return found


def test_the_catalogue(model: Model, tokens: torch.Tensor) -> None:
    """Ten tokens are all that a window of eight sees: there no head can be local for a reason."""
    found = catalogue(model, tokens, types=["local", "previous-token"], progress=False)
    for index, name in enumerate(("previous-token", "local-mass")):
        torch.testing.assert_close(found.chance[index], scanned(model, tokens, name).chances)
    assert bool((found.chance[1, 0] == 1).all()) and not found.counts()["local"][0]
    assert bool((found.chance[1, 1] < 0.6).all())


def test_delimiters_that_are_not_there(model: Model, tokens: torch.Tensor) -> None:
    marks = [model.tokenizer.convert_tokens_to_ids(mark) for mark in (".", ",")]
    without = torch.where(torch.isin(tokens, torch.tensor(marks)), 50, tokens)
    found = catalogue(model, without, types=["delimiter", "local"], progress=False)
    assert found.types == ("local",) and "no full stops" in found.notes["left out"]["delimiter"]
    without[:, 3] = marks[0]
    assert "delimiter" in catalogue(model, without, types=["delimiter"], progress=False).types


def test_razor_attention(word_tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_windowed(word_tokenizer, window=20)
    found = razor_heads(model, block=12)
    expected = scanned(model, repeated_tokens(model, seed=0, length=12, copies=4, n_examples=1), "induction")
    torch.testing.assert_close(found.chances, expected.chances, equal_nan=True)
    assert 0 < found.notes["chance echo"] < 0.2


def test_a_block_beyond_the_window_leaves_its_layer_unmeasured(model: Model) -> None:
    found = razor_heads(model, block=12, induction_share=0.5)
    assert [head.layer for head in found.unmeasured] == [0] * 4 and isinstance(found.chance, float)
    assert found.columns["retrieval"].sum(-1).tolist() == [0, 2]


@pytest.mark.parametrize("scoring", ["teacher-forced", "decode"])
def test_needles_beyond_the_window_have_no_chance(model: Model, scoring: Scoring, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(needle, "ANSWERED", -1)  # whatever this random model answers is counted
    prompts = random_needle_prompts(model, lengths=[60], depths=[0.0, 0.5], n_needles=2, cue=3, answer=5)
    found = needle_heads(model, prompts, scoring=scoring, max_new_tokens=5, progress=False)
    assert not found.chances[0].any() and not found.scores[0].any()
    if scoring == "teacher-forced":
        expected = sum(1 / (60 + step) for step in range(5)) / 5
        assert found.chances[1].tolist() == pytest.approx([expected] * 4)
        assert found.notes["chance soft"] == pytest.approx(expected / 2)


def test_needles_within_the_window_equal_full_maps(word_tokenizer: PreTrainedTokenizerBase) -> None:
    """Only the rows of the answer are computed, over keys of which the first is not the first token."""
    sizes = {**GROUPED, "vocab_size": len(word_tokenizer), "max_position_embeddings": 128}
    model = interp.load(randomised(decoder("Mistral", sizes, sliding_window=30)), word_tokenizer)
    prompts = random_needle_prompts(model, lengths=[60], depths=[0.7, 0.9], n_needles=2, cue=3, answer=5)
    found = needle_heads(model, prompts, progress=False)
    recall, soft = [], []
    for prompt in prompts:
        maps = interp.capture_patterns(model, prompt.tokens).patterns
        rows = torch.cat([maps[0], maps[1]])[:, :, prompt.answer_start - 1 : -1].double()
        place = torch.arange(*prompt.needle)  # every answer token stands in the needle once
        recall.append((rows.argmax(-1) == place).double().mean(-1))
        soft.append(rows[..., torch.arange(5), place].mean(-1))
    torch.testing.assert_close(found.scores, torch.stack(recall).mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.columns["soft"], torch.stack(soft).mean(0), atol=1e-6, rtol=0)
    assert float(found.columns["soft"].min()) > 0


SENTENCES = "\n\n".join(
    "\n".join(f"{row}\t{word}\t_\t_\t_\t_\t{head}\tdep\t_\t_" for row, (word, head) in enumerate(words, 1))
    for words in (
        [("Then", 2), ("Mary", 3), ("gave", 0), ("a", 5), ("ring", 3), ("to", 7), ("John", 3), ("and", 9), ("went", 3)],
        [("John", 2), ("went", 0), ("to", 5), ("the", 5), ("store", 2), ("and", 7), ("gave", 2), ("a", 9), ("ring", 7)],
    )
)


def _topology(model: Model) -> torch.Tensor:
    return topological_features(model, torch.arange(4, 24)[None], Topology(thresholds=(0.1,))).values


def _syntax(model: Model) -> torch.Tensor:
    columns = syntactic_heads(model, parse_conllu(SENTENCES), progress=False).columns
    return torch.stack([columns[name] for name in sorted(columns)])


def _question(model: Model) -> torch.Tensor:
    example = QRExample(documents=("Mary gave a ring.", "John went to the store."), query="Who went?", gold=(1,))
    return qr_heads(model, [example], progress=False).scores


def _keys(model: Model) -> torch.Tensor:
    study = Study.of(model, "ioi", n_prompts=4, seed=0, top=None, batch_size=4, progress=False)
    found = key_attention(model, study.task, study.prompts, key_pairs(study.task, study.prompts))
    return torch.stack([found[label] for label in sorted(found)])


def _copying(_: Model) -> torch.Tensor:
    mistral = next(row for row in ARCHITECTURES if row.name == "mistral")
    return copying_from_logits(interp.load(mistral.build())).scores


@pytest.mark.parametrize("measure", [_topology, _syntax, _question, _keys, _copying])
def test_rows_read_in_parts_are_put_at_their_keys(
    model: Model, measure: Callable[[Model], torch.Tensor], monkeypatch: MonkeyPatch
) -> None:
    """In parts of three rows, keys of the first layer begin behind the first token."""
    whole = measure(model)
    monkeypatch.setattr("interp.attention.kernel.MAX_BLOCK_QUERIES", 3)
    torch.testing.assert_close(measure(model), whole, atol=1e-6, rtol=0, equal_nan=True)


def test_evidence_on_heads(model: Model) -> None:
    study = Study.of(model, "induction", n_prompts=4, seed=0, top=None, batch_size=4, progress=False)
    every = torch.ones(2, 4)
    effects = HeadEffects(
        noising=every, denoising=every, effect=every, ci_low=every, ci_high=every, gap=1.0, gap_low=1.0, gap_high=1.0
    )
    table = EvidenceTable.gather(study, effects)
    chances = table.types["previous-token"].chances
    for layer in (0, 1):
        (looks,) = [look for look in table._of(layer, 2).random_types if look.label == "previous-token"]
        assert looks.chance == pytest.approx(float(chances[layer, 2]))
    assert chances[0, 2] > 1.5 * chances[1, 2]
    assert table.chances()["type chance"]["previous-token"] == pytest.approx(float(chances.mean()))


def test_comparison_and_emergence(model: Model, tokens: torch.Tensor) -> None:
    same = compare_models(model, model, tokens, ["previous-token"], n_parts=8, progress=False)["previous-token"]
    assert same.notes["changes"] == {"unchanged": 8}
    curves = measure_emergence({0: model.hf, 1: model.hf}, ["previous-token"], text=tokens, progress=False)
    expected = scanned(model, tokens, "previous-token").chances.mean()
    assert curves["previous-token"].chance == pytest.approx(float(expected))
