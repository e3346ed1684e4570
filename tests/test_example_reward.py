"""The rewards of examples/own_reward.py, as a user of the command line meets them."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
from processes import Job, genflow, refused
from rdkit import Chem
from rdkit.Chem import Descriptors

from genflow import Population, Structure

PLUGIN = ["--plugin", Path(__file__).parents[1] / "examples" / "own_reward.py"]
FEW = ["-o", "finetune.steps=2", "-o", "finetune.batch_size=8"]
#: what is paid to everything, in terms of the structure
ASK = """
import json, sys, genflow
genflow.load_plugin(sys.argv[1])
structure = genflow.Population.load(sys.argv[2]).structure
graph = structure.solution.graph
states = graph.states[graph.can_exit]
rewards = structure.transitions().log_reward(states).exp().tolist()
print(json.dumps([structure.gallery.names(states) if len(sys.argv) > 3 else states.tolist(), rewards]))
"""


def paid(folder: Path, *more: str) -> dict:
    asked = Job("-c", ASK, PLUGIN[1], folder, *more, command=[sys.executable]).wait()
    objects, rewards = json.loads(asked.stdout)
    return dict(zip(map(str, objects), rewards, strict=True))


def test_a_reward_of_grids(tmp_path):
    start, made = tmp_path / "start", tmp_path / "made"
    Population.initialised(Structure.parse("hypergrid", "ndim=2,height=4"), 2, 0).save(start)
    asked = ["finetune", start, "--structure", "ndim=2,height=4,reward=diagonal", *FEW, "--out", made]
    genflow(*PLUGIN, *asked)
    found = paid(made / "finetuned")
    expected = {str([x, y]): 0.01 + math.exp(-abs(x - y)) for x, y in itertools.product(range(4), range(4))}
    assert found == pytest.approx(expected)
    assert "reward=diagonal" in genflow(*PLUGIN, "evaluate", made, "--metric", "js").stdout
    assert "--plugin FILE.py" in refused("evaluate", made)


def test_a_reward_of_molecules(tmp_path):
    blocks = "blocks=0+3+6,max_blocks=3"
    Population.initialised(Structure.parse("molecule", blocks), 2, 0).save(tmp_path / "start")
    asked = ["finetune", tmp_path / "start", "--structure", f"{blocks},beta=2,reward=light,most=400"]
    genflow(*PLUGIN, *asked, *FEW, "--out", tmp_path / "made")
    found = paid(tmp_path / "made" / "finetuned", "names")
    weights = {smiles: Descriptors.MolWt(Chem.MolFromSmiles(smiles)) for smiles in found}
    assert found == pytest.approx({s: max(0.001, 1 - weight / 400) ** 2 for s, weight in weights.items()})
    asked = [*PLUGIN, "generate", "--env", "molecule", "--structure", f"{blocks},reward=light", "--num", "2"]
    genflow(*asked, "--out", tmp_path / "generated")
    assert "reward=light" in genflow(*PLUGIN, "evaluate", tmp_path / "generated", "--metric", "js").stdout
