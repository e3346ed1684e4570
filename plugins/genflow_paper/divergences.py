"""How far policies are from the target, three ways: the rows of the tables.

The three are what the paper prints, ours by the paper's protocol (a histogram of draws) and ours exactly.
Shapes: K policies of a source, S objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from genflow_metrics.divergence import HistogramJS, HistogramKL, HistogramL1
from torch import Tensor

from genflow import Population, choose_metrics, js, kl, mean_l1, values_of

from .parts import PREDICTIONS, WIDTHS, Lab, ModelPart, Part, Width, ZooPart, structure_of
from .printed import Printed
from .result import Cell
from .scale import Scale

#: what is shown -> the divergence, its metric's name, and the metric by the paper's protocol
METRICS = {"JS": (js, "js", HistogramJS), "KL": (kl, "kl", HistogramKL), "L1": (mean_l1, "l1", HistogramL1)}
#: the names of what the denoiser predicts, as the rows say them
SAID = {"epsilon": "noise", "v_prediction": "v"}
#: how often samplers that are known exactly are drawn from
REFERENCE_DRAWS = 16
#: a sampler without error, and one that prefers high rewards
PERFECT, GREEDY = "perfect sampler", "sampler of R squared"
PROTOCOL = (
    f"Protocol: a histogram of {HistogramJS().config.draws} draws, as the paper's JS of A fits."
    " Exact: dynamic programming over all objects. The perfect sampler draws from the target itself,"
    " that of R squared from what is proportional to the square of the reward: where objects are many"
    " more than draws it scores better by the protocol than the perfect one. Seconds: of trained"
    " policies the training of all runs of the structure, of generated ones drawing them all, without"
    " the training of the generator; the paper's are of eight GPUs."
)
COLUMNS = (
    "structure",
    "d",
    "trained on",
    "source",
    "policies",
    *(f"{name} {kind}" for name in METRICS for kind in ("printed", "protocol", "exact")),
    "seconds printed",
    "seconds",
)


class Measured(NamedTuple):
    """How many policies there are, whether they were trained on their structure, seconds and metrics (K,)."""

    num: int
    seen: bool
    seconds: float | None
    values: dict[str, Tensor]


def measured(lab: Lab, name: str, width: Width, source: str, make: Callable[[], Population]) -> Measured:
    """Return the exact and the histogram metrics of the policies of a source, which are measured once."""
    key = (name, width, source)
    if key not in lab.measured:
        population = make()
        names = [f"{kind}{name}" for _, name, _ in METRICS.values() for kind in ("", "hist_")]
        values = values_of(population, choose_metrics(population.structure, names))
        seconds = population.provenance.get("seconds")
        lab.measured[key] = Measured(len(population), population.seen, seconds, values)
    return lab.measured[key]


def reference(target: Tensor) -> dict[str, dict[str, tuple[Tensor, float]]]:
    """Return what samplers that are known exactly score for a target (S,).

    Returns:
        {sampler: {what is shown: (by the protocol (REFERENCE_DRAWS,), exactly)}}.
    """
    squared = target.square() / target.square().sum()
    return {
        sampler: {
            shown: (metric().of(target, q.expand(REFERENCE_DRAWS, -1)), float(divergence(target, q[None])))
            for shown, (divergence, _, metric) in METRICS.items()
        }
        for sampler, q in ((PERFECT, target), (GREEDY, squared))
    }


def reference_rows(name: str, width: Width) -> list[list[Cell]]:
    """Return the rows of `COLUMNS` of the samplers that are known exactly."""
    structure = structure_of(name, width)
    rows = []
    for sampler, figures in reference(structure.solution.target()).items():
        cells: list[Cell] = [name, structure.fields()["width"], "", sampler, REFERENCE_DRAWS]
        for by_protocol, exact in figures.values():
            cells += [None, float(by_protocol.mean()), exact]
        rows.append([*cells, None, None])
    return rows


def sources(
    lab: Lab, name: str, width: Width, models: Mapping[str, ModelPart]
) -> dict[str, Callable[[], Population]]:
    """Return what makes policies of a structure: {label: policies}, untrained, trained and generated."""
    structure = structure_of(name, width)
    made: dict[str, Callable[[], Population]] = {
        "untrained": lambda: lab.untrained(name, width),
        "trained": lambda: lab.trained(name, width),
    }
    for label, model in models.items():
        made[label] = partial(lab.generate, model, structure)
    shipped = "hypergrid/narrow" if width == "paper" else "hypergrid/default"
    made["generated, coordinate"] = partial(lab.generate, shipped, structure)
    return made


def brief_source(source: str) -> str:
    """Return the label of a source as pictures with little room show it."""
    return source.removeprefix("generated, ").replace(" + unet1d", "")


def row(name: str, width: Width, source: str, found: Measured, printed: Printed | None) -> list[Cell]:
    """Return the row of `COLUMNS` of what was measured of a source."""
    d = structure_of(name, width).fields()["width"]
    cells: list[Cell] = [name, d, "yes" if found.seen else "no", source, found.num]
    for shown, (_, metric, _) in METRICS.items():
        cells += [
            getattr(printed, shown.lower()) if printed else None,
            float(found.values[f"hist_{metric}"].mean()),
            float(found.values[metric].mean()),
        ]
    return [*cells, printed.seconds if printed else None, found.seconds]


def main_models(lab: Lab, width: Width) -> dict[str, ModelPart]:
    """Return the generators of the main tables at a width, by the label of their rows."""
    return {
        f"generated, conv1d + unet1d, {SAID[prediction]}": ModelPart(width, 4, lab.scale.standard, prediction)
        for prediction in PREDICTIONS
    }


def main_generators(scale: Scale, widths: Sequence[Width] = WIDTHS) -> list[Part]:
    """Return the generators of the main tables."""
    return [ModelPart(width, 4, scale.standard, p) for width in widths for p in PREDICTIONS]


def main_parts(scale: Scale, widths: Sequence[Width] = WIDTHS, unknown: bool = True) -> list[Part]:
    """Return the generators of the main tables, and policies that are trained to compare."""
    compared = [
        ZooPart(width, known) for width in widths for known in ((True, False) if unknown else (True,))
    ]
    return [*main_generators(scale, widths), *compared]


def impossible(printed: Printed, n_objects: int) -> bool:
    """Return whether a printed mean L1 is above 2 / S, the most that two distributions can differ by.

    It may have been rounded up by half of its last digit.
    """
    value = Decimal(str(printed.l1))
    half = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
    return float(value - half) > 2 / n_objects
