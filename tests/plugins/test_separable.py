"""Separable rewards against sums over all cells: totals, samples, expressions, and what is refused."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from genflow_hypergrid.expression import evaluate
from genflow_hypergrid.rehearsals import random_target
from genflow_hypergrid.separable import SeparableTarget, Term
from oracles import chi_square

from genflow import GenflowError, Structure


def own(terms: str, size: str = "ndim=3,height=5", **more) -> Structure:
    """A grid with a separable reward, by its text."""
    return Structure.parse("hypergrid", f'{size},width=8,reward=separable,terms="{terms}"').varied(more)


def cells_of(heights: tuple[int, ...]) -> torch.Tensor:
    """All cells of a grid in row-major order."""
    return torch.tensor(list(itertools.product(*map(range, heights))))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("0.1; 2: u", lambda x: 0.1 + 2 * math.prod(each / 4 for each in x)),
        ("1; exp(-x)", lambda x: 1 + math.exp(-sum(x))),
        ("0.5; 3: [1,0,2,0,1]", lambda x: 0.5 + 3 * math.prod((1, 0, 2, 0, 1)[each] for each in x)),
        ("0.5; 2: u | 1 - u | x == 2", lambda x: 0.5 + 2 * x[0] / 4 * (1 - x[1] / 4) * (x[2] == 2)),
        ("2; -1: u", lambda x: 2 - math.prod(each / 4 for each in x)),
        ("0.1; i + 1", lambda x: 0.1 + 6),
        ("0.1; abs(u - .5) > .3 or x == 2", lambda x: 0.1 + all(each in (0, 2, 4) for each in x)),
    ],
)
def test_a_separable_reward_is_the_sum_of_its_products(text, at):
    structure = own(text)
    graph, solution = structure.solution.graph, structure.solution
    expected = torch.tensor([at(state) for state in graph.states.tolist()], dtype=torch.float64)
    torch.testing.assert_close(solution.log_reward().exp(), expected)
    assert solution.log_partition() == pytest.approx(float(expected.sum().log()), abs=1e-12)
    assert Structure.build("hypergrid", structure.fields()) == structure


def test_terms_of_tables_lists_and_numbers_are_those_of_a_text():
    fields = {"ndim": 2, "height": 4, "width": 8, "reward": "separable"}
    terms = [0.1, {"coefficient": 2, "profiles": ["u", [1, 0, 0, 1]]}]
    assert Structure.build("hypergrid", fields | {"terms": terms}) == own(
        "0.1; 2: u | [1, 0, 0, 1]", "ndim=2,height=4"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1; q: u", "'q' before the colon is no number"),
        ("0.1; uu", "uses 'uu'; did you mean 'u'?"),
        ("0.1; u.real", "has a part that is not understood; there are"),
        ("0.1; u = 3", "is no expression"),
        ("0.1; u - 1", "profile u - 1 is -1 at position 0 of dimension 0; it must be a number of at least 0"),
        ("0.1; 1 / x", "is inf at position 0 of dimension 0"),
        ("0.1; [1,2,3]", "a table of 3 numbers for dimension 0, which has 5 positions"),
        ("0.1; u | u", "a term has 2 profiles for 3 dimensions"),
        ("u - u", "no term of the reward pays anything"),
        ("1; 1; 1; 1; 1", "at most 4 items"),
        ("u", "reward Separable is 0.0 at positions [0, 0, 0]; it must be positive"),
        ("1; -2: u", "the reward is negative at positions [4, 4, 4]: less is to be subtracted"),
        ("0.1; -1: u > -1", "what is subtracted is more than all else"),
        ("0.1; -20: x == 4; 1: u < .3", "the reward is negative at positions [4, 4, 4]"),
        ("0.1;", "an expression is empty"),
        ("0.1; u | | u", "an expression is empty"),
        ("0.1; [1,nan,2,0,0]", "[1,nan,2,0,0] has a number that is not finite"),
        (f"0.1; x ** 1{400 * '0'}", "has a number above 1e+300"),
    ],
)
def test_what_is_no_separable_reward_is_refused_in_one_line(text, message):
    with pytest.raises(GenflowError) as caught:
        own(text).solution.log_reward()
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "().__class__", "[].append(1)", "f'{u}'", "x if u else 0"]
)
def test_an_expression_runs_no_code(text):
    with pytest.raises(GenflowError, match=r"not understood|no expression|uses"):
        evaluate(text, {"u": 0.5, "x": 1.0})


@pytest.mark.parametrize("heights", [(4, 6, 3), (9,), (2, 3, 2, 4)])
def test_random_targets_have_the_totals_of_their_sums(heights):
    rng, cells = torch.Generator().manual_seed(3), cells_of(heights)
    subtracted = 0
    for _ in range(40):
        target = random_target(heights, rng)
        rewards = target.log_reward(cells).exp()
        assert (rewards > 0).all()
        assert float(rewards.sum().log()) == pytest.approx(target.log_z, abs=1e-9)
        assert float((rewards * cells.sum(1)).sum() / rewards.sum()) == pytest.approx(
            target.length - 1, abs=1e-9
        )
        assert float(target.shares.sum()) == pytest.approx(1.0)
        subtracted += bool((target.shares < 0).any())
    assert subtracted, "no reward has a term that is subtracted"


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("coefficients", [(0.3, 2.0, 1.0), (2.0, 1.0, -0.7)])
def test_samples_are_those_of_the_target(coefficients, by_length):
    heights, rng = (4, 3, 5), torch.Generator().manual_seed(0)
    tables = [tuple(torch.rand(h, generator=rng, dtype=torch.float64) for h in heights) for _ in range(2)]
    flat = tuple(torch.ones(h, dtype=torch.float64) for h in heights)
    target = SeparableTarget([Term(c, f) for c, f in zip(coefficients, (flat, *tables), strict=True)])
    cells = cells_of(heights)
    weights = target.log_reward(cells).exp() * ((cells.sum(1) + 1) if by_length else 1)
    drawn = target.draw(20_000, torch.Generator().manual_seed(1), by_length)
    row = (drawn * torch.tensor([15, 5, 1])).sum(1)
    counts = torch.bincount(row, minlength=len(cells))
    assert abs(chi_square(counts, 20_000 * weights / weights.sum())) < 4


def test_a_height_for_each_dimension():
    structure = own("0.1; 2: u | exp(-x) | 1 - u", "height=3+5+2")
    assert structure.fields()["ndim"] == 3 and structure.solution.n_states == 30
    assert structure.name.startswith("ndim=3,height=3+5+2")
    assert own("1", "height=4+4") == own("1", "ndim=2,height=4")
    graph, transitions = structure.solution.graph, structure.transitions()
    assert graph.states.equal(cells_of((3, 5, 2)))
    assert transitions.state_ids(graph.states).equal(torch.arange(30))
    # torchgfn's own states agree about masks, inputs and numbers
    states = transitions.env.States(graph.states)
    assert states.forward_masks.equal(transitions.forward_masks(graph.states))
    assert transitions.env.get_states_indices(states).equal(torch.arange(30))
    assert transitions.preprocessor(states).equal(transitions.inputs(graph.states))
    random = transitions.env.make_random_states((200,)).tensor
    assert (random < torch.tensor([3, 5, 2])).all() and random.amax(0).tolist() == [2, 4, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndim=3,height=4+5", "height has 2 numbers for ndim=3; give one or 3"),
        ("height=4+1", "height.1 must be greater than or equal to 2"),
        ("height=4+5,reward=sparse", "reward=sparse needs one height for all dimensions"),
    ],
)
def test_wrong_heights_are_refused_in_one_line(text, message):
    with pytest.raises(GenflowError) as caught:
        Structure.parse("hypergrid", text).transitions().env  # noqa: B018
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((math.nan, [[1, 1], [1, 1]]), "the coefficient of term 2 is nan"),
        ((1.0, [[1, math.nan], [1, 1]]), "the profile of term 2 in dimension 0 has a number that is below 0"),
        ((1.0, [[1, 1], [-1, -2]]), "the profile of term 2 in dimension 1 has a number that is below 0"),
        ((1.0, [[1, 1]]), "the profiles of term 2 are not as long as those of term 1"),
        ((1.0, [[1, 1], [1, 1, 1]]), "the profiles of term 2 are not as long as those of term 1"),
    ],
)
def test_terms_of_a_plugin_that_are_no_products_are_refused(second, message):
    def term(coefficient, profiles):
        return Term(coefficient, tuple(torch.tensor(each, dtype=torch.float64) for each in profiles))

    with pytest.raises(GenflowError, match=f"^{re.escape(message)}"):
        SeparableTarget([term(0.1, [[1, 1], [1, 1]]), term(*second)])
    with pytest.raises(GenflowError, match="has no terms"):
        SeparableTarget([])


def test_a_reward_of_more_terms_than_units_tell_is_said_to_be_untold(monkeypatch):
    structure = own("0.1; u; 1 - u", backward="maxent")
    assert structure.environment.untold() is None
    monkeypatch.setattr("genflow_hypergrid.environment.MAX_TOLD", 2)
    assert structure.environment.untold() == "has 3 terms, of which 2 can be told"
