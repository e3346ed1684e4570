"""Trees of blocks and their molecules, against nested trees in plain Python, RDKit's own way of joining fragments, and torchgfn."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from genflow_molecule.environment import Molecule
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler
from oracles import by_torchgfn, chi_square, lively, uniform_backward
from rdkit import Chem
from rdkit.Chem import QED, Crippen
from rdkit.Contrib.SA_Score import sascorer

from genflow import GenflowError, Population, Structure
from genflow.training.initialisation import initial_weights
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

#: sets of blocks that differ in what can be joined to what, and in how often
SETS = [(0, 1, 2), (0, 3, 6), (2, 29, 37), (1, 6, 26, 48)]


def structure(blocks: object = 12, max_blocks: int = 3, **fields) -> Structure:
    return Structure.build("molecule", {"blocks": blocks, "max_blocks": max_blocks, "width": 8, **fields})


def env_of(*args, **fields) -> Molecule:
    environment = structure(*args, **fields).environment
    assert isinstance(environment, Molecule)
    return environment


# --- the oracle: trees as nested objects


@dataclass(eq=False)
class Node:
    """A block in a tree; the root bears at most one child, by its attachment atom, which counts as its stem 0."""

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


def site_atom(environment: Molecule, node: Node, stem: int, root: Node) -> int:
    entry = environment.entries[node.entry]
    return entry.attachment if node is root else entry.stems[stem]


def joins(environment: Molecule, a: tuple[int, int], b: tuple[int, int]) -> bool:
    """The rule for (entry, atom) and (entry, atom): carbon with anything; else sulfonyl with nitrogen or oxygen."""
    kinds = []
    for entry, index in (a, b):
        atom = environment.entries[entry].block.mol.GetAtomWithIdx(index)
        oxo = sum(bond.GetBondTypeAsDouble() == 2 for bond in atom.GetBonds())
        kinds.append("SO2" if atom.GetSymbol() == "S" and oxo == 2 else atom.GetSymbol())
    return "C" in kinds or ("SO2" in kinds and ("N" in kinds or "O" in kinds))


def additions(environment: Molecule, root: Node | None) -> list[tuple[Node | None, int, int]]:
    """(parent, stem, entry) of every block that may be added."""
    entries = environment.entries
    attached = lambda e: (e, entries[e].attachment)  # noqa: E731
    if root is None:
        return [
            (None, 0, e)
            for e in range(len(entries))
            if any(joins(environment, attached(e), attached(d)) for d in range(len(entries)))
        ]
    nodes = root.preorder()
    if len(nodes) == environment.config.max_blocks:
        return []
    found = []
    for node in nodes:
        for stem in range(1) if node is root else range(len(entries[node.entry].stems)):
            if stem not in node.children:
                atom = site_atom(environment, node, stem, root)
                found += [
                    (node, stem, e)
                    for e in range(len(entries))
                    if joins(environment, (node.entry, atom), attached(e))
                ]
    return found


def number(environment: Molecule, root: Node | None, parent: Node | None, stem: int, entry: int) -> int:
    """The action of an addition."""
    slot = next((i for i, node in enumerate(root.preorder()) if node is parent), 0) if root else 0
    site = 0 if slot == 0 else 1 + (slot - 1) * environment.trees.n_stems + stem
    return site * len(environment.entries) + entry


def every_tree(environment: Molecule) -> set[tuple[int, ...]]:
    """Every state, by growing trees in every way."""
    n = environment.config.max_blocks
    found, ahead = set(), [tuple(fold(None, n))]
    while ahead:
        state = ahead.pop()
        if state not in found:
            found.add(state)
            for index in range(len(additions(environment, unfold(list(state)) if any(state) else None))):
                root = unfold(list(state)) if any(state) else None
                parent, stem, entry = additions(environment, root)[index]
                if parent is None:
                    root = Node(entry)
                else:
                    parent.children[stem] = Node(entry)
                ahead.append(tuple(fold(root, n)))
    return found


def zipped(environment: Molecule, root: Node) -> str:
    """The molecule of a tree by RDKit's molzip: fragments whose joints are dummy atoms with equal map numbers."""
    nodes, joint, parts = root.preorder(), itertools.count(1), []
    marks: dict[int, list[tuple[int, int]]] = {id(node): [] for node in nodes}
    for node in nodes:
        for stem, child in node.children.items():
            mark = next(joint)
            marks[id(node)].append((site_atom(environment, node, stem, root), mark))
            marks[id(child)].append((environment.entries[child.entry].attachment, mark))
    for node in nodes:
        mol = Chem.RWMol(Chem.AddHs(environment.entries[node.entry].block.mol))
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


