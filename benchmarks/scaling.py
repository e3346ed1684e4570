"""How the work scales with workers on this machine.

The parts are the collection of a zoo, steps of data-parallel training, their messages, the store, and a
restart. Whoever is compared takes turns in one run, and ratios are told with their spread. OUT/scaling.json
gets the parts that were measured and keeps the others. OUT/zoo_tasks.json gets the seconds of each structure
of the zoo, for `simulate.py`. Workers beyond the cores of the machine are measured too, but say nothing about
more cores. Nothing here can fail for being slow.

    python benchmarks/scaling.py --out benchmarks/results --part zoo --part store --rounds 3
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
from fleet import bound, queued
from report import Result, elsewhere
from scaling_jobs import STRUCTURES, Bench
from scaling_statistics import karp_flatt, rank_correlation
from scaling_steps import share, training
from scaling_store import restart, store
from speed import QUIET, machine

from genflow import Structure
from genflow.distributed.launcher import cores
from genflow.stages.common import estimated_cost
from genflow.storage.files import read_json, write_json
from genflow.storage.populations import FACTS
from genflow.storage.runs import MANIFEST


def collecting(folder: Path) -> float:
    """Seconds from when a run took its lock, right before its first item, to when it was marked complete."""
    return (folder / MANIFEST).stat().st_mtime - (folder / ".lock").stat().st_mtime


def tasks(folder: Path) -> list[dict[str, Any]]:
    """The structures of a zoo that one worker collected, by name: what each cost, and what was expected.

    `seconds` are those of the training, `occupied` all from the end of the one before, with starting
    policies, metrics and writing.
    """
    entries, before = [], (folder / ".lock").stat().st_mtime
    for path in sorted(folder.glob(f"*/{FACTS}"), key=lambda path: path.stat().st_mtime):
        facts = read_json(path)
        structure = Structure.parse("hypergrid", path.parent.name)
        ended = path.stat().st_mtime
        entries.append(
            {
                "structure": structure.name,
                "parameters": structure.layout.size,
                "inputs": len(structure.layout.units["input"]),
                "states": structure.solution.n_states,
                "expense": estimated_cost(structure),
                "seconds": facts["provenance"]["seconds"],
                "occupied": ended - before,
            }
        )
        before = ended
    return sorted(entries, key=lambda entry: entry["structure"])


def zoo(bench: Bench) -> Result:
    """Zoo collection at 1, 2 and 4 workers."""
    result = Result(
        "zoo",
        f"a zoo of {len(bench.structures)} uneven structures, {bench.zoo_steps} steps each, "
        "one thread a worker",
    )
    sizes = {f"{n} worker{'s' * (n > 1)}": n for n in (1, 2, 4)}
    seconds: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in sizes} for kind in ("collecting", "whole command")
    }
    passes: list[list[dict[str, Any]]] = []
    for turn in range(bench.rounds):
        for name, workers in sizes.items():
            folder = bench.work / f"zoo-{turn}-{workers}"
            seconds["whole command"][name].append(bench.collect(folder.name, workers))
            seconds["collecting"][name].append(collecting(folder))
            if workers == 1:
                passes.append(tasks(folder))
    one, *others = sizes
    for kind, of_sizes in seconds.items():
        result.add(kind, "s", of_sizes)
        for name in others:
            result.compare(kind, name, one, more=False)
    outside = {
        name: [
            whole - inside
            for whole, inside in zip(seconds["whole command"][name], seconds["collecting"][name], strict=True)
        ]
        for name in sizes
    }
    result.add("outside of collecting", "s", outside)
    serial = {
        f"{kind}, {ratio.ours}": [karp_flatt(value, sizes[ratio.ours]) for value in ratio.values]
        for kind in seconds
        for ratio in result.ratios
        if ratio.setting == kind and sizes[ratio.ours] <= cores()
    }
    merged = [
        {**entry, **{key: [one_pass[i][key] for one_pass in passes] for key in ("seconds", "occupied")}}
        for i, entry in enumerate(passes[0])
    ]
    occupied = [median(entry["occupied"]) for entry in merged]
    costs = [entry["expense"] for entry in merged]
    correlation = rank_correlation(costs, occupied)
    bench.zoo_tasks = {"rank_correlation": correlation, "tasks": merged}
    schedule = {str(n): sum(occupied) / queued(costs, occupied, n).makespan for n in (2, 4)}
    result.facts = {
        "serial_fraction": serial,
        "rank_correlation": correlation,
        "speedup_by_schedule": schedule,
        "speedup_possible": {str(n): sum(occupied) / bound(occupied, n) for n in (2, 4)},
    }
    result.notes = [
        f"serial fraction (Karp-Flatt), {name}: {median(values):.3f}" for name, values in serial.items()
    ]
    result.notes += [
        f"rank correlation of the estimate with the seconds: {correlation:.3f}",
        *(
            f"{n} workers of these pieces could be {value:.2f} times as fast if none slowed another down"
            for n, value in schedule.items()
        ),
    ]
    if cores() < max(sizes.values()):
        result.notes.append(f"this machine has {cores()} cores; more workers than that share them")
    return result


PARTS = {part.__name__: part for part in (zoo, training, share, store, restart)}


def merged(path: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a file of results, with new ones in the place of old ones."""
    known = json.loads(path.read_text())["parts"] if path.exists() else {}
    return {name: {**known, **parts}[name] for name in PARTS if name in {**known, **parts}}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Default: all.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each side.")
@click.option(
    "--zoo-steps", default=120, show_default=True, help="Training steps of each structure of the zoo."
)
@click.option("--steps", default=60, show_default=True, help="Steps of each autoencoder and diffusion model.")
@click.option("--structures", "count", default=len(STRUCTURES), show_default=True, help="The first so many.")
def main(out, parts, rounds, zoo_steps, steps, count):
    """Measure, print and write."""
    options = {"rounds": rounds, "zoo_steps": zoo_steps, "steps": steps, "structures": count}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rounds, zoo_steps, steps, STRUCTURES[:count])
        for name in parts or PARTS:
            began, others = time.perf_counter(), elsewhere()
            result = PARTS[name](bench)
            seconds = time.perf_counter() - began
            busy = max(0.0, (elsewhere() - others) / seconds)
            if busy > QUIET:
                result.notes.append(
                    f"WARNING: other processes kept {busy:.2f} cores busy meanwhile; "
                    "measure again when they are done"
                )
            click.echo(result.text())
            took = {"seconds": round(seconds, 1), "cores_busy_elsewhere": round(busy, 3)}
            entry = {"machine": machine(), "options": options, **took, **result.to_json()}
            write_json(out / "scaling.json", {"parts": merged(out / "scaling.json", {name: entry})})
            if bench.zoo_tasks and name == "zoo":
                write_json(
                    out / "zoo_tasks.json", {"machine": machine(), "options": options, **bench.zoo_tasks}
                )


if __name__ == "__main__":
    main()
