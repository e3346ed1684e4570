"""What each part of the chain adds.

Exact JS on structures never seen, with one part changed at a time and the same training steps.

Every arm learns from (a part of) one zoo, which `genflow train-zoo --config RECIPE` makes, and is measured on
the recipe's test structures and on the paper's A to D; a structure that an arm's generator refuses has no
figure. "latent_mean" decodes the mean latent instead of sampling the diffusion model.

    python benchmarks/ablation.py --recipe plugins/genflow_hypergrid/pretrained/default.toml --zoo
    runs/pretrained/default/zoo \
        --out runs/ablation --arm full --arm structures-16
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from genflow_metrics.diversity import Diversity

from genflow import Generator, GenflowError, Population, Structure, Zoo, load_config
from genflow.config import Config
from genflow.measure import figures_of
from genflow.progress import Progress
from genflow.schema import validate
from genflow.stages import autoencoder, diffusion
from genflow.storage.files import read_json, write_json

PAPERS_LOSS = {
    "autoencoder.kl_scale": 0.0, "autoencoder.weight_loss_scale": 1.0,
    "autoencoder.options.swap_probability": 0.0,
    "autoencoder.options.normaliser_floor": None, "autoencoder.options.length_power": 0.0,
}  # fmt: skip
#: the paper's autoencoder, which leaves the structure to the denoiser, with the paper's latent size and
#: denoiser
CONV1D = {
    "autoencoder.encoder": "conv1d",
    "autoencoder.options": {},
    "autoencoder.per_structure": None,
    "diffusion.options": {},
}
#: what is changed in the recipe; "count" is how many structures are trained on
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "a-d": {"count": 4},
    "structures-8": {"count": 8},
    "structures-16": {"count": 16},
    "structures-32": {"count": 32},
    "structures-64": {"count": 64},
    "no-behaviour": PAPERS_LOSS,
    "no-weights": {"autoencoder.weight_loss_scale": 0.0},
    "no-features": {"autoencoder.options.features": False},
    "conv1d": {**CONV1D, **PAPERS_LOSS},
}
FIRST = ("A", "B", "C", "D")


def subset(names: list[str], count: int | None) -> list[str]:
    """The first `count` of one fixed order that begins with A to D, so that larger sets contain the smaller
    ones.
    """
    rest = sorted(name for name in names if name not in FIRST)
    random.Random(0).shuffle(rest)
    return [*FIRST, *rest][:count]


def configure(recipe: Path, arm: str, steps: int) -> Config:
    """The recipe with an arm's changes; nothing is selected on and no structure is refused for its size."""
    values = load_config(recipe).model_dump(mode="json")
    changes = {"autoencoder.steps": steps, "diffusion.steps": steps, **ARMS[arm]}
    values |= {
        "structures": subset(values["structures"], changes.pop("count", None)),
        "selection_structures": [],
        "coverage": {},
    }
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    return validate(Config, values, arm)


def latent_mean(generator: Generator, structure: Structure) -> Population:
    """One policy, from the mean latent."""
    with torch.no_grad():
        condition = structure.condition().to(generator.device)
        weights = generator.encoder.decode(generator.latent_mean[None], structure.layout, condition).cpu()
    return Population(structure, weights, {"source": "generated"})


def measure(generator: Generator, structure: Structure, num: int) -> dict[str, Any]:
    """Figures of one structure, without metrics where the generator refuses it."""
    entry = {"name": structure.name, "structure": structure.fields()}
    try:
        population = generator.generate(structure, num)
    except GenflowError as error:
        return {**entry, "refused": str(error)}
    figures = {
        "metrics": figures_of(population),
        "latent_mean": figures_of(latent_mean(generator, structure)),
    }
    diversity = Diversity()(population).mean()
    return {**entry, "seen": population.seen, **figures, "diversity": float(diversity)}


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), required=True)
@click.option("--zoo", "zoo_folder", type=click.Path(path_type=Path), required=True)
@click.option("--arm", "arms", multiple=True, type=click.Choice(list(ARMS)), help="Default: all.")
@click.option("--steps", default=4000, show_default=True, help="Of the autoencoder.")
@click.option("--num", default=4, show_default=True, help="Policies a structure.")
@click.option("--states", default=100_000, show_default=True, help="Largest structure that is measured.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(recipe, zoo_folder, arms, steps, num, states, out):
    """Train and measure each arm; finished ones are kept."""
    torch.set_num_threads(1)
    autoencoder.MEASURED_STATES = (
        0  # reconstructions are not what is compared, and take longer than the training
    )
    for arm in arms or ARMS:
        result = out / f"{arm}.json"
        if result.exists():
            continue
        config = configure(recipe, arm, steps)
        zoo = Zoo(zoo_folder).only(config.training_structures())
        autoencoder.train_autoencoder(config, zoo, out / arm / "autoencoder", Progress())
        generator = diffusion.train_generator(
            config, zoo, out / arm / "autoencoder", out / arm / "generator", Progress()
        )
        tests = [
            *map(partial(Structure.parse, "hypergrid"), FIRST),
            *config.unseen_structures(zoo.structures),
        ]
        entries = [measure(generator, s, num) for s in tests if (s.solution.n_states or 0) <= states]
        seconds = read_json(out / arm / "autoencoder" / "autoencoder.json")["seconds"]
        facts = {
            "arm": arm,
            "structures": len(zoo.populations),
            "steps": steps,
            "num": num,
            "seconds": seconds,
        }
        write_json(result, {**facts, "entries": entries})
        unseen = [e["metrics"]["js"] for e in entries if not e.get("seen", True)]
        click.echo(
            f"{arm}: JS on {len(unseen)} unseen structures: median {median(unseen):.4g}, worst"
            f" {max(unseen):.4g}"
        )


if __name__ == "__main__":
    main()
