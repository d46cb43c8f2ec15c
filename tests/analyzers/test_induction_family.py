"""Hand-computed values of the induction family: normalisations, chance levels, traps, TransformerLens' detectors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens import head_detector
from transformer_lens.head_detector import compute_head_attention_similarity_score, detect_head

import interp
from interp.analyzers.matching import DuplicateToken, Induction
from interp.analyzers.positional import PreviousToken
from interp.analyzers.targets import TargetAnalyzer
from interp.errors import InputError
from interp.interventions.scale_heads import ScaleHeads
from interp.model.model import Model
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.analyzers.hand_made import first, previous, read, score, uniform
from tests.hand_weighted import INDUCTION_HEAD, PREVIOUS_TOKEN_HEAD, induction_model, letters_tokenizer

PER_ROW, BEYOND_BOS = {"normalisation": "per_row_all"}, {"normalisation": "per_row_all", "exclude_bos": True}
PER_ENTRY = {"normalisation": "mean_per_entry"}
EXCLUSIONS = ("exclude_bos", "exclude_current_token")
PATTERNS = {"previous-token": PreviousToken, "duplicate-token": DuplicateToken, "induction": Induction}


def repeated(length: int, copies: int, *, bos: bool = True) -> Tensor:
    block = torch.arange(1, length + 1).repeat(copies)
    return torch.cat([torch.tensor([0]), block]) if bos else block


def induction_head(tokens: Tensor) -> Tensor:
    """Attends evenly to all targets ``tok[j - 1] == tok[i]``, else to BOS."""
    n = len(tokens)
    target = torch.zeros(n, n)
    target[:, 1:] = (tokens[:, None] == tokens[None, :-1]).float()
    target = target.tril()
    target[target.sum(-1) == 0, 0] = 1
    return target / target.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("options", "perfect", "chance"),
    [({}, 1.0, 0.0307), (PER_ENTRY, 0.5, 0.0154), (PER_ROW, 75 / 101, 0.0228), (BEYOND_BOS, 1.0, 0.0241)],
)
def test_the_normalisations_of_induction_on_four_copies(options: dict, perfect: float, chance: float) -> None:
    """25 tokens behind a BOS. The echo score of the same head is 0 in each of them."""
    tokens = repeated(25, 4)
    head, analyzer = induction_head(tokens), Induction(**options)
    assert score(analyzer, head, tokens) == pytest.approx(perfect, abs=1e-6)
    assert score(DuplicateToken(**options), head, tokens) == 0
    everywhere = read(analyzer, uniform(101), tokens)
    assert isinstance(everywhere, HeadScores)
    assert everywhere["L0H0"] == pytest.approx(chance, abs=5e-5)
    assert everywhere.chance == pytest.approx(everywhere["L0H0"], abs=1e-6)


@pytest.mark.parametrize("copies", [2, 3, 4, 7])
def test_only_the_sum_per_query_does_not_depend_on_the_number_of_copies(copies: int) -> None:
    tokens = repeated(6, copies)
    head, n = induction_head(tokens), 6 * copies + 1
    assert score(Induction(), head, tokens) == pytest.approx(1, abs=1e-6)
    assert score(Induction(**PER_ENTRY), head, tokens) == pytest.approx(2 / copies, abs=1e-6)
    assert score(Induction(**PER_ROW), head, tokens) == pytest.approx(6 * (copies - 1) / n, abs=1e-6)


def test_targets_are_found_by_tokens_so_that_no_key_too_many_is_counted() -> None:
    """The published code counts by offsets, modulo the block: at the end of every block also the key 1."""
    tokens = repeated(25, 4)
    everywhere = uniform(101)
    by_token = read(Induction(), everywhere, tokens)["L0H0"]  # type: ignore[index]
    too_many = sum(float(everywhere[query, 1]) for query in (50, 75, 100)) / 75
    assert by_token == pytest.approx(0.0307, abs=5e-5) and by_token + too_many == pytest.approx(0.0313, abs=5e-5)


def test_previous_token_by_chance_over_all_rows() -> None:
    n = 101
    harmonic = sum(1 / i for i in range(1, n + 1))
    found = score(PreviousToken(**PER_ROW), uniform(n))
    assert found == pytest.approx((harmonic - 1) / n, abs=1e-6) == pytest.approx(0.0416, abs=5e-5)
    assert score(PreviousToken(), uniform(n)) == score(PreviousToken(**PER_ENTRY), uniform(n)) > found


@pytest.mark.parametrize(
    ("head", "diagonal", "ours"),
    [("induction, else BOS", 51 / 52, 1), ("induction, else itself", 50 / 52, 1), ("BOS", 1 / 52, 0)],
)
def test_the_diagonal_of_two_copies_counts_what_is_no_target(head: str, diagonal: float, ours: float) -> None:
    """Two of its 52 entries behind a BOS are none; one of them is attention to the BOS."""
    tokens = repeated(50, 2)
    pattern = first(101) if head == "BOS" else induction_head(tokens)
    if head.endswith("itself"):
        pattern[:51] = torch.eye(101)[:51]
    entries = pattern.diagonal(1 - 50)
    assert len(entries) == 52 and float(entries.mean()) == pytest.approx(diagonal)
    assert diagonal == pytest.approx({1 / 52: 0.0192, 50 / 52: 0.9615, 51 / 52: 0.9808}[diagonal], abs=5e-5)
    assert score(Induction(), pattern, tokens) == pytest.approx(ours, abs=1e-6)
    assert score(Induction(**PER_ENTRY), pattern, tokens) == pytest.approx(ours, abs=1e-6)
    assert len(uniform(100).diagonal(1 - 50)) == 51  # without a BOS
    assert score(Induction(), uniform(100), repeated(50, 2, bos=False)) == pytest.approx(
        sum(1 / (query + 1) for query in range(50, 100)) / 50, abs=1e-6
    )


@pytest.mark.parametrize(("tokens", "shared"), [([0, 1, 2, 3, 1, 2, 3, 2], set()), ([1, 1, 1], {(2, 1)})])
def test_targets_of_induction_and_echo_meet_only_in_immediate_repeats(
    tokens: list[int], shared: set[tuple[int, int]]
) -> None:
    """In ``a a a`` position 1 looks at itself for induction; the diagonal is counted, as TransformerLens does."""
    n = len(tokens)
    found = {}
    for analyzer in (Induction(**PER_ROW), DuplicateToken(**PER_ROW)):
        hits = {(i, j): score(analyzer, _entry(n, i, j), torch.tensor(tokens)) for i in range(n) for j in range(i + 1)}
        found[analyzer.name] = {place for place, value in hits.items() if value > 0}
    expected = {(i, j) for i in range(n) for j in range(1, i + 1) if tokens[j - 1] == tokens[i]}
    assert found["induction"] == expected
    assert found["duplicate-token"] == {(i, j) for i in range(n) for j in range(i) if tokens[j] == tokens[i]}
    assert found["induction"] & found["duplicate-token"] == shared


def _entry(n: int, query: int, key: int) -> Tensor:
    """All attention in one entry of the map."""
    pattern = torch.zeros(n, n)
    pattern[query, key] = 1
    return pattern


def test_uniform_attention_on_one_token_three_times() -> None:
    """Both have one target of two keys, then two of three."""
    tokens = torch.tensor([4, 4, 4])
    for analyzer in (Induction(), DuplicateToken()):
        assert score(analyzer, uniform(3), tokens) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("options", [{}, PER_ENTRY, PER_ROW])
def test_a_sink_head_has_nothing_of_the_family(options: dict) -> None:
    tokens = repeated(50, 2)
    assert score(Induction(**options), first(101), tokens) == score(DuplicateToken(**options), first(101), tokens) == 0
    # Nothing is left of it behind the BOS: not 0 / 0 in silence, but a head that was not measured.
    left = read(Induction(**BEYOND_BOS), first(101), tokens)
    assert isinstance(left, HeadScores) and [head.label for head in left.unmeasured] == ["L0H0"]


def theirs(pattern: Tensor, tokens: Tensor, kind: str, *, error_measure: str = "mul", exclude_bos: bool) -> float:
    """TransformerLens' score of a map."""
    target = getattr(head_detector, f"get_{kind.replace('-', '_')}_head_detection_pattern")(tokens[None])
    return compute_head_attention_similarity_score(
        pattern, target, exclude_bos=exclude_bos, exclude_current_token=False, error_measure=error_measure
    )


