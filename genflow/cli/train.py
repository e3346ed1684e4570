"""``genflow run``, ``train-zoo``, ``train-ae`` and ``train-ldm``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from genflow.cli.options import CommandOptions, common, common_without_file, find_zoo, output_root, trains
from genflow.value_text import count_of

_zoo = click.option(
    "--zoo",
    "zoo_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Zoo to learn from; without it one is collected under --out.",
)


@click.command("run")
@click.argument("config_file", type=click.Path(path_type=Path), metavar="FILE.toml")
@common_without_file
@trains
def run(options: CommandOptions, config_file):
    """Run the whole job: zoo, autoencoder, diffusion model, generation, evaluation and report.

    \b
    Example:
      genflow run examples/hypergrid.toml --out runs/demo
    """
    from genflow import pipeline
    from genflow.cli.evaluate import print_table

    config = replace(options, file=config_file).configure()
    root = output_root(config, options.out)
    entries = pipeline.run(config, root, options.progress())
    print_table(entries, options.as_json)
    if not options.as_json:
        click.echo(f"report: {root / 'report.html'}")


@click.command("train-zoo")
@common
@trains
@click.option("--num", type=int, metavar="N", help="Policies a structure.")
def train_zoo(options: CommandOptions, num):
    """Train a zoo of policies from scratch, with one folder for each structure under --out.

    \b
    Example:
      genflow train-zoo --env hypergrid --structure ndim=4,height=8 --num 16 --out runs/zoo
    """
    from genflow.stages import zoo as zoo_stage

    config = options.configure(**{"zoo.num": num})
    folder = options.out or Path("runs") / config.env / "zoo"
    zoo = zoo_stage.train_zoo(config, config.training_structures(), config.zoo, folder, options.progress())
    facts = [
        {
            "env": p.structure.env,
            "structure": p.structure.fields(),
            "num": len(p),
            "members": p.provenance["members"],
        }
        for p in zoo.populations
    ]
    options.emit(facts, f"zoo of {count_of(len(zoo.populations), 'structure')} in {folder}")


def _start(options: CommandOptions, zoo_folder):
    """Return the configuration, progress reporter, output folder and zoo for a stage that needs a zoo."""
    from genflow.stages import common as common_stage

    config, progress = options.configure(), options.progress()
    root = output_root(config, options.out)
    if zoo_folder is None:
        common_stage.check_plan(config, config.training_structures())
    zoo = find_zoo(config, zoo_folder, root, progress)
    if zoo_folder is not None:
        common_stage.check_plan(config, zoo.structures)
    return config, progress, root, zoo


@click.command("train-ae")
@common
@trains
@_zoo
def train_ae(options: CommandOptions, zoo_folder):
    """Train the autoencoder of weights on a zoo, which is collected first if it is missing.

    \b
    Example:
      genflow train-ae --env hypergrid --zoo runs/zoo --out runs/mine
    """
    from genflow.evaluation.report_data import AUTOENCODER
    from genflow.stages import autoencoder as autoencoder_stage
    from genflow.storage.files import read_json

    config, progress, root, zoo = _start(options, zoo_folder)
    autoencoder_stage.train_autoencoder(config, zoo, root / "autoencoder", progress)
    facts = read_json(root / "autoencoder" / AUTOENCODER)
    options.emit(
        {"reconstruction": facts["reconstruction"], "seconds": facts["seconds"]},
        f"autoencoder in {root / 'autoencoder'}",
    )


@click.command("train-ldm")
@common
@trains
@_zoo
@click.option(
    "--autoencoder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Trained autoencoder; without it one is trained under --out.",
)
def train_ldm(options: CommandOptions, zoo_folder, autoencoder):
    """Train the latent diffusion model, after making the zoo and the autoencoder if they are missing.

    \b
    Example:
      genflow train-ldm --env hypergrid --zoo runs/zoo --out runs/mine
    """
    from genflow.stages import autoencoder as autoencoder_stage
    from genflow.stages import diffusion as diffusion_stage

    config, progress, root, zoo = _start(options, zoo_folder)
    if autoencoder is None:
        autoencoder = root / "autoencoder"
        autoencoder_stage.train_autoencoder(config, zoo, autoencoder, progress)
    generator = diffusion_stage.train_generator(config, zoo, autoencoder, root / "generator", progress)
    options.emit(
        generator.card.model_dump(mode="json", exclude={"provenance"}),
        f"generator in {root / 'generator'}",
    )


@click.command("export")
@click.argument("generator", type=click.Path(), metavar="GENERATOR")
@common
@click.option(
    "--push-to-hub", "repository", metavar="USER/NAME", help="Also commit it to this repository of the hub."
)
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
@click.option("--license", metavar="ID", help="License that the model card states, e.g. mit.")
def export(options: CommandOptions, generator, repository, private, license):
    """Write a generator for distribution, in half precision and with a measured model card.

    The card states its quality on structures that it was not trained on. It is measured on its selection
    structures, and on those of --structure or else the configuration's `test_structures`.

    \b
    Examples:
      genflow export runs/mine --structure "A*" --structure "B*" --out mygenerator
      genflow export runs/mine --out mygenerator --license mit --push-to-hub user/mygenerator
    """
    from genflow import hub
    from genflow.distributed.world import world
    from genflow.errors import GenflowError
    from genflow.pretrained import load_card
    from genflow.stages import diffusion as diffusion_stage

    tests = {"test_structures": list(options.structures) or None}
    if private and repository is None:
        raise GenflowError("--private is for a repository; name one with --push-to-hub")
    env = options.env or load_card(generator)[1].env
    config = options.configure(env=env, structures=None, **tests)
    folder = options.out or Path("runs") / config.env / "exported"
    if repository is not None:  # before all is measured, to learn now that it may not be
        repository = world().on_rank_zero(lambda: hub.create_repository(repository, private=private or None))
    exported = diffusion_stage.export_generator(config, generator, folder, options.progress(), license)
    card, said = exported.card, [f"generator in {folder}"]
    if repository is not None:
        said.append(f"pushed: {world().on_rank_zero(lambda: exported.push_to_hub(repository, half=True))}")
    lines = [
        f"{e.role}: {e.name}: " + ", ".join(f"{k} {v:.3g}" for k, v in e.metrics.items() if v is not None)
        for e in card.quality
    ]
    options.emit([e.model_dump() for e in card.quality], "\n".join([*lines, *said]))
