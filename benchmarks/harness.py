"""How the works of the speed benchmark run their sides.

What a side saved is judged exactly, and off every side's clock.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genflow_side import build, load
from sides import HERE, Side

from genflow import Structure
from genflow.measure import figures_of

#: a policy is good from this exact Jensen-Shannon divergence on
GOOD = 0.01
#: a step of training that is small beside what is measured, with which a side loads whatever it loads late
TINY = {"ndim": 2, "height": 4, "width": 16}
#: genflow's options that make its rates constant too
FLAT = {"steps": 10**7, "warmup": 0.0, "decay": 0.0}
_serial = itertools.count(1)


@dataclass(frozen=True)
class Bench:
    """How much is measured.

    `threads` are the settings of "population"; the other works run on the first of them.

    Attributes:
        peers: folder of the peers' environments.
        rounds: turns of each side, or seeds.
        turn: seconds of a turn.
        warmup: iterations before the first turn.
        cap: seconds after which a training that is not good yet is stopped.
    """

    peers: Path
    rounds: int = 5
    threads: tuple[int, ...] = (1,)
    turn: float = 2.0
    warmup: int = 300
    cap: float = 120.0

    def side(self, kind: str, threads: int | None = None) -> Side:
        """Start a side: "genflow", "torchgfn" or "gfnx".

        Raises:
            FileNotFoundError: the peer's environment is missing.
        """
        if kind == "genflow":
            python, script = Path(sys.executable), HERE / "genflow_side.py"
        else:
            python, script = (
                self.peers.absolute() / kind / "bin" / "python",
                HERE / "peers" / f"{kind}_side.py",
            )
        if not python.exists():
            raise FileNotFoundError(
                f"there is no environment for {kind} in {self.peers}; `make bench` makes it"
            )
        return Side(kind, [python, script], threads or self.threads[0])


def unknown(task: dict) -> dict:
    """The same task to every eye, another one to every cache: its reward differs in the ninth digit."""
    return task | {"R0": task.get("R0", 0.1) * (1 - 1e-9 * next(_serial))}


def named(text: str) -> dict:
    """The task of a preset or of ``key=value,...``."""
    fields = Structure.parse("hypergrid", text).fields()
    return {key: fields[key] for key in ("ndim", "height", "width")}


def divergence(task: dict, weights: Path) -> float:
    """Exact JS of saved weights."""
    return figures_of(load(task, str(weights)))["js"]


def length(task: dict, weights: Path) -> float:
    """Expected steps of a trajectory, exit included, of saved weights: on a grid, the sum of the final
    positions and one.
    """
    population = load(task, str(weights))
    steps = build(task).solution.graph.states.sum(1) + 1.0
    return float(population.terminal_distribution()[0] @ steps.double())


def learn(
    side: Side, task: dict, recipe: dict, seed: int, cap: float, folder: Path, **slices: Any
) -> Iterator[tuple[float, float, int]]:
    """(seconds of training, exact JS, iterations) while a side learns, at growing intervals of a tenth, until
    it is good or at its cap.

    Intervals are no shorter than four evaluations, so that the curve costs less than the training. `slices`
    replaces them, and
    then the run ends with them: {"limit": iterations of each, "count": how many}.
    """
    weights = folder / "weights.safetensors"
    side.ask("prepare", task=TINY, recipe=recipe, seed=seed)
    side.ask("iterate", limit=2)
    spent, cost = side.ask("prepare", task=unknown(task), recipe=recipe, seed=seed)["seconds"], 0.0
    iterations = 0
    for index in itertools.count(1):
        ask = (
            {"limit": slices["limit"]}
            if slices
            else {"seconds": min(max(0.25, spent / 10, 4 * cost), cap - spent)}
        )
        done = side.ask("iterate", **ask)
        spent, iterations = spent + done["seconds"], iterations + done["iterations"]
        side.ask("save", path=str(weights))
        began = time.perf_counter()
        js = divergence(task, weights)
        cost = time.perf_counter() - began
        yield spent, js, iterations
        if index == slices["count"] if slices else js <= GOOD or spent >= cap:
            return
