"""Divergences against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from genflow.divergences import js, kl, mean_l1, total_variation

P = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
Q = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
A = torch.tensor([1.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("divergence", [kl, js, mean_l1, total_variation])
def test_equal_distributions_have_no_divergence(divergence):
    assert divergence(P, P).item() == 0


def test_closed_forms_of_two_distributions():
    assert kl(P, Q).item() == pytest.approx(0.5 * math.log(2))
    to_p = 0.5 * math.log(4 / 3)
    to_q = 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert js(P, Q).item() == pytest.approx((to_p + to_q) / 2)
    assert mean_l1(P, Q).item() == pytest.approx(0.5 / 3)
    assert total_variation(P, Q).item() == pytest.approx(0.25)


def test_kl_is_infinite_where_only_p_is_positive():
    assert kl(Q, P).item() == math.inf


def test_disjoint_distributions_reach_the_bounds():
    assert js(A, A.flip(0)).item() == pytest.approx(math.log(2))
    assert total_variation(A, A.flip(0)).item() == 1


@pytest.mark.parametrize("divergence", [js, mean_l1, total_variation])
def test_symmetric_ones_do_not_depend_on_the_order(divergence):
    assert divergence(P, Q).item() == pytest.approx(divergence(Q, P).item())


@pytest.mark.parametrize("divergence", [kl, js, mean_l1, total_variation])
def test_one_target_is_compared_with_each_policy(divergence):
    values = divergence(P, torch.stack([P, Q]))
    assert values.shape == (2,)
    assert values.tolist() == [divergence(P, P).item(), divergence(P, Q).item()]
