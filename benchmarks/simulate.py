"""A thousand workers, simulated on the scheduler that real ones use.

That is `genflow.distributed.work_queue.WorkQueue`, on a store in memory, with the time made up.

The durations are those that `scaling.py` recorded, drawn with replacement and scaled to a real budget. What
is simulated is who waits for
whom: the order of the pieces, the end of a run, and failures after which all workers start again. Networks,
disks and the store are taken to be fast; what 1,000 workers ask of the store is counted beside what it was
measured to answer. At the end a step of data-parallel training is calculated for numbers of GPUs that nobody
has tried.

    python benchmarks/simulate.py --out benchmarks/results
"""

from __future__ import annotations

import heapq
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any

import click
from matplotlib.figure import Figure as Canvas
from report import number, table
from torch.distributed import HashStore

from genflow.distributed.work_queue import MAX_POLL_SECONDS, WorkQueue
from genflow.distributed.world import HEARTBEAT_SECONDS
from genflow.evaluation.pictures import OTHERS, png
from genflow.storage.files import write_bytes, write_json

#: calls of the store that a piece makes, from take() to finish() and the count of what is done
CALLS_A_PIECE = 5
#: calls that a worker makes each time it looks whether the others are done
CALLS_A_LOOK = 2
#: a run that takes this many times as long as without failures will not end
HOPELESS = 20.0
HOUR = 3600.0
#: how often a small fleet is simulated at most
MOST_RUNS = 20


@dataclass(frozen=True)
class Task:
    """A piece of work: what the scheduler believes that it costs, and how long it takes."""

    cost: float
    seconds: float


def recorded(facts: dict[str, Any], steps: int) -> list[Task]:
    """The pieces that `scaling.py` recorded, each as often as it was run, scaled to `steps` of training.

    What is not training (starting policies, exact metrics, writing) is taken as it was.
    """
    scale = steps / facts["options"]["zoo_steps"]
    return [
        Task(task["expense"], scale * trained + occupied - trained)
        for task in facts["tasks"]
        for trained, occupied in zip(task["seconds"], task["occupied"], strict=True)
    ]


def bootstrap(tasks: Sequence[Task], number_of: int, seed: int) -> list[Task]:
    """So many of them, drawn with replacement."""
    return random.Random(seed).choices(tasks, k=number_of)


def bound(seconds: Sequence[float], workers: int) -> float:
    """No schedule is faster: all workers busy to the end, or the longest piece."""
    return max(sum(seconds) / workers, max(seconds, default=0.0))


def dealt(seconds: Sequence[float], workers: int) -> float:
    """When the last worker ends if pieces are dealt out one after the other, beforehand."""
    return max(sum(seconds[worker::workers]) for worker in range(workers))


@dataclass(frozen=True)
class Outcome:
    """How a simulated run went: its end, how often each piece was finished, and failures."""

    makespan: float
    finished: list[int]
    failures: int = 0


class Pieces:
    """Workers that take pieces of one queue until there are none; the time is whatever the pieces say."""

    def __init__(
        self,
        costs: Sequence[float],
        seconds: Sequence[float],
        workers: int,
        start: float,
        name: str,
        store: Any,
    ) -> None:
        self._queue, self._seconds = WorkQueue(store, name, costs), seconds
        #: (end, tie, worker, piece, begin) of what is under way
        self.running: list[tuple[float, int, int, int, float]] = []
        self._ties = count()
        for worker in range(min(workers, len(costs))):
            self._begin(worker, start)

    def step(self) -> tuple[float, int]:
        """The next end of a piece, and which; its worker takes another one."""
        end, _, worker, piece, _ = heapq.heappop(self.running)
        self._queue.finish(piece, None)
        self._begin(worker, end)
        return end, piece

    def _begin(self, worker: int, now: float) -> None:
        piece = self._queue.take()
        if piece is not None:
            heapq.heappush(self.running, (now + self._seconds[piece], next(self._ties), worker, piece, now))


def queued(costs: Sequence[float], seconds: Sequence[float], workers: int) -> Outcome:
    """Workers take the costliest piece that is left, by `costs`; nothing fails."""
    return with_failures(costs, seconds, workers)


