"""What is told of inputs and actions: the same chemistry in every vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from genflow_molecule import block_features
from genflow_molecule.block_features import PROBES, describe_atom, outline_block, probe_score
from genflow_molecule.features import PARTNERS
from genflow_molecule.vocabulary import Block
from oracles import lively
from rdkit import Chem
from test_molecule import SETS, structure, walk

from genflow.caching import ByteCache

TASKS = [(12, 3), (5, 2), *((blocks, n) for blocks in SETS for n in (2, 4))]
WITH_FULL = [*TASKS, pytest.param(72, 8, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("blocks", "max_blocks"), WITH_FULL, ids=str)
def test_every_unit_is_described_by_itself(blocks, max_blocks):
    layout = structure(blocks, max_blocks).layout
    for label, number, widths in (
        ("input", layout.shapes["net.0.weight"][1], (336, 18)),
        ("action", layout.shapes["net.4.weight"][0], (326, 16)),
    ):
        units = layout.units[label]
        assert units.categories == {}
        for table, width in zip((units.amounts, units.coordinates), widths, strict=True):
            assert table.shape == (number, width)
            # isomers may share a place, but not a description
            assert len(table.unique(dim=0)) == number or (table is units.coordinates and blocks == 72)
            assert torch.isfinite(table).all()


def test_what_asks_the_reward_waits_until_it_is_read(monkeypatch):
    from genflow_molecule import features

    def refuse(*_):
        raise AssertionError("the reward is asked")

    monkeypatch.setattr(features, "describe_entries", refuse)
    layout = structure((4, 7, 12), 3).layout
    assert layout.units["input"].coordinates.shape[1] == 18
    with pytest.raises(AssertionError, match="asked"):
        layout.units["input"].amounts  # noqa: B018


@pytest.mark.parametrize(("blocks", "max_blocks"), WITH_FULL, ids=str)
def test_the_last_action_alone_is_exit(blocks, max_blocks):
    layout = structure(blocks, max_blocks).layout
    for table in (layout.units["action"].amounts, layout.units["action"].coordinates):
        assert table[:, 0].nonzero().flatten().tolist() == [len(table) - 1]
        assert not table[-1, 1:].any()


def test_an_entry_is_told_the_same_wherever_it_stands():
    task = structure((0, 3, 6, 29), 5)
    environment = task.environment
    entries, described = len(environment.entries), environment.descriptions.entries
    inputs, actions = environment.descriptions.inputs(), environment.descriptions.actions()
    width = described.shape[1]
    for states, taken in walk(task, 20):
        active = task.transitions().one_hot_indices(states)
        for state, ones, action in zip(states.tolist(), active.tolist(), taken.tolist(), strict=True):
            slots = [state[i : i + 3] for i in range(0, 15, 3)]
            told = inputs[ones]
            entry_rows = told[told[:, 10] == 1]
            assert entry_rows[:, :8].equal(torch.eye(8)[:5])  # slot by slot
            for (entry, *_), row in zip(slots, entry_rows, strict=True):
                assert row[9] == (entry == 0)
                assert row[-width:].equal(described[entry - 1] if entry else torch.zeros(width))
            place_rows = told[told[:, 11] == 1]
            for (entry, parent, stem), row in zip(slots[2:], place_rows, strict=True):
                where = row[12:24]
                assert where.nonzero().flatten().tolist() == ([parent, 8, 9 + stem] if entry else [])
            if action < len(actions) - 1:
                row, (site, entry) = actions[action], divmod(action, entries)
                assert row[-width:].equal(described[entry])
                assert row[1] == (site == 0)
                if site:
                    assert row[2:14].nonzero().flatten().tolist() == [
                        1 + (site - 1) // environment.trees.n_stems,
                        8,  # the slot as an amount
                        9 + (site - 1) % environment.trees.n_stems,
                    ]


def rewarded(environment) -> torch.Tensor:
    """(E, .) what is told of entries from the score of their block on, up to the probes."""
    block, atom = environment.entries[0].block, environment.entries[0].attachment
    first = len(outline_block(block)) + len(describe_atom(block, atom)) + 1
    return environment.descriptions.entries[:, first : first + 10 + len(PROBES)]


def test_what_the_reward_says_of_a_block_in_every_place_and_of_probes():
    # so few that nothing is left out
    task = structure((2, 11), 3, beta=3.0)
    environment = task.environment
    entries, score, graph = environment.entries, environment.catalogue.score, task.solution.graph
    slots = graph.states.unflatten(1, (3, 3))
    scores = torch.tensor(
        [score(smiles) if smiles else 0.0 for smiles in environment.catalogue.smiles(graph.states)]
    )
    sizes = (slots[..., 0] > 0).sum(1)
    for number, (entry, told) in enumerate(zip(entries, rewarded(environment).tolist(), strict=True)):
        expected = [score(entry.block.smiles)]
        for size, place in ((2, 0), (3, 1), (3, 2)):
            own = scores[(sizes == size) & (slots[:, place, 0] == number + 1)].double()
            assert len(own) <= PARTNERS
            mean = (
                [float(own.mean()), float(own.max()), math.log(float((own**3).mean())) / 6]
                if len(own)
                else [0.0, 0.0, 0.0]
            )
            expected += mean
        expected += [probe_score(entry.block, entry.attachment, index, score) for index in range(len(PROBES))]
        assert told == pytest.approx(expected, rel=1e-5)
    window = structure((2, 11), 3, beta=3.0, reward="logp_window").environment
    assert (rewarded(window) != rewarded(environment)).float().mean() > 0.8
    assert window.descriptions.outline.keys() == environment.descriptions.outline.keys()


def test_probes_are_bonded_to_the_atom():
    pyridine = Block(smiles="c1ccncc1", stems=(0,), attachments=(0,))
    asked: list[str] = []
    told = [
        probe_score(pyridine, 0, number, lambda smiles: asked.append(smiles) or 0.5)
        for number in range(len(PROBES))
    ]
    assert told == pytest.approx([math.log(0.5) / 2] * len(PROBES))
    whole = ["Cc1ccncc1", "c1ccc(-c2ccncc2)cc1", "NC(=O)c1ccncc1", "C1CC(c2ccncc2)CCN1"]
    assert asked[:4] == [Chem.CanonSmiles(smiles) for smiles in whole]
    bonds = Chem.MolFromSmarts("[c;$(c1ccncc1)]-!@*")
    assert all(len(Chem.MolFromSmiles(smiles).GetSubstructMatches(bonds)) >= 1 for smiles in asked)
    assert len(set(asked)) == len(PROBES)


def test_atoms_of_one_kind_are_told_alike_and_others_apart():
    pyridine = Block(smiles="c1ccncc1", stems=(0,), attachments=(0,))
    told = [tuple(describe_atom(pyridine, atom).values()) for atom in range(6)]
    assert told[1] == pytest.approx(told[5]) and told[2] == pytest.approx(told[4])
    assert len(set(told[:4])) == 4


def test_conditions_have_one_length_and_tell_vocabularies_apart():
    conditions = [structure(blocks, n, beta=beta).condition() for blocks, n in TASKS for beta in (4.0, 8.0)]
    assert {len(condition) for condition in conditions} == {30}
    assert len(torch.stack(conditions).unique(dim=0)) == len(conditions)
    roles = structure(reward="logp_window").roles()
    del roles["width"]  # the policy's
    assert {key for key, role in roles.items() if role == "size"} == {"max_blocks"}
    assert {key for key, role in roles.items() if role == "fixed"} == {"min_blocks"}
    assert {key for key, role in roles.items() if role == "described"} == {
        "blocks", "vocabulary", "beta", "reward", "logp_centre", "logp_width", "multiplicity",
        "exclude",
    }  # fmt: skip


def test_conditions_tell_rewards_apart():
    told = {
        name: structure(reward=name).environment.condition() for name in ("qed_sa", "logp_window", "docking")
    }
    assert [condition["reward"] for condition in told.values()] == [0, 1, 2]
    assert [condition["logp_centre"] for condition in told.values()] == [0, 2.5, 0]
    assert [condition["logp_width"] for condition in told.values()] == [0, 1, 0]


def test_policies_of_any_task_have_finite_logits():
    # whatever the task, and wherever its policies are
    assert torch.isfinite(lively(structure(5, 2), 1).rollouts(4).logits).all()


def test_what_is_known_of_blocks_is_shared_by_equal_ones_and_bounded_in_bytes(monkeypatch):
    asked = []
    monkeypatch.setattr(block_features, "_cache", ByteCache(2000))
    monkeypatch.setattr(block_features, "properties", lambda mol: asked.append(mol) or [float(len(asked))])

    def block(smiles: str = "CCO") -> Block:
        return Block(smiles=smiles, stems=(0,), attachments=(0,))

    assert [block_features.cap_properties(block(), ()) for _ in range(2)] == [[1.0], [1.0]]
    for size in range(1, 200):
        block_features.cap_properties(block("C" * size), ())
    assert block_features.cap_properties(block(), ()) == [201.0]
