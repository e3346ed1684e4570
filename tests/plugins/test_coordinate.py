"""The coordinate encoder: one decoder for every size, around the smooth family that the untrained one knows
exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import runpy
from pathlib import Path

import pytest
import torch
from genflow_encoders.smooth_family import SmoothFamily, smooth_members, smooth_starts
from genflow_encoders.units import UnitNet
from oracles import grid, lookup, normal
from torch import nn

from genflow import GenflowError, PolicyArch, Population, Structure, UnitDescriptions
from genflow.measure import exact_metrics
from genflow.progress import Progress
from genflow.registry import registry
from genflow.training.autoencoder import AutoencoderOptions, AutoencoderTrainee, reconstruct
from genflow.training.loop import train

EXAMPLE = Path(__file__).parents[2] / "examples" / "genflow-line" / "genflow_line.py"
SIZE, SHARE = 6, 0.4
ZOO = [grid(2, 4, width=12), grid(3, 7, width=8), grid(4, 5, width=10, R0=0.01)]
UNSEEN = [
    grid(3, 4, width=12),
    grid(2, 20, width=8),
    grid(1, 2, width=1),
    grid(4, 9, width=5, R0=0.3, band=(0.1, 0.2)),
]


def population(structure: Structure, num: int = 4, seed: int = 0) -> Population:
    """Members of the smooth family with some noise, as a zoo starts."""
    starts = smooth_starts("style", [structure], SIZE, SHARE, 0.1, None)
    return Population(structure, starts.weights(Population.initialised(structure, num, seed), seed))


def smooth_basis(layout, size):
    return SmoothFamily.of([layout], size).basis(layout)


def encoder(populations, **options):
    cls = registry().load("encoder", "coordinate")
    small = {
        "hidden": 16,
        "embedding": 12,
        "depth": 1,
        "matrices": 3,
        "rank": 2,
        "latent_size": SIZE,
        "style_variance": SHARE,
    }
    torch.manual_seed(0)
    return cls.for_zoo(cls.Config(**{**small, **options}), populations)


def learns(parameter):
    """Whether it is trained: the family is stored as parameters that are not."""
    return parameter.requires_grad


def stirred(populations, **options):
    """An encoder all of whose parameters have moved, as after training."""
    net = encoder(populations, **options)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in filter(learns, net.parameters()):
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng)
    return net.eval()


@pytest.fixture(scope="module")
def zoo():
    return [population(structure, seed=i) for i, structure in enumerate(ZOO)]


@pytest.fixture(scope="module", params=[False, True], ids=["", "readouts"])
def trained(zoo, request):
    """Not really; but nothing of it is as it was built."""
    return stirred(zoo, readouts=request.param)


def decode(net, latents, structure):
    with torch.no_grad():
        return net.decode(latents, structure.layout, structure.condition())


def styles(num=4, seed=5):
    return torch.randn(num, SIZE, generator=torch.Generator().manual_seed(seed))


def test_tables_of_units_are_made_once_and_not_saved(trained, monkeypatch):
    made, places = [], UnitNet.places
    monkeypatch.setattr(
        UnitNet, "places", lambda self, categories: made.append(self) or places(self, categories)
    )
    net, keys = copy.deepcopy(trained), set(trained.state_dict())
    before = decode(net, styles(), ZOO[1])
    assert len(made) == len(net.units) == 2
    assert decode(net, styles(), ZOO[1]).equal(before) and len(made) == 2
    # other tensors have other tables
    changed = {
        name: tensor + 1 if name.startswith("family.") else tensor
        for name, tensor in net.state_dict().items()
    }
    net.load_state_dict(changed)
    assert not decode(net, styles(), ZOO[1]).allclose(before) and len(made) == 4
    net.load_state_dict(trained.state_dict())
    assert decode(net, styles(), ZOO[1]).equal(before) and len(made) == 6
    assert set(net.state_dict()) == keys


def test_a_saved_encoder_encodes_and_decodes_the_same(zoo, trained):
    spec = json.loads(json.dumps(trained.spec()))
    torch.manual_seed(9)
    twin = type(trained).from_spec(trained.config, spec)
    before = decode(twin, styles(), ZOO[0])
    twin.load_state_dict(trained.state_dict())
    twin.eval()
    for structure in (*ZOO, *UNSEEN):
        assert decode(twin, styles(), structure).equal(decode(trained, styles(), structure))
    for members in zoo:
        assert twin.encode(members).equal(trained.encode(members))
    assert not before.equal(decode(twin, styles(), ZOO[0]))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_member_of_the_family_is_encoded_as_its_style(share):
    """In units of the zoo's styles, whatever the structure and the width."""

    def members(structure, own):
        return Population(structure, smooth_members(smooth_basis(structure.layout, SIZE), own, share))

    own = [3 + styles(10, seed) * torch.linspace(0.5, 2, SIZE) for seed in range(len(ZOO))]
    net = encoder(
        [members(structure, z) for structure, z in zip(ZOO, own, strict=True)], style_variance=share
    )
    mean, std = torch.cat(own).mean(0), torch.cat(own).std(0, correction=0)
    # the last has the shape of the second, but other units
    for structure in (
        *ZOO,
        grid(2, 5, width=6),
        grid(4, 20, width=12),
        grid(1, 4, width=9),
        grid(3, 7, band=(0.1, 0.2)),
    ):
        found = net.encode(members(structure, styles(40)))
        torch.testing.assert_close(found, (styles(40) - mean) / std, rtol=0, atol=0.1)
        for k in range(SIZE):
            assert torch.stack([found[:, k], styles(40)[:, k]]).corrcoef()[0, 1] > 0.999


