"""Tasks that fill n places with one of V values each, in any order, and exit when all are filled.

Under the uniform backward policy each order of filling is as likely, so that the optimal policy takes any
empty place and there draws from the target's conditional distribution:

    P_F(v at i | s) = Z(s with v at i) / (Z(s) (n - k)),    Z(s) = sum of R(x) over x that complete s

for k filled places. A table of log Z over all (V + 1)^n states needs n sums over one axis each.

Shapes: n places, V values, B states (B, n) of -1 (empty) or 0 .. V-1, A = n V + 1 actions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from gfn.preprocessors import Preprocessor
from torch import Tensor

from genflow import ExactSolution, Expert, StateGraph

#: states of a made-up task that are drawn
DRAWN = 512
#: states of a task of its own; one with more of them is taught at so many that are drawn
LISTED = 60_000


class OneHotPlaces(Preprocessor):
    """Inputs (B, n (V + 1)): one for each place and what it holds, empty first."""

    def __init__(self, places: int, values: int) -> None:
        super().__init__(output_dim=places * (values + 1))
        self.values = values

    def preprocess(self, states: Any) -> Tensor:
        """One-hot of each place, row-major (place, content)."""
        hot = torch.nn.functional.one_hot(states.tensor + 1, self.values + 1)
        return hot.flatten(-2).to(torch.get_default_dtype())


@cache
def completed(places: int, values: int) -> Tensor:
    """Every x, (V^n, n) int64, in the order of numbers of base V."""
    return _digits(places, values)


def _digits(places: int, base: int) -> Tensor:
    numbers, powers = torch.arange(base**places), _powers(places, base)
    return numbers[:, None] // powers % base


def _powers(places: int, base: int) -> Tensor:
    return base ** torch.arange(places - 1, -1, -1)


def log_completions(log_reward: Tensor, places: int, values: int) -> Tensor:
    """log Z(s) of every state, ((V + 1)^n,) float64, of log R (V^n,) in the order of `completed`.

    Rewards that are more than some 700 nats below the best count as that.
    """
    best = log_reward.double().max()
    table = (log_reward.double() - best).exp().reshape((values,) * places)
    for place in range(places):
        table = torch.cat([table.sum(place, keepdim=True), table], dim=place)
    return table.clamp(min=torch.finfo(torch.float64).tiny).log().flatten() + best


class FillingSolution(ExactSolution):
    """The graph of a filling task by index arithmetic, which is faster than by steps of torchgfn."""

    def __init__(self, transitions: Any, places: int, values: int, action: Callable[[int, int], int]) -> None:
        """For so many places and values; `action` numbers the filling of (place, value)."""
        super().__init__(transitions, n_states=(values + 1) ** places)
        self.places, self.values, self.action = places, values, action

    @property
    def graph(self) -> StateGraph:
        """All states, as numbers of base V + 1 whose digits are 0 for empty."""
        return self.kept("graph", self._graph)

    def _graph(self) -> StateGraph:
        self.require_enumerable("the state graph", "use metrics that sample")
        places, values, powers = self.places, self.values, _powers(self.places, self.values + 1)
        states = _digits(places, values + 1) - 1
        numbers, children = torch.arange(len(states)), torch.full((len(states), places * values), -1)
        for place in range(places):
            empty = states[:, place] < 0
            for value in range(values):
                child = numbers[empty] + (value + 1) * powers[place]
                children[empty, self.action(place, value)] = child
        filled = (states >= 0).sum(1)
        levels = tuple((filled == count).nonzero().flatten() for count in range(places + 1))
        return StateGraph(states, children, filled == places, levels)

    @property
    def expert(self) -> Expert:
        """The optimal policy everywhere, or at drawn states of a large task."""
        if self.n_states <= LISTED:
            return super().expert
        self.require_expert()
        return self.kept("expert", self._drawn_expert)

    def _drawn_expert(self) -> Expert:
        sizes = self.places, self.values
        log_reward = self.transitions.log_reward(completed(*sizes))
        return drawn_expert(log_reward, *sizes, self.action, torch.Generator().manual_seed(0), num=LISTED)


def drawn_expert(
    log_reward: Tensor,
    places: int,
    values: int,
    action: Callable[[int, int], int],
    rng: torch.Generator,
    num: int = DRAWN,
) -> Expert:
    """The optimal policy of a task at `num` states that it visits.

    Args:
        log_reward: (V^n,) in the order of `completed`.
        places, values: n and V.
        action: as for `FillingSolution`.
        rng: draws the states.
        num: how many.
    """
    table, powers = log_completions(log_reward, places, values), _powers(places, values + 1)
    picked = torch.multinomial(log_reward.double().softmax(0), num, replacement=True, generator=rng)
    states = emptied(completed(places, values)[picked], rng)
    here, empty = ((states + 1) * powers).sum(1), states < 0
    # where a place is filled, the numbers point elsewhere, and the result is not used
    child = here[:, None, None] + powers[:, None] * torch.arange(1, values + 1)
    chance = (table[child.clamp(max=len(table) - 1)] - table[here, None, None]).exp()
    chance = chance * empty[..., None] / empty.sum(1)[:, None, None].clamp(min=1)
    return expert_at(states, chance.float(), action)


def emptied(objects: Tensor, rng: torch.Generator) -> Tensor:
    """States (B, n) on trajectories to objects: how many places are empty, and which, is drawn evenly."""
    count, places = objects.shape
    kept = torch.randint(places + 1, (count, 1), generator=rng)
    order = torch.rand(objects.shape, generator=rng).argsort(1)
    return torch.where(order < kept, objects, -1)


def expert_at(states: Tensor, chance: Tensor, action: Callable[[int, int], int]) -> Expert:
    """An expert of drawn states (B, n), by how likely it fills each place with each value, (B, n, V)."""
    count, places, values = chance.shape
    actions = torch.tensor([action(place, value) for place in range(places) for value in range(values)])
    policy, mask = (
        torch.zeros(count, len(actions) + 1),
        torch.zeros(count, len(actions) + 1, dtype=torch.bool),
    )
    policy[:, actions] = chance.flatten(1)
    mask[:, actions] = (states < 0).repeat_interleave(values, 1)
    mask[:, -1] = ~mask.any(1)
    policy[:, -1] = mask[:, -1].float()
    # a trajectory passes through n + 1 states, which the drawn ones stand for
    visit = torch.full((count,), (places + 1) / count, dtype=torch.float64)
    return Expert(states, policy, mask, visit)
