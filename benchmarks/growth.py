"""How time and memory of our side grow with members, height, dimensions, width and structures.

What is found are fitted exponents.
Each point is a process of its own, so that its memory is its own; memory counts from after the libraries are
loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import FLAT, TINY, Bench, unknown
from matplotlib.figure import Figure as Canvas
from report import Result, number, table

from genflow.evaluation.pictures import OTHERS, png

#: what is not varied
BASE = {"ndim": 3, "height": 16, "width": 64, "members": 8, "structures": 1}
#: job -> axis -> points; the generator covers widths up to 128 and dimensions up to 8, and the exact
#: evaluation needs every state
GRIDS: dict[str, dict[str, Sequence[int]]] = {
    "train": {"members": (2, 8, 32, 128, 512), "height": (4, 8, 16, 32, 64), "ndim": (1, 2, 4, 8, 16),
              "width": (32, 64, 128, 256, 512), "structures": (1, 2, 4, 8, 16)},
    "exact": {"members": (1, 4, 16, 64, 256), "height": (4, 8, 16, 32, 64), "ndim": (1, 2, 3, 4, 5),
              "width": (32, 64, 128, 256, 512), "structures": (1, 2, 4, 8, 16)},
    "generate": {"members": (1, 4, 16, 64, 256), "height": (4, 8, 16, 32, 64), "ndim": (1, 2, 4, 6, 8),
                 "width": (32, 45, 64, 90, 128), "structures": (1, 2, 4, 8, 16)},
}  # fmt: skip
RECIPE = {"batch_size": 16, "lr": 1e-3, "epsilon": 0.05, **FLAT}
#: iterations of a training point, the first of which are not timed
SETTLE, TIMED = 3, 10
REPEATS = 3


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y over log x by least squares, NaN if y has a 0.

    Over the upper half of the points, where constants weigh least.
    """
    points = sorted(zip(x, y, strict=True))[min(len(x) // 2, len(x) - 2) :]
    if any(value <= 0 for _, value in points):
        return math.nan
    logs = [(math.log(a), math.log(b)) for a, b in points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in logs) / sum((a - mean_x) ** 2 for a, _ in logs)


def job(side: Any, kind: str, size: dict) -> float:
    """Seconds of one job of a size, for all structures one after another.

    A job is a training step, an exact evaluation or a generation.
    """
    task = {key: size[key] for key in ("ndim", "height", "width")}
    seconds = 0.0
    for _ in range(size["structures"]):
        own = unknown(task)
        if kind == "train":
            side.ask("prepare", task=own, recipe=RECIPE, members=size["members"])
            side.ask("iterate", limit=SETTLE)
            done = side.ask("iterate", limit=TIMED)
            seconds += done["seconds"] / done["iterations"]
        elif kind == "exact":
            seconds += side.ask("exact", task=own, members=size["members"])["seconds"]
        else:
            seconds += side.ask("generate", task=own, num=size["members"])["seconds"]
    return seconds


def measure(bench: Bench, kind: str, size: dict) -> tuple[float, float]:
    """(seconds, MiB): the least of a few repeats, and the most that was held over what a tiny job holds."""
    with bench.side("genflow") as side:
        job(side, kind, TINY | {"members": 1, "structures": 1, "width": 32})
        before = side.ask("memory", restart=True)
        seconds = [job(side, kind, size)]
        peak = side.ask("memory")  # repeats are no part of the job
        seconds += [job(side, kind, size) for _ in range(REPEATS - 1) if sum(seconds) < bench.turn]
    return min(seconds), (peak - before) / 2**20


@dataclass
class Growth(Result):
    """A panel for each job and axis."""

    series: list[dict[str, Any]] = field(default_factory=list)

    def picture(self) -> bytes:
        """A PNG with a row a job and a column an axis: seconds and memory, each from its first point on."""
        jobs, axes_names = (list(dict.fromkeys(s[key] for s in self.series)) for key in ("job", "axis"))
        canvas = Canvas(figsize=(2.4 * len(axes_names), 2.1 * len(jobs) + 0.4), layout="constrained")
        panels = canvas.subplots(len(jobs), len(axes_names), squeeze=False)
        for one in self.series:
            panel = panels[jobs.index(one["job"])][axes_names.index(one["axis"])]
            for key, colour, unit in (("seconds", OTHERS[1], "s"), ("mib", OTHERS[0], "MiB")):
                points = [(x, y) for x, y in zip(one["x"], one[key], strict=True) if y > 0]
                label = f"{unit}, exponent {one['exponents'][key]:.2f}"
                panel.plot(
                    *(zip(*points, strict=True) if points else ((), ())),
                    marker=".",
                    linewidth=1,
                    color=colour,
                    label=label,
                )
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_title(f"{one['job']}: {one['axis']}", fontsize=8)
            panel.legend(fontsize=6, frameon=False)
            panel.tick_params(which="both", labelsize=6)
        canvas.suptitle(self.title, fontsize=9)
        return png(canvas)


def growth(bench: Bench) -> Growth:
    """Every job along every axis."""
    result = Growth("growth", "seconds and memory of a training step, an exact evaluation and a generation")
    for kind, grids in GRIDS.items():
        for axis, grid in grids.items():
            sizes = [BASE | {axis: value} for value in grid]
            seconds, mib = zip(*(measure(bench, kind, size) for size in sizes), strict=True)
            one = {"job": kind, "axis": axis, "x": list(grid), "seconds": list(seconds), "mib": list(mib)}
            one["exponents"] = {"seconds": exponent(grid, seconds), "mib": exponent(grid, mib)}
            if kind == "exact" and axis in ("height", "ndim"):
                states = [size["height"] ** size["ndim"] for size in sizes]
                one |= {
                    "states": states,
                    "exponents_in_states": {
                        "seconds": exponent(states, seconds),
                        "mib": exponent(states, mib),
                    },
                }
            result.series.append(one)
    result.facts = {"base": BASE, "grids": GRIDS}
    result.notes = table(
        ("job", "axis", "points", "seconds", "exponent", "MiB", "exponent", "in states"),
        [
            (
                one["job"], one["axis"], f"{one['x'][0]} to {one['x'][-1]}",
                f"{number(one['seconds'][0])} to {number(one['seconds'][-1])}",
                f"{one['exponents']['seconds']:.2f}",
                f"{number(one['mib'][0])} to {number(one['mib'][-1])}", f"{one['exponents']['mib']:.2f}",
                f"{one['exponents_in_states']['seconds']:.2f}" if "states" in one else "",
            )
            for one in result.series
        ],
    )  # fmt: skip
    return result
