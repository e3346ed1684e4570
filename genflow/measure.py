"""Measuring populations with every metric that fits, without naming one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.interfaces import Metric
from genflow.population import Population
from genflow.registry import registry

#: numbers of exact distributions held at once
MAX_DISTRIBUTION = 2**26


def exact_metrics() -> dict[str, Metric]:
    """Every registered exact metric with its default configuration."""
    return {name: metric for name, metric in all_metrics().items() if metric.exact}


def all_metrics() -> dict[str, Metric]:
    """Every registered metric with its default configuration, primary ones first; unusable ones are left out."""
    metrics: dict[str, Metric] = {}
    for name in registry().names("metric"):
        with contextlib.suppress(GenflowError):
            metrics[name] = registry().load("metric", name).from_config({}, f"metric {name!r}")
    return dict(sorted(metrics.items(), key=lambda item: (not item[1].primary, not item[1].exact)))


def primary_metrics() -> dict[str, Metric]:
    """The metrics that progress bars show."""
    return {name: metric for name, metric in exact_metrics().items() if metric.primary}


def figures_of(population: Population) -> dict[str, float]:
    """Mean of the primary metrics, for a progress bar."""
    return {name: float(metric(population).mean()) for name, metric in primary_metrics().items()}


def values_of(population: Population, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
    """Each metric's (M,) float64 values, a few policies at a time where distributions are large."""
    environment = population.structure.environment
    chunk = max(1, MAX_DISTRIBUTION // environment.n_states) if environment.enumerable and environment.n_states else len(population)
    parts = [population[start : start + chunk] for start in range(0, len(population), chunk)]
    rows = [{name: metric(part).double() for name, metric in metrics.items()} for part in parts]
    return {name: torch.cat([row[name] for row in rows]) for name in metrics}


def measure(population: Population) -> Population:
    """Write each member's exact metrics into its provenance; unchanged if the task is too large to enumerate."""
    members = population.provenance.get("members")
    if not members or not population.structure.environment.enumerable:
        return population
    values = values_of(population, exact_metrics())
    measured = [{**m, "metrics": {name: float(v[i]) for name, v in values.items()}} for i, m in enumerate(members)]
    return replace(population, provenance={**population.provenance, "members": measured})
