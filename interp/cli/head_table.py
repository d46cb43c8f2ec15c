"""The page of `interp find-heads`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from interp.report import Page, head_grid, titled_table
from interp.tables import number

if TYPE_CHECKING:
    from interp.heads import HeadRef
    from interp.results import HeadScores

LEGEND = (
    "effect: share of what the corruption changes (mean of noising and denoising); others: mean effect of the layer's "
    "other heads; direct: what the head itself adds to the answer's logit over the wrong one's"
)
COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("", "right"),
    ("head", "left"),
    ("role", "left"),
    ("effect", "right"),
    ("95 % interval", "right"),
    ("others", "right"),
    ("direct", "right"),
    ("attends", "left"),
)
SHOWN_LOOKS = 2
SHOWN_AGAINST = 3


def heads_page(scores: HeadScores) -> Page:
    """The highest heads of a result of `find_heads`, and below them what the run as a whole says."""
    blocks = [_table(scores), *_lines(scores), head_grid(scores)]
    return Page(title=f"Heads that do {scores.notes['task']}", blocks=blocks, provenance=scores.provenance)


def _table(scores: HeadScores) -> Table:
    notes = scores.notes
    n_prompts = notes["prompts"]
    prompts = f"{n_prompts} prompt{'s' * (n_prompts != 1)}"
    title = f"Heads that do {notes['task']}, by causal effect ({prompts}, {notes['method']})"
    table = titled_table(title)
    for name, justify in COLUMNS:
        table.add_column(name, justify=justify, no_wrap=name != "attends")
    for rank, head in enumerate(scores.top(_shown(scores)), start=1):
        table.add_row(str(rank), *_cells(scores, head))
    return table


def _cells(scores: HeadScores, head: HeadRef) -> list[str]:
    place = (head.layer, head.head)
    interval = "–"
    if scores.ci_low is not None and scores.ci_high is not None:
        interval = f"{float(scores.ci_low[place]):+z.2f} to {float(scores.ci_high[place]):+z.2f}"
    return [
        head.label,
        scores.labels["role"][head.layer][head.head],
        f"{scores[head]:+z.2f}",
        interval,
        number(float(scores.columns["layer mean"][place]), "+z.2f"),
        number(float(scores.columns["direct logit"][place]), "+z.2f"),
        ", ".join(_looks(scores, head)),
    ]


def _looks(scores: HeadScores, head: HeadRef) -> list[str]:
    """Where the head looks far more than a head that looks everywhere alike: the most selective places first."""
    looks: list[tuple[float, str]] = []
    for label, chance in scores.notes["attention chance"].items():
        value = float(scores.columns[label][head.layer, head.head])
        selectivity = (value - chance) / (1 - chance)
        if selectivity >= 0.1:
            looks.append((selectivity, f"{label} {value:.2f}"))
    return [text for _, text in sorted(looks, reverse=True)[:SHOWN_LOOKS]]


def _lines(scores: HeadScores) -> list[str]:
    notes = scores.notes
    lines = [_runs(notes)]
    if group := notes.get("group"):
        lines += _group(group, notes["metric"])
    if "attribution" in notes:
        found = notes["attribution"]
        lines.append(
            f"estimated by attribution, {found['patched']} heads then patched exactly "
            f"(rank correlation {found['rank correlation']:.2f})"
        )
    against = [head for head in reversed(scores.top()) if _works_against(scores, head)][:SHOWN_AGAINST]
    if against:
        roles = [f"{h} {scores[h]:+z.2f} ({scores.labels['role'][h.layer][h.head]})" for h in against]
        lines.append(f"against the task: {', '.join(roles)}")
    lines.append(LEGEND)
    return lines


def _runs(notes: Mapping[str, Any]) -> str:
    parts = [
        f"{name}: {notes['metric']} {notes[name]['metric']:.2f}, accuracy {notes[name]['accuracy']:.2f}"
        for name in ("clean", "corrupted")
    ]
    return " | ".join([*parts, f"chance: accuracy {notes['chance']['accuracy']:.2f}"])


def _group(group: Mapping[str, Any], metric: str) -> list[str]:
    n_heads = len(group["heads"])
    these = "this head" if n_heads == 1 else f"these {n_heads} heads"
    lines: list[str] = []
    for words, key in ((f"without {these}", "ablated"), (f"with only {these}", "kept")):
        found, random = group[key], group[f"random {key}"]
        lines.append(
            f"{words}: accuracy {found['accuracy']:.2f}, {metric} {found['metric']:.2f} "
            f"({len(random['accuracy'])} random groups of the same layers: accuracy {_span(random['accuracy'])})"
        )
    if group["shared"]:
        shared = ", ".join(f"{count} in {layer}" for layer, count in group["shared"].items())
        lines.append(f"small layers: the random groups had to share heads with this group ({shared})")
    return lines


def _works_against(scores: HeadScores, head: HeadRef) -> bool:
    return scores.ci_high is not None and float(scores.ci_high[head.layer, head.head]) < 0 and scores[head] <= -0.02


def _shown(scores: HeadScores) -> int:
    return int(scores.provenance.parameters["top"])


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