def walk(environment: Molecule, num: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """States (num, 3N) and uniformly random actions, until none can be added; exit is taken only where nothing else is left."""
    rng = torch.Generator().manual_seed(seed)
    states, steps = environment.start(torch.device("cpu")).expand(num, -1), []
    for _ in range(environment.config.max_blocks):
        masks = environment.forward_masks(states)
        masks[:, -1] &= ~masks[:, :-1].any(1)
        steps.append((states, torch.multinomial(masks.float(), 1, generator=rng).squeeze(1)))
        states = environment.step(*steps[-1])
    return [*steps, (states, torch.full((num,), environment.n_actions - 1))]


@cache
def ends(blocks: int, max_blocks: int, num: int) -> torch.Tensor:
    """Random terminal states of all sizes."""
    steps = walk(env_of(blocks, max_blocks), num)
    return torch.cat([states[i :: len(steps)] for i, (states, _) in enumerate(steps) if i >= 2])


# --- states and actions


@pytest.mark.parametrize("max_blocks", [2, 3, 4])
@pytest.mark.parametrize("blocks", SETS, ids=str)
def test_the_states_are_every_tree_and_their_number_is_known_without_listing_them(blocks, max_blocks):
    environment = env_of(blocks, max_blocks)
    expected = every_tree(environment)
    graph = environment.graph
    assert {tuple(state) for state in graph.states.tolist()} == expected
    assert len(graph.states) == len(expected) == environment.n_states
    blocks_of = (graph.states.unflatten(1, (-1, 3))[..., 0] > 0).sum(1)
    assert [set(blocks_of[level].tolist()) for level in graph.levels] == [
        {i} for i in range(len(graph.levels))
    ]
    assert graph.can_exit.equal(blocks_of >= 2)


def test_states_and_molecules_of_the_presets():
    small = env_of(12, 3, multiplicity=True)
    assert (small.n_states, len(small.graph.states), int(small.graph.can_exit.sum())) == (6_818, 6_818, 6_800)
    assert len(small.multiplicity) == 3_434
    assert env_of(20, 3).n_states == 39_431
    assert env_of(20, 5).n_states == 225_161_031
    assert env_of(72, 8).n_states == 30_976_288_642_904_108_463
    assert not env_of(20, 5).enumerable
    assert {name: (len(s.environment.blocks), s.environment.config.max_blocks) for name, s in presets().items()} == {
        "small": (12, 3), "medium": (20, 5), "full": (72, 8),
    }  # fmt: skip


def presets() -> dict[str, Structure]:
    return {name: Structure.parse("molecule", name) for name in Molecule.presets}


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), (12, 4), (72, 8), ((1, 6, 26, 48), 6)], ids=str)
def test_masks_and_steps_are_those_of_nested_trees(blocks, max_blocks):
    environment = env_of(blocks, max_blocks)
    for states, _ in walk(environment, 6):
        masks = environment.forward_masks(states)
        for state, mask in zip(states, masks, strict=True):
            root = unfold(state.tolist()) if state.any() else None
            allowed = {}
            for index, (parent, stem, entry) in enumerate(additions(environment, root)):
                allowed[number(environment, root, parent, stem, entry)] = index
            if root is not None and len(root.preorder()) > 1:
                allowed[environment.n_actions - 1] = -1
            assert mask.nonzero().flatten().tolist() == sorted(allowed)
            for action in random.Random(0).sample(sorted(allowed), min(5, len(allowed))):
                stepped = environment.step(state, torch.tensor(action)).tolist()
                if allowed[action] < 0:
                    assert stepped == state.tolist()
                    continue
                grown = unfold(state.tolist()) if state.any() else None
                parent, stem, entry = additions(environment, grown)[allowed[action]]
                if parent is None:
                    grown = Node(entry)
                else:
                    parent.children[stem] = Node(entry)
                assert stepped == fold(grown, max_blocks)


