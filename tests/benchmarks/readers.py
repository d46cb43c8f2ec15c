"""Watching every head against running the model: five standard readers on a random GPT-2-small-sized model.

    python -m tests.benchmarks readers [--threads N] [--lengths 256 512 ...] [--repeats N]
    python -m tests.benchmarks readers --profile 4096 [--threads N] [--repeats N]

Every length is timed in one process with the configurations taking turns; each peak of memory is measured in a process
of its own, as the resident set above the model at rest. The profile says where the time goes at one length: rows that
nobody uses, every statistic alone, all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp.analyzers import resolve
from interp.analyzers.analyzer import Shape
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.model.bridge import bridge_view
from interp.model.probe import probe
from tests.benchmarks.peers import PATTERN_NAMES, statistics_of_map

CONFIGURATIONS = ("sdpa", "interp", "transformer-lens", "output-attentions")
# Peers hold every map at once: L x H x T x T x 4 bytes, twice over at their peak.
PEER_LIMIT_BYTES = 6 * 2**30


def build(configuration: str) -> tuple[GPT2LMHeadModel, Callable[[Tensor], object]]:
    """The model and one run of a configuration on a token tensor ``[1, T]``."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(n_positions=4096, attn_implementation="sdpa")).eval()
    if configuration == "sdpa":
        return hf, lambda tokens: hf(tokens, logits_to_keep=1)
    if configuration == "interp":
        return hf, watched(hf, lambda: statistics_readers(PATTERN_NAMES))
    if configuration == "output-attentions":
        hf.set_attn_implementation("eager")

        def run_eager(tokens: Tensor) -> None:
            maps = hf(tokens, output_attentions=True, logits_to_keep=1).attentions
            [statistics_of_map(pattern, tokens) for pattern in maps]

        return hf, run_eager
    bridge = bridge_view(hf, None, "gpt2")

    def run_bridge(tokens: Tensor) -> None:
        _, cache = bridge.run_with_cache(
            tokens, names_filter=lambda name: name.endswith("attn.hook_pattern"), stop_at_layer=12
        )
        [statistics_of_map(cache["pattern", layer], tokens) for layer in range(12)]

    return hf, run_bridge


def watched(hf: GPT2LMHeadModel, readers: Callable[[], list[Reader]]) -> Callable[[Tensor], object]:
    """One run of the model with fresh readers."""
    site_map, _ = probe(hf)

    def run(tokens: Tensor) -> None:
        with watch(site_map, *readers()):
            hf(tokens, logits_to_keep=1)

    return run


def statistics_readers(names: Sequence[str]) -> list[Reader]:
    """Readers of these analyzers."""
    shape = Shape(n_layers=12, n_heads=12, kind="self")
    return [analyzer.reader(shape) for analyzer in resolve(names)]


class NoStatistic(Reader):
    """Has every row computed and uses none."""

    def read_rows(self, rows: AttentionRows) -> None:
        pass


