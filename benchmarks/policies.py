"""Exact JS by the depth and form of a policy, and of `deepsets` beside `mlp`.

Depths: one generator for each form of `mlp` (plain, with LayerNorm, with residuals, with both) learns from
policies of some depths; its policies are measured at these depths and at one between, beside trained and
untrained ones. The same for `deepsets`, with sizes in place of depths.
Teacher: `deepsets` and `mlp` are distilled for equal seconds of the processor, and `deepsets` is then run on
sizes that it was not trained on.

    python benchmarks/policies.py --out benchmarks/results/policies.json
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from genflow import (
    Generator,
    Population,
    Structure,
    evaluate,
    load_config,
    run,
    train_zoo,
    transfer,
)
from genflow.measure import figures_of
from genflow.progress import Progress
from genflow.storage.files import read_json, write_json
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

#: by name, the fields of a policy that are added to those of each structure
FORMS = {
    "plain": "",
    "layer_norm": ",layer_norm=true",
    "residual": ",residual=true",
    "both": ",layer_norm=true,residual=true",
}
GRIDS = ("ndim=2,height=6", "ndim=2,height=8", "ndim=3,height=5", "ndim=3,height=6")
MEASURED = ("ndim=2,height=8", "ndim=3,height=6")
#: what a generator is made by, on top of the defaults
RECIPE: dict[str, Any] = {
    "zoo": {"num": 4, "objective": "distill", "steps": 400, "lr": 2e-3, "batch_size": 128},
    "autoencoder": {
        "encoder": "coordinate", "kl_scale": 1.0, "batch_size": 12, "per_structure": 2, "lr": 1.5e-3,
        "ema": 0.995,
        "options": {
            "latent_size": 8, "hidden": 64, "embedding": 64, "init_noise": 0.0, "reference": "optimal",
            "swap_probability": 0.5,
        },
    },
    "diffusion": {
        "denoiser": "unet1d", "steps": 400, "options": {"channels": [32], "patch": 1},
        "sampling": {"sampler": "dpm++", "steps": 15},
    },
    "generate": {"num": 8},
    "evaluation": {"num": 8, "metrics": ["js"]},
}  # fmt: skip
#: structures that are trained alone
SIZES = ("ndim=2,height=6", "ndim=2,height=8", "ndim=3,height=5", "ndim=3,height=6", "ndim=3,height=8")


def generated(
    policy: str, known: list[str], unknown: list[str], steps: int, folder: Path
) -> list[dict[str, Any]]:
    """Train a generator, and give the mean JS by structure and source."""
    given = {"structures": known, "autoencoder.steps": steps}
    config = load_config(None, env="hypergrid", policy=policy, **flat(RECIPE), **given)
    began, quiet = time.process_time(), Progress(quiet=True)
    entries = run(config, folder, quiet)
    seconds = time.process_time() - began
    generator = Generator.from_pretrained(folder / "generator")
    # what would be refused is measured too: any number of layers between the least and the most
    parts = generator.encoder.parts
    filled = {role: tuple(range(counts[0], counts[-1] + 1)) for role, counts in parts.repeats.items()}
    generator.encoder.parts = generator.encoder.family.parts = replace(parts, repeats=filled)
    others = [Structure.parse("hypergrid", text, policy) for text in unknown]
    made = [generator.generate(other, config.generate.num) for other in others]
    trained = train_zoo(config, others, config.zoo, folder / "others", quiet).populations
    untrained = [Population.initialised(other, config.generate.num, 0) for other in others]
    entries += [evaluate(population, ["js"]) for population in [*made, *trained, *untrained]]
    found = []
    for entry in entries:
        fields = entry["structure"]
        measured = f"ndim={fields['ndim']},height={fields['height']}" in MEASURED
        if measured and entry["source"] in ("trained", "generated", "random"):
            seen = Structure.restore("hypergrid", fields, policy) not in others
            own = {key: fields[key] for key in ("ndim", "height", "depth")}
            found.append(
                own | {"source": entry["source"], "seen": seen, "js": entry["metrics"]["js"]["mean"]}
            )
    return [*found, {"source": "all", "cpu_seconds": round(seconds, 1)}]


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by dotted keys; options of a component stay together."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and key != "options"
        found |= flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value}
    return found


def distilled(structure: Structure, seconds: float, seeds: int) -> tuple[Population, int]:
    """Policies that are distilled for so many seconds of the processor, and their steps."""

    def trained(steps: int) -> Population:
        options = PolicyOptions(objective="distill", steps=steps, batch_size=128, lr=3e-3)
        with tempfile.TemporaryDirectory() as folder:
            return train_population(
                structure,
                options,
                start=Population.initialised(structure, seeds, 0).weights,
                seed=0,
                folder=Path(folder),
                progress=Progress(quiet=True),
            )

    trained(3)  # tables and imports
    began = time.process_time()
    trained(30)
    steps = max(30, int(30 * seconds / (time.process_time() - began)))
    return trained(steps), steps


def js(population: Population) -> float:
    """The mean exact JS of a population."""
    return figures_of(population)["js"]


@click.command()
@click.option("--form", "forms", type=click.Choice(FORMS), multiple=True, default=tuple(FORMS))
@click.option("--depths", default="2,4", show_default=True, help="Depths that a generator is trained on.")
@click.option("--between", default="3", show_default=True, help="Depths that it is asked for beside them.")
@click.option("--steps", default=800, show_default=True, help="Steps of each autoencoder.")
@click.option(
    "--seconds", default=12.0, show_default=True, help="Seconds of the processor of a distillation."
)
@click.option("--seeds", default=4, show_default=True, help="Policies that are distilled together.")
@click.option("--part", "parts", type=click.Choice(["depths", "sets", "teacher"]), multiple=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    forms: tuple[str, ...], depths: str, between: str, steps: int, seconds: float, seeds: int,
    parts: tuple[str, ...], out: Path,
) -> None:  # fmt: skip
    """Train, generate and measure; other parts that are in OUT already are kept."""
    torch.set_num_threads(1)
    results: dict[str, Any] = read_json(out) if out.exists() else {}
    results |= {"recipe": RECIPE, "steps": steps, "seconds": seconds}
    everything = parts or ("depths", "sets", "teacher")

    def keep(part: str, name: str, found: Any) -> None:
        results.setdefault(part, {})[name] = found
        click.echo(f"{part} {name}: {found}")
        write_json(out, results)

    with tempfile.TemporaryDirectory() as folder:
        if "depths" in everything:
            for form in forms:
                known, unknown = (
                    [
                        f"{grid},width=32,depth={d}{FORMS[form]}"
                        for grid in grids
                        for d in which.split(",")
                        if d
                    ]
                    for grids, which in ((GRIDS, depths), (MEASURED, between))
                )
                keep("depths", form, generated("mlp", known, unknown, steps, Path(folder) / form))
        if "sets" in everything:
            known = [f"{grid},width=32" for grid in ("ndim=2,height=6", "ndim=2,height=8", "ndim=3,height=5")]
            found = generated("deepsets", known, ["ndim=3,height=6,width=32"], steps, Path(folder) / "sets")
            keep("sets", "deepsets", found)
    for grid in MEASURED if "teacher" in everything else ():
        for policy, width in (("mlp", 32), ("mlp", 128), ("deepsets", 32)):
            structure = Structure.parse("hypergrid", f"{grid},width={width}", policy)
            population, taken = distilled(structure, seconds, seeds)
            found = {"parameters": structure.layout.size, "steps": taken, "js": js(population)}
            if policy == "deepsets":
                others = [
                    Structure.parse("hypergrid", f"{g},width={width}", policy) for g in SIZES if g != grid
                ]
                found["elsewhere"] = {
                    other.name: {
                        "js": js(transfer(population, other)),
                        "untrained": js(Population.initialised(other, seeds, 0)),
                    }
                    for other in others
                }
            keep("teacher", f"{policy} {structure.name}", found)


if __name__ == "__main__":
    main()
