"""The heads of a model on one page: a grid coloured by type, the evidence, the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from interp.figures import GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW
from interp.head_catalogue import HeadCatalogue
from interp.heads import HeadRef
from interp.report.blocks import Block, Cell, Grid, Key, titled_table
from interp.report.page import Page

LEGEND = (
    "type?: the 95 % interval holds a threshold of the rule, of which needs is the first; chance: a head that does "
    "nothing special; pct: share of the other heads that are less of this type; conf: probability that the head's mean "
    "passes; a type that another one of the head says already is not repeated"
)
STYLES: Mapping[str, tuple[str, str]] = {
    "previous-token": ("PT", SKY),
    "fixed-offset": ("FO", SKY),
    "local": ("LO", SKY),
    "streaming": ("ST", SKY),
    "duplicate-token": ("DT", ORANGE),
    "induction": ("IN", ORANGE),
    "prefix-matching": ("PM", ORANGE),
    "copy-suppression": ("CS", ORANGE),
    "retrieval": ("RE", VERMILLION),
    "sink": ("SI", GREEN),
    "no-op": ("NO", GREEN),
    "delimiter": ("DE", PURPLE),
    "broad": ("BR", YELLOW),
}
"""Short name and colour of every type; types that look at the same kind of place share a colour."""
NAMED = 12
"""With more heads per layer than this, cells hold short names."""


def catalogue_page(found: HeadCatalogue) -> Page:
    """Every head with its types, scores, intervals, chance levels, percentiles and confidence."""
    blocks: list[Block] = [*facts(found), type_grid(found), heads_table("The evidence", by_layer(found), found)]
    blocks += [LEGEND, rules_table(found)]
    blocks += [f"left out: {name}, because {reason}" for name, reason in found.notes["left out"].items()]
    return Page(title=title_of(found), blocks=blocks, provenance=found.provenance)


def title_of(found: HeadCatalogue) -> str:
    """Whose heads these are, and how many."""
    return f"{found.name[0].upper()}{found.name[1:]}: {found.n_layers} layers x {found.n_heads}"


def facts(found: HeadCatalogue) -> Iterator[str]:
    """How many heads have a type, and what they were measured on."""
    notes = found.notes
    clear = sum(bool(found.types_of(head)) for head in found.heads)
    yield f"{clear} of {len(found.heads)} heads have a clear type"
    yield f"text: {notes['text']}"
    if "retrieval" in found.types:
        yield f"needles: {notes['needles']}; the model answers {notes['needles answered']}"
    implied = {kind: len(found.heads_of(kind, "implied")) for kind in found.types}
    more = ", ".join(f"{kind} {count}" for kind, count in implied.items() if count)
    if more:
        yield f"implied by what a head is listed as, and not repeated: {more} (heads)"


def by_layer(found: HeadCatalogue) -> list[list[tuple[HeadRef, list[str]]]]:
    """Every head with its clear types, then the uncertain ones, layer by layer."""
    pairs = [(head, [*found.types_of(head), *found.types_of(head, "uncertain")]) for head in found.heads]
    return [pairs[start : start + found.n_heads] for start in range(0, len(pairs), found.n_heads)]


def heads_table(title: str, groups: Sequence[Sequence[tuple[HeadRef, list[str]]]], found: HeadCatalogue) -> Table:
    """One row per head and type, and one for a head without types, with what it is nearest to."""
    evidence = _evidence(found)
    table = titled_table(title)
    for name in ("head", "type", "score", "95 % interval", "chance", "needs", "pct", "conf"):
        words = name in ("head", "type")
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for group in groups:
        for head, types in group:
            nearest = found.nearest(head)
            for index, kind in enumerate(types):
                row = evidence[head.label, kind]
                table.add_row("" if index else head.label, _name(found, head, kind, row), *_cells(row))
            if not types and nearest:
                name = f"– (nearest {_name(found, head, nearest)})"
                table.add_row(head.label, name, *_cells(evidence[head.label, nearest]))
            elif not types:
                table.add_row(head.label, "– (near chance in all)")
        table.add_section()
    return table


def type_grid(found: HeadCatalogue) -> Grid:
    """Layers from top to bottom, heads from left to right, coloured by type."""
    evidence = _evidence(found)
    rows: list[tuple[str, list[Cell | None]]] = []
    for layer, pairs in enumerate(by_layer(found)):
        rows.append((f"L{layer}", [_type_cell(head, types, found, evidence) for head, types in pairs]))
    counts = {kind: sum(counted) for kind, counted in found.counts().items()}
    keys = [
        Key(STYLES[kind][1], STYLES[kind][0], f"{kind}: {count} head{'' if count == 1 else 's'}")
        for kind, count in sorted(counts.items(), key=lambda pair: -pair[1])
        if count
    ]
    return Grid(
        title="Types of the heads",
        corner="layer / head",
        columns=[f"H{head}" for head in range(found.n_heads)],
        rows=rows,
        notes=["pale with a dashed border: no clear type, but the interval holds a threshold of one"],
        keys=keys,
    )


def rules_table(found: HeadCatalogue) -> Table:
    """When a head is of a type, and who says so; behind a plus the heads whose other types imply it."""
    table = titled_table("The rules")
    for name in ("type", "heads", "meaning", "rule", "source"):
        table.add_column(name, justify="right" if name == "heads" else "left")
    for kind, rule in found.notes["rules"].items():
        clear, more = (len(found.heads_of(kind, verdict)) for verdict in ("yes", "implied"))
        counted = f"{clear} + {more}" if more else str(clear)
        table.add_row(kind, counted, rule["meaning"], rule["rule"], rule["source"])
    return table


def _type_cell(
    head: HeadRef, types: Sequence[str], found: HeadCatalogue, evidence: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Cell:
    clear = found.types_of(head)
    shown = clear or types
    colours = list(dict.fromkeys(STYLES[kind][1] for kind in shown))
    rows = {kind: evidence[head.label, kind] for kind in types}
    tip = [_sentence(_name(found, head, kind, row), row) for kind, row in rows.items()]
    if not types:
        nearest = found.nearest(head)
        tip = [_sentence(f"no type, nearest {nearest}", evidence[head.label, nearest]) if nearest else "near chance"]
    names = [kind if found.n_heads <= NAMED else STYLES[kind][0] for kind in shown]
    return Cell(
        lines=[name if clear else f"{name}?" for name in names] or ["–"],
        tip=[head.label, *tip],
        background=_stripes(colours if clear else list(map(_pale, colours))),
        dashed=not clear and bool(types),
        name=head.label,
    )


def _stripes(colours: Sequence[str]) -> str:
    """One colour, or several as a CSS gradient with hard ends."""
    if len(colours) < 2:
        return "".join(colours)
    width = 100 / len(colours)
    stops = [f"{colour} {width * i:.0f}% {width * (i + 1):.0f}%" for i, colour in enumerate(colours)]
    return f"linear-gradient(to right, {', '.join(stops)})"


def _pale(colour: str) -> str:
    """Two thirds of the way to white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part / 3 + 255 * 2 / 3):02X}" for part in parts)


