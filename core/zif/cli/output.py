"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_table(rows: Sequence[Row], *, columns: Sequence[str] | None = None) -> None:
    """Print ``rows`` in aligned columns under their names; numbers to the right, None as a dash.

    ``columns`` picks and orders them; without it the first row's keys do.
    """
    print(format_table(rows, columns=columns))


def format_table(rows: Sequence[Row], *, columns: Sequence[str] | None = None) -> str:
    """The text of :func:`print_table`."""
    names = list(columns if columns is not None else rows[0] if rows else ())
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    numeric = [bool(rows) and all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def gibibytes(count: int | None) -> str:
    """A memory size as people write it; a dash if it is not known."""
    return "-" if count is None else f"{count / 2**30:.1f} GiB"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
