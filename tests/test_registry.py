"""Plugins: found, explained when they are broken, and never in each other's way.

Fake distributions stand in for third parties.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

import genflow
from genflow import GenflowError, hookspecs
from genflow.cli.main import COMMANDS, cli, main
from genflow.registry import DISABLE_VARIABLE, KINDS, registry

GUIDE = Path(__file__).parents[1] / "docs" / "plugins.md"
HOOK = "import genflow\n@genflow.hookimpl\ndef register_environments(register):\n    "
REWARD = "import genflow\n@genflow.hookimpl\ndef register_rewards(register):\n    "
COMMAND = "import click, genflow\n@genflow.hookimpl\ndef register_commands(cli):\n    "

#: plugin "bad": the text of its module -> what its error must say
BROKEN = {
    "import_raises": (
        "raise RuntimeError('first line\\nsecond line')",
        "import of mod_import_raises failed: RuntimeError: first line second line",
    ),
    "import_exits": ("import sys; sys.exit('bye')", "import of mod_import_exits failed: SystemExit: bye"),
    "no_such_import": (
        "import no_such_module",
        "import of mod_no_such_import failed: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax": ("def", "import of mod_syntax failed: SyntaxError: ... (mod_syntax.py, line 1)"),
    "duplicate_name": (
        HOOK + "register('bad', 'a:B'); register('hypergrid', 'a:B')",
        "register_environments: environment 'hypergrid' is already registered by plugin 'hypergrid'",
    ),
    "same_name_twice": (
        HOOK + "register('bad', 'a:B'); register('bad', 'a:C')",
        "register_environments: environment 'bad' is already registered by plugin 'bad'",
    ),
    "misspelled_hook": (
        "import genflow\n@genflow.hookimpl\ndef register_enviroments(register):\n    register('bad', 'a:B')",
        "unknown hook 'register_enviroments'; did you mean 'register_environments'?",
    ),
    "wrong_argument": (HOOK.replace("(register)", "(registry)") + "pass", "bad hook: ...{'registry'}..."),
    "no_hook": ("x = 1", "mod_no_hook implements no hook; mark its functions with @genflow.hookimpl"),
    "unmarked_hook": (
        HOOK.replace("@genflow.hookimpl\n", "") + "register('bad', 'a:B')",
        "mod_unmarked_hook implements no hook; mark its functions with @genflow.hookimpl",
    ),
    "no_target": (
        HOOK + "register('bad', 'a.B')",
        "register_environments: environment 'bad' must be given as 'module:Class', not 'a.B'",
    ),
    "target_is_no_text": (
        HOOK + "register('bad', dict)",
        "register_environments: environment 'bad' must be given as 'module:Class', not <class 'dict'>",
    ),
    "no_name": (HOOK + "register('b a d', 'a:B')", "register_environments: 'b a d' is no valid name"),
    "hook_raises": (HOOK + "1 / 0", "register_environments failed: ZeroDivisionError: division by zero"),
    "hook_exits": (HOOK + "raise SystemExit(3)", "register_environments failed: SystemExit: 3"),
}

#: the distribution that brings genflow's own plugins here: genflownet, or genflow, as it was called before
OWN = next(point.dist.name for point in entry_points(group="genflow") if point.name == "hypergrid")

#: a target that turns out to be unusable when it is used -> what the error must say
UNUSABLE = {
    "module": (
        "no_such_module:Task",
        "cannot import no_such_module:Task: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "attribute": ("fake_classes:Nothing", "cannot import fake_classes:Nothing: AttributeError: ..."),
    "exits": ("fake_exit:Task", "cannot import fake_exit:Task: SystemExit: 4"),
    "kind": ("fake_classes:Wrong", "fake_classes:Wrong is not a subclass of genflow.Environment"),
    "function": ("fake_classes:function", "fake_classes:function is not a subclass of genflow.Environment"),
    "abstract": (
        "fake_classes:Half",
        "fake_classes:Half does not implement units",
    ),
}
CLASSES = """
from genflow import Environment, Metric

class Wrong(Metric):
    better = "lower"
    def __call__(self, population): ...

class Half(Environment):
    def make(self, device="cpu"): ...
    def condition(self): ...

def function(): ...
"""


def says(text: str, expected: str) -> bool:
    """Whether `text` is `expected`, where a "..." stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), text) is not None


