"""``genflow generate`` and ``genflow finetune``."""

from __future__ import annotations

from pathlib import Path

import click

from genflow.cli.options import CommandOptions, common, trains
from genflow.errors import GenflowError, without_cautions
from genflow.value_text import count_of

_generator = click.option(
    "--generator",
    "generator_folder",
    type=click.Path(),  # a text, because hf://user/repository is no path
    metavar="DIR|NAME",
    help="Trained generator: its folder, the run that holds it, a name or a hub id (default: what ships).",
)
_num = click.option("--num", type=int, metavar="N", help="Policies a structure.")


def _env_of(env, folder):
    """Return the environment that --env names, or else the one that the named generator was trained on."""
    from genflow.pretrained import load_card

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
    from genflow.storage.runs import RunDirectory

    config = options.configure(env=_env_of(options.env, generator_folder), **{"generate.num": num})
    if not config.structures:
        raise GenflowError("no structure is named; give --structure NAME or --structure key=value,...")
    wanted = config.training_structures()
    folder = options.out or Path("runs") / config.env / "generated" / (
        wanted[0].name if len(wanted) == 1 else f"{wanted[0].name} and {len(wanted) - 1} more"
    )
    RunDirectory.require_free(folder, "generate")
    made_in = generate_stage.folders_of(folder, wanted)
    generators = generate_stage.load_generators(config, generator_folder, wanted, made_in)
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
    policies = count_of(sum(len(p) for p in populations), "policy", "policies")
    options.emit(facts, f"{policies} in {folder}")


def _start(options: CommandOptions, folder, generator_folder, num, reward_calls):
    """The configuration of a fine-tuning, and the population that is there to start from.

    Raises:
        GenflowError: an option asks for what this population is not.
    """
    from genflow.config import parse_override
    from genflow.given import read_beside
    from genflow.population import Population
    from genflow.training.finetune import transfer

    population = Population.load(folder)
    own = population.structure
    keys = [parse_override(text)[0] for text in options.overrides]
    if generator_folder is not None:
        raise GenflowError(
            f"--generator would generate policies, and {folder} has some; leave one of them out"
        )
    if making := [key for key in keys if key.partition(".")[0] == "generate"]:
        raise GenflowError(f"{making[0]} is for generating policies, and {folder} has some; leave it out")
    given = {"generate.num": num, "finetune.reward_calls": reward_calls}
    config = options.configure(env=options.env or own.env, policy=own.policy, **given)
    for what, asked, found in (
        ("environment", config.env, own.env),
        ("architecture", config.policy, own.policy),
    ):
        if asked != found:
            raise GenflowError(f"{folder} is of {what} {found!r}, not {asked!r}")
    if num is not None and num > len(population):
        raise GenflowError(
            f"{folder} has {count_of(len(population), 'policy', 'policies')}, not {num}; give --num"
            f" {len(population)} or less"
        )
    population = population[:num]
    if options.structures or "structures" in keys:  # those of a file are other commands'
        if len(config.structures) != 1:
            raise GenflowError(f"beside {folder} name one --structure, not {len(config.structures)}")
        wanted, kept = read_beside(own, config.structures[0])
        population = transfer(population, wanted)
        if wanted != own:
            same = f"; {', '.join(kept)} as in {folder}" if kept else ""
            options.progress().note(f"policies of {own.name} are trained on {wanted.name}{same}")
    return config, population


@click.command("finetune")
@click.argument("population_folder", type=click.Path(path_type=Path), metavar="[POPULATION]", required=False)
@common
@trains
@_generator
@_num
@click.option(
    "--reward-calls",
    type=click.IntRange(1),
    metavar="N",
    help="End each training with the step in which it has asked for the scores of so many objects.",
)
def finetune(options: CommandOptions, population_folder, generator_folder, num, reward_calls):
    """Train policies further: those of POPULATION, or ones generated for --structure.

    A random start is trained beside them. With both, the policies of POPULATION are trained on --structure,
    which may differ in what is paid alone; fields that are not given are those of POPULATION.

    \b
    Examples:
      genflow finetune runs/policies --out runs/finetuned -o finetune.steps=200
      genflow finetune runs/policies --structure R0=0.01 --out runs/other-reward
    """
    from genflow.stages import generate as generate_stage
    from genflow.storage.runs import RunDirectory
    from genflow.storage.score_files import described_in, files_of

    paid = []
    if population_folder is not None:
        config, population = _start(options, population_folder, generator_folder, num, reward_calls)
        folder = options.out or Path("runs") / config.env / "finetuned" / population.structure.name
        described, paid = described_in(population_folder), files_of(population_folder)
    else:
        config = options.configure(
            env=_env_of(options.env, generator_folder),
            **{"generate.num": num, "finetune.reward_calls": reward_calls},
        )
        if len(config.structures) != 1:
            raise GenflowError("name a POPULATION folder, or one --structure to generate it for")
        structures = config.training_structures()
        folder = options.out or Path("runs") / config.env / "finetuned" / structures[0].name
        RunDirectory.require_free(folder, "finetune")
        described = described_in(folder)
        (generator,) = generate_stage.load_generators(config, generator_folder, structures, [folder])
        if warning := generator.caution(structures[0]):
            options.progress().warn(warning)
        with without_cautions():
            population = generator.generate(structures[0], config.generate.num, config.seed)
    entries = generate_stage.finetune_both(config, population, folder, options.progress(), described, paid)
    lines = [f"{e['name']}: {', '.join(f'{k} {v:.4g}' for k, v in e['figures'].items())}" for e in entries]
    options.emit(entries, "\n".join([*lines, f"populations in {folder}"]))


@click.command("import")
@click.argument("files", type=click.Path(path_type=Path), metavar="FILE...", nargs=-1, required=True)
@common
def import_(options: CommandOptions, files):
    """Take policies that were made elsewhere: a state dict of layers in each safetensors FILE.

    Layers are matched by order and shape, whatever their names. A file does not say the activation between
    them, which must be that of the policy.

    \b
    Example:
      genflow import a.safetensors --env hypergrid -o policy=mlp --structure ndim=2,height=8,activation=relu
    """
    from genflow.population import Population
    from genflow.storage.populations import FACTS

    config = options.configure()
    if len(config.structures) != 1:
        raise GenflowError("name the one --structure whose policies the files hold")
    (structure,) = config.training_structures()
    folder = options.out or Path("runs") / config.env / "imported" / structure.name
    if (folder / FACTS).exists():
        raise GenflowError(f"{folder} holds a population; choose another --out")
    population = Population.from_files(structure, files)
    population.save(folder)
    layers = [type(part).__name__ for part in structure.module().modules() if not list(part.children())]
    options.emit(
        {**structure.to_json(), "num": len(population), "layers": layers, "folder": str(folder)},
        f"{population!r} in {folder}, taken as {', '.join(layers)}",
    )
