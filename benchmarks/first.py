"""What a policy waits for beside generation: imports in a new process, and cores that others keep busy."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import TINY, Bench, named
from report import Result

from genflow.distributed.launcher import cores

#: the task of the guides' first example
EXAMPLE = ["generate", "--env", "hypergrid", "--structure", "ndim=3,height=12", "--num", "8"]
#: what a command cannot do without, and what sampling by diffusers would add to it
TORCH, DIFFUSERS = "import torch", "import diffusers; diffusers.DPMSolverMultistepScheduler"


def first(bench: Bench) -> Result:
    """Milliseconds of the whole command that generates eight policies, in processes of their own."""
    result = Result("first", "milliseconds from the call of a command to its end; eight policies of (3, 12)")
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, list[float]] = {"import torch": [], "import diffusers": [], "genflow generate": []}
        for turn in range(bench.rounds + 1):
            out = ["--out", str(Path(folder) / str(turn))]
            for name, command in (
                ("import torch", ["-c", TORCH]),
                ("import diffusers", ["-c", DIFFUSERS]),
                ("genflow generate", ["-m", "genflow", *EXAMPLE, *out]),
            ):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, *command],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                if turn:  # the first one reads the files from disk
                    times[name].append(1e3 * (time.perf_counter() - began))
    result.add("first policy", "ms", times)
    result.compare("first policy", "genflow generate", "import diffusers", more=False)
    result.compare("first policy", "genflow generate", "import torch", more=False)
    return result


def busy(bench: Bench) -> Result:
    """Milliseconds of generation on every core, while other processes keep none, one or all of them busy."""
    task, worth, every = named("ndim=4,height=10"), "as many threads as it is worth", "a thread a core"
    result = Result("busy", "policies of hypergrid (4, 10), width 128, with other work on the same cores")
    count = cores()
    with bench.side("genflow", count) as side:
        side.ask("generate", task=TINY | {"width": 64}, num=2)
        for taken in dict.fromkeys((0, 1, count)):
            for num in (1, 8, 100):
                times: dict[str, list[float]] = {worth: [], every: []}
                with spinning(taken):
                    for _ in range(bench.rounds):
                        for name, spread in ((worth, False), (every, True)):
                            done = side.ask("generate", task=task, num=num, spread=spread)
                            times[name].append(1e3 * done["seconds"])
                setting = f"{num} at once, {taken} of {count} cores busy"
                result.add(setting, "ms", times)
                result.compare(setting, worth, every, more=False)
    result.facts |= {"task": task, "cores": count}
    return result


#: computes and never waits, for as long as whoever started it lives
SPIN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def spinning(number: int) -> Iterator[None]:
    """Meanwhile so many processes compute and never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