def test_noise_on_the_weights_hardly_moves_the_style(zoo):
    net = encoder(zoo)
    for members, seed in zip(zoo, range(len(zoo)), strict=True):
        wanted = torch.randn(len(members), SIZE, generator=torch.Generator().manual_seed(seed))
        assert torch.stack([net.encode(members).flatten(), wanted.flatten()]).corrcoef()[0, 1] > 0.95


def test_a_style_that_no_member_of_the_zoo_shows_is_no_latent():
    own = torch.cat([styles(8)[:, :2], torch.zeros(8, SIZE - 2)], dim=1)
    net = encoder([Population(ZOO[0], smooth_members(smooth_basis(ZOO[0].layout, SIZE), own, SHARE))])
    shown = Population(ZOO[0], smooth_members(smooth_basis(ZOO[0].layout, SIZE), styles(9, 1), SHARE))
    assert not net.encode(shown)[:, 2:].any()
    assert (net.encode(shown)[:, :2].std(0) > 0.3).all()


@pytest.mark.parametrize("structure", UNSEEN, ids=lambda s: s.name)
def test_structures_that_the_zoo_lacks_are_made_from_what_their_units_mean(trained, structure):
    weights = decode(trained, styles(), structure)
    assert weights.shape == (4, structure.layout.size)
    assert torch.isfinite(weights).all()
    assert len(weights.unique(dim=0)) == 4
    # members of a population can be encoded again
    assert trained.encode(Population(structure, weights)).shape == (4, SIZE)


def test_weights_depend_on_the_condition_and_on_what_the_units_mean(trained):
    structure, other = grid(3, 8), grid(3, 8, band=(0.1, 0.2))
    layout, condition = structure.layout, structure.condition()
    with torch.no_grad():
        plain, conditioned = (
            trained.decode(styles(), layout, condition),
            trained.decode(styles(), layout, other.condition()),
        )
        described = trained.decode(styles(), other.layout, condition)
    assert not plain.allclose(conditioned, atol=1e-3)
    assert not plain.allclose(described, atol=1e-3)


def test_what_did_not_vary_in_the_zoo_is_left_out(trained):
    layout, condition = ZOO[0].layout, ZOO[0].condition()
    r0, r1 = (list(ZOO[0].environment.condition()).index(name) for name in ("R0", "R1"))
    with torch.no_grad():
        plain = trained.decode(styles(), layout, condition)
        for place, matters in ((r0, True), (r1, False)):
            moved = condition.clone()
            moved[place] *= 3
            assert plain.equal(trained.decode(styles(), layout, moved)) is not matters


def test_a_narrow_layers_correction_is_the_first_part_of_a_wide_ones(trained):
    condition = ZOO[1].condition()
    corrections = []
    for structure in (grid(3, 7, width=12), grid(3, 7, width=5)):
        layout = structure.layout
        with torch.no_grad():
            made = trained.decode(styles(), layout, condition) - smooth_members(
                smooth_basis(layout, SIZE), styles(), SHARE
            )
        corrections.append(layout.unflatten(made))
    wide, narrow = corrections
    for name, tensor in narrow.items():
        first = wide[name][tuple(slice(size) for size in tensor.shape)]
        torch.testing.assert_close(tensor, first, rtol=1e-4, atol=1e-5)
        assert tensor.abs().max() > 0.01


