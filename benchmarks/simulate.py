"""A thousand workers, simulated on the scheduler that real ones use.

The simulation is in `fleet.py`: the queue is `genflow.distributed.work_queue.WorkQueue` on a store in memory,
and the time is made up. Durations are drawn with replacement from those that `scaling.py` recorded, and are
scaled to a real budget.

What is simulated is who waits for whom: the order of the pieces, the end of a run, and failures after which
all workers start again. Networks, disks and the store are taken to be fast. What 1,000 workers ask of the
store is counted and written beside what it was measured to answer. At the end a step of data-parallel
training is calculated for numbers of GPUs that nobody has tried.

    python benchmarks/simulate.py --out benchmarks/results
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
from fleet import (
    HOPELESS,
    HOUR,
    Task,
    availability,
    bootstrap,
    bound,
    calls,
    dealt,
    efficiency,
    largest,
    queued,
    recorded,
    step_seconds,
    with_failures,
)
from simulation_report import picture, text

from genflow.storage.files import write_bytes, write_json

#: how often a small fleet is simulated at most
MOST_RUNS = 20
#: how the pieces come to the workers: name -> what the queue is told that each costs; the pieces lie smallest
#: first, as lists are written
ORDERS: dict[str, Callable[[Sequence[Task], random.Random], list[float]]] = {
    "costliest first, by the estimate": lambda tasks, rng: [task.cost for task in tasks],
    "costliest first, known exactly": lambda tasks, rng: [task.seconds for task in tasks],
    "in random order": lambda tasks, rng: [rng.random() for _ in tasks],
    "smallest first, as lists are written": lambda tasks, rng: [0.0 for _ in tasks],
}
DEALT = "dealt out beforehand, in turn"


def orders(tasks: Sequence[Task], workers: int, sizes: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Simulate every order at every number of structures: the makespan, its bound and the efficiency."""
    entries = []
    for size in sizes:
        drawn = sorted(bootstrap(tasks, size, seed), key=lambda task: task.cost)
        seconds = [task.seconds for task in drawn]
        least = bound(seconds, workers)
        for name, costs_of in ORDERS.items():
            outcome = queued(costs_of(drawn, random.Random(seed)), seconds, workers)
            assert outcome.finished == [1] * size
            entries.append({"structures": size, "order": name, "makespan": outcome.makespan})
        entries.append({"structures": size, "order": DEALT, "makespan": dealt(seconds, workers)})
        for entry in entries[-1 - len(ORDERS) :]:
            entry |= {"bound": least, "over_bound": entry["makespan"] / least}
            entry["efficiency"] = efficiency(seconds, workers, entry["makespan"])
    return entries


