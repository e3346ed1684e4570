"""Exact JS by the width of a policy: generated, beside the same policy distilled alone.

With --why it is taken apart instead: what drawing latents costs, what some steps of distillation from the
generated policies gain, and what policies of structures that the generator was trained on have.

    python benchmarks/widths.py --out benchmarks/results/widths.json
    python benchmarks/widths.py --why --out benchmarks/results/widths_why.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from genflow import Generator, Population, Structure, generate
from genflow.measure import figures_of
from genflow.progress import Progress
from genflow.storage.files import write_json
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

WIDTHS = (32, 48, 64, 96, 128)
#: never seen by the generator, with each width
GRIDS = ("ndim=3,height=29", "ndim=5,height=9,reward=cosine")
#: steps of distillation from generated policies
REFINED = (50, 200)
#: the states of one distilled alone are fresh in each step
ALONE = PolicyOptions(objective="distill", steps=4000, batch_size=512, lr=3e-3, decay=0.8)


def js(population: Population) -> float:
    """The mean exact JS of a population."""
    return figures_of(population)["js"]


def distilled(
    structure: Structure, seeds: int, steps: int, start: Tensor | None = None, lr: float = ALONE.lr
) -> Population:
    """Policies of a structure that are distilled from weights (M, D), or from untrained ones."""
    if start is None:
        start = Population.initialised(structure, seeds, 0).weights
    with tempfile.TemporaryDirectory() as folder:
        return train_population(
            structure,
            ALONE.model_copy(update={"steps": steps, "lr": lr}),
            start=start,
            seed=0,
            folder=Path(folder),
            progress=Progress(quiet=True),
        )


def why(made: Population, generator: Generator, seeds: int) -> dict[str, float]:
    """JS of the mean latent of a structure, and of its policies after some steps of distillation."""
    structure = made.structure
    with torch.no_grad():
        mean = generator.encoder.decode(generator.latent_mean[None], structure.layout, structure.condition())
    found = {"mean_latent": js(Population(structure, mean))}
    for steps in REFINED:
        further = distilled(structure, seeds, steps, made.weights[:seeds], lr=1e-3)
        found[f"after_{steps}_steps"] = js(further)
    return found


def known(generator: Generator) -> list[dict[str, Any]]:
    """JS of generated policies of structures that the generator was trained on, about as large as `GRIDS`."""
    found = []
    for structure in generator.training_structures:
        sizes = structure.environment.config
        if sizes.ndim == 3 and isinstance(sizes.height, int) and 20 <= sizes.height <= 34:
            made = generator.generate(structure, 8)
            found.append(
                {"structure": structure.name, "width": structure.fields()["width"], "generated": js(made)}
            )
    return found


@click.command()
@click.option("--structure", "names", multiple=True, metavar="NAME|key=value,...", help="Default: two grids.")
@click.option("--generator", default="hypergrid/separable", show_default=True)
@click.option("--num", default=8, show_default=True, help="Policies that are generated for each width.")
@click.option("--seeds", default=2, show_default=True, help="Policies that are distilled for each width.")
@click.option("--steps", default=ALONE.steps, show_default=True, help="Steps of those.")
@click.option("--why", "apart", is_flag=True, help="Take the figures apart instead of distilling alone.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    names: tuple[str, ...], generator: str, num: int, seeds: int, steps: int, apart: bool, out: Path
) -> None:
    """Generate, distil and measure, a line for each width."""
    torch.set_num_threads(1)
    figures: list[dict[str, Any]] = []
    if apart:
        loaded = Generator.from_pretrained(generator)
        results: dict[str, Any] = {"num": num, "seeds": seeds, "known": known(loaded), "figures": figures}
        for name in names or GRIDS:
            for width in (32, 64, 128):
                made = loaded.generate(f"{name},width={width}", num)
                found = {"structure": name, "width": width, "generated": js(made)}
                figures.append(found | why(made, loaded, seeds))
                click.echo(str(figures[-1]))
                write_json(out, results)
        return
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
