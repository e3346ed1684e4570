"""Figures 4, 5, 7, 8 and 9: learning curves, weight matrices, and samples beside the truth.

Shapes: K policies, S states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genflow import draw_curves, draw_marginals, draw_matrices, finetune, js

from .divergences import brief_source, main_models, sources
from .parts import Lab, structure_of
from .result import Cell, Picture, Result, Table

#: policies whose matrices are drawn, as in the paper
DRAWN = 4
#: policies that are trained from each start, and trajectories of each in a step
TUNED, TRAJECTORIES = 4, 16
#: draws of Figure 9
SAMPLES = 2000
#: the structures of Figure 4: two known and two unknown ones
TUNED_ON = ("A", "B", "A*", "C*")


def mean_reward(target: Tensor, log_z: float) -> float:
    """Return the mean reward of a perfect sampler, the sum of p R with R = Z p, of a target p (S,)."""
    return float((target.double().square()).sum() * torch.tensor(log_z, dtype=torch.float64).exp())


def tuning(lab: Lab) -> Result:
    """Figure 4: the mean reward while training from generated and from random starts."""
    rows: list[list[Cell]] = []
    exact: list[list[Cell]] = []
    pictures, findings = [], []
    for name in TUNED_ON:
        structure = structure_of(name, "useful")
        solution = structure.solution
        ideal = mean_reward(solution.target(), solution.log_partition())
        curves: dict[str, Any] = {}
        starts = sources(lab, name, "useful", main_models(lab, "useful"))
        for source in [label for label in starts if label != "trained"]:
            start = starts[source]()[:TUNED]
            # without exploration, which would hide what the policies have learned
            trained = finetune(
                start,
                out=lab.folder / "tuned" / structure.name / source.replace(" ", ""),
                seed=lab.seed,
                device="cpu",
                steps=lab.scale.tuning_steps,
                batch_size=TRAJECTORIES,
                epsilon=0.0,
                start="population",
            )
            points = [(step, value) for step, value in trained.provenance["history"]["reward"]]
            curves[source] = points
            rows += [[name, source, step, value, ideal] for step, value in points]
            divergences = [
                float(js(solution.target(), p.terminal_distribution()).mean()) for p in (start, trained)
            ]
            exact.append([name, source, *divergences])
        last = curves["untrained"][-1][0]
        curves["a perfect sampler"] = [(1, ideal), (last, ideal)]
        known = "known" if name in ("A", "B") else "unknown"
        caption = (
            f"Mean reward of what is sampled while training on {name} ({known}) by trajectory balance,"
            f" {TRAJECTORIES} trajectories a step, mean of {len(start)} policies. A perfect sampler has"
            f" {ideal:.3g}: above it a policy prefers the highest rewards too much."
        )
        pictures.append(
            Picture(
                f"reward_{name.replace('*', '_star')}", draw_curves(curves, "mean reward", False), caption
            )
        )
        first = "; ".join(f"{source} {points[0][1]:.3g}" for source, points in curves.items())
        findings.append(f"Mean reward at the first step that is recorded, on {name}: {first}.")
    columns = ("structure", "start", "step", "mean reward", "mean reward of a perfect sampler")
    ends = ("structure", "start", "JS before", "JS after")
    note = "Mean exact JS of the same policies before the first step and after the last one."
    tables = [
        Table("What the mean reward does not tell", ends, exact, note),
        Table("Mean reward in training", columns, rows),
    ]
    return Result(tables, pictures, findings)


def matrices(lab: Lab, layer: int) -> Result:
    """Figures 5, 7 and 8: the weight matrices of a layer of four policies of A from each source."""
    pictures = []
    rows: list[list[Cell]] = []
    for width in ("paper", "useful"):
        structure = structure_of("A", width)
        name = [key for key, shape in structure.layout.shapes.items() if len(shape) == 2][layer - 1]
        shown = {}
        for source, make in sources(lab, "A", width, main_models(lab, width)).items():
            group = make()[:DRAWN].state_dict()[name]
            shown[brief_source(source)] = group
            flat = group.double().flatten(1)
            apart = torch.cdist(flat, flat).sum() / (len(flat) * (len(flat) - 1)) / flat.norm(dim=1).mean()
            rows.append(["A", structure.fields()["width"], source, name, float(apart)])
        d = structure.fields()["width"]
        caption = (
            f"Weights of layer {layer} of policies of A with d = {d}: a row for each source, a panel for each"
            " policy."
        )
        pictures.append(
            Picture(
                f"layer{layer}_{width}", draw_matrices(shown, *structure.layout.axes[name]), caption, True
            )
        )
    note = "Distance: the mean L2 distance between two policies' matrices over their mean norm; 0 is a copy."
    columns = ("structure", "d", "source", "tensor", "distance")
    findings = [
        f"Layer {layer}, d = {r[1]}, {r[2]}: policies are {float(r[4] or 0):.2f} of the norm apart."
        for r in rows
    ]
    return Result([Table("How different the matrices are", columns, rows, note)], pictures, findings)


def samples(lab: Lab) -> Result:
    """Figure 9: what policies of B sample beside the truth, seen along the first two coordinates."""
    pictures = []
    for width in ("paper", "useful"):
        structure = structure_of("B", width)
        target = structure.solution.target()
        shown = {"target": target}
        for source, make in sources(lab, "B", width, main_models(lab, width)).items():
            exact = make()[:1].terminal_distribution()
            rng = torch.Generator().manual_seed(lab.seed)
            drawn = torch.multinomial(exact, SAMPLES, replacement=True, generator=rng)[0]
            shown[brief_source(source)] = torch.bincount(drawn, minlength=len(target)).double() / SAMPLES
        png = draw_marginals(structure.solution.graph.states, shown)
        assert png is not None
        d = structure.fields()["width"]
        caption = f"{SAMPLES:,} samples of one policy from each source for B with d = {d}, and the truth."
        pictures.append(Picture(f"samples_{width}", png, caption, True))
    return Result(pictures=pictures)
