"""How near torchgfn's own training comes to log Z of Ising models that no one can list, by its energies.

The bounds of log Z are from below, by what a policy samples, and from above, by objects of the target. The
same of generated policies, before and after steps of as many energies, is in results/ising_lattice.json.

    python bounds.py
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from gfn.utils.modules import MLP
from table import BOUNDS, RESULTS, measured, unseen

import genflow

#: torchgfn's usual network and rates
WIDTH, RATE, LOG_Z_RATE = 256, 1e-3, 0.1


def train(task: genflow.Structure, counts: list[int], batch: int, seed: int) -> list[dict[str, Any]]:
    """The bounds of one policy after each number of energies."""
    torch.manual_seed(seed)
    env, preprocessor = task.environment.make()
    size = {"input_dim": preprocessor.output_dim, "hidden_dim": WIDTH, "n_hidden_layers": 2}
    module = MLP(output_dim=env.n_actions, **size)
    forward = DiscretePolicyEstimator(module, n_actions=env.n_actions, preprocessor=preprocessor)
    backward = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=preprocessor)
    flow, sampler = TBGFlowNet(forward, backward, init_logZ=0.0), Sampler(forward)
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    optimiser.add_param_group({"params": flow.logz_parameters(), "lr": LOG_Z_RATE})
    fields = {**task.fields(), "width": WIDTH, "depth": 2, "activation": "relu"}
    own = genflow.Structure.build(task.env, fields, policy="mlp")
    rows, began = [], time.perf_counter()
    for step in range(1, max(counts) // batch + 1):
        trajectories = sampler.sample_trajectories(env, n=batch, save_logprobs=True)
        optimiser.zero_grad()
        flow.loss(env, trajectories, recalculate_all_logprobs=False).backward()
        optimiser.step()
        if step * batch in counts:
            seconds = time.perf_counter() - began
            population = genflow.Population.from_modules(own, [module])
            rows.append({"energies": step * batch, "seconds": seconds, **measured(population)})
    return rows


@click.command()
@click.option("--energies", default="3200,12800", show_default=True, help="After how many to measure.")
@click.option("--batch", default=64, show_default=True, help="Trajectories of a step.")
@click.option("--task", "chosen", multiple=True, help="A name of the recipe's tests; default: all.")
def main(energies: str, batch: int, chosen: tuple[str, ...]) -> None:
    """Train by torchgfn on the test tasks of the lattice, and measure."""
    torch.set_num_threads(1)
    found = []
    for task in unseen("ising_lattice")[1]:
        if chosen and task.name not in chosen:
            continue
        rows = train(task, [int(count) for count in energies.split(",")], batch, seed=0)
        log_z = task.solution.log_partition()
        found.append({"structure": task.name, "log_z": log_z, "torchgfn": rows})
        for row in rows:
            low, high = log_z - row[BOUNDS[0]], log_z + row[BOUNDS[1]]
            click.echo(
                f"{task.name}: log Z {log_z:.2f}, after {row['energies']:,} energies {low:.2f} to {high:.2f}"
            )
        path = Path(RESULTS) / "ising_lattice_torchgfn.json"
        genflow.write_json(path, {"width": WIDTH, "lr": RATE, "batch_size": batch, "tasks": found})


if __name__ == "__main__":
    main()
