"""Table 3: training on molecules from generated parameters beside random ones.

Starts:
    untrained   the architecture's own initialisation, exit biased as everywhere
    generated   policies of the generator for molecules that ships
    modules     the paper's literal experiment: untrained policies whose modules are replaced by those of
                generated hypergrid policies, wherever one has a module of the same shape: always the hidden
                layer, and the first layer where some grid has as many inputs. The output layer never fits, as
                a hypergrid has ndim + 1 actions
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from genflow import (
    Generator,
    PolicyOptions,
    Population,
    Progress,
    Structure,
    choose_metrics,
    draw_curves,
    generate,
    train_population,
    values_of,
)

from .parts import Lab, once
from .result import Cell, Picture, Result, Table

METRICS = ("molecule_modes", "top_100", "top_10", "molecule_diversity")
#: policies from each start, molecules of each in an iteration, and iterations between measurements
NUM, BATCH, EVERY = 5, 64, 50
#: the grid whose policies give their hidden layer where no grid has the inputs of the molecule policy
ANY_GRID = (4, 16)


def grid_like(structure: Structure) -> tuple[Population, bool]:
    """Return generated policies of a grid of the same width, and whether it has as many inputs."""
    inputs, width = len(structure.layout.units["input"]), structure.fields()["width"]
    generator = Generator.from_pretrained("hypergrid/separable")  # which covers grids of the most inputs
    covered = generator.card.coverage
    sizes = [(n, inputs // n) for n in range(int(covered["ndim"][1]), 0, -1) if inputs % n == 0]
    same = [size for size in sizes if 2 <= size[1] <= covered["height"][1]]
    ndim, height = same[0] if same else ANY_GRID
    grid = Structure.build("hypergrid", {"ndim": ndim, "height": height, "width": width})
    return generator.generate(grid, NUM), ndim * height == inputs


def with_modules(structure: Structure, seed: int) -> tuple[Tensor, list[str]]:
    """Return untrained policies (NUM, D) with the modules of hypergrid policies, and which were replaced."""
    tensors = dict(Population.initialised(structure, NUM, seed).state_dict())
    grid, same_inputs = grid_like(structure)
    replaced = [
        key
        for key, tensor in grid.state_dict().items()
        if tensor.shape == tensors[key].shape and (same_inputs or "net.2" in key)
    ]
    tensors |= {key: grid.state_dict()[key] for key in replaced}
    return structure.layout.flatten(tensors), replaced


def table3(lab: Lab) -> Result:
    """Train from each start, and measure modes, the best molecules and the loss by iteration."""
    rows: list[list[Cell]] = []
    pictures, notes = [], []
    for preset in lab.scale.molecules:
        structure = Structure.parse("molecule", preset)
        modules, replaced = with_modules(structure, lab.seed)
        notes.append(f"{preset}: modules replaced {', '.join(replaced)}.")
        if caution := Generator.from_pretrained("molecule").caution(structure):
            notes.append(f"The generator says: {caution}.")
        starts = {
            "untrained": Population.initialised(structure, NUM, lab.seed).weights,
            "generated": generate("molecule", structure.fields(), num=NUM, seed=lab.seed).weights,
            "modules": modules,
        }
        own = [
            row for source, start in starts.items() for row in course(lab, preset, structure, source, start)
        ]
        rows += own
        for column, said in ((3, "modes of 1,024 molecules"), (5, "mean score of the best 100")):
            lines: dict[str, list[tuple[Any, Any]]] = {}
            for row in own:
                lines.setdefault(str(row[1]), []).append((row[2], row[column]))
            caption = f"{preset}: {said} by iteration, mean of {NUM} policies."
            pictures.append(
                Picture(f"{preset}_{METRICS[(column - 3) // 2]}", draw_curves(lines, said, False), caption)
            )
    columns = ["molecules", "start", "iteration"]
    columns += [f"{metric}{spread}" for metric in METRICS for spread in ("", " (deviation)")] + ["loss"]
    note = (
        f"{NUM} policies from each start, {BATCH} molecules an iteration, trajectory balance with an"
        f" estimated log Z. {' '.join(notes)} The paper's own numbers are lost."
    )
    return Result([Table("Molecules by iteration", columns, rows, note)], pictures, _findings(rows))


def course(lab: Lab, preset: str, structure: Structure, source: str, start: Tensor) -> list[list[Cell]]:
    """Train policies from weights (NUM, D), and return a row for each time that they are measured."""
    steps = lab.scale.molecule_steps
    every = min(EVERY, steps)
    trained = once(
        lab.folder / "molecules" / f"{preset}-{source}",
        lambda folder: train_population(
            structure,
            PolicyOptions(steps=steps, lr=1e-3, batch_size=BATCH, log_z_start="estimate"),
            start=start,
            seed=lab.seed,
            folder=folder,
            progress=Progress.current(),
            checkpoints=steps // every,
            every=every,
        ),
    )
    marks = {0: Population(structure, start)}
    for place in reversed(range(steps // every)):  # the last step's checkpoint comes first
        marks[steps - place * every] = trained[place * NUM : (place + 1) * NUM]
    loss = trained.provenance["history"]["loss"]
    rows: list[list[Cell]] = []
    for iteration, population in marks.items():
        figures = _measured(population)
        cells: list[Cell] = [preset, source, iteration]
        for metric in METRICS:
            cells += [statistics.mean(figures[metric]), statistics.pstdev(figures[metric])]
        rows.append([*cells, _nearest(loss, iteration)])
    return rows


def _measured(population: Population) -> dict[str, list[float]]:
    values = values_of(population, choose_metrics(population.structure, METRICS))
    return {name: value.nan_to_num().tolist() for name, value in values.items()}


def _findings(rows: list[list[Cell]]) -> list[str]:
    ends: dict[tuple[Any, Any], list[Cell]] = {(row[0], row[1]): row for row in rows}
    return [
        f"{preset}, start {source}, after {row[2]} iterations: {row[3]:.3g} modes, best 100 {row[5]:.3g}."
        for (preset, source), row in ends.items()
    ]


def _nearest(points: Sequence[tuple[float, float]], step: float) -> float:
    """The value of a learning curve at the step that was recorded nearest to another."""
    return min(points, key=lambda point: abs(point[0] - step))[1]