def test_a_dimensions_weights_are_that_of_its_name(trained):
    """The first dimensions of a large grid are those of a small one, the rest being equal."""
    with torch.no_grad():
        small, large = (
            s.layout.unflatten(trained.decode(styles(), s.layout, ZOO[0].condition()))
            for s in (grid(2, 6, width=8), grid(4, 6, width=8))
        )
    # the family is scaled by the number of inputs, so compare what both scales leave: biases and actions
    for name in ("net.0.bias", "net.2.weight", "net.2.bias"):
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-5)
    for name in ("net.4.weight", "net.4.bias"):
        torch.testing.assert_close(small[name], large[name][:, [0, 1, -1]], rtol=1e-4, atol=1e-5)
        assert not small[name][:, 0].allclose(small[name][:, 1], atol=1e-3)


def test_a_name_is_no_amount(zoo):
    """Without what was learned for each name, all dimensions are alike."""
    net = stirred(zoo)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".categories." in name:
                parameter.zero_()
    layout, condition = ZOO[2].layout, ZOO[2].condition()
    with torch.no_grad():
        made = net.decode(styles(), layout, condition) - smooth_members(
            smooth_basis(layout, SIZE), styles(), SHARE
        )
    inputs = layout.unflatten(made)["net.0.weight"].unflatten(2, (4, 5))
    torch.testing.assert_close(inputs[:, :, 3], inputs[:, :, 0], rtol=1e-4, atol=1e-5)
    assert not inputs[..., 0].allclose(inputs[..., 1], atol=1e-3)


class Direct(PolicyArch):
    """Inputs and actions with nothing between."""

    def build(self, n_inputs, n_outputs):
        """One layer."""
        return nn.Linear(n_inputs, n_outputs)

    def axes(self):
        """Both described."""
        return {"weight": ("action", "input"), "bias": ("action",)}

    def condition(self):
        """No size."""
        return {}


class Hidden(Direct):
    """Parameters that no input and no action has."""

    def build(self, n_inputs, n_outputs):
        """A number."""
        return Shift(n_outputs)

    def axes(self):
        """One of its own."""
        return {"shift": ("own", "other")}


class Shift(nn.Module):
    """The same logit for all actions."""

    def __init__(self, n_outputs):
        super().__init__()
        self.shift, self.n_outputs = nn.Parameter(torch.zeros(1, 1)), n_outputs

    def forward(self, x):
        return x.new_zeros(*x.shape[:-1], self.n_outputs) + self.shift[0]


def test_parameters_that_no_described_unit_has_are_made_from_the_condition():
    structures = [Structure.of(s.environment, Hidden(), "hypergrid", "hidden") for s in ZOO[:2]]
    net = stirred([Population(s, styles(4)[:, :1]) for s in structures])
    assert net.spec()["described"] == {}
    twin = type(net).from_spec(net.config, json.loads(json.dumps(net.spec())))
    twin.load_state_dict(net.state_dict())
    first, second = (decode(twin, styles(), s) for s in structures)
    assert first.shape == (4, 1) and not first.allclose(second, atol=1e-4)


def test_what_cannot_be_made_is_refused_in_one_line(trained):
    table = lookup(grid(2, 4), torch.zeros(1, 16, 3)).structure
    for structure, why in [
        (grid(2, 4, width=13), "covers hidden layers of up to 12 units, not 13"),
        (grid(5, 4), "covers dimension 0 to 3 of input units, not 4"),
        (table, r"does not make these parameters: without net\.0\.weight, .*; with table"),
    ]:
        for refuse in (
            trained.check,
            lambda layout, s=structure: trained.decode(styles(), layout, s.condition()),
            lambda layout, s=structure: trained.encode(Population(s, torch.zeros(1, layout.size))),
        ):
            with pytest.raises(GenflowError, match=why) as caught:
                refuse(structure.layout)
            assert "\n" not in str(caught.value)
    direct = Structure.of(ZOO[0].environment, Direct(), "hypergrid", "direct")
    with pytest.raises(GenflowError, match="cannot make 'weight'") as caught:
        encoder([Population(direct, torch.zeros(2, direct.layout.size))])
    assert "\n" not in str(caught.value)


