"""Reward calls: counted from outside, bounded, kept through a kill, and never paid twice."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

import pytest
from processes import genflow, refused, started
from rdkit import Chem

from genflow import (
    GenflowError,
    Population,
    RewardCalls,
    Structure,
    code_digest,
    finetune,
    generate,
    load_plugin,
    reward_calls,
)
from genflow.progress import Bar, Progress
from genflow.registry import registry
from genflow.storage.score_files import files_of, rows_of
from genflow.training.finetune import FinetuneOptions, _counted

BLOCKS = "blocks=0+3+6,max_blocks=4"
#: a reward that writes down each molecule that it is asked for, and can be slow
PLUGIN = """
import os, time
import genflow
from rdkit import Chem

class Logged(genflow.Reward):
    environment = "molecule"
    reads_task = False

    def score(self, objects):
        time.sleep(float(os.environ.get("SLOW", "0")) * len(objects))
        with open(os.environ["ASKED"], "a") as file:
            file.writelines(Chem.MolToSmiles(mol) + "\\n" for mol in objects)
        return [1 / mol.GetNumAtoms() for mol in objects]

@genflow.hookimpl
def register_rewards(register):
    register("logged", "logged:Logged", environment="molecule")
"""
#: the same for a reward that a generator covers
WATCHED = """
import os
import genflow
from genflow_molecule.rewards import QedSa
from rdkit import Chem

score = QedSa.score

def watched(self, objects):
    with open(os.environ["ASKED"], "a") as file:
        file.writelines(Chem.MolToSmiles(mol) + "\\n" for mol in objects)
    return score(self, objects)

QedSa.score = watched

@genflow.hookimpl
def register_rewards(register):
    pass
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    (folder / "logged.py").write_text(PLUGIN)
    Population.initialised(Structure.parse("molecule", BLOCKS), 2, 0).save(folder / "start")
    return folder


def command(folder: Path, out: Path, *more: object) -> list[object]:
    plugin = ["--plugin", folder / "logged.py"]
    few = ["-o", "finetune.steps=400", "-o", "finetune.batch_size=4", "-o", "finetune.checkpoint_seconds=1"]
    asked = ["finetune", folder / "start", "--structure", f"{BLOCKS},reward=logged", *few]
    return [*plugin, *asked, "--out", out, *more]


def asked_of(file: Path) -> list[str]:
    return file.read_text().split()


def test_calls_are_what_the_function_was_asked_and_end_the_training(start, tmp_path):
    log, out = tmp_path / "asked", tmp_path / "out"
    alone = ["-o", "finetune.compare=false"]
    done = genflow(*command(start, out, *alone, "--reward-calls", 30), ASKED=log)
    asked = asked_of(log)
    facts = json.loads((out / "finetuned" / "population.json").read_text())["provenance"]
    assert facts["budget"]["reward_calls"] == len(asked) == len(set(asked))
    assert 30 <= len(asked) < 30 + 2 * 4 and facts["budget"]["steps"] < 400
    assert facts["history"]["calls"][-1][1] == len(asked)
    best = max(1 / Chem.MolFromSmiles(each).GetNumAtoms() for each in asked)
    assert facts["history"]["best_score"][-1][1] == pytest.approx(best)
    assert f"calls {len(asked)}" in done.stdout.replace(",", "")
    again = genflow(*command(start, out, *alone, "--reward-calls", 30), ASKED=log)
    assert asked_of(log) == asked and again.stdout == done.stdout
    assert "is complete: nothing is trained" in again.stderr


