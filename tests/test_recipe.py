"""What the default recipes reach on the structures that the README speaks of.

Minutes each, so `make test-all` runs them.
"""

import json
import subprocess
import sys

import pytest

from genflow import Zoo, load_config
from genflow.progress import Progress
from genflow.stages.autoencoder import train_autoencoder
from genflow.stages.zoo import train_zoo

QUIET = Progress(quiet=True)
BOUNDS = {"A": 0.02, "B": 0.01, "C": 0.01, "D": 0.01, "ndim=4,height=8,width=128": 0.01}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    config = load_config(env="hypergrid", structures=list(BOUNDS))
    return train_zoo(
        config, config.training_structures(), config.zoo, tmp_path_factory.mktemp("recipe") / "zoo", QUIET
    )


@pytest.mark.parametrize("name", BOUNDS)
def test_the_default_zoo_recipe_samples_the_target(zoo, name):
    config = load_config(env="hypergrid", structures=[name])
    members = zoo.get(config.training_structures()[0]).provenance["members"]
    assert len(members) == 32
    assert sum(member["metrics"]["js"] for member in members) / len(members) <= BOUNDS[name]


def test_the_plain_mse_autoencoder_keeps_behaviour(zoo, tmp_path):
    config = load_config(env="hypergrid")
    assert config.autoencoder.kl_scale == 0
    train_autoencoder(config, zoo, tmp_path / "autoencoder", QUIET)
    for entry in json.loads((tmp_path / "autoencoder" / "autoencoder.json").read_text())["reconstruction"]:
        assert entry["metrics"]["js"]["reconstructed"] <= entry["metrics"]["js"]["member"] + 0.01, entry


def test_large_grids_are_evaluated_exactly_in_bounded_memory(tmp_path):
    """D* (823,543 states) and H* (390,625): sums are 1, within a peak of 4 GiB for eight policies at once."""
    script = """
import resource, sys
from genflow import Population, Structure
for name in ("D*", "H*"):
    q = Population.initialised(Structure.parse("hypergrid", name), 8, 0).terminal_distribution()
    assert q.shape[0] == 8 and (q.sum(1) - 1).abs().max() < 1e-9, name
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True
    )
    assert float(done.stdout) < 4.0


def test_the_zoo_can_be_opened_again(zoo):
    assert len(Zoo(zoo.folder).populations) == len(BOUNDS)
