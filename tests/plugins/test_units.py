"""What is read of units: categories by the values that training met, amounts where they varied."""

from __future__ import annotations

import pytest
import torch
from genflow_encoders.options import CoordinateOptions
from genflow_encoders.units import Standardise, UnitNet

from genflow import GenflowError


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = UnitNet(2, {"kind": [-1, 2, 5]}, CoordinateOptions(embedding=3, hidden=4, depth=0), 1)
    net.standardise.fit(torch.tensor([[0.0, 0.25], [1.0, 0.25], [3.0, 0.25]]))
    return net


def amounts(*rows):
    return torch.tensor(rows)


def kind(*values):
    return {"kind": torch.tensor(values)}


def test_a_category_is_checked_by_its_values_and_not_by_their_range(net):
    net.check(amounts([0.5, 0.25], [9.0, 0.25]), kind(5, -1), "input")
    for value in (0, 4, 6):
        with pytest.raises(GenflowError, match=f"covers kind -1, 2, 5 of input units, not {value}"):
            net.check(amounts([0.5, 0.25]), kind(value), "input")


def test_each_value_has_an_embedding_of_its_own_wherever_it_stands(net):
    rows = amounts([1.0, 0.25]).repeat(3, 1)
    described = net.describe(rows, *net.places(kind(5, -1, 2)))
    plain = net.first(net.standardise(rows))
    torch.testing.assert_close(described - plain, net.categories[0].weight[[2, 0, 1]])


def test_other_categories_and_another_number_of_amounts_are_refused(net):
    with pytest.raises(GenflowError, match="reads kind categories of input units, the structure has no"):
        net.check(amounts([0.5, 0.25]), {}, "input")
    with pytest.raises(GenflowError, match="reads 2 amounts of input units, the structure has 3"):
        net.check(amounts([0.5, 0.25, 1.0]), kind(2), "input")


def test_an_amount_that_never_varied_in_training_may_not_differ(net):
    with pytest.raises(
        GenflowError, match=r"amount 1 of input units is 0\.5 here and was 0\.25 .*not taken as learned"
    ):
        net.check(amounts([0.5, 0.25], [0.5, 0.5]), kind(2, 2), "input")


def test_an_amount_that_varies_in_a_single_row_is_read():
    sampled = torch.zeros(64, 2)
    all_rows = torch.zeros(1000, 2)
    all_rows[500, 0] = 1.0
    standardise = Standardise(2)
    standardise.fit(sampled, all_rows)
    assert standardise.scale[0] > 0 and standardise.scale[1] == 0
    standardise.check(all_rows, "input")


def test_a_value_adds_a_last_layer_of_its_own_that_the_embedding_scales():
    torch.manual_seed(0)
    options = CoordinateOptions(embedding=3, hidden=4, depth=1, readouts=True)
    net = UnitNet(2, {"kind": [-1, 2, 5]}, options, 2)
    with torch.no_grad():
        net.gate.weight.normal_()
    described, e = torch.randn(5, 4), torch.randn(2, 3)
    owner, place = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([2, 0, 2, 1, 0])
    written = net(described, e, owner, [place])
    for row in range(5):
        x = described[row] + net.embed(e)[owner[row]]
        x = torch.nn.functional.silu(net.blocks[0](x[None], e[owner[row]][None])[0])
        x = x * (1 + net.gate(e[owner[row]]))
        torch.testing.assert_close(written[row], net.last(x) + x @ net.readouts[0][place[row]])
    plain = UnitNet(2, {"kind": [-1, 2, 5]}, CoordinateOptions(embedding=3, hidden=4, depth=1), 2)
    assert not [name for name, _ in plain.named_parameters() if name.startswith(("gate", "readouts"))]
    torch.testing.assert_close(plain(described, e, owner, [place]), plain(described, e, owner))
