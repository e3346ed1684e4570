"""``genflow evaluate`` and ``genflow report``."""

from __future__ import annotations

from pathlib import Path

import click

from genflow.cli import completion
from genflow.cli.options import CommandOptions, common, emit, json_option, track_option


def print_table(entries, as_json, metrics=()):
    """Print the comparison as JSON, or as a table of some metrics.

    Args:
        entries: as `genflow.evaluate` returns them.
        as_json: print every entry in full.
        metrics: columns of the table; empty means the metrics that are marked `brief`.
    """
    from genflow.evaluation.evaluate import brief_metrics, table

    if as_json:
        emit(True, entries, "")
        return
    header, rows = table(entries, metrics or brief_metrics())
    print_rows(header, rows)


def print_rows(header, rows):
    """Print rows of text as a table, those that begin alike together."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(*header, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        drawn.add_row(*map(escape, row), end_section=following is None or following[0] != row[0])
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe reports 80 columns, which would truncate numbers
    console.print(drawn)


@click.command("evaluate")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@common
@track_option
@click.option(
    "--zoo",
    "zoo_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Zoo for the baselines mean, nearest and perturbed and for novelty (default: the one in DIR).",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.registered("metric"),
    help="Metric; repeatable (default: all that fit).",
)
@click.option(
    "--baseline",
    "baseline_names",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.words(*completion.BASELINES),
    help="random, uniform, mean, nearest, perturbed or none; repeatable (default: all but uniform).",
)
def evaluate(options: CommandOptions, folder, zoo_folder, metrics, baseline_names):
    """Measure the populations in DIR (one population, a zoo, or a run) beside their baselines.

    \b
    Example:
      genflow evaluate runs/policies --zoo runs/zoo --json
    """
    from genflow import pipeline
    from genflow.reward_calls import RewardCalls

    names = [] if baseline_names == ("none",) else list(baseline_names) or None
    populations, zoo, places = pipeline.load_for_evaluation(
        folder, zoo_folder, options.env, options.structures
    )
    chosen = {"evaluation.metrics": list(metrics) or None, "evaluation.baselines": names}
    config = options.configure(env=populations[0].structure.env, structures=None, **chosen)
    with RewardCalls.of_run(folder):
        entries = pipeline.evaluate_folder(config, populations, zoo, options.out, options.progress(), places)
    print_table(entries, options.as_json, metrics)


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.html|DIR",
    help="Where to write (default: DIR/report.html).",
)
@json_option
def report(folder, out, as_json):
    """Write the self-contained HTML report of a run.

    \b
    Example:
      genflow report runs/demo
    """
    from genflow.evaluation.report import write_report
    from genflow.progress import Progress
    from genflow.reward_calls import RewardCalls

    with Progress(quiet=as_json).as_current(), RewardCalls.of_run(folder):
        path = write_report(folder, out)
    emit(as_json, {"report": str(path)}, f"report: {path}")
