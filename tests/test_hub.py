"""Generators on a hub: fetched, pushed, described and refused, at an endpoint of our own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import serve
from processes import GENFLOW, environment, free_port
from test_untrusted import ASKED, make_generator

from genflow import Generator, GenflowError, Population
from genflow.cli.main import main
from genflow.hub import MARK, README, readme, write_readme
from genflow.pretrained import CARD, TENSORS, locate, shipped

DEFAULT = shipped("hypergrid")[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a small generator, which is not good."""
    folder = tmp_path_factory.mktemp("small")
    make_generator(folder, "coordinate")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, and an empty cache, for this process; the current folder is empty too."""
    with serve() as made:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        point_at(monkeypatch, made.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield made


def point_at(monkeypatch, url: str) -> None:
    """What HF_ENDPOINT does for a process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    files = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


@pytest.fixture
def run(capfd):
    """Run a command in this process; returns its status, what it printed and what it said."""

    def call(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            main([str(each) for each in args])
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        return (status, *capfd.readouterr())

    return call


def tensors(generator: Generator) -> dict[str, torch.Tensor]:
    return {**generator.encoder.state_dict(), **generator.denoiser.state_dict()}


def equal(first: Generator, second: Generator) -> bool:
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_what_is_fetched_is_the_generator_and_nothing_else(hub, small, tmp_path):
    hub.add_folder("somebody/grids", small, **{"setup.py": b"1 / 0", "model.pkl": b"x"})
    found = Generator.from_pretrained("somebody/grids")
    assert equal(found, Generator.from_pretrained(small))
    assert hub.fetched("somebody/grids") == {CARD, TENSORS}
    (snapshot,) = (tmp_path / "cache").glob("models--somebody--grids/snapshots/*")
    assert {path.name for path in snapshot.iterdir()} == {CARD, TENSORS}
    # huggingface_hub's own folder is a folder like any other
    assert equal(Generator.from_pretrained(snapshot), found)


def test_a_revision_is_a_branch_a_commit_or_stands_in_the_name(hub, small, tmp_path):
    make_generator(tmp_path / "other", "conv1d")
    first = hub.add_folder("somebody/grids", small)
    hub.add_folder("somebody/grids", tmp_path / "other", branch="next")
    names = {"somebody/grids": None, "somebody/grids@next": None, f"hf://somebody/grids@{first}": None}
    encoders = [Generator.from_pretrained(name).card.encoder.name for name in names]
    assert encoders == ["coordinate", "conv1d", "coordinate"]
    assert Generator.from_pretrained("somebody/grids", revision="next").card.encoder.name == "conv1d"
    with pytest.raises(GenflowError, match="names another revision than main"):
        locate("somebody/grids@next", revision="main")
    with pytest.raises(GenflowError, match="no such branch, tag or commit"):
        locate("somebody/grids@v9")
    with pytest.raises(GenflowError, match="hypergrid is no repository of a hub, so it has no revision"):
        locate("hypergrid", revision="next")


def test_a_folder_comes_first_then_what_ships_then_the_hub(hub, small, tmp_path):
    for repository in ("hypergrid/default", "mine/generator"):
        hub.add_folder(repository, small)
    assert locate("hypergrid/default") == DEFAULT
    cached = locate("mine/generator")
    assert cached.is_relative_to(tmp_path / "cache")
    # not to be mistaken for what ships or is here
    assert locate("hf://hypergrid/default").is_relative_to(tmp_path / "cache")
    with pytest.raises(GenflowError, match="no such generator ships"):
        locate("hypergrid/other")
    Path("mine").mkdir()
    with pytest.raises(GenflowError, match="write hf://mine/generator to download it"):
        locate("mine/generator")
    assert locate("hf://mine/generator") == cached
    for here in ("mine/generator", "hypergrid/default"):
        Path(here).mkdir(parents=True)
        assert locate(here) == Path(here)
    with pytest.raises(GenflowError, match="no id of a hub"):
        locate("hf://mine")


def test_a_tilde_is_the_home(hub, small, monkeypatch):
    monkeypatch.setenv("HOME", str(small.parent))
    monkeypatch.setenv("USERPROFILE", str(small.parent))
    assert locate(f"~/{small.name}") == small
    with pytest.raises(GenflowError, match="holds no generator"):
        Generator.from_pretrained("~nobody-of-this-name/grids")
    Path("~", small.name).mkdir(parents=True)
    assert locate(f"~/{small.name}") == Path("~", small.name)  # a folder that is there comes first
    assert not hub.asked


def test_reading_a_folder_imports_nothing_of_the_hub(small):
    code = "import genflow, sys; genflow.Generator.from_pretrained(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(small)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and "huggingface_hub" not in done.stdout.split(), done.stderr


def test_what_is_in_the_cache_needs_no_network(hub, small, monkeypatch, tmp_path):
    hub.add_folder("somebody/grids", small)
    before = Generator.from_pretrained("somebody/grids")
    hub.asked.clear()
    assert equal(Generator.from_pretrained("somebody/grids", local_files_only=True), before)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert equal(Generator.from_pretrained("somebody/grids"), before)
    assert not hub.asked
    with pytest.raises(GenflowError, match=r"cannot download somebody/others.*cannot be reached; go online"):
        Generator.from_pretrained("somebody/others")
    with pytest.raises(GenflowError, match="cannot push to me/grids: the hub cannot be reached"):
        before.push_to_hub("me/grids")


def test_another_cache_and_a_token_are_huggingface_hubs(hub, small, tmp_path):
    hub.add_folder("somebody/grids", small)
    assert locate("somebody/grids", cache_dir=tmp_path / "else").is_relative_to(tmp_path / "else")
    hub.writer = "secret"
    with pytest.raises(GenflowError, match=r"cannot push to me/grids: .*HF_TOKEN"):
        Generator.from_pretrained(small).push_to_hub("me/grids", token="other")
    assert not hub.messages
    assert Generator.from_pretrained(small).push_to_hub("me/grids", token="secret").startswith(hub.url)


@pytest.mark.parametrize(
    ("repository", "words"),
    [
        ("somebody/nothing", "the hub has no such repository, or not for you; check the spelling"),
        ("somebody/gated", "access is restricted; ask for it at the hub and log in"),
        ("somebody/text", f"holds no generator: {CARD} is missing"),
        ("somebody/half", f"holds no generator: {TENSORS} is missing"),
        ("somebody/a--b", "the hub has no such repository"),
        ("somebody/spoilt", "is not valid JSON"),
        ("somebody/link", "is not valid JSON"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(hub, small, run, repository, words):
    hub.add_folder("somebody/gated", small)
    hub.gated.add("somebody/gated")
    hub.commit("somebody/text", {"README.md": b"nothing", "sub/generator.json": b"{}"})
    hub.commit("somebody/half", {CARD: (small / CARD).read_bytes()})
    hub.commit("somebody/spoilt", {CARD: b"{", TENSORS: b""})
    hub.commit("somebody/link", {CARD: b"../../../../etc/passwd", TENSORS: b""})  # a link in git is its text
    status, out, said = run("generate", "--generator", repository, "--structure", "ndim=2,height=3")
    assert status == 2 and not out
    assert words in said and said.count("\n") == 1 and repository.split("/")[1] in said


@pytest.mark.parametrize(("name", "size"), [(CARD, 2**26 + 1), (TENSORS, 2**32 + 1)])
def test_what_is_too_large_is_not_downloaded(hub, small, name, size):
    hub.add_folder("somebody/grids", small)
    hub.sizes[name] = size
    with pytest.raises(GenflowError, match=rf"^somebody/grids on the hub: {name} has {size:,} bytes, more"):
        locate("somebody/grids")
    assert not hub.fetched("somebody/grids")
    hub.sizes[name] -= 1
    assert locate("somebody/grids")


@pytest.mark.parametrize("mistake", [AttributeError, KeyError, NameError, TypeError])
def test_a_mistake_in_code_is_not_taken_for_the_hubs(hub, small, monkeypatch, mistake):
    def fail(*_args, **_options):
        raise mistake("ours")

    generator = Generator.from_pretrained(small)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    for work in (lambda: locate("somebody/grids"), lambda: generator.push_to_hub("me/grids")):
        with pytest.raises(mistake, match="ours"):
            work()


def test_no_network_is_said_in_one_line(hub, small, monkeypatch):
    point_at(monkeypatch, f"http://127.0.0.1:{free_port()}")
    for work in (lambda: locate("a/b"), lambda: Generator.from_pretrained(small).push_to_hub("me/grids")):
        with pytest.raises(
            GenflowError, match=r"cannot (download a/b|push to me/grids).*: the hub cannot be"
        ):
            work()


def test_a_link_out_of_a_snapshot_is_refused(hub, small, tmp_path):
    hub.add_folder("somebody/grids", small)
    folder = locate("somebody/grids")
    (tmp_path / "elsewhere.json").write_bytes((small / CARD).read_bytes())
    (folder / CARD).unlink()
    (folder / CARD).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(GenflowError, match="is a link that leads out of"):
        Generator.from_pretrained(folder)


def test_policies_that_were_uploaded_as_they_are_can_be_loaded(hub, tmp_path):
    population = Population.initialised(ASKED, 2, 0)
    population.save(tmp_path / "policies")
    hub.add_folder("somebody/policies", tmp_path / "policies")
    folder = huggingface_hub.snapshot_download("somebody/policies")
    assert torch.equal(Population.load(folder).weights, population.weights)


def test_a_push_makes_a_repository_with_a_card_from_which_the_same_is_loaded(hub, small, tmp_path):
    generator = Generator.from_pretrained(small)
    hub.commit("me/grids", {"notes.txt": b"mine", README: b"old"})
    for repository, private in (("me/grids", None), ("news", True)):
        address = generator.push_to_hub(
            repository, commit_message="First", license="mit", private=private, half=True
        )
        whole = repository if "/" in repository else f"me/{repository}"
        files = hub.revisions[whole]["main"]
        assert address.startswith(f"{hub.url}/{whole}/commit/")
        assert set(files) - {"notes.txt", ".gitattributes"} == {CARD, TENSORS, README}
        card = huggingface_hub.ModelCard(files[README].decode())
        assert (card.data.license, card.data.library_name) == ("mit", "genflownet")
        assert {"gflownet", "hypergrid"} <= set(card.data.tags)
        assert f'generator="{whole}"' in card.text and card.text.startswith(f"\n# {whole}\n")
        again = Generator.from_pretrained(whole)
        assert equal(again, generator.rounded()) and again.card.provenance["license"] == "mit"
    assert hub.private == {"me/news"} and hub.messages == ["First", "First"]
    assert hub.revisions["me/grids"]["main"]["notes.txt"] == b"mine"
    generator.push_to_hub("me/grids", branch="next")
    assert len(hub.revisions["me/grids"]["next"][TENSORS]) > len(hub.revisions["me/grids"]["main"][TENSORS])


def test_the_figures_of_the_card_are_in_the_readme_as_the_hub_reads_them():
    card = Generator.from_pretrained("hypergrid").card
    data = huggingface_hub.ModelCard(readme(card, "me/grids")).data
    found = {(each.dataset_config, each.metric_type): each for each in data.eval_results}
    tests = [entry for entry in card.quality if entry.role == "test"]
    assert data.model_name == "me/grids" and len(tests) > 20
    for entry in tests[:50]:
        for metric, value in entry.metrics.items():
            assert found[entry.name, metric].metric_value == value
            assert found[entry.name, metric].dataset_split == "test"
    text = readme(card, "me/grids")
    assert f"`generator.json` has {len(card.quality) - 50} more." in text
    assert all(f"| `{key}` | {low:g} | {high:g} |" in text for key, (low, high) in card.coverage.items())


def test_what_a_strangers_card_says_stays_in_its_cell(small):
    card = Generator.from_pretrained(small).card
    hostile = '<script>|\n---\n`"x" ' + "y" * 500
    metrics = {hostile: 0.5, "js": 0.25}
    entry = card.quality[0].model_copy(update={"name": hostile, "metrics": metrics})
    more = {"license": "mit\ntags: [evil]"}
    coverage = {hostile: (1.0, 2.0)}
    card = card.model_copy(update={"quality": [entry], "provenance": more, "coverage": coverage})
    text = readme(card, "me/grids")
    data = huggingface_hub.ModelCard(text).data
    assert "evil" not in data.tags and "<script" not in text
    (row,) = [line for line in text.splitlines() if "| selection |" in line]
    assert row.count("|") == 6
    (head,) = [line for line in text.splitlines() if "| structure | role |" in line]
    (covered,) = [line for line in text.splitlines() if line.endswith(" | 1 | 2 |")]
    assert head.count("|") == 6 and covered.count("|") == 4 and covered.count("`") == 2


def test_a_readme_of_ones_own_is_kept(small, tmp_path):
    generator = Generator.from_pretrained(small)
    generator.save_pretrained(tmp_path / "a")
    text = (tmp_path / "a" / README).read_text()
    assert text.splitlines()[-1] == MARK and "# a\n" in text and "license" not in text
    write_readme(tmp_path / "a", generator.card, "b")
    assert "# b\n" in (tmp_path / "a" / README).read_text()
    (tmp_path / "a" / README).write_text("my own")
    generator.save_pretrained(tmp_path / "a")
    assert (tmp_path / "a" / README).read_text() == "my own"
    for own in (f"{text}\nMore of mine.\n".encode(), "mé own".encode("latin-1")):
        (tmp_path / "a" / README).write_bytes(own)
        generator.save_pretrained(tmp_path / "a")
        assert (tmp_path / "a" / README).read_bytes() == own


def test_the_example_of_a_readme_names_a_folder_or_the_repository(small, tmp_path):
    card = Generator.from_pretrained(small).card
    assert 'generator="me/grids@v1")' in readme(card, "me/grids@v1")
    write_readme(tmp_path, card, "generator")
    text = (tmp_path / README).read_text()
    assert "# generator\n" in text and 'generator="path/to/generator")' in text
    with pytest.raises(GenflowError, match="path/to/generator is no folder"):  # nor asked for at the hub
        locate("path/to/generator")


def test_the_command_line_pushes_what_it_exports(hub, small, run, monkeypatch):
    hub.add_folder("somebody/grids", small)
    export = ["export", "somebody/grids", "--out", "exported", "--license", "mit", "-o", "evaluation.num=1"]
    status, _, said = run(*export, "--private")
    assert status == 2 and "--push-to-hub" in said
    hub.writer = "secret"
    monkeypatch.setenv("HF_TOKEN", "wrong")
    status, _, said = run(*export, "--push-to-hub", "me/grids")
    assert status == 2 and said.count("\n") == 1 and "cannot push to me/grids" in said
    assert not Path("exported").exists() and "me/grids" not in hub.revisions
    monkeypatch.setenv("HF_TOKEN", "secret")
    status, out, said = run(*export, "--push-to-hub", "me/grids", "--private")
    assert status == 0 and f"pushed: {hub.url}/me/grids/commit/" in out, said
    files = hub.revisions["me/grids"]["main"]
    assert files[TENSORS] == (Path("exported") / TENSORS).read_bytes()
    assert json.loads(files[CARD])["provenance"]["license"] == "mit" and hub.private == {"me/grids"}


def test_a_command_finds_the_hub_of_its_environment(hub, small, tmp_path):
    hub.add_folder("somebody/grids", small)
    where = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    task = ["--structure", "ndim=2,height=3,width=4", "--num", "1", "--out", "made"]
    done = subprocess.run(
        [*GENFLOW, "generate", "--generator", "hf://somebody/grids@main", *task],
        env=environment(**where), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "1 policy in made" in done.stdout, done.stderr
    assert "huggingface" not in done.stderr and "Fetching" not in done.stderr
