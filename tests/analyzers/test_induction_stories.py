"""The induction family on ordinary stories, against slow and obviously correct loops over full maps."""

from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.cmr import CmrDistance, fit_cmr
from interp.analyzers.cmr_model import cmr_grid
from interp.analyzers.composition import composition, prefix_matching_from_weights
from interp.analyzers.copying import copying_from_weights
from interp.analyzers.head_weights import head_weights
from interp.analyzers.in_context import in_context_heads, in_context_score
from interp.analyzers.matching import DuplicateToken, Induction
from interp.analyzers.positional import PreviousToken
from interp.analyzers.targets import Normalisation
from interp.model.model import Model
from interp.results import HeadScores
from interp.stimuli import repeated_tokens

STORIES = [
    "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball in the park. "
    "One day, Lily saw a little dog with a big red ball. She loved to play with her big red ball in the park.",
    "Tom and Sam saw a dog. The dog was big and Tom was happy. Tom ran to the dog, and the dog ran to Sam.",
    "No no no, said Mom. It was very very big.",
]
NORMALISATIONS = get_args(Normalisation)


@pytest.fixture(scope="module")
def model(stories260k: Path) -> Model:
    return interp.load(stories260k)


@pytest.fixture(scope="module")
def maps(model: Model) -> list[tuple[list[int], Tensor]]:
    """Token ids and full maps ``[layer, head, query, key]`` of every story."""
    captured = [interp.capture_patterns(model, story) for story in STORIES]
    return [
        (capture.tokens[0].tolist(), torch.stack([capture.patterns[layer][0].double() for layer in range(5)]))
        for capture in captured
    ]


def targets(kind: str, ids: list[int], query: int) -> list[int]:
    """Keys that a head of this kind looks at, by the definition of the score."""
    if kind == "previous-token":
        return [query - 1] if query else []
    if kind == "duplicate-token":
        return [key for key in range(query) if ids[key] == ids[query]]
    return [key for key in range(1, query + 1) if ids[key - 1] == ids[query]]


def slow(kind: str, normalisation: str, ids: list[int], pattern: Tensor, *, hidden: bool = False) -> Tensor:
    """One story's score of every head; `hidden` leaves the first token out."""
    mass, rows, entries = torch.zeros(pattern.shape[:2], dtype=torch.float64), 0, 0
    for query in range(len(ids)):
        keys = [key for key in targets(kind, ids, query) if not (hidden and key == 0)]
        rows += bool(keys)
        entries += len(keys)
        for key in keys:
            mass += pattern[:, :, query, key]
    everything = pattern[:, :, :, 1:] if hidden else pattern
    divisor = {"sum_per_query": rows, "mean_per_entry": entries, "per_row_all": everything.sum((-2, -1))}
    return mass / divisor[normalisation]


@pytest.mark.parametrize(("normalisation", "hidden"), [*product(NORMALISATIONS, [False]), ("per_row_all", True)])
def test_attention_to_targets_whatever_the_batch(
    model: Model, maps: list[tuple[list[int], Tensor]], normalisation: Normalisation, hidden: bool
) -> None:
    kinds = (PreviousToken, DuplicateToken, Induction)
    analyzers = [kind(normalisation=normalisation, exclude_bos=hidden) for kind in kinds]
    expected = {
        kind.name: torch.stack([slow(kind.name, normalisation, *story, hidden=hidden) for story in maps]).mean(0)
        for kind in kinds
    }
    for batch_size, side, block_bytes in ((1, "right", 10**6), (3, "left", 9999)):
        data = model.batch(STORIES, padding_side=side)
        found = interp.scan(model, data, analyzers, batch_size=batch_size, block_bytes=block_bytes)
        for name, values in expected.items():
            scores = found[name]
            assert isinstance(scores, HeadScores)
            torch.testing.assert_close(scores.scores, values, atol=1e-6, rtol=0)


