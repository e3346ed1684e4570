"""Evaluation of populations, with one entry for each that tables, JSON and the report share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from genflow.errors import GenflowError
from genflow.interfaces.metric import Metric
from genflow.measure import all_metrics, values_of
from genflow.population import Population
from genflow.progress import Progress
from genflow.registry import registry
from genflow.structure import Structure
from genflow.value_text import count_of


def choose_metrics(
    structure: Structure, names: Sequence[str] = (), reference: bool = False
) -> dict[str, Metric]:
    """Return the named metrics, or all metrics that apply to the structure.

    Args:
        structure: the structure of the policies.
        names: registered names; an empty list means all metrics that apply.
        reference: whether there are checkpoints for metrics that compare with them.

    Raises:
        GenflowError: a name is unknown, or a named metric does not apply, e.g. an exact metric on a task
            that is too large to enumerate.
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
            # raises the error that says why the metric is not usable
            known[name] = registry().load("metric", name).from_config({}, f"metric {name!r}")
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
        population: the policies to measure.
        metrics: registered names; an empty list means all metrics that apply.
        checkpoints: policies of the same structure that the generator was trained on, for metrics that
            compare with them.

    Returns:
        A dict with the keys ``env``, ``structure``, ``name``, ``policy``, ``source``, ``seen``, ``num``,
        ``metrics`` ({name: {"mean", "min", "max"}}), ``seconds``, ``budget`` and ``started_from``. ``seen``
        says whether the structure was trained on, according to the provenance. ``seconds`` is the time to
        make the population. For trained policies, ``budget`` is the cost of the training and
        ``started_from`` the source of their starting weights.

    Raises:
        GenflowError: as for `choose_metrics`, or the checkpoints are of another structure.
    """
    structure = population.structure
    if checkpoints is not None and checkpoints.structure != structure:
        raise GenflowError(
            f"checkpoints of {checkpoints.structure.name} cannot be compared with policies of"
            f" {structure.name}"
        )
    chosen = choose_metrics(structure, metrics, checkpoints is not None)
    label = f"measure {structure.name}, {population.source}"
    with Progress.current().bar(label, len(chosen) * len(population)) as bar:
        values = values_of(population, chosen, checkpoints, bar)
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
    """Return the names of the metrics that the table of a terminal shows."""
    return [name for name, metric in all_metrics().items() if metric.brief]


def table(entries: Iterable[dict[str, Any]], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the comparison table, with the mean metrics of each entry.

    The folders are told where one structure has several entries of the same source.
    """
    entries = list(entries)
    shown = [name for name in metrics if any(name in entry["metrics"] for entry in entries)]
    several = len({(entry.get("env"), entry["name"], entry["source"]) for entry in entries}) < len(entries)
    header = ["structure", "seen", "source", *["folder"] * several, "num", *shown, "seconds", "budget"]
    rows = []
    for entry in entries:
        figures = [format_number(entry["metrics"].get(name, {}).get("mean")) for name in shown]
        budget = entry.get("budget")
        spent = (
            f"{budget['objective']}, {count_of(budget['steps'], 'step')} of {budget['batch_size']}"
            if budget
            else ""
        )
        if budget and "reward_calls" in budget:
            spent += f", {count_of(budget['reward_calls'], 'reward call')}"
        spent += ", ended by its seconds" if budget and "ended_after_seconds" in budget else ""
        spent += f", from {entry['started_from']}" if entry.get("started_from") else ""
        seen = "yes" if entry["seen"] else "no"
        rows.append(
            [
                entry["name"],
                seen,
                entry["source"],
                *[entry.get("folder") or ""] * several,
                str(entry["num"]),
                *figures,
                format_number(entry["seconds"]),
                spent,
            ]
        )
    return header, rows


def format_number(value: float | None) -> str:
    """Format a number with three significant digits, and a missing one or NaN as a dash."""
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"
