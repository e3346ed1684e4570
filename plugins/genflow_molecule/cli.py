"""``genflow dock``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from genflow import GenflowError


def number(
    name: str,
    least: int,
    most: int | None,
    default: int | None,
    metavar: str,
    text: str,
    show_default: bool = True,
) -> Callable[[Any], Any]:
    """An option that is a whole number from `least` to `most`."""
    return click.option(
        name,
        type=click.IntRange(least, most),
        default=default,
        show_default=show_default,
        metavar=metavar,
        help=text,
    )


@click.command("dock", short_help="Dock the best molecules of a population.")
@click.argument("population_folder", type=click.Path(path_type=Path), metavar="POPULATION")
@click.option("--target", metavar="NAME", help="Receptor that dockstring ships, e.g. DRD2.")
@click.option(
    "--receptor",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE.pdbqt",
    help="Receptor of your own, with a box.",
)
@click.option("--box-centre", type=float, nargs=3, metavar="X Y Z", help="Centre of the box, Å.")
@click.option("--box-size", type=float, nargs=3, metavar="A B C", help="Sides of the box, Å.")
@number("--top", 1, 10_000, 20, "K", "Molecules to dock.")
@number("--draws", 1, 100_000, 256, "N", "Trajectories a policy to choose from.")
@number("--exhaustiveness", 1, 1000, 8, "N", "Monte Carlo runs a molecule.")
@number("--cores", 0, None, 0, "N", "Cores, which change no result (default: all).", show_default=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Output folder (default: runs/<env>/docked/<receptor>).",
)
@number("--seed", 0, None, 0, "N", "Seed of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output and nothing else.")
def dock(
    population_folder,
    target,
    file,
    box_centre,
    box_size,
    top,
    draws,
    exhaustiveness,
    cores,
    out,
    seed,
    as_json,
):
    """Dock the molecules of POPULATION with the highest reward, and rank them by affinity.

    Needs the extra genflownet[docking].

    \b
    Example:
      genflow dock runs/policies --target DRD2 --top 20 --out runs/docked
    """
    import json

    from genflow import Population, Progress, RewardCalls

    from . import docking, screening

    if (target is None) == (file is None):
        raise GenflowError(
            "name one receptor: --target NAME, or --receptor FILE.pdbqt with --box-centre and --box-size"
        )
    if target is not None and (box_centre or box_size):
        raise GenflowError(
            f"target {target!r} has its own box; give --box-centre and --box-size with --receptor only"
        )
    where = docking.target(target) if target is not None else docking.receptor(file, box_centre, box_size)
    docking.require_extra()  # after what can be said of the receptor without it
    population = Population.load(population_folder)
    folder = out or Path("runs") / population.structure.env / "docked" / where.name
    with Progress(quiet=as_json).as_current() as progress, RewardCalls.of_run(population_folder):
        rows = screening.screen(
            population,
            where,
            lambda: docking.Docker(where, exhaustiveness, seed, cores=cores),
            {"top": top, "draws": draws, "exhaustiveness": exhaustiveness},
            seed,
            folder,
            progress,
        )
    click.echo(
        json.dumps(rows, indent=1)
        if as_json
        else f"{screening.as_text(rows)}\ntable in {folder / screening.TABLE}"
    )
