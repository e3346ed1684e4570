"""The whole job beside the generator that ships."""

from __future__ import annotations

import pytest
from genflow_hypergrid.environment import Hypergrid

import genflow
from genflow import GenflowError, Population, load_config

TINY = {
    "zoo.num": 2, "zoo.steps": 4, "autoencoder.steps": 2, "diffusion.steps": 2, "train_tests": False,
    "diffusion.options": {"channels": [8]}, "generate.num": 2, "evaluation.num": 2,
    "evaluation.pretrained": True, "structures": ["ndim=2,height=12,width=32"],
}  # fmt: skip


def test_policies_of_the_shipped_generator_stand_beside_the_runs_own(tmp_path, capsys):
    tests = ["ndim=2,height=5,width=32", "ndim=2,height=5,width=20"]
    config = load_config(env="hypergrid", test_structures=tests, **TINY)
    entries = genflow.run(config, tmp_path / "run")
    js = {(e["name"], e["source"]): e["metrics"]["js"]["mean"] for e in entries}
    assert js[tests[0], "pretrained"] < 0.02 < js[tests[0], "generated"]
    assert (tests[1], "pretrained") not in js and (tests[1], "generated") in js
    assert f"pretrained: no generator covers {tests[1]}: " in capsys.readouterr().err
    made = Population.load(tmp_path / "run" / "pretrained" / tests[0])
    assert made.source == "pretrained" and not made.seen


def test_a_run_beside_a_shipped_generator_that_is_not_there_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Hypergrid, "pretrained", ())
    with pytest.raises(GenflowError, match="no generator ships for 'hypergrid'; take"):
        genflow.run(load_config(env="hypergrid", **TINY), tmp_path / "run")
    assert not (tmp_path / "run" / "zoo").exists()
