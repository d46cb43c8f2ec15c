"""Small HTML tables for notebooks: self-contained, escaped, styled under one root class."""

import math
from collections.abc import Iterable, Sequence

from jinja2 import Environment, StrictUndefined

# Token text comes from models and users, so every value is escaped; a forgotten variable is an error.
ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

_TABLE = ENVIRONMENT.from_string("""\
<div class="interp-result">
<style>
.interp-result table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.interp-result th, .interp-result td { padding: 0.15em 0.7em; text-align: left; white-space: pre; }
.interp-result thead th { border-bottom: 1px solid currentColor; }
.interp-result caption { text-align: left; font-weight: bold; white-space: normal; }
.interp-result p { margin: 0.3em 0; font-size: 85%; }
</style>
<table>
<caption>{{ caption }}</caption>
<thead><tr>{% for header in headers %}<th scope="col">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
</div>
""")


def html_table(*, caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """An HTML table with a caption above and one paragraph per note below; all text is escaped."""
    return _TABLE.render(caption=caption, headers=headers, rows=rows, notes=notes)


def number(value: float | None, shown: str = ".4g") -> str:
    """A number in at most four significant digits, or in another format; NaN and None are dashes."""
    return "–" if value is None or value != value else format(value, shown)


def number_format(values: Iterable[float], digits: int) -> str:
    """A format that gives numbers as many decimals as the largest of them has within so many significant digits.

    NaN takes no part. Where all are smaller than 0.0001, the format has an exponent, which takes no more room there.

    Example:
        >>> [format(value, number_format([12.5, 0.25], 3)) for value in (12.5, 0.25)]
        ['12.5', '0.2']
        >>> number_format([0.25, 0.5], 4), number_format([0.00025], 4), number_format([0.000025], 4)
        ('z.3f', 'z.6f', '.3e')
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else 0
    if exponent < -4:
        return f".{digits - 1}e"
    return f"z.{max(0, digits - 1 - exponent - (exponent < 0))}f"


def visible(token: str) -> str:
    """Token text on one line; what cannot be printed, such as line breaks and terminal codes, is shown as escapes.

    Example:
        >>> visible("a\\nb")
        'a\\\\nb'
    """
    signs = token.replace("\\", "\\\\")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in signs)
