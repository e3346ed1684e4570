"""Trees of blocks and their molecules, against nested trees in plain Python, RDKit's molzip, and torchgfn."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from genflow_encoders.coordinate import CoordinateEncoder
from genflow_molecule import catalogue, scoring
from genflow_molecule.environment import Molecule
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from oracles import chi_square, lively, uniform_backward
from rdkit import Chem
from rdkit.Chem import QED, Crippen
from rdkit.Contrib.SA_Score import sascorer

from genflow import ExactSolution, GenflowError, Population, Progress, Structure, Transitions
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

#: sets of blocks that differ in what can be joined to what, and in how often
SETS = [(0, 1, 2), (0, 3, 6), (2, 29, 37), (1, 6, 26, 48)]


def structure(blocks: object = 12, max_blocks: int = 3, **fields) -> Structure:
    return Structure.build("molecule", {"blocks": blocks, "max_blocks": max_blocks, "width": 8, **fields})


def by_torchgfn(task: Structure) -> Transitions:
    """Everything left to torchgfn."""
    return Transitions(task.environment.make)


# --- the oracle: trees as nested objects


@dataclass(eq=False)
class Node:
    """A block in a tree; the root bears at most one child, by its attachment atom, as its stem 0."""

    entry: int
    children: dict[int, Node] = field(default_factory=dict)

    def preorder(self) -> list[Node]:
        return [self, *(node for stem in sorted(self.children) for node in self.children[stem].preorder())]


def fold(root: Node | None, n_slots: int) -> list[int]:
    """A tree as a state."""
    nodes = root.preorder() if root else []
    above = {id(child): (parent, stem) for parent in nodes for stem, child in parent.children.items()}
    rows = []
    for node in nodes:
        parent, stem = above.get(id(node), (None, 0))
        slot = next(i for i, other in enumerate(nodes) if other is parent) if parent else 0
        rows += [node.entry + 1, slot, stem]
    return rows + [0] * (3 * n_slots - len(rows))


def unfold(state: list[int]) -> Node:
    """The tree of a state of at least one block."""
    nodes: list[Node] = []
    for entry, parent, stem in (
        itertools.batched(state, 3) if hasattr(itertools, "batched") else zip(*[iter(state)] * 3, strict=True)
    ):
        if entry:
            nodes.append(Node(entry - 1))
            if len(nodes) > 1:
                nodes[parent].children[stem] = nodes[-1]
    return nodes[0]


def site_atom(task: Structure, node: Node, stem: int, root: Node) -> int:
    entry = task.environment.entries[node.entry]
    return entry.attachment if node is root else entry.stems[stem]


def joins(task: Structure, a: tuple[int, int], b: tuple[int, int]) -> bool:
    """The rule for two (entry, atom): carbon with anything; else sulfonyl with nitrogen or oxygen."""
    kinds = []
    for entry, index in (a, b):
        atom = task.environment.entries[entry].block.mol.GetAtomWithIdx(index)
        oxo = sum(bond.GetBondTypeAsDouble() == 2 for bond in atom.GetBonds())
        kinds.append("SO2" if atom.GetSymbol() == "S" and oxo == 2 else atom.GetSymbol())
    return "C" in kinds or ("SO2" in kinds and ("N" in kinds or "O" in kinds))


def additions(task: Structure, root: Node | None) -> list[tuple[Node | None, int, int]]:
    """(parent, stem, entry) of every block that may be added."""
    entries = task.environment.entries
    attached = lambda e: (e, entries[e].attachment)  # noqa: E731
    if root is None:
        return [
            (None, 0, e)
            for e in range(len(entries))
            if any(joins(task, attached(e), attached(d)) for d in range(len(entries)))
        ]
    nodes = root.preorder()
    if len(nodes) == task.environment.config.max_blocks:
        return []
    found = []
    for node in nodes:
        for stem in range(1) if node is root else range(len(entries[node.entry].stems)):
            if stem not in node.children:
                atom = site_atom(task, node, stem, root)
                found += [
                    (node, stem, e)
                    for e in range(len(entries))
                    if joins(task, (node.entry, atom), attached(e))
                ]
    return found


def number(task: Structure, root: Node | None, parent: Node | None, stem: int, entry: int) -> int:
    """The action of an addition."""
    slot = next((i for i, node in enumerate(root.preorder()) if node is parent), 0) if root else 0
    site = 0 if slot == 0 else 1 + (slot - 1) * task.environment.trees.n_stems + stem
    return site * len(task.environment.entries) + entry


def every_tree(task: Structure) -> set[tuple[int, ...]]:
    """Every state, by growing trees in every way."""
    n = task.environment.config.max_blocks
    found, ahead = set(), [tuple(fold(None, n))]
    while ahead:
        state = ahead.pop()
        if state not in found:
            found.add(state)
            for index in range(len(additions(task, unfold(list(state)) if any(state) else None))):
                root = unfold(list(state)) if any(state) else None
                parent, stem, entry = additions(task, root)[index]
                if parent is None:
                    root = Node(entry)
                else:
                    parent.children[stem] = Node(entry)
                ahead.append(tuple(fold(root, n)))
    return found


def zipped(task: Structure, root: Node) -> str:
    """The molecule of a tree by RDKit's molzip: joints are dummy atoms with equal map numbers."""
    nodes, joint, parts = root.preorder(), itertools.count(1), []
    marks: dict[int, list[tuple[int, int]]] = {id(node): [] for node in nodes}
    for node in nodes:
        for stem, child in node.children.items():
            mark = next(joint)
            marks[id(node)].append((site_atom(task, node, stem, root), mark))
            marks[id(child)].append((task.environment.entries[child.entry].attachment, mark))
    for node in nodes:
        mol = Chem.RWMol(Chem.AddHs(task.environment.entries[node.entry].block.mol))
        for atom, mark in marks[id(node)]:
            hydrogen = next(
                other
                for other in mol.GetAtomWithIdx(atom).GetNeighbors()
                if other.GetAtomicNum() == 1 and not other.GetAtomMapNum()
            )
            hydrogen.SetAtomicNum(0)
            hydrogen.SetAtomMapNum(mark)
        parts.append(mol.GetMol())
    mol = parts[0]
    for part in parts[1:]:
        mol = Chem.CombineMols(mol, part)
    mol = Chem.RemoveHs(Chem.molzip(mol)) if len(nodes) > 1 else Chem.RemoveHs(mol)
    return Chem.MolToSmiles(mol)


