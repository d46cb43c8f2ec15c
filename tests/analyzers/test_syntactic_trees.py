"""Syntactic heads that are known exactly: attention put on a tree, and a head that looks at the previous word."""

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.conllu import Sentence, parse_conllu
from interp.analyzers.syntactic import DIRECTIONS, syntactic_heads, words_of_tokens
from interp.attention.participants import Editor
from interp.attention.rows import AttentionRows
from interp.model.model import Model
from tests.analyzers.test_conllu import conllu
from tests.analyzers.test_syntactic import TREEBANK, tiny_bert
from tests.hand_weighted import induction_model, letters_tokenizer


class Tree(Editor):
    """Every head looks along the arcs: from a dependent at its governor, or from a governor at its dependents alike.

    The root, words without dependents and special tokens look at the last token.
    """

    def __init__(self, model: Model, sentence: Sentence, direction: str) -> None:
        encoded = model.tokenizer(sentence.text, return_offsets_mapping=True)
        words = words_of_tokens(encoded.offset_mapping, sentence)
        self.pattern = torch.zeros(len(words), len(words))
        for dependent, word in enumerate(sentence.words):
            for query in [token for token, at in enumerate(words) if at == dependent]:
                for key in [token for token, at in enumerate(words) if at == word.head]:
                    self.pattern[(query, key) if direction == DIRECTIONS[0] else (key, query)] = 1
        self.pattern[~self.pattern.any(-1), -1] = 1
        self.pattern /= self.pattern.sum(-1, keepdim=True)

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        return self.pattern[rows.queries].expand_as(rows.pattern)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("text", TREEBANK[:2])
def test_attention_on_the_tree_names_every_governor(text: str, direction: str) -> None:
    bert, sentences = tiny_bert(), parse_conllu(text)
    with interp.watch(bert, Tree(bert, sentences[0], direction)):
        found = syntactic_heads(bert, sentences)
    accuracies = {name: values for name, values in found.columns.items() if name.endswith(direction)}
    assert len(accuracies) >= 5
    for name, accuracy in accuracies.items():
        assert torch.equal(accuracy, torch.ones(2, 4).double()), name
    assert bool((found.scores == 1).all())


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


@pytest.mark.parametrize(
    ("heads", "direction", "offset"), [((0, 1, 2, 3, 4), DIRECTIONS[0], -1), ((2, 3, 4, 5, 0), DIRECTIONS[1], 1)]
)
def test_a_head_on_the_previous_word_names_the_governors_of_chains(
    circuit: Model, heads: tuple[int, ...], direction: str, offset: int
) -> None:
    """A causal model names governors to the left by its own attention, and to the right by what it receives."""
    rows = [f"{i} w{7 * i} {head} {'chain' if head else 'root'}" for i, head in enumerate(heads, start=1)]
    found = syntactic_heads(circuit, parse_conllu(conllu(*rows)))
    assert set(found.columns) == {f"{relation} {direction}" for relation in ("all", "chain")}
    assert found.columns[f"chain {direction}"][0, 0] == 1 == found["L0H0"]
    # A head that looks at all words alike names the first of them as every word's governor; but of those who look at a
    # word the next one has the fewest others to look at.
    assert float(found.columns[f"chain {direction}"][0, 1]) == (0.25 if direction == DIRECTIONS[0] else 1)
    facts = found.notes["relations"]["chain"][direction]
    assert (facts["arcs"], facts["offset"], facts["baseline"]) == (4, offset, 1)
