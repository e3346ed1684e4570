"""Draw docs/bounds.png, the picture of docs/separable.md: ``python docs/bounds.py``.

Left, what the integral over p of a flow looks like at states of a grid of 10^16; right, both bounds of
generated policies and of torchgfn's, from benchmarks/results/.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from genflow_hypergrid.maxent import MaxentFlows, binomials

from genflow import Structure

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"


def integrands(axes: plt.Axes) -> None:
    """The integrand of log F over p, at states that trajectories visit early, halfway and late."""
    structure = Structure.parse("hypergrid", "ndim=8,height=100")
    target = structure.environment.reward.target
    flows = MaxentFlows(target)
    p = torch.linspace(0.001, 0.999, 1200, dtype=torch.float64)
    states = flows.draw_visited(400, torch.Generator().manual_seed(3))
    states = states[states.sum(1).argsort()]
    for place in (20, 120, 240, 380):
        state = states[place]
        total = target.log_scale[:, None] - p.log()
        for i, profile in enumerate(target.profiles):
            g = torch.einsum("kx,xp->kp", profile, binomials(100, tuple(p.tolist()))[:, int(state[i])])
            total = total + g.log()
        inside = total.exp().sum(0)
        axes.plot(p, inside / inside.max(), label=f"|s| = {int(state.sum())}")
    axes.set_xlabel("p, the time of an increment")
    axes.set_ylabel("integrand of F(s), largest = 1")
    axes.set_title("(8, 100), four states of 10$^{16}$")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.72, 1.0), fontsize=8)


def bounds(axes: plt.Axes) -> None:
    """Both bounds of each grid, generated and trained."""
    made = {
        figure["structure"].split(",backward")[0]: figure
        for figure in json.loads((RESULTS / "bounds.json").read_text())["figures"]
    }
    runs = json.loads((RESULTS / "large_grids_torchgfn.json").read_text())["runs"]
    trained = {(run["name"], entry["budget"]): entry["metrics"] for run in runs for entry in run["entries"]}
    names = [name for name in made if any(grid == name for grid, _ in trained)]
    for row, name in enumerate(names):
        for seconds, colour in ((60.0, "tab:gray"), (600.0, "black")):
            found = trained.get((name, seconds))
            if found:
                pair = found["kl_bound"], found["log_z_gap"]
                axes.plot(pair, (row, row), "-", color=colour, lw=1)
                axes.plot(pair[0], row, ">", pair[1], row, "<", color=colour)
        pair = made[name]["kl_bound"]["mean"], made[name]["reverse_kl_bound"]["mean"]
        axes.plot(pair, (row, row), "-", color="tab:blue", lw=1)
        axes.plot(pair[0], row, ">", pair[1], row, "<", color="tab:blue")
    axes.set_xscale("log")
    axes.set_yticks(
        range(len(names)), ["(" + name.replace("ndim=", "").replace(",height=", ", ") + ")" for name in names]
    )
    axes.invert_yaxis()
    axes.set_xlabel("nats above the target: > KL(target, policy), < KL(policy, target)")
    axes.set_title("generated (blue); torchgfn after 60 s (grey), 600 s (black)")


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1, 1.5), layout="constrained")
integrands(left)
bounds(right)
figure.savefig(HERE / "bounds.png", dpi=110)
