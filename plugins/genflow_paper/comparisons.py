"""Tables 1, 2, 4, 5 and 9 to 16: generated policies beside trained and untrained ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from .charts import dots
from .divergences import (
    COLUMNS,
    METRICS,
    PERFECT,
    PROTOCOL,
    REFERENCE_DRAWS,
    SAID,
    impossible,
    main_models,
    measured,
    reference,
    reference_rows,
    row,
    sources,
)
from .parts import KNOWN, PREDICTIONS, WIDTHS, Lab, ModelPart, Part, Width, ZooPart, structure_of
from .printed import BY_MEMBERS, BY_STRUCTURES, MAIN, SPREAD, Printed
from .result import Cell, Picture, Result, Table
from .scale import Scale

#: how near to the perfect sampler's JS one counts as no different by the protocol
ALIKE = 0.05


def main_table(lab: Lab, names: Sequence[str]) -> Result:
    """Compare all sources on some structures at both widths: Tables 1, 2 and 9."""
    rows: list[list[Cell]] = []
    exact: dict[tuple[Width, str], list[float]] = {}
    for width in WIDTHS:
        for name in names:
            rows += reference_rows(name, width)
            for source, make in sources(lab, name, width, main_models(lab, width)).items():
                # the paper's own: its width, and its prediction of the noise
                ours = {"generated, conv1d + unet1d, noise": "generated"}.get(source, source)
                printed = MAIN.get((name, ours)) if width == "paper" else None
                found = measured(lab, name, width, source, make)
                rows.append(row(name, width, source, found, printed))
                exact.setdefault((width, source), []).append(float(found.values["js"].mean()))
    shown = [(name, printed) for (name, _), printed in MAIN.items() if name in names]
    table = Table("Divergence from the target", COLUMNS, rows, f"{PROTOCOL} {_told(shown)}")
    findings = [_ranking(width, exact) for width in WIDTHS]
    caption = f"JS by the paper's protocol and exactly. {_alike(table)}"
    return Result([table], [Picture("js", three_ways(table), caption, wide=True)], [*findings, _alike(table)])


def three_ways(table: Table) -> bytes:
    """Draw the JS of a table of `COLUMNS` by the protocol and exactly, as a PNG."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for title, column in (("the paper's protocol", "JS protocol"), ("exact", "JS exact")):
        for record in table.records():
            value = record[column]
            assert isinstance(value, float)
            label = f"{record['structure']}, d = {record['d']}"
            panels.setdefault(title, {}).setdefault(label, {})[str(record["source"])] = value
    return dots(panels, "JS", PERFECT)


def _alike(table: Table) -> str:
    """Say on which structures the protocol cannot tell an untrained policy from a perfect sampler."""
    by_protocol: dict[str, dict[str, float]] = {}
    for record in table.records():
        value = record["JS protocol"]
        assert isinstance(value, float)
        by_protocol.setdefault(f"{record['structure']} (d = {record['d']})", {})[str(record["source"])] = (
            value
        )
    alike = [name for name, js in by_protocol.items() if js["untrained"] <= (1 + ALIKE) * js[PERFECT]]
    listed = ", ".join(alike) or "none of these structures"
    return f"By the protocol an untrained policy is within a twentieth of a perfect sampler on {listed}."


def _told(printed: Sequence[tuple[str, Printed]]) -> str:
    """Say where the printed figures are from, and which of them cannot be."""
    where = ", ".join(sorted({each.where for _, each in printed}))
    said = f"Printed: {where}." if where else "What the paper prints is lost."
    odd = [
        name for name, each in printed if impossible(each, structure_of(name, "paper").solution.n_states or 0)
    ]
    if odd:
        said += (
            f" Its L1 of {', '.join(dict.fromkeys(odd))} is above 2 / S, the most by which two distributions"
            " over S objects can differ in mean, so it is of something else."
        )
    return said