def install(site: Path, distribution: str, points: dict[str, str], **modules: str) -> None:
    """Write what pip leaves behind: entry points, metadata, modules."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[genflow]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
    )
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)


def install_good(site: Path) -> None:
    """A healthy third-party plugin whose name sorts after the broken ones."""
    install(
        site,
        "fake-good",
        {"good": "mod_good"},
        mod_good=HOOK
        + "register('good', 'genflow_hypergrid.environment:Hypergrid')\n"
        + REWARD.removeprefix("import genflow\n")
        + "register('original', 'genflow_hypergrid.rewards:Original', environment='good')",
    )


@pytest.fixture
def run(tmp_path):
    """Run the command line in a process of its own, with the distributions in tmp_path/site."""

    def run(*args: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GENFLOW_")}
        path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
        environ = {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
        done = subprocess.run(
            [sys.executable, "-m", "genflow", *args],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture
def listed(run):
    """``list-plugins --json``, which always succeeds: distribution and name -> entry."""

    def listed(*args: str, **variables: str) -> dict[tuple[str, str], dict]:
        plugins = json.loads(run("list-plugins", "--json", *args, **variables).stdout)["plugins"]
        for plugin in plugins:
            assert plugin.keys() == {"name", "version", "distribution", "provides", "error"}
            assert plugin["error"] is None or (not plugin["provides"] and "\n" not in plugin["error"])
        return {(plugin["distribution"], plugin["name"]): plugin for plugin in plugins}

    return listed


@pytest.fixture
def in_process(tmp_path, monkeypatch):
    """Run commands here, where torch is loaded already, with the distributions in tmp_path/site.

    Returns a function that runs a built-in command and returns its exit status.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    modules = set(sys.modules)

    def call(*args: str) -> int:
        registry.cache_clear()
        try:
            main(list(args))
        except SystemExit as stop:
            return int(stop.code)
        return 0

    yield call
    registry.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith(("mod_", "fake_")):
            del sys.modules[name]


def train(name: str, out: str) -> list[str]:
    structure = ["--structure", "ndim=1,height=3,width=2", "--num", "1"]
    return [
        "train-zoo",
        "--env",
        name,
        *structure,
        "-o",
        "zoo.steps=1",
        "-o",
        "zoo.batch_size=2",
        "--out",
        out,
        "--json",
    ]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_with_its_error_and_hurts_nobody(tmp_path, listed, case):
    text, error = BROKEN[case]
    install(tmp_path / "site", "fake-bad", {"bad": f"mod_{case}"}, **{f"mod_{case}": text})
    install_good(tmp_path / "site")
    plugins = listed()
    assert says(plugins["fake-bad", "bad"]["error"], error)
    assert plugins["fake-good", "good"]["provides"] == {"environment": ["good"], "reward": ["good:original"]}
    assert plugins[OWN, "hypergrid"]["provides"]["environment"] == ["hypergrid"]
    assert [name for name, plugin in plugins.items() if plugin["error"]] == [("fake-bad", "bad")]


@pytest.mark.parametrize("case", BROKEN)
def test_only_a_command_that_needs_a_broken_plugin_stops(tmp_path, in_process, capsys, case):
    text, error = BROKEN[case]
    install(tmp_path / "site", "fake-bad", {"bad": f"mod_{case}"}, **{f"mod_{case}": text})
    install_good(tmp_path / "site")
    assert in_process(*train("bad", "refused")) == 2
    out, err = capsys.readouterr()
    stops = "genflow: environment 'bad' comes from plugin 'bad', which cannot be used: "
    assert out == ""
    assert err.startswith(stops)
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert says(err[len(stops) : -1], error)
    assert not (tmp_path / "refused").exists()
    for name in ("hypergrid", "good"):
        assert in_process(*train(name, f"made-{name}")) == 0
        assert [entry["env"] for entry in json.loads(capsys.readouterr().out)] == [name]


def test_a_command_that_needs_a_broken_plugin_exits_with_status_2(tmp_path, run):
    install(tmp_path / "site", "fake-bad", {"bad": "mod_bad"}, mod_bad="raise RuntimeError('boom')")
    done = run(*train("bad", "out"), status=2)
    assert done.stdout == ""
    assert done.stderr == (
        "genflow: environment 'bad' comes from plugin 'bad', which cannot be used: "
        "import of mod_bad failed: RuntimeError: boom\n"
    )
    done = run(*train("nobody", "out"), status=2)
    assert re.fullmatch(
        r"genflow: unknown environment 'nobody'; .* \(not usable: bad; see `genflow list-plugins`\)\n",
        done.stderr,
    )


