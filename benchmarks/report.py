"""What a comparison found: figures of each side and ratios of sides round by round.

As a table, as JSON and as a picture.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure as Canvas

from genflow.evaluation.pictures import OTHERS, png

#: bars that differ by more are drawn on a logarithmic axis
LOGARITHMIC_FROM = 30


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


@dataclass(frozen=True)
class Figure:
    """What one side did in one setting: `values` in `unit`, one a round."""

    setting: str
    side: str
    unit: str
    values: list[float]


@dataclass(frozen=True)
class Ratio:
    """How many times better `ours` did than `theirs`, round by round.

    `target`: what is wanted at least, if anything is.
    `bound`: theirs was stopped before it was done, so that the values are lower bounds.
    """

    setting: str
    ours: str
    theirs: str
    values: list[float]
    target: float | None = None
    bound: bool = False

    @property
    def verdict(self) -> str:
        """Whether the median reached the target; a lower bound below it decides nothing."""
        if self.target is None:
            return ""
        return "met" if median(self.values) >= self.target else "open" if self.bound else "missed"


@dataclass
class Result:
    """One work's outcome.

    Attributes:
        work: its name, which names the files.
        title: what was measured, in a line.
        figures, ratios: the comparison.
        curves: "group: which" -> points (x, y), of what is better seen than told, and `axes` their names.
        facts: everything else that the JSON shall hold.
        notes: lines for the reader of the table.
    """

    work: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, setting: str, unit: str, values: Mapping[str, list[float]]) -> None:
        """One figure a side."""
        self.figures += [
            Figure(setting, side, unit, list(of_side)) for side, of_side in values.items() if of_side
        ]

    def compare(
        self,
        setting: str,
        ours: str,
        theirs: str,
        *,
        more: bool,
        target: float | None = None,
        bound: bool = False,
    ) -> None:
        """The ratio of two sides' figures of a setting, of rounds that both were in.

        `more`: whether a greater figure is better.
        """
        found = {figure.side: figure.values for figure in self.figures if figure.setting == setting}
        if ours in found and theirs in found:
            pairs = zip(found[ours], found[theirs], strict=False)  # a slow side may sit out the last rounds
            self.ratios.append(
                Ratio(setting, ours, theirs, [a / b if more else b / a for a, b in pairs], target, bound)
            )

    def to_json(self) -> dict[str, Any]:
        """Everything, with medians."""
        data = asdict(self)
        data["figures"] = [asdict(figure) | spread(figure.values) for figure in self.figures]
        data["ratios"] = [
            asdict(ratio) | spread(ratio.values) | {"verdict": ratio.verdict} for ratio in self.ratios
        ]
        return data

    def text(self) -> str:
        """Tables of the figures and of the ratios."""
        lines = [f"\n== {self.work}: {self.title}"]
        if self.figures:
            lines += table(
                ("setting", "side", "median", "min to max", "unit"),
                [(f.setting, f.side, *_span(f.values), f.unit) for f in self.figures],
            )
        if self.ratios:
            rows = [
                (
                    r.setting,
                    f"{r.ours} / {r.theirs}",
                    *_span(r.values, "> " if r.bound else "", "x"),
                    "" if r.target is None else f"{r.target:,g}x {r.verdict}",
                )
                for r in self.ratios
            ]
            lines += [
                "",
                *table(("setting", "how many times better", "median", "min to max", "wanted"), rows),
            ]
        return "\n".join([*lines, *self.notes])

    def picture(self) -> bytes:
        """A PNG: curves where there are any, else a bar a figure, with the spread over rounds."""
        units = list(dict.fromkeys(figure.unit for figure in self.figures))
        counts = [sum(figure.unit == unit for figure in self.figures) for unit in units]
        if self.curves:
            canvas = Canvas(figsize=(7.5, 4.5), layout="constrained")
            _curves(canvas.add_subplot(), self.curves, self.axes)
        else:
            canvas = Canvas(figsize=(7.5, 1.2 * len(units) + 0.24 * sum(counts)), layout="constrained")
            panels = canvas.subplots(len(units), squeeze=False, height_ratios=counts)[:, 0]
            for panel, unit in zip(panels, units, strict=True):
                _bars(panel, [figure for figure in self.figures if figure.unit == unit], unit)
        canvas.suptitle(self.title, fontsize=9)
        return png(canvas)


def _curves(axes: Any, curves: Mapping[str, Sequence[tuple[float, float]]], names: tuple[str, str]) -> None:
    """Labels are "group: which"; a group has one colour, and a curve of one point is a diamond."""
    groups = list(dict.fromkeys(label.partition(": ")[0] for label in curves))
    for label, points in curves.items():
        group = label.partition(": ")[0]
        colour, marker = OTHERS[groups.index(group) % len(OTHERS)], "." if len(points) > 1 else "D"
        axes.plot(*zip(*points, strict=True), marker=marker, linewidth=1, color=colour)
    for group, colour in zip(groups, itertools.cycle(OTHERS), strict=False):
        axes.plot([], [], color=colour, label=group)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.legend(fontsize=7, frameon=False)


def _bars(axes: Any, figures: Sequence[Figure], unit: str) -> None:
    sides = list(dict.fromkeys(figure.side for figure in figures))
    for row, figure in enumerate(figures):
        middle = median(figure.values)
        error = [[middle - min(figure.values)], [max(figure.values) - middle]]
        axes.barh(
            row,
            middle,
            xerr=error,
            color=OTHERS[sides.index(figure.side) % len(OTHERS)],
            height=0.7,
            error_kw={"linewidth": 0.8},
        )
    axes.set_yticks(
        range(len(figures)), [f"{figure.setting}: {figure.side}" for figure in figures], fontsize=7
    )
    axes.set_ylim(len(figures) - 0.5, -0.5)
    values = [value for figure in figures for value in figure.values]
    if max(values) > LOGARITHMIC_FROM * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(unit)


def _span(values: Sequence[float], before: str = "", after: str = "") -> tuple[str, str]:
    return f"{before}{number(median(values))}{after}", f"{number(min(values))} to {number(max(values))}"


def number(value: float) -> str:
    """Three or four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]


def processor() -> str:
    """The model of the CPU, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def elsewhere() -> float:
    """Seconds of CPU that others than this process and its finished children have used so far.

    0 where the system does not tell.
    Threads that wait for each other, as torch's do, lose far more than their share to whatever runs beside
    them.
    """
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
