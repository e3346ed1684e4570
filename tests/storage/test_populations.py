"""What `population.json` may say, and in which ways a folder may be named."""

from __future__ import annotations

import json

import pytest
import torch
from oracles import grid, lively

from genflow import GenflowError, Population, Structure
from genflow.storage.populations import FACTS


def facts_of(folder):
    return json.loads((folder / FACTS).read_text())


def test_folders_are_named_by_paths_or_texts(tmp_path):
    population = lively(grid(2, 4), 3)
    population.save(str(tmp_path / "p"))
    for folder in (tmp_path / "p", str(tmp_path / "p")):
        assert Population.load(folder).weights.equal(population.weights)


@pytest.mark.parametrize("num", [2, 4, 0, "3", None])
def test_a_number_of_policies_that_the_tensors_contradict_is_refused(tmp_path, num):
    lively(grid(2, 4), 3).save(tmp_path)
    (tmp_path / FACTS).write_text(json.dumps({**facts_of(tmp_path), "num": num}))
    with pytest.raises(GenflowError, match="holds 3; the two files do not belong together"):
        Population.load(tmp_path)


@pytest.mark.parametrize("reward", ["original", "cosine", "sparse", "bitwise_xor"])
def test_a_population_of_the_first_edition_is_loaded(tmp_path, reward):
    """The first edition wrote R0, R1, R2, outer and band for every reward."""
    structure = grid(2, 8, reward=reward)
    population = lively(structure, 2)
    population.save(tmp_path)
    facts = facts_of(tmp_path)
    rewards = {"R0": 0.1, "R1": 0.5, "R2": 2.0, "outer": 0.25, "band": [0.3, 0.4]}
    facts["structure"] = rewards | facts["structure"]
    (tmp_path / FACTS).write_text(json.dumps(facts))
    found = Population.load(tmp_path)
    assert found.structure == structure
    assert found.weights.equal(population.weights)


def test_a_field_of_another_reward_is_refused_where_a_user_gives_it():
    with pytest.raises(GenflowError, match="unknown key 'R2'"):
        Structure.build("hypergrid", {"ndim": 2, "height": 8, "reward": "cosine", "R2": 2.0})


def test_a_population_stays_where_it_is_understood(tmp_path):
    """Its folder may be moved: nothing in it names a place."""
    population = lively(grid(2, 4), 2)
    population.save(tmp_path / "here")
    (tmp_path / "there").mkdir()
    (tmp_path / "here").rename(tmp_path / "there" / "moved")
    found = Population.load(tmp_path / "there" / "moved")
    torch.testing.assert_close(found.terminal_distribution(), population.terminal_distribution())
