"""Figures of a benchmark: a table, JSON, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zif.contract.errors import ZifError

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: a single value, or many, of which mean and percentiles are told."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean, or the value itself."""
        return float(np.mean(self.values))

    def percentile(self, share: int) -> float:
        """Linear between the two nearest values."""
        return float(np.percentile(self.values, share))


@dataclass
class Result:
    """What one benchmark found. ``facts`` say what it was run on."""

    kind: str
    facts: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, name: str, unit: str, values: float | Sequence[float]) -> None:
        """Add a figure; one without values is left out."""
        many = (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)
        if many:
            self.figures.append(Figure(name, unit, many))

    def value(self, name: str) -> float:
        """The mean of a figure; KeyError if there is none of that name."""
        for figure in self.figures:
            if figure.name == name:
                return figure.mean
        raise KeyError(name)

    def rows(self) -> list[dict[str, Any]]:
        """The table."""
        return [
            {"figure": figure.name, "unit": figure.unit, "mean": figure.mean, **_percentiles(figure)}
            for figure in self.figures
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, single values included."""
        figures = {
            figure.name: {"unit": figure.unit, "mean": figure.mean, **_percentiles(figure), "values": figure.values}
            for figure in self.figures
        }
        return {"workload": self.kind, "facts": self.facts, "figures": figures, "errors": self.errors}


def _percentiles(figure: Figure) -> dict[str, float | None]:
    return {f"p{share}": figure.percentile(share) if len(figure.values) > 1 else None for share in PERCENTILES}


def plot(result: Result, path: Path) -> None:
    """Draw the figures: the distribution of each that has many values, and bars of the others.

    The file's suffix decides the format. Raises :class:`ZifError` if matplotlib is missing or the
    format is not one of its.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ZifError(f"--plot needs matplotlib, which is not installed: pip install matplotlib ({error})") from error
    many = [figure for figure in result.figures if len(figure.values) > 1]
    units = list(dict.fromkeys(figure.unit for figure in result.figures if len(figure.values) == 1))
    panels = len(many) + len(units)
    canvas = Canvas(figsize=(4.2 * panels, 3.6), layout="constrained")
    axes = iter(canvas.subplots(1, panels, squeeze=False)[0])
    for figure in many:
        axis, ordered = next(axes), np.sort(figure.values)
        axis.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post")
        axis.set(title=figure.name, xlabel=figure.unit, ylabel="share of samples", ylim=(0, 1))
    for unit in units:
        axis, alike = next(axes), [f for f in result.figures if f.unit == unit and len(f.values) == 1]
        bars = axis.barh([figure.name for figure in alike], [figure.mean for figure in alike])
        axis.bar_label(bars, fmt="%.4g", padding=2)
        axis.set(xlabel=unit)
        axis.margins(x=0.2)
    canvas.suptitle(f"{result.kind}: {result.facts.get('model')} on {result.facts.get('device')}")
    try:
        canvas.savefig(path)
    except (ValueError, OSError) as error:
        raise ZifError(f"--plot {path}: {error}") from error