def slow_curves(ids: list[int], pattern: Tensor) -> Tensor:
    """Attention around earlier copies, by lag, where the whole window stands there for the first time."""
    new = [position > 0 and ids[position] not in ids[:position] for position in range(len(ids))]
    rows = []
    for query, copy in product(range(len(ids)), repeat=2):
        window = range(copy - 5, copy + 6)
        if (
            copy < query
            and ids[copy] == ids[query]
            and window[0] >= 0
            and window[-1] < query
            and all(new[copy - 5 : copy + 6])
        ):
            rows.append(pattern[:, :, query, list(window)])
    return torch.stack(rows).mean(0) if rows else torch.full((5, 8, 11), torch.nan, dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_lag_curves_and_their_fit(model: Model, maps: list[tuple[list[int], Tensor]], batch_size: int) -> None:
    curves = torch.stack([slow_curves(*story) for story in maps])
    assert int((~curves[:, 0, 0, 0].isnan()).sum()) >= 1
    expected = curves.nanmean(0)
    found = interp.scan(model, STORIES, [CmrDistance()], batch_size=batch_size)["cmr"]
    assert isinstance(found, HeadScores)
    for place, lag in enumerate(range(-5, 6)):
        torch.testing.assert_close(found.columns[f"lag {lag:+d}"], expected[..., place], atol=1e-6, rtol=0)
    grid = cmr_grid()
    a = expected[3, 2] - expected[3, 2].min()
    c = grid.crp - grid.crp.amin(-1, keepdim=True)
    scaled = c * a.max() / c.amax(-1, keepdim=True)
    by_hand = (scaled - a).square().mean(-1) / a.var(correction=0)
    assert float(found.scores[3, 2]) == pytest.approx(float(by_hand.min()), rel=1e-3)
    torch.testing.assert_close(fit_cmr(expected, grid).distance, found.scores, rtol=1e-3, atol=1e-6)


HEADS = [(0, 3), (2, 5), (4, 0)]


def test_scores_from_weights_against_matrices_of_the_whole_vocabulary(model: Model) -> None:
    weights = head_weights(model)
    copying, matching = copying_from_weights(model, n_null=2), prefix_matching_from_weights(model)
    tokens = repeated_tokens(model, seed=0, copies=1)
    previous = interp.scan(model, tokens, ["previous-token"])["previous-token"]
    assert isinstance(previous, HeadScores)
    for layer, head in HEADS:
        W_V, W_O, W_Q, W_K = (getattr(weights, name)[layer, head].double() for name in ("W_V", "W_O", "W_Q", "W_K"))
        W_E, W_U = weights.W_E.double(), weights.W_U.double()
        eigenvalues = torch.linalg.eigvals(W_E @ W_V @ W_O @ W_U)
        expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
        assert float(copying.scores[layer, head]) == pytest.approx(expected, abs=1e-5)
        written = torch.zeros_like(W_V @ W_O)
        for earlier, k in product(range(layer), range(8)):
            written += float(previous.scores[earlier, k]) * (weights.W_V[earlier, k] @ weights.W_O[earlier, k]).double()
        trace = float((W_E @ W_Q @ W_K.T @ written.T @ W_E.T).trace())
        if layer:
            assert float(matching.columns["trace"][layer, head]) == pytest.approx(trace, rel=1e-3)


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_composition_against_whole_matrices_per_query_head(model: Model, mode: str) -> None:
    """Four KV heads serve eight query heads: source and destination are query heads, two of which share W_V and W_K."""
    weights, found = head_weights(model), composition(model, mode)  # type: ignore[arg-type]
    for (layer, head), (later, other) in product(HEADS, HEADS):
        if layer >= later:
            assert found.scores[layer, head, later, other].isnan()
            continue
        W_OV = weights.W_V[layer, head] @ weights.W_O[layer, head]
        W_QK = weights.W_Q[later, other] @ weights.W_K[later, other].T
        read = {"Q": W_QK, "K": W_QK.T, "V": weights.W_V[later, other] @ weights.W_O[later, other]}[mode]
        expected = float((W_OV @ read).norm() / W_OV.norm() / read.norm())
        assert float(found.scores[layer, head, later, other]) == pytest.approx(expected, rel=1e-4)
    for shared in (weights.W_V, weights.W_K):
        assert torch.equal(shared[:, ::2], shared[:, 1::2]) and not torch.equal(shared[:, 1], shared[:, 2])


def test_in_context_scores_by_hand(model: Model) -> None:
    """By the model's own loss, one story and one head at a time."""
    tokens = torch.stack([model.to_tokens(story * 3)[0, :42] for story in STORIES[:2]])

    def losses() -> Tensor:
        logits = model.hf(tokens).logits.detach().double()
        return torch.nn.functional.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")

    whole = losses()
    found = in_context_score(model, tokens, early=6, late=40)
    assert found.score == pytest.approx(float((whole[:, 40] - whole[:, 6]).mean()), abs=1e-5)
    heads = in_context_heads(model, tokens, early=6, late=40, progress=False)
    for layer, head in HEADS:
        output = model.hf.model.layers[layer].self_attn.o_proj.weight
        kept = output.detach().clone()
        part = slice(head * model.d_head, (head + 1) * model.d_head)
        with torch.no_grad():
            output[:, part] = 0
            changed = losses() - whole
            output.copy_(kept)
        assert float(heads.scores[layer, head]) == pytest.approx(
            float((changed[:, 40] - changed[:, 6]).mean()), abs=1e-5
        )
