"""Feeds a reader with maps made by hand, in blocks of queries as the hook would."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, Shape
from interp.attention.kernel import MASKED
from interp.attention.rows import AttentionRows, LayerCall, Stream
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap


def read(
    analyzer: Analyzer,
    pattern: Tensor,
    tokens: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    causal: bool = True,
    kind: str = "self",
    block: int = 7,
    sink_logit: bool = False,
    values: Tensor | None = None,
    output_weights: Tensor | None = None,
) -> HeadScores | TokenMap:
    """The analyzer's result for heads with these maps, ``[query, key]``, ``[head, query, key]`` or one per example.

    Examples come one after the other, as several passes of one scan. `values` are ``[key, d_value]``; ones if none.
    `output_weights` are W_O of every head, ``[head, d_value, d_model]``.
    """
    maps = pattern.view(*[1] * (4 - pattern.dim()), *pattern.shape)
    n_heads, n = maps.shape[1:3]
    tokens = torch.arange(n) if tokens is None else tokens
    reader = analyzer.reader(Shape(n_layers=1, n_heads=n_heads, kind=kind))
    seen = torch.ones(n, n, dtype=torch.bool)
    seen = seen.tril() if causal else seen
    if valid is not None:
        seen = seen & valid
    every = torch.arange(n)
    vectors = (torch.ones(n, 2) if values is None else values).to(maps).expand(1, n_heads, n, -1)
    for example in maps.split(1):
        stream = Stream(tokens=tokens[None], valid=None if valid is None else valid[None], past=0)
        shared = {"layer": 0, "kind": kind, "stream": stream, "key_stream": stream, "decoding": False}
        reader.begin(stream)
        scores = torch.where(seen, example.log().clamp_min(-80), MASKED)
        for start in range(0, n, block):
            end = min(start + block, n)
            last = end if causal else n
            part = (slice(None), slice(None), slice(start, end), slice(last))
            reader.read_rows(
                AttentionRows(
                    pattern=example[part], scores=scores[part], queries=every[start:end], keys=every[:last],
                    sink_logit=sink_logit, **shared,
                )
            )  # fmt: skip
        ones = torch.ones(1, n_heads, n, 2).to(maps)
        z = (example @ vectors).transpose(1, 2)
        reader.read_call(
            LayerCall(
                query=ones, key=ones, value=vectors, z=z, scale=1.0, queries=every, keys=every,
                output_weights=output_weights, **shared,
            )
        )  # fmt: skip
    n_real = n if valid is None else int(valid.sum())
    return reader.result(Provenance(model="by hand"), [str(i) for i in range(n_real)])


def score(analyzer: Analyzer, pattern: Tensor, tokens: Tensor | None = None, **options: bool | int) -> float:
    """The score of the only head."""
    result = read(analyzer, pattern, tokens, **options)  # type: ignore[arg-type]
    assert isinstance(result, HeadScores)
    return result["L0H0"]


def uniform(n: int) -> Tensor:
    """Causal attention that is even over the visible keys."""
    causal = torch.ones(n, n).tril()
    return causal / causal.sum(-1, keepdim=True)


def previous(n: int) -> Tensor:
    """A head on the previous token; the first query sees only itself."""
    pattern = torch.diag(torch.ones(n - 1), -1)
    pattern[0, 0] = 1
    return pattern


def first(n: int) -> Tensor:
    """A head on the first token."""
    pattern = torch.zeros(n, n)
    pattern[:, 0] = 1
    return pattern


def key_bias(n: int, c: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A head whose scores are 0 except for the first key, which has c."""
    scores = torch.zeros(n, n, dtype=dtype)
    scores[:, 0] = c
    return scores.masked_fill(torch.ones(n, n).triu(1) > 0, -math.inf).softmax(-1)


def pointing(n: int, targets: dict[int, float]) -> Tensor:
    """Every query gives each visible target its share, and what is left to itself."""
    pattern = torch.eye(n)
    for query in range(n):
        for key, share in targets.items():
            if key < query:
                pattern[query, key] = share
                pattern[query, query] -= share
    return pattern
