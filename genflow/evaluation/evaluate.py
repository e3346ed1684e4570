"""Measuring populations: one entry a population, ready for tables, JSON and the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from genflow.errors import GenflowError
from genflow.interfaces.metric import Metric
from genflow.measure import all_metrics, values_of
from genflow.population import Population
from genflow.registry import registry
from genflow.structure import Structure


def choose_metrics(
    structure: Structure, names: Sequence[str] = (), reference: bool = False
) -> dict[str, Metric]:
    """The named metrics, or all that fit the structure.

    Args:
        structure: of the policies.
        names: registered names; empty: all that fit.
        reference: whether there are checkpoints to compare with.

    Raises:
        GenflowError: a name is unknown, or a named metric does not fit, e.g. is exact where the task is too
            large to enumerate.
    """
    known = all_metrics()
    if not names:
        return {
            name: metric
            for name, metric in known.items()
            if metric.fits(structure) and (reference or not metric.reference)
        }
    chosen = {}
    for name in names:
        if name not in known:
            known[name] = (
                registry().load("metric", name).from_config({}, f"metric {name!r}")
            )  # says why it is not usable
        if not known[name].fits(structure):
            instead = f"use one of these: {', '.join(choose_metrics(structure, (), reference))}"
            if known[name].exact:
                structure.solution.require_enumerable(f"metric {name!r}", instead)
            raise GenflowError(
                f"metric {name!r} does not fit structure {structure.name} of {structure.env!r}; {instead}"
            )
        if known[name].reference and not reference:
            raise GenflowError(
                f"metric {name!r} compares with a zoo's checkpoints, and there is no zoo of this kind; name"
                " one (--zoo DIR)"
            )
        chosen[name] = known[name]
    return chosen


def evaluate(
    population: Population, metrics: Sequence[str] = (), checkpoints: Population | None = None
) -> dict[str, Any]:
    """Measure a population.

    Args:
        population: what to measure.
        metrics: registered names; empty: all that fit.
        checkpoints: policies of the same structure that the generator was trained on, for metrics that
            compare with them.

    Returns:
        ``{"env", "structure", "source", "seen", "num", "metrics": {name: {"mean", "min", "max"}},
        "seconds"}``; `seen` is whether the structure was trained on, by provenance; `seconds` is what it took
        to make the population, ``"budget"`` what was spent on training it and ``"started_from"`` the source
        of its start, if it was trained.

    Raises:
        GenflowError: see `choose_metrics`; or the checkpoints are of another structure.
    """
    structure = population.structure
    if checkpoints is not None and checkpoints.structure != structure:
        raise GenflowError(
            f"checkpoints of {checkpoints.structure.name} cannot be compared with policies of"
            f" {structure.name}"
        )
    values = values_of(population, choose_metrics(structure, metrics, checkpoints is not None), checkpoints)
    return {
        "env": structure.env,
        "structure": structure.fields(),
        "name": structure.name,
        "policy": structure.policy,
        "source": population.source,
        "seen": population.seen,
        "num": len(population),
        "metrics": {
            name: {"mean": float(v.mean()), "min": float(v.min()), "max": float(v.max())}
            for name, v in values.items()
        },
        "seconds": population.provenance.get("seconds"),
        "budget": population.provenance.get("budget"),
        "started_from": population.provenance.get("started_from"),
    }


def brief_metrics() -> list[str]:
    """Names of the metrics that a short table shows."""
    return [name for name, metric in all_metrics().items() if metric.brief]


def table(entries: Iterable[dict[str, Any]], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the comparison table: an entry a row, the means of its metrics."""
    entries = list(entries)
    shown = [name for name in metrics if any(name in entry["metrics"] for entry in entries)]
    header = ["structure", "seen", "source", "num", *shown, "seconds", "budget"]
    rows = []
    for entry in entries:
        figures = [number(entry["metrics"].get(name, {}).get("mean")) for name in shown]
        budget = entry.get("budget")
        spent = f"{budget['objective']}, {budget['steps']} steps of {budget['batch_size']}" if budget else ""
        spent += f", from {entry['started_from']}" if entry.get("started_from") else ""
        seen = "yes" if entry["seen"] else "no"
        rows.append(
            [
                entry["name"],
                seen,
                entry["source"],
                str(entry["num"]),
                *figures,
                number(entry["seconds"]),
                spent,
            ]
        )
    return header, rows


def number(value: float | None) -> str:
    """Three significant digits, or a dash for a value that is missing."""
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"