def install_unusable(site: Path) -> None:
    hooks = {
        f"mod_{case}": HOOK + f"register('{case}', '{target}')" for case, (target, _) in UNUSABLE.items()
    }
    install(
        site,
        "fake-unusable",
        {case: f"mod_{case}" for case in UNUSABLE},
        **hooks,
        fake_classes=CLASSES,
        fake_exit="raise SystemExit(4)",
    )
    install_good(site)


def test_unusable_classes_are_found_by_list_plugins_check(tmp_path, listed):
    install_unusable(tmp_path / "site")
    # classes are imported only when they are asked for
    assert all(plugin["error"] is None for plugin in listed().values())
    plugins = listed("--check")
    for case, (_, error) in UNUSABLE.items():
        assert says(
            plugins["fake-unusable", case]["error"], f"environment '{case}' of plugin '{case}': {error}"
        )
    assert {distribution for (distribution, _), plugin in plugins.items() if plugin["error"] is None} == {
        OWN,
        "fake-good",
    }


def test_unusable_classes_stop_only_the_command_that_needs_them(tmp_path, in_process, capsys):
    install_unusable(tmp_path / "site")
    for case, (_, error) in UNUSABLE.items():
        assert in_process(*train(case, "refused")) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert says(err, f"genflow: environment '{case}' of plugin '{case}': {error}\n")
    assert not (tmp_path / "refused").exists()
    assert in_process(*train("good", "made")) == 0


def test_the_first_of_two_plugins_of_one_name_is_kept(tmp_path, listed):
    for distribution, name in (("fake-one", "twin"), ("fake-two", "twin"), ("aaa-fake", "hypergrid")):
        module = f"mod_{distribution}".replace("-", "_")
        install(
            tmp_path / "site",
            distribution,
            {name: module},
            **{module: HOOK + f"register('{distribution}', 'a:B')"},
        )
    plugins = listed()
    assert plugins["fake-one", "twin"]["provides"] == {"environment": ["fake-one"]}
    assert (
        plugins["fake-two", "twin"]["error"]
        == "a plugin named 'twin' is already installed by fake-one; uninstall one of them"
    )
    # genflow's own come first, whatever the other distribution is called
    assert (
        plugins["aaa-fake", "hypergrid"]["error"]
        == f"a plugin named 'hypergrid' is already installed by {OWN}; uninstall one of them"
    )
    assert plugins[OWN, "hypergrid"]["provides"]["environment"] == ["hypergrid"]


@pytest.mark.parametrize("name", ["genflownet", "genflow"])
def test_an_environment_with_both_names_of_the_distribution_has_each_plugin_once(tmp_path, listed, name):
    """As after an update from the name that is another project's in the package index."""
    before = listed()
    own = {point.name: point.value for point in entry_points(group="genflow") if point.dist.name == OWN}
    install(tmp_path / "site", name, own)
    after = listed()
    assert [plugin["provides"] for plugin in after.values()] == [p["provides"] for p in before.values()]
    assert not any(plugin["error"] for plugin in after.values())
    assert {distribution for distribution, _ in after} == {"genflownet" if name == "genflownet" else OWN}


def test_one_module_under_two_entry_points_is_one_plugin(tmp_path, listed):
    install(
        tmp_path / "site",
        "fake",
        {"first": "mod_same", "second": "mod_same"},
        mod_same=HOOK + "register('it', 'a:B')",
    )
    plugins = listed()
    assert plugins["fake", "first"]["provides"] == {"environment": ["it"]}
    assert (
        plugins["fake", "second"]["error"]
        == "mod_same is plugin 'first' already; remove one of the two entry points"
    )


def test_what_a_plugin_prints_does_not_spoil_the_result(tmp_path, run):
    text = "print('imported')\n" + HOOK + "print('hooked'); register('loud', 'a:B')"
    install(tmp_path / "site", "fake-loud", {"loud": "mod_loud"}, mod_loud=text)
    done = run("list-plugins", "--json")
    assert "loud" in {plugin["name"] for plugin in json.loads(done.stdout)["plugins"]}
    assert done.stderr == "imported\nhooked\n"