@pytest.mark.parametrize(
    ("blocks", "max_blocks", "num"), [(12, 3, 500), (20, 5, 1000), (72, 8, 2000), (12, 2, 100)]
)
def test_removing_a_block_undoes_adding_it_and_the_other_way_round(blocks, max_blocks, num):
    environment = env_of(blocks, max_blocks)
    trees = environment.trees
    for before, actions in walk(environment, num):
        moving = actions != environment.n_actions - 1
        before, actions = before[moving], actions[moving]
        after = environment.step(before, actions)
        assert trees.backward_masks(after).gather(1, actions[:, None]).all()
        assert trees.backward_step(after, actions).equal(before)
        masks = trees.backward_masks(after)
        assert masks.sum(1).equal(environment.n_parents(after))
        rows, removed = masks.nonzero(as_tuple=True)
        parents = trees.backward_step(after[rows], removed)
        assert environment.forward_masks(parents).gather(1, removed[:, None]).all()
        assert environment.step(parents, removed).equal(after[rows])
        # different blocks leave different trees
        assert len(torch.cat([rows[:, None], parents], 1).unique(dim=0)) == len(rows)


def test_a_tree_is_one_state_in_whatever_order_it_was_built():
    environment = env_of(72, 8)
    final, orders, rng = walk(environment, 200)[-1][0], Counter(), random.Random(0)
    for state in final.tolist():
        whole = unfold(state)
        for _ in range(3):
            twins: dict[int, Node] = {}
            root, rest = None, whole.preorder()
            above = {id(child): (parent, stem) for parent in rest for stem, child in parent.children.items()}
            current, order = environment.start(torch.device("cpu")), []
            while rest:
                ready = [node for node in rest if node is whole or id(above[id(node)][0]) in twins]
                node = rng.choice(ready)
                rest.remove(node)
                parent, stem = above.get(id(node), (None, 0))
                twin = twins.get(id(parent)) if parent else None
                action = number(environment, root, twin, stem, node.entry)
                assert environment.forward_masks(current)[action]
                current = environment.step(current, torch.tensor(action))
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
    environment = env_of(blocks, max_blocks)
    numbers = environment.indices(environment.graph.states)
    assert len(numbers.unique()) == len(numbers)
    for level in environment.graph.levels:
        assert numbers[level].equal(numbers[level].sort().values)
    assert int(numbers.max()) < torch.tensor(environment.trees.radices).prod()


