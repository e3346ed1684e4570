"""How far generated policies are from their targets: exact JS where a grid can be listed, bounds elsewhere.

Both bounds are in nats, of one policy with the standard error over its trajectories.

    python benchmarks/bounds.py --structure ndim=8,height=100 --structure ndim=3,height=29,reward=cosine
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from genflow_metrics.reward import KLBound, LogZGap
from torch import Tensor

from genflow import Population, generate
from genflow.measure import all_metrics
from genflow.progress import Progress
from genflow.storage.files import write_json
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

#: the grids that no training of the field reaches
LARGE = tuple(
    f"ndim={n},height={h}" for n, h in ((8, 20), (6, 30), (5, 100), (8, 50), (8, 100), (10, 64), (9, 100))
)
#: states up to which the exact JS is computed
LISTED = 400_000


def estimate(values: Tensor) -> dict[str, float]:
    """The mean over policies of means over trajectories (M, draws), and one policy's standard error."""
    errors = values.std(1) / values.shape[1] ** 0.5
    return {"mean": float(values.mean()), "error": float(errors.mean())}


def distilled(population: Population, steps: int) -> tuple[Population, float]:
    """The policies after more steps of the exact teacher, and the seconds of each."""
    options = PolicyOptions(objective="distill", steps=steps, batch_size=512, lr=1e-3, decay=0.8)
    start, began = population.weights, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        further = train_population(
            population.structure,
            options,
            start=start,
            seed=0,
            folder=Path(folder),
            progress=Progress(quiet=True),
        )
    return further, (time.perf_counter() - began) / len(population)


def measure(population: Population, draws: int) -> dict[str, Any]:
    """The figures of a population."""
    solution = population.structure.solution
    found: dict[str, Any] = {"structure": population.structure.name, "states": solution.n_states}
    if (solution.n_states or LISTED + 1) <= LISTED:
        values = all_metrics()["js"](population)
        found["js"] = {"mean": float(values.mean()), "worst": float(values.max())}
    forward = KLBound(KLBound.Config(draws=draws)).log_ratios(population)
    backward = solution.log_partition() - LogZGap(LogZGap.Config(draws=draws)).log_weights(population)
    return found | {"kl_bound": estimate(forward), "reverse_kl_bound": estimate(backward)}


def line(found: dict[str, Any]) -> str:
    """One line of figures."""
    parts = [f"{found['structure']}:"]
    if "js" in found:
        parts.append(f"JS {found['js']['mean']:.5f}")
    for name in ("kl_bound", "reverse_kl_bound"):
        parts.append(f"{name} {found[name]['mean']:.3f} ({found[name]['error']:.3f})")
    return "  ".join(parts)


@click.command()
@click.option(
    "--structure", "names", multiple=True, metavar="NAME|key=value,...", help="Default: seven grids."
)
@click.option("--generator", help="Its name or folder; by default the first that ships and covers each.")
@click.option("--num", default=4, show_default=True, help="Policies of each structure.")
@click.option("--draws", default=1024, show_default=True, help="Trajectories of each policy.")
@click.option("--distil", default=0, show_default=True, help="Also distil the policies by so many steps.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(names, generator, num, draws, distil, out) -> None:
    """Generate and measure, a line for each structure."""
    torch.set_num_threads(1)
    figures = []
    for name in names or LARGE:
        population = generate("hypergrid", name, num=num, generator=generator, device="cpu")
        figures.append(measure(population, draws))
        click.echo(line(figures[-1]))
        if distil:
            further, seconds = distilled(population, distil)
            figures[-1]["distilled"] = {"steps": distil, "seconds": seconds, **measure(further, draws)}
            click.echo(f"  after {seconds:.1f} s a policy of distillation: {line(figures[-1]['distilled'])}")
        if out is not None:
            write_json(out, {"generator": generator, "num": num, "draws": draws, "figures": figures})


if __name__ == "__main__":
    main()