def with_failures(
    costs: Sequence[float],
    seconds: Sequence[float],
    workers: int,
    *,
    mtbf: float = math.inf,
    restart: float = 0.0,
    checkpoint: float = 60.0,
    seed: int = 0,
) -> Outcome:
    """The same, while each worker fails at random and all of them start again, as the elastic agent has it.

    Args:
        costs, seconds: of the pieces.
        workers: how many.
        mtbf: mean seconds between two failures of a worker.
        restart: seconds until all workers are at work again; a failure meanwhile begins it anew.
        checkpoint: seconds between two checkpoints. The worker that failed loses what came after its last
            one; the others lose nothing, since they write one when they are stopped.
        seed: of the failures.

    Returns:
        The outcome; its makespan is infinite where the run would not end in `HOPELESS` times its least time.
    """
    rng, store = random.Random(seed), HashStore()
    left, finished = list(seconds), [0] * len(seconds)
    limit = HOPELESS * max(bound(seconds, workers), 1e-9)
    clock, failures = 0.0, 0
    while open_pieces := [piece for piece, times in enumerate(finished) if not times]:
        failure = clock + _gap(rng, mtbf, workers)
        pieces = Pieces(
            [costs[i] for i in open_pieces],
            [left[i] for i in open_pieces],
            workers,
            clock,
            f"attempt-{failures}",
            store,
        )
        while pieces.running and pieces.running[0][0] <= failure:
            clock, piece = pieces.step()
            finished[open_pieces[piece]] += 1
        if not pieces.running:
            break
        victim = rng.randrange(workers)
        for _, _, worker, piece, began in pieces.running:
            lost = (failure - began) % checkpoint if worker == victim else 0.0
            left[open_pieces[piece]] -= failure - began - lost
        clock, failures = failure, failures + 1
        while (gap := _gap(rng, mtbf, workers)) < restart and clock < limit:
            clock, failures = clock + gap, failures + 1
        clock += restart
        if clock > limit:
            return Outcome(math.inf, finished, failures)
    return Outcome(clock, finished, failures)


def _gap(rng: random.Random, mtbf: float, workers: int) -> float:
    return rng.expovariate(1.0) * mtbf / workers


def efficiency(seconds: Sequence[float], workers: int, makespan: float) -> float:
    """The share of the workers' time that went into pieces."""
    return sum(seconds) / (workers * makespan)


def availability(workers: float, mtbf: float, restart: float, interval: float = 0.0) -> float:
    """The share of the time that goes into work that is kept, where each failure stops everyone.

    A restart, which a failure may interrupt, leaves exp(-restart workers / mtbf). With an `interval` between
    checkpoints, all lose what came after the last one, as data-parallel training does (Daly 2006, a
    checkpoint taking no time).
    """
    rate = workers / mtbf
    kept = rate * interval / math.expm1(rate * interval) if interval else 1.0
    return kept * math.exp(-rate * restart)


def largest(mtbf: float, restart: float, loss: float = 0.1) -> float:
    """From how many workers on restarts cost more than a share `loss` of the time."""
    return -math.log1p(-loss) * mtbf / restart


def calls(workers: int) -> float:
    """Calls of the store a second while all of these workers wait, heartbeats included."""
    return workers * (CALLS_A_LOOK / MAX_POLL_SECONDS + 1 / HEARTBEAT_SECONDS)


def step_seconds(
    workers: int,
    *,
    serial: float,
    parallel: float,
    rows: int,
    message: float,
    bandwidth: float = math.inf,
    latency: float = 0.0,
) -> float:
    """A step of data-parallel training, calculated.

    What every worker does, its share of the rows, and one all-reduce after it.

    Args:
        workers: how many.
        serial: seconds of what every worker does in full.
        parallel: seconds of all rows on one worker.
        rows: in a batch; the worker with most of them is waited for.
        message: bytes of the gradients.
        bandwidth: bytes a second that a worker sends and receives in a ring.
        latency: seconds of one hop; a message takes 2 log2(workers) of them.
    """
    own = math.ceil(rows / workers) / rows * parallel
    travel = 2 * (workers - 1) / workers * message / bandwidth + 2 * math.ceil(math.log2(workers)) * latency
    return serial + own + travel


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
    """Every order at every number of structures: makespan, and efficiency beside what is possible."""
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
    """Efficiency with failures over that without, at `each` structures a worker, beside the closed form.

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
    """A step of each training on GPUs that nobody has tried, from what `scaling.py` measured on one core.

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


