"""Initial weights: the smooth family is one function of the units at every size.

Its members differ by their style alone.
"""

from __future__ import annotations

import math

import pytest
import torch
from genflow_encoders.smooth_family import SmoothFamily, smooth_members, smooth_starts
from oracles import grid

from genflow import Population

SIZE = 6


def start(structure, num, seed, init, noise, style_size=SIZE, style_variance=0.4):
    starts = smooth_starts(init, [structure], style_size, style_variance, noise, None)
    return starts.weights(Population.initialised(structure, num, seed), seed)


def smooth_basis(layout, size):
    return SmoothFamily.of([layout], size).basis(layout)


def test_independent_starts_are_the_architectures_own():
    structure = grid(2, 5)
    assert start(structure, 3, 4, "independent", 0.5).equal(Population.initialised(structure, 3, 4).weights)


def test_a_shared_start_is_one_for_all_members_but_for_the_noise():
    structure = grid(2, 5, width=64)
    base = start(structure, 3, 0, "shared", 0.0)
    assert base[0].equal(base[1])
    assert base.equal(start(structure, 3, 1, "shared", 0.0))
    # which has no style
    assert base.equal(start(structure, 3, 0, "shared", 0.0, style_size=2, style_variance=0.9))
    noisy = start(structure, 3, 0, "shared", 0.1)
    assert not noisy[0].equal(noisy[1])
    check_noise(structure, noisy - base)


def check_noise(structure, difference):
    own = structure.layout.unflatten(Population.initialised(structure, 3, 0).weights)
    for name, tensor in structure.layout.unflatten(difference).items():
        # relative to the tensor's own spread, within five standard errors and what a shared spread leaves
        # open
        assert float(tensor.std()) == pytest.approx(
            0.1 * float(own[name].std()), rel=5 / (2 * tensor.numel()) ** 0.5 + 0.1
        )


def test_a_shared_start_is_one_smooth_function_sampled_at_every_size():
    # cosine has no indicators, so a unit is its dimension and its position u = k/(h-1)
    small, large = grid(2, 5, reward="cosine"), grid(3, 9, reward="cosine")
    a, b = (s.layout.unflatten(start(s, 1, 0, "shared", 0.0)) for s in (small, large))
    for i in range(2):
        for k in range(5):
            # each is scaled by its fan-in
            mine, other = (
                a["net.0.weight"][0, :, i * 5 + k] * 10**0.5,
                b["net.0.weight"][0, :, i * 9 + 2 * k] * 27**0.5,
            )
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert a["net.2.weight"].equal(b["net.2.weight"])
    torch.testing.assert_close(
        a["net.4.weight"][0, [0, 1, 2]], b["net.4.weight"][0, [0, 1, 3]], rtol=1e-4, atol=1e-4
    )
    assert not any(t.any() for name, t in a.items() if name.endswith("bias"))


def test_neighbouring_positions_have_similar_weights():
    """Smooth: at a hundred positions two neighbours are alike, and far ones are not."""
    structure = grid(1, 100, width=32, reward="cosine")
    first = structure.layout.unflatten(smooth_basis(structure.layout, SIZE))["net.0.weight"]
    scale = first.std()
    assert (first[..., 1:] - first[..., :-1]).std() < 0.1 * scale
    assert (first[..., 50:] - first[..., :50]).std() > 0.5 * scale


@pytest.mark.parametrize(("narrow", "wide"), [(1, 2), (5, 7), (16, 64)])
def test_a_narrow_layer_is_the_first_part_of_a_wide_one_up_to_the_scale_of_its_inputs(narrow, wide):
    a, b = (
        s.layout.unflatten(smooth_basis(s.layout, SIZE))
        for s in (grid(3, 5, width=narrow), grid(3, 5, width=wide))
    )
    scale = math.sqrt(wide / narrow)
    torch.testing.assert_close(a["net.0.weight"], b["net.0.weight"][:, :narrow], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        a["net.2.weight"], scale * b["net.2.weight"][:, :narrow, :narrow], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        a["net.4.weight"], scale * b["net.4.weight"][:, :, :narrow], rtol=1e-4, atol=1e-5
    )


def test_a_smaller_family_is_the_first_part_of_a_larger_one():
    layout = grid(3, 5).layout
    large = smooth_basis(layout, 16)
    assert large.shape == (17, layout.size)
    for size in (0, 1, 4):
        torch.testing.assert_close(smooth_basis(layout, size), large[: 1 + size], rtol=1e-5, atol=1e-7)
    # no variation is another one, or the base
    assert large.corrcoef().fill_diagonal_(0).abs().max() < 0.5


