"""Rewards of molecules: anybody's are paid, what they return is checked, and each molecule is scored once."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from typing import ClassVar

import pytest
import torch
from genflow_molecule import scoring
from genflow_molecule.rewards import Docking, LogPWindow, QedSa, drug_likeness, ease, log_p
from genflow_molecule.scoring import FLOOR, MODE_SCORE, OVERHEAD, PATIENCE, scorer
from pydantic import Field
from rdkit import Chem
from test_molecule import structure

from genflow import ByteTable, GenflowError, Reward, RewardCalls, Schema, Structure
from genflow.registry import registry

SMILES = ["CCO", "c1ccccc1", "CC(=O)Nc1ccc(O)cc1", "NCCc1ccccc1"]


class Share(Reward):
    """The share of carbon atoms, to a power; knows what it was asked."""

    environment = "molecule"
    reads_task = False
    asked: ClassVar[list[str]] = []

    class Config(Schema):
        """`power`: of the share."""

        power: float = Field(default=1.0, gt=0)

    def score(self, objects):
        """The share of each molecule."""
        type(self).asked += [Chem.MolToSmiles(mol) for mol in objects]
        return [
            (sum(a.GetSymbol() == "C" for a in mol.GetAtoms()) / mol.GetNumAtoms()) ** self.config.power
            for mol in objects
        ]


@pytest.fixture
def share(monkeypatch):
    plugin = next(each for each in registry().plugins if each.name == "molecule")
    monkeypatch.setitem(plugin.targets["reward"], "molecule:share", f"{__name__}:Share")
    monkeypatch.setattr(Share, "asked", [])


def returning(values, name="Odd") -> Reward:
    """A reward of another class each time, so that nothing is remembered."""
    return type(
        name, (Reward,), {"environment": "molecule", "score": lambda self, objects: values(objects)}
    )()


def test_those_that_ship_are_their_definitions():
    mols = [Chem.MolFromSmiles(each) for each in SMILES]
    assert QedSa().score(mols) == [drug_likeness(mol) * ease(mol) for mol in mols]
    window = LogPWindow.from_config({"logp_centre": 1.0, "logp_width": 0.5})
    assert window.score(mols) == pytest.approx(
        [math.exp(-2 * (log_p(mol) - 1.0) ** 2) * ease(mol) for mol in mols]
    )
    assert all(0 <= score <= 1 for score in Docking().score(mols))
    assert {"docking", "logp_window", "profile", "qed_sa"} <= set(registry().names("reward", "molecule"))


def test_a_reward_of_somebody_else_is_paid(share):
    task = Structure.build("molecule", {"blocks": (0, 3, 6), "max_blocks": 3, "reward": "share", "power": 2})
    graph = task.solution.graph
    states = graph.states[graph.can_exit]
    shares = []
    for smiles in task.gallery.names(states):
        atoms = list(Chem.MolFromSmiles(smiles).GetAtoms())
        shares.append((sum(atom.GetSymbol() == "C" for atom in atoms) / len(atoms)) ** 2)
    assert task.transitions().log_reward(states).exp().tolist() == pytest.approx([s**8 for s in shares])
    assert task.transitions().is_mode(states).tolist() == [score >= MODE_SCORE for score in shares]
    assert "power=2.0" in task.name and task.fields()["power"] == 2.0
    assert len(task.condition()) == len(structure().condition())
    assert task.layout.units["input"].amounts.shape == (len(task.layout.units["input"]), 292)
    assert "share" in task.gallery.score


def test_each_molecule_is_scored_once_for_each_class_and_options(share):
    def paid(power, beta):
        fields = {"blocks": (0, 3), "max_blocks": 3, "reward": "share", "power": power, "beta": beta}
        return Structure.build("molecule", fields).solution.log_reward()

    first = paid(3, 4)
    assert len(Share.asked) == len(set(Share.asked)) > 5
    once = len(Share.asked)
    torch.testing.assert_close(paid(3, 8), 2 * first)
    assert len(Share.asked) == once
    paid(5, 4)
    assert len(Share.asked) == 2 * once


class Small(Share):
    """One for molecules of at most as many atoms as the task allows blocks, times four."""

    reads_task = True

    def score(self, objects):
        """By the number of blocks that the task allows."""
        return [float(mol.GetNumAtoms() <= 4 * self.task.max_blocks) for mol in objects]


def test_a_reward_that_reads_its_task_is_told_it_and_shares_no_scores(share, monkeypatch):
    plugin = next(each for each in registry().plugins if each.name == "molecule")
    monkeypatch.setitem(plugin.targets["reward"], "molecule:small", f"{__name__}:Small")
    found = {}
    for blocks in (2, 3):
        fields = {"blocks": (0, 3, 6), "max_blocks": blocks, "reward": "small", "beta": 1.0}
        task = Structure.build("molecule", fields)
        graph = task.solution.graph
        states = graph.states[graph.can_exit]
        names = task.gallery.names(states)
        atoms = [Chem.MolFromSmiles(smiles).GetNumAtoms() for smiles in names]
        scores = task.transitions().log_reward(states).exp()
        expected = [1.0 if count <= 4 * blocks else FLOOR for count in atoms]
        assert scores.tolist() == pytest.approx(expected)
        found[blocks] = dict(zip(names, expected, strict=True))
    # molecules that both tasks have, and score in another way
    assert any(found[3][smiles] != score for smiles, score in found[2].items())


def test_a_reward_that_shares_its_scores_is_not_told_the_first_task(share):
    for beta in (4, 8):
        fields = {"blocks": (0, 3), "max_blocks": 3, "reward": "share", "power": 9, "beta": beta}
        task = Structure.build("molecule", fields)
        assert task.environment.reward.task.beta == beta
        assert task.environment.catalogue.score is scorer(Share(Share.Config(power=9)))
    assert task.environment.catalogue.score._reward.task is None


def test_rewards_of_others_are_told_apart_by_what_they_pay(share, monkeypatch):
    def task(name):
        return Structure.build("molecule", {"blocks": 4, "max_blocks": 3, "reward": name})

    plugin = next(each for each in registry().plugins if each.name == "molecule")
    monkeypatch.setitem(plugin.targets["reward"], "molecule:small", f"{__name__}:Small")
    first, second = task("share"), task("small")
    assert first.condition().equal(second.condition())
    told = [each.environment.descriptions.entries for each in (first, second)]
    assert told[0].shape == told[1].shape and (told[0] != told[1]).any(0).float().mean() > 0.2


def test_a_reward_may_say_which_molecules_are_modes(share, monkeypatch):
    monkeypatch.setattr(
        Share, "is_mode", lambda self, objects: torch.tensor([mol.GetNumAtoms() == 12 for mol in objects])
    )
    task = Structure.build("molecule", {"blocks": (0, 3), "max_blocks": 3, "reward": "share", "power": 7})
    states = task.solution.graph.states
    names = task.gallery.names(states)
    expected = [bool(name) and Chem.MolFromSmiles(name).GetNumAtoms() == 12 for name in names]
    assert task.transitions().is_mode(states).tolist() == expected and 0 < sum(expected) < len(states)


WRONG = {
    "too few": (lambda mols: [0.5], "returned 1 score for 4 molecules, the first of which is CCO"),
    "too many": (lambda mols: [0.5] * 9, "returned 9 scores for 4 molecules"),
    "nan": (lambda mols: [math.nan] * len(mols), "is nan for CCO; a score must be a number from 0 to 1"),
    "above": (lambda mols: [100.0] * len(mols), "is 100.0 for CCO"),
    "text": (lambda mols: ["good"] * len(mols), "failed for CCO: "),
    "none": (lambda mols: None, "returned None; return a list of numbers"),
    "several lines": (
        lambda mols: exec("raise ValueError('one\\ntwo')"),
        "failed for CCO: ValueError: one two",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_reward_that_scores_nothing_is_refused_at_once(case):
    values, words = WRONG[case]
    with pytest.raises(GenflowError, match=words) as caught:
        scorer(returning(values)).scores(SMILES)
    assert "\n" not in str(caught.value)


def test_a_scale_to_a_hundred_is_refused_though_some_scores_fit():
    big = scorer(returning(lambda mols: [30.0 * mol.GetNumAtoms() - 29.5 for mol in mols]))
    assert big.scores(["C"]) == [0.5]
    with pytest.raises(
        GenflowError, match=r"is 30.5 for CC; .*, and 7 of the first 8 molecules score above 1: divide"
    ):
        big.scores(["C" * length for length in range(1, 9)])


def test_one_failure_alone_does_not_refuse_a_reward():
    fails = scorer(returning(lambda mols: exec("raise ValueError('odd')")))
    assert fails.scores(["C"]) == [FLOOR] == fails.scores(["CC"])
    with pytest.raises(GenflowError, match="failed for C: ValueError: odd; it scored none of the first 4"):
        fails.scores(["CCC", "CCCC"])


def test_scores_that_are_there_show_that_a_reward_works(tmp_path):
    fails = scorer(returning(lambda mols: exec("raise ValueError('odd')")))
    with RewardCalls(None, known=[(fails._identity, "C", 0.5)]).as_current():
        assert fails.scores(["C", "CC", "CCC"]) == [0.5, FLOOR, FLOOR]


def test_a_wrong_number_of_scores_says_what_stays(tmp_path):
    """In the file of the run, for as long as the function is the same."""
    from genflow import RewardCalls

    odd = scorer(returning(lambda mols: [0.5] * (len(mols) - any(mol.GetNumAtoms() == 6 for mol in mols))))
    with RewardCalls(tmp_path / "x.sqlite").as_current():
        odd.scores(["CCO", "CCCCN"])
        with pytest.raises(GenflowError, match="returned 0 scores for 1 molecule, ") as caught:
            odd.scores(["c1ccccc1"])
    assert "; what was scored before, 2 molecules, stays with the run" in str(caught.value)
    with RewardCalls(None).as_current(), pytest.raises(GenflowError) as caught:
        odd.scores(["c1ccncc1"])
    assert "stays with the run" not in str(caught.value)
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as store:
        rows = store.execute("SELECT object, score FROM scores ORDER BY object").fetchall()
    assert rows == [("CCCCN", 0.5), ("CCO", 0.5)]


def but_benzene(mol, value):
    return value if mol.GetNumAtoms() == 6 else 0.5


FAULTS = {
    "nan": (lambda mols: [but_benzene(mol, math.nan) for mol in mols], "is nan for c1ccccc1;"),
    "above": (lambda mols: [but_benzene(mol, 1.5) for mol in mols], "is 1.5 for c1ccccc1;"),
    "below": (lambda mols: torch.tensor([but_benzene(mol, -0.5) for mol in mols]), "is -0.5 for c1"),
    "fails": (
        lambda mols: [0.5 + 0 / (mol.GetNumAtoms() - 6) for mol in mols],
        "failed for c1ccccc1: ZeroDivisionError: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_one_molecule_without_a_score_costs_a_warning_and_no_run(case, capsys):
    values, words = FAULTS[case]
    assert scorer(returning(values)).scores(SMILES) == [0.5, FLOOR, 0.5, 0.5]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: reward Odd ") and words in line and line.endswith("it counts as 0.001")


def test_a_first_molecule_without_a_score_ends_no_counted_training(tmp_path, capsys):
    values, words = FAULTS["fails"]
    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert scorer(returning(values)).scores(["c1ccccc1", "CCO"]) == [FLOOR, 0.5]
        assert len(calls) == 2 and words in capsys.readouterr().err
        asked: list[int] = []
        broken = scorer(returning(lambda mols: asked.append(len(mols)) or 1 / 0))
        with pytest.raises(GenflowError, match="ZeroDivisionError"):
            broken.scores(["C" * length for length in range(1, 100)])
    assert sum(asked) <= 4 * PATIENCE and capsys.readouterr().err == ""


def test_faults_are_counted_and_told_by_the_decade(capsys):
    asked = scorer(returning(lambda mols: [0.5 if mol.GetNumAtoms() == 1 else math.nan for mol in mols]))
    asked.scores(["C", *("C" * n for n in range(2, 7))])
    asked.scores(["C" * n for n in range(7, 25)])  # a whole batch of them, later on
    lines = capsys.readouterr().err.splitlines()
    assert [" for CC; " in lines[0], lines[1].endswith("it counts as 0.001, as 9 others did")] == [True, True]
    assert len(lines) == 2


def test_what_a_reward_itself_says_of_a_mistake_is_kept():
    def refuse(_):
        raise GenflowError("the weights of the proxy are missing")

    with pytest.raises(GenflowError, match=r"^the weights of the proxy are missing$"):
        scorer(returning(refuse)).scores(SMILES)


def test_low_scores_are_floored_and_what_is_no_molecule_has_the_least():
    scores = scorer(returning(lambda mols: [0.0, 5e-4, 0.5][: len(mols)]))
    assert scores.scores(["", "C", "not", "CC", "CCC", "C"]) == [FLOOR, FLOOR, FLOOR, FLOOR, 0.5, FLOOR]


def test_nothing_of_a_batch_that_was_interrupted_is_kept():
    asked = []

    def interrupted(mols):
        asked.append(len(mols))
        if len(asked) == 1:
            raise KeyboardInterrupt
        return [0.25] * len(mols)

    scores = scorer(returning(interrupted))
    with pytest.raises(KeyboardInterrupt):
        scores.scores(SMILES)
    assert scores.scores(SMILES) == [0.25] * 4 and asked == [4, 4]


def test_scores_are_kept_up_to_a_bound_in_bytes(monkeypatch):
    # values do not depend on what had to go
    monkeypatch.setattr(scoring, "_scores", ByteTable(2 * OVERHEAD + 200))
    scores = scorer(returning(lambda mols: [mol.GetNumAtoms() / 100 for mol in mols]))
    assert [scores.scores(SMILES) for _ in range(3)] == [[0.03, 0.06, 0.11, 0.09]] * 3
    assert [scores(each) for each in SMILES] == [0.03, 0.06, 0.11, 0.09]
