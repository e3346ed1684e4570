"""``genflow reproduce``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("reproduce", short_help="Measure the paper's tables and figures again.")
@click.argument("names", nargs=-1, metavar="[ITEM]...")
@click.option("--list", "listed", is_flag=True, help="List the items and what they would take.")
@click.option("--all", "everything", is_flag=True, help="All items, but those whose extra is missing.")
@click.option(
    "--scale",
    type=click.Choice(("smoke", "small", "paper")),
    default="small",
    show_default=True,
    help="How much is trained: minutes; two hours of one core; a day.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Output folder (default: runs/reproduce/SCALE).",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, metavar="N", help="Seed of everything random."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Refuse what would take longer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output and nothing else.")
def reproduce(names, listed, everything, scale, out, seed, budget, as_json):
    """Measure tables and figures of the paper again, with exact figures beside the paper's.

    Writes OUT/items/ITEM/result.json with CSV and PNG files, and OUT/report.html. What was made is used
    again, by later items too; a run that was stopped goes on when it is given again.

    \b
    Example:
      genflow reproduce table2 figure4 --scale smoke
    """
    import json

    from genflow import GenflowError, Progress

    from . import job
    from .page import REPORT, heading
    from .scale import SCALES

    chosen = SCALES[scale]
    folder = out or Path("runs") / "reproduce" / scale
    if listed + everything + bool(names) != 1:
        raise GenflowError("name items, or give --all or --list")
    if listed:
        rows = job.listing(folder, chosen)
        lines = [f"{r['item']:<10} {job.duration(r['seconds']):>7}  {r['title']}" for r in rows]
        lines += [f"{'':<19} {r['item']} needs {r['missing']}" for r in rows if r["missing"]]
        click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(lines))
        return
    with Progress(quiet=as_json).as_current():
        results = job.run(folder, chosen, seed, names, budget)
    text = "\n".join(
        f"{heading(name)}: {line}" for name, facts in results.items() for line in facts["findings"]
    )
    click.echo(json.dumps(results, indent=1) if as_json else f"{text}\nreport: {folder / REPORT}")