def test_the_family_is_the_same_at_every_process():
    """Generators on disk hold what is learned beside the family, so these numbers must not change."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        basis = grid(2, 4, width=3).layout.unflatten(smooth_basis(grid(2, 4, width=3).layout, 2))
        assert torch.initial_seed() == seed and torch.rand(1).equal(
            torch.rand(1, generator=torch.Generator().manual_seed(seed))
        )
        found.append(
            torch.cat(
                [
                    basis[name].flatten(1)[:, :2].flatten()
                    for name in ("net.0.weight", "net.2.weight", "net.4.weight")
                ]
            )
        )
    assert found[0].equal(found[1])
    first = [0.07520, 0.05079, 0.05008, 0.19261, 0.16514, -0.07815]
    second = [-0.02206, 0.30204, 0.20935, -0.07428, 0.30151, -0.29386]
    third = [0.32044, 0.06145, -0.77439, -0.27133, 0.22554, -0.28423]
    torch.testing.assert_close(found[0], torch.tensor([*first, *second, *third]), rtol=1e-3, atol=1e-4)


def test_weights_have_the_scale_of_torchs_own_initialisation():
    structure = grid(4, 12, width=96)
    basis, own = smooth_basis(structure.layout, 16), Population.initialised(structure, 4, 0).state_dict()
    for name, tensor in structure.layout.unflatten(basis).items():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            assert float(tensor.square().mean().sqrt()) == pytest.approx(float(own[name].std()), rel=0.2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_divides_the_variance_between_base_and_style(share):
    layout = grid(3, 8, width=32).layout
    basis = smooth_basis(layout, SIZE)
    styles = torch.randn(4000, SIZE, generator=torch.Generator().manual_seed(0))
    members = smooth_members(basis, styles, share)
    power = float(basis.square().mean())
    assert float(members.mean(0).square().mean()) == pytest.approx(
        (1 - share) * power, rel=0.15, abs=0.01 * power
    )
    assert float(members.var(0).mean()) == pytest.approx(share * power, rel=0.15)


def test_a_member_is_linear_in_its_style():
    basis = smooth_basis(grid(2, 5).layout, SIZE)
    a, b = torch.randn(2, 1, SIZE, generator=torch.Generator().manual_seed(0))
    base = smooth_members(basis, torch.zeros(1, SIZE), 0.4)
    change = [smooth_members(basis, style, 0.4) - base for style in (a, b, 2 * a - 3 * b)]
    torch.testing.assert_close(change[2], 2 * change[0] - 3 * change[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(base[0], math.sqrt(0.6) * basis[0])
    # each number of a style moves the weights along its own direction only
    unit = smooth_members(basis, torch.eye(SIZE), 0.4) - base
    torch.testing.assert_close(unit, math.sqrt(0.4 / SIZE) * basis[1:], rtol=1e-4, atol=1e-6)


def test_without_a_share_the_style_does_not_matter():
    basis = smooth_basis(grid(2, 5).layout, SIZE)
    members = smooth_members(basis, torch.randn(3, SIZE), 0.0)
    torch.testing.assert_close(members, basis[:1].expand(3, -1))


def test_styled_members_differ_by_a_style_each():
    structure = grid(2, 6, width=16)
    basis = smooth_basis(structure.layout, SIZE)
    members = start(structure, 5, 3, "style", 0.0)
    difference = members[1:] - members[0]
    # along the variations and along nothing else, not even the base
    fitted = torch.linalg.lstsq(basis.T, difference.T)
    torch.testing.assert_close(basis.T @ fitted.solution, difference.T, rtol=0, atol=1e-5)
    assert fitted.solution[0].abs().max() < 1e-4
    assert (fitted.solution[1:].norm(dim=0) > 0.1).all()
    # the same members mean the same styles elsewhere
    other = grid(3, 9, width=8)
    again = torch.linalg.lstsq(
        smooth_basis(other.layout, SIZE).T,
        (start(other, 5, 3, "style", 0.0)[1:] - start(other, 5, 3, "style", 0.0)[0]).T,
    )
    torch.testing.assert_close(again.solution, fitted.solution, rtol=1e-2, atol=1e-3)


def test_styles_come_from_the_seed_and_noise_is_added_for_each_member():
    structure = grid(2, 5, width=64)
    first = start(structure, 3, 0, "style", 0.0)
    assert first.equal(start(structure, 3, 0, "style", 0.0))
    assert not first.equal(start(structure, 3, 1, "style", 0.0))
    # one product of 17 matrices and one of a single matrix may round differently
    torch.testing.assert_close(
        start(structure, 3, 0, "style", 0.0, style_variance=0.0),
        start(structure, 3, 0, "shared", 0.0),
        rtol=0,
        atol=1e-6,
    )
    check_noise(structure, start(structure, 3, 0, "style", 0.1) - first)
