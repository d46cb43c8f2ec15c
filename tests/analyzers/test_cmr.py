"""CMR: the published tables by hand, distances by hand, lag curves against a loop over full maps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.analyzer import Shape
from interp.analyzers.cmr import LAGS, CmrDistance, _first_occurrences, cmr_distances, fit_cmr, gaussian_distance
from interp.analyzers.cmr_model import CmrGrid, association, cmr_grid, crp_of, grid_parameters, selected
from interp.attention.rows import Stream
from interp.interventions.scale_heads import ScaleHeads
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.architectures import GROUPED, decoder, randomised
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


def crp(*setting: float, n_recalls: int = 20) -> Tensor:
    return selected(crp_of(*map(float, setting), generator=torch.Generator().manual_seed(0), n_recalls=n_recalls))


def test_association_is_the_published_matrix() -> None:
    shift = torch.diag(torch.ones(9), 1).double()
    published = torch.linalg.inv(torch.eye(10).double() - 0.3 * shift) @ shift
    torch.testing.assert_close(association(0.7, 10), published)


def test_closed_forms() -> None:
    expected = torch.tensor([0, 0, 0, 0, 0, 0, 0.7017, 0.2105, 0.0632, 0.0189, 0.0057]).double()
    torch.testing.assert_close(crp(0.7, 1, 0), expected, atol=5e-5, rtol=0)
    assert crp(1, 1, 0)[6] == 1
    fixed = crp(0.5, 0, 0)
    torch.testing.assert_close(fixed, fixed.flip(0))


def test_simulated_recalls_meet_the_closed_form() -> None:
    """With gamma just above 0 nothing is exact any more, and nothing has changed."""
    torch.testing.assert_close(crp(0.7, 1, 1e-9, n_recalls=100), crp(0.7, 1, 0), atol=0.01, rtol=0)


def test_a_context_that_runs_backwards_recalls_backwards() -> None:
    """gamma 1 puts the context before an item in its place: of the support, 8/3 of 4 lie at lags <= 0."""
    assert crp(0.5, 1, 1)[:6].sum() == pytest.approx(2 / 3, abs=0.03)
    assert crp(0.5, 1, 0)[:6].sum() == 0


def test_the_shipped_table_is_what_the_recipe_gives() -> None:
    grid = cmr_grid()
    assert grid.crp.shape == (4620, 11)
    torch.testing.assert_close(grid.crp.sum(-1), torch.ones(4620).double())
    assert (grid.crp >= 0).all()
    for index in (0, 1234, 4619):
        setting = grid_parameters()[index].tolist()
        again = crp_of(*setting, generator=torch.Generator().manual_seed(index))
        torch.testing.assert_close(grid.crp[index], selected(again), atol=1e-6, rtol=1e-5)


def test_distances_by_hand() -> None:
    geometric = torch.zeros(11).double()
    geometric[6:] = 0.7 * 0.3 ** torch.arange(5)
    curves = torch.stack([geometric.flip(0), torch.eye(11)[6].double(), 3 * geometric + 0.2, torch.ones(11)])
    settings = torch.stack([geometric, torch.eye(11)[5].double()])
    distance, factor = cmr_distances(curves, settings)
    assert distance[0, 0] == pytest.approx(2.4039, abs=1e-4)
    assert distance[1, 1] == pytest.approx(2.2, abs=1e-9)
    assert distance[2, 0] == pytest.approx(0, abs=1e-9) and factor[2, 0] == pytest.approx(3)
    assert distance[3].isnan().all()


def test_fit_finds_its_own_curves_and_ignores_scale_and_offset() -> None:
    grid = cmr_grid()
    picked = torch.tensor([17, 900, 4000])
    fit = fit_cmr(0.3 * grid.crp[picked] + 0.1, grid)
    assert fit.distance.max() < 1e-9
    torch.testing.assert_close(fit.parameters, grid.parameters[picked])
    one = CmrGrid(torch.zeros(1, 3), grid.crp[:1])
    assert fit_cmr(torch.full((2, 11), 0.4), one).distance.isnan().all()


def test_a_setting_without_a_curve_is_never_the_closest() -> None:
    """Nothing scales a constant up to a head; the published grid has none, so it is only guarded against."""
    grid = CmrGrid(torch.rand(2, 3), torch.stack([torch.full((11,), 1 / 11), cmr_grid().crp[900]]))
    fit = fit_cmr(cmr_grid().crp[17], grid)
    assert fit.distance.isfinite() and torch.equal(fit.parameters, grid.parameters[1])
    alone = fit_cmr(cmr_grid().crp[17], CmrGrid(grid.parameters[:1], grid.crp[:1]))
    assert alone.distance.isnan() and alone.inverse_temperature.isnan()


def test_lag_zero_is_the_middle_of_the_table() -> None:
    table = torch.zeros(17)
    table[8] = 1
    assert selected(table).argmax() == 5 and len(LAGS) == 11 and LAGS[5] == 0


def test_gaussian_baseline() -> None:
    lags = torch.arange(-5, 6)
    bump = 0.1 + 0.5 * torch.exp(-((lags - 1.0) ** 2) / 2)
    assert gaussian_distance(bump) == pytest.approx(0, abs=1e-6)
    assert gaussian_distance(torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])) > 0.5


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


def scanned(model: Model, tokens: Tensor, **options: int) -> HeadScores:
    found = interp.scan(model, tokens, [CmrDistance()], **options)["cmr"]
    assert isinstance(found, HeadScores)
    return found


def test_the_induction_head_set_by_hand_is_sequential_chaining(circuit: Model) -> None:
    tokens = repeated_tokens(circuit, seed=0, length=30, copies=2)
    found = scanned(circuit, tokens)
    assert found.columns["lag +1"][1, 1] > 0.999
    assert found["L1H1"] == pytest.approx(0, abs=1e-4)
    assert found.columns["beta_enc"][1, 1] == 1 and found.columns["beta_rec"][1, 1] == 1
    assert isinstance(found.chance, Tensor) and found.chance[1, 1] > 1
    with interp.watch(circuit, ScaleHeads(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))):
        assert scanned(circuit, tokens).columns["lag +1"][1, 1] < 0.05


def test_first_occurrences_by_hand() -> None:
    """Padding with a token of the text is not its first place; patches of one id are all new."""
    tokens, patch = torch.tensor([[2, 2, 5, 2, 5, 9, 9]]), torch.tensor([[False] * 5 + [True] * 2])
    real = torch.tensor([[False] + [True] * 6])
    found = _first_occurrences(Stream(tokens=tokens, valid=real, past=3, images=patch))
    assert found[0].tolist() == [False, True, True, False, False, True, True]
    assert _first_occurrences(Stream(tokens=tokens, valid=None, past=0))[0].tolist() == [
        True, False, True, False, False, True, False,
    ]  # fmt: skip


def test_a_window_longer_than_the_block_is_read_at_its_keys() -> None:
    """Thirty tokens are seen: the later queries see the earlier copy of their token, and not the first token."""
    sizes = {**GROUPED, "max_position_embeddings": 64}
    model = interp.load(randomised(decoder("Mistral", sizes, sliding_window=30)))
    block = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:20] + 4
    tokens = torch.cat([torch.tensor([1]), block, block])[None]
    small, whole = (interp.scan(model, tokens, ["cmr"], block_bytes=size)["cmr"] for size in (3000, 10**6))
    assert isinstance(small, HeadScores) and isinstance(whole, HeadScores)
    assert float(whole.columns["lag +1"].min()) > 0
    for name in (f"lag {lag:+d}" for lag in LAGS.tolist()):
        torch.testing.assert_close(small.columns[name], whole.columns[name], atol=1e-6, rtol=0)


def test_cached_decoding_knows_what_came_before() -> None:
    """A token stands twice in the block, so windows around its second place are not of first occurrences alone."""
    model = tiny_llama()
    block = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:24] + 4
    block[12] = block[5]
    tokens = torch.cat([torch.tensor([1]), block, block])[None]
    reader = CmrDistance().reader(Shape(n_layers=2, n_heads=4, kind="self"))
    with torch.inference_mode(), interp.watch(model, reader):
        output = model.hf(input_ids=tokens[:, :30], use_cache=True)
        for token in tokens[:, 30:].T:
            output = model.hf(input_ids=token[None], past_key_values=output.past_key_values, use_cache=True)
    stepwise, whole = reader.result(Provenance(model="m"), []), interp.scan(model, tokens, ["cmr"])["cmr"]
    assert isinstance(stepwise, HeadScores) and isinstance(whole, HeadScores)
    for name in (f"lag {lag:+d}" for lag in LAGS.tolist()):
        torch.testing.assert_close(stepwise.columns[name], whole.columns[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_lag_curves_against_a_loop_over_full_maps(stories260k: Path, batch_size: int) -> None:
    model = interp.load(stories260k)
    tokens = repeated_tokens(model, seed=1, length=20, copies=2, n_examples=4)
    found = scanned(model, tokens, batch_size=batch_size, block_bytes=5000)
    maps = interp.capture_patterns(model, tokens)
    for lag in (-5, 0, 1, 5):
        # BOS, then two copies of 20: windows of 11 in the first copy that leave BOS out.
        for layer in range(model.n_layers):
            rows = [maps.patterns[layer][:, :, 20 + p, p + lag] for p in range(6, 16)]
            expected = torch.stack(rows).mean(0).mean(0)
            torch.testing.assert_close(found.columns[f"lag {lag:+d}"][layer], expected.double(), atol=1e-6, rtol=0)
