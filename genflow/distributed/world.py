"""`World`: this worker among others.

A command runs on every worker. What only one of them may do (writing a result) is `World.first`, independent pieces of work are
`World.share`, sums over a batch that is dealt out are `World.sum`; alone, a worker does all of it itself. torch's elastic agent
starts workers and starts them again after a failure; work goes on from the run directory, which all machines must see.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from genflow.distributed.work_queue import Queue, wait_for
from genflow.errors import GenflowError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

T = TypeVar("T")
#: seconds between two signs of life of a worker, and after which one without them counts as lost
BEAT, SILENCE = 5.0, 60.0
#: added to the signs of life of a worker that has gone with good reason
GONE = 2**40
INTERRUPTED = "genflow: interrupted; give the same command again to go on"
#: environment variables of our own workers: the agent's process, the folder in which they leave their status,
#: and most machines if several
_AGENT, _STATUS, _MACHINES = "GENFLOW_AGENT", "GENFLOW_STATUS", "GENFLOW_MACHINES"
_MET = "met"
_PR_SET_PDEATHSIG = 1


class WorkerLost(Exception):
    """Another worker is gone; the agent starts all of them again."""


@dataclass
class World:
    """This worker among `size` of them; `rank` 0 is the one that writes and shows progress."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = None

    def __post_init__(self) -> None:
        self._uses = 0
        self._log: int | None = None
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._looked = 0.0

    @property
    def main(self) -> bool:
        """Whether this worker writes and shows progress."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This worker's share of `count` rows; the shares are contiguous and differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the workers, in place; every worker must call it.

        Raises:
            WorkerLost: a worker is gone.
        """
        if self.size > 1:
            import torch.distributed as dist

            with _lost():
                dist.all_reduce(tensor)
        return tensor

    def first(self, work: Callable[[], T]) -> T:
        """Rank 0 does it while the others wait; all return its JSON-able result, or raise its `GenflowError`."""
        if self.store is None:
            return work()
        key = self._name("first")
        if not self.main:
            with _lost():
                wait_for(self.store, key)
                outcome = json.loads(self.store.get(key))
            if "error" in outcome:
                raise GenflowError(outcome["error"])
            return outcome["result"]
        try:
            with _apart():
                result = work()
        except GenflowError as error:
            self._tell(key, {"error": str(error)})
            raise
        self._tell(key, {"result": result})
        return result

    def share(
        self,
        items: Sequence[Any],
        work: Callable[[Any], Any],
        cost: Callable[[Any], float] = lambda item: 0.0,
        watch: Callable[[int], None] = lambda done: None,
    ) -> list[Any]:
        """Each item is done by one worker, whichever is free; all return the JSON-able results in the order of the items.

        Args:
            items: the same list on every worker.
            work: what to do with an item.
            cost: the costliest items are begun first, so that no long one is left to the end.
            watch: told how many items are done, from time to time.

        Raises:
            GenflowError: that of the first item that failed; the other workers finish what they have begun.
        """
        if self.store is None:
            results: dict[int, Any] = {}
            for index in sorted(range(len(items)), key=lambda i: -cost(items[i])):
                results[index] = work(items[index])
                watch(len(results))
            return [results[index] for index in range(len(items))]
        queue = Queue(self.store, self._name("share"), [cost(item) for item in items])
        while True:
            with _lost():
                taken = queue.take()
            if taken is None:
                break
            try:
                with _apart():
                    result = work(items[taken])
            except GenflowError as error:
                queue.fail(error)
                raise
            with _lost():
                queue.finish(taken, result)
                watch(queue.done())

        def meanwhile() -> None:
            watch(queue.done())
            self._look_around()

        with _lost():
            return queue.results(meanwhile)

    @contextlib.contextmanager
    def logged(self, folder: Path) -> Iterator[None]:
        """Meanwhile this worker's notes go to ``folder/rank-N.log`` too; of other workers than the first, all that they say goes there."""
        if self.size == 1 or self._log is not None:  # an outer run directory has the log
            yield
            return
        path = folder / f"rank-{self.rank}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise GenflowError(f"cannot write {path}: {error.strerror or error}") from error
        terminal = os.dup(2)
        if not self.main:
            os.dup2(self._log, 2)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.log(
            f"worker {self.rank} of {self.size} on {socket.gethostname()}, process {os.getpid()}, restart {restart}"
        )
        try:
            yield
        except Exception:
            self.log(traceback.format_exc().rstrip())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            os.close(self._log)
            self._log = None

    def log(self, text: str) -> None:
        """Write a line to this worker's log, if it has one."""
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk shows where it matters
                os.write(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())

    def beat(self) -> None:
        """Say that this worker lives, once."""
        assert self.store is not None
        self.store.add(f"beat/{self.rank}", 1)

    def farewell(self) -> None:
        """Go, with a result or with a mistake that all have met; the first goes last, as it may hold the store that others still read."""
        assert self.store is not None
        with _lost():
            self.store.add(f"beat/{self.rank}", GONE)
            if self.store.add("gone", 1) == self.size:
                self.store.set("all gone", "")
            if self.main:
                wait_for(self.store, "all gone", self._look_around)

    def _look_around(self) -> None:
        """While the first worker waits for others: none of them may have been silent for long.

        A machine that is cut off closes no connection, and the work it took would never be finished.
        """
        now = time.monotonic()
        if not self.main or self.store is None or (self._heard and now - self._looked < BEAT):
            return
        self._looked = now
        beats = self.store.multi_get([f"beat/{rank}" for rank in range(self.size)])
        for rank, beat in enumerate(beats):
            known = self._heard.get(rank)
            if known is None or known[0] != beat:
                self._heard[rank] = (beat, now)
            elif now - known[1] > SILENCE and int(beat) < GONE:
                raise WorkerLost(f"worker {rank} has been silent for {SILENCE} seconds")

    def _name(self, kind: str) -> str:
        """A name that all workers give to the same use of the store: all of them make the same uses in the same order."""
        self._uses += 1
        return f"{kind}/{self._uses}"

    def _tell(self, key: str, outcome: dict[str, Any]) -> None:
        with _lost():
            assert self.store is not None
            self.store.set(key, json.dumps(outcome))


