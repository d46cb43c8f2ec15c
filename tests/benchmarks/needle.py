"""Teacher-forced needle scoring against the official decode loop, on a random 6 x 8 model with planted copying heads.

    python -m tests.benchmarks needle [--length N] [--alone DEPTHS] [--shared NEEDLES ...] [--threads N]

Both get the same prompts, first with one needle at each of some depths, then with many needles in one haystack. The
peer is the loop of nightdessert/Retrieval_Head: for every instance a prefill on the fused kernel, then 50 tokens with
explicit attention, where Python asks every head of every layer for its largest key.

Times are those of the clock and, behind them, of the CPU, which other processes disturb less. Each floor is arithmetic
alone, at the speed of one large matrix product measured beside it; for decoding, the bytes of weights and cache at the
speed of a matrix-vector product. Each peak of memory is measured in a process of its own on two of the prompts, above
the model at rest.

All but the planted heads are random. What they copy by chance differs from prompt to prompt, so rankings of different
prompts agree in the planted heads only; those of both sides on the same prompts agree far beyond these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from circuits.retrieval import NeedlePrompt, needle_heads, random_needle_prompts
from circuits.retrieval.prefix import shared_order
from interp.model.model import Model
from interp.results import HeadScores
from interp.statistics import rank_correlation
from tests.benchmarks.planted import COPYING_HEADS, D_HEAD, N_HEADS, N_LAYERS, planted_model
from tests.benchmarks.readers import child, peak_of, write_lines

DECODED = 50
CUE, ANSWER = 8, 20
D_MODEL = N_HEADS * D_HEAD
N_WEIGHTS = N_LAYERS * 12 * D_MODEL**2
MODULE = "tests.benchmarks.needle"


def official_scores(hf: GPT2LMHeadModel, prompts: list[NeedlePrompt]) -> Tensor:
    """Mean scores ``[layer, head]`` by the loop of nightdessert/Retrieval_Head (every instance counted)."""
    totals = []
    for prompt in prompts:
        ids = prompt.tokens[: prompt.answer_start]
        start, end = prompt.needle
        score = torch.zeros(N_LAYERS, N_HEADS)
        hf.set_attn_implementation("sdpa")
        output = hf(ids[None, :-1], use_cache=True, logits_to_keep=1)
        hf.set_attn_implementation("eager")
        token = ids[-1]
        for _ in range(DECODED):
            output = hf(
                token.view(1, 1), past_key_values=output.past_key_values, use_cache=True, output_attentions=True
            )
            token = output.logits[0, -1].argmax()
            for layer in range(N_LAYERS):
                for head in range(N_HEADS):
                    _, places = output.attentions[layer][0, head, -1].topk(1)
                    for place in places:
                        if start <= place < end and token.item() == prompt.tokens[place].item():
                            score[layer, head] += 1 / (end - start)
        totals.append(score)
    hf.set_attn_implementation("sdpa")
    return torch.stack(totals).mean(0)


def prompts_of(model: Model, length: int, depths: int, n_needles: int) -> list[NeedlePrompt]:
    """One needle at each of so many depths; or, with several needles, one haystack with each at its own depth."""
    places = [index / max(1, depths - 1) for index in range(depths)]
    prompts = random_needle_prompts(
        model, lengths=[length], depths=places, n_needles=n_needles, cue=CUE, answer=ANSWER, shared=n_needles > 1
    )
    return prompts[: max(depths, n_needles)]


class Seconds(NamedTuple):
    """Time of a run by the clock and of the CPU."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.2f} s (CPU {self.cpu:.2f})"


def timed(run: Callable[[], object]) -> Seconds:
    """How long one run takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - clock, time.process_time() - cpu)


class Speed(NamedTuple):
    """What this machine can do: operations per second in a large product, bytes per second read by a narrow one."""

    operations: float
    bytes: float


def speed() -> Speed:
    """Medians of a few turns, by CPU time."""
    tokens, weights, wide = torch.randn(2000, D_MODEL), torch.randn(D_MODEL, 4 * D_MODEL), torch.randn(4096, 4096)
    product = statistics.median(timed(lambda: tokens @ weights).cpu for _ in range(20))
    narrow = statistics.median(timed(lambda: wide @ wide[0]).cpu for _ in range(20))
    return Speed(2 * tokens.numel() * weights.shape[1] / product, wide.numel() * 4 / narrow)


def operations(start: int, end: int) -> int:
    """Arithmetic of running positions ``start..end`` behind a cache: two per weight, and causal attention."""
    pairs = (end * (end + 1) - start * (start + 1)) // 2
    return 2 * N_WEIGHTS * (end - start) + 4 * D_MODEL * N_LAYERS * pairs


def floor_of_interp(prompts: list[NeedlePrompt], machine: Speed) -> float:
    """Seconds: every position that differs from the prompt before it, the answer's always."""
    total, before = 0, torch.zeros(0, dtype=torch.long)
    for index in shared_order([prompt.tokens for prompt in prompts]):
        tokens = prompts[index].tokens[:-1]
        size = min(len(before), len(tokens))
        same = int((before[:size] == tokens[:size]).long().cumprod(0).sum())
        total += operations(min(same, prompts[index].answer_start - 1), len(tokens))
        before = tokens
    return total / machine.operations


