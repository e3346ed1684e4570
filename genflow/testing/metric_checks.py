"""Checks of a metric, on policies of a small task of which one is perfect.

A check takes a `MetricUnderTest`. Shapes: M policies, S states, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from genflow.interfaces.metric import Metric
from genflow.interfaces.policy import PolicyArch
from genflow.interfaces.validation import kind_of
from genflow.population import Population
from genflow.structure import Structure
from genflow.testing.outcomes import Skipped
from genflow.testing.tasks import TaskUnderTest

#: the policies of a population, and of the checkpoints that a metric may be called with
MEMBERS, CHECKPOINTS = 4, 5
#: how far policies are from uniform
SCALE = 3.0
#: the least finite logit of an action that a perfect policy never takes
LOWEST = -50.0


class Table(PolicyArch):
    """A policy that can be anything: a row of logits for each state of one task."""

    def __init__(self, inputs: Tensor) -> None:
        """Create the architecture for a task of inputs (S, s)."""
        super().__init__()
        self.inputs = inputs.double()

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """A table of zeros."""
        module = nn.Module()
        module.table = nn.Parameter(torch.zeros(len(self.inputs), n_outputs))
        return module

    def axes(self) -> dict[str, tuple[str, ...]]:
        """A row is a state."""
        return {"table": ("state", "action")}

    def condition(self) -> dict[str, float]:
        """It has no size of its own."""
        return {}

    def forward(self, module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Look up the rows of the states whose inputs these are."""
        row = torch.cdist(x.double(), self.inputs).argmin(-1)
        if row.ndim == 1:
            return weights["table"][:, row]
        return torch.stack([table[rows] for table, rows in zip(weights["table"], row, strict=True)])


class MetricUnderTest:
    """A metric and some policies that it fits."""

    def __init__(self, cls: type[Metric], structure: Structure) -> None:
        self.metric, self.name = cls.from_config({}, cls.__name__), cls.__name__
        self.structure, self.task = structure, TaskUnderTest(structure)

    @cached_property
    def population(self) -> Population:
        """M policies of the structure's own architecture, far from each other."""
        start = Population.initialised(self.structure, MEMBERS, seed=0)
        provenance = {"source": "zoo", "training_structures": [self.structure.fields()]}
        return Population(self.structure, SCALE * start.weights, provenance)

    @cached_property
    def values(self) -> Tensor:
        """What the metric says of these."""
        return self.measure(self.population)

    def measure(self, population: Population) -> Tensor:
        """Return the values of policies, beside checkpoints of a zoo if the metric takes them."""
        if not self.metric.reference:
            return self.metric(population)
        start = Population.initialised(population.structure, CHECKPOINTS, seed=1)
        noise = torch.randn(start.weights.shape, generator=torch.Generator().manual_seed(1))
        return self.metric(
            population, Population(population.structure, start.weights + noise, {"source": "zoo"})
        )

    def tables(self, make: Callable[[Tensor], Tensor]) -> Population:
        """Return policies with the logits that `make` returns of the perfect ones (S, A)."""
        task = self.task
        perfect = task.flows.policy.log().clamp(min=LOWEST)
        inputs = task.own.inputs(task.all.states)
        if len(inputs.unique(dim=0)) < len(inputs):
            raise Skipped("some states of the task have the same inputs, so that no policy is perfect")
        environment, env = self.structure.environment, self.structure.env
        structure = Structure.of(environment, Table(inputs), env, "table")
        logits = make(perfect)
        return Population(structure, logits.float().reshape(len(logits), -1), {"source": "table"})


def check_class(task: MetricUnderTest) -> Iterator[str]:
    """The class says which values are better."""
    better = getattr(task.metric, "better", "missing")
    if better not in ("lower", "higher", None):
        yield f'{task.name}.better: it is {better!r}; write better = "lower", "higher" or None'
    for flag in ("exact", "fidelity", "primary", "brief", "joint", "reference"):
        if not isinstance(getattr(task.metric, flag), bool):
            yield f"{task.name}.{flag}: it is {getattr(task.metric, flag)!r}; write {flag} = True or False"


def check_values(task: MetricUnderTest) -> Iterator[str]:
    """There is a number in float64 for each policy, the same each time, and policies stay as they are."""
    before = task.population.weights.clone()
    values = task.values
    if not isinstance(values, Tensor) or values.shape != (MEMBERS,) or values.dtype != torch.float64:
        yield (
            f"{task.name}: returns {kind_of(values)} of {MEMBERS} policies; return ({MEMBERS},) float64, NaN"
            " for a policy without a value"
        )
        return
    if values.isinf().any():
        yield f"{task.name}: returns infinity; return NaN for a policy without a value"
    elif values.isnan().all():
        yield f"{task.name}: has no value for any policy; say in fits() which structures can be measured"
    # a copy, of which nothing is kept
    again = task.measure(Population(task.structure, before.clone(), task.population.provenance))
    if not torch.equal(task.population.weights, before):
        yield f"{task.name}: changes the policies; work on copies of their weights"
    elif not torch.allclose(values, again, equal_nan=True):
        yield f"{task.name}: measures otherwise each time; seed what is random by an option `seed`"


def check_values_alone(task: MetricUnderTest) -> Iterator[str]:
    """A metric that does not sample measures each policy alone, unless it is joint.

    Raises:
        Skipped: it is joint, or samples, as its option `seed` says, so that values alone have other draws.
    """
    if task.metric.joint:
        raise Skipped("its values depend on the other policies, as joint = True says")
    if "seed" in type(task.metric.config).model_fields:
        raise Skipped("it samples, as its option `seed` says, so that a policy alone has other draws")
    alone = torch.cat([task.measure(task.population[number]) for number in range(MEMBERS)])
    if not torch.allclose(task.values, alone, rtol=1e-6, atol=1e-9, equal_nan=True):
        yield (
            f"{task.name}: a policy's value depends on the others of its population; write joint = True, or"
            " measure each alone"
        )


def check_perfect_policy(task: MetricUnderTest) -> Iterator[str]:
    """The perfect policy scores best.

    Raises:
        Skipped: the metric says of no value that it is better, does not measure fidelity, or compares
            policies; or the task cannot be enumerated.
    """
    better = task.metric.better
    if better is None:
        raise Skipped("of its values none is better, as better = None says")
    if not task.metric.fidelity:
        raise Skipped("another policy may have a better value, as fidelity = False says")
    if task.metric.joint or task.metric.reference:
        raise Skipped("it compares policies with each other, so that none is best alone")
    rng = torch.Generator().manual_seed(0)

    def beside(perfect: Tensor) -> Tensor:
        random = SCALE * torch.randn(2, *perfect.shape, generator=rng)
        return torch.cat([perfect[None], torch.zeros_like(perfect)[None], random])

    values: Any = task.measure(task.tables(beside))
    signed = values if better == "higher" else -values
    if values[0].isnan() or (signed[1:].nan_to_num(-torch.inf) > signed[0] + 1e-9).any():
        others = ", ".join(f"{value:.4g}" for value in values[1:].tolist())
        yield (
            f"{task.name}: gives the perfect policy {float(values[0]):.4g} and others {others}, though"
            f" {better} is better; correct the value or `better`, or write fidelity = False where it does not"
            " measure how well the target is sampled"
        )