def _evidence(found: HeadCatalogue) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["label"], row["type"]): row for row in found.to_frame().to_dict("records")}


def _name(found: HeadCatalogue, head: HeadRef, kind: str, row: Mapping[str, Any] | None = None) -> str:
    """A type as it is printed: a fixed offset with the offset, an uncertain one with a question mark."""
    name = f"{kind} {float(found.measures['offset'][head.layer, head.head]):+.0f}" if kind == "fixed-offset" else kind
    return name + "?" * (row is not None and row["verdict"] == "uncertain")


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['score']:z.2f}"
    yield "" if row["ci_low"] != row["ci_low"] else f"{row['ci_low']:z.2f} to {row['ci_high']:z.2f}"
    yield f"{row['chance']:z.2f}"
    yield f"{row['threshold']:z.2f}"
    yield f"{row['percentile']:.0f}"
    yield "" if row["confidence"] != row["confidence"] else f"{row['confidence']:.2f}"


def _sentence(name: str, row: Mapping[str, Any]) -> str:
    """The evidence for a type in one line."""
    score, interval, chance, needs, percentile, confidence = _cells(row)
    parts = [f"{name}: {score}{f' ({interval})' if interval else ''}", f"chance {chance}", f"needs {needs}"]
    parts.append(f"percentile {percentile}")
    return ", ".join([*parts, *([f"confidence {confidence}"] if confidence else [])])