def walk(task: Structure, num: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """States (num, 3N) and uniformly random actions, until none can be added; only then exit."""
    rng = torch.Generator().manual_seed(seed)
    states, steps = task.transitions().initial_state.expand(num, -1), []
    for _ in range(task.environment.config.max_blocks):
        masks = task.transitions().forward_masks(states)
        masks[:, -1] &= ~masks[:, :-1].any(1)
        steps.append((states, torch.multinomial(masks.float(), 1, generator=rng).squeeze(1)))
        states = task.transitions().step(*steps[-1])
    return [*steps, (states, torch.full((num,), task.transitions().n_actions - 1))]


@cache
def ends(blocks: int, max_blocks: int, num: int) -> torch.Tensor:
    """Random terminal states of all sizes."""
    steps = walk(structure(blocks, max_blocks), num)
    return torch.cat([states[i :: len(steps)] for i, (states, _) in enumerate(steps) if i >= 2])


# --- states and actions


@pytest.mark.parametrize("max_blocks", [2, 3, 4])
@pytest.mark.parametrize("blocks", SETS, ids=str)
def test_the_states_are_every_tree_and_their_number_is_known_without_listing_them(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    expected = every_tree(task)
    graph = task.solution.graph
    assert {tuple(state) for state in graph.states.tolist()} == expected
    assert len(graph.states) == len(expected) == task.solution.n_states
    blocks_of = (graph.states.unflatten(1, (-1, 3))[..., 0] > 0).sum(1)
    assert [set(blocks_of[level].tolist()) for level in graph.levels] == [
        {i} for i in range(len(graph.levels))
    ]
    assert graph.can_exit.equal(blocks_of >= 2)


def test_states_and_molecules_of_the_presets():
    small = structure(12, 3, multiplicity=True)
    assert (
        small.solution.n_states,
        len(small.solution.graph.states),
        int(small.solution.graph.can_exit.sum()),
    ) == (6_818, 6_818, 6_800)
    assert len(small.environment.multiplicity) == 3_434
    assert structure(20, 3).solution.n_states == 39_431
    assert structure(20, 5).solution.n_states == 225_161_031
    assert structure(72, 8).solution.n_states == 30_976_288_642_904_108_463
    assert not structure(20, 5).solution.enumerable
    tasks = {name: task.environment for name, task in presets().items()}
    sizes = {name: (len(task.blocks), task.config.max_blocks) for name, task in tasks.items()}
    assert sizes == {
        "small": (12, 3), "medium": (20, 5), "full": (72, 8),
    }  # fmt: skip


def presets() -> dict[str, Structure]:
    return {name: Structure.parse("molecule", name) for name in Molecule.presets}


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), (12, 4), (72, 8), ((1, 6, 26, 48), 6)], ids=str)
def test_masks_and_steps_are_those_of_nested_trees(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    for states, _ in walk(task, 6):
        masks = task.transitions().forward_masks(states)
        for state, mask in zip(states, masks, strict=True):
            root = unfold(state.tolist()) if state.any() else None
            allowed = {}
            for index, (parent, stem, entry) in enumerate(additions(task, root)):
                allowed[number(task, root, parent, stem, entry)] = index
            if root is not None and len(root.preorder()) > 1:
                allowed[task.transitions().n_actions - 1] = -1
            assert mask.nonzero().flatten().tolist() == sorted(allowed)
            for action in random.Random(0).sample(sorted(allowed), min(5, len(allowed))):
                stepped = task.transitions().step(state, torch.tensor(action)).tolist()
                if allowed[action] < 0:
                    assert stepped == state.tolist()
                    continue
                grown = unfold(state.tolist()) if state.any() else None
                parent, stem, entry = additions(task, grown)[allowed[action]]
                if parent is None:
                    grown = Node(entry)
                else:
                    parent.children[stem] = Node(entry)
                assert stepped == fold(grown, max_blocks)


@pytest.mark.parametrize(
    ("blocks", "max_blocks", "num"), [(12, 3, 500), (20, 5, 1000), (72, 8, 2000), (12, 2, 100)]
)
def test_removing_a_block_undoes_adding_it_and_the_other_way_round(blocks, max_blocks, num):
    task = structure(blocks, max_blocks)
    trees = task.environment.trees
    for before, actions in walk(task, num):
        moving = actions != task.transitions().n_actions - 1
        before, actions = before[moving], actions[moving]
        after = task.transitions().step(before, actions)
        assert trees.backward_masks(after).gather(1, actions[:, None]).all()
        assert trees.backward_step(after, actions).equal(before)
        masks = trees.backward_masks(after)
        assert masks.sum(1).equal(task.transitions().n_parents(after))
        rows, removed = masks.nonzero(as_tuple=True)
        parents = trees.backward_step(after[rows], removed)
        assert task.transitions().forward_masks(parents).gather(1, removed[:, None]).all()
        assert task.transitions().step(parents, removed).equal(after[rows])
        # different blocks leave different trees
        assert len(torch.cat([rows[:, None], parents], 1).unique(dim=0)) == len(rows)


def test_a_tree_is_one_state_in_whatever_order_it_was_built():
    task = structure(72, 8)
    final, orders, rng = walk(task, 200)[-1][0], Counter(), random.Random(0)
    for state in final.tolist():
        whole = unfold(state)
        for _ in range(3):
            twins: dict[int, Node] = {}
            root, rest = None, whole.preorder()
            above = {id(child): (parent, stem) for parent in rest for stem, child in parent.children.items()}
            current, order = task.transitions().initial_state, []
            while rest:
                ready = [node for node in rest if node is whole or id(above[id(node)][0]) in twins]
                node = rng.choice(ready)
                rest.remove(node)
                parent, stem = above.get(id(node), (None, 0))
                twin = twins.get(id(parent)) if parent else None
                action = number(task, root, twin, stem, node.entry)
                assert task.transitions().forward_masks(current)[action]
                current = task.transitions().step(current, torch.tensor(action))
                twins[id(node)] = Node(node.entry)
                if twin is None:
                    root = twins[id(node)]
                else:
                    twin.children[stem] = twins[id(node)]
                order.append(action)
            assert current.tolist() == state
            orders[tuple(state)] += len(set(order))
    assert len(orders) > 150


@pytest.mark.parametrize(("blocks", "max_blocks"), [((0, 3, 6), 4), (12, 3)], ids=str)
def test_states_are_numbered_in_the_order_of_the_graph(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    numbers = task.transitions().state_ids(task.solution.graph.states)
    assert len(numbers.unique()) == len(numbers)
    for level in task.solution.graph.levels:
        assert numbers[level].equal(numbers[level].sort().values)
    assert int(numbers.max()) < torch.tensor(task.environment.trees.radices).prod()


def test_states_that_64_bits_cannot_number_are_not():
    assert structure(72, 8).transitions().state_ids(torch.zeros(2, 24, dtype=torch.long)) is None
    assert structure(20, 5).transitions().state_ids(torch.zeros(2, 15, dtype=torch.long)).tolist() == [0, 0]


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), ((0, 3, 6), 5), (72, 8), (5, 2)], ids=str)
def test_states_are_what_torchgfn_says(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    own, plain = task.transitions(), by_torchgfn(task)
    assert own.initial_state.equal(plain.initial_state) and own.n_actions == plain.n_actions
    for states, actions in walk(task, 60):
        for shape in ((60,), (3, 20)):
            shaped, taken = states.reshape(*shape, -1), actions.reshape(shape)
            assert own.forward_masks(shaped).equal(plain.forward_masks(shaped))
            assert own.n_parents(shaped).equal(plain.n_parents(shaped))
            assert own.step(shaped, taken).equal(plain.step(shaped, taken))
            inputs = own.inputs(states)
            assert inputs.equal(plain.inputs(states)) and inputs.dtype == torch.float32
            active = own.one_hot_indices(shaped)
            assert torch.zeros(*shape, inputs.shape[1]).scatter_(-1, active, 1.0).flatten(0, -2).equal(inputs)
            assert (inputs.sum(1) == active.shape[-1]).all()


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), ((0, 3, 6), 4), (4, 2)], ids=str)
def test_the_graph_is_that_of_torchgfn(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    own, plain = task.solution.graph, ExactSolution(by_torchgfn(task), task.solution.n_states).graph
    assert own.states.equal(plain.states)
    assert own.children.equal(plain.children.int())
    assert own.can_exit.equal(plain.can_exit)
    assert all(a.equal(b) for a, b in zip(own.levels, plain.levels, strict=True))


def test_torchgfn_samples_trajectories_and_balances_them_as_we_do():
    task = structure((0, 3, 6, 29), 5)
    policy = lively(task, 1, scale=1.0)
    env = task.transitions().env
    estimator = policy.to_estimator()
    trajectories = Sampler(estimator).sample_trajectories(env, n=64, save_logprobs=False)
    loss = TBGFlowNet(estimator, uniform_backward(task)).loss_from_trajectories(
        env, trajectories, recalculate_all_logprobs=True
    )
    scores = []
    for b, length in enumerate(trajectories.terminating_idx.tolist()):
        score = 0.0
        for t in range(length):
            state, action = trajectories.states.tensor[t, b], int(trajectories.actions.tensor[t, b])
            logits = policy.logits(task.transitions().inputs(state[None]))[0, 0]
            score += float(
                logits.masked_fill(~task.transitions().forward_masks(state), -torch.inf).log_softmax(0)[
                    action
                ]
            )
            if t < length - 1:
                score += float(task.transitions().n_parents(trajectories.states.tensor[t + 1, b]).log())
        final = trajectories.states.tensor[length - 1, b]
        scores.append(score - float(task.transitions().log_reward(final[None])))
    assert loss.item() == pytest.approx(float(torch.tensor(scores).square().mean()), rel=1e-4)
    assert len({tuple(row) for row in trajectories.terminating_states.tensor.tolist()}) > 10
    # what torchgfn pads with, and an empty batch, must not trip anything
    assert env.States(env.sf[None]).forward_masks.shape == (1, task.transitions().n_actions)
    empty = env.step(
        env.States(env.s0.expand(0, -1)), env.actions_from_tensor(torch.zeros(0, 1, dtype=torch.long))
    )
    assert empty.tensor.shape == (0, 15)


def test_exact_terminal_distributions_are_what_is_sampled():
    task = structure((0, 3, 6), 4)
    population = lively(task, 2, scale=2.0)
    exact = population.terminal_distribution()
    torch.testing.assert_close(exact.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(exact[:, ~task.solution.graph.can_exit].sum()) == 0
    place = {tuple(state): i for i, state in enumerate(task.solution.graph.states.tolist())}
    for own, expected in zip(population.rollouts(20_000, 1).final, exact, strict=True):
        counts = torch.bincount(
            torch.tensor([place[tuple(state)] for state in own.tolist()]), minlength=len(expected)
        )
        assert chi_square(counts, 20_000 * expected) < 4


# --- molecules


@pytest.mark.parametrize(("blocks", "max_blocks", "num"), [(12, 3, 400), (20, 5, 400), (72, 8, 1200)])
def test_molecules_are_those_that_rdkit_zips_and_none_is_invalid(blocks, max_blocks, num):
    task, states = structure(blocks, max_blocks), ends(blocks, max_blocks, num)
    smiles = task.environment.catalogue.smiles(states)
    for state, own in zip(states.tolist(), smiles, strict=True):
        mol = Chem.MolFromSmiles(own)
        assert mol is not None and own == Chem.MolToSmiles(mol)
        assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        assert own == Chem.CanonSmiles(zipped(task, unfold(state)))
        assert mol.GetNumHeavyAtoms() == sum(
            task.environment.entries[node.entry].block.mol.GetNumHeavyAtoms()
            for node in unfold(state).preorder()
        )
    assert len(set(smiles)) > len(smiles) / 2


@pytest.mark.parametrize("blocks", [*SETS, 12], ids=str)
def test_a_root_that_is_a_leaf_loses_no_molecule(blocks):
    """All molecules of two and three blocks, the middle one chosen first and its two stems freely."""
    task = structure(blocks, 3)
    entries = task.environment.entries
    middles = {entry.block.smiles: entry.block for entry in entries}
    attached = lambda e: (e, entries[e].attachment)  # noqa: E731
    expected = {
        zipped(task, Node(a, {0: Node(b)}))
        for a, b in itertools.product(range(len(entries)), repeat=2)
        if joins(task, attached(a), attached(b))
    }
    for block in middles.values():
        some = next(e for e, entry in enumerate(entries) if entry.block is block)
        for i, j in itertools.combinations(range(len(block.stems)), 2):
            first, second = block.stems[i], block.stems[j]
            for a, b in itertools.product(range(len(entries)), repeat=2):
                if joins(task, (some, first), attached(a)) and joins(task, (some, second), attached(b)):
                    expected.add(three(block, (first, second), entries[a], entries[b]))
    assert set(task.environment.multiplicity) == {Chem.CanonSmiles(each) for each in expected}


def three(block, stems, left, right) -> str:
    """Two entries joined to two stems of a block, by RDKit's molzip."""
    parts = [
        (block, [(stems[0], 1), (stems[1], 2)]),
        (left.block, [(left.attachment, 1)]),
        (right.block, [(right.attachment, 2)]),
    ]
    mols = []
    for each, marks in parts:
        mol = Chem.RWMol(Chem.AddHs(each.mol))
        for atom, mark in marks:
            free = [n for n in mol.GetAtomWithIdx(atom).GetNeighbors() if n.GetAtomicNum() == 1]
            free[0].SetAtomicNum(0)
            free[0].SetAtomMapNum(mark)
        mols.append(mol.GetMol())
    return Chem.MolToSmiles(
        Chem.RemoveHs(Chem.molzip(Chem.CombineMols(Chem.CombineMols(mols[0], mols[1]), mols[2])))
    )


@pytest.mark.parametrize("beta", [1.0, 8.0, 16.0])
def test_rewards_are_their_definitions(beta):
    states = ends(72, 8, 1200)[::20]
    for fields, score in (
        ({}, QED.qed),
        (
            {"reward": "logp_window"},
            lambda mol: torch.tensor(-0.5 * (Crippen.MolLogP(mol) - 2.5) ** 2).exp().item(),
        ),
        (
            {"reward": "logp_window", "logp_centre": 0.5, "logp_width": 2.0},
            lambda mol: torch.tensor(-0.5 * ((Crippen.MolLogP(mol) - 0.5) / 2) ** 2).exp().item(),
        ),
    ):
        task = structure(72, 8, beta=beta, **fields)
        mols = [Chem.MolFromSmiles(smiles) for smiles in task.environment.catalogue.smiles(states)]
        expected = [
            beta * torch.tensor(max(1e-3, score(mol) * (10 - sascorer.calculateScore(mol)) / 9)).log().item()
            for mol in mols
        ]
        torch.testing.assert_close(
            task.transitions().log_reward(states),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-5,
            atol=1e-5,
        )
        env = task.transitions().env
        torch.testing.assert_close(
            env.log_reward(env.States(states)), torch.tensor(expected), rtol=1e-5, atol=1e-5
        )
        assert env.reward(env.States(states[:6].reshape(2, 3, -1))).shape == (2, 3)


def test_the_multiplicity_corrected_target_gives_every_molecule_its_reward_once():
    plain, corrected = structure(12, 3), structure(12, 3, multiplicity=True)
    states = plain.solution.graph.states[plain.solution.graph.can_exit]
    smiles = [Chem.CanonSmiles(each) for each in plain.environment.catalogue.smiles(states)]
    total: Counter[str] = Counter()
    over: Counter[str] = Counter()
    for each, once, often in zip(
        smiles,
        corrected.transitions().log_reward(states).exp().tolist(),
        plain.transitions().log_reward(states).exp().tolist(),
        strict=True,
    ):
        total[each] += once
        over[each] += often
    scores = {each: plain.environment.catalogue.score(each) ** 8 for each in total}
    assert total == pytest.approx(scores, rel=1e-9)
    assert over == pytest.approx(
        {each: count * scores[each] for each, count in Counter(smiles).items()}, rel=1e-9
    )
    assert max(Counter(smiles).values()) > 2
    # the shares of molecules that the exact metrics compare with
    owner, shares = corrected.solution.molecules()
    own = torch.zeros_like(shares).index_add_(
        0, owner, corrected.solution.target()[corrected.solution.graph.can_exit]
    )
    torch.testing.assert_close(own, shares)
    assert corrected.solution.log_partition() == pytest.approx(
        float(torch.tensor(list(scores.values()), dtype=torch.float64).sum().log())
    )


def test_a_mode_is_a_molecule_with_a_high_score():
    task = structure(12, 3)
    states = task.solution.graph.states
    modes = task.transitions().is_mode(states)
    scores = [
        task.environment.catalogue.score(each) if each else 0.0
        for each in task.environment.catalogue.smiles(states)
    ]
    assert modes.tolist() == [score >= 0.7 for score in scores]
    assert 0 < int(modes.sum()) < 0.1 * len(states)


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), ((1, 6, 26, 48), 4), (5, 2)], ids=str)
def test_untrained_policies_give_exit_a_chance(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    graph = task.solution.graph
    two = graph.levels[2]
    choices = (graph.children[two] >= 0).sum(1).double().mean()
    logits = task.environment.initial_logits()
    assert not logits[:-1].any()
    assert float(logits[-1]) == pytest.approx(math.log(max(1.0, float(choices))), rel=1e-5)
    # every untrained policy starts so, whatever its weights are drawn from
    for init in ("shared", "style"):
        options = CoordinateEncoder.Config(init=init, init_noise=0.0, latent_size=4, style_variance=0.5)
        starts = CoordinateEncoder.starts(options, [task])
        start = starts.weights(Population.initialised(task, 3, 0), 0)
        assert task.layout.unflatten(start)["net.4.bias"].equal(logits.expand(3, -1))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        plain = [task.module().net[4].bias.detach() for _ in range(3)]
    untrained = Population.initialised(task, 3, 7).state_dict()["net.4.bias"]
    torch.testing.assert_close(untrained, torch.stack(plain) + logits)


def test_trajectory_balance_learns_the_small_preset(tmp_path):
    from genflow.progress import Progress

    task = Structure.parse("molecule", "small")
    options = PolicyOptions(steps=700)
    start = Population.initialised(task, 1, 0).weights
    trained = train_population(
        task, options, start=start, seed=0, folder=tmp_path, progress=Progress("none"), checkpoints=1, every=1
    )
    metrics = trained.provenance["members"][0]["metrics"]
    assert metrics["js"] < 0.01
    assert trained.provenance["log_z"][0] == pytest.approx(task.solution.log_partition(), abs=0.1)


# --- what a structure may be


def test_one_set_of_blocks_is_one_structure():
    same = [
        "blocks=3,max_blocks=3",
        "blocks=0+1+2,max_blocks=3",
        "blocks=(2,0,1),max_blocks=3",
        "max_blocks=3,blocks=[1, 0, 2]",
    ]
    assert len({Structure.parse("molecule", text) for text in same}) == 1
    odd = Structure.parse("molecule", "blocks=0+4+30,max_blocks=4")
    assert odd.environment.config.blocks == (0, 4, 30)
    assert odd.name == "blocks=0+4+30,max_blocks=4,width=128"
    assert Structure.from_json(odd.to_json()) == odd
    assert [block.smiles for block in odd.environment.blocks] == [
        Molecule(odd.environment.config).blocks[i].smiles for i in range(3)
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_blocks=1", "max_blocks.*greater than or equal to 2"),
        ("max_blocks=9", "max_blocks.*less than or equal to 8"),
        ("blocks=3", "'max_blocks' is missing"),
        ("small,reward=sweetness", "unknown reward .*sweetness"),
        ("small,logp_centre=2", "unknown key 'logp_centre'"),
        ("small,beta=0", "beta"),
        ("small,beta=nan", "beta"),
        ("small,blocks=0", "blocks"),
        ("small,blocks=601", "blocks 0 to 599, and no block 600"),
        ("small,blocks=0+900", "blocks 0 to 599, and no block 900"),
        ("small,blocks=1+1", "blocks.*different numbers"),
        ("small,blocks=a+b", "blocks"),
        ("small,blocks=()", "blocks"),
        ("small,blocks=-1+2", "blocks"),
        (
            "medium,multiplicity=true",
            "multiplicity=true needs every state.*225,161,031 states.*set multiplicity=false",
        ),
        ("small,vocabulary=none-such", "no vocabulary 'none-such'.*default"),
        ("small,vocabulary=/dev/null", "no vocabulary"),
        ("small,reward=logp_window,logp_width=0", "logp_width"),
        ("small,block=3", "unknown key 'block'"),
    ],
)
def test_impossible_tasks_are_refused(text, words):
    with pytest.raises(GenflowError, match=words) as caught:
        Structure.parse("molecule", text)
    assert "\n" not in str(caught.value)


