"""Exact JS on vocabularies never seen: generated policies beside what one would have without a generator.

For every test structure of a recipe: policies of the generator, uniform and untrained ones, the nearest training structure's and their mean
carried over by chemistry, and trajectory balance from scratch at stated budgets of iterations. Writes OUT/unseen.json, and adds what is
missing there.

    python benchmarks/molecule_unseen.py --zoo runs/pretrained/molecule/zoo --out runs/unseen
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click
import torch

from genflow import Population, Structure, Zoo, load_config
from genflow.evaluation.baselines import baselines
from genflow.measure import figures_of
from genflow.progress import Progress
from genflow.runs import read_json, write_json
from genflow.stages import load_generators
from genflow.training.policies import ZooOptions, train_population

BASELINES = ("uniform", "random", "nearest", "mean")


def kind(structure: Structure, known: set[int]) -> str:
    """Which claim a structure belongs to."""
    fields = structure.fields()
    blocks = range(fields["blocks"]) if isinstance(fields["blocks"], int) else fields["blocks"]
    seen = sum(block in known for block in blocks)
    blocks_are = "known blocks" if seen == len(blocks) else "new blocks" if not seen else "some new blocks"
    usual = {"beta": 8.0, "reward": "qed_sa", "width": 128}
    other = [key for key, value in usual.items() if fields[key] != value]
    return blocks_are + (f", other {other[0]}" if other else "")


def measured(structure: Structure, generator: Any, zoo: Zoo, num: int, budgets: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Mean exact JS of each source of policies, and seconds of those that take any."""
    generator.generate(structure, num)  # the first time the reward is asked for what describes the vocabulary
    generated = generator.generate(structure, num)
    entry: dict[str, Any] = {"js": {"generated": figures_of(generated)["js"]}, "seconds": {"generated": generated.provenance["seconds"]}}
    for population in baselines(structure, zoo, BASELINES, num, 0, 0.1):
        entry["js"][population.source] = figures_of(population)["js"]
    for steps in budgets:
        start = Population.initialised(structure, 1, 0).weights
        options = ZooOptions(steps=steps)
        trained = train_population(
            structure, options, start=start, seed=0, folder=folder / f"{structure.name}-{steps}", progress=Progress()
        )
        entry["js"][f"trained {steps}"] = figures_of(trained)["js"]
        entry["seconds"][f"trained {steps}"] = trained.provenance["seconds"]
    return entry


def table(entries: dict[str, dict[str, Any]]) -> str:
    """Median and worst JS of each kind of structures, a column for each source."""
    lines = []
    for each in dict.fromkeys(entry["kind"] for entry in entries.values()):
        own = [entry["js"] for entry in entries.values() if entry["kind"] == each]
        figures = [f"{source} {statistics.median(js[source] for js in own):.4f} ({max(js[source] for js in own):.4f})" for source in own[0]]
        lines.append(f"{each} ({len(own)}), median (worst): " + ", ".join(figures))
    return "\n".join(lines)


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default="plugins/genflow_molecule/pretrained/molecule.toml", show_default=True)
@click.option("--zoo", "zoo_folder", type=click.Path(path_type=Path), required=True)
@click.option("--generator", "generator_folder", type=click.Path(path_type=Path), help="Default: the one that ships.")
@click.option("--num", default=8, show_default=True, help="Policies of each source; those that are trained are one.")
@click.option("--iterations", default="100,400,1000", show_default=True, help="Budgets of trajectory balance, 64 molecules an iteration.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(recipe, zoo_folder, generator_folder, num, iterations, out):
    """Measure every test structure."""
    torch.set_num_threads(1)
    config, zoo = load_config(recipe), Zoo(zoo_folder)
    tests = config.unseen_structures(zoo.structures)
    generators = load_generators(config, generator_folder, tests)
    known = {block for structure in zoo.structures for block in structure.fields()["blocks"]}
    path = out / "unseen.json"
    entries: dict[str, Any] = read_json(path)["structures"] if path.exists() else {}
    for structure, generator in zip(tests, generators, strict=True):
        if structure.name not in entries:
            budgets = tuple(int(number) for number in iterations.split(","))
            entry = measured(structure, generator, zoo, num, budgets, out / "training")
            entries[structure.name] = {"kind": kind(structure, known), "structure": structure.fields(), **entry}
            write_json(path, {"structures": entries})
            click.echo(f"{structure.name}: {entries[structure.name]['kind']}: {entry['js']}")
    click.echo(table(entries))


if __name__ == "__main__":
    main()
