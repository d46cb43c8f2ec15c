"""Syntactic heads: pooling and prediction by hand, and slow definitions over the full maps of real models."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import interp
from interp.analyzers.conllu import Sentence, parse_conllu
from interp.analyzers.syntactic import (
    DIRECTIONS,
    best_heads,
    best_offset,
    held_out_difference,
    membership,
    predicted_governors,
    syntactic_heads,
    word_attention,
    words_of_tokens,
)
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from tests.analyzers.test_conllu import conllu

TREEBANK = [
    conllu(
        "1 The 3 det", "2 big 3 amod", "3 dog 4 nsubj", "4 ran 0 root", "5 home 4 advmod SpaceAfter=No", "6 . 4 punct"
    ),
    conllu(
        "1 Lily 2 nsubj", "2 saw 0 root", "3 the 5 det", "4 little 5 amod", "5 bird 2 obj SpaceAfter=No", "6 . 2 punct"
    ),
    conllu("1 Birds 2 nsubj", "2 sing 0 root"),
]


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    return parse_conllu("\n".join(TREEBANK))


def tiny_bert() -> Model:
    """A random encoder whose tokenizer cuts many words into pieces and adds [CLS] and [SEP]."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "The", "the", "big", "do", "##g", "ran", "ho", "##me", ".", "Li"]
    pieces += ["##ly", "saw", "li", "##tt", "##le", "bi", "##rd", "Bi", "##rds", "s", "##ing"]
    wordpiece = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    wordpiece.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=wordpiece, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40,
    )  # fmt: skip
    hf = BertModel(config)
    for parameter in hf.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.3)
    return Model(hf, tokenizer, name="tiny-bert")


@pytest.fixture(scope="module")
def bert() -> Model:
    return tiny_bert()


@pytest.fixture(scope="module")
def llama(stories260k: Path) -> Model:
    return interp.load(stories260k)


def test_keys_are_summed_and_queries_averaged() -> None:
    """Five tokens, four words: the second word has two tokens."""
    pattern = torch.rand(1, 1, 5, 5).softmax(-1)
    keys = membership(torch.tensor([[0, 1, 1, 2, 3]]), 4)
    words = word_attention(pattern, keys / keys.sum(1, keepdim=True), keys)
    torch.testing.assert_close(words.sum(-1), torch.ones(1, 1, 4))
    a = pattern[0, 0]
    assert float(words[0, 0, 1, 1]) == pytest.approx(float(a[1:3, 1:3].sum() / 2), abs=1e-6)
    assert float(words[0, 0, 0, 1]) == pytest.approx(float(a[0, 1] + a[0, 2]), abs=1e-6)
    assert float(words[0, 0, 1, 3]) == pytest.approx(float((a[1, 4] + a[2, 4]) / 2), abs=1e-6)


def test_tokens_belong_to_the_word_where_they_begin(sentences: list[Sentence]) -> None:
    # "The big dog ..." in pieces: [CLS], The, " bi", "g", " dog ran" over two words, a lone space, [SEP]
    offsets = [(0, 0), (0, 3), (3, 6), (6, 7), (7, 15), (15, 16), (0, 0)]
    assert words_of_tokens(offsets, sentences[0]) == [-1, 0, 1, 1, 2, -1, -1]


def test_a_chain_is_named_in_both_directions_and_never_by_itself() -> None:
    """Each word governs the next one: governors 1, 2, 3 of the words 0, 1, 2."""
    chain = torch.eye(4).roll(1, 1)[None] * 0.4 + torch.eye(4) * 0.6
    others = ~torch.eye(4, dtype=torch.bool)
    assert predicted_governors(chain, others)[0, :3].tolist() == [1, 2, 3]
    assert predicted_governors(chain.mT, others)[0, 1:].tolist() == [0, 1, 2]
    causal = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    assert predicted_governors(torch.eye(4)[None], causal)[0, 0] == -1


