"""QRHead and RazorAttention: hand-made tensors, a circuit with known heads, and full maps."""

from pathlib import Path

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

import interp
from circuits.retrieval import NEEDLES, QRExample, qr_examples, qr_heads, razor_heads
from circuits.retrieval.qrhead import NULL_QUERY, _prompt, chance_ndcg, document_scores, ndcg
from circuits.retrieval.razor import group_max, highest
from interp.analyzers.matching import DuplicateToken, Induction
from interp.errors import InputError
from interp.model.model import Model
from interp.stimuli import repeated_tokens
from tests.circuits.test_retrieval_needle import story
from tests.hand_weighted import induction_model, letters_tokenizer


def test_mass_minus_null_mass_is_the_score() -> None:
    real = torch.tensor([[0.1, 0.2, 0.0, 0.05]])
    null = torch.tensor([[0.05, 0.05, 0.0, 0.05]])
    scores = document_scores(real - null, [(0, 2), (2, 4)])
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.0]]))  # gold 0.3 against 0.1
    assert not document_scores(real - real, [(0, 2), (2, 4)]).any()


def test_tokens_far_below_their_document_are_dropped() -> None:
    tokens = torch.tensor([1.0] * 9 + [-9.0])
    # Mean 0, unbiased deviation sqrt(90 / 9) = 3.162: -9 lies below -6.32.
    assert float(document_scores(tokens, [(0, 10)])) == 9
    torch.testing.assert_close(document_scores(tokens + 5, [(0, 10)]), torch.tensor([9 + 5.0 * 9]))
    # 2.16 deviations below the mean for those who divide by n, 1.97 for those who divide by n - 1.
    near = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.0, -4.0])
    assert float(document_scores(near, [(0, 6)])) == -4


def test_one_token_and_equal_tokens_stay() -> None:
    tokens = torch.tensor([0.5, 0.25, 0.25])
    assert document_scores(tokens, [(0, 1), (1, 3)]).tolist() == [0.5, 0.5]


def test_permuted_documents_permute_their_scores() -> None:
    tokens = torch.randn(2, 3, 30)
    spans = [(0, 10), (10, 18), (18, 30)]
    order = [2, 0, 1]
    torch.testing.assert_close(
        document_scores(tokens, [spans[i] for i in order]), document_scores(tokens, spans)[..., order]
    )


