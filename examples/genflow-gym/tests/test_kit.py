"""genflow's own checks of environments and rewards."""

from __future__ import annotations

import pytest

testing = pytest.importorskip("genflow.testing")
EnvironmentTests, RewardTests = testing.EnvironmentTests, testing.RewardTests


class TestAppendedBits(EnvironmentTests):
    env = "bit_sequence"


class TestPlacedBits(EnvironmentTests):
    env = "bit_sequence_any_order"


class TestSets(EnvironmentTests):
    env = "set_addition"


class TestPairwise(RewardTests):
    reward = "pairwise"
    env = "set_addition"


class TestEnergies(EnvironmentTests):
    env = "discrete_ebm"


class TestLattice(EnvironmentTests):
    env = "ising_lattice"
    structures = ("small",)


class TestTree(EnvironmentTests):
    env = "perfect_tree"


class TestLeaves(RewardTests):
    reward = "leaves"
    env = "perfect_tree"
    structures = ("two",)


class TestDags(EnvironmentTests):
    env = "dag"
