"""The page of `interp sinks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.analyzers.massive_activations import massive_entries, ratio_to_median
from interp.analyzers.sinks import sink_table
from interp.report import Page, head_grid, titled_table, token_grid
from interp.tables import number, visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from interp.analyzers.massive_activations import SinkLink
    from interp.results import HeadScores, TokenMap

HEAD_COLUMNS = ("sink mass", "later sinks", "key norm", "value norm", "no-op", "learned sink")
LEGEND = (
    "alpha: mean attention to the first token; chance: that of uniform attention; sink mass: attention to all sinks "
    "of the head; later sinks: keys with alpha > 5 / tokens; key and value norm: at sinks over elsewhere; no-op: sink "
    "mass that writes nothing; learned sink: mass on a learned sink logit"
)


def sinks_page(
    scores: HeadScores, tokens: TokenMap, massive: TokenMap, link: SinkLink, visual: TokenMap | None, top: int
) -> Page:
    """What a text's sinks are, and which heads look at them."""
    blocks: list[Any] = [*_summary(scores, tokens), _heads(scores, top), _sink_tokens(sink_table(tokens), top)]
    blocks += [*_massive(massive, massive_entries(massive), top), *_link(link)]
    blocks += [] if visual is None else [_visual(visual), token_grid(visual)]
    blocks += [LEGEND, head_grid(scores), token_grid(tokens), token_grid(massive)]
    return Page(title="Attention sinks", blocks=blocks, provenance=scores.provenance)


def _summary(scores: HeadScores, tokens: TokenMap) -> list[str]:
    notes = scores.notes
    first = f"'{visible(tokens.tokens[0])}'"
    layers = ", ".join(f"L{layer} {_percent(rate)}" for layer, rate in enumerate(notes["layer sink rates"]))
    return [
        f"Attention sinks on {len(tokens.tokens)} tokens (epsilon {notes['epsilon']:g})",
        f"sink rate of the first token {first}: {_percent(notes['sink rate'])} of heads "
        f"(chance {_percent(notes['uniform attention']['sink rate'])})",
        f"by layer: {layers}",
    ]


def _heads(scores: HeadScores, top: int) -> Table:
    columns = [name for name in HEAD_COLUMNS if name in scores.columns]
    records = {record["label"]: record for record in scores.to_frame().to_dict("records")}
    rows: list[list[str]] = []
    for head in scores.top(top):
        values = [records[head.label][name] for name in ("score", "chance", *columns)]
        rows.append([head.label, *(number(value, ".2f") for value in values)])
    return _table("strongest heads", ("head", "alpha", "chance", *columns), rows)


def _sink_tokens(found: pd.DataFrame, top: int) -> Table | str:
    if found.empty:
        return "sink tokens: none\n"
    rows = [
        [str(row["key"]), f"'{visible(row['token'])}'", row["kind"], _percent(row["rate"]), _listed(row["layers"])]
        for row in found.head(top).to_dict("records")
    ]
    shown = "" if len(found) <= top else f" ({top} of {len(found)})"
    return _table(f"sink tokens{shown}", ("position", "token", "kind", "share of heads", "layers"), rows)


def _massive(massive: TokenMap, found: pd.DataFrame, top: int) -> list[str]:
    if found.empty:
        largest = massive.top(1)[0]
        ratio = ratio_to_median(largest.value, massive.notes["medians"][largest.layer])
        return [
            f"massive activations: none (the largest, {largest.value:.3g} at '{visible(str(largest.key_token))}', is "
            f"{ratio:.3g} times the median of layer {largest.layer}; thresholds {massive.notes['min_magnitude']:g} and "
            f"{massive.notes['min_ratio']:g} times)"
        ]
    lines = [
        f"  '{visible(row['token'])}' (position {row['key']}), dimension {row['dim']}: {row['value']:.0f}, "
        f"{row['ratio']:.0f} times the median, entering layers {row['first_layer']} to {row['last_layer']}"
        for row in found.head(top).to_dict("records")
    ]
    return [f"massive activations: {len(found)} (token, dimension) pairs", *lines]


def _link(link: SinkLink) -> list[str]:
    if link.sinks == 0 or link.massive == 0:
        return []
    return [
        f"tokens: sinks {link.sinks}, with massive activations {link.massive}, both {link.both} "
        f"({link.expected:.2g} expected by chance, p = {link.p_value:.2g}; rank correlation {link.correlation:.2f})"
    ]


def _visual(visual: TokenMap) -> Table:
    """By layer, how many image tokens are sinks, where in the prompt, and by which dimensions."""
    notes = visual.notes
    n_image = len(notes["image"])
    rows: list[list[str]] = []
    for layer, found in enumerate(notes["visual_sinks"]):
        values = visual.values[layer, list(notes["image"])].nan_to_num(0)
        largest = (
            f"{float(values.max()):.1f} at {notes['image'][int(values.argmax())]}" if notes["dims"][layer] else "–"
        )
        share = f"{len(found)} ({_percent(len(found) / n_image)})"
        rows.append([f"L{layer}", share, str(len(notes["text_sinks"][layer])), largest, _listed(notes["dims"][layer])])
    title = f"visual sinks among {n_image} image tokens (tau {notes['tau']:.3g})"
    return _table(title, ("layer", "image sinks", "text sinks", "largest image token", "dimensions"), rows)


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = titled_table(title)
    for name in headers:
        words = name in ("head", "token", "kind", "layers", "layer", "dimensions")
        table.add_column(name, justify="left" if words else "right", no_wrap=name not in ("layers", "dimensions"))
    for row in rows:
        table.add_row(*row)
    return table


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(str(layer) for layer in layers)


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f} %"
