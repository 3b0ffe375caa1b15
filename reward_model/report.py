"""HTML reports: one file with its tables and plots inside, readable on phones and wide screens."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 64rem; }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
.scroll { overflow-x: auto } figcaption, .note { opacity: .75; padding: .3rem 0; margin: 0 }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-weight: 600; white-space: nowrap } td { min-width: 4rem } td:not(.number) { min-width: 8rem }
td.number { text-align: right; white-space: nowrap }
figure { margin: 1rem 0 } figure img { max-width: 100%; background: #fff; border-radius: 4px }
.warning { border-left: 4px solid #d90; background: var(--soft); padding: .4rem .8rem; margin: .5rem 0 }
code { background: var(--soft); padding: 0 .2em; overflow-wrap: anywhere }
</style></head><body><h1>{{ title }}</h1>
{% for kind, item in parts -%}
{% if kind == "heading" %}<h2>{{ item }}</h2>
{% elif kind == "text" %}<p>{{ item }}</p>
{% elif kind == "code" %}<p><code>{{ item }}</code></p>
{% elif kind == "warning" %}<p class="warning">{{ item }}</p>
{% elif kind == "table" %}{% if item.caption %}<p class="note">{{ item.caption }}</p>{% endif %}
<div class="scroll"><table><thead><tr>{% for name in item.header %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in item.rows %}<tr>{% for cell, number in row %}<td{% if number %} class="number"{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}</tbody></table></div>
{% elif kind == "figure" %}<figure><img alt="{{ item.alt }}" src="data:image/png;base64,{{ item.data }}">
<figcaption>{{ item.alt }}</figcaption></figure>
{% endif %}{% endfor %}</body></html>
"""


class Report:
    """Gathers headings, paragraphs, tables and figures, in order, and writes them as one page."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[tuple[str, Any]] = []

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(("heading", text))

    def text(self, text: str) -> None:
        """A paragraph; markup in it is shown as it stands."""
        self._parts.append(("text", text))

    def code(self, text: str) -> None:
        """A command line."""
        self._parts.append(("code", text))

    def warning(self, text: str) -> None:
        """Something the reader has to act on."""
        self._parts.append(("warning", text))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
        """Cells are strings, numbers (three decimals at most) or None (a dash)."""
        shown = [[(_cell(value), isinstance(value, int | float)) for value in row] for row in rows]
        self._parts.append(("table", {"header": header, "rows": shown, "caption": caption}))

    def figure(self, figure: Figure, alt: str) -> None:
        """A matplotlib figure; `alt` says what it shows, for those who see it and those who do not."""
        buffer = BytesIO()
        # Without the library's version in it, the same figures give the same bytes.
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        self._parts.append(("figure", {"alt": alt, "data": base64.b64encode(buffer.getvalue()).decode()}))

    def html(self) -> str:
        """The page."""
        from jinja2 import Environment

        template = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
        return template.render(title=self.title, parts=self._parts)

    def write(self, path: Path) -> None:
        """Write the page in one step, so that no half of it is ever read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.writing")
        scratch.write_text(self.html(), encoding="utf-8")
        scratch.replace(path)


def new_figure(width: float = 7.0, height: float = 3.6) -> tuple[Figure, Any]:
    """A figure and its axes (inches), without pyplot: nothing global, no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)
