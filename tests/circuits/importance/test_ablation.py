"""Leaving heads out: against TransformerLens, against slow loops, and whatever the batch size."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.forward import by_length
from circuits.importance.ablation import ABLATIONS, Ablation, leave_one_out
from circuits.importance.objective import Objective, TaskObjective, TextObjective
from circuits.patching import patch_heads
from circuits.study import Study
from interp.errors import InputError
from interp.interventions.replace_heads import HeadValues, ReplaceHeads
from interp.model.model import Model
from tests.interventions.running import heads_of, logits_with
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def model(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    return tiny_llama(tokenizer=word_tokenizer)


def study(model: Model, batch_size: int) -> Study:
    return Study.of(model, "ioi", n_prompts=5, seed=0, top=None, batch_size=batch_size, progress=False)


def tokens() -> Tensor:
    return torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(5))


def objective_of(model: Model, kind: str, batch_size: int = 8) -> Objective:
    if kind == "task":
        return TaskObjective(study(model, batch_size))
    return TextObjective(model, tokens(), batch_size=batch_size, progress=False, seed=0)


def drops(objective: Objective, name: str) -> Tensor:
    return leave_one_out(objective, name, metric=objective.measured().metric)


def test_zero_ablation_equals_transformer_lens(model: Model) -> None:
    asked = study(model, 8)
    prompts, task = by_length(asked.prompts, asked.task), asked.task
    found = drops(TaskObjective(asked), "zero")
    ends = prompts.positions["END"]
    with torch.no_grad():
        whole = task.metric(model.bridge(prompts.clean, prepend_bos=False)[torch.arange(5), ends], prompts)
        for layer in range(2):
            for head in range(4):

                def silence(z: Tensor, hook: object, head: int = head) -> Tensor:
                    z = z.clone()
                    z[:, :, head] = 0
                    return z

                logits = model.bridge.run_with_hooks(
                    prompts.clean, prepend_bos=False, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)]
                )
                expected = whole - task.metric(logits[torch.arange(5), ends], prompts)
                torch.testing.assert_close(found[:, layer, head], expected, atol=1e-5, rtol=1e-5)


def test_resampling_a_task_is_noising(model: Model) -> None:
    asked = study(model, 8)
    patched = patch_heads(model, asked.task, asked.prompts, progress=False)
    expected = (patched.clean - patched.noised).permute(2, 0, 1)
    torch.testing.assert_close(drops(TaskObjective(asked), "resample"), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mean", "resample"])
def test_ablation_on_text_equals_a_slow_loop(model: Model, name: str) -> None:
    asked = objective_of(model, "text")
    found = drops(asked, name)
    z = heads_of(model, tokens())
    if name == "mean":
        values = {layer: outputs.mean((0, 1), keepdim=True).expand_as(outputs) for layer, outputs in z.items()}
    else:
        donors = asked._donors  # type: ignore[attr-defined]
        assert sorted(donors.tolist()) == [0, 1, 2, 3] and (donors != torch.arange(4)).all()
        values = {layer: outputs[donors] for layer, outputs in z.items()}

    def metric(logits: Tensor) -> Tensor:
        return logits[:, :-1].log_softmax(-1).gather(-1, tokens()[:, 1:, None]).mean((1, 2))

    for layer, head in ((0, 3), (1, 0)):
        chosen = torch.zeros(1, 1, 4, dtype=torch.bool)
        chosen[..., head] = True
        editor = ReplaceHeads({layer: HeadValues(chosen, values[layer])})
        expected = metric(logits_with(model, tokens())) - metric(logits_with(model, tokens(), editor))
        torch.testing.assert_close(found[:, layer, head], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["task", "text"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_the_batch_size_changes_nothing(model: Model, name: str, kind: str) -> None:
    expected = drops(objective_of(model, kind, 3), name)
    torch.testing.assert_close(drops(objective_of(model, kind, 64), name), expected, atol=1e-5, rtol=1e-5)
    assert (expected.abs() > 1e-4).any()


@pytest.mark.parametrize("name", ["zero", "mean", "uniform"])
def test_padding_changes_nothing(model: Model, name: str) -> None:
    """Every second text is shorter; what the ablation of it does must not depend on the padding."""
    rows = [row.tolist() for row in tokens()]
    rows[1], rows[3] = rows[1][:5], rows[3][:6]
    options = {"batch_size": 4, "progress": False, "seed": 0}
    padded = [model.pad(rows, padding_side=side) for side in ("left", "right")]
    left, right = (drops(TextObjective(model, batch, **options), name) for batch in padded)
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    if name != "mean":  # the mean is over all texts
        alone = drops(TextObjective(model, tokens()[1:2, :5], **options), name)
        torch.testing.assert_close(right[1:2], alone, atol=1e-5, rtol=1e-5)


def test_resampling_needs_texts_of_one_length(model: Model) -> None:
    uneven = model.pad([[3, 4, 5], [6, 7]])
    asked = TextObjective(model, uneven, batch_size=4, progress=False, seed=0)
    with pytest.raises(InputError, match="the same number of tokens; cut the texts"):
        drops(asked, "resample")


def test_an_unknown_ablation_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="Unknown ablation 'knockout'; choose from zero, mean, uniform, resample"):
        Ablation("knockout", objective_of(model, "text"))


def test_text_of_one_token_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="at least two tokens"):
        TextObjective(model, torch.tensor([[5]]), batch_size=1, progress=False, seed=0)
