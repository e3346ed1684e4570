"""examples/genflow-line, installed beside genflow as a third party would, runs through the whole chain."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracles import Lookup
from safetensors.torch import load_file

from genflow import Structure, load_config
from genflow.exact import terminal_distribution

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "genflow-line"
RECIPE = EXAMPLE / "recipe.toml"
GUIDE = (REPOSITORY / "docs" / "plugins.md").read_text()
WALK = GUIDE.partition("## A walk through examples/genflow-line\n")[2].partition("\n## ")[0]
SHORT, LONG, BETWEEN = ({"length": length, "floor": 0.05, "width": 8} for length in (8, 12, 10))
#: budgets that take a second
TINY_MODELS = ["-o", "autoencoder.steps=4", "-o", "autoencoder.batch_size=4", "-o", "diffusion.steps=4"]


def fields(structure: dict) -> str:
    return ",".join(f"{key}={value}" for key, value in structure.items())


def snapshot() -> dict[str, bytes | None]:
    """The names at the top of the repository, and every byte of the example."""
    files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
    return {path.name: None for path in REPOSITORY.iterdir()} | {
        str(path): path.read_bytes() for path in files
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder for PYTHONPATH that holds nothing but the installed example."""
    before = snapshot()
    folder = tmp_path_factory.mktemp("line")
    # a build leaves files beside its sources
    source = shutil.copytree(
        EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *offline, str(source)], check=True, cwd=folder)
    yield folder / "site"
    assert snapshot() == before


@pytest.fixture(scope="module")
def genflow(site, tmp_path_factory):
    """Run the command line in a folder of its own, with the example installed.

    It returns standard output, or the errors where another status than 0 is expected.
    """
    folder = tmp_path_factory.mktemp("work")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GENFLOW_")}
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))

    def run(*args: str, status: int = 0) -> str:
        environ = {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "genflow", *args], cwd=folder, env=environ, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def zoo(genflow):
    budget = ["--num", "4", "-o", "zoo.steps=200", "-o", "zoo.batch_size=16"]
    out = genflow(
        "train-zoo",
        "--env",
        "line",
        "--structure",
        "short,width=8",
        "--structure",
        fields(LONG),
        *budget,
        "--out",
        "zoo",
        "--json",
    )
    return json.loads(out)


