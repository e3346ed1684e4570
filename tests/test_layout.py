"""`WeightLayout`: flattening is lossless and in a fixed order."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from oracles import Lookup, grid
from torch import nn

from genflow import GenflowError, UnitDescriptions, WeightLayout, tensor_difference

RANDOM = random.Random(7)
SIZES = [(RANDOM.randint(1, 6), RANDOM.randint(2, 12), RANDOM.randint(1, 20)) for _ in range(12)]


@pytest.mark.parametrize(("ndim", "height", "width"), SIZES)
def test_flatten_and_unflatten_are_inverse(ndim, height, width):
    layout = grid(ndim, height, width=width).layout
    rng = torch.Generator().manual_seed(ndim * height * width)
    members = int(torch.randint(1, 6, (), generator=rng))
    weights = torch.randn(members, layout.size, generator=rng)
    tensors = layout.unflatten(weights)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        name: (members, *shape) for name, shape in layout.shapes.items()
    }
    assert layout.flatten(tensors).equal(weights)
    again = layout.unflatten(layout.flatten(tensors))
    assert all(again[name].equal(tensor) for name, tensor in tensors.items())
    # the order of the mapping that is handed over does not matter
    assert layout.flatten(dict(reversed(tensors.items()))).equal(weights)


@pytest.mark.parametrize(("ndim", "height", "width"), SIZES[:4])
def test_layout_is_that_of_the_networks_state_dict(ndim, height, width):
    structure = grid(ndim, height, width=width)
    layout, module = structure.layout, structure.module()
    state = module.state_dict()
    assert list(layout.shapes) == list(state)
    assert {name: tuple(t.shape) for name, t in state.items()} == dict(layout.shapes)
    assert layout.size == sum(p.numel() for p in module.parameters())
    flat = layout.flatten({name: t[None] for name, t in state.items()})[0]
    assert flat.equal(nn.utils.parameters_to_vector(module.parameters()))


def test_slices_tile_the_flat_vector():
    layout = grid(3, 4).layout
    places = list(layout.slices().values())
    assert places[0].start == 0
    assert places[-1].stop == layout.size
    assert all(a.stop == b.start for a, b in itertools.pairwise(places))
    weights = torch.arange(2.0 * layout.size).reshape(2, -1)
    for name, place in layout.slices().items():
        assert layout.unflatten(weights)[name].reshape(2, -1).equal(weights[:, place])


def test_unflatten_is_a_view_so_gradients_flow():
    layout = grid(2, 3).layout
    weights = torch.zeros(2, layout.size, requires_grad=True)
    layout.unflatten(weights)["net.2.bias"].sum().backward()
    touched = torch.zeros(layout.size)
    touched[layout.slices()["net.2.bias"]] = 1
    assert weights.grad.equal(touched.expand(2, -1))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (0,), (2, 1, 1)])
def test_weights_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected weights of shape"):
        grid(2, 3).layout.unflatten(torch.zeros(shape))


def test_axis_labels_match_the_parameters_and_their_meaning():
    structure = grid(3, 5, width=7)
    layout = structure.layout
    sizes = {"input": 15, "hidden1": 7, "hidden2": 7, "action": 4}
    for name, shape in layout.shapes.items():
        assert shape == tuple(sizes[label] for label in layout.axes[name])
    units = structure.environment.units()
    for label, own in (("input", units.inputs), ("action", units.actions)):
        assert layout.units[label].coordinates.equal(own.coordinates)
        assert layout.units[label].amounts.equal(own.amounts)
        assert layout.units[label].categories["dimension"].equal(own.categories["dimension"])


def test_labels_that_do_not_fit_are_refused():
    module = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="axis labels"):
        WeightLayout.of(module, {"weight": ("action", "input")}, {})
    with pytest.raises(ValueError, match="axis labels"):
        WeightLayout.of(module, {"weight": ("action", "input"), "bias": ("action", "input")}, {})
    axes = {"weight": ("action", "input"), "bias": ("action",)}
    with pytest.raises(ValueError, match="4 descriptions for the 3 units of axis 'input'"):
        WeightLayout.of(module, axes, {"input": UnitDescriptions(torch.zeros(4, 1))})
    late = UnitDescriptions(lambda: torch.zeros(4, 1), coordinates=torch.zeros(3, 1))
    layout = WeightLayout.of(module, axes, {"input": late})
    with pytest.raises(GenflowError, match="4 rows of amounts for 3 units"):
        layout.units["input"].amounts  # noqa: B018


def test_units_without_coordinates_lie_where_amounts_and_categories_say():
    amounts, kinds = torch.rand(3, 2), torch.tensor([4, -1, 0])
    plain = UnitDescriptions(amounts, {"kind": kinds})
    assert len(plain) == 3
    assert plain.coordinates.equal(torch.cat([amounts, kinds[:, None].float()], dim=1))
    told = UnitDescriptions(amounts, {"kind": kinds}, coordinates=torch.ones(3, 5))
    assert told.amounts.equal(amounts) and told.coordinates.equal(torch.ones(3, 5))
    assert told.amounts.dtype == UnitDescriptions(amounts.double()).amounts.dtype == torch.float32


def test_costly_amounts_are_made_when_they_are_first_read_and_only_once():
    made = []

    def amounts():
        made.append(1)
        return torch.ones(3, 2)

    units = UnitDescriptions(amounts, coordinates=torch.zeros(3, 1))
    assert len(units) == 3 and not made
    assert units.amounts.equal(units.amounts) and made == [1]
    with pytest.raises(GenflowError, match="need coordinates"):
        UnitDescriptions(amounts)


@pytest.mark.parametrize(
    ("describe", "says"),
    [
        (lambda: UnitDescriptions(torch.ones(3)), "amounts of units must be a table with a row a unit"),
        (lambda: UnitDescriptions(torch.full((3, 1), torch.nan)), "finite, and column 0 of unit 0 is nan"),
        (lambda: UnitDescriptions(torch.ones(3, 1), coordinates=torch.ones(3)), "coordinates of units"),
        (lambda: UnitDescriptions(torch.ones(3, 1), coordinates=torch.ones(4, 1)), "3 rows of amounts for 4"),
        (lambda: UnitDescriptions(torch.ones(3, 1), {"kind": torch.zeros(3)}), "category 'kind'.*int64"),
        (lambda: UnitDescriptions(torch.ones(3, 1), {"kind": torch.zeros(4).long()}), "category 'kind'"),
        (lambda: UnitDescriptions(torch.ones(3, 1), {"kind": torch.zeros(3, 1).long()}), "category 'kind'"),
        (lambda: UnitDescriptions(torch.ones(3, 1), {"kind": torch.tensor(3)}), "category 'kind'"),
    ],
)
def test_descriptions_of_another_shape_or_type_are_refused(describe, says):
    with pytest.raises(GenflowError, match=says) as caught:
        describe()
    assert "\n" not in str(caught.value)


def test_a_layout_with_other_amounts_keeps_its_shapes_and_the_places_of_its_units():
    layout = grid(2, 5).layout
    amounts = {label: torch.rand(units.amounts.shape) for label, units in layout.units.items()}
    other = layout.with_amounts(amounts)
    assert other.shapes == layout.shapes and other.axes == layout.axes
    for label, units in other.units.items():
        assert units.amounts.equal(amounts[label]) and not units.amounts.equal(layout.units[label].amounts)
        # the very same, by which tables are kept
        assert units.coordinates is layout.units[label].coordinates
    with pytest.raises(GenflowError, match="rows of amounts"):
        layout.with_amounts({label: each[:1] for label, each in amounts.items()})


def test_what_is_told_about_the_units_does_not_make_it_another_layout():
    module, axes = nn.Linear(3, 2), {"weight": ("action", "input"), "bias": ("action",)}
    plain = {"input": UnitDescriptions(torch.rand(3, 2)), "action": UnitDescriptions(torch.rand(2, 4))}
    told = {**plain, "input": UnitDescriptions(torch.rand(3, 7))}
    assert WeightLayout.of(module, axes, told) == WeightLayout.of(module, axes, plain)


def test_building_a_layout_draws_no_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Lookup().layout(grid(2, 3).environment)
    grid(2, 29, width=3).layout  # noqa: B018
    assert torch.rand(3).equal(expected)


class Normed(nn.Module):
    """A layer that multiplies by gains."""

    def __init__(self):
        super().__init__()
        self.norm, self.end = nn.LayerNorm(3), nn.Linear(3, 2)


NORMED = {
    "norm.weight": ("hidden",), "norm.bias": ("hidden",), "end.weight": ("action", "hidden"),
    "end.bias": ("action",),
}  # fmt: skip


def test_weights_of_normalisations_are_gains():
    assert WeightLayout.of(Normed(), NORMED, {}).gains == {"norm.weight"}
    assert WeightLayout.of(nn.LayerNorm(3), {"weight": ("h",), "bias": ("h",)}, {}).gains == {"weight"}
    assert not grid(2, 3).layout.gains


@pytest.mark.parametrize("roles", [{"other": ("end", 0)}, {"norm.weight": ("a", 0), "norm.bias": ("a", 0)}])
def test_roles_are_of_parameters_and_of_one_each(roles):
    with pytest.raises(ValueError, match="roles"):
        WeightLayout.of(Normed(), NORMED, {}, roles)
    own = {"norm.weight": ("a", 0), "norm.bias": ("a", 1)}
    assert WeightLayout.of(Normed(), NORMED, {}, own).roles == own


def test_tensors_that_differ_are_named():
    shapes = {"a": (2, 3), "b": (3,), "c": (1,)}
    assert tensor_difference(shapes, dict(reversed(shapes.items()))) == ""
    found = {"a": (2, 4), "d": (1,), "c": (1,)}
    assert tensor_difference(shapes, found) == "without b; with d; a (2, 4) instead of (2, 3)"
    many = {f"net.{n}.weight": (n,) for n in range(0, 40, 2)}
    said = tensor_difference({}, many)
    assert said == "with " + ", ".join(list(many)[:6]) + ", ..."


def test_some_units_are_described_when_they_are_read():
    calls = []

    def amounts():
        calls.append(torch.zeros(1).device.type)
        return torch.arange(6.0).reshape(3, 2)

    units = UnitDescriptions(amounts, {"kind": torch.tensor([4, 5, 6])}, torch.eye(3))
    last = units[-1:]
    assert len(last) == 1 and last.categories["kind"].tolist() == [6] and not calls
    with torch.device("meta"):  # as where a network is built for its shapes
        assert last.amounts.tolist() == [[4.0, 5.0]]
    assert calls == ["cpu"]
