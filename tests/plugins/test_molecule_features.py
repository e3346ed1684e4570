"""What is told of inputs and actions: the same chemistry in every vocabulary."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from genflow_molecule.block_features import describe_atom
from genflow_molecule.regression import CALLS
from genflow_molecule.vocabulary import Block
from oracles import lively
from test_molecule import SETS, structure, walk

TASKS = [(12, 3), (5, 2), *((blocks, n) for blocks in SETS for n in (2, 4))]
WITH_FULL = [*TASKS, pytest.param(72, 8, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("blocks", "max_blocks"), WITH_FULL, ids=str)
def test_every_unit_is_described_by_itself(blocks, max_blocks):
    layout = structure(blocks, max_blocks).layout
    for label, number, widths in (
        ("input", layout.shapes["net.0.weight"][1], (292, 18)),
        ("action", layout.shapes["net.4.weight"][0], (282, 16)),
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

    monkeypatch.setattr(features, "ask", refuse)
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
    inputs, actions = environment.descriptions.inputs(described), environment.descriptions.actions(described)
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


def test_describing_asks_for_few_molecules_each_once_and_another_task_tells_other_amounts():
    asked: list[str] = []
    task = structure(12, 3, beta=3.0)
    score = task.environment.catalogue.score

    def counted(smiles):
        asked.extend(smiles)
        return type(score).scores(score, smiles)

    task.environment.catalogue.score = SimpleNamespace(scores=counted)
    told = task.environment.descriptions.entries
    assert len(asked) == CALLS and len(set(asked)) > 0.8 * CALLS  # some trees are the same molecule
    for fields in ({"reward": "logp_window"}, {"beta": 9.0}):
        assert (structure(12, 3, **fields).environment.descriptions.entries != told).float().mean() > 0.2


def test_atoms_of_one_kind_are_told_alike_and_others_apart():
    pyridine = Block(smiles="c1ccncc1", stems=(0,), attachments=(0,))
    told = [tuple(describe_atom(pyridine, atom).values()) for atom in range(6)]
    assert told[1] == pytest.approx(told[5]) and told[2] == pytest.approx(told[4])
    assert len(set(told[:4])) == 4


def test_conditions_have_one_length_and_tell_vocabularies_apart():
    conditions = [structure(blocks, n, beta=beta).condition() for blocks, n in TASKS for beta in (4.0, 8.0)]
    assert {len(condition) for condition in conditions} == {26}
    # what is paid is told of units alone
    assert len(torch.stack(conditions).unique(dim=0)) == len(TASKS)
    roles = structure(reward="logp_window").roles()
    del roles["width"]  # the policy's
    assert {key for key, role in roles.items() if role == "size"} == {"max_blocks"}
    assert "fixed" not in roles.values() and roles["min_blocks"] == "told"
    assert {key for key, role in roles.items() if role == "described"} == {
        "blocks", "vocabulary", "multiplicity",
    }  # fmt: skip
    assert {key for key, role in roles.items() if role == "told"} == {
        "beta", "reward", "logp_centre", "logp_width", "exclude", "min_blocks",
    }  # fmt: skip


def test_policies_of_any_task_have_finite_logits():
    # whatever the task, and wherever its policies are
    assert torch.isfinite(lively(structure(5, 2), 1).rollouts(4).logits).all()
