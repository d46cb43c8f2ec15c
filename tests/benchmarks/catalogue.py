"""The head catalogue against the peers: one scan for everything, and a context that no map would fit.

    python -m tests.benchmarks catalogue [--threads N] [--lengths 256 512 ...] [--repeats N] [--long 4096 ... 32768]
    python -m tests.benchmarks catalogue --lengths --long 32768 [--threads N]

The second line leaves the first table out: the 32k-token scan alone, with its peak memory.

First table: a random GPT-2-small-sized model, one text. One `interp.scan` with the six statistics that the peers
compute, and one with every registered analyzer of text, against the sum of TransformerLens' three `detect_head` calls
and against an `output_attentions=True` pass with the six statistics. Configurations take turns in one process.

Second table: one scan of a small Llama with the six analyzers at growing length, each in a process of its own: seconds
and peak memory above a short scan, beside what full maps would need.
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
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import interp
from interp.analyzers import known_names
from tests.benchmarks.peers import PATTERN_NAMES
from tests.benchmarks.readers import build, child, fits, peak_of, taking_turns, tokens_of, write_lines

MODULE = "tests.benchmarks.catalogue"
CONFIGURATIONS = ("sdpa", "six analyzers", "all analyzers", "detect_head", "output-attentions")
DETECTED = ("previous_token_head", "duplicate_token_head", "induction_head")
# The words of the tokenizer have no punctuation, and there are no images.
ALL_NAMES = [name for name in known_names("self") if name not in ("delimiter-mass", "visual-sinks")]
VOCABULARY = 50257
LONG_LAYERS, LONG_HEADS, LONG_CONTEXT = 4, 8, 32768


def words_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """One word per token id: `detect_head` takes text."""
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w0").save_pretrained(directory)
    return PreTrainedTokenizerFast.from_pretrained(directory)


def runs() -> dict[str, Callable[[Tensor], Any]]:
    """Every configuration as a function of tokens ``[1, T]``; all have the same weights."""
    from transformer_lens.head_detector import detect_head

    hf, forward = build("sdpa")
    with tempfile.TemporaryDirectory() as directory:
        model = interp.load(hf, words_tokenizer(Path(directory)))
        bridge = model.bridge

    def detect(tokens: Tensor) -> dict[str, Tensor]:
        text = " ".join(f"w{index}" for index in tokens[0].tolist())
        # The bridge puts a BOS in front; without the first word the length is the same.
        return {name: detect_head(bridge, text.partition(" ")[2], name) for name in DETECTED}

    def scan(names: list[str]) -> Callable[[Tensor], Any]:
        return lambda tokens: interp.scan(model, tokens, names, progress=False)

    return {
        "sdpa": forward,
        "six analyzers": scan(list(PATTERN_NAMES)),
        "all analyzers": scan(ALL_NAMES),
        "detect_head": detect,
        "output-attentions": build("output-attentions")[1],
    }


def disagreement(length: int = 64) -> float:
    """Largest difference between a scan and `detect_head`, which divides the previous-token mass by T, not T - 1."""
    found, tokens = runs(), tokens_of(length)
    tokens[0, 0] = 0  # the BOS of the bridge
    with torch.inference_mode():
        peer = found["detect_head"](tokens)["previous_token_head"]
        ours = found["six analyzers"](tokens)["previous-token"].scores
    return float((ours * (length - 1) / length - peer).abs().max())


def times(length: int, repeats: int, threads: int) -> dict[str, list[float]]:
    """Seconds of every configuration whose maps fit."""
    torch.set_num_threads(threads)
    own = ("sdpa", "six analyzers", "all analyzers")
    chosen = {name: run for name, run in runs().items() if name in own or fits(name, length)}
    return taking_turns(chosen, length, repeats)


def long_scan(length: int, threads: int) -> tuple[float, int]:
    """Seconds and peak bytes of a scan of a small Llama; call it in a fresh process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LONG_LAYERS,
        num_attention_heads=LONG_HEADS,
        num_key_value_heads=4,
        max_position_embeddings=LONG_CONTEXT,
    )
    model = interp.load(LlamaForCausalLM(config))
    seconds: list[float] = []

    def run(tokens: Tensor) -> None:
        began = time.perf_counter()
        interp.scan(model, tokens, list(PATTERN_NAMES), progress=False)
        seconds.append(time.perf_counter() - began)

    peak = peak_of(run, tokens_of(64), tokens_of(length))
    return seconds[-1], peak


def speed_table(lengths: list[int], repeats: int, threads: int) -> Iterator[str]:
    """Lines of a Markdown table, each as soon as it is measured: times as multiples of the SDPA forward pass."""
    yield f"previous-token scores differ from detect_head's by at most {disagreement():.1e}"
    yield ""
    yield f"| T | SDPA forward | scan, 6 | scan, all {len(ALL_NAMES)} | 3 x detect_head | output_attentions, 6 |"
    yield "|---|---|---|---|---|---|"
    for length in lengths:
        seconds: dict[str, list[float]] = child("--times", str(length), str(repeats), str(threads), module=MODULE)
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        ratios = [f"{middle[n] / middle['sdpa']:.2f}x" if n in middle else "maps too large" for n in CONFIGURATIONS[1:]]
        cells = [str(length), f"{middle['sdpa']:.2f} s", *ratios]
        yield f"| {' | '.join(cells)} |"


def memory_table(lengths: list[int], threads: int) -> Iterator[str]:
    """Lines of a Markdown table: time and peak memory of long scans."""
    yield f"| T | scan, 6 ({LONG_LAYERS} layers x {LONG_HEADS} heads) | peak memory | per 1,000 tokens | full maps |"
    yield "|---|---|---|---|---|"
    for length in lengths:
        seconds, peak = child("--long-scan", str(length), str(threads), module=MODULE)
        maps = LONG_LAYERS * LONG_HEADS * length**2 * 4 / 2**30
        per_thousand = peak / 2**20 / (length / 1000)
        yield f"| {length} | {seconds:.1f} s | {peak / 2**20:,.0f} MiB | {per_thousand:.1f} MiB | {maps:,.1f} GiB |"


def main(arguments: list[str]) -> None:
    """Entry point of `make bench` and of the child processes."""
    if arguments and arguments[0] in ("--times", "--long-scan"):
        measure = times if arguments[0] == "--times" else long_scan
        sys.stdout.write(json.dumps(measure(*map(int, arguments[1:]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[256, 512, 1024, 2048])
    parser.add_argument("--long", type=int, nargs="*", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    if options.lengths:
        write_lines(speed_table(options.lengths, options.repeats, options.threads))
    if options.lengths and options.long:
        write_lines([""])
    if options.long:
        write_lines(memory_table(options.long, options.threads))


if __name__ == "__main__":
    main(sys.argv[1:])