def test_the_list_for_people_names_the_errors_too(tmp_path, run):
    install(tmp_path / "site", "fake-bad", {"bad": "mod_bad"}, mod_bad="raise RuntimeError('boom')")
    lines = run("list-plugins").stdout.splitlines()
    assert (
        lines[lines.index("bad  (fake-bad 1.0)") + 1]
        == "  not usable: import of mod_bad failed: RuntimeError: boom"
    )
    assert "  environment: hypergrid  torchgfn's HyperGrid with any reward of positions." in lines


def test_commands_of_plugins(tmp_path, run, listed):
    add = "cli.add_command(click.Command('{}', callback=lambda: print('{} here'), help='Help of {}.'))"
    hooks = {
        "hello": add.format("hello", "first", "first"),
        "late": add.format("hello", "second", "second"),
        "rival": "cli.add_command(click.Command('other')); " + add.format("run", "rival", "rival"),
        "crash": "cli.add_command(click.Command('leftover')); 1 / 0",
    }
    modules = {f"mod_{name}": COMMAND + text for name, text in hooks.items()}
    install(tmp_path / "site", "fake-commands", {name: f"mod_{name}" for name in hooks}, **modules)
    errors = {
        name: plugin["error"]
        for (distribution, name), plugin in listed().items()
        if distribution == "fake-commands"
    }
    assert errors == {
        "hello": None,
        "late": "register_commands: command 'hello' is already there",
        "rival": "register_commands: command 'run' is already there",
        "crash": "register_commands failed: ZeroDivisionError('division by zero')",
    }
    assert run("hello").stdout == "first here\n"
    help_text = run("--help").stdout
    assert "Help of first." in help_text
    assert "other" not in help_text
    assert "leftover" not in help_text
    assert "FILE.toml" in run("run", "--help").stdout
    assert run("leftover", status=2).stderr.startswith("genflow: unknown command 'leftover'")
    assert run("helo", status=2).stderr == "genflow: unknown command 'helo'; did you mean 'hello'?\n"


def test_one_plugin_can_be_disabled(tmp_path, listed):
    install(tmp_path / "site", "fake-bad", {"bad": "mod_bad"}, mod_bad="raise RuntimeError('never imported')")
    install_good(tmp_path / "site")
    plugins = listed(**{DISABLE_VARIABLE: " bad , hypergrid"})
    disabled = {
        name for name, plugin in plugins.items() if plugin["error"] == "disabled by GENFLOW_DISABLE_PLUGINS"
    }
    assert disabled == {("fake-bad", "bad"), (OWN, "hypergrid")}
    assert plugins["fake-good", "good"]["provides"] == {"environment": ["good"], "reward": ["good:original"]}


def test_all_plugins_can_be_disabled(listed, run):
    names = ",".join(name for _, name in listed())
    assert {plugin["error"] for plugin in listed(**{DISABLE_VARIABLE: names}).values()} == {
        "disabled by GENFLOW_DISABLE_PLUGINS"
    }
    done = run(*train("hypergrid", "out"), status=2, **{DISABLE_VARIABLE: names})
    assert done.stderr == (
        "genflow: environment 'hypergrid' comes from plugin 'hypergrid', which cannot be used: "
        "disabled by GENFLOW_DISABLE_PLUGINS\n"
    )


def test_disabling_an_unknown_plugin_is_warned_about(run):
    done = run("list-plugins", "--json", **{DISABLE_VARIABLE: "hypergird"})
    assert done.stderr == "genflow: GENFLOW_DISABLE_PLUGINS names 'hypergird', which is no installed plugin\n"
    assert all(plugin["error"] is None for plugin in json.loads(done.stdout)["plugins"])


