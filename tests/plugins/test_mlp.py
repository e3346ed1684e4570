"""An MLP of any depth and activation, against torchgfn's, one network at a time, and autograd."""

from __future__ import annotations

import itertools
import json

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


def deep(depth: int, activation="leaky_relu", ndim=2, height=5, width=6, **form):
    fields = {
        "ndim": ndim,
        "height": height,
        "width": width,
        "depth": depth,
        "activation": activation,
        **form,
    }
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
def test_encoders_take_any_one_depth_and_name_the_tensors_of_another(encoder):
    cls = registry().load("encoder", encoder)
    options = cls.Config(latent_size=8)
    for depth in (1, 3):
        zoo = [lively(deep(depth, height=height), 4) for height in (4, 5)]
        built = cls.for_zoo(options, zoo)
        loss, weights = built.reconstruct(zoo, lambda like: torch.zeros_like(like))
        assert torch.isfinite(loss).all()
        assert [w.shape for w in weights] == [p.weights.shape for p in zoo]
        odd = "with net.4.weight" if depth == 1 else "without net.6.weight"
        with pytest.raises(GenflowError, match=f"does not make these parameters: {odd}"):
            built.check(deep(2).layout)


def test_conv1d_is_for_one_depth():
    cls = registry().load("encoder", "conv1d")
    with pytest.raises(GenflowError, match=r"depth=3 differs: with net\.4\.weight, .*encoder=coordinate"):
        cls.starts(cls.Config(), [deep(1), deep(3)])
    assert len(cls.starts(cls.Config(), [deep(3), deep(3, height=4)]).tensors())


FORMS = [{}, {"layer_norm": True}, {"residual": True}, {"layer_norm": True, "residual": True}]
IDS = ["plain", "norm", "residual", "both"]


class Reference(nn.Module):
    """What the options say, written down."""

    def __init__(self, sizes, activation, layer_norm, residual):
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for d in sizes[1:-1]) if layer_norm else None
        self.activation, self.residual = MODULES[activation](), residual

    def forward(self, x):
        for place, layer in enumerate(self.linear[:-1]):
            h = layer(x)
            h = self.activation(h if self.norms is None else self.norms[place](h))
            x = x + h if self.residual and place else h
        return self.linear[-1](x)


@pytest.mark.parametrize("form", FORMS, ids=IDS)
@pytest.mark.parametrize(("depth", "activation"), [(1, "silu"), (4, "leaky_relu")])
def test_norms_and_residuals_are_what_they_say(depth, activation, form):
    structure = deep(depth, activation, **form)
    population = lively(structure, 3)
    states = torch.randint(5, (3, 10, 2), generator=torch.Generator().manual_seed(3))
    env, preprocessor = structure.environment.make()
    inputs = preprocessor(env.States(states.reshape(-1, 2))).float().reshape(3, 10, -1)
    reference = Reference(
        [10, *[6] * depth, 3], activation, form.get("layer_norm", False), form.get("residual", False)
    )
    # each hidden layer has its product first and then its norm, in both
    order = [f"linear.{k}" for k in range(depth + 1)]
    if form.get("layer_norm"):
        order = [f"{kind}.{k}" for k in range(depth) for kind in ("linear", "norms")] + order[-1:]
    names = [f"{layer}.{part}" for layer in order for part in ("weight", "bias")]
    reference.load_state_dict(dict(zip(names, (t[1] for t in population.state_dict().values()), strict=True)))
    toward = holed((3, 10, 3))
    for x in (inputs[1], inputs):
        torch.testing.assert_close(
            population.logits(x)[1], reference(inputs[1]).detach(), rtol=1e-4, atol=1e-5
        )
    logits, gradients = one_by_one(population, inputs, toward)
    for observed in (inputs, structure.transitions().one_hot_indices(states)):
        found_logits, found = traced(population, list(observed.split([4, 6], dim=1)), toward)
        torch.testing.assert_close(found_logits, logits, rtol=1e-4, atol=1e-5)
        same_gradients(found, gradients)


