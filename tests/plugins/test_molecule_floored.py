"""A reward that pays for nothing is told in one line, once, with what to do."""

from __future__ import annotations

import pytest
from genflow_molecule import exclusion
from genflow_molecule.floored import FIRST
from oracles import lively
from processes import quickly
from test_molecule import structure

from genflow import Population, Structure


def said(capsys, number: int = 600, **fields) -> list[str]:
    own = structure((0, 3, 6, 12), 3, **fields)
    capsys.readouterr()
    for seed in range(3):
        lively(own, 2, seed).rollouts(number // 6, seed)
    return [line for line in capsys.readouterr().err.splitlines() if "pays for nothing" in line]


def test_what_no_molecule_meets_is_named(capsys):
    profile = "!qed:>0.99; mw:<400; heavy:100..120"
    (line,) = said(capsys, reward="profile", profile=profile)
    assert line.startswith("warning: reward profile pays for nothing: the first ")
    assert "they fail " in line and "!qed:>=0.99 (100% of them)" in line
    assert "heavy:100..120 (100% of them)" in line and "mw" not in line
    assert "widen these ranges" in line


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (FIRST - 6, {"reward": "profile", "profile": "!qed:>0.99"}),  # too few to say
        (600, {"reward": "profile", "profile": "!qed:>0.6"}),  # some meet it
        (600, {}),
    ],
)
def test_nothing_is_said_without_reason(capsys, number, fields):
    assert not said(capsys, number, beta=7.5, **fields)


def test_where_all_are_kept_out_the_catalogue_is_named(capsys, monkeypatch):
    monkeypatch.setattr(exclusion, "_has_alert", lambda smiles, catalogue: True)
    own = Structure.build("molecule", {"blocks": (6, 12), "max_blocks": 2, "exclude": "unstable", "width": 8})
    lively(own, 2).rollouts(FIRST)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "pays for nothing" in line]
    assert "all have an alert of a catalogue of `exclude`" in line


def test_a_training_tells_of_it(tmp_path):
    own = structure((0, 3, 6), 3, reward="profile", profile="!mw:>900")
    Population.initialised(own, 2, 0).save(tmp_path / "start")
    few = ["-o", "finetune.steps=4", "-o", "finetune.compare=false"]
    asked = ["finetune", tmp_path / "start", *few, "--out", tmp_path / "made"]
    error = quickly(*asked, folder=tmp_path / "said").said("stderr")
    assert error.count("reward profile pays for nothing") == 1
    assert "they fail !mw:>=900 (100% of them)" in error


def test_describing_a_vocabulary_tells_of_it(capsys):
    own = structure((0, 3, 6, 12), 4, reward="profile", profile="!mw:>900")
    capsys.readouterr()
    own.layout.units["input"].amounts  # noqa: B018  asks for what is told
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "pays for nothing" in line]
    assert "they fail !mw:>=900 (100% of them)" in line
