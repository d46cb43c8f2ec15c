"""Hand-computed values of the induction family beyond the standard readers: normalisations and TransformerLens' own."""

import pytest
import torch
from torch import Tensor
from transformer_lens.head_detector import detect_head

import interp
from interp.analyzers.analyzer import Analyzer, Shape
from interp.analyzers.matching import DuplicateToken, Induction
from interp.analyzers.positional import PreviousToken
from interp.attention.kernel import MASKED
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.hand_weighted import induction_model, letters_tokenizer


def read(analyzer: Analyzer, pattern: Tensor, tokens: Tensor) -> HeadScores:
    """One reader over one hand-made map ``[query, key]``."""
    n = len(tokens)
    stream = Stream(tokens=tokens[None], valid=None, past=0)
    reader = analyzer.reader(Shape(n_layers=1, n_heads=1, kind="self"))
    reader.begin(stream)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    rows = AttentionRows(
        layer=0, kind="self", pattern=pattern[None, None], scores=torch.where(causal, 0.0, MASKED)[None, None],
        queries=torch.arange(n), keys=torch.arange(n), stream=stream, key_stream=stream, decoding=False,
        sink_logit=False,
    )  # fmt: skip
    reader.read_rows(rows)
    found = reader.result(Provenance(model="by hand"), [])
    assert isinstance(found, HeadScores)
    return found


def repeated(length: int, copies: int) -> Tensor:
    return torch.cat([torch.tensor([0]), torch.arange(1, length + 1).repeat(copies)])


def induction_head(tokens: Tensor) -> Tensor:
    """Attends evenly to all targets ``tok[j - 1] == tok[i]``, else to BOS."""
    n = len(tokens)
    target = torch.zeros(n, n)
    target[:, 1:] = (tokens[:, None] == tokens[None, :-1]).float()
    target = target.tril()
    target[target.sum(-1) == 0, 0] = 1
    return target / target.sum(-1, keepdim=True)


def uniform(n: int) -> Tensor:
    causal = torch.ones(n, n).tril()
    return causal / causal.sum(-1, keepdim=True)


def test_mean_per_entry_is_razor_attentions_score() -> None:
    """A perfect induction head on four copies: induction 0.5, echo 0; uniform attention 0.0154."""
    tokens = repeated(25, 4)
    head = induction_head(tokens)
    razor = Induction(normalisation="mean_per_entry")
    assert read(razor, head, tokens)["L0H0"] == pytest.approx(0.5, abs=1e-6)
    assert read(Induction(), head, tokens)["L0H0"] == pytest.approx(1, abs=1e-6)
    assert read(DuplicateToken(normalisation="mean_per_entry"), head, tokens)["L0H0"] == 0
    found = read(razor, uniform(101), tokens)
    assert found["L0H0"] == pytest.approx(0.0154, abs=5e-5) and found.chance == pytest.approx(found["L0H0"], abs=1e-6)


def test_a_perfect_head_on_two_copies_and_a_sink_head() -> None:
    """The diagonal of length L + 2 would give 51/52 and 1/52 here; restricted to real targets it is 1 and 0."""
    tokens = repeated(50, 2)
    assert read(Induction(), induction_head(tokens), tokens)["L0H0"] == pytest.approx(1, abs=1e-6)
    sink = torch.zeros(101, 101)
    sink[:, 0] = 1
    assert read(Induction(), sink, tokens)["L0H0"] == 0
    assert read(Induction(normalisation="mean_per_entry"), sink, tokens)["L0H0"] == 0


def test_previous_token_on_uniform_attention_of_101_tokens() -> None:
    found = read(PreviousToken(), uniform(101), repeated(50, 2))
    assert found["L0H0"] * 100 / 101 == pytest.approx(0.0415572, abs=1e-6)


def test_published_value_of_detect_head_from_our_sums() -> None:
    """`mul` of a perfect induction head is 50/101: all 101 rows count there, the 50 with a target here."""
    tokens = repeated(50, 2)
    ours = read(Induction(), induction_head(tokens), tokens)["L0H0"]
    assert ours * 50 / 101 == pytest.approx(0.49505, abs=1e-5)
    chance = read(Induction(), uniform(101), tokens)["L0H0"]
    assert chance * 50 / 101 == pytest.approx(0.0067175, abs=1e-6)


def test_the_circuit_set_by_hand_is_classified_exactly(tmp_path_factory: pytest.TempPathFactory) -> None:
    circuit: Model = interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))
    found = interp.scan(circuit, repeated_tokens(circuit, seed=0), ["previous-token", "duplicate-token", "induction"])
    table = {name: scores.scores for name, scores in found.items() if isinstance(scores, HeadScores)}
    assert table["previous-token"][0, 0] > 0.999 and table["induction"][1, 1] > 0.999
    assert table["duplicate-token"].max() < 0.05
    for name, (layer, head) in (("previous-token", (0, 0)), ("induction", (1, 1))):
        others = table[name].clone()
        others[layer, head] = 0
        assert others.max() < 0.06, name
    tokens = repeated_tokens(circuit, seed=0, n_examples=1)
    theirs = detect_head(circuit.bridge, circuit.tokenizer.decode(tokens[0, 1:]), "induction_head")
    assert theirs[1, 1] == pytest.approx(75 / 101, abs=1e-4)


@pytest.mark.usefixtures("unchecked_annotations")
def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(InputError, match="no normalisation 'mean'. Choose from sum_per_query, mean_per_entry"):
        Induction(normalisation="mean").reader(Shape(n_layers=1, n_heads=1, kind="self"))  # type: ignore[arg-type]