def test_many_structures_at_once_are_those_one_by_one(trained):
    items = [
        (styles(num, seed), s.layout, s.condition())
        for seed, (num, s) in enumerate(zip((3, 1, 4, 2), (*ZOO, UNSEEN[0]), strict=True))
    ]
    with torch.no_grad():
        together = trained.decode_all(items)
        alone = [trained.decode(*item) for item in items]
    assert [weights.shape for weights in together] == [(len(z), layout.size) for z, layout, _ in items]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_policy_does_not_depend_on_the_batch_that_it_is_decoded_with(trained):
    z = styles(5)
    for structure in (ZOO[1], UNSEEN[1]):
        whole = decode(trained, z, structure)
        for i in range(5):
            torch.testing.assert_close(
                whole[i : i + 1], decode(trained, z[i : i + 1], structure), rtol=1e-4, atol=1e-5
            )
        torch.testing.assert_close(decode(trained, z.flip(0), structure), whole.flip(0), rtol=1e-4, atol=1e-5)


def test_latents_do_not_depend_on_the_batch_that_they_are_encoded_with(zoo, trained):
    for members in zoo:
        whole = trained.encode(members)
        torch.testing.assert_close(
            torch.cat([trained.encode(one) for one in members]), whole, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("readouts", [False, True])
def test_every_parameter_learns(zoo, readouts):
    net = stirred(zoo, readouts=readouts)
    net.reconstruct(zoo, normal(0))[0].mean().backward()
    for name, p in net.named_parameters():
        assert learns(p) != name.startswith("family."), name
        assert not learns(p) or p.grad.any(), name


def test_the_loss_is_relative_to_the_spread_of_each_tensor(zoo):
    """By hand, with no noise: mean over policies of the mean square over their parameters, each in units of
    its tensor.
    """
    net = stirred(zoo, latent_noise=0.0)
    loss, rebuilt = net.reconstruct(zoo, normal(0))
    spread = {
        name: float(torch.stack([p.state_dict()[name].square().mean() for p in zoo]).mean().sqrt())
        for name in zoo[0].layout.shapes
    }
    total = []
    for members, weights in zip(zoo, rebuilt, strict=True):
        made, own = members.layout.unflatten(weights), members.state_dict()
        for i in range(len(members)):
            total.append(
                torch.cat([(made[n][i] - own[n][i]).flatten() / spread[n] for n in spread]).square().mean()
            )
    assert loss.tolist() == pytest.approx(torch.stack(total).tolist(), rel=1e-4)


def test_noise_comes_from_the_generator_and_only_while_training(zoo):
    net = stirred(zoo, latent_noise=0.5)

    def loss(seed, of=net):
        return of.reconstruct(zoo, normal(seed))[0].mean().item()

    assert loss(0) == loss(0) != loss(1)
    assert net.encode(zoo[0]).equal(net.encode(zoo[0]))
    assert reconstruct(net, zoo[0]).weights.equal(decode(net, net.encode(zoo[0]).detach(), ZOO[0]))
    quiet = stirred(zoo, latent_noise=0.0)
    assert loss(0, quiet) == loss(1, quiet)
    noise = net.noisy(torch.zeros(2000, SIZE), normal(0))
    assert float(noise.std()) == pytest.approx(0.5, rel=0.05)


def test_without_features_the_units_are_told_by_their_coordinates(zoo, trained):
    plain = stirred(zoo, features=False)
    facts = plain.spec()["described"]["input"]
    assert facts == {"amounts": 4, "coordinates": 4, "categories": {"dimension": [0, 1, 2, 3]}}
    structure = UNSEEN[1]
    told = retold(
        structure.layout, lambda amounts: amounts + (amounts.std(0) > 0) * torch.rand(amounts.shape)
    )
    for net, matters in ((plain, False), (trained, True)):
        with torch.no_grad():
            a, b = (
                net.decode(styles(), layout, structure.condition()) for layout in (structure.layout, told)
            )
        assert torch.isfinite(a).all()
        assert a.equal(b) is not matters
    with pytest.raises(GenflowError, match="covers dimension 0 to 3"):
        plain.check(grid(5, 4).layout)


def retold(layout, change):
    """The layout with other amounts of its inputs."""
    own = layout.units["input"]
    changed = UnitDescriptions(change(own.amounts), own.categories, own.coordinates)
    return dataclasses.replace(layout, units={**layout.units, "input": changed})


@pytest.mark.parametrize("pool", [False, True])
def test_units_are_read_together_only_with_a_pool_and_in_no_order(zoo, pool):
    net, structure, latents = stirred(zoo, pool=pool), UNSEEN[3], styles()
    layout, condition = structure.layout, structure.condition()

    def columns(changed: torch.Tensor) -> torch.Tensor:
        """(M, hidden, inputs) corrections of the first layer, with another description of the inputs."""
        told = retold(layout, lambda amounts: changed)
        with torch.no_grad():
            return layout.unflatten(
                net.decode(latents, told, condition) - net.decode(latents, layout, condition)
            )["net.0.weight"]

    own = layout.units["input"].amounts
    other = own.clone()
    other[5] += net.units["input"].standardise.scale != 0
    difference = columns(other)
    assert difference[..., 5].abs().max() > 1e-3
    difference[..., 5] = 0.0
    assert bool(difference.abs().max() > 1e-3) is pool
    # a hidden layer is nobody's unit: it changes through the pool alone, and not with the order of the units
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))
    units = layout.units["input"]
    dimension = {"dimension": units.categories["dimension"][order]}
    shuffled = UnitDescriptions(own[order], dimension, units.coordinates)
    told = dataclasses.replace(layout, units={**layout.units, "input": shuffled})
    with torch.no_grad():
        a, b = (layout.unflatten(net.decode(latents, each, condition)) for each in (layout, told))
    torch.testing.assert_close(a["net.2.weight"], b["net.2.weight"], rtol=1e-4, atol=1e-5)


