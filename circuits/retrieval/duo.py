"""DuoAttention: how much of its full attention each head needs, by optimised gates or by an expansion around 1."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import accepts, check_language_model
from circuits.retrieval.needles import NeedlePrompt
from interp.attention.participants import Participant
from interp.attention.session import watch
from interp.errors import AnalysisWarning, InputError, ModelNotSupported
from interp.interventions.blend_heads import BlendHeads
from interp.interventions.capture_heads import CaptureHeads
from interp.interventions.streaming_heads import StreamingHeads
from interp.model.model import Model
from interp.results import HeadScores

SINK, RECENT = 128, 256
STEPS, LEARNING_RATE, PENALTY = 2000, 0.02, 0.05
PROBES = 32


def duo_gates(
    model: Model,
    prompts: Sequence[NeedlePrompt],
    *,
    sink: int = SINK,
    recent: int = RECENT,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    penalty: float = PENALTY,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadScores:
    """Learn one gate per KV head that says how much of full attention the head needs.

    *Formula*: every head gives ``gate * full + (1 - gate) * streaming``; the gates minimise the mean squared difference
    of the final hidden states (behind the last norm) from those of the untouched model, over all tokens behind the
    haystack, plus ``penalty * mean |gate|``. AdamW, batch 1, gates from 1 and kept in [0, 1], the rate warmed up over
    the first fifth and lowered over the last. *Range* [0, 1]; 0, which is `chance`, for a head whose streaming
    attention does as well.
    *Source*: Xiao et al. 2024, arXiv 2410.10819, with the values of the released gates. As in the official code, and
    unlike the paper's formula, ``full`` is the head's output in the untouched model, so gradients run through the
    streaming part only.

    Arguments:
        prompts: any needle prompts; one is drawn per step. The official ones hide ten passkeys of 32 words in a
            haystack (``shared=True``) and ask for all of them in turn.
        sink, recent: keys of a streaming head; deployment uses 64 and 256.
        steps, learning_rate: of the optimisation.
        penalty: the paper's lambda, ``reg_weight`` in its code.
        seed: of the order of prompts.

    Returns:
        `scores`: the gate of each query head's KV head. `notes`: query heads per gate.

    Raises:
        InputError: no prompt is longer than ``sink + recent``, so that streaming would change nothing; no step, a rate
            of 0, or a negative penalty.
        ModelNotSupported: attention that `StreamingHeads` refuses, or no output embedding.
    """
    if steps < 1 or learning_rate <= 0 or penalty < 0:
        raise InputError(
            f"steps={steps}, learning_rate={learning_rate}, penalty={penalty}: expected at least 1 step, a rate above "
            "0 and no negative penalty."
        )
    _check(model, prompts, sink, recent)
    order = _order(len(prompts), steps, seed)
    bar = tqdm(total=steps, desc="gates", unit="step", disable=None if progress is None else not progress)

    def distillation(gates: Float[Tensor, "layer kv_head"], step: int) -> Tensor:
        bar.update()
        full, mixed = _hidden_states(model, prompts[order[step]], gates, sink, recent)
        return (mixed - full).square().mean()

    with bar, _frozen(model):
        gates = optimise_gates(
            distillation,
            (model.n_layers, model.n_kv_heads),
            steps=steps,
            learning_rate=learning_rate,
            penalty=penalty,
        )
    parameters = {"sink": sink, "recent": recent, "steps": steps, "learning_rate": learning_rate, "penalty": penalty}
    return _result(model, prompts, "duo gates", "gate", gates, seed, parameters, {}, (0.0, 1.0))


def duo_surrogate(
    model: Model,
    prompts: Sequence[NeedlePrompt],
    *,
    sink: int = SINK,
    recent: int = RECENT,
    penalty: float = PENALTY,
    probes: int = PROBES,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadScores:
    """What streaming attention in one head alone would do to the final hidden states, without optimising anything.

    *Formula*: ``D = mean over tokens and d_model of (J (full - streaming))^2`` with ``J`` the derivative of the final
    hidden states with respect to the head's output, all other heads giving what they give in the untouched model, as
    `duo_gates` has it: what a head does through the attention of later heads is not in it. Around gates of 1 the
    distillation loss of `duo_gates` is ``sum_h (1 - gate_h)^2 D_h`` plus products of different heads; without these its
    optimum with penalty is ``gate = clip(1 - penalty / (2 N D), 0, 1)`` for N gates. ``D`` is found by random probes:
    for ``v ~ N(0, I)`` the squared derivative of ``v . hidden`` with respect to a gate has the mean ``D`` times the
    number of hidden values, for all heads in one backward pass (relative error of one prompt's ``D``:
    ``sqrt(2 / probes)``).
    *Range* 0 (which is `chance`) and up, in squared hidden units. Ours; the official code only optimises.

    Arguments:
        probes: random directions per prompt.
        seed: of the probes.

    Returns:
        `scores`: D of each query head's KV head. `columns`: ``gate``, the optimum above.

    Raises:
        InputError, ModelNotSupported: as `duo_gates`.
    """
    _check(model, prompts, sink, recent)
    if probes < 1 or penalty < 0:
        raise InputError(f"probes={probes} and penalty={penalty}: expected at least 1 probe and no negative penalty.")
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(model.n_layers, model.n_kv_heads, dtype=torch.float64)
    hidden_bar = None if progress is None else not progress
    with _frozen(model):
        for prompt in tqdm(prompts, desc="expanding", unit="prompt", disable=hidden_bar):
            gates = torch.ones(model.n_layers, model.n_kv_heads, requires_grad=True)
            _, mixed = _hidden_states(model, prompt, gates, sink, recent)
            for probe in range(probes):
                direction = torch.randn(mixed.shape, generator=generator).to(mixed)
                (slope,) = torch.autograd.grad(mixed, gates, grad_outputs=direction, retain_graph=probe + 1 < probes)
                total += slope.double().square() / (mixed.numel() * probes * len(prompts))
    gate = closed_form_gates(total, penalty=penalty)
    parameters = {"sink": sink, "recent": recent, "penalty": penalty, "probes": probes}
    unit = "mean squared change of hidden states"
    return _result(model, prompts, "duo surrogate", unit, total, seed, parameters, {"gate": gate}, (0.0, None))


def optimise_gates(
    distillation: Callable[[Float[Tensor, "layer kv_head"], int], Tensor],
    shape: tuple[int, int],
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    penalty: float = PENALTY,
) -> Float[Tensor, "layer kv_head"]:
    """Gates in [0, 1] that minimise ``distillation(gates, step) + penalty * mean |gates|``, starting from 1."""
    gates = torch.ones(shape, requires_grad=True)
    optimiser = torch.optim.AdamW([gates], lr=learning_rate, weight_decay=0.0)
    for step in range(steps):
        with torch.no_grad():
            gates.clamp_(0, 1)
        optimiser.param_groups[0]["lr"] = learning_rate * learning_rate_factor(step, steps)
        loss = distillation(gates, step) + penalty * gates.abs().mean()
        (gates.grad,) = torch.autograd.grad(loss, gates)
        optimiser.step()
    return gates.detach().clamp(0, 1)


def learning_rate_factor(step: int, steps: int = STEPS) -> float:
    """Warm-up over the first fifth of the steps, decay over the last fifth, never below 0.1.

    Example:
        >>> [learning_rate_factor(step) for step in (0, 40, 399, 1600, 1800, 1999)]
        [0.1, 0.1025, 1.0, 1.0, 0.5, 0.1]
    """
    ramp = max(1, steps // 5)
    return min(1.0, max((step + 1) / ramp, 0.1), max((steps - step) / ramp, 0.1))


def closed_form_gates(
    damage: Float[Tensor, "layer kv_head"], *, penalty: float = PENALTY
) -> Float[Tensor, "layer kv_head"]:
    """``clip(1 - penalty / (2 N D), 0, 1)``, where heads write to orthogonal directions; above 0.5 iff D > penalty / N.

    Example:
        >>> closed_form_gates(torch.tensor([[0.0, 0.0125, 0.05, 1.0]])).tolist()
        [[0.0, 0.5, 0.875, 0.9937499761581421]]
    """
    return (1 - penalty / (2 * damage.numel() * damage)).clamp(0, 1)


def _hidden_states(
    model: Model, prompt: NeedlePrompt, gates: Float[Tensor, "layer kv_head"], sink: int, recent: int
) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]]:
    """Final hidden states behind the haystack: of the untouched model, and of the model with gated heads."""
    heads = CaptureHeads()
    with torch.no_grad():
        full = _final_hidden(model, prompt, heads)
    every = torch.ones(model.n_layers, model.n_heads, dtype=torch.bool)
    every[[layer for layer in range(model.n_layers) if layer not in heads.z]] = False
    shares = gates.repeat_interleave(model.n_heads // model.n_kv_heads, 1)
    streaming = StreamingHeads(every, sink=sink, recent=recent)
    with torch.enable_grad():
        return full, _final_hidden(model, prompt, streaming, BlendHeads(heads.z, shares))


def _final_hidden(model: Model, prompt: NeedlePrompt, *participants: Participant) -> Float[Tensor, "token d_model"]:
    """What the output embedding gets at the tokens behind the haystack, in float32."""
    seen: list[Tensor] = []
    n_kept = len(prompt.tokens) - prompt.question_start
    options = {"logits_to_keep": n_kept} if accepts(model, "logits_to_keep") else {}
    embedding: Any = model.hf.get_output_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        with watch(model, *participants):
            model.hf(input_ids=prompt.tokens[None].to(model.device), use_cache=False, **options)
    finally:
        handle.remove()
    return seen[0][0, -n_kept:].float()


@contextmanager
def _frozen(model: Model) -> Generator[None]:
    """No gradients for the parameters, so that the graph holds what the gates need and no more."""
    trained = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _check(model: Model, prompts: Sequence[NeedlePrompt], sink: int, recent: int) -> None:
    check_language_model(model)
    longest = max((len(prompt.tokens) for prompt in prompts), default=0)
    if longest <= sink + recent:
        raise InputError(
            f"The longest prompt has {longest} tokens, no more than sink + recent = {sink + recent}, so streaming "
            "heads see everything and only the penalty would act. Give longer prompts, or a smaller sink and recent."
        )
    short = sum(len(prompt.tokens) <= sink + recent for prompt in prompts)
    if short:
        warnings.warn(_short(short, prompts, sink + recent), AnalysisWarning, stacklevel=3)
    if model.hf.get_output_embeddings() is None:
        raise ModelNotSupported(f"{model.name} has no output embedding, so its final hidden states cannot be found.")
    shapes = {(site.n_heads, site.n_kv_heads) for site in model.main_sites}
    if len(shapes) > 1:
        raise ModelNotSupported(f"The layers of {model.name} differ in heads ({sorted(shapes)}); gates need one shape.")


def _short(short: int, prompts: Sequence[NeedlePrompt], window: int) -> str:
    return (
        f"{short} of {len(prompts)} prompts have at most sink + recent = {window} tokens and say nothing about heads."
    )


def _order(n_prompts: int, steps: int, seed: int) -> list[int]:
    """Every prompt equally often, in a new random order each time round."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-steps // n_prompts)
    return torch.cat([torch.randperm(n_prompts, generator=generator) for _ in range(rounds)]).tolist()