def _ranking(width: Width, exact: Mapping[tuple[Width, str], Sequence[float]]) -> str:
    means = {source: sum(v) / len(v) for (w, source), v in exact.items() if w == width}
    listed = "; ".join(f"{source} {mean:.3g}" for source, mean in sorted(means.items(), key=lambda i: i[1]))
    said = "the paper's d, the square root of s" if width == "paper" else "d = 128"
    return f"Exact JS at {said}, mean over the structures, best first: {listed}."


def ablation_parts(models: Sequence[tuple[int, int]]) -> list[Part]:
    """Return the parts of a comparison of generators, given as (N, M)."""
    parts: list[Part] = [ModelPart(w, n, m, p) for w in WIDTHS for n, m in models for p in PREDICTIONS]
    return [*parts, *(ZooPart(width, known) for width in WIDTHS for known in (True, False))]


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
            rows += [["", *cells] for cells in reference_rows(name, width)]
            # what does not depend on N and M
            for source, make in sources(lab, name, width, {}).items():
                rows.append(["", *row(name, width, source, measured(lab, name, width, source, make), None)])
            for n, m in models:
                count = n if varied == "N" else m
                for prediction in PREDICTIONS:
                    model = ModelPart(width, n, m, prediction)
                    make = partial(lab.generate, model, structure_of(name, width))
                    found = measured(lab, name, width, model.place, make)
                    is_papers = width == "paper" and prediction == "epsilon"
                    printed = known.get((name, count)) if is_papers else None
                    source = f"generated, conv1d + unet1d, {SAID[prediction]}"
                    rows.append([f"{varied} = {count}", *row(name, width, source, found, printed)])
                    if prediction == "v_prediction":
                        exact.setdefault((name, width), []).append(float(found.values["js"].mean()))
    counts = ", ".join(str(n if varied == "N" else m) for n, m in models)
    findings = [
        f"Exact JS of {name} at {'the paper' if width == 'paper' else 'the useful'} width, predicting v, for"
        f" {varied} = {counts}: {', '.join(f'{value:.3g}' for value in values)}."
        for (name, width), values in exact.items()
    ]
    if varied == "N":
        counted = "training structures"
        more = (
            f"The N training structures are the first of {', '.join(KNOWN)}; the last one is ours, as the"
            " paper names no fifth. A row says whether its structure is among them."
        )
    else:
        counted, more = "checkpoints", f"N = 3, as in the paper: {', '.join(KNOWN[:3])}."
    told = _told([(name, each) for (name, _), each in known.items() if name in (letter, f"{letter}*")])
    table = Table(
        f"{letter} and {letter}* by the number of {counted}",
        (varied, *COLUMNS),
        rows,
        f"{PROTOCOL} {more} {told}",
    )
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


#: kinds of Table 16
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "best": torch.min,
    "average": torch.mean,
    "median": partial(torch.quantile, q=0.5),
}


def spread(lab: Lab) -> Result:
    """Table 16: the best, the average and the median of the policies of each known structure."""
    columns = ("structure", "d", "source", "metric", "kind", "printed", "protocol", "exact")
    rows: list[list[Cell]] = []
    for width in WIDTHS:
        for name in KNOWN[:4]:
            structure = structure_of(name, width)
            place: list[Cell] = [name, structure.fields()["width"]]
            for sampler, figures in reference(structure.solution.target()).items():
                for shown, (by_protocol, exactly) in figures.items():
                    for kind, reduce in KINDS.items():
                        value = float(reduce(by_protocol))
                        rows.append([*place, sampler, shown, kind, None, value, exactly])
            for source, make in sources(lab, name, width, main_models(lab, width)).items():
                values = measured(lab, name, width, source, make).values
                is_papers = width == "paper" and source.endswith("noise")
                for number, (shown, (_, metric, _)) in enumerate(METRICS.items()):
                    for which, (kind, reduce) in enumerate(KINDS.items()):
                        printed = SPREAD[name][number][which] if is_papers else None
                        reduced = [float(reduce(values[key])) for key in (f"hist_{metric}", metric)]
                        rows.append([*place, source, shown, kind, printed, *reduced])
    note = f"{PROTOCOL} Samplers are drawn from {REFERENCE_DRAWS} times."
    return Result([Table("Best, average and median policy", columns, rows, note)])