def tokens_of(length: int) -> Tensor:
    """Random tokens in which every second half repeats the first, so that duplicate and induction have targets."""
    half = torch.randint(0, 50257, (1, length // 2), generator=torch.Generator().manual_seed(length))
    return torch.cat([half, half], 1)


def fits(configuration: str, length: int) -> bool:
    """Whether a configuration's maps fit beside everything else on a 24 GiB machine."""
    return configuration in ("sdpa", "interp") or 12 * 12 * length**2 * 4 <= PEER_LIMIT_BYTES


def times(length: int, repeats: int, threads: int) -> dict[str, list[float]]:
    """Seconds per run; configurations take turns so that noise hits all of them."""
    torch.set_num_threads(threads)
    return taking_turns({name: build(name)[1] for name in CONFIGURATIONS if fits(name, length)}, length, repeats)


def taking_turns(runs: dict[str, Callable[[Tensor], object]], length: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every run on the same tokens, turn by turn; the first turn warms up and does not count."""
    tokens = tokens_of(length)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run(tokens)
                if turn > 0:
                    seconds[name].append(time.perf_counter() - start)
                gc.collect()
    return seconds


def profile(length: int, repeats: int, threads: int) -> Iterator[str]:
    """Lines of a Markdown table: where the time of a watched run goes."""
    torch.set_num_threads(threads)
    hf, sdpa = build("sdpa")
    readers: dict[str, Callable[[], list[Reader]]] = {"rows, no statistic": lambda: [NoStatistic()]}
    readers |= {name: partial(statistics_readers, [name]) for name in PATTERN_NAMES}
    readers[f"all {len(PATTERN_NAMES)}"] = partial(statistics_readers, PATTERN_NAMES)
    runs = {"SDPA forward": sdpa} | {name: watched(hf, made) for name, made in readers.items()}
    middle = {name: statistics.median(found) for name, found in taking_turns(runs, length, repeats).items()}
    yield f"| T = {length} | seconds | of the SDPA forward |"
    yield "|---|---|---|"
    for name, seconds in middle.items():
        yield f"| {name} | {seconds:.2f} | {seconds / middle['SDPA forward']:.2f}x |"


def peak_bytes(configuration: str, length: int, threads: int) -> int:
    """Peak resident memory of one run above the model at rest; call it in a fresh process."""
    torch.set_num_threads(threads)
    _, run = build(configuration)
    return peak_of(run, tokens_of(64), tokens_of(length))


def peak_of(run: Callable[[Any], object], few: Any, many: Any) -> int:
    """Peak resident memory of a run on many tokens or prompts, above that after a run on few."""
    with torch.inference_mode():
        run(few)
        gc.collect()
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of building the model
        run(many)
    return max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def child(*arguments: str, module: str = "tests.benchmarks.readers") -> Any:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    root = Path(__file__).resolve().parents[2]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root).stdout)


def floor_gflop(length: int) -> float:
    """Arithmetic of the forward pass without the unembedding: two operations per weight and token, causal half maps."""
    weights = 12 * (4 * 768**2 + 8 * 768**2)
    return (2 * weights * length + 12 * 2 * 2 * 768 * length * (length + 1) / 2) / 1e9


def table(lengths: list[int], repeats: int, threads: int) -> Iterator[str]:
    """The results as lines of a Markdown table, each as soon as it is measured."""
    yield (
        "| T | floor | SDPA forward | interp, 6 statistics | TransformerLens | output_attentions "
        "| extra memory interp | TransformerLens | output_attentions |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for length in lengths:
        seconds: dict[str, list[float]] = child("--times", str(length), str(repeats), str(threads))
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        peaks: dict[str, int] = {name: child("--peak", name, str(length), str(threads)) for name in middle}
        maps = f"> {12 * 12 * length**2 * 4 / 2**30:.1f} GiB"
        ratios = [f"{middle[n] / middle['sdpa']:.2f}x" if n in middle else "-" for n in CONFIGURATIONS[1:]]
        extra = [f"{(peaks[n] - peaks['sdpa']) / 2**20:,.0f} MiB" if n in peaks else maps for n in CONFIGURATIONS[1:]]
        cells = [str(length), f"{floor_gflop(length):,.0f} GFLOP", f"{middle['sdpa']:.2f} s", *ratios, *extra]
        yield f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Entry point of `make bench` and of the child processes."""
    if arguments and arguments[0] == "--times":
        length, repeats, threads = map(int, arguments[1:])
        sys.stdout.write(json.dumps(times(length, repeats, threads)))
        return
    if arguments and arguments[0] == "--peak":
        sys.stdout.write(json.dumps(peak_bytes(arguments[1], int(arguments[2]), int(arguments[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--profile", type=int, metavar="LENGTH", help="print the profile at this length instead")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    how = (options.repeats, options.threads)
    write_lines(table(options.lengths, *how) if options.profile is None else profile(options.profile, *how))


def write_lines(lines: Iterable[str]) -> None:
    """Each line as soon as it is there."""
    for line in lines:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
