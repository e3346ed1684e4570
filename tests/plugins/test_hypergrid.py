"""The hypergrid against torchgfn's own, and its reward against exact fractions."""

from __future__ import annotations

import math

import pytest
import torch
from genflow_hypergrid.solution import GridSolution
from gfn.gym import HyperGrid
from gfn.gym.hypergrid import get_reward_presets
from oracles import by_torchgfn, cells, grid, lively, reward

from genflow import ExactSolution, GenflowError, Structure, Transitions

#: heights at which torchgfn's float32 puts a position with |x/(H-1) - 0.5| = 0.4 exactly into the open band
#: (0.3, 0.4)
INEXACT = (11, 21, 31, 41, 51, 61)
#: the paper's table of structures: name -> (s, h, n, d)
PAPER = {
    "A": (64, 16, 4, 8), "B": (36, 6, 6, 6), "C": (25, 5, 5, 5), "D": (36, 9, 4, 6),
    "A*": (9, 3, 3, 3), "B*": (16, 4, 4, 4), "C*": (36, 12, 3, 6), "D*": (49, 7, 7, 7),
    "E*": (4, 2, 2, 2), "F*": (16, 8, 2, 4), "G*": (81, 27, 3, 9), "H*": (100, 25, 4, 10),
}  # fmt: skip


#: fields of torchgfn's rewards; the others have R0 alone
FREE = {"cosine": {"R0": 0.2, "R1": 0.7}, "deceptive": {"R0": 0.2, "R1": 0.7, "R2": 3.0}, "sparse": {}}


def rewards(structure: Structure) -> torch.Tensor:
    """(S,) in row-major order."""
    return structure.transitions().log_reward(structure.solution.graph.states).exp()


def torchgfn_rewards(ndim: int, height: int, name: str, kwargs: dict) -> torch.Tensor:
    env = HyperGrid(
        ndim=ndim, height=height, reward_fn_str=name, reward_fn_kwargs=kwargs, validate_modes=False
    )
    return env.reward(env.States(torch.tensor(cells(ndim, height)))).double()