def test_structures_without_the_options_keep_their_names_and_files():
    plain = deep(3)
    assert plain.name == "ndim=2,height=5,width=6,depth=3"
    assert not {"layer_norm", "residual"} & plain.fields().keys()
    assert deep(3, layer_norm=True).name == "ndim=2,height=5,width=6,depth=3,layer_norm=True"


def encoder_of(structures, stored=None):
    cls = registry().load("encoder", "coordinate")
    config = cls.Config(
        latent_size=4, hidden=16, embedding=12, depth=1, matrices=3, rank=2, style_variance=0.4
    )
    starts = cls.starts(config, structures, stored)
    zoo = [
        Population(s, starts.weights(Population.initialised(s, 4, i), i)) for i, s in enumerate(structures)
    ]
    torch.manual_seed(0)
    return cls.for_zoo(config, zoo, starts.tensors()), zoo, starts


@pytest.mark.parametrize("form", FORMS, ids=IDS)
def test_one_encoder_makes_several_depths(form):
    structures = [deep(depth, width=width, **form) for depth, width in ((1, 6), (2, 5), (4, 6))]
    net, zoo, _ = encoder_of(structures)
    twin = type(net).from_spec(net.config, json.loads(json.dumps(net.spec())))
    twin.load_state_dict(net.state_dict())
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        learned = {name: p for name, p in net.named_parameters() if p.requires_grad}
        for parameter in learned.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    net.reconstruct(zoo, lambda like: torch.zeros_like(like))[0].mean().backward()
    assert [name for name, p in learned.items() if p.grad is None or not p.grad.any()] == []
    latents = torch.randn(3, 4, generator=rng)
    between = [deep(3, width=6, **form)] if form.get("residual") else []
    for structure in (*structures, *between):
        with torch.no_grad():
            weights = net.decode(latents, structure.layout, structure.condition())
            untrained = twin.decode(latents, structure.layout, structure.condition())
        assert weights.shape == (3, structure.layout.size) and torch.isfinite(weights).all()
        assert not torch.equal(weights, untrained)
        states = Population(structure, weights).state_dict()
        hidden = [
            t for name, t in states.items() if structure.layout.roles.get(name, "-")[0] == "hidden.weight"
        ]
        for one, other in itertools.pairwise(hidden):
            assert not one.allclose(other, atol=1e-2)
    # members of the family start with gains of one, and are read back as their style
    for population in zoo:
        for name in population.layout.gains:
            assert torch.equal(population.state_dict()[name], torch.ones_like(population.state_dict()[name]))
    odd = [(5, ", the structure has 4: "), *[(3, ", the structure has 2: net")] * (not between)]
    for depth, words in odd:
        with pytest.raises(GenflowError, match=f"makes 0 or 1 or 3 of 'hidden[.]weight'{words}") as caught:
            net.check(deep(depth, **form).layout)
        assert "\n" not in str(caught.value)


def test_a_shallow_network_starts_as_the_first_part_of_a_deep_one():
    structures = [deep(2), deep(4)]
    _, _, starts = encoder_of(structures)
    family = starts.family
    basis = {s.arch.depth: s.layout.unflatten(family.basis(s.layout)) for s in structures}
    for name in ("net.0.weight", "net.2.weight"):
        assert torch.equal(basis[2][name], basis[4][name])
    assert torch.equal(basis[2]["net.4.weight"], basis[4]["net.8.weight"])
    # a part of that zoo finds the same starts
    part, _, again = encoder_of([deep(2)], starts.tensors())
    assert torch.equal(again.family.basis(structures[0].layout), family.basis(structures[0].layout))
    part.check(deep(2).layout)
    with pytest.raises(GenflowError, match=r"makes 1 of 'hidden.weight', the structure has 3"):
        part.check(deep(4).layout)


def test_depths_of_other_options_are_not_mixed():
    with pytest.raises(GenflowError, match=r"these differ: with net\.1\.weight, net\.1\.bias"):
        encoder_of([deep(2), deep(3, layer_norm=True)])