@pytest.mark.parametrize(
    "args", [["list-plugins", "--json"], ["list-plugins"], ["--help"], ["--version"], ["run", "--help"]]
)
def test_no_torch_is_imported_to_tell_what_there_is(tmp_path, args):
    code = (
        f"import sys\nfrom genflow.cli.main import main\nmain({args})\n"
        "assert not {'torch', 'gfn'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_class_loads(kind):
    interface = getattr(genflow, KINDS[kind][1].split(":")[1])
    names = registry().names(kind)
    assert names
    for name in names:
        assert issubclass(registry().load(kind, name), interface)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_is_answered_with_the_nearest(kind):
    name = registry().names(kind)[0]
    with pytest.raises(GenflowError, match=f"^unknown {kind} '{name}x'; did you mean '{name}'"):
        registry().load(kind, f"{name}x")


#: built in, then those of the plugins that ship
EVERY_COMMAND = [*COMMANDS, "convert", "dock", "explore", "reproduce", "vocabulary"]


def test_every_command_is_in_the_help_of_the_group(run):
    lines = run("--help").stdout.splitlines()
    assert [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]] == EVERY_COMMAND


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_the_example_of_every_command_is_a_valid_call_of_it(name, capsys):
    main([name, "--help"])
    help_text = capsys.readouterr().out
    example = re.search(r"Examples?:\n\s+genflow (.*)\n", help_text)
    assert example, help_text
    asked, *args = shlex.split(example[1])
    assert asked == name
    with click.Context(cli) as group:
        command = cli.get_command(group, name)
        command.make_context(
            name, args
        )  # parses without running; a wrong option or a missing argument raises


def hooks() -> dict[str, object]:
    return {
        name: function
        for name, function in vars(hookspecs).items()
        if hasattr(function, f"{hookspecs.PROJECT}_spec")
    }


def test_every_hook_is_documented():
    assert {hook for hook, _ in KINDS.values()} | {"register_commands"} == hooks().keys()
    for name, function in hooks().items():
        assert function.__doc__
        assert f"`{name}`" in GUIDE.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name):
    assert f"genflow {name}" in (GUIDE.parent / "cli.md").read_text()


def test_every_method_that_a_plugin_must_write_is_documented():
    text = GUIDE.read_text()
    for interface in (target.split(":")[1] for _, target in KINDS.values()):
        assert f"`genflow.{interface}`" in text
        methods = getattr(genflow, interface).__abstractmethods__
        assert methods
        for method in methods:
            assert f"`{method}`" in text
    assert DISABLE_VARIABLE in text


def test_the_table_of_signatures_has_every_method_that_a_plugin_must_write_with_its_arguments():
    table = GUIDE.read_text().partition("### What you write, in shapes\n")[2].partition("\n###")[0]
    told = {
        (cls, name): args for cls, name, args in re.findall(r"^\| `(\w+)` \| `(\w+)\((.*?)\)`", table, re.M)
    }
    known = {}
    for interface in (target.split(":")[1] for _, target in KINDS.values()):
        cls = getattr(genflow, interface)
        for method in cls.__abstractmethods__:
            arguments = inspect.signature(getattr(cls, method)).parameters.values()
            own = [a.name for a in arguments if a.name != "self" and a.kind is a.POSITIONAL_OR_KEYWORD]
            known[interface, method] = ", ".join(own)
    assert told == known


#: the reward of the guide
SCORE = re.search(r"```python\n(# score.py\n.*?)```", GUIDE.read_text(), re.DOTALL)[1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "register('bad', 'a:B')",
            "reward 'bad' must say whose it is, e.g. register('bad', 'a:B', environment=",
        ),
        ("register('bad', 'a:B', environment=3)", "must say whose it is"),
        (
            "register('cosine', 'a:B', environment='hypergrid')",
            "reward 'hypergrid:cosine' is already registered",
        ),
    ],
)
def test_a_reward_is_registered_for_an_environment(tmp_path, listed, text, error):
    install(tmp_path / "site", "fake-bad", {"bad": "mod_bad"}, mod_bad=REWARD + text)
    assert error in listed()["fake-bad", "bad"]["error"]


def test_only_rewards_belong_to_an_environment(tmp_path, listed):
    install(
        tmp_path / "site",
        "fake-bad",
        {"bad": "mod_bad"},
        mod_bad=HOOK + "register('bad', 'a:B', environment='hypergrid')",
    )
    assert "only rewards belong to an environment" in listed()["fake-bad", "bad"]["error"]


def test_two_environments_may_have_rewards_of_one_name(tmp_path, listed):
    install(
        tmp_path / "site",
        "fake-mine",
        {"mine": "mod_mine"},
        mod_mine=REWARD + "register('cosine', 'a:B', environment='line')",
    )
    assert listed()["fake-mine", "mine"]["provides"] == {"reward": ["line:cosine"]}
    assert "cosine" in registry().names("reward", "hypergrid")
    assert "hypergrid:cosine" in registry().names("reward")