def test_a_killed_training_pays_for_nothing_twice(start, tmp_path):
    log, out = tmp_path / "asked", tmp_path / "out"
    line = command(start, out, "-o", "finetune.compare=false", "--reward-calls", 60)
    with started(*line, ASKED=log, SLOW=0.2) as job:
        job.until(lambda: log.exists() and len(asked_of(log)) > 20, "some scores")
    paid = asked_of(log)
    done = genflow(*line, ASKED=log)
    asked = asked_of(log)
    # what was being computed at the kill is all that is asked again
    assert asked[: len(paid)] == paid and len(asked) - len(set(asked)) <= 1
    (note,) = [each for each in done.stderr.splitlines() if "before this start" in each]
    assert len(paid) - 1 <= int(note.split()[0]) <= len(paid) + 1 and note.endswith("and are kept")
    facts = json.loads((out / "finetuned" / "population.json").read_text())["provenance"]
    assert facts["budget"]["reward_calls"] == len(set(asked)) >= 60


def test_what_cannot_be_counted_is_refused(start, tmp_path):
    grid = tmp_path / "grid"
    Population.initialised(Structure.parse("hypergrid", "ndim=2,height=4"), 1, 0).save(grid)
    line = refused("finetune", grid, "--reward-calls", 10, "-o", "finetune.steps=1", "--out", tmp_path / "no")
    assert "'hypergrid' does not count reward calls" in line
    assert "--reward-calls" in refused(*command(start, tmp_path / "no", "--reward-calls", 0), ASKED="none")


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "x.sqlite").write_text("no database, " * 100)
    with pytest.raises(GenflowError, match=r"x\.sqlite cannot be used as a file of scores: "):
        RewardCalls(tmp_path / "x.sqlite")


def test_another_function_or_other_options_are_other_scores(tmp_path):
    asked = []

    def score(names):
        asked.extend(names)
        return [float(len(name)) for name in names]

    with RewardCalls(tmp_path / "x.sqlite", 4).as_current() as calls:
        assert RewardCalls.current() is calls and calls.spent == 0
        assert calls.scores("one", ["C", "CC", "C"], score) == [1.0, 2.0, 1.0]
        assert calls.scores("two", ["C"], score) == [1.0]
    assert RewardCalls.current() is None
    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert calls.scores("one", ["CC", "CCC"], score) == [2.0, 3.0]
        assert (len(calls), calls.best, calls.spent) == (4, 3.0, 0.0)
    assert asked == ["C", "CC", "C", "CCC"]


def test_policies_that_paid_for_their_scores_can_be_measured_later(start, tmp_path):
    out = tmp_path / "out"
    genflow(*command(start, out, "--reward-calls", 10), ASKED=tmp_path / "asked")
    line = ["--plugin", start / "logged.py", "evaluate", out, "--metric", "js"]
    shown = genflow(*line, ASKED=tmp_path / "asked").stdout
    assert shown.count("reward calls") == 2
    assert {path.name for path in (out / "reward_calls").iterdir()} == {
        "finetuned.sqlite", "from_random.sqlite",
    }  # fmt: skip


def test_what_failed_is_counted_and_kept_as_such_and_not_asked_again(tmp_path):
    def score(names):
        return [0.001 if name == "CC" else 0.5 for name in names]

    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert calls.scores("one", ["C", "CC"], score, failed={"CC": "why"}) == [0.5, 0.001]
        assert len(calls) == 2
    for own, more in (
        (tmp_path / "x.sqlite", {}),
        (tmp_path / "y.sqlite", {"known": [tmp_path / "x.sqlite"]}),
    ):
        failed: dict[str, str] = {}
        with RewardCalls(own, **more).as_current() as calls:
            assert len(calls) == (0 if more else 2) and calls.scored("one") and not calls.scored("other")
            found = calls.scores("one", ["C", "CC", "CCC"], lambda names: [0.75] * len(names), failed=failed)
            assert found == [0.5, 0.001, 0.75] and len(calls) == 3
            assert failed == {"CC": "one failed for CC before"}
    with RewardCalls(tmp_path / "y.sqlite").as_current() as calls:  # what was read is kept as what it was
        calls.scores("one", ["CC"], score, failed=failed)
        assert len(calls) == 3 and "CC" in failed


