"""What the diffusion model is worth, which no table of the paper asks.

The same decoder is given latents from elsewhere; and a zoo is made in which the condition leaves open which
of several optima a policy has, so that only a model of the distribution can tell.

Shapes: K policies, Z latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from genflow import (
    Generator,
    PolicyOptions,
    Population,
    Progress,
    Structure,
    Zoo,
    choose_metrics,
    js,
    load_config,
    train_autoencoder,
    train_generator,
    train_population,
    train_zoo,
    values_of,
)

from .charts import dots
from .divergences import SAID
from .parts import KNOWN, PREDICTIONS, Lab, ModelPart, once, spaced, structure_of
from .result import Cell, Picture, Result, Table

#: known structures, and unknown ones that all generators can be asked for
MEASURED = (*KNOWN[:4], "A*", "B*", "C*", "F*")
METRICS = ("js", "diversity", "diversity_tv")
#: where the recipe of the generator that ships is
RECIPE = resources.files("genflow_hypergrid") / "pretrained" / "default.toml"

#: the grid of the experiments in which the condition leaves the optimum open
GRID = "ndim=3,height=8"
#: four rewards that the condition does not tell apart here
REWARDS = (
    GRID,
    f"{GRID},reward=cosine",
    f'{GRID},reward=separable,terms="0.1; 1: u > .45"',
    f'{GRID},reward=separable,terms="0.1; 1: u < .3 | u > .6 | u > .6"',
)
#: the two backward policies: one target, two optimal policies
BACKWARD = (f"{GRID},backward=uniform", f"{GRID},backward=maxent")
#: policies that are drawn
DRAWN = 64
#: the JS up to which a policy counts as good, and for one backward policy the gap of log Z in nats
GOOD, GOOD_GAP = 0.02, 0.1
#: noise between the starts of the policies of one zoo, relative to their spread
START_NOISE = 0.1


def decoded(generator: Generator, structure: Structure, latents: Tensor) -> Population:
    """Return the policies of latents (K, Z) for a structure."""
    with torch.no_grad():
        weights = generator.encoder.decode(latents, structure.layout, structure.condition())
    return Population(structure, weights, {"source": "generated", "training_structures": []})


def draws(
    generator: Generator, structure: Structure, nearest: Population, num: int, seed: int
) -> dict[str, Callable[[], Population]]:
    """Return what makes policies of a structure by the same decoder, by where the latents come from.

    Args:
        generator: its encoder, and its diffusion model.
        structure: what the policies are for.
        nearest: checkpoints of the nearest training structure, or of the structure itself.
        num: K.
        seed: of all random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    mean, std = generator.latent_mean, generator.latent_std

    def drawn() -> Tensor:
        with torch.no_grad():
            known = generator.encoder.encode(nearest)
        return known[torch.randint(len(known), (num,), generator=rng)]

    return {
        "diffusion model": lambda: generator.generate(structure, num, seed),
        "plain normal": lambda: decoded(
            generator, structure, torch.randn(num, len(mean), generator=rng) * std + mean
        ),
        "mean": lambda: decoded(generator, structure, mean[None]),
        "a checkpoint's": lambda: decoded(generator, structure, drawn()),
    }


def nearest_of(structure: Structure, zoo: Zoo) -> Population:
    """Return the population of a zoo whose condition is nearest to a structure's, in ratios."""

    def apart(population: Population) -> float:
        conditions = (structure.condition(), population.structure.condition())
        ours, theirs = (each.double().clamp(min=1e-6).log() for each in conditions)
        return float((ours - theirs).norm())

    return min(zoo.populations, key=apart)


def worth(lab: Lab) -> Result:
    """Compare where the latents of the same decoder come from, on known and unknown structures."""
    generators = {
        f"conv1d + unet1d, {SAID[p]}": (
            lab.generator(ModelPart("useful", 4, lab.scale.standard, p)),
            lab.zoo("useful", 4, lab.scale.standard),
        )
        for p in PREDICTIONS
    }
    generators["coordinate"] = lab.generator("hypergrid/default"), _style_zoo(lab)
    rows: list[list[Cell]] = []
    for label, (generator, zoo) in generators.items():
        for name in MEASURED:
            structure = structure_of(name, "useful")
            nearest = nearest_of(structure, zoo)
            for origin, make in draws(generator, structure, nearest, lab.scale.num, lab.seed).items():
                population = make()
                values = values_of(population, choose_metrics(structure, METRICS))
                known = "known" if name in KNOWN else "unknown"
                rows.append([label, name, known, origin, *(float(values[m].mean()) for m in METRICS)])
    columns = (
        "generator",
        "structure",
        "trained on",
        "latents",
        "JS",
        "distance of weights",
        "distance of what is sampled",
    )
    note = (
        "The same decoder throughout; d = 128. Plain normal: independent normal numbers of the mean and"
        " standard deviation of the training latents. A checkpoint's: the latents of checkpoints of the"
        " structure, or where it is unknown of the nearest training structure. Distances are diversity and"
        " diversity_tv; the mean is one policy and has none."
    )
    table = Table("Where the latents come from", columns, rows, note)
    caption = "Exact JS by where the latents come from, for the same decoder. Left is better."
    return Result([table], [Picture("latents", by_origin(table), caption, wide=True)], _compared(table))


