"""Exact patching against TransformerLens, attribution against exact patching, and the arithmetic of effects."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens import patching
from transformers import PreTrainedTokenizerBase

from circuits.attribution import attribute_heads
from circuits.effects import head_effects
from circuits.forward import answer_logits, batches, by_length
from circuits.patching import PatchedMetrics, patch_heads
from circuits.tasks import Task, TaskPrompts, get_task
from interp.heads import HeadRef
from interp.model.model import Model
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def model(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    return tiny_llama(tokenizer=word_tokenizer)


@pytest.fixture(scope="module")
def task() -> Task:
    return get_task("ioi")


@pytest.fixture(scope="module")
def prompts(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> TaskPrompts:
    return by_length(task.prompts(word_tokenizer, n=10, seed=0), task)


@pytest.fixture(scope="module")
def patched(model: Model, task: Task, prompts: TaskPrompts) -> PatchedMetrics:
    return patch_heads(model, task, prompts, batch_size=8, progress=False)


def metric_at_end(task: Task, prompts: TaskPrompts, logits: Tensor) -> Tensor:
    return task.metric(logits[torch.arange(len(prompts)), prompts.positions["END"]].float(), prompts)


@pytest.mark.parametrize("direction", ["denoised", "noised"])
def test_patching_agrees_with_transformer_lens(
    model: Model, task: Task, prompts: TaskPrompts, patched: PatchedMetrics, direction: str
) -> None:
    source, target = prompts.clean, prompts.corrupted
    if direction == "noised":
        source, target = target, source
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(source, prepend_bos=False)
        oracle = patching.get_act_patch_attn_head_out_all_pos(
            model.bridge, target, cache, lambda logits: metric_at_end(task, prompts, logits).mean()
        )
    torch.testing.assert_close(getattr(patched, direction).mean(-1), oracle, atol=1e-5, rtol=1e-5)


def test_unpatched_metrics_are_the_models_own(
    model: Model, task: Task, prompts: TaskPrompts, patched: PatchedMetrics
) -> None:
    with torch.no_grad():
        for name in ("clean", "corrupted"):
            logits = model.hf(input_ids=getattr(prompts, name), attention_mask=prompts.attention_mask).logits
            torch.testing.assert_close(
                getattr(patched, name), metric_at_end(task, prompts, logits), atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(
    model: Model, task: Task, prompts: TaskPrompts, patched: PatchedMetrics, batch_size: int
) -> None:
    again = patch_heads(model, task, prompts, batch_size=batch_size, progress=False)
    torch.testing.assert_close(again.noised, patched.noised, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.denoised, patched.denoised, atol=1e-5, rtol=1e-5)


def test_some_heads_only(model: Model, task: Task, prompts: TaskPrompts, patched: PatchedMetrics) -> None:
    some = patch_heads(model, task, prompts, heads=[HeadRef(1, 2), HeadRef(0, 3)], progress=False)
    measured = ~some.noised.isnan().all(-1)
    assert measured.nonzero().tolist() == [[0, 3], [1, 2]]
    torch.testing.assert_close(some.denoised[1, 2], patched.denoised[1, 2], atol=1e-5, rtol=1e-5)
    empty = replace(patched, noised=torch.full_like(patched.noised, torch.nan))
    assert torch.equal(empty.updated(some).noised.isnan(), some.noised.isnan())


def test_identical_prompts_have_no_effect(model: Model, task: Task, prompts: TaskPrompts) -> None:
    same = patch_heads(model, task, replace(prompts, corrupted=prompts.clean), progress=False)
    torch.testing.assert_close(same.noised, same.clean.expand_as(same.noised), atol=1e-5, rtol=1e-5)
    effects = head_effects(replace(same, corrupted=same.clean), seed=0)
    assert effects.effect.isnan().all()
    assert effects.warning is not None and "undefined" in effects.warning


def test_batches_end_behind_the_last_answer(task: Task, prompts: TaskPrompts) -> None:
    seen = 0
    for place, batch in batches(prompts, task, 4):
        assert batch.clean.shape[1] == int(batch.positions["END"].max()) + 1
        assert torch.equal(batch.answer, prompts.answer[place])
        seen += len(batch)
    assert seen == len(prompts)


def test_logits_at_the_answer_position_only(model: Model, prompts: TaskPrompts) -> None:
    ends = prompts.positions["END"]
    with torch.no_grad():
        expected = model.hf(input_ids=prompts.clean).logits[torch.arange(len(prompts)), ends]
        torch.testing.assert_close(answer_logits(model, prompts.clean, ends), expected)


def test_attribution_is_exact_where_the_metric_is_linear(task: Task, word_tokenizer: PreTrainedTokenizerBase) -> None:
    """Heads of the last layer act through one linear map when neither an MLP nor a norm comes after them."""
    linear = tiny_llama(tokenizer=word_tokenizer, n_layers=1)
    for block in linear.hf.model.layers:
        block.mlp.down_proj.weight.data.zero_()
    linear.hf.model.norm.forward = lambda hidden: hidden
    prompts = by_length(task.prompts(word_tokenizer, n=6, seed=1), task)
    exact = patch_heads(linear, task, prompts, progress=False)
    estimate = attribute_heads(linear, task, prompts, progress=False)
    torch.testing.assert_close(estimate.noised, exact.noised, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(estimate.denoised, exact.denoised, atol=1e-5, rtol=1e-5)


def test_attribution_agrees_with_transformer_lens(model: Model, task: Task, prompts: TaskPrompts) -> None:
    """TransformerLens gives the denoising direction of one prompt by position."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    estimate = attribute_heads(model, task, prompts, batch_size=4, progress=False)
    for index in (0, 7):
        one = prompts.select([index])
        result = attribution_patch(
            model.bridge, one.clean, one.corrupted, lambda logits, one=one: metric_at_end(task, one, logits).mean()
        )
        oracle = torch.zeros(2, 4)
        for node, score in result.node_scores.items():
            if node.kind == "attn_head_out":
                oracle[node.layer, node.head] += score
        ours = estimate.denoised[..., index] - estimate.corrupted[index]
        torch.testing.assert_close(ours, oracle, atol=1e-4, rtol=1e-4)


