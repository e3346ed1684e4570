"""The Ising model on a torus: log Z, samples and the teacher, against closed forms and sums."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from genflow_gym.lattice import Torus

import genflow


def kaufman(rows: int, columns: int, bond: float) -> float:
    """log Z of a torus in closed form (Kaufman, Physical Review 76, 1949)."""

    def gamma(k: int) -> float:
        if k == 0:
            return 2 * bond + math.log(math.tanh(bond))
        angle = math.pi * k / columns
        return math.acosh(math.cosh(2 * bond) / math.tanh(2 * bond) - math.cos(angle))

    total = 0.0
    for first, sign in ((1, 1), (0, 1)):
        for function in (math.cosh, math.sinh):
            product = math.prod(2 * function(rows * gamma(2 * r + first) / 2) for r in range(columns))
            # gamma(0), and with it the last product, changes its sign at the critical coupling
            total += sign * product
    return math.log(total / 2) + rows * columns * math.log(2 * math.sinh(2 * bond)) / 2


@pytest.mark.parametrize(
    "rows, columns, bond",
    [(3, 4, 0.2), (3, 4, 0.6), (6, 6, 0.2), (6, 6, 0.4), (6, 6, 0.44), (6, 6, 0.6), (10, 10, 0.4)],
)
def test_log_z_is_kaufmans(rows, columns, bond):
    assert Torus(rows, columns, bond).log_partition() == pytest.approx(kaufman(rows, columns, bond), rel=1e-9)


def test_objects_are_drawn_from_the_target():
    structure = genflow.Structure.parse("ising_lattice", "rows=3,columns=3,coupling=0.15,width=8")
    solution = structure.solution
    objects = solution.draw(40_000, torch.Generator().manual_seed(0))
    numbers = (objects * 2 ** torch.arange(8, -1, -1)).sum(1)
    found = torch.bincount(numbers, minlength=512) / len(objects)
    ends = solution.graph.states[solution.graph.can_exit]
    target = torch.zeros(512, dtype=torch.float64)
    target[(ends * 2 ** torch.arange(8, -1, -1)).sum(1)] = solution.target()[solution.graph.can_exit]
    # 511 degrees of freedom, of which the deviation is 32
    assert float((len(objects) * (found - target).square() / target).sum()) < 511 + 5 * 32


def test_the_teacher_is_right_on_average():
    """What a state's completions teach, weighted by the target, is the optimal policy there."""
    structure = genflow.Structure.parse("ising_lattice", "rows=3,columns=3,coupling=0.2,width=8")
    lattice, solution = structure.environment, structure.solution
    state = torch.tensor([1, -1, 0, -1, 1, 1, -1, 0, 0])
    number = int(((state + 1) * 3 ** torch.arange(8, -1, -1)).sum())
    empty = (state < 0).nonzero().flatten()
    mean, total = torch.zeros(19, dtype=torch.float64), 0.0
    for spins in itertools.product((0, 1), repeat=len(empty)):
        full = state.clone()
        full[empty] = torch.tensor(spins)
        weight = math.exp(float(structure.transitions().log_reward(full[None])))
        around = (2.0 * full - 1)[lattice.neighbours].sum(1)
        up = torch.sigmoid(2 * lattice.bond * around)
        for site in empty.tolist():
            mean[lattice.action(site, 0)] += weight * float(1 - up[site]) / len(empty)
            mean[lattice.action(site, 1)] += weight * float(up[site]) / len(empty)
        total += weight
    torch.testing.assert_close(mean / total, solution.optimal_flows().policy[number], rtol=0, atol=1e-6)
    taught, _, policy = lattice.teacher(512, torch.Generator().manual_seed(0)).draw(
        64, 0.0, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(policy.sum(1), torch.ones(64), rtol=0, atol=1e-5)
    assert torch.equal(policy > 0, structure.transitions().forward_masks(taught))
