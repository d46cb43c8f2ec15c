"""Full maps, head outputs and gradients on request, against the model's own eager attention."""

from pathlib import Path

import pytest
import torch

import interp
from interp.attention.implementation import attention_implementation
from interp.attention.participants import Editor
from interp.attention.rows import AttentionRows
from interp.errors import InputError

TEXT = "Once upon a time there was a little cat. The cat was"


@pytest.fixture(scope="module")
def model(stories260k: Path) -> interp.Model:
    return interp.load(stories260k)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, 300] - logits[0, -1, 20]


def test_maps_and_gradients_equal_eager_autograd(model: interp.Model) -> None:
    capture = interp.capture_patterns(model, TEXT, metric=metric)
    with attention_implementation(model.hf, "eager"):
        output = model.hf(model.to_tokens(TEXT), output_attentions=True)
        gradients = torch.autograd.grad(metric(output.logits), output.attentions)
    for layer in range(model.n_layers):
        torch.testing.assert_close(capture.patterns[layer], output.attentions[layer], atol=1e-6, rtol=0)
        torch.testing.assert_close(capture.gradients[layer], gradients[layer].tril(), atol=1e-5, rtol=1e-4)
    assert capture.str_tokens is not None
    assert capture.str_tokens[0][:2] == ["<s>", " Once"]


def test_gradient_is_the_slope_of_an_edit(model: interp.Model) -> None:
    class Nudge(Editor):
        layers = frozenset({3})
        step = 0.0

        def edit_rows(self, rows: AttentionRows) -> torch.Tensor:
            edited = rows.pattern.clone()
            edited[0, 2, 7, 4] += self.step
            return edited

    values = {}
    nudge = Nudge()
    for step in (0.02, -0.02):
        nudge.step = step
        with torch.no_grad(), interp.watch(model, nudge):
            values[step] = metric(model(TEXT))
    slope = (values[0.02] - values[-0.02]) / 0.04
    gradient = interp.capture_patterns(model, TEXT, metric=metric)
    torch.testing.assert_close(slope, gradient.gradients[3][0, 2, 7, 4], atol=1e-3, rtol=0.05)


def test_chosen_heads_and_query_rows(model: interp.Model) -> None:
    whole = interp.capture_patterns(model, TEXT)
    part = interp.capture_patterns(model, TEXT, heads=["L1H3", "2.1"], queries=[-1, 2])
    assert part.patterns[1].shape[1] == 1
    assert part.query_positions.tolist() == [2, 15]
    torch.testing.assert_close(part["1.3"], whole["L1H3"][:, [2, 15]], atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="L0H0 was not captured"):
        part["L0H0"]


def test_head_outputs_and_the_identities_of_attention(model: interp.Model) -> None:
    capture = interp.capture_patterns(model, TEXT, z=True, queries_and_keys=True)
    query, key = capture.queries_and_keys[2]
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / model.d_head**0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(pattern, capture.patterns[2], atol=1e-6, rtol=0)
    assert capture.z[2].shape == (1, 16, 8, 8)
    bridge_z = model.bridge.run_with_cache(capture.tokens, names_filter="blocks.2.attn.hook_z")[1]["z", 2]
    torch.testing.assert_close(capture.z[2], bridge_z.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [9]}, r"Layers \[9\] cannot be captured"),
        ({"heads": ["L1H9"]}, "There is no head L1H9"),
        ({"layers": [1], "heads": ["L1H1"]}, "Both layers and heads"),
        ({"queries": [99]}, r"Query positions \[99\] lie outside the 16 positions"),
        ({"max_bytes": 10_000}, "Choose fewer layers=, heads= or queries=, .* or use interp.scan"),
        ({"kind": "vision"}, "has no vision attention"),
        ({"metric": lambda logits: logits}, "expected one number"),
    ],
)
def test_refusals_name_the_way_out(model: interp.Model, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        interp.capture_patterns(model, TEXT, **arguments)
