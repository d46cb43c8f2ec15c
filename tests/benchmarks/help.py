"""How long `interp --help` takes, beside the interpreter itself and beside an import of torch, which it does without.

    python -m tests.benchmarks help [--repeats N]

Every command runs in a process of its own, and they take turns; the first turn warms up and does not count. Times are
those of the clock and, behind them, of the CPU, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.needle import Seconds
from tests.benchmarks.readers import write_lines

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "interp --help": ("-m", "interp.cli", "--help"),
    "interp scan --help": ("-m", "interp.cli", "scan", "--help"),
    "python -c 'import torch'": ("-c", "import torch"),
}


def seconds_of(arguments: tuple[str, ...]) -> Seconds:
    """One run of Python with these arguments."""
    root = Path(__file__).resolve().parents[2]
    clock, cpu = time.perf_counter(), _cpu_of_children()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, cwd=root)
    return Seconds(time.perf_counter() - clock, _cpu_of_children() - cpu)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(repeats: int) -> Iterator[str]:
    """Lines of a Markdown table: medians, and as multiples of the interpreter alone."""
    turns = [{name: seconds_of(arguments) for name, arguments in COMMANDS.items()} for _ in range(repeats + 1)]
    middle = {
        name: Seconds(*(statistics.median(times) for times in zip(*(turn[name] for turn in turns[1:]), strict=True)))
        for name in COMMANDS
    }
    plain, *_ = middle.values()
    yield "| command | time | of the interpreter alone |"
    yield "|---|---|---|"
    for name, found in middle.items():
        yield f"| `{name}` | {found} | {found.clock / plain.clock:.1f}x (CPU {found.cpu / plain.cpu:.1f}x) |"


def main(arguments: list[str]) -> None:
    """Entry point of `make bench`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    write_lines(table(parser.parse_args(arguments).repeats))
