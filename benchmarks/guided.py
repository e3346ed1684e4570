"""A policy and a genetic algorithm that learn from one another, after Genetic GFN.

Kim et al., "Genetic-guided GFlowNets for Sample Efficient Molecular Optimization", NeurIPS 2024. A round asks
for molecules that the policy samples and for children of the best so far, and then trains the policy by
trajectory balance on molecules drawn by the rank of their score, along trajectories drawn backwards with the
uniform backward policy.

Shapes: B states, N slots, T steps of the longest trajectory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from block_genetic import PATIENCE, Genetics, Tree
from reward_budget import Ledger, ask
from torch import Tensor

from genflow import Population


@dataclass(frozen=True)
class GuidedOptions:
    """How policy and genetic algorithm take turns.

    Attributes:
        sampled: trajectories of the policy a round.
        rebuilt: the best so far that are cut back and finished by the policy a round, 0 for none.
        children: children of the genetic algorithm a round, 0 for none.
        mutation: the share of the children that are mutated.
        keep: the best molecules that are kept to learn from.
        steps: optimiser steps a round.
        batch: molecules of a step.
        beta: the policy is paid exp(beta * score), whose logarithm stays within bounds for poor scores too.
        rank: the weight of the r-th best of n is 1 / (rank * n + r).
        lr: learning rate, of log Z twenty times as much.
        epsilon: the probability of a random action.
    """

    sampled: int = 8
    rebuilt: int = 28
    children: int = 28
    mutation: float = 0.5
    keep: int = 256
    steps: int = 4
    batch: int = 64
    beta: float = 100.0
    rank: float = 0.01
    lr: float = 3e-3
    epsilon: float = 0.05


class Best:
    """The best molecules so far.

    Attributes:
        states: (B, 3N) int64, the best first.
        scores: (B,) float64.
    """

    def __init__(self, keep: int, width: int) -> None:
        self._keep, self._known = keep, dict[str, None]()
        self.states, self.scores = (
            torch.zeros(0, width, dtype=torch.long),
            torch.zeros(0, dtype=torch.float64),
        )

    def add(self, smiles: list[str], scores: Tensor, states: Tensor) -> None:
        """Take molecules that are not there yet; `states` may have further ones."""
        new = [at for at, each in enumerate(smiles) if each not in self._known]
        new = list({smiles[at]: at for at in reversed(new)}.values())
        self._known.update(dict.fromkeys(smiles))
        scores = torch.cat([self.scores, scores[new]])
        states = torch.cat([self.states, states[new]])
        order = scores.argsort(descending=True, stable=True)[: self._keep]
        self.states, self.scores = states[order], scores[order]

    def draw(self, number: int, rank: float, rng: torch.Generator) -> Tensor:
        """Places (number,) drawn by rank."""
        places = torch.arange(len(self.scores), dtype=torch.float64)
        weights = 1 / (rank * len(self.scores) + places + 1)
        return weights.multinomial(number, replacement=True, generator=rng)


class Policy:
    """One policy in training.

    Attributes:
        network: its network.
    """

    def __init__(self, start: Population, lr: float) -> None:
        self._structure = start.structure
        self._transitions = start.structure.transitions()
        self._trees = start.structure.environment.trees
        self.network = start.module()
        self._log_z: Tensor | None = None
        self._lr = lr
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, fused=True)

    @torch.no_grad()
    def finish(self, states: Tensor, epsilon: float, rng: torch.Generator) -> Tensor:
        """Sample on from states (B, 3N) to final ones (B, 3N)."""
        trees, final = self._trees, states.clone()
        under_way = torch.arange(len(states))
        while len(under_way):
            states = final[under_way]
            logits = self.network(self._transitions.inputs(states))
            explores = torch.rand(len(states), 1, generator=rng) < epsilon
            logits = logits.masked_fill(explores, 0.0)
            logits = logits.masked_fill(~trees.forward_masks(states), -torch.inf)
            # the largest of logits plus Gumbel noise is a draw from their softmax
            noise = -torch.rand(logits.shape, generator=rng).clamp(min=1e-30).log()
            actions = (logits - noise.log()).argmax(1)
            final[under_way] = trees.step(states, actions)
            under_way = under_way[actions != trees.n_actions - 1]
        return final

    def fresh(self, number: int) -> Tensor:
        """The initial state so many times (B, 3N)."""
        return self._trees.start.expand(number, -1)

    def cut(self, states: Tensor, rng: torch.Generator) -> Tensor:
        """States (B, 3N) with one to half of their blocks taken off, leaf by leaf."""
        sizes = (self._trees.slots(states)[..., 0] > 0).sum(1)
        off = 1 + (torch.rand(len(states), generator=rng) * (sizes // 2)).long()
        for turn in range(int(off.max())):
            on = off > turn
            states = states.clone()
            states[on] = self._parent(states[on], rng)[0]
        return states

    def _parent(self, states: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A parent of each state by the uniform backward policy, the action from there, and log P_B."""
        masks = self._trees.backward_masks(states)
        # much faster than multinomial
        actions = (torch.rand(masks.shape, generator=rng) * masks).argmax(1)
        return self._trees.backward_step(states, actions), actions, -masks.sum(1).float().log()

    def _back(self, final: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Trajectories to final states, drawn backwards.

        Returns:
            The states before each action (K, 3N), the actions (K,), the trajectory of each (K,), and log P_B
            of each trajectory (B,).
        """
        trees = self._trees
        own = torch.arange(len(final))
        steps = [(final, torch.full((len(final),), trees.n_actions - 1), own)]
        log_pb = torch.zeros(len(final))
        states = final
        while len(states):
            states, actions, chances = self._parent(states, rng)
            log_pb.index_add_(0, own, chances)
            steps.append((states, actions, own))
            on = states[:, 0] > 0
            states, own = states[on], own[on]
        before, taken, trajectory = (torch.cat(part) for part in zip(*steps, strict=True))
        return before, taken, trajectory, log_pb

    def learn(self, final: Tensor, log_reward: Tensor, rng: torch.Generator) -> float:
        """Take a step of trajectory balance on final states (B, 3N), and return the loss."""
        before, actions, trajectory, log_pb = self._back(final, rng)
        logits = self.network(self._transitions.inputs(before))
        logits = logits.masked_fill(~self._trees.forward_masks(before), -torch.inf)
        log_pf = logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]
        gap = torch.zeros(len(final)).index_add(0, trajectory, log_pf) - log_pb - log_reward.float()
        if self._log_z is None:  # what fits the first batch best
            self._log_z = (-gap.detach().mean()).requires_grad_()
            self._optimizer.add_param_group({"params": [self._log_z], "lr": 20 * self._lr})
        loss = (self._log_z + gap).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())


def first_trees(start: Population, number: int, seed: int) -> Tensor:
    """States (B, 3N) that a policy samples; nothing asks for their rewards."""
    policy = Policy(start, 1.0)
    return policy.finish(policy.fresh(number), 0.0, torch.Generator().manual_seed(seed))


def guided(start: Population, calls: Ledger, options: GuidedOptions, seed: int) -> Iterator[dict[str, float]]:
    """Spend all calls, and yield figures after each round.

    Args:
        start: one policy to start from.
        calls: the counter.
        options: of the rounds.
        seed: of all random numbers.
    """
    structure = start.structure
    rng, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    policy, genetics = Policy(start, options.lr), Genetics(structure.environment.trees, chance)
    best, idle = Best(options.keep, len(structure.transitions().initial_state)), 0

    def take(states: Tensor) -> None:
        smiles, scores = ask(structure, states, calls)
        best.add(smiles, scores, states)

    def parent() -> Tree:
        return genetics.read(best.states[int(best.draw(1, options.rank, rng))].tolist())

    while calls.left > 0 and idle < PATIENCE:
        before = len(calls)
        take(policy.finish(policy.fresh(options.sampled), options.epsilon, rng))
        if options.rebuilt:
            drawn = best.states[best.draw(options.rebuilt, options.rank, rng)]
            take(policy.finish(policy.cut(drawn, rng), options.epsilon, rng))
        if options.children:
            children = [genetics.child(parent, options.mutation) for _ in range(options.children)]
            take(torch.tensor([genetics.write(child) for child in children]))
        loss = 0.0
        for _ in range(options.steps):
            drawn = best.draw(options.batch, options.rank, rng)
            loss = policy.learn(best.states[drawn], options.beta * best.scores[drawn], rng)
        idle = idle + 1 if len(calls) == before else 0
        yield {"calls": len(calls), "best": float(best.scores[0]), "loss": loss}
