"""Sets: items are added until a trajectory exits. A reward of items and pairs, or one of your own.

Shapes: n items, B sets (B, n) of 0 and 1.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from gfn.preprocessors import IdentityPreprocessor
from pydantic import model_validator
from torch import Tensor

import genflow
from genflow_gym.tables import Matrix, Numbers, drawn, padded, random_symmetric, require_symmetric

#: items that units have columns for
MAX_ITEMS = 12
#: of rewards that are made up: the spread of what an item pays, and of pairs, in nats
SPREAD = (0.2, 2.0)


class Pairwise(genflow.Reward):
    """log R(x) = sum of `values` of its items + sum of `pairs` of every two of its items."""

    environment = "set_addition"

    class Config(genflow.Schema):
        """What is paid, in nats; 0 where nothing is said."""

        values: Numbers | None = genflow.told(None, description="What each item pays, or a file of it.")
        pairs: Matrix | None = genflow.told(
            None, description="What every two items pay together, a symmetric matrix, or a file of it."
        )

        @model_validator(mode="after")
        def _symmetric(self) -> Pairwise.Config:
            if self.pairs is not None:
                require_symmetric("pairs", self.pairs, len(self.pairs))
            return self

    def score(self, objects: Tensor) -> Tensor:
        """R (B,) of sets (B, n)."""
        sets, n = objects.double(), objects.shape[1]
        total = sets.new_zeros(len(sets))
        for name, table in (("values", self.config.values), ("pairs", self.config.pairs)):
            if table is not None and len(table) != n:
                raise genflow.GenflowError(f"{name} is for {len(table)} items, and n_items={n}")
        if self.config.values is not None:
            total = total + sets @ torch.tensor(self.config.values, dtype=torch.float64)
        if self.config.pairs is not None:
            pairs = torch.tensor(self.config.pairs, dtype=torch.float64).triu(1)
            total = total + ((sets @ pairs) * sets).sum(1)
        return total.exp()


class Sets(genflow.Environment):
    """torchgfn's `SetAddition`, with a reward by name."""

    presets: ClassVar = {
        "six": {"n_items": 6, "max_items": 6, "values": (1.0, 0.5, -0.5, 0.0, -1.0, 0.8)},
        "four_of_eight": {
            "n_items": 8,
            "max_items": 4,
            "values": (1.0, 0.5, -0.5, 0.0, -1.0, 0.8, 0.2, -0.3),
        },
    }
    default_structures: ClassVar = ("six", "four_of_eight")
    pretrained: ClassVar = ("genflow_gym:pretrained/set_addition",)
    reward: genflow.Reward

    class Config(genflow.Schema):
        """How many items there are, and how many a set may have."""

        n_items: int = genflow.size(ge=2, le=MAX_ITEMS, description="How many items there are.")
        max_items: int = genflow.size(ge=1, le=MAX_ITEMS, description="The most items of a set.")
        fixed_length: bool = genflow.fixed(False, description="Whether each set has `max_items` items.")
        reward: str = genflow.reward_name("pairwise", role="told", description="The name of the reward.")

        @model_validator(mode="before")
        @classmethod
        def _all_items(cls, values: Any) -> Any:
            return {"max_items": values["n_items"], **values} if "n_items" in values else values

        @model_validator(mode="after")
        def _enough_items(self) -> Sets.Config:
            if self.max_items > self.n_items:
                raise ValueError(f"max_items={self.max_items} is more than n_items={self.n_items}")
            return self

    def untold(self) -> str | None:
        """Items and pairs tell the reward `pairwise` alone."""
        return None if isinstance(self.reward, Pairwise) else "is not known to be a sum over items and pairs"

    def log_reward(self, sets: Tensor) -> Tensor:
        """log R (B,) float64 of sets (B, n)."""
        return torch.as_tensor(self.reward.score(sets.long()), dtype=torch.float64).log()

    def make(self, device: Any = "cpu") -> Any:
        """torchgfn's environment, as it is; sets are its inputs."""
        from genflow_gym.torchgfn_others import SetAddition

        c = self.config

        def paid(sets: Tensor) -> Tensor:
            return self.log_reward(sets.cpu()).exp().to(sets.device)

        env = SetAddition(c.n_items, c.max_items, paid, c.fixed_length, device=device)
        return env, IdentityPreprocessor(output_dim=c.n_items)

    def condition(self) -> dict[str, float]:
        """The sizes; units tell what is paid."""
        c = self.config
        return {"n_items": float(c.n_items), "max_items": float(c.max_items), "fixed": float(c.fixed_length)}

    def units(self) -> genflow.Units:
        """An item, by what it and its pairs pay: the reward is asked for sets of up to two items."""
        n = self.config.n_items
        single = torch.eye(n)
        nothing = self.log_reward(torch.zeros(1, n))
        values = self.log_reward(single) - nothing
        first, second = torch.triu_indices(n, n, offset=1)
        pairs = torch.zeros(n, n, dtype=torch.float64)
        both = self.log_reward(single[first] + single[second]) - nothing
        pairs[first, second] = both - values[first] - values[second]
        pairs = pairs + pairs.T
        items = torch.cat(
            [values[:, None].float(), padded(pairs.float(), MAX_ITEMS), padded(single, MAX_ITEMS)], dim=1
        )
        leave = torch.zeros(n + 1, 1)
        leave[-1] = 1.0
        actions = torch.cat([torch.nn.functional.pad(items, (0, 0, 0, 1)), leave], dim=1)
        return genflow.Units(genflow.UnitDescriptions(items), genflow.UnitDescriptions(actions))

    def exact_solution(self, transitions: Any) -> genflow.ExactSolution:
        """All sets of up to `max_items` items."""
        c = self.config
        return genflow.ExactSolution(
            transitions, n_states=sum(math.comb(c.n_items, k) for k in range(c.max_items + 1))
        )

    @cached_property
    def _graph(self) -> genflow.StateGraph:
        return self.exact_solution(self.transitions(torch.device("cpu"))).graph

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Other values of items and pairs."""
        n, graph = self.config.n_items, self._graph
        values = torch.randn(n, generator=rng, dtype=torch.float64) * drawn(rng, *SPREAD)
        values = values + 0.5 * torch.randn(1, generator=rng, dtype=torch.float64)
        pairs = random_symmetric(n, drawn(rng, *SPREAD), rng)
        pairs = pairs * int(torch.randint(4, (), generator=rng) > 0)
        paid = Pairwise(Pairwise.Config(values=values.tolist(), pairs=pairs.tolist()), self.config)
        other = Sets(self.config, paid)
        flows = genflow.optimal_flows(graph, other.log_reward(graph.states))
        mask = graph.mask(torch.arange(len(graph.states)))
        units = other.units()
        expert = genflow.Expert(graph.states, flows.policy.float(), mask, flows.visit)
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, expert)