def by_origin(table: Table) -> bytes:
    """Draw the table of `worth`, as a PNG."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for record in table.records():
        rows = panels.setdefault(str(record["generator"]), {})
        value = record["JS"]
        assert isinstance(value, float)
        rows.setdefault(f"{record['structure']} ({record['trained on']})", {})[str(record["latents"])] = value
    return dots(panels, "exact JS")


def _style_zoo(lab: Lab) -> Zoo:
    """Return policies of the known structures by the recipe of the generator that ships."""
    names = [structure_of(name, "useful").name for name in KNOWN[:4]]
    options = {
        "structures": names,
        "selection_structures": [],
        "test_structures": [],
        "zoo.num": lab.scale.num,
    }
    with resources.as_file(RECIPE) as file:
        config = load_config(file, seed=lab.seed, **options)
    return train_zoo(
        config, config.training_structures(), config.zoo, lab.folder / "zoos" / "style", Progress.current()
    )


def _compared(table: Table) -> list[str]:
    records = table.records()
    findings = []
    for generator in dict.fromkeys(str(r["generator"]) for r in records):
        for known in ("known", "unknown"):
            own = [r for r in records if r["generator"] == generator and r["trained on"] == known]
            figures = []
            for origin in dict.fromkeys(str(r["latents"]) for r in own):
                values = [float(r["JS"] or 0) for r in own if r["latents"] == origin]
                figures.append(f"{origin} {sum(values) / len(values):.3g}")
            findings.append(f"{generator}, {known} structures, mean JS by latents: {', '.join(figures)}.")
    return findings


def optima(lab: Lab) -> Result:
    """Ask for policies where the condition leaves open which of several optima they have."""
    tables, findings = [], []
    for title, names in (("Four rewards", REWARDS), ("Two backward policies", BACKWARD)):
        structures = [Structure.parse("hypergrid", f"{name},width=128") for name in names]
        generator, zoo = _ambiguous(lab, title.split()[1], structures)
        rows: list[list[Cell]] = []
        (every,) = zoo.populations
        made: dict[str, Callable[[], Population]] = {"checkpoints": partial(spaced, every, DRAWN)}
        made |= draws(generator, every.structure, every, DRAWN, lab.seed)
        for origin, make in made.items():
            rows.append([origin, *_told_apart(make(), structures)])
        said = [_short(name) for name in names]
        columns = (
            "latents",
            "policies",
            "JS to the nearest optimum",
            "good",
            *(f"good for {each}" for each in said),
        )
        note = (
            f"{GRID}, d = 128; the condition is the same for all. Good: the share of policies with a JS of at"
            f" most {GOOD} to an optimum, and for backward policies a gap of log Z of at most {GOOD_GAP} nats"
            " under its own; then the share that is good for each. The mean is one policy."
        )
        tables.append(Table(f"{title}, one condition", columns, rows, note))
        for row in rows:
            shares = ", ".join(
                f"{each} {float(value or 0):.2f}" for each, value in zip(said, row[4:], strict=True)
            )
            findings.append(
                f"{title}, {row[0]}: {float(row[3] or 0):.2f} of the policies are good ({shares})."
            )
    return Result(tables, findings=findings)


def _short(name: str) -> str:
    return name.removeprefix(f"{GRID},") if name != GRID else "reward=original"


def _ambiguous(lab: Lab, name: str, structures: Sequence[Structure]) -> tuple[Generator, Zoo]:
    """Train the paper's generator on policies of several tasks that it is told are one."""
    folder, runs = lab.folder / "optima" / name, lab.scale.runs
    # all from one start and a little noise, as the policies of a zoo are
    start = Population.initialised(structures[0], 1, lab.seed).weights.expand(runs, -1)
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(lab.seed))
    start = start + START_NOISE * start.std() * noise
    checkpoints = -(-lab.scale.members[0] // runs)
    # distilled, so that the policies are good, in a few seconds
    steps = max(lab.scale.zoo_steps // 2, checkpoints)
    options = PolicyOptions(objective="distill", steps=steps, batch_size=512, lr=5e-3)

    def trained(structure: Structure, place: Path) -> Population:
        return train_population(
            structure,
            options,
            start=start,
            seed=lab.seed,
            folder=place,
            progress=Progress.current(),
            checkpoints=checkpoints,
        )

    def together(_: Path) -> Population:
        places = [folder / f"optimum-{number}" for number in range(len(structures))]
        each = [once(place, partial(trained, own)) for place, own in zip(places, structures, strict=True)]
        facts = {"training_structures": [structure.fields() for structure in structures]}
        return Population(structures[0], torch.cat([population.weights for population in each]), facts)

    once(folder / "zoo", together)
    zoo, config = Zoo(folder / "zoo"), lab.model_config("useful")
    train_autoencoder(config, zoo, folder / "autoencoder", Progress.current())
    return train_generator(config, zoo, folder / "autoencoder", folder / "generator", Progress.current()), zoo


def _told_apart(population: Population, structures: Sequence[Structure]) -> list[Cell]:
    """Return how many policies there are, how near to an optimum they are, and the shares that are good.

    Optima of one target differ in the backward policy, which the gap of log Z tells apart: it is 0 for the
    optimum of its own backward policy alone, so there a policy must be near by it, too.
    """
    targets = [structure.solution.target() for structure in structures]
    reached = population.terminal_distribution()
    apart = torch.stack([js(target, reached) for target in targets], dim=1)  # (K, optima)
    near, limit = apart, GOOD
    if all(torch.allclose(target, targets[0]) for target in targets):
        gaps = [
            choose_metrics(each, ["log_z_gap"])["log_z_gap"](Population(each, population.weights))
            for each in structures
        ]
        near, limit = torch.stack(gaps, dim=1), GOOD_GAP
    own = near.argmin(1)
    divergence = apart.gather(1, own[:, None])[:, 0]
    good = (divergence <= GOOD) & (near.amin(1) <= limit)
    shares: list[Cell] = [float((good & (own == place)).double().mean()) for place in range(len(structures))]
    return [len(population), float(divergence.mean()), float(good.double().mean()), *shares]
