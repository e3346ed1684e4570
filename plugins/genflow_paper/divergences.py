"""Tables 1, 2, 4, 5, 9 to 13, 15 and 16: how far policies are from the target, three ways.

The three are what the paper prints, ours by the paper's protocol (a histogram of draws) and ours exactly.
Shapes: K policies of a source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from genflow_metrics.divergence import HistogramJS, HistogramKL, HistogramL1
from torch import Tensor

from genflow import Population, choose_metrics, values_of

from .charts import dots
from .parts import KNOWN, PREDICTIONS, WIDTHS, Lab, ModelPart, Part, TrainedPart, Width, ZooPart, structure_of
from .printed import BY_MEMBERS, BY_STRUCTURES, MAIN, SPREAD, Printed
from .result import Cell, Picture, Result, Table
from .scale import Scale

#: what is shown -> the exact metric and the one by the paper's protocol
METRICS = {"JS": ("js", HistogramJS), "KL": ("kl", HistogramKL), "L1": ("l1", HistogramL1)}
#: the names of what the denoiser predicts, as the rows say them
SAID = {"epsilon": "noise", "v_prediction": "v"}
#: how often a perfect sampler is drawn from, for the floor of the protocol
FLOOR_DRAWS = 16
PROTOCOL = (
    f"Protocol: a histogram of {HistogramJS().config.draws} draws, as the paper's numbers fit. Exact: dynamic"
    " programming over all objects. The perfect sampler draws from the target itself; what it scores by the"
    " protocol is the least that any policy can."
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
        names = [name for name, _ in METRICS.values()] + [f"hist_{name}" for name, _ in METRICS.values()]
        values = values_of(population, choose_metrics(population.structure, names))
        seconds = population.provenance.get("seconds")
        lab.measured[key] = Measured(len(population), population.seen, seconds, values)
    return lab.measured[key]


def floor(target: Tensor) -> dict[str, float]:
    """Return what a perfect sampler of a target (S,) scores by the paper's protocol, by the name shown."""
    perfect = target.expand(FLOOR_DRAWS, -1)
    return {name: float(metric().of(target, perfect).mean()) for name, (_, metric) in METRICS.items()}


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


def row(name: str, width: Width, source: str, found: Measured, printed: Printed | None) -> list[Cell]:
    """Return the row of `COLUMNS` of what was measured of a source."""
    d = structure_of(name, width).fields()["width"]
    cells: list[Cell] = [name, d, "yes" if found.seen else "no", source, found.num]
    for shown, (exact, _) in METRICS.items():
        cells += [
            getattr(printed, shown.lower()) if printed else None,
            float(found.values[f"hist_{exact}"].mean()),
            float(found.values[exact].mean()),
        ]
    return [*cells, printed.seconds if printed else None, found.seconds]


def floor_row(name: str, width: Width) -> list[Cell]:
    """Return the row of the perfect sampler."""
    structure = structure_of(name, width)
    cells: list[Cell] = [name, structure.fields()["width"], "", "perfect sampler", FLOOR_DRAWS]
    for least in floor(structure.solution.target()).values():
        cells += [None, least, 0.0]
    return [*cells, None, None]


def main_models(lab: Lab, width: Width) -> dict[str, ModelPart]:
    """Return the generators of the main tables at a width, by the label of their rows."""
    return {
        f"generated, conv1d + unet1d, {SAID[prediction]}": ModelPart(width, 4, lab.scale.standard, prediction)
        for prediction in PREDICTIONS
    }


def main_parts(scale: Scale, unknown: bool) -> list[Part]:
    """Return the parts of the main tables."""
    parts: list[Part] = [ModelPart(width, 4, scale.standard, p) for width in WIDTHS for p in PREDICTIONS]
    return [*parts, *(TrainedPart(width) if unknown else ZooPart(width) for width in WIDTHS)]


def main_table(lab: Lab, names: Sequence[str]) -> Result:
    """Compare all sources on some structures at both widths: Tables 1, 2 and 9."""
    rows: list[list[Cell]] = []
    exact: dict[tuple[Width, str], list[float]] = {}
    for width in WIDTHS:
        for name in names:
            rows.append(floor_row(name, width))
            for source, make in sources(lab, name, width, main_models(lab, width)).items():
                # the paper's own: its width, and its prediction of the noise
                ours = {"generated, conv1d + unet1d, noise": "generated"}.get(source, source)
                printed = MAIN.get((name, ours)) if width == "paper" else None
                found = measured(lab, name, width, source, make)
                rows.append(row(name, width, source, found, printed))
                exact.setdefault((width, source), []).append(float(found.values["js"].mean()))
    where = sorted({MAIN[key].where for key in MAIN if key[0] in names})
    told = ", ".join(where)
    note = f"{PROTOCOL} Printed: as the paper's text has it in {told}; tables that are pictures are lost."
    findings = [_ranking(width, exact) for width in WIDTHS]
    table = Table("Divergence from the target", COLUMNS, rows, note)
    caption = (
        "JS by the paper's protocol and exactly. By the protocol all policies lie where a perfect sampler"
        " does (the black lines), untrained ones too; exactly, they are far apart."
    )
    return Result([table], [Picture("js", three_ways(table), caption, wide=True)], findings)