def _result(
    model: Model,
    prompts: Sequence[NeedlePrompt],
    name: str,
    unit: str,
    per_group: Float[Tensor, "layer kv_head"],
    seed: int,
    parameters: dict[str, Any],
    columns: dict[str, Float[Tensor, "layer kv_head"]],
    value_range: tuple[float, float | None],
) -> HeadScores:
    group = model.n_heads // model.n_kv_heads
    absent = [layer for layer in range(model.n_layers) if all(site.layer != layer for site in model.main_sites)]

    def per_head(values: Tensor) -> Tensor:
        values = values.repeat_interleave(group, 1)
        values[absent] = torch.nan
        return values

    window = parameters["sink"] + parameters["recent"]
    short = sum(len(prompt.tokens) <= window for prompt in prompts)
    return HeadScores(
        name=name,
        unit=unit,
        scores=per_head(per_group),
        value_range=value_range,
        chance=0.0,
        columns={column: per_head(values) for column, values in columns.items()},
        higher_is="in more need of full attention",
        provenance=model.provenance(
            [model.batch(prompt.tokens) for prompt in prompts],
            seed=seed,
            parameters=parameters,
            warnings=[_short(short, prompts, window)] if short else [],
        ),
        notes={"query heads per gate": group, "prompts": len(prompts)},
    )