def test_blocks_that_cannot_be_joined_are_refused():
    with pytest.raises(GenflowError, match="no two of the blocks Cl, F, Br can be joined"):
        structure((2, 8, 9), 3).environment.make()


def test_what_needs_every_state_is_refused_where_there_are_too_many():
    with pytest.raises(
        GenflowError, match=r"the state graph needs every state.*225,161,031 states \(the limit is 200,000\)"
    ):
        structure(20, 5).solution.graph  # noqa: B018
    with pytest.raises(GenflowError, match=r"zoo.objective=tb"):
        structure(20, 5).solution.require_expert()


def test_work_on_many_molecules_is_shown_as_it_goes_on(monkeypatch):
    """Otherwise evaluating a vocabulary of one's own stands still for a minute."""
    shown: dict[str, list[int]] = {}

    @contextmanager
    def bar(self, label, total, start=0):
        yield SimpleNamespace(
            set=lambda done, **figures: shown.setdefault(f"{label} {total}", []).append(done)
        )

    monkeypatch.setattr(Progress, "bar", bar)
    monkeypatch.setattr(scoring, "BATCH", 50)
    monkeypatch.setattr(catalogue, "SHOWN", 50)
    task = structure((0, 3, 6, 12), 3, reward="logp_window", logp_centre=0.123)
    graph = task.solution.graph
    states = graph.states[graph.can_exit]
    found = task.environment.catalogue.scores(states)
    number, different = len(states), len(set(task.environment.catalogue.smiles(states)))
    assert number > different > 50 and len(found) == number
    assert shown[f"molecules {number}"][: number // 50] == list(range(50, number + 1, 50))
    assert shown[f"scores {different}"] == [*range(50, different, 50), different]
    shown.clear()
    task.environment.catalogue.scores(states[:50])
    assert not shown