def test_attribution_leaves_no_gradients_behind(model: Model, task: Task, prompts: TaskPrompts) -> None:
    attribute_heads(model, task, prompts, progress=False)
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def by_hand(noised: list[float], denoised: list[float]) -> PatchedMetrics:
    """Two prompts: clean 4 and 2, corrupted 0 and 0; one layer of one head."""
    return PatchedMetrics(
        clean=torch.tensor([4.0, 2.0]),
        corrupted=torch.tensor([0.0, 0.0]),
        noised=torch.tensor(noised).view(1, 1, 2),
        denoised=torch.tensor(denoised).view(1, 1, 2),
    )


def test_effects_are_ratios_of_means() -> None:
    effects = head_effects(by_hand(noised=[1.0, 2.0], denoised=[3.0, 0.0]), seed=0)
    assert float(effects.noising) == pytest.approx((3.0 - 1.5) / 3.0)
    assert float(effects.denoising) == pytest.approx(1.5 / 3.0)
    assert float(effects.effect) == pytest.approx(0.5)
    assert effects.gap == 3.0
    # Resampling gives prompt 1 twice, prompt 2 twice, or both: effects 3/4, 0, 1/2.
    assert float(effects.ci_low) == pytest.approx(0.0)
    assert float(effects.ci_high) == pytest.approx(0.75)


def test_the_interval_depends_on_its_seed_only() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(4, 5, 30, generator=generator)
    metrics = PatchedMetrics(
        clean=torch.ones(30), corrupted=torch.zeros(30), noised=0.5 + noise, denoised=0.5 - noise.flip(-1)
    )
    state = torch.get_rng_state()
    first, same, other = (head_effects(metrics, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.ci_low, same.ci_low) and not torch.equal(first.ci_low, other.ci_low)
    assert (first.ci_low < first.effect).all() and (first.effect < first.ci_high).all()


def test_a_gap_that_may_be_zero_is_called_out() -> None:
    weak = replace(by_hand([0.0, 0.0], [0.0, 0.0]), clean=torch.tensor([1.0, -0.9]))
    warning = head_effects(weak, seed=0).warning
    assert warning is not None and "does not show this behaviour" in warning
    assert head_effects(by_hand([0.0, 0.0], [0.0, 0.0]), seed=0).warning is None


def test_one_prompt_gives_an_effect_and_no_interval() -> None:
    pair = by_hand(noised=[-6.0, 2.0], denoised=[3.0, 0.0])
    one = PatchedMetrics(
        clean=pair.clean[:1], corrupted=pair.corrupted[:1], noised=pair.noised[..., :1], denoised=pair.denoised[..., :1]
    )
    effects = head_effects(one, seed=0)
    assert float(effects.noising) == 2.5 and effects.gap == 4.0 and effects.warning is None
    assert all(math.isnan(float(value)) for value in (effects.ci_low, effects.ci_high, effects.gap_low))
    turned = head_effects(replace(one, clean=torch.tensor([-1.0])), seed=0).warning
    assert turned is not None and "(difference -1), so" in turned
