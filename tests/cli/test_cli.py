"""The command line as a user runs it: the chain, its files, and one line for every mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from processes import GENFLOW, genflow, refused
from safetensors import safe_open

TINY = ["ndim=2,height=4,width=16", "ndim=2,height=5,width=16"]
FAST = [
    "-o",
    "zoo.steps=40",
    "-o",
    "autoencoder.steps=20",
    "-o",
    "diffusion.steps=10",
    "-o",
    "diffusion.options.channels=[8,8]",
]


def structures(*names):
    return [part for name in names for part in ("--structure", name)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A zoo, a generator trained on it, and policies generated for a known and an unknown structure."""
    root = tmp_path_factory.mktemp("chain")
    genflow("train-zoo", "--env", "hypergrid", *structures(*TINY), "--num", 3, "--out", root / "zoo", *FAST)
    genflow("train-ldm", "--env", "hypergrid", "--zoo", root / "zoo", "--out", root / "mine", *FAST)
    for name, structure in (("seen", TINY[0]), ("unseen", "ndim=2,height=3,width=16")):
        genflow(
            "generate",
            "--env",
            "hypergrid",
            "--structure",
            structure,
            "--num",
            4,
            "--generator",
            root / "mine",
            "--out",
            root / name,
        )
    return root


def test_populations_on_disk_have_the_published_form(chain):
    for folder, num, height in ((chain / "zoo" / TINY[0], 3, 4), (chain / "unseen", 4, 3)):
        with safe_open(folder / "population.safetensors", framework="pt") as file:
            names = sorted(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        assert [n for n in names if n.endswith("weight")] == ["net.0.weight", "net.2.weight", "net.4.weight"]
        assert shapes["net.0.weight"] == (num, 16, 2 * height)
        assert shapes["net.4.bias"] == (num, 3)
        facts = json.loads((folder / "population.json").read_text())
        assert facts["env"] == "hypergrid"
        assert (facts["structure"]["ndim"], facts["structure"]["height"]) == (2, height)
        assert facts["provenance"]["training_structures"]


def test_each_zoo_member_carries_its_metrics_run_and_step(chain):
    members = json.loads((chain / "zoo" / TINY[1] / "population.json").read_text())["provenance"]["members"]
    assert [m["run"] for m in members] == [0, 1, 2]
    assert all(m["step"] == 40 and 0 <= m["metrics"]["js"] <= 0.6932 for m in members)


def test_evaluate_json_lists_each_population_and_baseline(chain):
    entries = json.loads(genflow("evaluate", chain / "unseen", "--zoo", chain / "zoo", "--json").stdout)
    assert [e["source"] for e in entries] == ["generated", "random", "mean", "nearest", "perturbed"]
    assert all(
        e["seen"] is False and e["env"] == "hypergrid" and e["structure"]["height"] == 3 for e in entries
    )
    assert entries[0]["num"] == 4
    for entry in entries:
        js = entry["metrics"]["js"]
        assert 0 <= js["min"] <= js["mean"] <= js["max"] <= 0.6932
        assert entry["seconds"] >= 0
    known = json.loads(genflow("evaluate", chain / "seen", "--json", "--metric", "tv").stdout)
    assert known[0]["seen"] is True
    assert list(known[0]["metrics"]) == ["tv"]


def test_json_is_all_that_is_printed(chain):
    done = genflow("evaluate", chain / "zoo", "--json", "--metric", "js")
    assert done.stderr == ""
    assert {e["source"] for e in json.loads(done.stdout)} == {
        "trained",
        "random",
        "mean",
        "nearest",
        "perturbed",
    }


def test_the_same_command_again_gives_the_same_files_and_another_is_refused(chain, tmp_path):
    args = [
        "generate",
        "--env",
        "hypergrid",
        "--structure",
        TINY[0],
        "--num",
        4,
        "--generator",
        chain / "mine",
    ]
    genflow(*args, "--out", tmp_path / "again")
    assert (tmp_path / "again" / "population.safetensors").read_bytes() == (
        chain / "seen" / "population.safetensors"
    ).read_bytes()
    genflow(*args, "--out", tmp_path / "again")
    assert "another run" in refused(*args, "--seed", 5, "--out", tmp_path / "again")


def test_a_zoo_and_an_autoencoder_are_collected_if_missing(tmp_path):
    genflow("train-ae", "--env", "hypergrid", *structures(TINY[0]), "-o", "zoo.num=2", *FAST, cwd=tmp_path)
    assert (tmp_path / "runs" / "hypergrid" / "zoo" / TINY[0] / "population.safetensors").exists()
    reconstruction = json.loads(
        (tmp_path / "runs" / "hypergrid" / "autoencoder" / "autoencoder.json").read_text()
    )["reconstruction"]
    assert reconstruction[0]["name"] == TINY[0]


def test_run_makes_everything_and_is_repeated_from_its_own_record(tmp_path):
    (tmp_path / "a.toml").write_text(
        'env = "hypergrid"\nstructures = ["ndim=2,height=4,width=8"]\n'
        "test_structures = [{ndim = 2, height = 3, width = 8}]\n"
        "[zoo]\nnum = 2\nsteps = 20\n[autoencoder]\nsteps = 5\n"
        "[diffusion]\nsteps = 5\noptions = {channels = [8]}\n"
        "[generate]\nnum = 2\n[evaluation]\nnum = 2\n"
    )
    first = json.loads(genflow("run", tmp_path / "a.toml", "--out", tmp_path / "one", "--json").stdout)
    manifest = json.loads((tmp_path / "one" / "run.json").read_text())
    assert manifest["complete"] and manifest["versions"]["torchgfn"] == "2.4.1"
    assert manifest["config"]["zoo"]["steps"] == 20
    # a file of the user's was a plugin then, and need not be one now
    manifest["config"]["plugin_files"] = {"score": "0123"}
    record = tmp_path / "record.json"
    record.write_text(json.dumps(manifest))
    second = json.loads(genflow("run", record, "--out", tmp_path / "two", "--json").stdout)
    assert [{**e, "seconds": 0} for e in first] == [{**e, "seconds": 0} for e in second]
    of_a_stage = tmp_path / "one" / "zoo" / "run.json"
    assert "no configuration to repeat" in refused("run", of_a_stage, "--out", tmp_path / "three")
    assert {(e["source"], e["seen"]) for e in first} >= {
        ("trained", True),
        ("generated", True),
        ("generated", False),
        ("trained", False),
    }
    assert (tmp_path / "one" / "report.html").stat().st_size > 10_000


def test_finetune_starts_from_a_population(chain, tmp_path):
    entries = json.loads(
        genflow(
            "finetune", chain / "seen", "--out", tmp_path / "f", "-o", "finetune.steps=15", "--json"
        ).stdout
    )
    assert {e["name"] for e in entries} == {"finetuned", "from_random"}
    assert all({"loss", "reward", "js"} <= set(e["history"]) for e in entries)
    assert (tmp_path / "f" / "finetuned" / "population.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "fragments"),
    [
        (
            ["train-zoo", "--env", "hypergird"],
            ["unknown environment 'hypergird'", "did you mean 'hypergrid'"],
        ),
        (
            ["train-zoo", "--env", "hypergrid", "--structure", "ndim=2,height=1"],
            ["height", "greater than or equal to 2"],
        ),
        (
            ["train-zoo", "--env", "hypergrid", "--structure", "ndim=2,height=4,width=0"],
            ["width", "greater than or equal to 1"],
        ),
        (
            ["train-zoo", "--env", "hypergrid", "--structure", "ndim=2,hieght=4"],
            ["'hieght'", "did you mean 'height'"],
        ),
        (["train-zoo", "--env", "hypergrid", "--structure", "Q"], ["no preset 'Q'"]),
        (["train-zoo", "--env", "hypergrid", "-o", "zoo.stps=3"], ["zoo.stps", "did you mean 'steps'"]),
        (
            [
                "train-zoo",
                "--env",
                "hypergrid",
                "--structure",
                "ndim=9,height=20",
                "-o",
                "zoo.objective=distill",
            ],
            ["6,906,900 sorted states"],
        ),
        (
            ["train-zoo", "--env", "hypergrid", "--structure", "ndim=2,ndim=3,height=3"],
            ["'ndim' is given twice"],
        ),
        (["train-zoo", "--env", "hypergrid", "--structure", "ndim=two,height=3"], ["ndim", "'two'"]),
        (["train-zoo", "--env", "hypergrid", "--num", "0"], ["zoo.num", "greater than or equal to 1"]),
        (
            ["train-zoo", "--env", "hypergrid", "--num", "4", "-o", "zoo.steps=1", "-o", "zoo.seeds=1"],
            ["raise zoo.steps"],
        ),
        (["train-zoo", "--env", "hypergrid", "-o", "zoo.lr=nan"], ["zoo.lr"]),
        (["train-zoo", "--env", "hypergrid", "-o", "x=" + "[" * 5000], ["unknown key 'x'"]),
        (["train-zoo", "--env", "hypergrid", "-o", "device=nonsense"], ["device 'nonsense'"]),
        (
            ["train-ldm", "--env", "hypergrid", "-o", "diffusion.options.channels=[0]"],
            ["channels", "greater than or equal to 2"],
        ),
        (["train-zoo"], ["--env"]),
        (
            ["train-ae", "--env", "hypergrid", "-o", "autoencoder.encoder=conv2d"],
            ["unknown encoder 'conv2d'", "did you mean 'conv1d'"],
        ),
        (
            ["train-ae", "--env", "hypergrid", "-o", "autoencoder.options.latent=3"],
            ["unknown key 'latent'", "did you mean 'latent_size'"],
        ),
        (["train-ae", "--env", "hypergrid", "--zoo", "nowhere"], ["nowhere", "no folder"]),
        (
            ["generate", "--env", "hypergrid", "--structure", "A,width=300"],
            ["width=300 is outside", "width 32 to 128"],
        ),
        (["generate", "--env", "hypergrid"], ["--structure"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        (["report", "nowhere"], ["nowhere"]),
        (["run", "absent.toml"], ["absent.toml"]),
        (["train-zo"], ["did you mean 'train-zoo'"]),
        (["train-zoo", "--env", "hypergrid", "--nmu", "3"], ["--nmu"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, args, fragments):
    line = refused(*args, cwd=tmp_path)
    assert all(fragment in line for fragment in fragments), line
    assert list(tmp_path.iterdir()) == []


def test_exact_metrics_of_a_large_structure_are_refused_with_what_to_use(chain, tmp_path):
    from genflow import Population, Structure

    Population.initialised(Structure.parse("hypergrid", "ndim=8,height=20,width=8"), 1, 0).save(
        tmp_path / "large",
    )
    line = refused("evaluate", tmp_path / "large", "--metric", "js")
    assert "25,600,000,000 states" in line and "mean_reward" in line
    entries = json.loads(genflow("evaluate", tmp_path / "large", "--json", "--baseline", "none").stdout)
    assert set(entries[0]["metrics"]) == {
        "mean_reward",
        "log_z_gap",
        "kl_bound",
        "reverse_kl_bound",
        "log_z_error",
        "log_z_bound",
        "modes",
        "reward_correlation",
        "cka",
        "diversity",
        "parameter_variance",
    }
    assert entries[0]["metrics"]["diversity"]["mean"] is None  # a policy that is alone
    line = refused("evaluate", tmp_path / "large", "--metric", "novelty", "--out", tmp_path / "out")
    assert "'novelty'" in line and "--zoo" in line
    assert not (tmp_path / "out").exists()


def test_damaged_and_foreign_files_are_refused(chain, tmp_path):
    broken = tmp_path / "cut"
    shutil.copytree(chain / "seen", broken)
    data = (broken / "population.safetensors").read_bytes()
    (broken / "population.safetensors").write_bytes(data[: len(data) // 2])
    assert "population.safetensors" in refused("evaluate", broken)
    shutil.copy(chain / "mine" / "autoencoder" / "autoencoder.safetensors", broken / "population.safetensors")
    assert "does not fit" in refused("evaluate", broken)
    generator = tmp_path / "generator"
    shutil.copytree(chain / "mine" / "generator", generator)
    data = (generator / "generator.safetensors").read_bytes()
    (generator / "generator.safetensors").write_bytes(data[:-100])
    args = [
        "generate",
        "--env",
        "hypergrid",
        "--structure",
        TINY[0],
        "--out",
        tmp_path / "out",
        "--generator",
    ]
    assert "generator.safetensors" in refused(*args, generator)
    assert "holds no generator" in refused(*args, chain / "zoo")
    assert not (tmp_path / "out").exists()


def test_a_generator_refuses_what_it_cannot_know(chain, tmp_path):
    args = [
        "generate",
        "--env",
        "hypergrid",
        "--generator",
        chain / "mine",
        "--out",
        tmp_path / "out",
        "--structure",
    ]
    assert "R0=0.1, not 0.01" in refused(*args, "ndim=2,height=4,width=16,R0=0.01")
    assert "at most" in refused(*args, "ndim=2,height=40,width=16")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_of_another_run_is_refused(chain):
    before = sorted(p.name for p in (chain / "zoo").iterdir())
    line = refused(
        "train-zoo", "--env", "hypergrid", *structures(TINY[0]), "--num", 5, "--out", chain / "zoo"
    )
    assert "another run" in line
    assert sorted(p.name for p in (chain / "zoo").iterdir()) == before
    assert "another run" in refused("train-ae", "--env", "hypergrid", "--out", chain / "zoo")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_training_resumes_to_the_same_numbers(tmp_path, number):
    def command(out):
        return [
            "train-zoo",
            "--env",
            "hypergrid",
            *structures(TINY[0]),
            "--num",
            "2",
            "--out",
            str(out),
            "-o",
            "zoo.steps=400",
        ]

    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*GENFLOW, *command(tmp_path / "a"), "-o", "zoo.checkpoint_seconds=0.01"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "a" / TINY[0]
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "run the same command again to continue" in stderr
    assert "Traceback" not in stderr
    genflow(*command(tmp_path / "a"))
    genflow(*command(tmp_path / "b"))
    assert (tmp_path / "a" / TINY[0] / "population.safetensors").read_bytes() == (
        tmp_path / "b" / TINY[0] / "population.safetensors"
    ).read_bytes()
    assert not list(folder.glob("checkpoint-*"))


def test_help_of_each_command_shows_an_example():
    from genflow.cli.main import COMMANDS

    for name in COMMANDS:
        assert f"genflow {name}" in genflow(name, "--help").stdout, name


def test_help_and_the_list_of_plugins_import_no_more_than_they_need():
    code = (
        "import sys, genflow.cli.main as m\n"
        "try: m.main(sys.argv[1:])\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'pydantic', 'numpy', 'rdkit'} & sys.modules.keys(), sorted(sys.modules)\n"
    )
    for words in (["--help"], ["list-plugins"], ["vocabulary", "--help"], ["reproduce", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