@pytest.mark.parametrize(("begin", "before"), [("population", 2), ("random", 0)])
def test_a_random_start_is_not_charged_for_a_description(tmp_path, begin, before):
    options = FinetuneOptions(reward_calls=5, start=begin)
    rows = [("one", "C", 0.5), ("one", "CC", 0.25)]
    with _counted(options, "finetuned", tmp_path / begin, rows, (), Progress()):
        calls = RewardCalls.current()
        assert calls.scores("one", ["O"], lambda names: [0.75]) == [0.75] and len(calls) == 1 + before


def test_the_best_score_and_the_modes_are_of_the_function_that_is_asked(tmp_path):
    lengths = {"is_mode": lambda names, scores: [score > 1 for score in scores]}

    def score(names):
        return [float(len(name)) for name in names]

    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        calls.scores("older", ["CCCC", "CCC"], score, **lengths)
        assert calls.figures() == {"calls": 2, "best_score": 4, "modes": 2}
        calls.scores("newer", ["C", "CC"], score, **lengths)
        assert calls.figures() == {"calls": 4, "best_score": 2, "modes": 1}
    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        assert (len(calls), calls.best, calls.modes) == (4, None, None)
        calls.scores("newer", ["C"], score, **lengths)
        assert calls.figures() == {"calls": 4, "best_score": 2, "modes": 1}


def test_calls_have_a_bar_of_their_own_where_nobody_else_shows_them(tmp_path):
    seen = []

    def score(names):
        seen.append((calls.bar.total, calls.bar.done))
        return [0.5] * len(names)

    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        calls.scores("one", ["C"], score)
        calls.scores("one", ["C", "CC", "CCC"], score)
        assert [total for total, _ in seen] == [1] + [3] * (len(seen) - 1) and seen[1] == (3, 1)
        assert calls.bar.total == 0
        mine = calls.bar = Bar("mine", 9)
        seen.clear()
        calls.scores("one", ["CCCC"], score)
        assert calls.bar is mine and seen[0][0] == 9


def test_what_others_paid_for_counts_and_is_not_asked_again(tmp_path):
    asked = []

    def score(names):
        asked.extend(names)
        return [0.5] * len(names)

    for name, rewards in (("described", ["one", "two"]), ("other", ["one"])):
        with RewardCalls(tmp_path / name).as_current() as calls:
            for reward in rewards:
                calls.scores(reward, [f"C{name}", "C"], score)
    asked.clear()
    for _ in range(2):  # what was taken over is in the file of its own
        calls = RewardCalls(
            tmp_path / "x", 6, [tmp_path / "described"], [tmp_path / "other", tmp_path / "none"]
        )
        with calls.as_current():
            calls.scores("one", ["C"], score)
            assert len(calls) == 2 + 2 * len(asked)  # both of the description, and none of the other yet
            calls.scores("one", ["Cother", "N"], score)
            assert len(calls) == 4 and asked == ["N"]