@pytest.mark.parametrize(
    ("head", "kind", "mul", "mul_beyond_bos", "absolute", "absolute_beyond_bos"),
    [
        ("perfect", "induction", 0.49505, 1.0, 0.495, 1.0),
        ("perfect", "previous-token", 0.990099, 1.0, 0.99, 1.0),
        ("uniform", "induction", 0.0067175, 0.0070819, None, None),
        ("uniform", "previous-token", 0.0415572, None, None, None),
    ],
)
def test_published_values_of_detect_head(
    head: str, kind: str, mul: float, mul_beyond_bos: float | None, absolute: float | None,
    absolute_beyond_bos: float | None,
) -> None:  # fmt: skip
    """50 tokens twice behind a BOS: `mul` is our per_row_all, and `abs` follows from it."""
    tokens = repeated(50, 2)
    perfect = induction_head(tokens) if kind == "induction" else previous(101)
    pattern = uniform(101) if head == "uniform" else perfect
    n_targets = 50 if kind == "induction" else 100
    for options, value, of_abs in ((PER_ROW, mul, absolute), (BEYOND_BOS, mul_beyond_bos, absolute_beyond_bos)):
        beyond = "exclude_bos" in options
        ours = score(PATTERNS[kind](**options), pattern, tokens)
        assert ours == pytest.approx(theirs(pattern, tokens, kind, exclude_bos=beyond), abs=1e-6)
        assert value is None or ours == pytest.approx(value, abs=5e-7 if value < 0.1 else 1e-5)
        hidden = float(pattern[:, 0].sum()) if beyond else 0.0
        wanted = n_targets - (beyond and kind == "previous-token")  # the first of them is the BOS
        from_ours = 1 - (wanted + (101 - hidden) * (1 - 2 * ours)) / 101
        rounded = theirs(pattern, tokens, kind, error_measure="abs", exclude_bos=beyond)
        assert from_ours == pytest.approx(rounded, abs=6e-4)
        assert of_abs is None or rounded == pytest.approx(of_abs, abs=1e-6)