def test_states_that_64_bits_cannot_number_are_not():
    assert env_of(72, 8).indices(torch.zeros(2, 24, dtype=torch.long)) is None
    assert env_of(20, 5).indices(torch.zeros(2, 15, dtype=torch.long)).tolist() == [0, 0]


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), ((0, 3, 6), 5), (72, 8), (5, 2)], ids=str)
def test_states_are_what_torchgfn_says(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    own, plain = task.environment, by_torchgfn(task).environment
    assert own.start(torch.device("cpu")).equal(plain.start(torch.device("cpu")))
    for states, actions in walk(own, 60):
        for shape in ((60,), (3, 20)):
            shaped, taken = states.reshape(*shape, -1), actions.reshape(shape)
            assert own.forward_masks(shaped).equal(plain.forward_masks(shaped))
            assert own.n_parents(shaped).equal(plain.n_parents(shaped))
            assert own.step(shaped, taken).equal(plain.step(shaped, taken))
            inputs = own.inputs(states)
            assert inputs.equal(plain.inputs(states)) and inputs.dtype == torch.float32
            active = own.active(shaped)
            assert torch.zeros(*shape, inputs.shape[1]).scatter_(-1, active, 1.0).flatten(0, -2).equal(inputs)
            assert (inputs.sum(1) == active.shape[-1]).all()


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), ((0, 3, 6), 4), (4, 2)], ids=str)
def test_the_graph_is_that_of_torchgfn(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    own, plain = task.environment.graph, by_torchgfn(task).environment.graph
    assert own.states.equal(plain.states)
    assert own.children.equal(plain.children.int())
    assert own.can_exit.equal(plain.can_exit)
    assert all(a.equal(b) for a, b in zip(own.levels, plain.levels, strict=True))


def test_torchgfn_samples_trajectories_and_balances_them_as_we_do():
    task = structure((0, 3, 6, 29), 5)
    policy, environment = lively(task, 1, scale=1.0), task.environment
    env, _ = environment.gfn
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
            logits = policy.logits(environment.inputs(state[None]))[0, 0]
            score += float(
                logits.masked_fill(~environment.forward_masks(state), -torch.inf).log_softmax(0)[action]
            )
            if t < length - 1:
                score += float(environment.n_parents(trajectories.states.tensor[t + 1, b]).log())
        final = trajectories.states.tensor[length - 1, b]
        scores.append(score - float(environment.log_reward(final[None])))
    assert loss.item() == pytest.approx(float(torch.tensor(scores).square().mean()), rel=1e-4)
    assert len({tuple(row) for row in trajectories.terminating_states.tensor.tolist()}) > 10
    # what torchgfn pads with, and an empty batch, must not trip anything
    assert env.States(env.sf[None]).forward_masks.shape == (1, environment.n_actions)
    empty = env.step(
        env.States(env.s0.expand(0, -1)), env.actions_from_tensor(torch.zeros(0, 1, dtype=torch.long))
    )
    assert empty.tensor.shape == (0, 15)


def test_exact_terminal_distributions_are_what_is_sampled():
    task = structure((0, 3, 6), 4)
    population = lively(task, 2, scale=2.0)
    exact = population.terminal_distribution()
    torch.testing.assert_close(exact.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(exact[:, ~task.environment.graph.can_exit].sum()) == 0
    place = {tuple(state): i for i, state in enumerate(task.environment.graph.states.tolist())}
    for own, expected in zip(population.rollouts(20_000, 1).final, exact, strict=True):
        counts = torch.bincount(
            torch.tensor([place[tuple(state)] for state in own.tolist()]), minlength=len(expected)
        )
        assert chi_square(counts, 20_000 * expected) < 4


# --- molecules


@pytest.mark.parametrize(("blocks", "max_blocks", "num"), [(12, 3, 400), (20, 5, 400), (72, 8, 1200)])
def test_molecules_are_those_that_rdkit_zips_and_none_is_invalid(blocks, max_blocks, num):
    environment, states = env_of(blocks, max_blocks), ends(blocks, max_blocks, num)
    smiles = environment.catalogue.smiles(states)
    for state, own in zip(states.tolist(), smiles, strict=True):
        mol = Chem.MolFromSmiles(own)
        assert mol is not None and own == Chem.MolToSmiles(mol)
        assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        assert own == Chem.CanonSmiles(zipped(environment, unfold(state)))
        assert mol.GetNumHeavyAtoms() == sum(
            environment.entries[node.entry].block.mol.GetNumHeavyAtoms() for node in unfold(state).preorder()
        )
    assert len(set(smiles)) > len(smiles) / 2


@pytest.mark.parametrize("blocks", [*SETS, 12], ids=str)
def test_a_root_that_is_a_leaf_loses_no_molecule(blocks):
    """All molecules of two and three blocks, the middle one chosen first and its two stems freely."""
    environment = env_of(blocks, 3)
    entries = environment.entries
    middles = {entry.block.smiles: entry.block for entry in entries}
    attached = lambda e: (e, entries[e].attachment)  # noqa: E731
    expected = {
        zipped(environment, Node(a, {0: Node(b)}))
        for a, b in itertools.product(range(len(entries)), repeat=2)
        if joins(environment, attached(a), attached(b))
    }
    for block in middles.values():
        some = next(e for e, entry in enumerate(entries) if entry.block is block)
        for i, j in itertools.combinations(range(len(block.stems)), 2):
            first, second = block.stems[i], block.stems[j]
            for a, b in itertools.product(range(len(entries)), repeat=2):
                if joins(environment, (some, first), attached(a)) and joins(
                    environment, (some, second), attached(b)
                ):
                    expected.add(three(block, (first, second), entries[a], entries[b]))
    assert set(environment.multiplicity) == {Chem.CanonSmiles(each) for each in expected}


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
        environment = env_of(72, 8, beta=beta, **fields)
        mols = [Chem.MolFromSmiles(smiles) for smiles in environment.catalogue.smiles(states)]
        expected = [
            beta * torch.tensor(max(1e-3, score(mol) * (10 - sascorer.calculateScore(mol)) / 9)).log().item()
            for mol in mols
        ]
        torch.testing.assert_close(
            environment.log_reward(states), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5
        )
        env, _ = environment.gfn
        torch.testing.assert_close(
            env.log_reward(env.States(states)), torch.tensor(expected), rtol=1e-5, atol=1e-5
        )
        assert env.reward(env.States(states[:6].reshape(2, 3, -1))).shape == (2, 3)


def test_the_multiplicity_corrected_target_gives_every_molecule_its_reward_once():
    plain, corrected = env_of(12, 3), env_of(12, 3, multiplicity=True)
    states = plain.graph.states[plain.graph.can_exit]
    smiles = [Chem.CanonSmiles(each) for each in plain.catalogue.smiles(states)]
    total: Counter[str] = Counter()
    over: Counter[str] = Counter()
    for each, once, often in zip(
        smiles,
        corrected.log_reward(states).exp().tolist(),
        plain.log_reward(states).exp().tolist(),
        strict=True,
    ):
        total[each] += once
        over[each] += often
    scores = {each: plain.catalogue.score(each) ** 8 for each in total}
    assert total == pytest.approx(scores, rel=1e-9)
    assert over == pytest.approx(
        {each: count * scores[each] for each, count in Counter(smiles).items()}, rel=1e-9
    )
    assert max(Counter(smiles).values()) > 2
    # the shares of molecules that the exact metrics compare with
    owner, shares = corrected.molecules
    own = torch.zeros_like(shares).index_add_(0, owner, corrected.target()[corrected.graph.can_exit])
    torch.testing.assert_close(own, shares)
    assert corrected.log_partition() == pytest.approx(
        float(torch.tensor(list(scores.values()), dtype=torch.float64).sum().log())
    )


def test_a_mode_is_a_molecule_with_a_high_score():
    environment = env_of(12, 3)
    states = environment.graph.states
    modes = environment.is_mode(states)
    scores = [
        environment.catalogue.score(each) if each else 0.0 for each in environment.catalogue.smiles(states)
    ]
    assert modes.tolist() == [score >= 0.7 for score in scores]
    assert 0 < int(modes.sum()) < 0.1 * len(states)


@pytest.mark.parametrize(("blocks", "max_blocks"), [(12, 3), ((1, 6, 26, 48), 4), (5, 2)], ids=str)
def test_untrained_policies_give_exit_a_chance(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    environment, graph = task.environment, task.environment.graph
    two = graph.levels[2]
    choices = (graph.children[two] >= 0).sum(1).double().mean()
    logits = environment.initial_logits()
    assert not logits[:-1].any()
    assert float(logits[-1]) == pytest.approx(math.log(max(1.0, float(choices))), rel=1e-5)
    # every untrained policy starts so, whatever its weights are drawn from
    for start in (initial_weights(task, 3, 0, init, 0.0, 4, 0.5) for init in ("shared", "style")):
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
    assert trained.provenance["log_z"][0] == pytest.approx(task.environment.log_partition(), abs=0.1)


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
        ("small,reward=sweetness", "reward must be 'qed_sa', 'logp_window' or 'docking'"),
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
        ("small,logp_width=0", "logp_width"),
        ("small,block=3", "unknown key 'block'"),
    ],
)
def test_impossible_tasks_are_refused(text, words):
    with pytest.raises(GenflowError, match=words) as caught:
        Structure.parse("molecule", text)
    assert "\n" not in str(caught.value)


def test_blocks_that_cannot_be_joined_are_refused():
    with pytest.raises(GenflowError, match="no two of the blocks Cl, F, Br can be joined"):
        env_of((2, 8, 9), 3).make()


def test_what_needs_every_state_is_refused_where_there_are_too_many():
    with pytest.raises(
        GenflowError, match=r"the state graph needs every state.*225,161,031 states \(the limit is 200,000\)"
    ):
        env_of(20, 5).graph  # noqa: B018
    with pytest.raises(GenflowError, match=r"zoo.objective=tb"):
        env_of(20, 5).require_expert()
