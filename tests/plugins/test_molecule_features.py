"""What is told of inputs and actions: the same chemistry in every vocabulary, and nothing that reads as a name."""

from __future__ import annotations

import pytest
import torch
from genflow_molecule.features import PARTNERS, REWARDED, describe_atom
from oracles import lively
from rdkit import Chem
from rdkit.Chem import QED
from test_molecule import SETS, structure, walk

TASKS = [(12, 3), (72, 8), (5, 2), *((blocks, n) for blocks in SETS for n in (2, 4))]


@pytest.mark.parametrize(("blocks", "max_blocks"), TASKS, ids=str)
def test_every_unit_is_described_by_itself_and_no_column_reads_as_a_name(blocks, max_blocks):
    layout = structure(blocks, max_blocks).layout
    for tables in (layout.features, layout.coordinates):
        for label, units in (("input", layout.shapes["net.0.weight"][1]), ("action", layout.shapes["net.4.weight"][0])):
            table = tables[label]
            assert len(table) == units == len(table.unique(dim=0))
            assert torch.isfinite(table).all()
            assert [c for c, values in enumerate(table.T) if values.equal(values.round()) and values.max() > 1] == []
    widths = {(what, label): table.shape[1] for what in ("features", "coordinates") for label, table in getattr(layout, what).items()}
    assert widths == {("features", "input"): 177, ("features", "action"): 168, ("coordinates", "input"): 17, ("coordinates", "action"): 15}


@pytest.mark.parametrize(("blocks", "max_blocks"), TASKS, ids=str)
def test_the_last_action_alone_is_exit(blocks, max_blocks):
    layout = structure(blocks, max_blocks).layout
    for table in (layout.features["action"], layout.coordinates["action"]):
        assert table[:, 0].nonzero().flatten().tolist() == [len(table) - 1]
        assert not table[-1, 1:].any()


def test_an_entry_is_told_the_same_wherever_it_stands():
    environment = structure((0, 3, 6, 29), 5).environment
    entries, described = len(environment.entries), environment.descriptions.entries
    inputs, actions = environment.descriptions.inputs(), environment.descriptions.actions()
    width = described.shape[1]
    for states, taken in walk(environment, 20):
        active = environment.active(states)
        for state, ones, action in zip(states.tolist(), active.tolist(), taken.tolist(), strict=True):
            slots = [state[i : i + 3] for i in range(0, 15, 3)]
            told = inputs[ones]
            entry_rows = told[told[:, 9] == 1]
            assert entry_rows[:, :8].equal(torch.eye(8)[:5])  # slot by slot
            for (entry, *_), row in zip(slots, entry_rows, strict=True):
                assert row[8] == (entry == 0)
                assert row[-width:].equal(described[entry - 1] if entry else torch.zeros(width))
            place_rows = told[told[:, 10] == 1]
            for (entry, parent, stem), row in zip(slots[2:], place_rows, strict=True):
                where = row[11:22]
                assert where.nonzero().flatten().tolist() == ([parent, 8 + stem] if entry else [])
            if action < len(actions) - 1:
                row, (site, entry) = actions[action], divmod(action, entries)
                assert row[-width:].equal(described[entry])
                assert row[1] == (site == 0)
                if site:
                    assert row[2:13].nonzero().flatten().tolist() == [
                        1 + (site - 1) // environment.trees.n_stems,
                        8 + (site - 1) % environment.trees.n_stems,
                    ]


def test_what_the_reward_says_of_a_block_and_of_pairs():
    environment = structure((0, 2, 3), 3).environment
    named, entries = environment.descriptions.named, environment.entries
    for number, entry in enumerate(entries):
        assert float(named["score"][number]) == pytest.approx(environment.catalogue.score(entry.block.smiles))
        assert float(named["drug_likeness"][number]) == pytest.approx(QED.qed(Chem.MolFromSmiles(entry.block.smiles)))
        pairs = [
            environment.catalogue.score(environment.catalogue.smiles(torch.tensor([[number + 1, 0, 0, other + 1, 0, 0, 0, 0, 0]]))[0])
            for other in range(len(entries))
            if environment.trees.fits_root[number, other]
        ]
        assert len(pairs) <= PARTNERS
        assert float(named["pairs"][number]) == pytest.approx(sum(pairs) / len(pairs))
        assert float(named["best_pair"][number]) == pytest.approx(max(pairs))
    window = structure((0, 2, 3), 3, reward="logp_window").environment.descriptions.named
    assert all(not window[name].equal(named[name]) for name in REWARDED)
    assert window["drug_likeness"].equal(named["drug_likeness"])


def test_atoms_of_one_kind_are_told_alike_and_others_apart():
    pyridine = Chem.MolFromSmiles("c1ccncc1")
    told = [tuple(describe_atom(pyridine, atom).values()) for atom in range(6)]
    assert told[1] == pytest.approx(told[5]) and told[2] == pytest.approx(told[4])
    assert len(set(told[:4])) == 4


def test_conditions_have_one_length_and_tell_vocabularies_apart():
    conditions = [structure(blocks, n, beta=beta).condition() for blocks, n in TASKS for beta in (4.0, 8.0)]
    assert {len(condition) for condition in conditions} == {50}
    assert len(torch.stack(conditions).unique(dim=0)) == len(conditions)
    assert set(structure().varying_fields()) == {"blocks", "max_blocks", "beta", "width"}
    # whatever the task, and wherever its policies are
    assert torch.isfinite(lively(structure(5, 2), 1).rollouts(4).logits).all()