def slow(model: Model, sentences: list[Sentence]) -> tuple[dict[str, Tensor], dict[str, Counter[int]]]:
    """Accuracies and offsets by `relation direction`, in loops over full maps and over single words."""
    hits: dict[str, list[Tensor]] = {}
    offsets: dict[str, Counter[int]] = {}
    for sentence in sentences:
        maps = slow_word_maps(model, sentence)
        causal = not maps.triu(1).any()
        n = len(sentence.words)
        for d, word in enumerate(sentence.words):
            for direction in DIRECTIONS:
                looks = maps[:, :, d] if direction == DIRECTIONS[0] else maps[:, :, :, d]
                reach = range(n) if not causal else range(d) if direction == DIRECTIONS[0] else range(d + 1, n)
                candidates = [w for w in reach if w != d]
                if word.head not in candidates:
                    continue
                guesses = [[max(candidates, key=head.__getitem__) for head in layer] for layer in looks.tolist()]
                for relation in (word.relation, *(["all"] if word.relation != "punct" else [])):
                    name = f"{relation} {direction}"
                    hits.setdefault(name, []).append((torch.tensor(guesses) == word.head).double())
                    offsets.setdefault(name, Counter())[word.head - d] += 1
    return {name: torch.stack(found).mean(0) for name, found in hits.items()}, offsets


def slow_word_maps(model: Model, sentence: Sentence) -> Tensor:
    """Maps between words, ``[layer, head, word, word]``."""
    encoded: Any = model.tokenizer(sentence.text, return_offsets_mapping=True)
    capture = interp.capture_patterns(model, torch.tensor([encoded.input_ids]))
    tokens = [
        [t for t, (s, e) in enumerate(encoded.offset_mapping) if s < word.end and word.start < e]
        for word in sentence.words
    ]
    maps = torch.stack([capture.patterns[layer][0] for layer in range(model.n_layers)])
    rows = [torch.stack([maps[:, :, q][..., k].sum(-1).mean(-1) for k in tokens], -1) for q in tokens]
    return torch.stack(rows, -2)


