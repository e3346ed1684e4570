"""Go on training a generated policy with torchgfn's trajectory balance, from its log Z or from 0.

Three lines hand a policy over:

    pf, env = population[0].to_estimator(), population.structure.environment.make()[0]
    pb = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=pf.preprocessor)
    gflownet = TBGFlowNet(pf=pf, pb=pb, logZ=nn.Parameter(population.log_z[0]))

From log Z = 0 the policy first gets worse, because the loss asks it to make up for the wrong log Z.

    python examples/continue_with_torchgfn.py --structure ndim=3,height=12 --lr 1e-4
"""

from __future__ import annotations

import argparse

import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from torch import nn

import genflow


def quality(population: genflow.Population) -> float:
    """The exact JS divergence of a policy from the target."""
    return genflow.evaluate(population, ["js"])["metrics"]["js"]["mean"]


def go_on(policy: genflow.Population, log_z: torch.Tensor, steps: int, batch: int, lr: float) -> float:
    """Train a population of one policy on its task, and return its JS divergence afterwards."""
    structure, pf = policy.structure, policy.to_estimator()
    env, _ = structure.environment.make()
    pb = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=pf.preprocessor)
    gflownet = TBGFlowNet(pf=pf, pb=pb, logZ=nn.Parameter(log_z.clone()))
    optimizer = torch.optim.Adam(
        [
            {"params": pf.module.parameters(), "lr": lr},
            {"params": gflownet.logz_parameters(), "lr": 100 * lr},  # as torchgfn's own examples do
        ]
    )
    sampler = Sampler(pf)
    for _ in range(steps):
        trajectories = sampler.sample_trajectories(env, n=batch, save_logprobs=True)
        loss = gflownet.loss(env, trajectories, recalculate_all_logprobs=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return quality(genflow.Population.from_modules(structure, [pf.module]))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Generate a policy, train it on from both values of log Z, and print the divergences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", default="ndim=3,height=12")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    population = genflow.generate("hypergrid", options.structure, num=1, seed=options.seed)
    found = {"generated": quality(population)}
    for name, log_z in (("from log Z = 0", torch.zeros(())), ("from its log Z", population.log_z[0])):
        torch.manual_seed(options.seed)
        found[name] = go_on(population[0], log_z, options.steps, options.batch, options.lr)
    for name, js in found.items():
        print(f"{name}: JS {js:.5f}")
    return found


if __name__ == "__main__":
    main()
