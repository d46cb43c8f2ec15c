"""Training rows: sentences of the tasks and repeated random blocks, packed behind one BOS.

A row is a document: BOS, then several sentences or blocks, never another BOS, so that BOS is the one token that all
contexts share. Every token carries what kind of target it is, since the loss is taken per kind: a token that the
context determines must not drown in the noise of tokens that it does not. A batch is a function of seed and step.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks import get_task
from interp.stimuli import ordinary_tokens

Kind = Literal["other", "ioi", "greater-than", "relations", "induction"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Targets: other words of the sentences, the answers of three tasks, and the repetition of a block."""
IGNORED = -1
TEXT_TASKS = {"ioi": 0.5, "greater-than": 0.2, "relations": 0.3}
"""Share of the sentences."""
POOL_STEPS, POOL_PROMPTS = 100, {"ioi": 2400, "greater-than": 1200, "relations": 1100}
"""Sentences are drawn in advance for this many steps."""

Segment = tuple[list[int], list[int]]
"""Tokens, and the kind of each as a target."""


@dataclass(kw_only=True)
class Mixture:
    """The stream of training batches.

    Arguments:
        sizes: (rows, tokens, share) of each batch shape; until the blocks are full-grown only the first one is used.
        copying_steps: first steps, with nothing but blocks repeated all through the row. Induction heads form in these
            within some hundred steps; among sentences, or with blocks so short that fixed distances do, they do not
            form in a thousand.
        growing_steps: steps after these during which short and less often repeated blocks come in, and gaps; then
            come the sentences.
        induction_rows: share of rows that hold blocks only, once there are sentences.
    """

    tokenizer: PreTrainedTokenizerBase
    seed: int
    sizes: tuple[tuple[int, int, float], ...]
    copying_steps: int
    growing_steps: int
    induction_rows: float = 0.5
    _pool: tuple[int, dict[str, list[Segment]]] = field(default=(-1, {}), init=False)

    def __post_init__(self) -> None:
        self._ordinary = ordinary_tokens(self.tokenizer).numpy()
        self.years = torch.tensor(self.tokenizer.convert_tokens_to_ids([f"{year:02d}" for year in range(100)]))
        self._period = self.tokenizer.convert_tokens_to_ids(".")

    def batch(self, step: int) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row token"]]:
        """Tokens and target kinds of a step, the same whenever it is asked for."""
        random = np.random.default_rng([self.seed, step])
        growth = min(1.0, max(0.0, (step - self.copying_steps) / self.growing_steps))
        shares = [share for _, _, share in self.sizes]
        n_rows, length, _ = self.sizes[random.choice(len(shares), p=shares) if growth == 1 else 0]
        pool = self._sentences(step // POOL_STEPS) if growth == 1 else {}
        rows = [self._row(random, pool, length, growth) for _ in range(n_rows)]
        tokens, kinds = (torch.tensor(part) for part in zip(*rows, strict=True))
        return tokens, kinds

    def _row(self, random: np.random.Generator, pool: dict[str, list[Segment]], length: int, growth: float) -> Segment:
        blocks_only = not pool or random.random() < self.induction_rows
        special: Any = self.tokenizer
        tokens, kinds = [special.bos_token_id], [IGNORED]
        while len(tokens) < length:
            room = length - len(tokens)
            if room >= 8 and (blocks_only or random.random() < 0.05):
                segment = self._blocks(random, room, growth)
            elif room < 8:
                segment = (
                    [special.eos_token_id] + [special.pad_token_id] * room,
                    [KINDS.index("other")] + [IGNORED] * room,
                )
            else:
                segment = self._sentence(random, pool)
            tokens += segment[0]
            kinds += segment[1]
        return tokens[:length], kinds[:length]

    def _sentence(self, random: np.random.Generator, pool: dict[str, list[Segment]]) -> Segment:
        task = random.choice(list(TEXT_TASKS), p=list(TEXT_TASKS.values()))
        return pool[task][random.integers(len(pool[task]))]

    def _blocks(self, random: np.random.Generator, room: int, growth: float) -> Segment:
        """One block of different tokens: all through the room, or two to four times behind some filler."""
        shortest = 8 if growth == 0 else 3
        longest = max(shortest, min(110, int(0.45 * room)))
        block, filler, copies = int(random.integers(shortest, longest + 1)), 0, room // shortest + 1
        if random.random() < 0.5 * growth:
            filler, copies = int(random.integers(0, max(1, room - 2 * block + 1))), int(random.integers(2, 5))
        drawn = self._ordinary[random.choice(len(self._ordinary), filler + block, replace=False)].tolist()
        tokens = (drawn[:filler] + drawn[filler:] * copies)[:room]
        undetermined = filler + block + 1  # the first token of the second copy is not known to be a repetition
        kinds = [IGNORED] * undetermined + [KINDS.index("induction")] * (len(tokens) - undetermined)
        return tokens, kinds[: len(tokens)]

    def _sentences(self, index: int) -> dict[str, list[Segment]]:
        """The pool of sentences with this index, drawn from the training split."""
        if self._pool[0] != index:
            seed = self.seed * 1_000_003 + index
            self._pool = (index, {task: self._draw(task, seed) for task in TEXT_TASKS})
        return self._pool[1]

    def _draw(self, task: str, seed: int) -> list[Segment]:
        prompts = get_task(task).prompts(
            self.tokenizer, n=POOL_PROMPTS[task], seed=seed, split="train", prepend_bos=False
        )
        lengths = prompts.attention_mask.sum(dim=1).tolist()
        segments = []
        for row, length, answer in zip(prompts.clean.tolist(), lengths, prompts.answer.tolist(), strict=True):
            kinds = [KINDS.index("other")] * length + [KINDS.index(task), KINDS.index("other")]
            segments.append((row[:length] + [answer, self._period], kinds))
        return segments