@pytest.mark.parametrize(("which", "batch_size"), [("bert", 1), ("bert", 3), ("llama", 2)])
def test_accuracies_equal_slow_definitions(
    which: str, batch_size: int, sentences: list[Sentence], request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(which)
    found = syntactic_heads(model, sentences, batch_size=batch_size)
    expected, offsets = slow(model, sentences)
    assert set(found.columns) == set(expected)
    for name, accuracy in expected.items():
        torch.testing.assert_close(found.columns[name], accuracy.double(), atol=1e-6, rtol=0)
        relation, direction = name.rsplit(" ", 1)
        facts = found.notes["relations"][relation][direction]
        assert facts["arcs"] == sum(offsets[name].values())
        assert facts["baseline"] == max(offsets[name].values()) / facts["arcs"]
    directed = torch.stack([expected[f"all {direction}"] for direction in DIRECTIONS])
    torch.testing.assert_close(found.scores, directed.amax(0).double(), atol=1e-6, rtol=0)
    assert found.notes["causal"] is (which == "llama") and found.notes["words without a token"] == 0


def test_blocks_of_rows_and_padding_change_nothing(bert: Model, sentences: list[Sentence]) -> None:
    alone = syntactic_heads(bert, sentences[:1])
    together = syntactic_heads(bert, [sentences[0], sentences[1]], batch_size=2)
    apart = syntactic_heads(bert, [sentences[0], sentences[1]], batch_size=1)
    for name, accuracy in together.columns.items():
        torch.testing.assert_close(accuracy, apart.columns[name], atol=1e-6, rtol=0)
    assert alone.notes["relations"]["det"][DIRECTIONS[0]]["arcs"] == 1


def test_a_causal_model_is_scored_on_the_arcs_it_can_express(llama: Model, sentences: list[Sentence]) -> None:
    relations = syntactic_heads(llama, sentences).notes["relations"]
    # Governors to the left: advmod, obj (and punct); to the right: det, amod, nsubj.
    assert relations["all"][DIRECTIONS[0]]["arcs"] == 2 and relations["all"][DIRECTIONS[1]]["arcs"] == 7
    assert set(relations["obj"]) == {DIRECTIONS[0]} and set(relations["nsubj"]) == {DIRECTIONS[1]}
    nsubj = relations["nsubj"][DIRECTIONS[1]]
    assert (nsubj["arcs"], nsubj["offset"], nsubj["baseline"]) == (3, 1, 1)
    assert relations["advmod"][DIRECTIONS[0]]["random"] == 1 / 4  # four words to its left


def test_the_difference_is_of_what_was_chosen_on_other_sentences() -> None:
    """Ten sentences of two arcs, three heads: head 0 is best on the even ones, head 1 on the odd ones, 2 is not there.

    On the odd sentences head 0 gets one arc right and the even ones' offset (-1) none; on the even ones head 1 gets
    none and the odd ones' offset (+1) one. So (5 x (1 - 0) + 5 x (0 - 1)) / 20 = 0, though the best head of all gets
    15 of 20 arcs right and the best offset of all 10.
    """
    nan = torch.nan
    correct = torch.tensor([[2.0, 0.0, nan], [1.0, 2.0, nan]]).repeat(5, 1)
    offsets = [Counter({-1: 1, 1: 1}) if i % 2 == 0 else Counter({1: 2}) for i in range(10)]
    assert best_offset(sum(offsets, Counter[int]())) == 1 and best_offset(offsets[0]) == -1
    found, low, high = held_out_difference(correct, offsets, seed=0)
    assert found == 0 and low < 0 < high
    always = torch.tensor([[2.0, 0.0]]).repeat(10, 1)
    assert held_out_difference(always, [Counter({2: 1, 3: 1})] * 10, seed=0) == (0.5, 0.5, 0.5)
    assert str(held_out_difference(always[:9], [Counter({2: 1, 3: 1})] * 9, seed=0)) == "(nan, nan, nan)"


@pytest.fixture(scope="module")
def many(sentences: list[Sentence]) -> list[Sentence]:
    return sentences * 6


def test_the_baseline_has_an_interval_and_a_verdict(bert: Model, many: list[Sentence]) -> None:
    found = syntactic_heads(bert, many)
    frame = best_heads(found).set_index(["relation", "direction"])
    assert (frame["baseline_low"] <= frame["baseline"]).all() and (frame["baseline"] <= frame["baseline_high"]).all()
    det = frame.loc[("det", DIRECTIONS[0])]
    assert (det["sentences"], det["arcs"], det["baseline"]) == (12, 12, 1)  # every determiner two words before its noun
    amod = frame.loc[("amod", DIRECTIONS[0])]
    assert amod["verdict"] in ("open", "worse") and amod["baseline"] == 1  # no head can beat what is always right
    assert frame.loc[("advmod", DIRECTIONS[0]), "verdict"] == "too few"  # six sentences
    again = best_heads(syntactic_heads(bert, many, batch_size=5))
    pd.testing.assert_frame_equal(frame.reset_index(), again)


def test_best_heads_stand_beside_the_best_offset(bert: Model, sentences: list[Sentence]) -> None:
    found = syntactic_heads(bert, sentences)
    frame = best_heads(found).set_index(["relation", "direction"])
    row = frame.loc[("det", DIRECTIONS[0])]
    column = found.columns[f"det {DIRECTIONS[0]}"]
    assert row["accuracy"] == float(column.max()) and row["arcs"] == 2
    assert row["ci_low"] <= row["accuracy"] <= row["ci_high"]
    assert row["offset"] == 2 and row["baseline"] == 1
    other = HeadScores(name="other", scores=torch.zeros(1, 1), unit="", provenance=found.provenance)
    with pytest.raises(InputError, match="expected the result of syntactic_heads"):
        best_heads(other)


def test_what_cannot_be_scored_is_refused(bert: Model, sentences: list[Sentence]) -> None:
    with pytest.raises(InputError, match="0 sentences"):
        syntactic_heads(bert, [])
    with pytest.raises(InputError, match="No sentence holds an arc"):
        syntactic_heads(bert, parse_conllu(conllu("1 Go 0 root")))
    with pytest.raises(InputError, match="cross attention of tiny-bert does not"):
        syntactic_heads(bert, sentences, kind="cross")
    with pytest.raises(InputError, match="has no fast tokenizer"):
        syntactic_heads(Model(bert.hf, None, name="no-words"), sentences)