@pytest.fixture(scope="module")
def stories(stories260k: Path) -> Model:
    return interp.load(stories260k)


TEXTS = ["Tom saw a big dog. Tom saw a red ball. The big dog saw the red ball.", "No no no. It was very very big."]


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize(
    "excluded", [(), ("exclude_bos",), ("exclude_current_token",), ("exclude_bos", "exclude_current_token")]
)
def test_one_pass_gives_what_detect_head_gives_prompt_by_prompt(
    stories: Model, kind: str, excluded: tuple[str, ...]
) -> None:
    """Also on a list of prompts, where releases before 4.x left out what was asked for."""
    flags = dict.fromkeys(excluded, True)
    analyzer = PATTERNS[kind](normalisation="per_row_all", **flags)
    found = interp.scan(stories, TEXTS, [analyzer], batch_size=2)[kind]
    assert isinstance(found, HeadScores)
    name = f"{kind.replace('-', '_')}_head"
    torch.testing.assert_close(
        found.scores.float(), detect_head(stories.bridge, TEXTS, name, **flags), atol=1e-5, rtol=0
    )
    one_by_one = torch.stack([detect_head(stories.bridge, text, name, **flags) for text in TEXTS]).mean(0)
    torch.testing.assert_close(found.scores.float(), one_by_one, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


def family(model: Model, tokens: Tensor) -> dict[str, HeadScores]:
    found = interp.scan(model, tokens, list(PATTERNS))
    return {name: scores for name, scores in found.items() if isinstance(scores, HeadScores)}


def test_the_circuit_set_by_hand_is_classified_exactly(circuit: Model) -> None:
    table = {name: found.scores for name, found in family(circuit, repeated_tokens(circuit, seed=0)).items()}
    assert table["previous-token"][PREVIOUS_TOKEN_HEAD] > 0.999 and table["induction"][INDUCTION_HEAD] > 0.999
    assert table["duplicate-token"][PREVIOUS_TOKEN_HEAD] < 1e-3 and table["duplicate-token"][INDUCTION_HEAD] < 1e-3
    for name, (layer, head) in (("previous-token", PREVIOUS_TOKEN_HEAD), ("induction", INDUCTION_HEAD)):
        others = table[name].clone()
        others[layer, head] = 0
        assert others.max() < 0.06, name
    tokens = repeated_tokens(circuit, seed=0, n_examples=1)
    found = detect_head(circuit.bridge, circuit.tokenizer.decode(tokens[0, 1:]), "induction_head")
    assert found[1, 1] == pytest.approx(75 / 101, abs=1e-4)


def test_without_its_previous_token_head_the_induction_head_is_at_chance(circuit: Model) -> None:
    gates = torch.ones(2, 2)
    gates[PREVIOUS_TOKEN_HEAD] = 0
    with interp.watch(circuit, ScaleHeads(gates)):
        found = family(circuit, repeated_tokens(circuit, seed=0))["induction"]
    assert found.chance == pytest.approx(0.0307, abs=5e-5)
    assert float(found.scores[INDUCTION_HEAD]) == pytest.approx(found.chance, abs=1e-6)


def test_stimuli_come_from_their_seed_alone(circuit: Model) -> None:
    """The published code seeds torch and draws with numpy."""
    tokens = repeated_tokens(circuit, seed=3)
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(repeated_tokens(circuit, seed=3), tokens)
    assert not torch.equal(repeated_tokens(circuit, seed=4), tokens)
    assert tokens.shape == (10, 101) and bool((tokens[:, 0] == 0).all())
    assert all(len(set(row)) == 25 for row in tokens[:, 1:26].tolist())
    assert torch.equal(tokens[:, 1:26].repeat(1, 4), tokens[:, 1:])


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("kind", PATTERNS)
def test_what_divides_a_score_is_refused_when_unknown_or_not_meant(kind: str) -> None:
    analyzer: type[TargetAnalyzer] = PATTERNS[kind]
    message = f"{kind} has no normalisation 'mean'. Choose from sum_per_query, mean_per_entry, per_row_all"
    with pytest.raises(InputError, match=message):
        analyzer(normalisation="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="per_row_all alone, not in sum_per_query: set normalisation='per_row_all'"):
        analyzer(exclude_bos=True)
