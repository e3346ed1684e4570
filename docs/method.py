"""Draw the pictures of docs/method.md: ``python docs/method.py``, two minutes, and seconds the next time.

method_weights.png: how one hidden unit reads the positions of a grid, in policies of several heights.
method_latents.png: latents of three structures, from noise to policies, in a small run of `conv1d`.
method_coverage.png: what the generator that ships was trained on, and how good it is elsewhere.
The small runs are kept in runs/docs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import genflow
from genflow.generator import Generator
from genflow.noise import SamplingOptions, reverse_process

DOCS = Path(__file__).parent
RUNS = DOCS.parent / "runs" / "docs"
#: heights of grids of two dimensions; the generator that ships was trained on none of the second three
HEIGHTS, UNSEEN = (8, 16, 32), (13, 37, 66)
#: the hidden unit that is looked at
UNIT = 3
COLOURS = ("tab:blue", "tab:orange", "tab:green")


def grids(heights: tuple[int, ...]) -> list[genflow.Structure]:
    """Grids of two dimensions."""
    return [genflow.Structure.parse("hypergrid", f"ndim=2,height={height}") for height in heights]


def decoded(generator: Generator, grid: genflow.Structure) -> genflow.Population:
    """The policy of one latent, the same for every grid."""
    rng = torch.Generator().manual_seed(0)
    latent = torch.randn(1, generator.card.latent_size, generator=rng) * generator.latent_std
    grid = generator.card.complete(grid)
    with torch.no_grad():
        weights = generator.encoder.decode(latent + generator.latent_mean, grid.layout, grid.condition())
    return genflow.Population(grid, weights)


def weights() -> plt.Figure:
    """Policies that were trained one by one, and what the generator decodes."""
    given = {"zoo.num": 1, "zoo.objective": "distill", "zoo.steps": 400, "autoencoder.encoder": "coordinate"}
    given["autoencoder.options.init"] = "independent"
    config = genflow.load_config(None, env="hypergrid", **given)
    zoo = genflow.train_zoo(config, grids(HEIGHTS), config.zoo, RUNS / "zoo", genflow.Progress())
    generator = Generator.from_pretrained("hypergrid")
    columns = {
        "trained, each from its own random start": [zoo.get(grid) for grid in grids(HEIGHTS)],
        "decoded from one latent, for unseen heights": [decoded(generator, grid) for grid in grids(UNSEEN)],
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
    for panel, (title, populations) in zip(axes, columns.items(), strict=True):
        for colour, population in zip(COLOURS, populations, strict=True):
            height = population.structure.fields()["height"]
            read = population.state_dict()["net.0.weight"][0, UNIT, :height]
            places = torch.linspace(0, 1, height)
            panel.plot(places, read, ".-", color=colour, lw=0.8, ms=4, label=f"height {height}")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("place in the first dimension, x / (H - 1)")
        panel.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(f"weight to hidden unit {UNIT}")
    return figure


def denoised(generator: Generator, grid: genflow.Structure, num: int) -> Iterator[Tensor]:
    """The normalised latents (num, Z) of a structure, at first noise, after each step of the sampler."""
    rng = torch.Generator().manual_seed(0)
    levels, steps = reverse_process(generator.card.noise, SamplingOptions(sampler="dpm++", steps=12), rng)
    z = torch.randn(num, generator.card.latent_size, generator=rng)
    yield z
    with torch.inference_mode():
        predictions = generator.denoiser.prepare(torch.tensor(levels), grid.condition())
        for predict, step in zip(predictions, steps, strict=True):
            z = step(z, predict(z))
            yield z


def latents() -> plt.Figure:
    """Where latents lie along the reverse process, on the two axes along which the zoo's differ most."""
    given = {
        "structures": ["ndim=2,height=6", "ndim=2,height=8", "ndim=2,height=10"],
        "zoo.num": 32, "zoo.steps": 500, "autoencoder.steps": 500, "diffusion.steps": 1500,
    }  # fmt: skip
    config = genflow.load_config(None, env="hypergrid", **given)
    out = RUNS / "latents"
    progress = genflow.Progress()
    zoo = genflow.train_zoo(config, config.training_structures(), config.zoo, out / "zoo", progress)
    genflow.train_autoencoder(config, zoo, out / "autoencoder", progress)
    generator = genflow.train_generator(config, zoo, out / "autoencoder", out / "generator", progress)
    with torch.no_grad():
        encoded = [generator.encoder.encode(population) for population in zoo.populations]
    encoded = [(each - generator.latent_mean) / generator.latent_std for each in encoded]
    torch.manual_seed(0)  # of the signs of the axes
    _, _, axes = torch.pca_lowrank(torch.cat(encoded), 2)
    centre = torch.cat(encoded).mean(0)
    paths = [list(denoised(generator, population.structure, 32)) for population in zoo.populations]
    shown = (0, 4, 8, len(paths[0]) - 1)
    figure, panels = plt.subplots(
        1, len(shown), figsize=(12, 3.3), sharex=True, sharey=True, layout="constrained"
    )
    for panel, step in zip(panels, shown, strict=True):
        for colour, own, path, population in zip(COLOURS, encoded, paths, zoo.populations, strict=True):
            panel.plot(*((own - centre) @ axes).T, "x", color=colour, alpha=0.35, ms=5)
            height = population.structure.fields()["height"]
            panel.plot(*((path[step] - centre) @ axes).T, "o", color=colour, ms=4, label=f"height {height}")
        panel.set_title(f"after step {step} of {shown[-1]}" if step else "noise", fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("circles: drawn for a structure; crosses: latents of the zoo's policies", fontsize=9)
    return figure


def coverage() -> plt.Figure:
    """Grids of the zoo, and the log-Z gap of generated policies on grids outside of it."""
    card = Generator.from_pretrained("hypergrid").card

    def bound(name: str) -> float:
        return card.coverage[name][1]

    figure, panel = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for ndim in range(1, 9):  # the largest height that all bounds of the card allow
        inside = [h for h in range(2, 101) if ndim * h <= bound("state_dim") and h**ndim <= bound("n_states")]
        label = "may be asked for" if ndim == 1 else None
        panel.fill_between(
            [ndim - 0.4, ndim + 0.4], 2, inside[-1], color="tab:blue", alpha=0.12, lw=0, label=label
        )
    trained = {(each["ndim"], each["height"]) for each in card.training_structures}
    panel.plot(*zip(*trained, strict=True), "_", color="0.45", ms=22, mew=1, label="trained on")
    found = [entry for entry in card.quality if "log_z_gap" in entry.metrics]
    places = [(entry.structure["ndim"], entry.structure["height"]) for entry in found]
    gaps = torch.tensor([max(entry.metrics["log_z_gap"], 1e-5) for entry in found]).log10()
    dots = panel.scatter(*zip(*places, strict=True), c=gaps, s=34, zorder=3, label="measured, not trained on")
    panel.set_yscale("log")
    panel.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    panel.set_xlabel("dimensions")
    panel.set_ylabel("height")
    figure.colorbar(dots, label="log10 of the log-Z gap, nats")
    figure.legend(fontsize=8, loc="outside upper center", ncols=3, frameon=False)
    return figure


for draw in (weights, latents, coverage):
    figure = draw()
    figure.savefig(DOCS / f"method_{draw.__name__}.png", dpi=110)
    plt.close(figure)
