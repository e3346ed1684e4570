"""Evaluation of populations with the registered metrics, without naming any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.interfaces.metric import Metric
from genflow.population import Population
from genflow.progress import Bar
from genflow.registry import registry
from genflow.structure import Structure


def exact_metrics() -> dict[str, Metric]:
    """Return the exact metrics that depend on one policy only, with their default options."""
    return {
        name: metric
        for name, metric in all_metrics().items()
        if metric.exact and not (metric.joint or metric.reference)
    }


def all_metrics() -> dict[str, Metric]:
    """Return every usable registered metric with its default options.

    The order is primary metrics, exact metrics, sampled metrics, and metrics that compare policies.
    """
    return dict(
        sorted(
            usable_metrics(registry().names("metric")).items(),
            key=lambda item: (not item[1].primary, item[1].joint or item[1].reference, not item[1].exact),
        )
    )


def usable_metrics(names: Iterable[str]) -> dict[str, Metric]:
    """Return those of the metrics that are registered and usable, with their default options."""
    metrics: dict[str, Metric] = {}
    for name in names:
        with contextlib.suppress(GenflowError):
            metrics[name] = registry().load("metric", name).from_config({}, f"metric {name!r}")
    return metrics


def primary_metrics() -> dict[str, Metric]:
    """Return the primary exact metrics, which progress bars show."""
    return {name: metric for name, metric in exact_metrics().items() if metric.primary}


def figures_of(population: Population) -> dict[str, float]:
    """Return the mean of each primary exact metric over a population."""
    return _means(population, primary_metrics())


def primary_figures(population: Population) -> dict[str, float]:
    """Return the mean of each primary metric that fits over a population, exact or sampled."""
    return _means(population, _fitting(population.structure))


def fits_primary(structure: Structure) -> bool:
    """Return whether a primary metric fits a structure, so that `primary_figures` has any."""
    return bool(_fitting(structure))


def _fitting(structure: Structure) -> dict[str, Metric]:
    return {
        name: metric
        for name, metric in all_metrics().items()
        if metric.primary and metric.fits(structure) and not (metric.joint or metric.reference)
    }


def _means(population: Population, metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in values_of(population, metrics).items()}


def values_of(
    population: Population,
    metrics: Mapping[str, Metric],
    checkpoints: Population | None = None,
    bar: Bar | None = None,
) -> dict[str, Tensor]:
    """Compute the values (M,) of each metric in float64, in parts where distributions are large.

    Args:
        population: the policies to measure.
        metrics: name -> metric.
        checkpoints: policies of the same structure, for metrics with `reference`.
        bar: progress bar that counts the policies that each metric has measured.
    """

    def values(metric: Metric, part: Population) -> Tensor:
        value = (metric(part, checkpoints) if metric.reference else metric(part)).double()
        if bar is not None:
            bar.set(bar.done + len(part))
        return value

    rows = [
        {name: values(metric, part) for name, metric in metrics.items() if not metric.joint}
        for part in population.parts()
    ]
    return {
        name: values(metric, population) if metric.joint else torch.cat([row[name] for row in rows])
        for name, metric in metrics.items()
    }


def measure(population: Population) -> Population:
    """Add exact metrics to the provenance of each policy, if the task can be enumerated.

    Policies that diverged in training get none.
    """
    members = population.provenance.get("members")
    if not members or not population.structure.solution.enumerable:
        return population
    sound = population.sound
    values = values_of(Population(population.structure, population.weights[sound]), exact_metrics())
    measured = [dict(member) for member in members]
    for place, i in enumerate(sound):
        measured[i]["metrics"] = {name: float(value[place]) for name, value in values.items()}
    return replace(population, provenance={**population.provenance, "members": measured})
