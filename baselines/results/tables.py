"""Tables of text cells: numbers as text, and a table as aligned columns or as HTML."""

import html
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

Cells = Sequence[str]
TIME_UNITS = (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0))


class Table(NamedTuple):
    """A table of text."""

    head: Cells
    rows: Sequence[Cells]


# Cells -------------------------------------------------------------------------------------------


def number_cell(value: float) -> str:
    """Return a number with four digits, a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def integer_cell(value: float) -> str:
    """Return a number without decimals, a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def interval_cell(low: float, high: float) -> str:
    """Return an interval, a dash if there is none (NaN)."""
    return "–" if math.isnan(low) else f"{low:.4g} to {high:.4g}"


def duration_cell(seconds: float) -> str:
    """Return a duration with its unit, a dash if none was logged (0)."""
    name, unit = time_unit(seconds)
    return f"{seconds / unit:.1f} {name}" if seconds else "–"


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the name of the unit in which to show a duration, and its length in seconds."""
    return next((unit for unit in TIME_UNITS if seconds < 120 * unit[1]), TIME_UNITS[-1])


def counted(number: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# Tables ------------------------------------------------------------------------------------------


def text_table(table: Table) -> str:
    """Return a table in aligned columns, empty if it has no rows."""
    if not table.rows:
        return ""
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    lines = []
    for row in (table.head, *table.rows):
        cells = [
            cell.rjust(width) if is_numeric(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def html_table(table: Table) -> str:
    """Return a table as HTML; columns of numbers are aligned to the right."""
    numeric = [all(map(is_numeric, column)) for column in zip(*table.rows, strict=True)]
    head = _html_row("th", table.head, numeric)
    body = "\n".join(_html_row("td", row, numeric) for row in table.rows)
    return f"<table><thead>{head}</thead><tbody>\n{body}\n</tbody></table>"


def _html_row(tag: str, row: Cells, numeric: Sequence[bool]) -> str:
    cells = []
    for text, right in zip(row, numeric, strict=True):
        start = f'{tag} class="number"' if right else tag
        cells.append(f"<{start}>{html.escape(text)}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def is_numeric(cell: str) -> bool:
    """Return whether a cell holds a number, or a dash in its place."""
    return bool(re.fullmatch(r"[-+−]?[\d,.]+(e[-+]?\d+)?|–", cell))
