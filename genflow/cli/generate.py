"""``genflow generate`` and ``genflow finetune``."""

from __future__ import annotations

from pathlib import Path

import click

from genflow.cli.options import CommandOptions, common
from genflow.errors import GenflowError

_generator = click.option(
    "--generator",
    "generator_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Trained generator, or the run that holds it (default: the one that ships).",
)
_num = click.option("--num", type=int, metavar="N", help="Policies a structure.")


def _env_of(env, folder):
    """Return the environment that --env names, or else the one that the named generator was trained on."""
    from genflow.generator import load_card

    return env if env is not None or folder is None else load_card(folder)[1].env


@click.command("generate")
@common
@_generator
@_num
def generate(options: CommandOptions, generator_folder, num):
    """Generate policies for a structure, whether the generator was trained on it or not.

    \b
    Example:
      genflow generate --env hypergrid --structure ndim=3,height=12 --num 8 --out runs/policies
    """
    from genflow.stages import generate as generate_stage

    config = options.configure(env=_env_of(options.env, generator_folder), **{"generate.num": num})
    if not config.structures:
        raise GenflowError("no structure is named; give --structure NAME or --structure key=value,...")
    wanted = config.training_structures()
    generators = generate_stage.load_generators(config, generator_folder, wanted)
    folder = options.out or Path("runs") / config.env / "generated" / (
        wanted[0].name if len(wanted) == 1 else f"{wanted[0].name} and {len(wanted) - 1} more"
    )
    populations = generate_stage.generate(config, generators, wanted, folder, options.progress())
    facts = [
        {
            "env": p.structure.env,
            "structure": p.structure.fields(),
            "num": len(p),
            "seen": p.seen,
            "seconds": p.provenance["seconds"],
        }
        for p in populations
    ]
    options.emit(facts, f"{sum(len(p) for p in populations)} policies in {folder}")


@click.command("finetune")
@click.argument("population_folder", type=click.Path(path_type=Path), metavar="[POPULATION]", required=False)
@common
@_generator
@_num
def finetune(options: CommandOptions, population_folder, generator_folder, num):
    """Train policies further: those of POPULATION, or ones generated for --structure.

    A random start is trained beside them.

    \b
    Example:
      genflow finetune runs/policies --out runs/finetuned -o finetune.steps=200
    """
    from genflow.stages import generate as generate_stage
    from genflow.storage.populations import load_population

    env = options.env
    if population_folder is not None:
        population = load_population(population_folder)[:num]
        if env not in (None, population.structure.env):
            raise GenflowError(
                f"{population_folder} is of environment {population.structure.env!r}, not {env!r}"
            )
        env = population.structure.env
    config = options.configure(env=_env_of(env, generator_folder), **{"generate.num": num})
    if population_folder is None:
        if len(config.structures) != 1:
            raise GenflowError("name a POPULATION folder, or one --structure to generate it for")
        structures = config.training_structures()
        (generator,) = generate_stage.load_generators(config, generator_folder, structures)
        if warning := generator.caution(structures[0]):
            options.progress().warn(warning)
        population = generator.generate(structures[0], config.generate.num, config.seed)
    folder = options.out or Path("runs") / config.env / "finetuned" / population.structure.name
    entries = generate_stage.finetune_both(config, population, folder, options.progress())
    lines = [f"{e['name']}: {', '.join(f'{k} {v:.4g}' for k, v in e['figures'].items())}" for e in entries]
    options.emit(entries, "\n".join([*lines, f"populations in {folder}"]))
