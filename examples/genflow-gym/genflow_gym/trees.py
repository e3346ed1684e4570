"""Perfect binary trees: left or right at each node, and exit at a leaf.

Shapes: depth d, 2^d leaves from left to right, 2^(d + 1) - 1 nodes, numbered level by level from the root.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from gfn.preprocessors import OneHotPreprocessor
from pydantic import model_validator
from torch import Tensor

import genflow
from genflow_gym.tables import Numbers, drawn

MAX_DEPTH = 10
#: of rewards that are made up: the spread of log R that each level of the tree adds
SPREAD = (0.1, 2.0)


class Leaves(genflow.Reward):
    """What each leaf pays, from left to right."""

    environment = "perfect_tree"

    class Config(genflow.Schema):
        """`leaves`: R > 0 of each leaf."""

        leaves: Numbers = genflow.told(
            description="What each leaf pays, from left to right, or a file of it."
        )

        @model_validator(mode="after")
        def _positive(self) -> Leaves.Config:
            if any(paid <= 0 for paid in self.leaves):
                raise ValueError(f"leaves has {min(self.leaves):g}; each must be above 0")
            return self

    def score(self, objects: Tensor) -> Tensor:
        """R (B,) of leaves (B,), which are numbered from 0."""
        if len(self.config.leaves) != 2**self.task.depth:
            raise genflow.GenflowError(
                f"leaves has {len(self.config.leaves)} numbers; a tree of depth={self.task.depth} has"
                f" {2**self.task.depth} leaves"
            )
        return torch.tensor(self.config.leaves, dtype=torch.float64)[objects]


class Tree(genflow.Environment):
    """torchgfn's `PerfectBinaryTree`, with a reward by name."""

    presets: ClassVar = {
        "three": {"depth": 3, "leaves": (1.0, 2.0, 0.5, 4.0, 0.1, 1.0, 3.0, 0.2)},
        "two": {"depth": 2, "leaves": (1.0, 4.0, 0.5, 2.0)},
    }
    default_structures: ClassVar = ("three", "two")
    pretrained: ClassVar = ("genflow_gym:pretrained/perfect_tree",)
    reward: genflow.Reward

    class Config(genflow.Schema):
        """The depth of the tree."""

        depth: int = genflow.size(ge=1, le=MAX_DEPTH, description="The steps from the root to a leaf.")
        reward: str = genflow.reward_name("leaves", role="told", description="The name of the reward.")

    def paid(self, leaves: Tensor) -> Tensor:
        """R (...) float64 of leaves (...), which are numbered from 0."""
        return torch.as_tensor(self.reward.score(leaves), dtype=torch.float64)

    def make(self, device: Any = "cpu") -> Any:
        """torchgfn's environment, with steps by arithmetic, and one input a node."""
        from genflow_gym.torchgfn_others import VectorTree

        first = 2**self.config.depth - 1

        def reward(nodes: Tensor) -> Tensor:
            return self.paid(nodes.squeeze(-1).cpu() - first).to(nodes.device)

        env = VectorTree(reward, self.config.depth, device)
        # torchgfn's numbers of states lose the shape of a batch
        return env, OneHotPreprocessor(env.n_nodes, lambda states: states.tensor.squeeze(-1))

    def condition(self) -> dict[str, float]:
        """The depth; units tell what is paid."""
        return {"depth": float(self.config.depth)}

    def units(self) -> genflow.Units:
        """A node, by its level and by how much more is paid below on the right; left, right, or exit."""
        depth = self.config.depth
        level_paid, odds = self.paid(torch.arange(2**depth)), []
        for _ in range(depth):
            left, right = level_paid.reshape(-1, 2).T
            odds.append((right / left).log())
            level_paid = left + right
        odds = torch.cat([*reversed(odds), torch.zeros(2**depth, dtype=torch.float64)]).float()
        level = torch.cat([torch.full((2**k,), float(k)) for k in range(depth + 1)])
        leaf = (level == depth).float()
        nodes = torch.stack([odds, odds.abs(), level / MAX_DEPTH, leaf], dim=1)
        return genflow.Units(genflow.UnitDescriptions(nodes), genflow.UnitDescriptions(torch.eye(3)))

    def exact_solution(self, transitions: Any) -> genflow.ExactSolution:
        """All nodes."""
        return genflow.ExactSolution(transitions, n_states=2 ** (self.config.depth + 1) - 1)

    @cached_property
    def _graph(self) -> genflow.StateGraph:
        return self.exact_solution(self.transitions(torch.device("cpu"))).graph

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Other leaves: each level of the tree multiplies what lies below a node by something."""
        graph, depth = self._graph, self.config.depth
        log_paid = torch.zeros(2**depth, dtype=torch.float64)
        for level in range(1, depth + 1):
            own = torch.randn(2**level, generator=rng, dtype=torch.float64) * drawn(rng, *SPREAD)
            log_paid += own.repeat_interleave(2 ** (depth - level))
        other = Tree(self.config, Leaves(Leaves.Config(leaves=log_paid.exp().tolist()), self.config))
        log_reward = torch.full((len(graph.states),), -torch.inf, dtype=torch.float64)
        log_reward[graph.can_exit] = log_paid[graph.states[graph.can_exit, 0] - (2**depth - 1)]
        flows = genflow.optimal_flows(graph, log_reward)
        mask = graph.mask(torch.arange(len(graph.states)))
        units = other.units()
        expert = genflow.Expert(graph.states, flows.policy.float(), mask, flows.visit)
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, expert)