@pytest.fixture
def line(site, monkeypatch):
    """The installed module, under a name of its own: another test may have imported that of the folder."""
    spec = importlib.util.spec_from_file_location("installed_genflow_line", site / "genflow_line.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where pydantic looks types up
    spec.loader.exec_module(module)
    return module


def test_it_is_listed_with_its_own_distribution(genflow):
    plugins = {
        plugin["name"]: plugin
        for plugin in json.loads(genflow("list-plugins", "--json", "--check"))["plugins"]
    }
    assert plugins["line"] == {
        "name": "line",
        "version": "0.1.0",
        "distribution": "genflow-line",
        "provides": {"environment": ["line"]},
        "error": None,
    }
    assert plugins["hypergrid"]["distribution"] in (
        "genflownet",
        "genflow",
    )  # before `make setup` is run again


def test_installing_it_does_not_make_genflow_import_torch(site):
    code = (
        "import sys; from genflow.registry import registry;"
        " print(registry().names('environment'), 'torch' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=site, env=environ, capture_output=True, text=True, check=True
    )
    names, _, torch_is_there = done.stdout.strip().rpartition(" ")
    assert "'line'" in names
    assert torch_is_there == "False"


def test_a_zoo_is_trained_and_stored(genflow, zoo):
    found = sorted(
        ((entry["env"], entry["structure"], entry["num"]) for entry in zoo),
        key=lambda entry: entry[1]["length"],
    )
    assert found == [("line", SHORT, 4), ("line", LONG, 4)]
    for structure in (SHORT, LONG):
        folder = genflow.folder / "zoo" / f"length={structure['length']},width=8"
        facts = json.loads((folder / "population.json").read_text())
        assert (facts["env"], facts["policy"], facts["structure"]) == ("line", "mlp3", structure)
        shapes = {
            name: tuple(tensor.shape) for name, tensor in load_file(folder / "population.safetensors").items()
        }
        assert shapes == {
            "net.0.weight": (4, 8, structure["length"]),
            "net.0.bias": (4, 8),
            "net.2.weight": (4, 8, 8),
            "net.2.bias": (4, 8),
            "net.4.weight": (4, 2, 8),
            "net.4.bias": (4, 2),
        }


def test_trained_policies_are_better_than_random_ones(genflow, zoo):
    entries = json.loads(genflow("evaluate", "zoo", "--baseline", "random", "--json"))
    for structure in (SHORT, LONG):
        trained, random = (
            next(e["metrics"] for e in entries if e["structure"] == structure and e["source"] == s)
            for s in ("trained", "random")
        )
        # the exact metrics come with n_states
        assert {"js", "kl", "l1", "log_z_error", "mean_reward"} <= trained.keys()
        assert trained["js"]["mean"] < random["js"]["mean"] / 10
        assert trained["mean_reward"]["mean"] > random["mean_reward"]["mean"]


@pytest.mark.slow
def test_policies_of_an_unseen_length_are_generated_and_measured(genflow, zoo):
    common = ["--env", "line", "--zoo", "zoo", "--out", "mine", *TINY_MODELS, "--json"]
    rebuilt = json.loads(genflow("train-ae", *common))["reconstruction"]
    assert {entry["structure"]["length"] for entry in rebuilt} == {8, 12}
    card = json.loads(genflow("train-ldm", *common))
    assert (card["env"], card["condition_size"]) == ("line", 2)  # length and width
    assert sorted(s["length"] for s in card["training_structures"]) == [8, 12]

    wanted = [
        "--structure",
        fields(BETWEEN),
        "--num",
        "3",
        "--generator",
        "mine",
        "--out",
        "policies",
        "-o",
        "generate.steps=3",
    ]
    facts = json.loads(genflow("generate", "--env", "line", *wanted, "--json"))
    assert [(f["structure"], f["num"], f["seen"]) for f in facts] == [(BETWEEN, 3, False)]
    assert load_file(genflow.folder / "policies" / "population.safetensors")["net.0.weight"].shape == (
        3,
        8,
        10,
    )

    entries = json.loads(genflow("evaluate", "policies", "--zoo", "zoo", "--json"))
    assert [entry["source"] for entry in entries] == ["generated", "random", "mean", "nearest", "perturbed"]
    for entry in entries:
        assert (entry["env"], entry["structure"], entry["seen"]) == ("line", BETWEEN, False)
        assert (
            0
            <= entry["metrics"]["js"]["min"]
            <= entry["metrics"]["js"]["mean"]
            <= entry["metrics"]["js"]["max"]
            <= math.log(2)
        )
        assert 0.05 <= entry["metrics"]["mean_reward"]["mean"] <= 2.1  # the bounds of the reward


def test_one_file_runs_the_whole_job(genflow):
    (genflow.folder / "line.toml").write_text("""
        env = "line"
        structures = ["short,width=8", { length = 12, width = 8 }]
        test_structures = ["length=10,width=8"]
        zoo = { num = 2, steps = 20, batch_size = 8 }
        autoencoder = { steps = 3, batch_size = 2 }
        diffusion = { steps = 3 }
        generate = { num = 2, steps = 2 }
        evaluation = { num = 2, metrics = ["js"] }
    """)
    entries = json.loads(genflow("run", "line.toml", "--out", "job", "--json"))
    for structure, seen in ((SHORT, True), (LONG, True), (BETWEEN, False)):
        own = [entry for entry in entries if entry["structure"] == structure]
        assert [entry["source"] for entry in own] == [
            "trained",
            "generated",
            "random",
            "mean",
            "nearest",
            "perturbed",
        ]
        assert {entry["seen"] for entry in own} == {seen}
        assert all(0 <= entry["metrics"]["js"]["mean"] <= math.log(2) for entry in own)
    job = genflow.folder / "job"
    assert json.loads((job / "evaluation.json").read_text())["entries"] == entries
    found = {str(path.parent.relative_to(job)) for path in job.rglob("population.json")}
    lengths = {"zoo": (8, 12), "generated": (8, 10, 12), "trained": (10,)}
    assert found == {
        f"{part}/length={length},width=8" for part, values in lengths.items() for length in values
    }
    assert "line" in (job / "report.html").read_text()


def test_the_recipe_chooses_and_tests_on_lengths_between_those_that_it_trains_on():
    recipe = load_config(RECIPE)
    trained, selected, tested = (
        {int(re.search(r"length=(\d+)", text)[1]) for text in texts}
        for texts in (recipe.structures, recipe.selection_structures, recipe.test_structures)
    )
    assert not (trained & selected or trained & tested or selected & tested)
    assert all(min(trained) < length < max(trained) for length in selected | tested)
    assert recipe.autoencoder.encoder == "coordinate"
    # both guides show what the recipe measured, and at its test lengths
    tables = [
        re.findall(r"^\| (\d+) \|.*\n", text, re.MULTILINE)
        for text in (GUIDE, (EXAMPLE / "README.md").read_text())
    ]
    assert tables == [[str(length) for length in sorted(tested)]] * 2


@pytest.mark.slow
def test_the_recipe_makes_good_policies_for_lengths_that_it_has_not_seen(genflow):
    lines = re.search(r"```console\npip install .*?\n(.*?)```", WALK, re.DOTALL)[1].splitlines()
    check, run, *others = [shlex.split(line)[1:] for line in lines]
    assert (check, run) == (
        ["list-plugins", "--check"],
        ["run", "examples/genflow-line/recipe.toml", "--out", "runs/lines"],
    )
    entries = json.loads(genflow("run", str(RECIPE), *run[2:], "--json"))
    assert [args[0] for args in others] == ["generate", "evaluate"]
    made, measured = (json.loads(genflow(*args, "--json")) for args in others)
    assert [(entry["structure"]["length"], entry["seen"]) for entry in made] == [(20, False)]
    between = {entry["source"]: entry["metrics"]["js"]["mean"] for entry in measured}
    assert between["generated"] < between["random"] / 10
    js = {
        (e["structure"]["length"], e["source"]): e["metrics"]["js"]["mean"] for e in entries if not e["seen"]
    }
    tested = {length for length, _ in js}
    assert len(tested) == len(load_config(RECIPE).test_structures)
    generated, nearest = ([js[length, source] for length in tested] for source in ("generated", "nearest"))
    # as the table of the guide says, with room for other machines
    assert max(generated) < 0.02 and sum(generated) < sum(nearest) / 5
    assert all(js[length, "generated"] < js[length, "random"] / 10 for length in tested)


@pytest.mark.slow
def test_rewards_of_an_environment_of_ones_own_pay_as_the_guide_says(genflow):
    (genflow.folder / "hills.py").write_text(
        re.search(r"```python\n(# hills.py\n.*?)```", GUIDE, re.DOTALL)[1]
    )
    command = re.search(r"```console\ngenflow (--plugin hills.py .*?)```", GUIDE, re.DOTALL)[1]
    budget = ["--num", "2", "-o", "zoo.objective=distill", "-o", "zoo.steps=400", "--json"]
    made = json.loads(genflow(*shlex.split(command.replace("\\\n", "")), *budget))
    assert [entry["structure"]["reward"] for entry in made] == ["peak", "slope"]
    found = json.loads(
        genflow("--plugin", "hills.py", "evaluate", "runs/hills", "--baseline", "none", "--json")
    )
    places = [x / 11 for x in range(12)]
    paid = {
        "peak": [0.05 + math.exp(-(((u - 0.3) / 0.1) ** 2)) for u in places],
        "slope": [0.05 + u for u in places],
    }
    assert len(found) == 2
    for entry in found:
        rewards = paid[entry["structure"]["reward"]]
        # policies that sample in proportion to R earn sum R^2 / sum R
        assert entry["metrics"]["mean_reward"]["mean"] == pytest.approx(
            sum(r * r for r in rewards) / sum(rewards), rel=0.01
        )
        assert entry["metrics"]["js"]["mean"] < 0.001
    wrong = ["--env", "hills", "--structure", "length=12,reward=slope,centre=0.3", "--out", "wrong"]
    assert "unknown key 'centre'" in genflow("--plugin", "hills.py", "train-zoo", *wrong, status=2)
    assert "hills" in genflow("evaluate", "runs/hills", status=2)  # a saved file names no code


@pytest.mark.parametrize("length", [2, 3, 11, 40])
def test_its_optimal_flows_sample_the_target(line, length):
    structure = Structure.of(line.Line(line.Line.Config(length=length, floor=0.3)), Lookup(), "line")
    u = [x / (length - 1) for x in range(length)]
    rewards = torch.tensor(
        [0.3 + math.exp(-(((v - 0.25) / 0.1) ** 2)) + 2 * math.exp(-(((v - 0.75) / 0.1) ** 2)) for v in u]
    ).double()
    flows = structure.solution.optimal_flows()
    assert (
        structure.solution.graph.states.flatten().tolist()
        == list(range(length))
        == list(range(structure.solution.n_states))
    )
    assert flows.log_z == pytest.approx(math.log(rewards.sum()), abs=1e-6)
    torch.testing.assert_close(structure.solution.target(), rewards / rewards.sum(), rtol=0, atol=1e-6)
    # on a chain the best policy exits with R(x) / (R(x) + R(x+1) + ...)
    torch.testing.assert_close(
        flows.policy[:, 1], rewards / rewards.flip(0).cumsum(0).flip(0), rtol=0, atol=1e-6
    )
    ends = terminal_distribution(
        structure.solution.graph, lambda index: flows.policy[index].log()[None], 1, max_rows=7
    )
    torch.testing.assert_close(ends[0], structure.solution.target(), rtol=0, atol=1e-9)


def test_torchgfn_itself_finds_the_optimal_flows_balanced(line):
    from gfn.estimators import DiscretePolicyEstimator
    from gfn.gflownet import TBGFlowNet
    from gfn.samplers import Sampler

    structure = Structure.of(line.Line(line.Line.Config(length=9)), Lookup(), "line")
    env, preprocessor = structure.environment.make()
    flows = structure.solution.optimal_flows()

    class Optimal(torch.nn.Module):
        input_dim, output_dim = 9, 2

        def forward(self, x):
            return flows.policy.log().float()[x.argmax(-1)]

    forward = DiscretePolicyEstimator(Optimal(), n_actions=env.n_actions, preprocessor=preprocessor)
    backward = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=preprocessor)
    torch.manual_seed(0)
    trajectories = Sampler(forward).sample_trajectories(env, n=256, save_logprobs=False)
    balanced, unbalanced = (
        TBGFlowNet(forward, backward, init_logZ=flows.log_z + shift) for shift in (0.0, 1.0)
    )
    assert balanced.loss(env, trajectories, recalculate_all_logprobs=True).item() == pytest.approx(
        0, abs=1e-8
    )
    assert unbalanced.loss(env, trajectories, recalculate_all_logprobs=True).item() == pytest.approx(
        1, abs=1e-4
    )
    # it did walk: both bumps are among the ends
    assert {2, 6} <= set(trajectories.terminating_states.tensor.flatten().tolist())


def test_the_guide_quotes_its_files_word_for_word():
    quotes = re.findall(r"```(?:python|toml)\n(.*?)```", WALK, flags=re.DOTALL)
    files = [path.read_text() for path in EXAMPLE.iterdir() if path.suffix in (".py", ".toml")]
    assert len(quotes) > 5
    for quote in quotes:
        assert any(quote in text for text in files), quote
