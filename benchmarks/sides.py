"""What the sides of a comparison speak: a request on stdin and its answer on stdout, each one line of JSON.

A side is a process that lives through all rounds, so that imports and compilation are off the clock and the
sides can take turns. Standard library only, since the peers' environments do not have genflow.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: packages whose versions a side tells, where it has them
PACKAGES = ("torch", "torchgfn", "gfnx", "jax", "jaxlib", "equinox", "optax", "numpy")
#: seconds that a side may take to end by itself
PATIENCE = 10


class SideError(Exception):
    """A side refused a request or died; one line says which and why."""


def serve(side: object) -> None:
    """Answer {"do": method of `side`, "with": its arguments}, until stdin closes.

    By {"ok": what it returned} or {"error": a line}.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(side, request["do"])(**request["with"])}
        except Exception as error:
            answer = {
                "error": f"{type(error).__name__}: {error}".splitlines()[0],
                "trace": traceback.format_exc(),
            }
        print(json.dumps(answer), file=answers, flush=True)


class Handlers:
    """What every side can tell about itself."""

    def versions(self) -> dict[str, str]:
        """Versions of what computes here."""
        found = {"python": sys.version.split()[0]}
        if "genflow" in sys.modules:  # whatever its distribution is called
            found["genflow"] = sys.modules["genflow"].__version__
        for package in PACKAGES:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found

    def memory(self, restart: bool = False) -> int:
        """The most bytes that this process has held at once.

        `restart`: what it holds now, from which the most is counted anew.
        """
        try:
            if restart:
                Path("/proc/self/clear_refs").write_text("5")
            peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
            return 1024 * int(peak[1])
        except (OSError, TypeError):
            # elsewhere than on Linux, where this would count what the parent holds
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else 1024 * peak


def paced(
    step: Callable[[], int],
    seconds: float | None = None,
    limit: int | None = None,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Call `step`, which returns how many iterations it did, again and again.

    For about `seconds` of wall clock or until there are `limit` of them. `wait` returns when the device has
    done all that it was asked for.
    """
    if seconds is None and limit is None:
        raise ValueError("paced() needs seconds, a limit or both, or it never ends")
    wait()
    iterations, began = 0, time.perf_counter()
    while time.perf_counter() - began < (math.inf if seconds is None else seconds) and (
        limit is None or iterations < limit
    ):
        iterations += step()
    wait()
    return {"iterations": iterations, "seconds": time.perf_counter() - began}


class Side:
    """A running side, from outside.

    Use as ``with Side("name", [python, script], threads=1) as side: side.ask("method", key=value)``.

    Args:
        name: for messages.
        command: what to run.
        threads: how many it may use; it is bound to as many cores.
        platform: what JAX computes on there, "cpu" or "cuda".
    """

    def __init__(self, name: str, command: Sequence[str | Path], threads: int, platform: str = "cpu") -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=_environment(threads, platform),
        )
        if hasattr(os, "sched_setaffinity"):
            # before it has imported anything, so that thread pools are made for these cores
            os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[:threads])

    def ask(self, do: str, **arguments: Any) -> Any:
        """What the side's method returns.

        Raises:
            SideError: the method failed, or the side is dead; whatever it wrote to stderr has been shown
                already.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideError(f"side {self.name!r} ended with code {self._process.wait()} during {do!r}")
        answer = json.loads(line)
        if "error" in answer:
            print(answer["trace"], file=sys.stderr)
            raise SideError(f"side {self.name!r} failed during {do!r}: {answer['error']}")
        return answer["ok"]

    def kill(self) -> None:
        """End it at once, from another thread, too: whoever waits for its answer gets a `SideError`."""
        self._process.kill()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # a request that a dead side has not read
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _environment(threads: int, platform: str) -> dict[str, str]:
    eigen = "true" if threads > 1 else "false"
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}",
        "JAX_PLATFORMS": platform,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a card's memory is for all sides
        # so that a script in a folder below finds this file
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