def failing(
    tasks: Sequence[Task],
    workers: Sequence[int],
    hours: Sequence[float],
    restart: float,
    each: int,
    seed: int,
) -> list[dict]:
    """Simulate failures: the efficiency over that without them, beside the closed form.

    Every fleet has `each` structures for each worker.

    Small fleets run several times, so that they meet failures too.
    """
    entries = []
    for size in workers:
        drawn = bootstrap(tasks, each * size, seed)
        costs, seconds = [task.cost for task in drawn], [task.seconds for task in drawn]
        calm = queued(costs, seconds, size).makespan
        runs = min(MOST_RUNS, max(1, max(workers) // size))
        for mtbf in hours:
            expected = availability(size, mtbf * HOUR, restart)
            entry = {"workers": size, "mtbf_hours": mtbf, "restart_seconds": restart, "expected": expected}
            if expected > 1 / HOPELESS:
                outcomes = [
                    with_failures(costs, seconds, size, mtbf=mtbf * HOUR, restart=restart, seed=seed + run)
                    for run in range(runs)
                ]
                entry |= {
                    "runs": runs,
                    "hours": calm / HOUR,
                    "failures": mean(outcome.failures for outcome in outcomes),
                }
                entry["share"] = calm / mean(outcome.makespan for outcome in outcomes)
            entries.append(entry)
    return entries


#: what a GPU's links are taken to carry in one direction, bytes a second, and seconds of a hop: the vendors'
#: figures, halved
LINKS = {"8 GPUs, NVLink 4": (8, 225e9, 5e-6), "64 nodes of 8 GPUs, 100 Gbit/s a node": (512, 6.25e9, 20e-6)}
#: how many times as fast as one core of the measurement a GPU is taken to do the rows; what every worker does
#: is taken as it was
GPU_ROWS = 20.0


def calculated(shares: dict[str, Any]) -> list[dict[str, Any]]:
    """Calculate a step of each training on GPUs that nobody has tried, from figures of one core.

    "as it is" deals out the batch, "grown" gives each worker as many rows as one had; `gain` is in rows a
    second over one GPU.
    """
    entries = []
    for name, share in shares.items():
        own = {
            "serial": share["serial_seconds"],
            "parallel": share["parallel_seconds"] / GPU_ROWS,
            "rows": share["rows"],
        }
        one = step_seconds(1, **own, message=share["bytes"])
        for link, (gpus, bandwidth, latency) in LINKS.items():
            for batch, times in (("as it is", 1), ("grown", gpus)):
                facts = {
                    **own,
                    "parallel": times * own["parallel"],
                    "rows": times * own["rows"],
                    "message": share["bytes"],
                }
                many = step_seconds(gpus, **facts, bandwidth=bandwidth, latency=latency)
                entries.append(
                    {
                        "training": name,
                        "gpus": gpus,
                        "link": link,
                        "batch": batch,
                        "rows": facts["rows"],
                        "one_gpu": one,
                    }
                    | {
                        "seconds": many,
                        "all_reduce": many - step_seconds(gpus, **facts),
                        "gain": times * one / many,
                    }
                )
    return entries


def limits(
    hours: Sequence[float], restarts: Sequence[float], checkpoint: float, workers: int
) -> list[dict[str, Any]]:
    """For each mean time between failures: failures a day, and the workers at which a tenth is lost.

    The latter for a zoo and for data-parallel training.
    """
    # data-parallel training loses half an interval more, to first order
    return [
        {
            "mtbf_hours": mtbf,
            "failures_a_day": 24 * workers / mtbf,
            "zoo": {f"{r:g}": largest(mtbf * HOUR, r) for r in restarts},
            "data_parallel": {f"{r:g}": largest(mtbf * HOUR, r + checkpoint / 2) for r in restarts},
        }
        for mtbf in hours
    ]


def simulate(
    tasks: Sequence[Task], scaling: dict[str, Any], *, workers: int, sizes: Sequence[int],
    fleet: Sequence[int], hours: Sequence[float], restart: float, each: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Run all simulations; `scaling` holds the parts that `scaling.py` has measured, or nothing."""
    seconds = [task.seconds for task in tasks]
    parts = scaling.get("parts", {})
    return {
        "workers": workers, "restart": restart, "each": each, "seed": seed,
        "tasks": {"recorded": len(tasks), "mean": mean(seconds), "longest": max(seconds),
                  "shortest": min(seconds)},
        "orders": orders(tasks, workers, sizes, seed),
        "failures": failing(tasks, fleet, hours, restart, each, seed),
        "limits": limits(hours, (30.0, 120.0, 600.0), 60.0, workers),
        "store": {"waiting": calls(workers),
                  "measured": parts.get("store", {}).get("facts", {}).get("mixed_calls_a_second")},
        "calculated": calculated(parts["share"]["facts"]["trainings"]) if "share" in parts else [],
        "assumptions": {"links": LINKS, "gpu_rows": GPU_ROWS},
    }  # fmt: skip


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option(
    "--tasks",
    "tasks_file",
    type=click.Path(path_type=Path),
    help="What scaling.py recorded.  [default: OUT/zoo_tasks.json]",
)
@click.option("--workers", default=1000, show_default=True)
@click.option(
    "--structures", "sizes", multiple=True, type=int, default=(1000, 8000, 64000), show_default=True
)
@click.option(
    "--steps", default=1000, show_default=True, help="Training steps that the recorded seconds are scaled to."
)
@click.option(
    "--restart",
    default=120.0,
    show_default=True,
    help="Seconds until all workers are at work again: assumed.",
)
@click.option("--each", default=64, show_default=True, help="Structures a worker, of the runs with failures.")
@click.option("--seed", default=0, show_default=True)
def main(out, tasks_file, workers, sizes, steps, restart, each, seed):
    """Simulate, print and write."""
    began = time.perf_counter()
    file = tasks_file or out / "zoo_tasks.json"
    if not file.exists():
        raise click.ClickException(f"{file} is missing; benchmarks/scaling.py records it")
    facts = json.loads(file.read_text())
    scaling = json.loads((out / "scaling.json").read_text()) if (out / "scaling.json").exists() else {}
    done = simulate(
        recorded(facts, steps), scaling, workers=workers, sizes=sizes, fleet=(8, 64, 250, 1000),
        hours=(1, 10, 100, 1000, 10_000, 100_000), restart=restart, each=each, seed=seed,
    )  # fmt: skip
    click.echo(text(done))
    took = {"steps": steps, "seconds": round(time.perf_counter() - began, 1)}
    write_json(
        out / "simulation.json", {**took, "tasks_from": {k: facts[k] for k in ("machine", "options")}, **done}
    )
    write_bytes(out / "simulation.png", picture(done))


if __name__ == "__main__":
    main()
