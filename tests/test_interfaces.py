"""What plugins inherit, against the plain way to do the same."""

from __future__ import annotations

import pytest
import torch
from oracles import by_torchgfn, grid, holed, lively, lookup, one_by_one, same_gradients, traced
from torch import nn

from genflow import Environment, GenflowError, PolicyArch, Reward, Schema, Structure


class Tanh(PolicyArch):
    """One layer; nothing but what an architecture must have."""

    def build(self, n_inputs, n_outputs):
        """(B, n_inputs) -> (B, n_outputs)."""
        return nn.Sequential(nn.Linear(n_inputs, n_outputs), nn.Tanh())

    def axes(self):
        """As in `nn.Linear`."""
        return {"0.weight": ("action", "input"), "0.bias": ("action",)}

    def condition(self):
        """It has no size of its own."""
        return {}


def tanh(members):
    return lively(Structure.of(grid(2, 4).environment, Tanh(), "hypergrid", "tanh"), members)


def public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


def test_an_author_of_an_environment_faces_few_members():
    assert len(public(Environment)) <= 16, public(Environment)
    assert Environment.__abstractmethods__ == {"make", "condition", "units"}
    # and those that a reward has
    assert len(public(Reward)) <= 8 and Reward.__abstractmethods__ == {"score"}


def test_what_an_author_must_write_is_enough():
    """A task of three methods, from which everything else follows through torchgfn."""
    own = grid(2, 4)

    class Smallest(Environment):
        class Config(Schema):
            pass

        def make(self, device="cpu"):
            return own.environment.make(device)

        def condition(self):
            return {"size": 2.0}

        def units(self):
            return own.environment.units()

    structure = Structure.of(Smallest(), own.arch)
    assert structure.fields() == {"width": 8} and structure.name == "width=8"
    assert structure.condition().tolist() == [2, 8]
    assert structure.initial_bias is None
    states = torch.tensor([[0, 0], [1, 3], [3, 3]])
    found, expected = structure.transitions(), own.transitions()
    assert found.forward_masks(states).equal(expected.forward_masks(states))
    assert found.inputs(states).equal(expected.inputs(states))
    assert found.state_ids(states) is found.one_hot_indices(states) is found.is_mode(states) is None
    torch.testing.assert_close(found.log_reward(states), expected.log_reward(states), rtol=1e-6, atol=1e-6)
    assert structure.solution.n_states is None and not structure.solution.enumerable
    for refuse in (
        structure.solution.target,
        structure.solution.require_expert,
        lambda: structure.solution.graph,
    ):
        with pytest.raises(GenflowError, match="this structure has an unknown number of states"):
            refuse()
    gallery = structure.gallery
    assert (gallery.names(states), gallery.pictures) == (["0+0", "1+3", "3+3"], False)
    torch.testing.assert_close(gallery.scores(states), found.log_reward(states).exp())
    assert gallery.places(states).equal(states) and gallery.places(states.float()) is None
    assert gallery.places(states - 1) is None
    population = lively(structure, 2)
    rollouts = population.rollouts(20, 0)
    assert rollouts.final.shape == (2, 20, 2)
    with pytest.raises(TypeError, match="draws no pictures"):
        gallery.draw(states)


def test_objects_of_a_task_are_built_once():
    structure = grid(2, 4)
    assert (
        structure.transitions() is structure.transitions("cpu") is structure.transitions(torch.device("cpu"))
    )
    assert structure.solution is structure.solution and structure.gallery is structure.gallery
    assert structure.transitions().env is structure.transitions().env
    assert structure.solution.graph is structure.solution.graph
    assert structure.solution.transitions is structure.transitions()


def table(members):
    return lookup(grid(2, 4), torch.randn(members, 16, 3))


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("make", [tanh, table])
def test_an_architecture_without_a_pass_of_its_own_has_the_gradients_of_autograd(make, members, own):
    population = make(members)
    structure = population.structure
    states = torch.randint(4, (members * 10, 2), generator=torch.Generator().manual_seed(3))
    x = structure.transitions().inputs(states).reshape(members, 10, 8)
    x = x if own else x[0]
    toward = holed((members, 10, 3))
    logits, gradients = one_by_one(population, x, toward)
    for cuts in ([10], [4, 1, 5]):
        found_logits, found = traced(population, list(x.split(cuts, dim=-2)), toward)
        torch.testing.assert_close(found_logits, logits, rtol=1e-5, atol=1e-6)
        same_gradients(found, gradients)


def test_an_architecture_that_reads_inputs_is_given_inputs():
    """Only what asks for active inputs gets them, and only from a task that has them."""
    structure, other = grid(2, 4), tanh(1).structure
    states = torch.randint(4, (3, 5, 2))
    inputs = structure.transitions().inputs(states.reshape(15, 2)).reshape(3, 5, 8)
    assert structure.observe(states).equal(structure.transitions().one_hot_indices(states))
    assert other.observe(states).equal(inputs)
    assert other.observe(states[0]).equal(inputs[0])


def test_a_task_without_active_inputs_is_observed_by_its_inputs():
    structure = grid(2, 4)
    states = torch.randint(4, (3, 5, 2))
    expected = structure.transitions().inputs(states.reshape(15, 2)).reshape(3, 5, 8)
    assert by_torchgfn(structure).observe(states).equal(expected)


def test_a_parameter_that_decides_nothing_has_no_gradient():
    class Spare(PolicyArch):
        def build(self, n_inputs, n_outputs):
            module = nn.Linear(n_inputs, n_outputs)
            module.register_parameter("spare", nn.Parameter(torch.ones(2)))
            return module

        def axes(self):
            return {"weight": ("action", "input"), "bias": ("action",), "spare": ("nothing",)}

        def condition(self):
            return {}

    arch, module = Spare(), Spare().build(3, 2)
    weights = {name: torch.stack([tensor, tensor]) for name, tensor in module.state_dict().items()}
    logits, cache = arch.forward_with_cache(module, weights)(torch.ones(4, 3))
    out_grads = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    arch.backward(module, weights, cache, torch.ones_like(logits), out_grads)
    assert not out_grads["spare"].any()
    assert (out_grads["weight"] == 4).all()