def test_describing_a_structure_is_counted_and_paid_for_once(tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    log, made = tmp_path / "asked", tmp_path / "made"
    line = ["--plugin", tmp_path / "watched.py"]
    few = ["--num", 2, "-o", "finetune.batch_size=4", "-o", "finetune.steps=400"]
    structure = ["--env", "molecule", "--structure", "blocks=5,max_blocks=4"]
    said = genflow(*line, "generate", *structure, "--num", 2, "--out", made, ASKED=log).stderr
    described = asked_of(log)
    assert 300 < len(described) == len(set(described)) <= 600
    assert f", {len(described)} reward calls to describe the structure" in said
    assert "before this start" not in said and "not used" not in said
    more = len(described) + 20
    genflow(*line, "finetune", made, *few, "--reward-calls", more, "--out", tmp_path / "out", ASKED=log)
    asked = asked_of(log)
    assert len(asked) == len(set(asked)) and asked[: len(described)] == described
    for name, fewest in (("finetuned", more), ("from_random", 1)):
        facts = json.loads((tmp_path / "out" / name / "population.json").read_text())["provenance"]
        assert fewest <= facts["budget"]["reward_calls"] <= more + 2 * 4
    spent = ["--reward-calls", 50, "-o", "finetune.compare=false", "--out", tmp_path / "spent"]
    said = genflow(*line, "finetune", made, "--num", 2, *spent, ASKED=log).stderr
    (warning,) = [each for each in said.splitlines() if each.startswith("warning: ")]
    assert warning.startswith(f"warning: {len(described)} reward calls are made already, and 50 may be: ")
    assert "one step is taken at the most" in warning and "--reward-calls" in warning
    facts = json.loads((tmp_path / "spent" / "finetuned" / "population.json").read_text())["provenance"]
    assert facts["budget"]["steps"] == 1
    # the policies that are generated on the way are described within the same budget, also after a kill
    direct = [*line, "finetune", *structure, *few, "--reward-calls", more, "-o", "finetune.compare=false"]
    log.unlink()
    with started(*direct, "--out", tmp_path / "direct", ASKED=log) as job:
        job.until(lambda: log.exists() and len(asked_of(log)) >= len(described), "the description")
    genflow(*direct, "--out", tmp_path / "direct", ASKED=log)
    asked = asked_of(log)
    facts = json.loads((tmp_path / "direct" / "finetuned" / "population.json").read_text())["provenance"]
    assert facts["budget"]["reward_calls"] == len(set(asked)) >= more


def test_a_training_whose_steps_end_before_its_calls_says_so(capsys):
    structure = Structure.parse("molecule", "blocks=5,max_blocks=3,width=8")
    finetune(Population.initialised(structure, 1, 0), reward_calls=500, steps=2, batch_size=4)
    said = capsys.readouterr().err
    assert "finetuned: its 2 steps took " in said and " of 500 reward calls; finetune.steps=N" in said


def test_where_something_else_is_paid_the_better_start_is_taken(start, tmp_path):
    """Policies that end at once are no start for a reward of large molecules, and one for small ones."""
    structure = Structure.parse("molecule", BLOCKS)
    weights = Population.initialised(structure, 2, 0).weights
    tensors = structure.layout.unflatten(weights.clone())
    list(tensors.values())[-1][:, -1] += 50.0  # exit
    Population(structure, structure.layout.flatten(tensors), {"source": "short"}).save(tmp_path / "start")
    (tmp_path / "logged.py").write_text(PLUGIN.replace("1 / mol", "0.01 * mol"))
    alone = ["-o", "finetune.compare=false", "--reward-calls", 60]
    for plugin, chosen in ((tmp_path, "random"), (start, "short")):
        log, out = plugin / "asked-here", tmp_path / chosen
        (plugin / "start").exists() or Population.load(tmp_path / "start").save(plugin / "start")
        line = command(tmp_path, out, *alone)
        line[1] = plugin / "logged.py"
        done = genflow(*line, ASKED=log)
        (note,) = [each for each in done.stderr.splitlines() if "compared" in each]
        assert note.endswith(f"the training starts from the {chosen} ones")
        facts = json.loads((out / "finetuned" / "population.json").read_text())["provenance"]
        asked = asked_of(log)
        assert facts["started_from"] == chosen and not (out / "from_random").exists()
        assert facts["budget"]["reward_calls"] == len(asked) == len(set(asked))
    for kept in ("population", "random"):
        line = command(tmp_path, tmp_path / f"no-{kept}", *alone, "-o", f"finetune.start={kept}")
        done = genflow(*line, ASKED=tmp_path / "asked")
        assert "compared" not in done.stderr
        facts = json.loads((tmp_path / f"no-{kept}" / "finetuned" / "population.json").read_text())
        assert facts["provenance"]["started_from"] == {"population": "short"}.get(kept, kept)


def test_the_code_of_a_reward_is_all_that_it_imports_from_beside_it(tmp_path):
    def written(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    plugin = written("score.py", "import json\n\ndef f():\n    from helper import g\n    import parts.one\n")
    written("helper.py", "import deeper\n")
    package = [
        written(f"parts/{name}.py", text) for name, text in (("__init__", ""), ("one", "from . import two\n"))
    ]
    files = [plugin, tmp_path / "helper.py", written("deeper.py", ""), *package, written("parts/two.py", "")]
    others = [written("beside.py", ""), written("parts/three.py", "")]
    found = [code_digest(plugin)]
    for path in others:
        path.write_text("x = 1\n")
        assert code_digest(plugin) == found[0]
    for path in files:
        path.write_text(path.read_text() + "x = 1\n")
        found.append(code_digest(plugin))
    assert len(set(found)) == len(found) == 7
    (tmp_path / "helper.py").write_text("this is no Python")
    assert code_digest(plugin) not in found


def test_commands_read_what_a_run_has_paid_for(start, tmp_path):
    log, out = tmp_path / "asked", tmp_path / "out"
    genflow(*command(start, out, "--reward-calls", 40), ASKED=log)
    paid = asked_of(log)
    assert len(paid) == len(set(paid))
    (tmp_path / "mine.smi").write_text("\n".join([*paid[:3], "CCCCCCCCCC"]))
    before = {path: path.read_bytes() for path in out.rglob("*.sqlite")}
    for folder, *line in (
        (out, "sample", "--unique", "--top", 5, "--num", 200, "--json"),
        (out / "finetuned", "sample", "--num", 200, "--json"),
        (out / "from_random", "score", "--score-all", "--smiles", tmp_path / "mine.smi", "--json"),
        (out, "evaluate", "--metric", "top_10", "--baseline", "random"),
        (out, "report"),
    ):
        log.unlink(missing_ok=True)
        done = genflow("--plugin", start / "logged.py", line[0], folder, *line[1:], ASKED=log)
        asked = asked_of(log) if log.exists() else []
        assert len(asked) == len(set(asked)) and not set(asked) & set(paid), line
        if "--json" in line:
            facts = json.loads(done.stdout)
            assert facts["scores_asked"] == len(asked) and facts["scores_read"] > 0
            if line[0] == "score":
                assert (len(asked), facts["scores_read"]) == (1, 3)
                assert facts["objects"][0]["score"] == 1 / Chem.MolFromSmiles(paid[0]).GetNumAtoms()
        else:
            (note,) = [each for each in done.stderr.splitlines() if "were asked for" in each]
            assert note.startswith(f"{len(asked):,} scores were asked for, ") and f"read from {out}" in note
    assert {path: path.read_bytes() for path in out.rglob("*.sqlite")} == before
    # a further training does not pay again for what an earlier one has paid for
    log.unlink(missing_ok=True)
    further = ["finetune", out / "finetuned", "--out", tmp_path / "further", "--reward-calls", 60]
    few = ["-o", "finetune.batch_size=4", "-o", "finetune.compare=false"]
    genflow("--plugin", start / "logged.py", *further, *few, ASKED=log)
    asked = asked_of(log)
    assert asked and len(asked) == len(set(asked)) and not set(asked) & set(paid)
    assert set(asked) < {name for _, name, _ in rows_of(files_of(tmp_path / "further"))}
    # another function than that which was paid
    changed = tmp_path / "logged.py"
    changed.write_text((start / "logged.py").read_text() + "# changed\n")
    log.unlink(missing_ok=True)
    done = genflow(
        "--plugin", changed, "score", out, "--score-all", "--smiles", tmp_path / "mine.smi", ASKED=log
    )
    assert len(asked_of(log)) == 4 and "4 scores were asked for, 0 read" in done.stderr


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr(reward_calls.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        (lambda n: 20.0 * n, 1),  # docking
        (lambda n: 0.06 * n, 2),  # that two take longer than one is found out once
        (lambda n: 0.15, 512),  # starting a program
        (lambda n: 0.0001 * n, 512),
    ],
)
def test_a_kill_loses_no_score_of_a_slow_function(tmp_path, clock, seconds, most):
    """What the file holds while the function is asked is what a kill leaves."""
    sizes, lost, number = [], [], 16 if most <= 2 else 512

    def score(names):
        lost.append(sum(sizes) - len(rows_of([tmp_path / "x.sqlite"])))
        sizes.append(len(names))
        clock[0] += seconds(len(names))
        return [0.5] * len(names)

    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        for step in range(2):
            calls.scores("one", [f"{step} {each}" for each in range(number)], score)
    assert sum(sizes) == 2 * number and max(sizes) == most
    if most <= 2:
        assert max(lost) == 0 and sizes.count(2) <= 1
    else:  # asked in few batches
        assert len(sizes) < 32


def test_a_first_call_that_loads_something_does_not_make_a_function_slow(tmp_path, clock):
    sizes = []

    def score(names):
        clock[0] += 0.001 * len(names) + (0 if sizes else 3.0)
        sizes.append(len(names))
        return [0.5] * len(names)

    with RewardCalls(tmp_path / "x.sqlite").as_current() as calls:
        calls.scores("one", [str(each) for each in range(512)], score)
    assert sum(sizes) == 512 and len(sizes) < 16


def test_scores_of_a_function_that_changed_are_said_to_be_unused(tmp_path, capsys):
    before, changed, other = "score:Light old", "score:Light new", "score:Heavy old"
    with RewardCalls(tmp_path / "described").as_current() as calls:
        calls.scores(before, ["C", "CC"], lambda names: [0.5] * len(names))
    capsys.readouterr()
    for reward, said in ((before, False), (changed, True), (other, False)):
        calls = RewardCalls(tmp_path / reward, 9, [tmp_path / "described"], [tmp_path / "described"])
        with calls.as_current():
            for _ in range(2):
                calls.scores(reward, ["C"], lambda names: [0.25] * len(names))
        error = capsys.readouterr().err
        assert error.count("2 scores of score:Light that were paid for are not used") == said
        assert error.count("not used") == said


def test_scores_that_a_link_places_elsewhere_are_not_read(tmp_path):
    with RewardCalls(tmp_path / "private" / "reward_calls" / "x.sqlite").as_current() as calls:
        calls.scores("one", ["C"], lambda names: [0.5])
    run = tmp_path / "run"
    (run / "inner").mkdir(parents=True)
    (run / "reward_calls").symlink_to(tmp_path / "private" / "reward_calls")
    with RewardCalls.of_run(run) as calls:
        assert calls.scores("one", ["C"], lambda names: [0.25]) == [0.25]
    (run / "reward_calls").unlink()
    (tmp_path / "private").rename(run / "inner" / "private")
    with RewardCalls.of_run(run) as calls:
        assert calls.scores("one", ["C"], lambda names: [0.25]) == [0.5]


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A reward of one's own in this process, and what it was asked for, by canonical SMILES."""
    plugin = PLUGIN.replace("Logged", "Here").replace("logged", "in_process")
    (tmp_path / "in_process.py").write_text(plugin)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    load_plugin(tmp_path / "in_process.py")
    yield tmp_path / "asked"
    del sys.modules["in_process"]
    registry.cache_clear()


def test_python_counts_as_the_commands_do(counted, capsys):
    structure = "blocks=5,max_blocks=4,reward=in_process"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = generate("molecule", structure, num=2)
    described = asked_of(counted)
    assert 300 < len(described) == len(set(described)) <= 600
    trained = finetune(made, reward_calls=len(described) + 20, batch_size=4, steps=40)
    asked = asked_of(counted)  # one of them twice
    assert trained.provenance["budget"]["reward_calls"] == len(asked) == len(set(asked)) + 1
    assert len(asked) > len(described) + 1
    assert (
        f"{len(described)} reward calls were made before, to describe the structure"
        in capsys.readouterr().err
    )
    # policies that needed no description have none in their count
    random = finetune(Population.initialised(made.structure, 2, 0), reward_calls=30, batch_size=4)
    assert 30 <= random.provenance["budget"]["reward_calls"] < 30 + 2 * 4


#: a reward that fails for some molecules, and is another each time that it is asked, or always the same
FAULTY = """
import os, random
import genflow
from rdkit import Chem

class Faulty(genflow.Reward):
    environment = "molecule"
    reads_task = False

    def score(self, objects):
        smiles = [Chem.MolToSmiles(mol) for mol in objects]
        if os.environ["FAULT"] == "fails" and any(len(each) % 2 for each in smiles):
            if len(smiles) == 1:
                with open(os.environ["ASKED"] + "-failed", "a") as file:
                    file.write(smiles[0] + "\\n")
            raise RuntimeError("no licence")
        with open(os.environ["ASKED"], "a") as file:
            file.writelines(each + "\\n" for each in smiles)
        other = random.random if os.environ["FAULT"] == "random" else lambda: 0.5
        return [other() if os.environ["FAULT"] != "fails" else 1 / mol.GetNumAtoms() for mol in objects]

@genflow.hookimpl
def register_rewards(register):
    register("my_docking", "faulty:Faulty", environment="molecule")
"""


def faulty(start: Path, tmp_path: Path, fault: str, calls: int):
    (tmp_path / "faulty.py").write_text(FAULTY)
    structure = f"{BLOCKS},reward=my_docking"
    few = ["-o", "finetune.steps=100", "-o", "finetune.batch_size=16", "-o", "finetune.compare=false"]
    line = ["finetune", start / "start", "--structure", structure, *few, "--out", tmp_path / "out"]
    log = tmp_path / "asked"
    done = genflow("--plugin", tmp_path / "faulty.py", *line, "--reward-calls", calls, ASKED=log, FAULT=fault)
    facts = json.loads((tmp_path / "out" / "finetuned" / "population.json").read_text())["provenance"]
    return done.stderr, asked_of(log), facts["budget"]["reward_calls"]


def test_a_random_score_is_noticed_by_one_call_that_counts(start, tmp_path):
    said, asked, counted = faulty(start, tmp_path, "random", 100)
    (twice,) = {each for each in asked if asked.count(each) > 1}
    assert counted == len(asked) == len(set(asked)) + 1 >= 100
    (line,) = [each for each in said.splitlines() if "is not repeatable" in each]
    assert line.startswith(f"warning: reward my_docking is not repeatable: the score of {twice} was ")
    (tmp_path / "less").mkdir()  # where one call is more than a hundredth, none is spent on it
    said, asked, counted = faulty(start, tmp_path / "less", "random", 99)
    assert counted == len(asked) == len(set(asked)) and "repeatable" not in said


def test_a_constant_score_is_noticed(start, tmp_path):
    said, asked, counted = faulty(start, tmp_path, "constant", 400)
    assert counted == len(asked) == len(set(asked)) + 1 and "repeatable" not in said
    (line,) = [each for each in said.splitlines() if "pays the same" in each]
    assert line.startswith("warning: reward my_docking pays the same for everything: the first ")
    assert "different ones, all score 0.5, so there is nothing to learn" in line


def test_failures_are_told_by_name_and_counted_at_the_end(start, tmp_path):
    said, asked, counted = faulty(start, tmp_path, "fails", 40)
    failed = asked_of(tmp_path / "asked-failed")
    assert counted == len(set(asked) | set(failed)) and len(set(failed)) > 1
    assert "warning: reward my_docking failed for " in said and "Faulty" not in said
    assert said.splitlines()[-1].startswith(
        f"warning: reward my_docking failed for {len(set(failed))} molecules in all, or gave"
    )
    log = tmp_path / "sampled"
    line = ["--plugin", tmp_path / "faulty.py", "sample", tmp_path / "out", "--num", 400, "--unique"]
    done = genflow(*line, ASKED=log, FAULT="fails")
    again = set(asked_of(tmp_path / "sampled-failed"))
    assert again and not again & set(failed)  # those that failed before are read as such
    told = int(re.search(r"failed for (\d+) molecules in all", done.stderr.splitlines()[-1])[1])
    assert len(again) <= told <= len(again | set(failed))
