"""Feeds a reader with a map made by hand, in blocks of queries as the hook would."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, Shape
from interp.attention.kernel import MASKED
from interp.attention.rows import AttentionRows, Stream
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap


def read(
    analyzer: Analyzer,
    pattern: Tensor,
    tokens: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    causal: bool = True,
    block: int = 7,
    sink_logit: bool = False,
) -> HeadScores | TokenMap:
    """The analyzer's result for one head with this map ``[query, key]``."""
    n = len(pattern)
    tokens = torch.arange(n) if tokens is None else tokens
    reader = analyzer.reader(Shape(n_layers=1, n_heads=1, kind="self"))
    stream = Stream(tokens=tokens[None], valid=None if valid is None else valid[None], past=0)
    reader.begin(stream)
    seen = torch.ones(n, n, dtype=torch.bool)
    seen = seen.tril() if causal else seen
    if valid is not None:
        seen = seen & valid
    scores = torch.where(seen, pattern.log().clamp_min(-80), MASKED)
    for start in range(0, n, block):
        end = min(start + block, n)
        last = end if causal else n
        reader.read_rows(
            AttentionRows(
                layer=0,
                kind="self",
                pattern=pattern[None, None, start:end, :last],
                scores=scores[None, None, start:end, :last],
                queries=torch.arange(start, end),
                keys=torch.arange(last),
                stream=stream,
                key_stream=stream,
                decoding=False,
                sink_logit=sink_logit,
            )
        )
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