def floor_of_official(prompts: list[NeedlePrompt], machine: Speed) -> float:
    """Seconds: a prefill for every prompt, then weights and cache read once per token."""
    total = 0.0
    for prompt in prompts:
        cache = sum(2 * N_LAYERS * D_MODEL * 4 * (prompt.answer_start + step) for step in range(DECODED))
        total += operations(0, prompt.answer_start - 1) / machine.operations
        total += (DECODED * N_WEIGHTS * 4 + cache) / machine.bytes
    return total


class Row(NamedTuple):
    """One arrangement of needles: what both sides found, and the line that says so."""

    ours: HeadScores
    theirs: Tensor
    line: str


def measure(model: Model, length: int, depths: int, n_needles: int, threads: int) -> Row:
    """Time, floor and peak memory of both sides, and whether they agree."""
    prompts = prompts_of(model, length, depths, n_needles)
    found: dict[str, HeadScores | Tensor] = {}
    own = timed(lambda: found.update(ours=needle_heads(model, prompts, progress=False)))
    with torch.inference_mode():
        peer = timed(lambda: found.update(theirs=official_scores(model.hf, prompts)))
    ours, theirs = found["ours"], found["theirs"]
    assert isinstance(ours, HeadScores) and isinstance(theirs, Tensor)
    machine = speed()
    floors = floor_of_interp(prompts, machine), floor_of_official(prompts, machine)
    peaks = [
        child("--peak", side, str(length), str(depths), str(n_needles), str(threads), module=MODULE)
        for side in ("interp", "official")
    ]
    by_argmax, by_mass = (rank_correlation(values, theirs) for values in (ours.scores, ours.columns["soft"]))
    cells = (
        "one" if n_needles == 1 else str(n_needles), len(prompts), own, peer,
        f"**{peer.clock / own.clock:.1f}x** (CPU {peer.cpu / own.cpu:.1f}x)",
        f"{floors[0]:.2f} s, {floors[1]:.2f} s: {floors[1] / floors[0]:.1f}x",
        "yes" if top_of(theirs) == top_of(ours.scores) else "no", f"{by_argmax:.3f}, {by_mass:.3f}",
        ", ".join(f"{peak / 2**20:,.0f} MiB" for peak in peaks),
    )  # fmt: skip
    return Row(ours, theirs, f"| {' | '.join(map(str, cells))} |")


def top_of(scores: Tensor) -> set[int]:
    """As many of the highest heads as were planted."""
    return set(scores.flatten().topk(len(COPYING_HEADS)).indices.tolist())


def table(model: Model, length: int, alone: int, shared: list[int], threads: int) -> Iterator[str]:
    """The results as lines of a Markdown table, each as soon as it is measured, and how far the protocols agree."""
    yield (
        f"| needles in a haystack of {length} tokens | instances | interp | official loop | factor "
        f"| floors: interp, official | same top {len(COPYING_HEADS)} heads | rank correlation, of the soft score "
        "| extra memory: interp, official |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    needle_heads(model, prompts_of(model, 100, 1, 1), progress=False)
    rows = [measure(model, length, alone, 1, threads)]
    yield rows[0].line
    for n_needles in shared:
        rows.append(measure(model, length, n_needles, n_needles, threads))
        yield rows[-1].line
    first = rows[0]
    for n_needles, row in zip(shared, rows[1:], strict=True):
        soft = rank_correlation(row.ours.columns["soft"], first.ours.columns["soft"])
        ours, theirs = (rank_correlation(scores, first.theirs) for scores in (row.ours.scores, row.theirs))
        same = "yes" if top_of(row.ours.scores) == top_of(first.theirs) else "no"
        yield (
            f"\n{n_needles} needles in one haystack against one: rank correlation of the soft scores {soft:.3f}, of "
            f"our scores with the official ones of single needles {ours:.3f}, of the official scores of both "
            f"{theirs:.3f}; same top heads: {same}"
        )


def peak_bytes(side: str, length: int, depths: int, n_needles: int) -> int:
    """Peak resident memory of one side above the model at rest; call it in a fresh process."""
    model = loaded()

    def run(prompts: list[NeedlePrompt]) -> None:
        if side == "interp":
            needle_heads(model, prompts, progress=False)
        else:
            official_scores(model.hf, prompts)

    return peak_of(run, prompts_of(model, 100, 1, 1), prompts_of(model, length, depths, n_needles)[:2])


def loaded() -> Model:
    """The model; its tokenizer is read at once, so the directory may go."""
    with tempfile.TemporaryDirectory() as directory:
        return planted_model(Path(directory))


def main(arguments: list[str]) -> None:
    """Entry point of `make bench` and of the child processes."""
    if arguments and arguments[0] == "--peak":
        length, depths, n_needles, threads = map(int, arguments[2:])
        torch.set_num_threads(threads)
        sys.stdout.write(json.dumps(peak_bytes(arguments[1], length, depths, n_needles)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=2000)
    parser.add_argument("--alone", type=int, default=10, help="depths of the needle that stands alone")
    parser.add_argument("--shared", type=int, nargs="*", default=[10, 20, 30], help="needles in one haystack")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    write_lines(table(loaded(), options.length, options.alone, options.shared, options.threads))


if __name__ == "__main__":
    main(sys.argv[1:])
