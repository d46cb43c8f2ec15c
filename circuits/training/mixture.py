"""Training rows: documents of the tasks and repeated random blocks, packed behind one BOS.

A row is BOS, then several documents or blocks, never another BOS, so that BOS is the one token that all contexts share.
Every token carries what kind of target it is, since the loss is taken per kind: a token that the context determines
must not drown in the noise of tokens that it does not. A batch is a function of seed and step.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks import get_task, task_names
from circuits.tasks.docstring import ListedDocstring
from circuits.tasks.needle import ListedNeedles
from circuits.tasks.passage import ListedPassage, Passage
from circuits.tasks.task import Task
from interp.stimuli import ordinary_tokens

DOCUMENTS: dict[str, Task] = {
    **{name: get_task(name) for name in task_names() if name not in ("induction", "passage")},
    "passage": Passage(summary_share=0.0),
    "summary": Passage(summary_share=1.0),
    "passage-list": ListedPassage(),
    "needle-list": ListedNeedles(),
    "docstring-list": ListedDocstring(),
}
"""Where the documents come from: the tasks that are made of text. Summaries are counted apart from questions, since
most of their words are easy."""
DOCUMENT_SHARES = {
    "ioi": 0.1,
    "greater-than": 0.05,
    "relations": 0.12,
    "agreement": 0.05,
    "pronoun": 0.05,
    "docstring": 0.1,
    "docstring-list": 0.06,
    "coloured-objects": 0.07,
    "passage": 0.18,
    "passage-list": 0.06,
    "summary": 0.06,
    "needle": 0.06,
    "needle-list": 0.04,
}
"""How often each is drawn; what does not fit into the row is left out, so that long rows hold most needles."""
KINDS = ("other", *DOCUMENTS, "induction", "reversal")
"""Targets: the words of the documents that nothing determines, the answers of each task, and in blocks of random tokens
the repetition, and what stood before."""
IGNORED = -1
OTHER_SHARE = 0.25
"""Of the words that nothing determines, so many are targets: they need not cost half of the time."""
POOL_STEPS, POOL_DOCUMENTS = 100, 4000
"""Documents are drawn in advance for this many steps, about so many altogether."""
ATTEMPTS = 4
"""So many documents are tried for the rest of a row before something else fills it."""
LONG_ROW, LONG_TASKS, LONG_SHARE = 250, ("needle", "needle-list"), 0.6
"""Rows from this length on begin with a document that fills more than half of them in this share of the cases."""

Segment = tuple[list[int], list[int]]
"""Tokens, and the kind of each as a target."""


@dataclass(kw_only=True)
class Mixture:
    """The stream of training batches.

    Arguments:
        sizes: (rows, tokens, share) of each batch shape.
        copying_size: rows and tokens of the batches of the first steps.
        copying_steps: first steps, with nothing but blocks repeated all through the row. Induction heads form in these
            within some hundred steps; among sentences, or with blocks so short that fixed distances do, they do not
            form in a thousand.
        growing_steps: steps after these during which other blocks come in: shuffled, backwards, short, with gaps; then
            come the documents. Colours of objects, which stand before what they belong to, were not learnt in 1,500
            steps from documents alone, but within 250 after blocks that run backwards.
        block_rows: share of rows that hold blocks only, once there are documents.
    """

    tokenizer: PreTrainedTokenizerBase
    seed: int
    sizes: tuple[tuple[int, int, float], ...]
    copying_steps: int
    growing_steps: int
    copying_size: tuple[int, int] = (32, 64)
    block_rows: float = 0.3
    _pool: tuple[int, dict[str, list[Segment]]] = field(default=(-1, {}), init=False)

    def __post_init__(self) -> None:
        self._ordinary = ordinary_tokens(self.tokenizer).numpy()
        self.years = torch.tensor(self.tokenizer.convert_tokens_to_ids([f"{year:02d}" for year in range(100)]))

    def batch(self, step: int) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row token"]]:
        """Tokens and target kinds of a step, the same whenever it is asked for."""
        random = np.random.default_rng([self.seed, step])
        growth = min(1.0, max(0.0, (step - self.copying_steps) / self.growing_steps))
        shares = [share for _, _, share in self.sizes]
        n_rows, length = self.sizes[random.choice(len(shares), p=shares)][:2] if growth == 1 else self.copying_size
        pool = self._documents(step // POOL_STEPS) if growth == 1 else {}
        rows = [self._row(random, pool, length, growth) for _ in range(n_rows)]
        tokens, kinds = (torch.tensor(part) for part in zip(*rows, strict=True))
        left_out = torch.from_numpy(random.random(kinds.shape)) > OTHER_SHARE
        kinds[left_out & (kinds == KINDS.index("other"))] = IGNORED
        return tokens, kinds

    def _row(self, random: np.random.Generator, pool: dict[str, list[Segment]], length: int, growth: float) -> Segment:
        blocks_only = not pool or random.random() < self.block_rows
        special: Any = self.tokenizer
        tokens, kinds = [special.bos_token_id], [IGNORED]
        if length >= LONG_ROW and not blocks_only and random.random() < LONG_SHARE:
            _append(tokens, kinds, _long(random, pool, length - 1))
        while (room := length - len(tokens)) >= 8:
            document = None if blocks_only else _fitting(random, pool, room)
            _append(tokens, kinds, document or self._blocks(random, room, growth))
        rest = [special.eos_token_id] + [special.pad_token_id] * room
        _append(tokens, kinds, (rest, [KINDS.index("other")] + [IGNORED] * room))
        return tokens[:length], kinds[:length]

    def _blocks(self, random: np.random.Generator, room: int, growth: float) -> Segment:
        """One block of different tokens: all through the room, in shuffled pieces, or some copies after filler."""
        shortest = 8 if growth == 0 else 3
        longest = max(shortest, min(110, int(0.45 * room)))
        block, filler, copies = int(random.integers(shortest, longest + 1)), 0, room // shortest + 1
        if random.random() < 0.5 * growth:
            filler, copies = int(random.integers(0, max(1, room - 2 * block + 1))), int(random.integers(2, 5))
        drawn = self._ordinary[random.choice(len(self._ordinary), filler + block, replace=False)].tolist()
        form = random.random() / growth if growth else 1.0
        if form < 0.3:
            return self._shuffled(random, drawn[filler:], room)
        if form < 0.6:
            return _to_and_fro(drawn[filler:], room)
        tokens = (drawn[:filler] + drawn[filler:] * copies)[:room]
        undetermined = filler + block + 1  # the first token of the second copy is not known to be a repetition
        kinds = [IGNORED] * undetermined + [KINDS.index("induction")] * (len(tokens) - undetermined)
        return tokens, kinds[: len(tokens)]

    def _shuffled(self, random: np.random.Generator, block: list[int], room: int) -> Segment:
        """Pieces of a block over and over in another order: only the token before tells what follows."""
        cuts = np.cumsum(random.integers(2, 7, size=len(block)))
        pieces = [piece.tolist() for piece in np.split(np.array(block), cuts[cuts < len(block)])]
        tokens, kinds = list(block), [IGNORED] * len(block)
        while len(tokens) < room:
            for index in random.permutation(len(pieces)):
                tokens += pieces[index]
                kinds += [IGNORED] + [KINDS.index("induction")] * (len(pieces[index]) - 1)
        return tokens[:room], kinds[:room]

    def _documents(self, index: int) -> dict[str, list[Segment]]:
        """The pool of documents with this index, drawn from the training split."""
        if self._pool[0] != index:
            seed = self.seed * 1_000_003 + index
            self._pool = (index, {kind: self._draw(kind, seed) for kind in DOCUMENT_SHARES})
        return self._pool[1]

    def _draw(self, kind: str, seed: int) -> list[Segment]:
        n = round(POOL_DOCUMENTS * DOCUMENT_SHARES[kind])
        documents = DOCUMENTS[kind].documents(self.tokenizer, n=n, seed=seed, split="train")
        known, other = KINDS.index(kind), KINDS.index("other")
        return [(d.tokens, [known if determined else other for determined in d.determined]) for d in documents]


def _fitting(random: np.random.Generator, pool: dict[str, list[Segment]], room: int) -> Segment | None:
    """A document of any task that the room holds."""
    tasks, shares = list(pool), np.array([len(documents) for documents in pool.values()])
    for _ in range(ATTEMPTS):
        documents = pool[tasks[random.choice(len(tasks), p=shares / shares.sum())]]
        document = documents[random.integers(len(documents))]
        if len(document[0]) <= room:
            return document
    return None


def _long(random: np.random.Generator, pool: dict[str, list[Segment]], room: int) -> Segment | None:
    """A document that fills more than half of the room, of each long task equally often."""
    documents = pool[LONG_TASKS[random.integers(len(LONG_TASKS))]]
    fitting = [document for document in documents if room / 2 < len(document[0]) <= room]
    return fitting[random.integers(len(fitting))] if fitting else None


def _to_and_fro(block: list[int], room: int) -> Segment:
    """A block backwards, forwards, backwards and so on: what follows is what stood before the earlier copy."""
    tokens, kinds = list(block), [IGNORED] * len(block)
    while len(tokens) < room:
        block = block[::-1]
        tokens += block[1:]
        kinds += [IGNORED] + [KINDS.index("reversal")] * (len(block) - 2)
    return tokens[:room], kinds[:room]


def _append(tokens: list[int], kinds: list[int], segment: Segment | None) -> None:
    if segment is not None:
        tokens += segment[0]
        kinds += segment[1]
