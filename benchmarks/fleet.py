"""A fleet of workers, simulated on the scheduler that real ones use, and closed forms to hold it against.

Workers take pieces of work from a `genflow.distributed.work_queue.WorkQueue` on a store in memory, and the
time is made up. Costs are in whatever unit the scheduler is told, durations in seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch.distributed import HashStore

from genflow.distributed.work_queue import MAX_POLL_SECONDS, WorkQueue
from genflow.distributed.world import HEARTBEAT_SECONDS

#: calls of the store that a piece makes, from take() to finish() and the count of what is done
CALLS_A_PIECE = 5
#: calls that a worker makes each time it looks whether the others are done
CALLS_A_LOOK = 2
#: a run that takes this many times as long as without failures will not end
HOPELESS = 20.0
HOUR = 3600.0


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
    """Draw a number of tasks with replacement."""
    return random.Random(seed).choices(tasks, k=number_of)


def bound(seconds: Sequence[float], workers: int) -> float:
    """Seconds below which no schedule gets: all workers busy to the end, or the longest piece."""
    return max(sum(seconds) / workers, max(seconds, default=0.0))


def dealt(seconds: Sequence[float], workers: int) -> float:
    """When the last worker ends if the pieces are dealt out in turn before anyone begins."""
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
        """Return when the next piece ends, and its number; its worker then takes another one."""
        end, _, worker, piece, _ = heapq.heappop(self.running)
        self._queue.finish(piece, None)
        self._begin(worker, end)
        return end, piece

    def _begin(self, worker: int, now: float) -> None:
        piece = self._queue.take()
        if piece is not None:
            heapq.heappush(self.running, (now + self._seconds[piece], next(self._ties), worker, piece, now))


def queued(costs: Sequence[float], seconds: Sequence[float], workers: int) -> Outcome:
    """Simulate workers that always take the costliest piece left, by `costs`, and never fail."""
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
    """Simulate workers that fail at random, where each failure makes all of them start again.

    That is what torch's elastic agent does.

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
    """The number of workers from which on restarts cost more than a fraction `loss` of the time."""
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
    """Calculate the seconds of a step of data-parallel training.

    They are what every worker does in full, its share of the rows, and one all-reduce after it.

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
