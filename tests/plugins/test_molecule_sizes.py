"""The least number of blocks of a molecule: states, masks and counts against lists of all trees."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from genflow_molecule import scoring
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from oracles import chi_square, lively, uniform_backward
from processes import quickly as command
from processes import refused
from rdkit import Chem
from test_molecule import Node, additions, by_torchgfn, every_tree, fold, structure, unfold

import genflow
from genflow import ExactSolution, Generator, GenflowError, Population, Structure, js
from genflow.measure import figures_of
from genflow.pretrained import shipped
from genflow.training.finetune import transfer


def size(state) -> int:
    return sum(entry > 0 for entry in state[::3])


def children(task: Structure, state: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Every state with one more block, by nested trees."""
    found = set()
    for index in range(len(additions(task, unfold(list(state)) if any(state) else None))):
        root = unfold(list(state)) if any(state) else None
        parent, stem, entry = additions(task, root)[index]
        if parent is None:
            root = Node(entry)
        else:
            parent.children[stem] = Node(entry)
        found.add(tuple(fold(root, len(state) // 3)))
    return found


def states_of(task: Structure) -> dict[tuple[int, ...], set[tuple[int, ...]]]:
    """Every state from which enough blocks are reached, with those that follow it."""
    least, kept = task.environment.config.min_blocks, {}
    for state in sorted(every_tree(task), key=size, reverse=True):
        following = {child for child in children(task, state) if child in kept}
        if following or size(state) >= least:
            kept[state] = following
    return kept


@pytest.mark.parametrize(
    ("blocks", "least", "most"),
    [((0, 1, 2), 3, 4), ((0, 3, 6), 2, 3), ((0, 3, 6), 4, 4), ((2, 29, 37), 3, 4), ((1, 6, 26, 48), 3, 3)],
    ids=str,
)
def test_the_states_are_those_from_which_enough_blocks_are_reached(blocks, least, most):
    task = structure(blocks, most, min_blocks=least)
    expected = states_of(task)
    graph = task.solution.graph
    states = [tuple(state) for state in graph.states.tolist()]
    assert sorted(states) == sorted(expected)
    assert task.solution.n_states == len(expected)
    assert graph.can_exit.tolist() == [size(state) >= least for state in states]
    for state, row in zip(states, graph.children.tolist(), strict=True):
        assert {states[child] for child in row if child >= 0} == expected[state]
    # what a state can have come from are the states that it follows
    parents = Counter(child for following in expected.values() for child in following)
    assert task.transitions().n_parents(graph.states).tolist() == [parents[state] for state in states]
    if len(states) > 1000:
        return  # torchgfn is slow
    plain = ExactSolution(by_torchgfn(task), task.solution.n_states).graph
    assert graph.states.equal(plain.states) and graph.children.equal(plain.children.int())
    assert graph.can_exit.equal(plain.can_exit)


@pytest.mark.parametrize(("blocks", "least", "most"), [((0, 3, 6), 3, 4), (12, 2, 3)])
def test_exit_weighs_as_much_as_the_blocks_where_it_is_first_allowed(blocks, least, most):
    task = structure(blocks, most, min_blocks=least)
    states = [state for state in every_tree(task) if size(state) == least]
    choices = [len(additions(task, unfold(list(state)))) for state in states]
    logits = task.environment.initial_logits()
    assert float(logits[-1]) == pytest.approx(math.log(sum(choices) / len(choices)))
    assert not logits[:-1].any()
    assert not structure(blocks, most, min_blocks=most).environment.initial_logits().any()


def test_policies_end_in_no_smaller_molecule_and_as_torchgfn_has_them():
    task = structure((0, 3, 6, 29), 4, min_blocks=3)
    policy = lively(task, 1, scale=2.0)
    exact = policy.terminal_distribution()
    assert float(exact.sum()) == pytest.approx(1.0)
    place = {tuple(state): i for i, state in enumerate(task.solution.graph.states.tolist())}
    (final,) = policy.rollouts(20_000, 1).final
    ends = [place[tuple(state)] for state in final.tolist()]
    assert chi_square(torch.bincount(torch.tensor(ends), minlength=len(place)), 20_000 * exact[0]) < 4
    assert min(map(size, final.tolist())) == 3
    env, estimator = task.transitions().env, policy.to_estimator()
    trajectories = Sampler(estimator).sample_trajectories(env, n=64, save_logprobs=False)
    assert min(map(size, trajectories.terminating_states.tensor.tolist())) == 3
    loss = TBGFlowNet(estimator, uniform_backward(task)).loss_from_trajectories(
        env, trajectories, recalculate_all_logprobs=True
    )
    assert math.isfinite(loss.item())


def test_the_optimal_policy_ends_in_larger_molecules_alone():
    task = structure(8, 3, min_blocks=3, beta=4.0)
    flows = task.solution.optimal_flows()
    ends = flows.visit * flows.policy[:, -1]
    target = task.solution.target()
    assert float(js(target, ends[None])) < 1e-12
    larger = torch.tensor([size(state) == 3 for state in task.solution.graph.states.tolist()])
    scores = task.gallery.scores(task.solution.graph.states[larger])
    assert target[larger].allclose(scores.pow(4) / scores.pow(4).sum())
    assert not target[~larger].any()


def test_a_molecule_of_fewer_blocks_is_told_as_one():
    every, larger = structure(8, 3), structure(8, 3, min_blocks=3)
    states = every.solution.graph.states[every.solution.graph.can_exit]
    by_name: dict[str, set] = {}
    for name, state in zip(every.gallery.names(states), states.tolist(), strict=True):
        by_name.setdefault(name, set()).add(tuple(state))
    seen = Counter()
    for name, own in itertools.islice(by_name.items(), 0, None, 7):
        wanted = {state for state in own if size(state) >= 3}
        if wanted:
            found, complete = larger.gallery.states_named(name)
            assert complete and set(map(tuple, found.tolist())) == wanted
        else:
            with pytest.raises(GenflowError, match="is a sum of fewer than 3 blocks"):
                larger.gallery.states_named(name)
        seen[bool(wanted)] += 1
    assert min(seen.values()) > 5
    with pytest.raises(GenflowError, match="is one block, and molecules have 3 at least"):
        larger.gallery.states_named("c1ccccc1")


def test_a_saved_structure_without_the_fields_is_the_same_one():
    plain = structure(8, 3)
    assert not {"min_blocks", "exclude"} & plain.fields().keys()
    assert structure(8, 3, min_blocks=2, exclude="none") is plain
    assert plain.name == "blocks=8,max_blocks=3,width=8"
    three = structure(8, 3, min_blocks=3, exclude="unstable")
    assert three.name == "blocks=8,max_blocks=3,min_blocks=3,exclude=unstable,width=8"
    assert Structure.parse("molecule", three.name) is three
    assert Structure.from_json(three.to_json()) is three and three != plain


def test_where_too_few_blocks_can_be_joined_it_is_one_line():
    with pytest.raises(GenflowError, match="no molecule has 3 of these blocks"):  # C#N, CO2Et and CF3
        structure((14, 19, 24), 4, min_blocks=3).transitions()
    structure((14, 19, 24), 4).transitions()
    with pytest.raises(GenflowError, match="min_blocks is 4, above max_blocks, which is 3"):
        structure(8, 3, min_blocks=4)


def test_the_generator_that_ships_makes_policies_for_larger_molecules_alone():
    (folder,) = shipped("molecule")
    generator = Generator.from_pretrained(folder)
    task = structure(8, 3, min_blocks=3, exclude="unstable", width=128)
    starts = (generator.generate(task, 2), Population.initialised(task, 2, 0))
    made, untrained = (figures_of(start)["js"] for start in starts)
    assert made < 0.05 and untrained > 2 * made


def test_only_what_is_paid_may_change_when_policies_are_trained_further():
    population = Population.initialised(structure(8, 3), 1, 0)
    assert transfer(population, structure(8, 3, exclude="unstable")).structure.environment.config.exclude
    with pytest.raises(GenflowError, match="min_blocks 2, not 3"):
        transfer(population, structure(8, 3, min_blocks=3))


# --- molecules that are kept out


def test_molecules_with_an_alert_score_the_least_and_are_not_asked_about():
    import genflow_molecule.unstable as table

    blocks = [1, 4, 6, 7, 12, 17, 21]
    patterns = [Chem.MolFromSmarts(smarts) for smarts in table.UNSTABLE.values()]
    plain = Structure.build("molecule", {"blocks": blocks, "max_blocks": 2})
    states = plain.solution.graph.states[plain.solution.graph.can_exit]
    names, scores = plain.gallery.names(states), plain.gallery.scores(states)
    hit = [any(Chem.MolFromSmiles(name).HasSubstructMatch(p) for p in patterns) for name in names]
    assert 0 < sum(hit) < len(hit)
    without = Structure.build("molecule", {"blocks": blocks, "max_blocks": 2, "exclude": "unstable"})
    found = without.gallery.scores(states)
    assert found.tolist() == [
        scoring.FLOOR if bad else score for bad, score in zip(hit, scores.tolist(), strict=True)
    ]
    modes = without.transitions().is_mode(states)
    assert modes.tolist() == [score >= 0.7 and not bad for bad, score in zip(hit, scores, strict=True)]


def test_what_is_kept_out_costs_no_reward_call(tmp_path):
    from genflow_molecule.exclusion import Excluding

    asked = []

    class Spy(genflow.Reward):
        environment = "molecule"

        def score(self, objects):
            asked.extend(map(Chem.MolToSmiles, objects))
            return [0.5] * len(objects)

    calls = genflow.RewardCalls(tmp_path / "calls.sqlite")
    spied = Excluding(scoring.Scorer(Spy()), ("unstable",))
    with calls.as_current():
        assert spied.scores(["OCN"]) == [0.001]
        assert len(calls) == 0
        assert spied.scores(["CCO", "OCN", "CCO", "CCC"]) == [0.5, 0.001, 0.5, 0.5]
        assert len(calls) == 2
    assert asked == ["CCO", "CCC"]
    assert "did you mean 'unstable'" in refused(
        "generate",
        "--env",
        "molecule",
        "--structure",
        "small,exclude=unstabel",
        "--out",
        tmp_path / "no",
        folder=tmp_path / "said",
    )


def test_from_the_command_line(tmp_path):
    fields = "blocks=8,max_blocks=3,width=8,min_blocks=3,exclude=brenk+unstable"
    Population.initialised(Structure.parse("molecule", fields), 1, 0).save(tmp_path / "start")
    few = ["-o", "finetune.steps=2", "-o", "finetune.batch_size=8", "-o", "finetune.compare=false"]
    command("finetune", tmp_path / "start", *few, "--out", tmp_path / "made", folder=tmp_path / "said")
    asked = ["sample", tmp_path / "made", "--num", "50", "--column", "unstable", "--json"]
    found = command(*asked, folder=tmp_path / "read").said("stdout")
    assert '"unstable": ' in found and '"invalid": 0' in found
