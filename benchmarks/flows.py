"""Exact flows of separable rewards on grids that nobody lists: how long they take, and how exact they are.

python benchmarks/flows.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from genflow_hypergrid import maxent
from genflow_hypergrid.maxent import MaxentFlows, n_nodes
from genflow_hypergrid.rewards import Original
from genflow_hypergrid.separable import SeparableTarget

from genflow import Structure

GRIDS = ((8, 20), (8, 50), (10, 64), (8, 100))
STATES, ROUNDS = 256, 7


def milliseconds(work: Callable[[], Any]) -> float:
    """The median over rounds, after one that is not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])


def with_nodes(target: SeparableTarget, count: int) -> MaxentFlows:
    """The flows with another number of nodes."""
    before = maxent.n_nodes
    maxent.n_nodes = lambda heights: count
    try:
        return MaxentFlows(target)
    finally:
        maxent.n_nodes = before


@click.command()
def main() -> None:
    """Print a line for each grid."""
    torch.set_num_threads(1)
    for ndim, height in GRIDS:
        structure = Structure.build("hypergrid", {"ndim": ndim, "height": height, "backward": "maxent"})
        reward = structure.environment.reward
        assert isinstance(reward, Original)
        target, heights = reward.target, (height,) * ndim
        few, exact = n_nodes(heights), (sum(heights) - ndim) // 2 + 1
        tables = milliseconds(lambda target=target: MaxentFlows(target))
        flows = MaxentFlows(target)
        states = flows.draw_visited(STATES, torch.Generator().manual_seed(0))
        spent = milliseconds(lambda flows=flows, states=states: flows.at(states))
        error = (flows.at(states)[0] - with_nodes(target, exact).at(states)[0]).abs().max()
        click.echo(
            f"({ndim}, {height})  {few} nodes, {exact} exact; tables {tables:.1f} ms;"
            f" {STATES} states {spent:.1f} ms; largest error of log F {float(error):.0e}"
        )


if __name__ == "__main__":
    main()
