"""The paper's Table 3 on molecules: training that starts from generated parameters beside random ones.

Modes found, top-100 score and loss by iteration, each policy of a start its own seed. Starts:

    random      the architecture's own initialisation, exit biased as everywhere (`initial_logits`)
    generated   policies of a molecule generator
    modules     the paper's literal experiment: random policies whose modules are replaced by those of
                hypergrid policies, wherever a generated hypergrid policy has a module of the same shape:
                always the hidden layer, and the first layer where some grid has as many inputs
                (ndim * height). The output layer never fits: a hypergrid has ndim + 1 actions

    python benchmarks/molecule_table3.py --structure medium --structure full --out runs/table3
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor

from genflow import GenflowError, Population, Structure, load_config
from genflow.evaluation import pictures
from genflow.evaluation.evaluate import choose_metrics
from genflow.measure import values_of
from genflow.progress import Progress
from genflow.stages.generate import load_generators
from genflow.storage.files import read_json, write_bytes, write_json
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

STARTS = ("random", "generated", "modules")
METRICS = ("molecule_modes", "top_100", "top_10", "molecule_diversity", "length")
#: the grid whose policies give their hidden layer where no grid has the inputs of the molecule policy
ANY_GRID = {"ndim": 4, "height": 16}


def grid_like(structure: Structure, folder: Path | None) -> tuple[Structure, Any, bool]:
    """A grid of the same width, a generator that covers it, and whether it has as many inputs."""
    n_inputs, width = len(structure.layout.units["input"]), structure.fields()["width"]
    config = load_config(None, env="hypergrid")
    for ndim in range(8, 0, -1):
        if n_inputs % ndim == 0 and n_inputs // ndim > 1:
            try:
                grid = Structure.build(
                    "hypergrid", {"ndim": ndim, "height": n_inputs // ndim, "width": width}
                )
                return grid, load_generators(config, folder, [grid])[0], True
            except GenflowError:
                continue  # higher than the generator covers
    grid = Structure.build("hypergrid", {**ANY_GRID, "width": width})
    return grid, load_generators(config, folder, [grid])[0], False


def start_of(
    name: str, structure: Structure, num: int, seed: int, generators: dict[str, Path | None]
) -> tuple[Tensor, dict[str, Any]]:
    """(M, D) starting weights, and how they came about."""
    random = Population.initialised(structure, num, seed)
    if name == "random":
        return random.weights, {}
    if name == "generated":
        (generator,) = load_generators(load_config(None, env="molecule"), generators["molecule"], [structure])
        generator.generate(structure, num, seed)  # the first time it makes its tables
        made = generator.generate(structure, num, seed)
        return made.weights, {
            "seconds": made.provenance["seconds"],
            "seen": made.seen,
            "caution": generator.caution(structure),
        }
    grid, generator, same_inputs = grid_like(structure, generators["hypergrid"])
    given, tensors = generator.generate(grid, num, seed).state_dict(), dict(random.state_dict())
    replaced = [
        key
        for key, tensor in given.items()
        if tensor.shape == tensors[key].shape and (same_inputs or "net.2" in key)
    ]
    tensors |= {key: given[key] for key in replaced}
    return structure.layout.flatten(tensors), {"grid": grid.fields(), "replaced": replaced}


def measured(population: Population) -> list[dict[str, float | None]]:
    """The metrics of each policy."""
    values = values_of(population, choose_metrics(population.structure, METRICS))
    rows = zip(*(v.tolist() for v in values.values()), strict=True)
    return [dict(zip(values, row, strict=True)) for row in rows]


def experiment(
    structure: Structure,
    name: str,
    num: int,
    seed: int,
    options: PolicyOptions,
    every: int,
    folder: Path,
    generators: dict,
) -> dict:
    """The course of one start: metrics of every policy at every mark, and the loss in between."""
    weights, facts = start_of(name, structure, num, seed, generators)
    checkpoints = options.steps // every
    trained = train_population(
        structure,
        options,
        start=weights,
        seed=seed,
        folder=folder,
        progress=Progress(),
        checkpoints=checkpoints,
        every=every,
    )
    marks = {0: measured(Population(structure, weights, {}))}
    for row in reversed(range(checkpoints)):  # the last step's checkpoint comes first
        marks[options.steps - row * every] = measured(trained[row * num : (row + 1) * num])
    return {
        "start": name,
        "facts": facts,
        "marks": [{"iteration": iteration, "policies": policies} for iteration, policies in marks.items()],
        "loss": trained.provenance["history"]["loss"],
        "seconds": trained.provenance["seconds"],
    }


def table(result: dict) -> str:
    """Mean and standard deviation over the seeds, a line for each start and mark."""
    lines = [
        f"{result['name']}: {result['num']} seeds, {result['options']['batch_size']} molecules an iteration"
    ]
    for run in result["runs"]:
        for mark in run["marks"]:
            figures = []
            for metric in METRICS:
                values = [policy[metric] for policy in mark["policies"] if policy[metric] is not None]
                figures.append(
                    f"{metric} {statistics.mean(values):.3f} ({statistics.pstdev(values):.3f})"
                    if values
                    else f"{metric} -"
                )
            loss = min(run["loss"], key=lambda point: abs(point[0] - mark["iteration"]))[1]
            lines.append(
                f"  {run['start']:>10} I={mark['iteration']:<5} {'  '.join(figures)}  loss {loss:.3g}"
            )
    return "\n".join(lines)


def picture(results: list[dict]) -> bytes:
    """A row for each structure: modes, top-100 and loss over the iterations, with the spread of the seeds."""
    figure = Figure(figsize=(10, 0.4 + 2.9 * len(results)), layout="constrained")
    grid = figure.subplots(len(results), 3, squeeze=False)
    colours = dict(zip(STARTS, ("#878787", "#d6604d", "#2166ac"), strict=True))
    for row, result in zip(grid, results, strict=True):
        for run in result["runs"]:
            steps = [mark["iteration"] for mark in run["marks"]]
            for axes, metric in zip(row, ("molecule_modes", "top_100"), strict=False):
                values = torch.tensor(
                    [[policy[metric] for policy in mark["policies"]] for mark in run["marks"]]
                )
                axes.plot(
                    steps,
                    values.mean(1),
                    color=colours[run["start"]],
                    label=run["start"],
                    marker="o",
                    markersize=3,
                )
                axes.fill_between(
                    steps,
                    values.amin(1),
                    values.amax(1),
                    color=colours[run["start"]],
                    alpha=0.15,
                    linewidth=0,
                )
                axes.set(
                    xlabel="iteration",
                    ylabel={"molecule_modes": "modes of 1,024 molecules", "top_100": "top-100 score"}[metric],
                )
            row[2].plot(*zip(*run["loss"], strict=True), color=colours[run["start"]])
            row[2].set(xlabel="iteration", ylabel="trajectory balance loss", yscale="log")
        row[0].set_title(result["label"], loc="left", fontsize=11)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return pictures.png(figure)


@click.command()
@click.option("--structure", "names", multiple=True, required=True, metavar="NAME|key=value,...")
@click.option("--start", "starts", multiple=True, type=click.Choice(STARTS), help="Default: all.")
@click.option(
    "--generator", type=click.Path(path_type=Path), help="Of molecules; default: the one that ships."
)
@click.option("--hypergrid-generator", type=click.Path(path_type=Path), help="Default: the one that ships.")
@click.option("--num", default=5, show_default=True, help="Seeds of each start.")
@click.option("--iterations", default=500, show_default=True)
@click.option("--every", default=50, show_default=True, help="Iterations between two marks.")
@click.option("--batch", default=64, show_default=True, help="Molecules an iteration.")
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(names, starts, generator, hypergrid_generator, num, iterations, every, batch, lr, seed, out):
    """Train from each start; finished ones are kept."""
    torch.set_num_threads(1)
    options = PolicyOptions(steps=iterations, lr=lr, batch_size=batch, log_z_start="estimate")
    generators = {"molecule": generator, "hypergrid": hypergrid_generator}
    results = []
    for label in names:
        structure = Structure.parse("molecule", label)
        result = {
            "label": label,
            "name": structure.name,
            "structure": structure.fields(),
            "num": num,
            "seed": seed,
        }
        result |= {"options": options.model_dump(mode="json"), "runs": []}
        for start in starts or STARTS:
            path = out / f"{structure.name}-{start}.json"
            if not path.exists():
                folder = out / "training" / f"{structure.name}-{start}"
                write_json(path, experiment(structure, start, num, seed, options, every, folder, generators))
            result["runs"].append(read_json(path))
        click.echo(table(result))
        results.append(result)
    write_json(out / "table3.json", {"results": results})
    write_bytes(out / "table3.png", picture(results))


if __name__ == "__main__":
    main()
