"""Exact JS by the width of a policy: generated, beside the same policy distilled alone.

python benchmarks/widths.py --out benchmarks/results/widths.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from genflow import Population, Structure, generate
from genflow.measure import figures_of
from genflow.progress import Progress
from genflow.storage.files import write_json
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

WIDTHS = (32, 48, 64, 96, 128)
#: never seen by the generator, with each width
GRIDS = ("ndim=3,height=29", "ndim=5,height=9,reward=cosine")
#: the states of one distilled alone are fresh in each step
ALONE = PolicyOptions(objective="distill", steps=4000, batch_size=512, lr=3e-3, decay=0.8)


def js(population: Population) -> float:
    """The mean exact JS of a population."""
    return figures_of(population)["js"]


def distilled(structure: Structure, seeds: int, steps: int) -> Population:
    """Policies of a structure that are distilled from untrained ones."""
    with tempfile.TemporaryDirectory() as folder:
        return train_population(
            structure,
            ALONE.model_copy(update={"steps": steps}),
            start=Population.initialised(structure, seeds, 0).weights,
            seed=0,
            folder=Path(folder),
            progress=Progress(quiet=True),
        )


@click.command()
@click.option("--structure", "names", multiple=True, metavar="NAME|key=value,...", help="Default: two grids.")
@click.option("--generator", default="hypergrid/separable", show_default=True)
@click.option("--num", default=8, show_default=True, help="Policies that are generated for each width.")
@click.option("--seeds", default=2, show_default=True, help="Policies that are distilled for each width.")
@click.option("--steps", default=ALONE.steps, show_default=True, help="Steps of those.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(names: tuple[str, ...], generator: str, num: int, seeds: int, steps: int, out: Path) -> None:
    """Generate, distil and measure, a line for each width."""
    torch.set_num_threads(1)
    figures: list[dict[str, Any]] = []
    for name in names or GRIDS:
        for width in WIDTHS:
            made = generate("hypergrid", f"{name},width={width}", num=num, generator=generator, device="cpu")
            alone = distilled(made.structure, seeds, steps)
            found = {"structure": name, "width": width, "generated": js(made), "distilled": js(alone)}
            figures.append(found | {"ratio": found["generated"] / found["distilled"]})
            click.echo(
                f"{name}, width {width}: generated {found['generated']:.5f}, distilled alone"
                f" {found['distilled']:.5f}, {figures[-1]['ratio']:.2f} times"
            )
            recipe = ALONE.model_dump(mode="json") | {"steps": steps}
            write_json(out, {"num": num, "seeds": seeds, "distilled": recipe, "figures": figures})


if __name__ == "__main__":
    main()