def picture(done: dict[str, Any]) -> bytes:
    """A PNG: how far each order is from what is possible, and what failures leave."""
    canvas = Canvas(figsize=(8.5, 3.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for colour, name in zip(OTHERS, [*ORDERS, DEALT], strict=False):
        points = [(e["structures"], e["efficiency"]) for e in done["orders"] if e["order"] == name]
        left.plot(*zip(*points, strict=True), marker=".", linewidth=1, color=colour, label=name)
    sizes = sorted({(e["structures"], e["efficiency"] * e["over_bound"]) for e in done["orders"]})
    left.plot(
        *zip(*sizes, strict=True), color="black", linewidth=0.8, linestyle=":", label="no order is better"
    )
    left.set(xscale="log", xlabel="structures", ylabel="efficiency", ylim=(0, 1.03))
    left.set_title(f"{done['workers']:,} workers, no failures", fontsize=9)
    hours = sorted({e["mtbf_hours"] for e in done["failures"]})
    for colour, mtbf in zip(OTHERS, hours, strict=False):
        found = [e for e in done["failures"] if e["mtbf_hours"] == mtbf]
        most = max(e["workers"] for e in found)
        grid = [most ** (step / 100) for step in range(101)]
        right.plot(
            grid,
            [availability(size, mtbf * HOUR, done["restart"]) for size in grid],
            linewidth=0.8,
            color=colour,
        )
        points = [(e["workers"], e["share"]) for e in found if "share" in e]
        right.plot(
            *(zip(*points, strict=True) if points else ((), ())), ".", color=colour, label=f"{mtbf:,.0f} h"
        )
    right.set(xscale="log", xlabel="workers", ylabel="share of the time without failures", ylim=(0, 1.03))
    right.set_title(f"failures, {done['restart']:g} s a restart; lines: closed form", fontsize=9)
    for panel in (left, right):
        panel.legend(
            fontsize=6, frameon=False, title="MTBF of a worker" if panel is right else None, title_fontsize=6
        )
        panel.tick_params(labelsize=7)
    return png(canvas)


def text(done: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        f"== {done['workers']:,} workers; pieces of {done['tasks']['mean']:.1f} s on average, "
        f"{done['tasks']['longest']:.1f} at most"
    ]
    rows = [
        (
            f"{e['structures']:,}",
            e["order"],
            number(e["makespan"]),
            number(e["bound"]),
            f"{e['over_bound']:.3f}",
            f"{e['efficiency']:.3f}",
        )
        for e in done["orders"]
    ]
    lines += table(("structures", "order", "makespan s", "bound s", "over bound", "efficiency"), rows)
    lines += ["", f"== failures: {done['restart']:g} s a restart, {done['each']} structures a worker"]
    rows = [
        (f"{e['workers']:,}", f"{e['mtbf_hours']:,.0f}", f"{e['failures']:.1f}" if "failures" in e else "",
         f"{e['share']:.3f}" if "share" in e else "does not end", f"{e['expected']:.3f}")
        for e in done["failures"]
    ]  # fmt: skip
    lines += table(("workers", "MTBF h", "failures a run", "share", "closed form"), rows)
    lines += [
        "",
        "== workers from which on restarts cost more than 10 %; and failures a day of 1,000 workers",
    ]
    rows = [
        (f"{e['mtbf_hours']:,.0f}", f"{e['failures_a_day']:,.1f}",
         *(f"{size:,.0f}" for size in e["zoo"].values()),
         *(f"{size:,.0f}" for size in e["data_parallel"].values()))
        for e in done["limits"]
    ]  # fmt: skip
    restarts = list(done["limits"][0]["zoo"])
    lines += table(
        ("MTBF h", "failures/day", *(f"zoo {r} s" for r in restarts), *(f"training {r} s" for r in restarts)),
        rows,
    )
    store = done["store"]
    measured = f"{store['measured']:,.0f}" if store["measured"] else "not measured yet"
    lines += [
        "",
        f"== store: {store['waiting']:,.0f} calls/s while {done['workers']:,} workers wait; "
        f"measured here: {measured}",
    ]
    if done["calculated"]:
        lines += ["", "== a step of data-parallel training, calculated, not measured"]
        rows = [
            (e["training"], e["link"], e["batch"], f"{e['rows']:,}",
             *(f"{1e3 * e[k]:.2f}" for k in ("one_gpu", "seconds", "all_reduce")), f"{e['gain']:.1f}")
            for e in done["calculated"]
        ]  # fmt: skip
        lines += table(
            ("training", "on", "batch", "rows", "one GPU ms", "step ms", "all-reduce ms", "gain"), rows
        )
    return "\n".join(lines)


def limits(
    hours: Sequence[float], restarts: Sequence[float], checkpoint: float, workers: int
) -> list[dict[str, Any]]:
    """For each MTBF: failures a day, and from how many workers on a tenth of the time is lost.

    Of a zoo, and of data-parallel training.
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
    """Everything; `scaling` holds the parts that `scaling.py` has measured, or nothing."""
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
