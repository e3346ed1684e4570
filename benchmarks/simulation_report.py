"""The tables and the picture of a simulated fleet, from what `simulate.py` writes to a file."""

from __future__ import annotations

from typing import Any

from fleet import (
    HOUR,
    availability,
)
from matplotlib.figure import Figure as Canvas
from report import number, table

from genflow.evaluation.pictures import OTHERS, png


def picture(done: dict[str, Any]) -> bytes:
    """A PNG that shows how far each order is from what is possible, and what failures leave."""
    canvas = Canvas(figsize=(8.5, 3.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for colour, name in zip(OTHERS, dict.fromkeys(e["order"] for e in done["orders"]), strict=False):
        points = [(e["structures"], e["efficiency"]) for e in done["orders"] if e["order"] == name]
        left.plot(*zip(*points, strict=True), marker=".", linewidth=1, color=colour, label=name)
    sizes = sorted({(e["structures"], e["efficiency"] * e["over_bound"]) for e in done["orders"]})
    left.plot(
        *zip(*sizes, strict=True), color="black", linewidth=0.8, linestyle=":", label="no order is better"
    )
    left.set(xscale="log", xlabel="structures", ylabel="efficiency", ylim=(0, 1.03))
    left.set_title(f"{done['workers']:,} workers, no failures", fontsize=9)
    hours = sorted({e["mtbf_hours"] for e in done["failures"]})
    for colour, mtbf in zip(OTHERS, hours, strict=False):
        found = [e for e in done["failures"] if e["mtbf_hours"] == mtbf]
        most = max(e["workers"] for e in found)
        grid = [most ** (step / 100) for step in range(101)]
        right.plot(
            grid,
            [availability(size, mtbf * HOUR, done["restart"]) for size in grid],
            linewidth=0.8,
            color=colour,
        )
        points = [(e["workers"], e["share"]) for e in found if "share" in e]
        right.plot(
            *(zip(*points, strict=True) if points else ((), ())), ".", color=colour, label=f"{mtbf:,.0f} h"
        )
    right.set(xscale="log", xlabel="workers", ylabel="share of the time without failures", ylim=(0, 1.03))
    right.set_title(f"failures, {done['restart']:g} s a restart; lines: closed form", fontsize=9)
    for panel in (left, right):
        panel.legend(
            fontsize=6, frameon=False, title="MTBF of a worker" if panel is right else None, title_fontsize=6
        )
        panel.tick_params(labelsize=7)
    return png(canvas)


def text(done: dict[str, Any]) -> str:
    """The results as tables for a terminal."""
    lines = [
        f"== {done['workers']:,} workers; pieces of {done['tasks']['mean']:.1f} s on average, "
        f"{done['tasks']['longest']:.1f} at most"
    ]
    rows = [
        (
            f"{e['structures']:,}",
            e["order"],
            number(e["makespan"]),
            number(e["bound"]),
            f"{e['over_bound']:.3f}",
            f"{e['efficiency']:.3f}",
        )
        for e in done["orders"]
    ]
    lines += table(("structures", "order", "makespan s", "bound s", "over bound", "efficiency"), rows)
    lines += ["", f"== failures: {done['restart']:g} s a restart, {done['each']} structures a worker"]
    rows = [
        (f"{e['workers']:,}", f"{e['mtbf_hours']:,.0f}", f"{e['failures']:.1f}" if "failures" in e else "",
         f"{e['share']:.3f}" if "share" in e else "does not end", f"{e['expected']:.3f}")
        for e in done["failures"]
    ]  # fmt: skip
    lines += table(("workers", "MTBF h", "failures a run", "share", "closed form"), rows)
    lines += [
        "",
        "== workers from which on restarts cost more than 10 %; and failures a day of 1,000 workers",
    ]
    rows = [
        (f"{e['mtbf_hours']:,.0f}", f"{e['failures_a_day']:,.1f}",
         *(f"{size:,.0f}" for size in e["zoo"].values()),
         *(f"{size:,.0f}" for size in e["data_parallel"].values()))
        for e in done["limits"]
    ]  # fmt: skip
    restarts = list(done["limits"][0]["zoo"])
    lines += table(
        ("MTBF h", "failures/day", *(f"zoo {r} s" for r in restarts), *(f"training {r} s" for r in restarts)),
        rows,
    )
    store = done["store"]
    measured = f"{store['measured']:,.0f}" if store["measured"] else "not measured yet"
    lines += [
        "",
        f"== store: {store['waiting']:,.0f} calls/s while {done['workers']:,} workers wait; "
        f"measured here: {measured}",
    ]
    if done["calculated"]:
        lines += ["", "== a step of data-parallel training, calculated, not measured"]
        rows = [
            (e["training"], e["link"], e["batch"], f"{e['rows']:,}",
             *(f"{1e3 * e[k]:.2f}" for k in ("one_gpu", "seconds", "all_reduce")), f"{e['gain']:.1f}")
            for e in done["calculated"]
        ]  # fmt: skip
        lines += table(
            ("training", "on", "batch", "rows", "one GPU ms", "step ms", "all-reduce ms", "gain"), rows
        )
    return "\n".join(lines)
