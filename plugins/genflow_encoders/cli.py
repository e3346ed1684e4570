"""``genflow convert``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert", short_help="Convert a generator of the first edition.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="GENERATOR")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the new generator.",
)
@click.option(
    "--describe/--no-describe",
    default=True,
    show_default=True,
    help="Describe the units of all training structures again, to know what never varied among them.",
)
def convert(folder: Path, out: Path, describe: bool) -> None:
    """Convert a generator that the first edition wrote; it generates the same policies as before.

    \b
    Example:
      genflow convert runs/old/generator --out runs/new
    """
    from .convert import convert_generator

    convert_generator(folder, out, describe)
    click.echo(f"converted {folder} to {out}")