def line(length: int, width: int = 6) -> Structure:
    """A structure of examples/genflow-line, which tells nothing but coordinates."""
    cls, arch = runpy.run_path(str(EXAMPLE))["Line"], registry().load("policy", "mlp3")
    environment, policy = cls(cls.Config(length=length)), arch(arch.Config(width=width))
    return Structure.of(environment, policy, "line", "mlp3")


@pytest.mark.parametrize(
    ("structures", "unseen"),
    [
        ([line(8), line(12)], line(10, width=3)),
        (
            [grid(2, 4, reward="cosine"), grid(4, 6, reward="cosine", width=4)],
            grid(3, 9, reward="cosine", width=5),
        ),
    ],
    ids=["line", "cosine"],
)
def test_environments_without_features_are_learned_from_coordinates(structures, unseen):
    zoo = [population(structure, num=6, seed=i) for i, structure in enumerate(structures)]
    net = encoder(zoo, latent_noise=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        loss, _ = net.reconstruct(zoo, normal(step))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    assert losses[-1] < 0.6 * losses[0]
    assert torch.isfinite(decode(net, styles(), unseen)).all()


@pytest.mark.parametrize("features", [True, False])
def test_training_on_behaviour_makes_better_policies_than_the_family(tmp_path, features):
    structures = [grid(2, 5, width=12), grid(3, 4, width=12), grid(2, 8, width=8)]
    zoo = [population(structure, num=6, seed=i) for i, structure in enumerate(structures)]
    net = encoder(zoo, features=features, reference="optimal", swap_probability=0.5)
    before = [made_js(net, structure) for structure in structures]
    options = AutoencoderOptions(
        encoder="coordinate", steps=80, lr=1e-2, batch_size=12, per_structure=4,
        weight_loss_scale=0.1, kl_scale=1.0, states=64, ema=0.9,
    )  # fmt: skip
    trainee = AutoencoderTrainee(net, zoo, options, seed=0, device="cpu")
    history = train(
        trainee, options, folder=tmp_path, seed=0, progress=Progress(quiet=True), label=""
    ).history
    for name in ("loss", "kl"):
        values = [value for _, value in history[name]]
        assert sum(values[-10:]) < 0.6 * sum(values[:10])
    result = trainee.result()
    assert result is net
    for structure, js in zip(structures, before, strict=True):
        assert made_js(result, structure) < 0.7 * js


def made_js(net, structure: Structure) -> float:
    return float(exact_metrics()["js"](Population(structure, decode(net, styles(8), structure))).mean())


def test_many_policies_are_the_same_as_each_alone(trained, monkeypatch):
    """However many units are read at once."""
    together = {structure: decode(trained, styles(9), structure) for structure in (ZOO[0], UNSEEN[1])}
    for rows in (1, 50):
        monkeypatch.setitem(type(trained).decode.__globals__, "MAX_ROWS", rows)
        for structure, weights in together.items():
            torch.testing.assert_close(decode(trained, styles(9), structure), weights, rtol=1e-4, atol=1e-5)
