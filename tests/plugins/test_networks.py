"""The paper's encoder and denoiser."""

import pytest
import torch
from oracles import normal

from genflow import GenflowError, Population, Structure
from genflow.registry import registry


def population(ndim=2, height=4, width=8, num=6, seed=0):
    return Population.initialised(
        Structure.build("hypergrid", {"ndim": ndim, "height": height, "width": width}), num, seed
    )


def encoder(populations, **options):
    cls = registry().load("encoder", "conv1d")
    torch.manual_seed(0)
    return cls.for_zoo(cls.Config(**{"latent_size": 32, **options}), populations)


def denoiser(latent_size=24, condition_size=4, **options):
    cls = registry().load("denoiser", "unet1d")
    torch.manual_seed(0)
    return cls(
        cls.Config(**{"channels": (8, 8), "embedding": 16, **options}),
        latent_size=latent_size,
        condition_size=condition_size,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": 2, "stride": 3, "kernel": 8},
        {"levels": 1},
        {"residual": False},
        {"stride": 2, "kernel": 3},
    ],
)
def test_shapes_for_structures_of_different_size(options):
    zoo = [population(), population(ndim=3, height=5)]
    net = encoder(zoo, **options)
    for p in zoo:
        latents = net.encode(p)
        assert latents.shape == (6, 32)
        assert net.decode(latents, p.layout, p.structure.condition()).shape == p.weights.shape
    loss, rebuilt = net.reconstruct(zoo, normal(0))
    assert loss.shape == (12,) and loss.requires_grad
    assert [w.shape for w in rebuilt] == [p.weights.shape for p in zoo]


def test_the_skip_connections_alone_lose_nothing():
    """With zeroed convolutions a level only moves values, down and up again."""
    net = encoder([population()])
    for conv in [*net.down, *net.up]:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    size = net.padded
    torch.nn.init.eye_(net.to_latent.weight)
    folded = []
    net.to_latent.register_forward_hook(lambda _, inputs, __: folded.append(inputs[0]))
    x = torch.randn(2, size)
    net._to_latent(x)
    assert not torch.equal(folded[0], x)
    net.from_latent = torch.nn.Identity()
    assert torch.equal(net._from_latent(folded[0]), x)


def test_normalisation_is_per_layer_over_the_whole_zoo():
    zoo = [population(), population(ndim=3, height=5)]
    net = encoder(zoo)
    for row, name in enumerate(net.names):
        values = torch.cat([p.state_dict()[name].flatten() for p in zoo])
        assert net.mean[row].item() == pytest.approx(values.mean().item(), abs=1e-6)
        assert net.std[row].item() == pytest.approx(values.std().item(), rel=1e-5)


def test_it_learns_to_store_a_population():
    p = population(num=4)
    net = encoder([p], latent_noise=0.0, weight_noise=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        loss, _ = net.reconstruct([p], normal(step))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    assert losses[-1] < 0.01 * losses[0]
    rebuilt = net.decode(net.encode(p), p.layout, p.structure.condition())
    assert (rebuilt - p.weights).norm() < 0.1 * p.weights.norm()


def test_padding_is_not_part_of_the_loss():
    """The loss of a small structure is the mean square over its own parameters, computed by hand."""
    small, large = population(), population(ndim=3, height=8)
    net = encoder([small, large], latent_noise=0.0, weight_noise=0.0)
    loss, rebuilt = net.reconstruct([small], normal(0))
    _, std = net._statistics(small.layout)
    by_hand = (((rebuilt[0] - small.weights) / std) ** 2).mean().item()
    assert loss.mean().item() == pytest.approx(by_hand, rel=1e-4)


def test_noise_comes_from_the_generator():
    p = population()
    net = encoder([p])
    losses = [net.reconstruct([p], normal(seed))[0].mean().item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_swapped_latents_get_the_noise_of_training():
    net = encoder([population()], latent_noise=0.3)
    zeros = torch.zeros(500, 32)
    noise = net.noisy(zeros, normal(0))
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert noise.equal(net.noisy(zeros, normal(0)))
    assert encoder([population()], latent_noise=0.0).noisy(zeros, normal(0)).equal(zeros)


def test_spec_rebuilds_the_same_module():
    p = population()
    net = encoder([p])
    twin = type(net).from_spec(net.config, net.spec())
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.encode(p), net.encode(p))


def test_too_many_parameters_are_refused():
    net = encoder([population()])
    with pytest.raises(GenflowError, match="at most"):
        net.check(population(ndim=3, height=9).layout)


@pytest.mark.parametrize("options", [{"kernel": 8}, {"kernel": 3}])
def test_a_kernel_that_does_not_fit_the_stride_is_refused(options):
    with pytest.raises(GenflowError, match="kernel"):
        encoder([population()], **options)


@pytest.mark.parametrize(("latent_size", "patch"), [(24, 4), (32, 1), (5, 4), (33, 2)])
def test_denoiser_keeps_the_shape_and_depends_on_all_its_inputs(latent_size, patch):
    net = denoiser(latent_size, patch=patch)
    torch.nn.init.normal_(net.last.weight)
    z, t, c = (
        torch.randn(3, latent_size),
        torch.tensor([1, 50, 900]),
        torch.tensor([[8.0, 4, 2, 16]]).repeat(3, 1),
    )
    out = net(z, t, c)
    assert out.shape == z.shape
    assert not torch.allclose(out, net(z, t + 20, c))
    assert not torch.allclose(out, net(z, t, c * 2))
    missing = net(z, t, torch.full_like(c, torch.nan))
    assert torch.isfinite(missing).all() and not torch.allclose(out, missing)


def test_one_row_without_condition_does_not_touch_the_others():
    net = denoiser()
    torch.nn.init.normal_(net.last.weight)
    z, t, c = torch.randn(2, 24), torch.tensor([3, 3]), torch.ones(2, 4)
    holed = c.clone()
    holed[1] = torch.nan
    assert torch.allclose(net(z, t, c)[0], net(z, t, holed)[0], atol=1e-6)


def test_the_denoiser_tells_conditions_apart_over_decades():
    """Shares of the reward are far below 1; a doubling there must count as it does for sizes."""
    net = denoiser(condition_size=1)
    small, large = (net.structure(torch.tensor([[c], [2 * c]])).diff(dim=0).norm() for c in (0.02, 20.0))
    assert 0.3 < small / large < 3
    assert net.structure(torch.tensor([[0.0], [1e-6]])).diff(dim=0).norm() < 0.01 * large


@pytest.mark.parametrize(
    ("latent_size", "options"),
    [
        (16, {"channels": (32, 64), "patch": 1}),
        (24, {}),
        (33, {"channels": (8, 16, 6), "patch": 2}),
        (5, {"channels": (4,), "groups": 2}),
    ],
)
def test_the_prepared_denoiser_is_the_denoiser(latent_size, options):
    """Convolutions as torch computes them, against matrix products over windows."""
    net = denoiser(latent_size, **options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    t, condition = torch.tensor([0, 400, 999]), torch.tensor([8.0, 4, 2, 16])
    for c in (condition, torch.full_like(condition, torch.nan)):
        prepared = net.prepare(t, c)
        for num in (1, 5):
            z = torch.randn(num, latent_size)
            for step, predict in zip(t, prepared, strict=True):
                plain = net(z, step.expand(num), c.expand(num, -1))
                torch.testing.assert_close(predict(z), plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())
