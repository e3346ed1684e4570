"""``genflow sample`` and ``genflow score``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genflow.cli.options import emit, json_option, on_workers
from genflow.value_text import count_of

_POPULATION = click.argument("folder", type=click.Path(path_type=Path), metavar="POPULATION")
_SEED = click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of everything random.",
)
#: rows that are printed where no file is written
SHOWN = 20


def _out(text: str) -> Any:
    return click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help=text)


@click.command("sample")
@_POPULATION
@click.option(
    "--num",
    type=click.IntRange(1, 10_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Trajectories of all policies together.",
)
@click.option("--unique", is_flag=True, help="Keep each object once.")
@click.option("--top", type=click.IntRange(1), metavar="K", help="Keep the K best by score, the best first.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help='Keep what meets a condition, e.g. "score>0.5 and mw<450"; repeatable.',
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME",
    help="Add a column, for molecules e.g. mw or logp; repeatable.",
)
@click.option(
    "--novel-to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Count what is not in this file of known objects, one a line.",
)
@_out("Where to write: .csv, .jsonl, .smi or .parquet (default: print the best).")
@_SEED
@json_option
@on_workers
def sample(folder, num, unique, top, filters, columns, novel_to, out, seed, as_json):
    """Sample objects with the policies of POPULATION and write a table of them.

    \b
    Example:
      genflow sample runs/policies --num 1000 --unique --top 200 --out molecules.csv
    """
    from genflow.distributed.world import world
    from genflow.population import Population
    from genflow.progress import Progress
    from genflow.reward_calls import RewardCalls
    from genflow.stages.sample import sample_objects
    from genflow.storage.tables import check_table_path, rows_of

    population = Population.load(folder)
    if out is not None:
        check_table_path(out, population.structure.gallery.name_kind)
    with RewardCalls.of_run(folder) as calls:
        objects = sample_objects(
            population,
            num,
            seed=seed,
            unique=unique,
            top=top,
            filters=filters,
            columns=columns,
            novel_to=novel_to,
        )
    for warning in objects.warnings:
        Progress.current().warn(warning)
    objects.require_some()
    facts = {**objects.summary, **calls.asked_and_read()}
    if out is not None:
        world().on_rank_zero(lambda: objects.save(out))
        facts["out"] = str(out)
    else:
        best = rows_of(objects.table)
        if top is None:  # some of the best, each once
            different = {row["object"]: row for row in reversed(best)}.values()
            best = sorted(different, key=lambda row: -row["score"])[:SHOWN]
        facts["best"] = best
        if not as_json:
            _print_rows(best)
    said = ", ".join(
        f"{name.replace('_', ' ')} {_shown(value)}"
        for name, value in objects.summary.items()
        if value is not None
    )
    emit(as_json, facts, f"{said}\ntable in {out}" if out is not None else said)


@click.command("score")
@_POPULATION
@click.option(
    "--smiles",
    "--positions",
    "--objects",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Molecules, positions or other objects, one a line; or a .csv with a column of them.",
)
@click.option(
    "--trajectories",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Trajectories of an estimate, where a probability cannot be exact.",
)
@click.option("--score-all", is_flag=True, help="Ask for the scores of what cannot be made, too.")
@_out("Where to write: .csv, .jsonl or .parquet (default: print).")
@_SEED
@json_option
@on_workers
def score(folder, file, trajectories, score_all, out, seed, as_json):
    """Score the objects of a file: can POPULATION make them, their score, and with what probability.

    The reward is asked for those alone that can be made, unless --score-all is given.

    \b
    Example:
      genflow score runs/policies --smiles mine.smi
    """
    from genflow.distributed.world import world
    from genflow.interfaces.gallery import Gallery
    from genflow.population import Population
    from genflow.progress import Progress
    from genflow.reward_calls import RewardCalls
    from genflow.stages.score import score_objects
    from genflow.storage.tables import check_table_path, write_table

    population = Population.load(folder)
    if out is not None:
        check_table_path(out)
    with RewardCalls.of_run(folder) as calls:
        scored = score_objects(population, file, trajectories=trajectories, seed=seed, score_all=score_all)
    for fault in scored.faults:
        Progress.current().warn(fault)
    brief = [{key: value for key, value in row.items() if key != "log_probabilities"} for row in scored.rows]
    made = sum(row["made"] for row in scored.rows)
    said = f"{made} of {len(scored.rows)} can be made"
    if scored.faults:
        said += f", {count_of(len(scored.faults), 'line')} cannot be read"
    can_score = type(population.structure.gallery).score_named is not Gallery.score_named
    if can_score and not score_all and made < len(scored.rows):
        said += "; what cannot be made was not scored, see --score-all"
    if out is not None:
        table = {key: [row[key] for row in brief] for key in brief[0]}
        world().on_rank_zero(lambda: write_table(out, table))
        said += f"\ntable in {out}"
    elif not as_json:
        _print_rows([{key: row[key] for key in scored.columns()} for row in brief])
    facts = {"objects": scored.rows, "policies": scored.policies, "unreadable": scored.faults}
    facts |= calls.asked_and_read()
    emit(as_json, {**facts, "out": str(out)} if out is not None else facts, said)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table for people."""
    from genflow.cli.evaluate import print_rows

    if rows:
        print_rows(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
