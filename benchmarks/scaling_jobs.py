"""The jobs whose scaling is measured, and how genflow commands and other processes are started for them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from genflow.storage.runs import MANIFEST

#: as uneven as the structures of a real zoo: 0.4 to 4 s each with 60 steps
STRUCTURES = (
    "ndim=2,height=4,width=32", "ndim=2,height=8", "ndim=2,height=16,width=64", "ndim=2,height=24",
    "ndim=2,height=32,width=48", "ndim=2,height=48", "ndim=2,height=64,width=96", "ndim=3,height=4",
    "ndim=3,height=6,width=40", "ndim=3,height=10",
    "ndim=3,height=12,width=64", "ndim=3,height=16", "ndim=3,height=24,width=80", "ndim=3,height=32,width=56",
    "ndim=4,height=3,width=96", "ndim=4,height=6", "ndim=4,height=8,width=48", "ndim=4,height=10",
    "ndim=5,height=4", "ndim=5,height=6,width=64", "ndim=6,height=3", "ndim=6,height=4,width=112",
    "ndim=7,height=2,width=32", "ndim=8,height=2",
)  # fmt: skip
RECIPE = Path(__file__).parents[1] / "plugins" / "genflow_hypergrid" / "pretrained" / "default.toml"
#: name -> (command, section, configuration)
PAPERS, SHIPPED, DIFFUSION = "autoencoder, the paper's", "autoencoder, the shipped recipe", "diffusion"
TRAININGS: dict[str, tuple[str, str, Path | None]] = {
    PAPERS: ("train-ae", "autoencoder", None),
    SHIPPED: ("train-ae", "autoencoder", RECIPE),
    DIFFUSION: ("train-ldm", "diffusion", RECIPE),
}


#: seconds after which a started command counts as stuck
PATIENCE = 600.0


@dataclass
class Bench:
    """How much is measured, and where."""

    work: Path
    rounds: int
    zoo_steps: int
    steps: int
    structures: Sequence[str] = STRUCTURES
    zoo_tasks: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def zoo(self) -> Path:
        """A zoo to train on: the last one that was collected, or one of few steps."""
        found = sorted(self.work.glob("zoo-*/" + MANIFEST), key=lambda path: path.stat().st_mtime)
        if found:
            return found[-1].parent
        self.collect("zoo-few-steps", 1, steps=20)
        return self.work / "zoo-few-steps"

    def collect(self, name: str, workers: int, steps: int | None = None) -> float:
        """Collect the zoo on so many workers and return the seconds of the whole command."""
        options = ["-o", f"zoo.steps={steps or self.zoo_steps}", *self.named(), "--env", "hypergrid"]
        return command("train-zoo", *options, "--out", self.work / name, *on(workers))

    def named(self) -> list[str]:
        """The structures, as options."""
        return [word for name in self.structures for word in ("--structure", name)]


def on(workers: int) -> list[str]:
    """The options that ask for a number of workers; none for one worker."""
    return ["--nproc-per-node", str(workers)] if workers > 1 else []


def start(*words: Any, threads: int = 1) -> subprocess.Popen:
    """Start a genflow command with a number of threads for each worker."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [sys.executable, "-m", "genflow", *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*words: Any, threads: int = 1) -> float:
    """Run a genflow command and return how many seconds it took.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    process = start(*words, threads=threads)
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"genflow {words[0]} ended with status {process.returncode}: {said[-500:]}")
    return time.perf_counter() - began


@contextmanager
def stopped(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Stop a started command when the block ends."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def processes(work: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """Call work(rank, count, ...) in `count` processes of their own and return what each returned."""
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return pool.starmap(work, [(rank, count, *arguments) for rank in range(count)], chunksize=1)