def three_ways(table: Table) -> bytes:
    """Draw the JS of a table of `COLUMNS` by the protocol and exactly, as a PNG."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for title, column in (("the paper's protocol", "JS protocol"), ("exact", "JS exact")):
        for record in table.records():
            value = record[column]
            assert isinstance(value, float)
            row = panels.setdefault(title, {}).setdefault(f"{record['structure']}, d = {record['d']}", {})
            row[str(record["source"])] = value
    return dots(panels, "JS", "perfect sampler")


def _ranking(width: Width, exact: Mapping[tuple[Width, str], Sequence[float]]) -> str:
    means = {source: sum(v) / len(v) for (w, source), v in exact.items() if w == width}
    listed = ", ".join(f"{source} {mean:.3g}" for source, mean in sorted(means.items(), key=lambda i: i[1]))
    said = "the paper's d, the square root of s" if width == "paper" else "d = 128"
    return f"Exact JS at {said}, mean over the structures, best first: {listed}."


def ablation_parts(models: Sequence[tuple[int, int]]) -> list[Part]:
    """Return the parts of a comparison of generators, given as (N, M)."""
    return [ModelPart(width, n, m, p) for width in WIDTHS for n, m in models for p in PREDICTIONS]


def by_structures(scale: Scale) -> list[tuple[int, int]]:
    """Return the (N, M) of Tables 4 and 10 to 12."""
    return [(n, scale.standard) for n in (2, 3, 4, 5)]


def by_members(scale: Scale) -> list[tuple[int, int]]:
    """Return the (N, M) of Tables 5 and 13 to 15; the paper fixes N = 3."""
    return [(3, m) for m in scale.members]


def ablation(lab: Lab, letter: str, models: Sequence[tuple[int, int]], varied: str) -> Result:
    """Compare generators that differ in the number of structures or of checkpoints.

    Args:
        lab: what they are made in.
        letter: a known structure, measured beside its starred one.
        models: their (N, M).
        varied: "N" or "M".
    """
    known = BY_STRUCTURES if varied == "N" else BY_MEMBERS
    rows: list[list[Cell]] = []
    exact: dict[tuple[str, Width], list[float]] = {}
    for name in (letter, f"{letter}*"):
        for width in WIDTHS:
            rows.append(["", *floor_row(name, width)])
            for n, m in models:
                count = n if varied == "N" else m
                for prediction in PREDICTIONS:
                    model = ModelPart(width, n, m, prediction)
                    make = partial(lab.generate, model, structure_of(name, width))
                    found = measured(lab, name, width, model.place, make)
                    is_papers = width == "paper" and prediction == "epsilon"
                    printed = known.get((name, count)) if is_papers else None
                    cells = row(name, width, f"generated, {SAID[prediction]}", found, printed)
                    rows.append([f"{varied} = {count}", *cells])
                    if prediction == "v_prediction":
                        exact.setdefault((name, width), []).append(float(found.values["js"].mean()))
    counts = ", ".join(str(n if varied == "N" else m) for n, m in models)
    findings = [
        f"Exact JS of {name} at {'the paper' if width == 'paper' else 'the useful'} width for"
        f" {varied} = {counts}: {', '.join(f'{value:.3g}' for value in found)}."
        for (name, width), found in exact.items()
    ]
    if varied == "N":
        listed = ", ".join(KNOWN)
        more = (
            f" The N training structures are the first of {listed}; the last one is ours, as the paper names"
            " no fifth. A row says whether its structure is among them."
        )
    else:
        more = f" N = 3, as in the paper: {', '.join(KNOWN[:3])}."
    title = (
        f"{letter} and {letter}* by the number of {'training structures' if varied == 'N' else 'checkpoints'}"
    )
    table = Table(title, (varied, *COLUMNS), rows, PROTOCOL + more)
    caption = f"Exact JS of generated policies by {varied}: a row for each structure, width and prediction."
    return Result([table], [Picture("js", by_count(table, varied), caption)], findings)


def by_count(table: Table, varied: str) -> bytes:
    """Draw the exact JS of the table of an ablation, as a PNG."""
    rows: dict[str, dict[str, float]] = {}
    for record in table.records():
        value = record["JS exact"]
        if record[varied] and isinstance(value, float):
            label = f"{record['structure']}, d = {record['d']}, {str(record['source']).split(', ')[-1]}"
            rows.setdefault(label, {})[str(record[varied])] = value
    return dots({"": rows}, "exact JS")


def spread(lab: Lab) -> Result:
    """Table 16: the best, the average and the median of the policies of each known structure."""
    columns = ("structure", "d", "source", "metric", "kind", "printed", "protocol", "exact")
    rows: list[list[Cell]] = []
    for width in WIDTHS:
        for name in KNOWN[:4]:
            for source, make in sources(lab, name, width, main_models(lab, width)).items():
                values = measured(lab, name, width, source, make).values
                is_papers = width == "paper" and source.endswith("noise")
                for place, (shown, (exact, _)) in enumerate(METRICS.items()):
                    kinds: dict[str, Callable[[Tensor], Tensor]] = {
                        "best": torch.min,
                        "average": torch.mean,
                        "median": torch.median,
                    }
                    for number, (kind, reduce) in enumerate(kinds.items()):
                        printed = SPREAD[name][place][number] if is_papers else None
                        figures = [float(reduce(values[key])) for key in (f"hist_{exact}", exact)]
                        d = structure_of(name, width).fields()["width"]
                        rows.append([name, d, source, shown, kind, printed, *figures])
    return Result([Table("Best, average and median policy", columns, rows, PROTOCOL)])
