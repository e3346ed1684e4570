"""Modules rebuilt from a file hold its tensors and nothing random, and what they compute themselves."""

from pathlib import Path

import pytest
import torch
from torch import nn

from genflow import GenflowError
from genflow.seeding import seeded_cpu
from genflow.storage.modules import build_with_tensors

PATH = Path("x.safetensors")


class Plain(nn.Module):
    """Parameters drawn in every way, buffers, and a tensor that no file holds."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 4), nn.Conv1d(4, 4, 3), nn.GroupNorm(2, 4))
        self.drawn = nn.Parameter(0.1 * torch.randn(4))
        self.own = nn.Parameter(torch.empty(4))
        nn.init.trunc_normal_(self.own, std=2.0)
        self.register_buffer("count", torch.tensor(3))
        self.frequencies = 2.0 ** torch.arange(4)
        self.features = torch.empty(4).normal_()


def test_a_module_holds_the_tensors_of_the_file_and_what_it_computed_itself():
    with seeded_cpu(1):
        given = Plain()
    made = build_with_tensors(Plain, given.state_dict(), PATH)
    for (name, tensor), (also, expected) in zip(
        made.state_dict().items(), given.state_dict().items(), strict=True
    ):
        assert name == also and torch.equal(tensor, expected)
    assert all(not tensor.is_meta for tensor in (*made.parameters(), *made.buffers(), made.features))
    assert torch.equal(made.frequencies, torch.tensor([1.0, 2.0, 4.0, 8.0]))


def test_parameters_that_the_file_replaces_are_not_drawn():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 4), nn.Conv1d(4, 4, 3))
            nn.init.normal_(self.net[0].weight, std=0.1)

    given = Layers().state_dict()
    before = torch.get_rng_state()
    build_with_tensors(Layers, given, PATH)
    assert torch.equal(torch.get_rng_state(), before)
    Layers()
    assert not torch.equal(torch.get_rng_state(), before)


def test_what_is_no_parameter_is_still_drawn():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.phases = torch.empty(4).normal_(generator=torch.Generator().manual_seed(3))
            self.weight = nn.Parameter(torch.zeros(4))

    with torch.device("cpu"):
        expected = Features().phases

    class OnTheCPU(Features):
        def __init__(self):
            with torch.device("cpu"):
                super().__init__()

    assert torch.equal(build_with_tensors(OnTheCPU, {"weight": torch.ones(4)}, PATH).phases, expected)


def test_a_parameter_that_no_file_can_replace_is_refused():
    class Hidden(nn.Linear):
        def state_dict(self, *args, **kwargs):
            return {n: t for n, t in super().state_dict(*args, **kwargs).items() if n != "bias"}

    with pytest.raises(GenflowError, match="parameter 'bias' is in no state_dict"):
        build_with_tensors(lambda: Hidden(3, 4), {"weight": torch.ones(4, 3)}, PATH)