#: a worker that is alone, whatever the process belongs to
ALONE = World()
_joined = ALONE


def world() -> World:
    """The workers that this process belongs to; alone outside of `joined`."""
    return _joined


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Work that one worker does on its own must not wait for the others."""
    global _joined
    together, _joined = _joined, ALONE
    try:
        yield
    finally:
        _joined = together


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """What goes wrong between workers goes wrong because one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(f"lost contact with another worker ({str(error).splitlines()[0]})") from error


def is_worker(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as a worker, by our agent, torchrun or anything that sets the same variables."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def slurm_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """torchrun's variables from those of a Slurm job step of several tasks; {} outside of one.

    What the user sets of MASTER_ADDR and MASTER_PORT stays.
    """
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in environ:
        return {}
    # the first of e.g. "gpu[03-07,12],login1"
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", environ.get("SLURM_STEP_NODELIST", "localhost"))
    number = int(environ.get("SLURM_JOB_ID", "0")) * 31 + int(environ.get("SLURM_STEP_ID", "0"))
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environ.get("MASTER_ADDR")
        or ("".join(part or "" for part in first.groups()) if first else "localhost"),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(20_000 + number % 20_000),
    }


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the workers that the environment tells of; alone if it tells of none.

    Raises:
        WorkerLost: the others cannot be reached.
    """
    global _joined
    if not is_worker():
        os.environ.update(slurm_variables())
    if not is_worker():
        yield ALONE
        return
    _die_with_the_agent()
    import torch
    import torch.distributed as dist

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if (
        local_rank == 0 and _STATUS in os.environ
    ):  # what an attempt before this one has left; nobody ends before all have joined
        folder = Path(os.environ[_STATUS])
        for left in folder.iterdir():
            left.unlink()
        folder.with_name(_MET).touch()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    with _lost():
        store, rank, size = next(dist.rendezvous("env://"))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # it outlives a restart, and still holds what the last attempt said; but machines do not count
            # restarts alike
            store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(
            store=dist.PrefixStore("torch", store), rank=rank, world_size=size, timeout=timedelta(minutes=10)
        )
    if restarted() and rank == 0:
        attempt, most = (
            os.environ["TORCHELASTIC_RESTART_COUNT"],
            os.environ.get("TORCHELASTIC_MAX_RESTARTS", "?"),
        )
        print(
            f"genflow: a worker failed; all were started again and go on (restart {attempt} of {most})",
            file=sys.stderr,
        )
    _joined = World(rank, size, local_rank, dist.PrefixStore("genflow", store))
    _joined.beat()
    threading.Thread(target=_keep_beating, args=(_joined,), daemon=True).start()
    try:
        with contextlib.redirect_stdout(sys.stdout if rank == 0 else open(os.devnull, "w")):
            yield _joined
        _joined.farewell()
    except GenflowError:
        _joined.farewell()
        raise
    finally:
        _joined = ALONE
        # after a failure the others may be gone, and a clean end would wait for them
        if sys.exc_info()[0] is None:
            dist.destroy_process_group()


def _keep_beating(alive: World) -> None:
    while True:
        time.sleep(BEAT)
        try:
            alive.beat()
        except RuntimeError:  # the store is gone, and with it those who listen
            return


def first() -> bool:
    """Whether this process is the first worker, or alone; known without joining the others."""
    return os.environ.get("RANK", "0") == "0"


def supervised() -> bool:
    """Whether our agent started this process, and speaks for it when it is stopped."""
    return _AGENT in os.environ and is_worker()


def restarted() -> bool:
    """Whether these workers were started again after a failure, as far as this machine knows."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def replacing() -> bool:
    """Whether there may have been workers before these, whose last traces are still to go: restarts, or other machines'."""
    return restarted() or _MACHINES in os.environ


def leave(status: int) -> int:
    """The status to end this process with, for its command to end with `status`.

    Our agent takes any other than 0 for a failure that another try may mend.
    """
    folder = os.environ.get(_STATUS)
    if folder is None or not is_worker():
        return status
    (Path(folder) / os.environ["RANK"]).write_text(str(status))
    return 0


def _die_with_the_agent() -> None:
    """Without an agent nobody would stop this worker, and it would keep the run directory locked."""
    agent = os.environ.get(_AGENT)
    if agent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(agent):
        os._exit(1)