def test_a_file_is_a_plugin_for_one_run(tmp_path, run):
    file = tmp_path / "score.py"
    file.write_text(SCORE)
    listed = json.loads(run("--plugin", str(file), "list-plugins", "--json").stdout)["plugins"][-1]
    assert listed == {
        "name": "score", "version": None, "distribution": None, "provides": {"reward": ["hypergrid:corner"]},
        "error": None,
    }  # fmt: skip
    options = [
        "--env",
        "hypergrid",
        "--structure",
        "ndim=2,height=4,reward=corner,width=4",
        "--num",
        "1",
        "-o",
        "zoo.steps=5",
    ]
    done = run("--plugin", str(file), "train-zoo", *options, "--out", "zoo", "--json")
    assert json.loads(done.stdout)[0]["structure"]["reward"] == "corner"
    refused = run("train-zoo", *options, "--out", "other", status=2)
    assert "unknown reward 'corner' of environment 'hypergrid'" in refused.stderr
    # what a run is made of tells it from others, and what only measures it does not
    more = tmp_path / "more.py"
    more.write_text(
        "import genflow\n@genflow.hookimpl\ndef register_metrics(register):\n    register('m', 'more:M')\n"
    )
    run("--plugin", str(file), "--plugin", str(more), "train-zoo", *options, "--out", "zoo")
    file.write_text(SCORE + "\n")
    changed = run("--plugin", str(file), "train-zoo", *options, "--out", "zoo", status=2)
    assert "another run (plugin_files.score is" in changed.stderr


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("score.txt", SCORE, "must be a Python file"),
        ("my-score.py", SCORE, "must be a Python file whose name can be imported"),
        ("json.py", SCORE, f"there is another module named 'json', {json.__file__}; rename the file"),
        ("sys.py", SCORE, "there is another module named 'sys', built-in; rename the file"),
        ("empty.py", "", "implements no hook"),
        ("broken.py", "def", "SyntaxError"),
        ("raises.py", "1 / 0", "ZeroDivisionError"),
        (None, "", "there is no such file"),
    ],
)
def test_a_file_that_is_no_plugin_is_refused_in_one_line(tmp_path, run, name, text, error):
    file = tmp_path / "mine" / (name or "nosuch.py")  # python itself would import a json.py beside it
    file.parent.mkdir()
    if name:
        file.write_text(text)
    refused = run("--plugin", str(file), "list-plugins", status=2)
    assert error in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1 and not refused.stdout


def test_a_file_is_a_plugin_for_a_process_and_what_was_made_with_it_says_so(tmp_path):
    """In Python; another process that has not loaded it is told what is missing, not of a misspelling."""
    (tmp_path / "score_of_mine.py").write_text(SCORE.replace("score:", "score_of_mine:"))
    line = "2, 'height': 4, 'reward': 'corner', 'width': 4}"
    make = f"""
import genflow
for _ in range(2):  # a cell of a notebook that is run again
    genflow.load_plugin({str(tmp_path / "score_of_mine.py")!r})
structure = genflow.Structure.build("hypergrid", {{'ndim': {line})
genflow.Population.initialised(structure, 1, 0).save({str(tmp_path / "made")!r})
"""
    load = f"""
import genflow
try:
    genflow.Population.load({str(tmp_path / "made")!r})
except genflow.GenflowError as error:
    print(error)
genflow.load_plugin({str(tmp_path / "score_of_mine.py")!r})
print(genflow.Population.load({str(tmp_path / "made")!r}).structure.fields()["reward"])
"""
    subprocess.run([sys.executable, "-c", make], check=True)
    refused, reward = subprocess.run(
        [sys.executable, "-c", load], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert "reward 'corner' of environment 'hypergrid' is of a plugin that is not loaded here" in refused
    assert "--plugin FILE.py" in refused and "genflow.load_plugin" in refused
    assert "did you mean" not in refused and "choose one of" not in refused
    assert reward == "corner"


@pytest.mark.parametrize("kind", ["environment", "policy", "reward", "encoder", "denoiser"])
def test_an_unknown_name_in_a_file_is_of_another_plugin(kind):
    environment = "hypergrid" if kind == "reward" else None
    name = registry().names(kind, environment)[0]
    with pytest.raises(GenflowError, match=f"^{kind} '{name}x'.* is of a plugin that is not loaded here"):
        registry().load(kind, name + "x", environment, saved=True)
