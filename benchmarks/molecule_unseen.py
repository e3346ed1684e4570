"""Exact JS on vocabularies never seen: generated policies beside what one would have without a generator.

For every test structure of a recipe: policies of the generator, uniform and untrained ones, the nearest
training structure's and their mean carried over by chemistry, and trajectory balance from scratch at stated
budgets of iterations. Writes OUT/unseen.json, and adds what is missing there.

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
from genflow.stages.generate import load_generators
from genflow.storage.files import read_json, write_json
from genflow.training.options import ZooOptions
from genflow.training.policies import train_population

BASELINES = ("uniform", "random", "nearest", "mean")
#: trajectory balance is trained for so many iterations of 64 molecules, by the default recipe of zoos
SOURCES = ("generated", *BASELINES, "tb 100", "tb 400", "tb 1000")


def kind(structure: Structure, known: set[int]) -> str:
    """Which claim a structure belongs to."""
    fields = structure.fields()
    blocks = range(fields["blocks"]) if isinstance(fields["blocks"], int) else fields["blocks"]
    seen = sum(block in known for block in blocks)
    blocks_are = "known blocks" if seen == len(blocks) else "new blocks" if not seen else "some new blocks"
    usual = {"beta": 8.0, "reward": "qed_sa", "width": 128}
    other = [key for key, value in usual.items() if fields[key] != value]
    return blocks_are + (f", other {other[0]}" if other else "")


def made(
    source: str, structure: Structure, zoo: Zoo, num: int, generator_folder: Path | None, folder: Path
) -> Population:
    """Policies of a structure from one source.

    That is "generated", a baseline, or an objective's budget such as "tb 400".
    """
    if source == "generated":
        (generator,) = load_generators(load_config(None, env="molecule"), generator_folder, [structure])
        generator.generate(
            structure, num
        )  # the first time the reward is asked for what describes the vocabulary
        return generator.generate(structure, num)
    if source in BASELINES:
        (population,) = baselines(structure, zoo, [source], num, 0, 0.1)
        return population
    options = ZooOptions(steps=int(source.split()[1]))
    start = Population.initialised(structure, 1, 0).weights
    return train_population(
        structure,
        options,
        start=start,
        seed=0,
        folder=folder / f"{structure.name}-{options.steps}",
        progress=Progress(),
    )


def table(entries: dict[str, dict[str, Any]]) -> str:
    """Median and worst JS of each kind of structures, a column for each source."""
    lines = []
    for each in dict.fromkeys(entry["kind"] for entry in entries.values()):
        own = [entry["js"] for entry in entries.values() if entry["kind"] == each]
        figures = [
            f"{source} {statistics.median(js[source] for js in own):.4f} "
            f"({max(js[source] for js in own):.4f})"
            for source in own[0]
        ]
        lines.append(f"{each} ({len(own)}), median (worst): " + ", ".join(figures))
    return "\n".join(lines)


@click.command()
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    default="plugins/genflow_molecule/pretrained/molecule.toml",
    show_default=True,
)
@click.option("--zoo", "zoo_folder", type=click.Path(path_type=Path), required=True)
@click.option(
    "--generator", "generator_folder", type=click.Path(path_type=Path), help="Default: the one that ships."
)
@click.option(
    "--num", default=8, show_default=True, help="Policies of each source; those that are trained are one."
)
@click.option("--source", "sources", multiple=True, type=click.Choice(SOURCES), help="Default: all.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(recipe, zoo_folder, generator_folder, num, sources, out):
    """Measure every test structure."""
    torch.set_num_threads(1)
    zoo, path = Zoo(zoo_folder), out / "unseen.json"
    known = {block for structure in zoo.structures for block in structure.fields()["blocks"]}
    entries: dict[str, Any] = read_json(path)["structures"] if path.exists() else {}
    for structure in load_config(recipe).unseen_structures(zoo.structures):
        new = {"kind": kind(structure, known), "structure": structure.fields(), "js": {}, "seconds": {}}
        entry = entries.setdefault(structure.name, new)
        for source in sources or SOURCES:
            if source not in entry["js"]:
                population = made(source, structure, zoo, num, generator_folder, out / "training")
                entry["js"][source] = figures_of(population)["js"]
                entry["seconds"][source] = population.provenance["seconds"]
        write_json(path, {"structures": entries})
        click.echo(f"{structure.name}: {entry['kind']}: {entry['js']}")
    click.echo(table(entries))


if __name__ == "__main__":
    main()