def test_permuted_documents_permute_scores_exactly_in_a_model_without_positions(
    word_tokenizer: PreTrainedTokenizerBase,
) -> None:
    """One layer: what a token's key is does not depend on what stands before it."""
    config = GPT2Config(
        vocab_size=len(word_tokenizer), n_positions=256, n_embd=32, n_layer=1, n_head=4, initializer_range=0.8,
        bos_token_id=word_tokenizer.bos_token_id, eos_token_id=word_tokenizer.eos_token_id,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    hf.transformer.wpe.weight.data.zero_()
    model = interp.load(hf, word_tokenizer)
    documents = ("Tom has a red ball.", "The dog ran to the tree.", "Mary went to the store and saw a bird.")
    found = {}
    for order in ((0, 1, 2), (2, 0, 1)):
        for place, document in enumerate(order):
            shuffled = tuple(documents[index] for index in order)
            example = QRExample(documents=shuffled, query="Who saw a bird?", gold=(place,))
            found[order, document] = qr_heads(model, [example]).scores
    for document in range(3):
        torch.testing.assert_close(found[(0, 1, 2), document], found[(2, 0, 1), document], atol=1e-6, rtol=1e-5)
    assert (found[(0, 1, 2), 0] - found[(0, 1, 2), 2]).abs().max() > 1e-4


def test_ndcg_and_its_chance() -> None:
    assert float(ndcg(torch.tensor([0.9, 0.1, 0.5]), [0])) == 1
    both = ndcg(torch.tensor([0.9, 0.1, 0.5]), [0, 1])
    assert float(both) == pytest.approx((1 + 0.5) / (1 + 1 / torch.tensor(3.0).log2().item()))
    assert float(ndcg(-torch.arange(12.0), [11])) == 0  # behind the tenth place
    assert ndcg(torch.tensor([0.5, torch.nan]), [0]).isnan()
    drawn = torch.rand(4000, 5, generator=torch.Generator().manual_seed(0))
    assert float(ndcg(drawn, [1, 3]).mean()) == pytest.approx(chance_ndcg(5, 2), abs=0.01)


def slow(model: Model, example: QRExample) -> Tensor:
    """Calibrated document scores from full maps."""
    means = []
    for query in (example.query, NULL_QUERY):
        prompt = _prompt(model, example, query)
        maps = interp.capture_patterns(model, prompt.tokens).patterns
        means.append(torch.cat([maps[layer] for layer in range(model.n_layers)])[:, :, prompt.question_start :].mean(2))
    calibrated = means[0][..., : prompt.question_start] - means[1][..., : prompt.question_start]
    return document_scores(calibrated, prompt.documents)


def test_a_real_model_against_full_maps(stories: Model) -> None:
    examples = qr_examples(story(), NEEDLES[:2], n_documents=3, sentences=2, seed=1)
    assert NEEDLES[0].text in examples[0].documents[examples[0].gold[0]]
    found = qr_heads(stories, examples)
    expected = torch.stack([slow(stories, example)[..., example.gold[0]] for example in examples]).mean(0)
    torch.testing.assert_close(found.scores.float(), expected, atol=1e-5, rtol=0)
    ranked = qr_heads(stories, examples, measure="ndcg")
    torch.testing.assert_close(ranked.columns["mass"], found.scores)
    assert ranked.chance == pytest.approx(chance_ndcg(3, 1))


def test_a_long_question_is_read_in_parts(stories: Model, monkeypatch: MonkeyPatch) -> None:
    example = QRExample(documents=("Tom was happy.", "Lily was sad."), query="Who was sad?", gold=(1,))
    whole = qr_heads(stories, [example]).scores
    monkeypatch.setattr("interp.attention.kernel.MAX_BLOCK_QUERIES", 7)
    torch.testing.assert_close(qr_heads(stories, [example]).scores, whole, atol=1e-6, rtol=0)


def test_documents_are_found_where_they_were_written(stories: Model) -> None:
    same = QRExample(documents=("Tom was happy.",) * 2, query="Who?", gold=(1,))
    first, second = _prompt(stories, same, same.query).documents
    assert first[1] <= second[0] and second[1] - second[0] == first[1] - first[0]


def test_a_question_like_the_null_query_scores_nothing(stories: Model) -> None:
    example = QRExample(documents=("Tom was happy.", "Lily was sad."), query=NULL_QUERY, gold=(0,))
    assert float(qr_heads(stories, [example]).scores.abs().max()) < 1e-6


def test_what_cannot_be_ranked_is_refused(stories: Model) -> None:
    with pytest.raises(InputError, match="at least one gold document"):
        QRExample(documents=("a", "b"), query="q", gold=(0, 1))
    with pytest.raises(InputError, match="sentences need"):
        qr_examples("One sentence.", NEEDLES)
    with pytest.raises(InputError, match="0 examples"):
        qr_heads(stories, [])


def test_razor_attention_keeps_the_induction_head_set_by_hand(tmp_path: Path) -> None:
    model = interp.load(induction_model(), letters_tokenizer(tmp_path))
    found = razor_heads(model, block=20)
    assert found["L1H1"] == pytest.approx(1, abs=1e-3)
    assert found.columns["retrieval"].tolist() == [[0, 0], [0, 1]]
    assert found.notes["block"] == 20 and found.chance is not None and found.chance < 0.05
    everything = razor_heads(model, block=20, induction_share=0.0, echo_share=1.0)
    assert everything.columns["retrieval"].all()
    with pytest.raises(InputError, match="block=1: expected at least two"):
        razor_heads(model, block=1)


@pytest.mark.parametrize(("n_heads", "share", "chosen"), [(10, 0.14, 1), (40, 0.01, 0), (40, 0.14, 6), (150, 0.01, 2)])
def test_razor_attention_rounds_its_budget(n_heads: int, share: float, chosen: int) -> None:
    """The echo set of a small model is empty. Equal scores never make a set larger, as in the published code."""
    for scores in (torch.rand(2, n_heads // 2), torch.ones(2, n_heads // 2)):
        assert int(highest(scores, share).sum()) == chosen


def test_razor_attention_takes_the_highest_of_a_group_first() -> None:
    groups = group_max(torch.tensor([[0.1, 0.9, 0.2, 0.3]]), 2)
    torch.testing.assert_close(groups, torch.tensor([[0.9, 0.3]]))
    assert highest(groups, 0.5).tolist() == [[True, False]]


def test_scores_of_razor_attention_are_twice_the_published_ones(tmp_path: Path) -> None:
    """Four copies have 6 targets for 3 queries, so the ranking is the same; a perfect head has 0.5, its echo 0."""
    model = interp.load(induction_model(), letters_tokenizer(tmp_path))
    found = razor_heads(model, block=20, seed=1)
    tokens = repeated_tokens(model, seed=1, length=20, copies=4, n_examples=1)
    per_entry = [kind(normalisation="mean_per_entry") for kind in (Induction, DuplicateToken)]
    published = interp.scan(model, tokens, per_entry)
    torch.testing.assert_close(found.scores, 2 * published["induction"].scores)
    torch.testing.assert_close(found.columns["echo"], 2 * published["duplicate-token"].scores)
    assert published["induction"]["L1H1"] == pytest.approx(0.5, abs=1e-3)
    assert found.columns["echo"][1, 1] < 1e-3


def test_razor_attention_chooses_groups(stories: Model) -> None:
    found = razor_heads(stories, block=50)
    assert torch.equal(found.scores[:, ::2], found.scores[:, 1::2])
    assert int(found.columns["retrieval"].sum()) == 2 * round(0.14 * 20)
