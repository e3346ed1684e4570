"""Quality of policies that torchgfn trains one by one, at 1, 10, 60 and 600 seconds.

The bar for generated ones.

Trajectory balance by the book: torchgfn's own environment, sampler and loss, uniform backward policy, one
thread. The clock is the process's CPU time, so that other work on the machine does not count. Each budget is
a run of its own whose learning rate falls linearly to zero over it, which ends better than a constant one.
Writes OUT/<structure>.json, and adds what is missing there. With `--start generated` the policy and its log Z
come from a generator that ships, under whose backward policy torchgfn goes on.

    python benchmarks/sgd.py --out runs/sgd --structure 'A*' --structure A
    python benchmarks/sgd.py --out runs/on --structure ndim=8,height=20 --start generated --lr 1e-4
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.preprocessors import IdentityPreprocessor
from gfn.samplers import Sampler
from torch import Tensor, nn

from genflow import Population, Structure, Transitions, generate
from genflow.evaluation.evaluate import choose_metrics
from genflow.measure import exact_metrics, values_of
from genflow.storage.files import read_json, write_json


class Backward(nn.Module):
    """The logits of a task's own backward policy, for torchgfn's estimator."""

    def __init__(self, transitions: Transitions) -> None:
        super().__init__()
        self.input_dim, self.output_dim = transitions.initial_state.numel(), transitions.n_actions - 1
        self._probs = transitions.backward_probs

    def forward(self, states: Tensor) -> Tensor:
        """States (B, n) -> (B, A - 1)."""
        return self._probs(states.long()).clamp(min=1e-30).log().float()


def train(
    structure: Structure,
    seconds: float,
    *,
    seed: int,
    lr: float,
    batch: int,
    epsilon: float,
    start: str,
    generator: str | None = None,
) -> dict:
    """{"seconds", "iterations", "metrics"} of one policy; evaluation is not on the clock."""
    torch.manual_seed(seed)
    module, log_z = structure.module(), 0.0
    if start == "generated":
        made = generate("hypergrid", structure.fields(), num=1, seed=seed, generator=generator, device="cpu")
        structure, module, log_z = made.structure, made.module(), float(made.log_z[0])
    env, preprocessor = structure.environment.make()
    forward = DiscretePolicyEstimator(module, n_actions=env.n_actions, preprocessor=preprocessor)
    backward = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=preprocessor)
    if structure.environment.backward != "uniform":
        own = Backward(structure.transitions())
        backward = DiscretePolicyEstimator(
            own, env.n_actions, preprocessor=IdentityPreprocessor(own.input_dim), is_backward=True
        )
    gflownet = TBGFlowNet(forward, backward, init_logZ=log_z)
    rates = [lr, 20 * lr]
    optimizer = torch.optim.Adam([{"params": module.parameters()}, {"params": [gflownet.logZ]}], lr=lr)
    sampler = Sampler(forward)
    spent, iterations = 0.0, 0
    while spent < seconds:
        began = time.process_time()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - spent / seconds)
        trajectories = sampler.sample_trajectories(env, n=batch, save_logprobs=False, epsilon=epsilon)
        loss = gflownet.loss_from_trajectories(env, trajectories, recalculate_all_logprobs=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        spent += time.process_time() - began
        iterations += 1
    population = Population.from_modules(structure, [module], {"source": "trained"})
    # a task that is too large to enumerate is judged by samples
    chosen = exact_metrics() if structure.solution.enumerable else choose_metrics(structure)
    metrics = {
        name: float(value) for name, value in values_of(population, chosen).items() if not value.isnan().any()
    }
    return {"seconds": spent, "iterations": iterations, "metrics": metrics}


@click.command()
@click.option("--structure", "names", multiple=True, required=True, metavar="NAME|key=value,...")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seconds", "marks", default="1,10,60,600", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--epsilon", default=0.05, show_default=True)
@click.option("--start", type=click.Choice(["random", "generated"]), default="random", show_default=True)
@click.option("--generator", help="Of --start generated; by default the first that ships and covers it.")
@click.option(
    "--enough", default=1e-6, show_default=True, help="A JS after which longer budgets are left out."
)
def main(names, out, marks, seed, lr, batch, epsilon, start, generator, enough):
    """Train each structure and write its figures."""
    torch.set_num_threads(1)
    options = {"lr": lr, "batch": batch, "epsilon": epsilon, "seed": seed, "start": start}
    options |= {"generator": generator} if generator else {}
    structures = {name: Structure.parse("hypergrid", name) for name in names}
    # short budgets of all structures first, so that an interrupted run says something about each
    for seconds in sorted(float(mark) for mark in marks.split(",")):
        for name, structure in structures.items():
            path = out / f"{structure.name}.json"
            entries = read_json(path)["entries"] if path.exists() else []
            if path.exists() and read_json(path)["options"] != options:
                raise click.UsageError(f"{path} was measured with other options; choose another --out")
            if any(e["budget"] == seconds or e["metrics"].get("js", 1.0) <= enough for e in entries):
                continue
            entries.append({"budget": seconds, **train(structure, seconds, **options)})
            write_json(
                path, {"structure": structure.fields(), "name": name, "options": options, "entries": entries}
            )
            click.echo(
                f"{name}: {seconds:g} s: "
                + ", ".join(f"{key} {value:.4g}" for key, value in entries[-1]["metrics"].items())
            )


if __name__ == "__main__":
    main()
