"""Policies for unseen tasks: generated, untrained, of the nearest task, and trained; then all trained on.

Each start is trained for some steps of trajectory balance. Divergences from the target are exact.

    genflow train-zoo --config genflow_gym/pretrained/set_addition.toml --out runs/set_addition/zoo
    python table.py set_addition --zoo runs/set_addition/zoo
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import torch

import genflow

RESULTS = Path(__file__).parent / "results"
#: what is said of each population
JS, BOUNDS = ("js",), ("log_z_gap", "kl_bound")


def unseen(name: str) -> tuple[genflow.Generator, list[genflow.Structure]]:
    """The generator that ships under a name, and the tasks that only its recipe's tests name.

    Raises:
        click.ClickException: one of them was trained or selected on, as the card says.
    """
    folder = files("genflow_gym") / "pretrained"
    recipe = tomllib.loads((folder / f"{name}.toml").read_text())
    generator = genflow.Generator.from_pretrained(str(folder / name))
    tasks = [genflow.Structure.parse(recipe["env"], text) for text in recipe["test_structures"]]
    known = [*generator.card.training_structures, *generator.card.selection_structures]
    if seen := [task.name for task in tasks if task.fields() in known]:
        raise click.ClickException(f"{seen[0]} was trained or selected on")
    return generator, tasks


def measured(population: genflow.Population) -> dict[str, float]:
    """The mean over policies of each figure."""
    names = JS if population.structure.solution.enumerable else BOUNDS
    entry = genflow.evaluate(population, names)
    return {key: value["mean"] for key, value in entry["metrics"].items()}


def compare(
    task: genflow.Structure, generator: genflow.Generator, zoo: genflow.Zoo, num: int, after: int, steps: int
) -> dict[str, Any]:
    """The figures of one task."""
    starts = {"generated": generator.generate(task, num)}
    for baseline in genflow.baselines(task, zoo, ["random", "nearest"], num):
        starts["untrained" if baseline.source == "random" else "nearest"] = baseline
    states = task.solution.n_states
    row: dict[str, Any] = {"structure": task.name, "fields": task.fields(), "states": states, "num": num}
    for name, population in starts.items():
        further = genflow.finetune(population, steps=after)
        row[name] = {"at_once": measured(population), "after": measured(further)}
    trained = genflow.finetune(starts["untrained"], steps=steps, lr=5e-3)
    row["trained"] = {"at_once": measured(trained), "seconds": trained.provenance["seconds"]}
    return row


def line(row: dict[str, Any]) -> str:
    """One line of a table in Markdown: the exact JS, or the nats by which both bounds of log Z are off."""

    def figure(values: dict[str, float]) -> str:
        if "js" not in values:
            return " / ".join(f"{values[name]:.2f}" for name in BOUNDS)
        js = values["js"]
        return f"{js:.1g}" if js < 1e-4 else f"{js:.4f}".lstrip("0")

    starts = ("generated", "untrained", "nearest")
    cells = [figure(row[name]["at_once"]) for name in (*starts, "trained")]
    cells += [figure(row[name]["after"]) for name in starts]
    states = f"{row['states']:,}" if row["states"] < 1e9 else f"{row['states']:.0e}"
    return f"| {' | '.join([row['structure'], states, *cells])} |"


@click.command()
@click.argument("name")
@click.option("--zoo", required=True, help="The zoo of the generator's recipe, for the nearest task.")
@click.option("--num", default=4, show_default=True, help="Policies of each kind.")
@click.option("--after", default=50, show_default=True, help="Steps of trajectory balance from each start.")
@click.option("--steps", default=200, show_default=True, help="Steps of the policies that are trained.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: results/NAME.json.")
def main(name: str, zoo: str, num: int, after: int, steps: int, out: Path | None) -> None:
    """Measure the generator NAME that ships on the test structures of its recipe."""
    torch.set_num_threads(1)
    generator, tasks = unseen(name)
    loaded, rows = genflow.Zoo(zoo), []
    for task in tasks:
        rows.append(compare(task, generator, loaded, num, after, steps))
        click.echo(line(rows[-1]))
        facts = {"generator": name, "num": num, "after": after, "steps": steps, "batch_size": 64}
        genflow.write_json(out or RESULTS / f"{name}.json", {**facts, "tasks": rows})


if __name__ == "__main__":
    main()
