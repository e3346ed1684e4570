"""Trees that stand for all where too many are to be listed, against lists of all."""

from __future__ import annotations

import pytest
import torch
from genflow_molecule.drawn_trees import DrawnTrees, Proposal
from genflow_molecule.trees import ENTRY, Trees
from test_molecule import SETS, structure

CASES = [(SETS[1], 4, 2), (SETS[2], 3, 2), (SETS[1], 4, 3), ((0, 3), 6, 2)]


def listed(blocks, max_blocks, min_blocks) -> tuple[Trees, torch.Tensor, torch.Tensor]:
    """The trees, all finished ones of them, and how many blocks each has."""
    trees = structure(blocks, max_blocks, min_blocks=min_blocks).environment.trees
    graph = trees.graph()
    ends = graph.states[graph.can_exit]
    return trees, ends, (trees.slots(ends)[..., ENTRY] > 0).sum(1)


def entry_sums(trees, states, values):
    """The sum of values of entries (E,) over each tree."""
    return torch.cat([values.new_zeros(1), values])[trees.slots(states)[..., ENTRY]].sum(1)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_trees_of_a_size_are_drawn_by_the_weights_of_their_entries(case, spread):
    trees, ends, blocks = listed(*case)
    log_weights = spread * torch.randn(trees.n_entries, generator=torch.Generator().manual_seed(1))
    proposal = Proposal(trees, log_weights)
    products = entry_sums(trees, ends, log_weights.double()).exp()
    rng = torch.Generator().manual_seed(0)
    for size in range(len(proposal.totals)):
        here = products[blocks == size]
        assert float(proposal.totals[size]) == pytest.approx(float(here.sum()), rel=1e-6)
        if len(here):
            drawn = trees.indices(proposal.draw(size, 20_000, rng))
            every = trees.indices(ends[blocks == size])
            place = torch.searchsorted(every.sort().values, drawn)
            assert every.sort().values[place].equal(drawn)  # none is anything else
            found = torch.bincount(place, minlength=len(every))[every.argsort().argsort()]
            expected = 20_000 * here / here.sum()
            # chi-square: its mean is the number of trees, its variance twice that
            chi_square = float(((found - expected).square() / expected).sum())
            assert (
                chi_square < len(here) + 5 * (2 * len(here)) ** 0.5 + 5 * float((1 / expected).sum()) ** 0.5
            )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_distinct_trees_stand_for_all_before_and_after_rewards_are_followed(case):
    trees, ends, blocks = listed(*case)
    values = torch.randn(trees.n_entries, generator=torch.Generator().manual_seed(2))
    drawn, effective = DrawnTrees(trees), []
    for _ in range(3):
        assert len(drawn.states.unique(dim=0)) == len(drawn.states) == len(drawn.weights)
        assert float(drawn.weights.mean()) == pytest.approx(1, abs=1e-4)
        share = drawn.weights / drawn.weights.sum()
        size = (trees.slots(drawn.states)[..., ENTRY] > 0).sum(1)
        for each in blocks.unique():
            assert float(share[size == each].sum()) == pytest.approx(
                float((blocks == each).float().mean()), rel=0.05
            )
        mean, truth = (
            share @ entry_sums(trees, drawn.states, values),
            entry_sums(trees, ends, values).mean(),
        )
        assert float(mean) == pytest.approx(float(truth), abs=0.05)
        rewards = 2 * entry_sums(trees, drawn.states, values)
        paid = drawn.weights * (rewards - rewards.max()).exp()
        effective.append(float(paid.sum().square() / paid.square().sum()))
        drawn.follow(rewards)
    if case == CASES[-1]:  # all trees of the others are there already
        assert len(drawn.states) < 0.9 * len(ends) and effective[1] > 1.5 * effective[0]


def test_trees_that_were_drawn_keep_their_places():
    trees = structure(SETS[1], 4).environment.trees
    drawn = DrawnTrees(trees)
    before = drawn.states
    drawn.follow(torch.randn(len(before), generator=torch.Generator().manual_seed(0)))
    assert len(drawn.states) > len(before) and drawn.states[: len(before)].equal(before)