@pytest.mark.parametrize("height", range(2, 65))
def test_reward_is_exact_at_every_height_and_equals_torchgfns_but_for_its_rounding(height):
    found = rewards(grid(2, height))
    expected = torch.tensor(
        [reward(cell, height, height - 1) for cell in cells(2, height)], dtype=torch.float64
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    square = found.reshape(height, height)
    assert square.equal(square.flip(0)), "not symmetric under x -> H-1-x"
    assert square.equal(square.T)

    theirs = torchgfn_rewards(2, height, "original", {"R0": 0.1, "R1": 0.5, "R2": 2.0})
    differs = {
        cell for cell, wrong in zip(cells(2, height), (found - theirs).abs() > 1e-5, strict=True) if wrong
    }
    if height not in INEXACT:
        assert not differs
        return
    # one of the two boundary positions counts as in the band: every cell that has it, with band positions
    # beside it, gets R2
    edge = 9 * (height - 1) // 10
    band = {k for k in range(height) if 3 * (height - 1) < abs(10 * k - 5 * (height - 1)) < 4 * (height - 1)}
    assert differs == {(i, j) for i, j in cells(2, height) if edge in (i, j) and {i, j} <= band | {edge}}
    for cell in differs:
        index = cell[0] * height + cell[1]
        assert float(found[index]) == pytest.approx(0.6)
        assert float(theirs[index]) == pytest.approx(2.6)


@pytest.mark.parametrize(("ndim", "height"), [(1, 16), (3, 8), (4, 6), (5, 4)])
def test_reward_equals_torchgfns_in_other_dimensions(ndim, height):
    theirs = torchgfn_rewards(ndim, height, "original", {"R0": 0.1, "R1": 0.5, "R2": 2.0})
    torch.testing.assert_close(rewards(grid(ndim, height)), theirs, rtol=1e-6, atol=0)


def test_r2_is_never_paid_at_heights_2_to_6_and_11_and_at_all_others():
    unpaid = {height for height in range(2, 65) if float(rewards(grid(1, height)).max()) < 2}
    assert unpaid == {2, 3, 4, 5, 6, 11}


@pytest.mark.parametrize("height", [2, 5, 6, 7, 8, 10, 16, 20, 27])
def test_the_papers_reward_divides_by_h(height):
    found = rewards(grid(2, height, reward="paper"))
    expected = torch.tensor([reward(cell, height, height) for cell in cells(2, height)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_two_forms_reward_other_cells():
    assert not rewards(grid(2, 16)).equal(rewards(grid(2, 16, reward="paper")))
    # |k/16 - 0.5| lies in (0.3, 0.4) for k = 2, 3, 13 and 14, but |k/15 - 0.5| for k = 2 and 13 only
    for form, band in {"original": [2, 13], "paper": [2, 3, 13, 14]}.items():
        assert (rewards(grid(1, 16, reward=form)) > 2).nonzero().flatten().tolist() == band


@pytest.mark.parametrize("height", [6, 9, 16, 21])
@pytest.mark.parametrize("form", ["original", "paper"])
def test_r0_r1_r2_and_the_bands_are_free(height, form):
    fields = {"R0": 0.003, "R1": 1.25, "R2": 7.0, "outer": 0.1, "band": (0.15, 0.45)}
    divisor = height if form == "paper" else height - 1
    expected = [
        reward(c, height, divisor, 0.003, 1.25, 7.0, "0.1", ("0.15", "0.45")) for c in cells(2, height)
    ]
    assert len(set(expected)) == 3
    found = rewards(grid(2, height, reward=form, **fields))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "ndim", "height"),
    [
        *(
            (name, *size)
            for name in ("cosine", "deceptive", "sparse", "bitwise_xor", "multiplicative_coprime")
            for size in ((2, 8), (3, 8))
        ),
        ("conditional_multiscale", 2, 16),
        ("conditional_multiscale", 1, 64),
    ],
)
def test_torchgfns_other_rewards_are_its_own(name, ndim, height):
    kwargs = FREE.get(name)
    if kwargs is None:
        kwargs = {**get_reward_presets(name, ndim, height)["easy"], "R0": 0.2}
    theirs = torchgfn_rewards(ndim, height, name, kwargs)
    assert len(theirs.unique()) > 1
    structure = grid(ndim, height, reward=name, **FREE.get(name, {"R0": 0.2}))
    torch.testing.assert_close(rewards(structure), theirs, rtol=1e-5, atol=1e-12)
    env, _ = structure.environment.make()
    torch.testing.assert_close(
        env.reward(env.States(torch.tensor(cells(ndim, height)))).double(), theirs, rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("form", ["original", "paper"])
def test_the_torchgfn_environment_pays_the_same_reward(form):
    structure = grid(2, 21, reward=form)
    env, _ = structure.environment.make()
    states = env.States(torch.tensor(cells(2, 21)))
    torch.testing.assert_close(env.reward(states).double(), rewards(structure), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        env.log_reward(states).double(), rewards(structure).log(), rtol=1e-6, atol=1e-7
    )
    assert env.reward(states).dtype == torch.float32
    # torchgfn hands (T, B) batches of states over as well
    assert env.log_reward(env.States(torch.zeros(5, 3, 2, dtype=torch.long))).shape == (5, 3)


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_papers_structures(name):
    s, h, n, d = PAPER[name]
    ours, papers = Structure.parse("hypergrid", name), Structure.parse("hypergrid", f"{name}:paper")
    assert papers.condition()[[0, 1, 2, -1]].tolist() == [s, h, n, d]
    assert ours.condition()[:3].tolist() == [s, h, n]
    assert s == h * n
    assert d * d == s
    assert ours.fields()["width"] > d
    assert {k: v for k, v in ours.fields().items() if k != "width"} == {
        k: v for k, v in papers.fields().items() if k != "width"
    }
    assert papers.layout.shapes["net.0.weight"] == (d, s)
    assert papers.layout.shapes["net.4.weight"] == (n + 1, d)
    assert ours.solution.n_states == h**n


def test_presets_are_these_and_no_others():
    assert set(Structure.parse("hypergrid", "A").environment.presets) == {
        f"{name}{form}" for name in PAPER for form in ("", ":paper")
    }


@pytest.mark.parametrize("fields", [{}, {"reward": "paper"}, {"outer": 0.1, "band": (0.15, 0.45)}], ids=str)
@pytest.mark.parametrize(("ndim", "height"), [(1, 2), (3, 8), (2, 21)])
def test_input_unit_i_h_k_means_dimension_i_position_k(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    coordinates = structure.layout.units["input"].coordinates
    assert coordinates.shape == (ndim * height, 4)
    divisor = height if fields.get("reward") == "paper" else height - 1
    bounds = {
        "outer": str(fields.get("outer", 0.25)),
        "band": tuple(map(str, fields.get("band", (0.3, 0.4)))),
    }
    for i in range(ndim):
        for k in range(height):
            dimension, position, outer, band = coordinates[i * height + k].tolist()
            assert dimension == i
            assert position == pytest.approx(k / (height - 1))
            assert outer == reward((k,), height, divisor, r0=0, r1=1, r2=0, **bounds)
            assert band == reward((k,), height, divisor, r0=0, r1=0, r2=1, **bounds)

    states = torch.randint(height, (20, ndim), generator=torch.Generator().manual_seed(1))
    inputs = structure.transitions().inputs(states)
    assert inputs.dtype == torch.float32
    for x, cell in zip(inputs, states.tolist(), strict=True):
        assert x.nonzero().flatten().tolist() == [i * height + k for i, k in enumerate(cell)]
        assert x.max() == 1
    env, preprocessor = structure.environment.make()
    assert inputs.equal(preprocessor(env.States(states)).float())


def test_torchgfns_own_rewards_have_no_indicators():
    coordinates = grid(2, 8, reward="cosine").layout.units["input"].coordinates
    assert coordinates[:, 2:].abs().sum() == 0


def test_action_i_increments_dimension_i_and_the_last_is_exit():
    structure = grid(3, 4)
    assert structure.layout.units["action"].coordinates.tolist() == [[0, 0], [1, 0], [2, 0], [-1, 1]]
    env, _ = structure.environment.make()
    assert env.n_actions == 4
    start = torch.tensor([[1, 0, 3]] * 2)
    moved = env.step(env.States(start), env.actions_from_tensor(torch.tensor([[0], [1]]))).tensor
    assert moved.tolist() == [[2, 0, 3], [1, 1, 3]]
    assert env.States(start[:1]).forward_masks.tolist() == [[True, True, False, True]]


def random_states(ndim, height, leading):
    return torch.randint(height, (*leading, ndim), generator=torch.Generator().manual_seed(5))


LEADING = [(), (7,), (3, 5)]
SHAPES = [(1, 2), (1, 7), (3, 4), (5, 3)]


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize(("ndim", "height"), SHAPES)
def test_states_are_what_torchgfn_says(ndim, height, leading):
    structure = grid(ndim, height)
    own, plain = structure.transitions(), by_torchgfn(structure).transitions()
    assert type(plain) is Transitions
    states = random_states(ndim, height, leading)
    masks, parents = own.forward_masks(states), own.n_parents(states)
    assert (masks.shape, parents.shape) == ((*leading, ndim + 1), leading)
    assert masks.equal(plain.forward_masks(states))
    assert parents.equal(plain.n_parents(states))
    start = own.initial_state
    assert start.equal(plain.initial_state)
    assert start.dtype == plain.initial_state.dtype
    assert own.n_actions == plain.n_actions == ndim + 1


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize(("ndim", "height"), SHAPES)
def test_steps_are_torchgfns_and_exit_leaves_a_state_where_it_is(ndim, height, leading):
    structure = grid(ndim, height)
    states = random_states(ndim, height, leading)
    before = states.clone()
    allowed = structure.transitions().forward_masks(states).reshape(-1, ndim + 1).float()
    drawn = [torch.multinomial(allowed, 1).reshape(leading) for _ in range(4)]
    for transitions in (structure.transitions(), by_torchgfn(structure).transitions()):
        for actions in (*drawn, torch.full(leading, ndim)):
            moved = transitions.step(states, actions)
            assert moved.shape == states.shape
            for cell, action, after in zip(
                states.reshape(-1, ndim).tolist(),
                actions.reshape(-1).tolist(),
                moved.reshape(-1, ndim).tolist(),
                strict=True,
            ):
                assert after == [k + (i == action) for i, k in enumerate(cell)]
            assert states.equal(before), "the states that are stepped from are still read"


@pytest.mark.parametrize(("ndim", "height"), [*SHAPES, (3, 9)])
def test_states_are_numbered_in_the_order_of_the_graph(ndim, height):
    structure = grid(ndim, height)
    assert (
        structure.transitions().state_ids(structure.solution.graph.states).equal(torch.arange(height**ndim))
    )
    for leading in LEADING:
        states = random_states(ndim, height, leading)
        assert structure.solution.graph.states[structure.transitions().state_ids(states)].equal(states)


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize(("ndim", "height"), SHAPES)
def test_one_hot_indices_are_the_ones_of_torchgfns_preprocessor(ndim, height, leading):
    structure = grid(ndim, height)
    env, preprocessor = structure.environment.make()
    states = random_states(ndim, height, leading)
    active = structure.transitions().one_hot_indices(states)
    assert (active.shape, active.dtype) == ((*leading, ndim), torch.int64)
    for cell, places in zip(states.reshape(-1, ndim), active.reshape(-1, ndim).tolist(), strict=True):
        assert preprocessor(env.States(cell[None]))[0].nonzero().flatten().tolist() == sorted(places)


@pytest.mark.parametrize(
    ("ndim", "height", "fits"),
    [(62, 2, True), (63, 2, False), (64, 1024, False), (20, 8, True), (21, 8, False)],
)
def test_states_are_numbered_where_the_numbers_fit_64_bits(ndim, height, fits):
    structure = grid(ndim, height)
    cells = [[0] * ndim, [0] * (ndim - 1) + [1], [1] + [0] * (ndim - 1), [height - 1] * ndim]
    numbers = structure.transitions().state_ids(torch.tensor(cells))
    if fits:
        assert numbers.tolist() == [
            sum(k * height**i for i, k in enumerate(reversed(cell))) for cell in cells
        ]
    else:
        assert numbers is None
    # far from the start, and with random steps, so that trajectories differ
    rollouts = lively(structure, 2).rollouts(20, epsilon=0.5)
    assert (rollouts.states.shape[1] < rollouts.valid.shape[1]) or not fits
    for m in range(2):
        ends = torch.zeros(20, ndim, dtype=torch.long)
        for k in rollouts.valid[m].nonzero().flatten().tolist():
            trajectory, action = int(rollouts.places[m, k]) // rollouts.length, int(rollouts.actions[m, k])
            assert rollouts.rows(rollouts.states)[m, k].equal(ends[trajectory])
            if action < ndim:
                ends[trajectory, action] += 1
        assert rollouts.final[m].equal(ends)
        assert (ends < height).all()


def described(k: int, outer: list[float], band: list[float]) -> list[float]:
    """What is told about position k of a dimension, one number after the other, from lists of what each
    position pays.
    """
    h = len(outer)
    u = k / (h - 1)
    numbers = [u, *(math.cos(math.pi * m * u) for m in range(1, 9))]
    for distance in (k, h - 1 - k):
        numbers += [distance / 16, math.log1p(distance) / 4, 1 / (1 + distance), math.exp(-distance / 2)]
    for j in range(k - 4, k + 5):
        numbers += [1.0, outer[j], band[j]] if 0 <= j < h else [0.0, 0.0, 0.0]
    for pays in (outer, band):
        ahead = [j for j in range(k, h) if pays[j]]
        wait = ahead[0] - k if ahead else h
        run = next((j for j in range(k, h) if not pays[j]), h) - k
        numbers += [not ahead, len(ahead) / h, math.log1p(len(ahead)) / 3, wait / h]
        numbers += [math.log1p(wait) / 3, math.exp(-wait / 2)] if ahead else [0.0, 0.0]
        numbers += [run / h, math.log1p(run) / 3, math.exp(-run / 2) if run else 0.0]
    return numbers


REGIONS = [
    {},
    {"reward": "paper"},
    {"outer": 0.1, "band": (0.15, 0.45)},
    {"outer": 0.5, "band": (0.9, 1.0)},
    {"outer": 0.0, "band": (0.0, 1.0)},
]


@pytest.mark.parametrize("fields", REGIONS, ids=str)
@pytest.mark.parametrize("height", [2, 3, 7, 8, 16, 33])
def test_features_tell_where_a_position_is_and_what_pays_around_it(height, fields):
    divisor = height if fields.get("reward") == "paper" else height - 1
    bounds = {
        "outer": str(fields.get("outer", 0.25)),
        "band": tuple(map(str, fields.get("band", (0.3, 0.4)))),
    }
    outer, band = (
        [reward((k,), height, divisor, 0, a, b, **bounds) for k in range(height)] for a, b in ((1, 0), (0, 1))
    )
    layout = grid(3, height, **fields).layout
    inputs, actions = layout.units["input"], layout.units["action"]
    expected = torch.tensor([described(k, outer, band) for _ in range(3) for k in range(height)])
    torch.testing.assert_close(inputs.amounts, expected, rtol=1e-4, atol=1e-5)
    assert inputs.categories["dimension"].tolist() == [i for i in range(3) for _ in range(height)]
    # exit is no dimension
    assert actions.categories["dimension"].tolist() == [0, 1, 2, -1]
    assert actions.amounts.tolist() == [[0], [0], [0], [1]]
    for units in (inputs, actions):
        assert units.categories.keys() == {"dimension"}
        assert units.coordinates[:, 0].equal(units.categories["dimension"].float())


def test_no_position_is_described_like_another():
    units = grid(2, 100).layout.units["input"]
    table = torch.cat([units.amounts, units.categories["dimension"][:, None]], dim=1)
    assert len(table.unique(dim=0)) == 200


@pytest.mark.parametrize("fields", REGIONS, ids=str)
def test_only_the_dimension_is_a_name_and_every_dimension_is_told_the_same(fields):
    for height in (*range(2, 13), 16, 17, 18, 33, 65, 100):
        for ndim in (1, 2, 3, 5):
            units = grid(ndim, height, **fields).layout.units["input"]
            table = units.amounts
            assert len(table) == ndim * height
            assert torch.isfinite(table).all()
            names = [
                column
                for column, values in enumerate(table.T)
                if values.equal(values.round()) and values.max() > 1
            ]
            assert not names
            assert units.categories.keys() == {"dimension"}
            assert units.categories["dimension"].equal(torch.arange(ndim).repeat_interleave(height))
            # beyond its name every dimension is told the same, in every grid
            assert table.equal(grid(1, height, **fields).layout.units["input"].amounts.repeat(ndim, 1))


def test_torchgfns_own_rewards_are_described_by_coordinates():
    units = grid(2, 8, reward="cosine").layout.units["input"]
    assert units.amounts.equal(units.coordinates[:, 1:])
    assert units.categories["dimension"].equal(units.coordinates[:, 0].long())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"R0": 1e-6},
        {"R1": 0.0},
        {"R2": 0.0},
        {"R1": 0.0, "R2": 0.0},
        {"reward": "paper", "R1": 3.0},
        {"outer": 0.5, "band": (0.9, 1.0)},
        {"outer": 0.0, "band": (0.0, 1.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize(("ndim", "height"), [(1, 2), (2, 9), (3, 11)])
def test_the_closed_form_of_the_partition_function_is_the_sum(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    summed = ExactSolution.log_partition(structure.solution)
    assert structure.solution.log_partition() == pytest.approx(summed, abs=1e-10)


def test_other_rewards_are_summed():
    structure = grid(2, 8, reward="cosine")
    total = structure.transitions().log_reward(torch.tensor(cells(2, 8))).exp().sum()
    assert structure.solution.log_partition() == pytest.approx(math.log(total), abs=1e-9)
    with pytest.raises(GenflowError, match="needs every state"):
        grid(9, 20, reward="sparse").solution.log_partition()


@pytest.mark.parametrize("reward", ["cosine", "deceptive"])
@pytest.mark.parametrize("ndim", [1, 2, 4])
def test_torchgfns_sums_of_products_have_a_closed_form_too(monkeypatch, reward, ndim):
    structure = grid(ndim, 11, reward=reward, R0=0.01, R1=0.7)
    summed = ExactSolution.log_partition(structure.solution)
    monkeypatch.setattr(GridSolution, "enumerable", False)
    assert structure.solution.knows_log_partition
    assert structure.solution.log_partition() == pytest.approx(summed, abs=1e-5)  # torchgfn's are float32


def test_log_z_is_known_where_it_has_a_closed_form_and_no_further():
    known = {
        reward: grid(9, 20, reward=reward).solution.knows_log_partition
        for reward in ("original", "paper", "cosine", "deceptive", "sparse")
    }
    assert known == {"original": True, "paper": True, "cosine": True, "deceptive": True, "sparse": False}
    assert grid(2, 4, reward="sparse").solution.knows_log_partition


@pytest.mark.parametrize(
    "fields",
    [{}, {"R0": 0.003, "R1": 1.0, "R2": 5.0}, {"R1": 0.0}, {"reward": "paper", "outer": 0.3}],
    ids=str,
)
@pytest.mark.parametrize(("ndim", "height"), [(1, 4), (2, 9), (3, 11)])
def test_the_condition_tells_what_the_reward_pays(ndim, height, fields):
    """Every number of the condition by brute force over all cells."""
    divisor = height if fields.get("reward") == "paper" else height - 1
    r0, r1, r2 = (fields.get(key, default) for key, default in (("R0", 0.1), ("R1", 0.5), ("R2", 2.0)))
    outer = str(fields.get("outer", 0.25))

    def paid(a, b, c, n):
        return math.fsum(reward(cell, height, divisor, a, b, c, outer) for cell in cells(n, height))

    total = paid(r0, r1, r2, ndim)
    expected = {"state_dim": ndim * height, "height": height, "ndim": ndim, "R0": r0, "R1": r1, "R2": r2}
    expected |= {"outer": paid(0, 1, 0, 1), "band": paid(0, 0, 1, 1)}
    parts = {"background": (r0, 0, 0), "outer": (0, r1, 0), "band": (0, 0, r2)}
    # a term that pays nothing still has a logarithm
    expected |= {f"{name}_share": max(paid(*amounts, ndim) / total, 1e-6) for name, amounts in parts.items()}
    structure = grid(ndim, height, **fields)
    assert structure.environment.condition() == pytest.approx(expected, rel=1e-9)
    assert list(structure.environment.condition()) == list(expected)
    assert structure.condition().tolist() == pytest.approx([*expected.values(), 8], rel=1e-6)


def test_torchgfns_own_rewards_have_no_regions_in_their_condition():
    own, other = (
        grid(2, 8, reward=reward, R0=0.2).environment.condition() for reward in ("original", "cosine")
    )
    assert list(own) == list(other)  # one length for all, so that a zoo may mix them
    assert list(other.values()) == [16, 8, 2, 0.2, 0.5, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ndim=2,height=8,R0=0", "R0"),
        ("ndim=2,height=8,R0=nan", "R0"),
        ("ndim=2,height=8,R1=-1", "R1"),
        ("ndim=2,height=8,R2=inf", "R2"),
        ("ndim=2,height=8,outer=nan", "outer"),
        ("ndim=2,height=8,outer=0.6", "outer"),
        ("ndim=2,height=8,band=(0.4,0.3)", "band"),
        ("ndim=2,height=8,band=(0.3,)", "band"),
        ("ndim=2,height=8,band=(nan,0.4)", "band"),
        ("ndim=2,height=8,band=0.3", "band"),
        ("ndim=2,height=8,reward=cosinus", "reward"),
        ("ndim=0,height=8", "ndim"),
        ("ndim=2.5,height=8", "ndim"),
        ("ndim=2,height=1", "height"),
        ("height=8", "ndim"),
    ],
)
def test_impossible_grids_are_refused_by_name(text, word):
    with pytest.raises(GenflowError, match=word):
        Structure.parse("hypergrid", text)


@pytest.mark.parametrize("name", ["bitwise_xor", "multiplicative_coprime", "sparse", "cosine", "deceptive"])
@pytest.mark.parametrize(("ndim", "height"), [(1, 2), (1, 5), (2, 3), (3, 5), (4, 7)])
def test_torchgfns_rewards_make_a_target_on_any_grid(name, ndim, height):
    target = grid(ndim, height, reward=name).solution.target()
    assert float(target.sum()) == pytest.approx(1)
    assert torch.isfinite(target).all()


def test_a_reward_that_does_not_fit_the_height_is_refused():
    with pytest.raises(GenflowError, match=r"conditional_multiscale.*power of base=4"):
        grid(2, 8, reward="conditional_multiscale").environment.make()
