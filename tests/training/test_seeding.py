"""Seeds: what is made depends on them alone, and the generators of accelerators are not touched."""

from __future__ import annotations

import pytest
import torch
from oracles import grid

from genflow import Population, Starts
from genflow.progress import Progress
from genflow.seeding import seeded_cpu
from genflow.stages.common import seeded
from genflow.training.options import ZooOptions
from genflow.training.policies import train_members


def test_a_seed_decides_and_the_state_is_put_back():
    torch.manual_seed(3)
    expected = [torch.rand(2), torch.rand(2)]
    torch.manual_seed(3)
    assert torch.rand(2).equal(expected[0])
    for _ in range(2):
        with seeded_cpu(7):
            drawn = torch.rand(4)
        assert drawn.equal(torch.rand(4, generator=torch.Generator().manual_seed(7)))
    with pytest.raises(ZeroDivisionError), seeded_cpu(7):
        torch.rand(1)
        raise ZeroDivisionError
    assert torch.rand(2).equal(expected[1])


def test_the_random_state_of_accelerators_is_never_reset(tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError("the user's CUDA generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    monkeypatch.setattr(torch.cuda, "manual_seed", fail)
    structure = grid(2, 4)
    Population.initialised(structure, 2, 0)
    seeded(0, structure.module)
    for objective in ("tb", "db", "subtb", "distill"):
        options = ZooOptions(num=2, steps=2, checkpoint_every=1, batch_size=4, objective=objective)
        train_members(
            structure, options, Starts(), seed=0, folder=tmp_path / objective, progress=Progress(quiet=True)
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_random_state_of_a_cuda_device_is_the_users(tmp_path):
    before = torch.cuda.get_rng_state()
    options = ZooOptions(num=2, steps=2, checkpoint_every=1, batch_size=4, objective="subtb")
    train_members(
        grid(2, 4), options, Starts(), seed=0, folder=tmp_path, progress=Progress(quiet=True), device="cuda"
    )
    assert torch.cuda.get_rng_state().equal(before)
