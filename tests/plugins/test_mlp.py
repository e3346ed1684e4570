"""An MLP of any depth and activation, against torchgfn's, one network at a time, and autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from gfn.utils.modules import MLP as TorchgfnMLP
from oracles import by_autograd, grid, holed, lively, one_by_one, same_gradients, traced
from torch import nn

from genflow import GenflowError, Population, Structure
from genflow.registry import registry

MODULES = {
    "leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU,
    "gelu": nn.GELU,
}  # fmt: skip


def deep(depth: int, activation: str = "leaky_relu", ndim: int = 2, height: int = 5, width: int = 6):
    fields = {"ndim": ndim, "height": height, "width": width, "depth": depth, "activation": activation}
    return Structure.build("hypergrid", fields, policy="mlp")


@pytest.mark.parametrize("activation", MODULES)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_logits_and_gradients_are_those_of_a_plain_network(depth, activation):
    structure = deep(depth, activation)
    population = lively(structure, 3)
    states = torch.randint(5, (3, 10, 2), generator=torch.Generator().manual_seed(3))
    env, preprocessor = structure.environment.make()
    inputs = preprocessor(env.States(states.reshape(-1, 2))).float().reshape(3, 10, -1)
    toward = holed((3, 10, 3))
    for observed in (inputs, structure.transitions().one_hot_indices(states)):
        logits, gradients = one_by_one(population, inputs, toward)
        for cuts in ([10], [4, 1, 5]):
            found_logits, found = traced(population, list(observed.split(cuts, dim=1)), toward)
            torch.testing.assert_close(found_logits, logits, rtol=1e-5, atol=1e-5)
            same_gradients(found, gradients)
    # the network itself, layer by layer
    sizes = [10, *[6] * depth, 3]
    layers = [(nn.Linear(a, b), MODULES[activation]()) for a, b in itertools.pairwise(sizes)]
    plain = nn.Sequential(*(module for layer in layers for module in layer))[:-1]
    plain.load_state_dict({name.removeprefix("net."): t[1] for name, t in population.state_dict().items()})
    for x in (inputs[1], inputs):
        torch.testing.assert_close(population.logits(x)[1], plain(inputs[1]).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "elu"])  # torchgfn's
@pytest.mark.parametrize("depth", [1, 3])
def test_it_is_torchgfns_network(depth, activation):
    population = lively(deep(depth, activation), 1)
    theirs = TorchgfnMLP(10, 3, hidden_dim=6, n_hidden_layers=depth, activation_fn=activation)
    tensors = dict(zip(theirs.state_dict(), (t[0] for t in population.state_dict().values()), strict=True))
    theirs.load_state_dict(tensors)
    x = torch.randn(7, 10)
    torch.testing.assert_close(population.logits(x)[0].detach(), theirs(x).detach())


def test_two_leaky_layers_are_mlp3_bit_for_bit():
    shallow, same = grid(2, 5, width=6), deep(2)
    assert shallow.layout == same.layout
    assert torch.equal(
        Population.initialised(shallow, 2, 0).weights, Population.initialised(same, 2, 0).weights
    )
    weights = lively(shallow, 2).weights
    x, toward = torch.randn(2, 9, 10), holed((2, 9, 3))
    (first, gradients), (second, others) = (
        traced(Population(structure, weights), [x], toward) for structure in (shallow, same)
    )
    assert torch.equal(first, second)
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)


def test_width_and_depth_are_told():
    numbers = deep(4, width=7).arch.condition()
    assert numbers == {"width": 7.0, "depth": 4.0}
    assert deep(3).layout.axes["net.4.weight"] == ("hidden3", "hidden2")
    assert deep(1).layout.axes["net.2.weight"] == ("action", "hidden1")
    assert deep(1, "relu").name != deep(1, "tanh").name


def test_training_is_that_of_autograd():
    from genflow.training.options import PolicyOptions
    from genflow.training.policies import PopulationTrainee

    ends = []
    for structure in (deep(3, "silu"), by_autograd(deep(3, "silu"))):
        start = Population.initialised(structure, 2, 0).weights
        trainee = PopulationTrainee(
            structure, start, PolicyOptions(steps=5), seed=0, device="cpu", checkpoints=1, every=1
        )
        optimizer = torch.optim.SGD([p for g in trainee.groups() for p in g["params"]], lr=1e-2)
        rng = torch.Generator().manual_seed(0)
        for step in range(3):
            trainee.backward(step, rng)
            optimizer.step()
        ends.append(torch.cat([w.flatten() for w in trainee.weights.values()]).detach())
        assert not torch.equal(ends[-1].sort()[0], start.flatten().sort()[0])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoder", ["conv1d", "coordinate"])
def test_encoders_take_any_depth_and_refuse_to_mix_them(encoder):
    cls = registry().load("encoder", encoder)
    options = cls.Config(latent_size=8)
    for depth in (1, 3):
        zoo = [lively(deep(depth, height=height), 4) for height in (4, 5)]
        built = cls.for_zoo(options, zoo)
        loss, weights = built.reconstruct(zoo, lambda like: torch.zeros_like(like))
        assert torch.isfinite(loss).all()
        assert [w.shape for w in weights] == [p.weights.shape for p in zoo]
        with pytest.raises(GenflowError):
            built.check(deep(2).layout)
    mixed = [deep(1), deep(3)]
    with pytest.raises(GenflowError, match="net"):
        built = cls.for_zoo(options, [lively(structure, 4) for structure in mixed])
        built.reconstruct([lively(structure, 4) for structure in mixed], lambda like: torch.zeros_like(like))
    with pytest.raises(GenflowError, match="net"):
        cls.starts(options, mixed)
