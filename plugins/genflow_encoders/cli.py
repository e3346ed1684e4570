"""``genflow convert``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert", short_help="Convert what the first edition wrote.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="OLD")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="New folder.",
)
@click.option(
    "--describe/--no-describe",
    default=True,
    show_default=True,
    help="Describe the units of all training structures again, to know what never varied among them.",
)
def convert(folder: Path, out: Path, describe: bool) -> None:
    """Convert a generator, a population, a zoo or a run that the first edition wrote.

    A generator generates the same policies as before. Of a run its populations and its generator are
    converted. A vocabulary that OLD names by its path is read, so convert only what you trust.

    \b
    Example:
      genflow convert runs/old/generator --out runs/new
    """
    from .convert import convert_folder

    click.echo(f"converted {convert_folder(folder, out, describe)} of {folder} to {out}")
