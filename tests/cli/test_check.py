"""``genflow check`` and ``list-plugins --check``: what they print, and their exit status."""

from __future__ import annotations

import json

import pytest
from bits import BitsEnv, Linear, described_as
from gfn.preprocessors import KHotPreprocessor

from genflow import Environment, ExactSolution, Schema, size
from genflow.cli import plugins
from genflow.cli.main import main
from genflow.testing.plans import ENVIRONMENT, STRUCTURES


class Words(Environment):
    """Words of bits that are all worth the same, in more than one fault."""

    class Config(Schema):
        """`n`: the length."""

        n: int = size(ge=1)

    presets = {"two": {"n": 2}, "three": {"n": 3}}  # noqa: RUF012

    def make(self, device="cpu"):
        """Each bit makes three inputs."""
        return BitsEnv(self.config.n, lambda x: 1.0 + 0 * x.sum(-1)), KHotPreprocessor(3, self.config.n)

    def condition(self):
        """The length."""
        return {"n": float(self.config.n)}

    def units(self):
        """As many columns as units."""
        return described_as(3 * self.config.n, 3)

    def exact_solution(self, transitions):
        """A state too few."""
        return ExactSolution(transitions, n_states=2 ** (self.config.n + 1) - 2)


class Unexited(Words):
    """It describes no exit."""

    def units(self):
        """Two actions of three."""
        return described_as(3 * self.config.n, 2)


class Unlabelled(Linear):
    """Its inputs have no label."""

    def axes(self):
        """A label that nobody knows."""
        return {"0.weight": ("action", "in"), "0.bias": ("action",)}


def run(capsys, *args: str) -> tuple[int, str, str]:
    try:
        main(list(args))
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_what_was_checked_is_listed(capsys):
    structures = [("--structure", text) for text in ("ndim=2,height=4", "ndim=1,height=5")]
    status, out, _ = run(capsys, "check", "hypergrid", *(word for pair in structures for word in pair))
    lines = out.splitlines()
    assert status == 0 and len(lines) == 4 and lines[-1] == "0 findings"
    assert lines[0].startswith("environment hypergrid, ndim=2,height=4") and "sampler" in lines[0]
    assert lines[2].endswith(": columns, condition")


def test_a_finding_is_a_line_and_the_exit_status(capsys, third_party):
    third_party("register_environments", "words", f"{__name__}:Words")
    status, out, err = run(capsys, "check", "words")
    lines = out.splitlines()
    found = [line for line in lines if line.startswith("finding, ")]
    assert status == 1 and not err and lines[-1] == f"{len(found)} findings"
    assert lines[-1 - len(found) :][:-1] == found
    assert any("number of states: Words.exact_solution(): says n_states=6, and" in line for line in found)
    assert any("columns: Words.units(): inputs of" in line for line in found)


def test_json_holds_every_check(capsys):
    structure = ("--structure", "ndim=2,height=4")
    status, out, _ = run(capsys, "check", "hypergrid", *structure, "--json")
    data = json.loads(out)
    assert status == 0 and (data["kind"], data["name"]) == ("environment", "hypergrid")
    assert len(data["checks"]) == len(ENVIRONMENT) + len(STRUCTURES)
    assert data["checks"][0].keys() == {"check", "subject", "holds", "findings", "notes", "skipped"}
    (skipped,) = {each["skipped"] for each in data["checks"]} - {None}
    assert "only one structure" in skipped


def test_what_is_too_large_is_said_to_be_skipped(capsys):
    status, out, _ = run(capsys, "check", "js", "--env", "hypergrid", "--structure", "ndim=2,height=200")
    assert status == 2 and not out
    status, out, _ = run(capsys, "check", "hypergrid", "--structure", "ndim=4,height=16")
    skipped = [line for line in out.splitlines() if line.startswith("  skipped")]
    assert status == 0 and "parents" in skipped[0] and "more than 20,000 states" in skipped[0]


def test_a_reward_is_found_by_either_name(capsys):
    given = ("--structure", "ndim=2,height=4")
    for name in ("original", "hypergrid:original"):
        status, out, _ = run(capsys, "check", name, *given)
        assert status == 0 and out.startswith("reward original, ndim=2,height=4")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("hypergird",), "no plugin registers anything named 'hypergird'; did you mean 'hypergrid'?"),
        (
            ("js", "--kind", "policy"),
            "no plugin registers policy named 'js'; choose one of: deepsets, mlp, mlp3",
        ),
        (("original", "--env", "molecule"), "no plugin registers anything named 'original'"),
        (("mlp", "--structure", "ndim=2,height=3"), "--structure needs --env NAME"),
        (("hypergrid", "--structure", "ndim=2,hight=3"), "unknown key 'hight'"),
        (("profile",), "'profile' is missing; give a small structure with --structure"),
    ],
)
def test_a_wrong_request_is_one_line(capsys, args, message):
    status, out, err = run(capsys, "check", *args)
    assert status == 2 and not out
    assert err.startswith("genflow: ") and message in err and err.count("\n") == 1


def test_a_name_of_two_kinds_needs_its_kind(capsys, third_party):
    third_party("register_policies", "js", "bits:Linear")
    status, _, err = run(capsys, "check", "js")
    assert status == 2 and "'js' is a name of policy and metric; say which" in err
    status, out, _ = run(capsys, "check", "js", "--kind", "policy")
    assert status == 0 and out.startswith("policy js, ")


def test_the_quick_checks_are_made_of_all_plugins(capsys, third_party):
    third_party("register_environments", "unexited", f"{__name__}:Unexited")
    _, out, _ = run(capsys, "list-plugins", "--check")
    (line,) = [line for line in out.splitlines() if "finding" in line]
    assert line.startswith("  finding: environment unexited: Unexited.units(): describes 2 actions of 3")
    _, out, _ = run(capsys, "list-plugins", "--check", "--json")
    data = json.loads(out)
    assert [each["plugin"] for each in data["findings"]] == ["unexited"]
    assert not any(each["error"] for each in data["plugins"])


def test_a_policy_is_checked_on_an_environment_that_works(capsys, third_party):
    third_party("register_policies", "unlabelled", f"{__name__}:Unlabelled")
    found = plugins._findings()
    assert {each["name"] for each in found} == {"unlabelled"}
    assert "give it to the axis" in found[0]["finding"]
