"""`genflow reproduce`: the paper's numbers beside ours, as a user runs it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from genflow_metrics.similarity import cka_matrix
from genflow_paper import job, latents
from genflow_paper.divergences import PERFECT, impossible, reference
from genflow_paper.items import ITEMS
from genflow_paper.molecules import with_modules
from genflow_paper.networks import paired_inputs, resnet_parameters
from genflow_paper.page import heading
from genflow_paper.parts import KNOWN, ModelPart, structure_of, with_requirements
from genflow_paper.printed import BY_MEMBERS, BY_STRUCTURES, MAIN, SPREAD
from genflow_paper.scale import SCALES
from oracles import grid, lively
from processes import Job, started, untimed

from genflow import GenflowError, PolicyOptions, Population, Progress, Structure, train_population
from genflow.measure import all_metrics

SMOKE = SCALES["smoke"]


#: an item of each kind; the others differ in the structures and the generators that they compare
CHOSEN = (
    "table1", "table3", "table6", "table7", "table9", "table11", "table16", "figure4", "figure5", "figure6b",
    "figure9", "diffusion", "optima",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of some items at the scale `smoke`."""
    cwd = tmp_path_factory.mktemp("reproduce")
    Job("reproduce", *CHOSEN, "--scale", "smoke", "--out", "out", cwd=cwd).wait()
    return cwd / "out"


def result(folder: Path, item: str) -> dict:
    return json.loads((folder / "items" / item / "result.json").read_text())


def rows(folder: Path, item: str, table: int = 0) -> list[dict]:
    found = result(folder, item)["tables"][table]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def check_page(folder: Path, names: Sequence[str]) -> None:
    page = (folder / "report.html").read_text()
    for name in names:
        facts = result(folder, name)
        assert facts["command"] == f"genflow reproduce {name} --scale smoke --seed 0"
        assert facts["seconds"] >= 0 and facts["scale"] == "smoke"
        assert heading(name) in page
        assert facts["tables"] or facts["pictures"]
        for picture in facts["pictures"]:
            png = (folder / "items" / name / f"{picture['name']}.png").read_bytes()
            assert png.startswith(b"\x89PNG") and picture["caption"] in page.replace("&#x27;", "'")
    # self-contained: nothing is asked of elsewhere
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)


def test_items_are_measured_and_on_the_page(made):
    check_page(made, CHOSEN)


@pytest.mark.slow
def test_all_items_are_measured(made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    done = Job("reproduce", "--all", "--scale", "smoke", "--out", "out", cwd=tmp_path).wait()
    check_page(tmp_path / "out", [name for name, item in ITEMS.items() if not item.missing])
    for name, item in ITEMS.items():
        assert not item.missing or f"{name} is left out" in done.stderr
    found = rows(tmp_path / "out", "table13")
    assert {row["M"] for row in found} - {""} == {f"M = {m}" for m in SMOKE.members}


def test_each_number_stands_three_ways(made):
    folder = made
    found = rows(folder, "table9")
    for row in found:
        structure, source, d = row["structure"], row["source"], row["d"]
        if source == PERFECT:
            assert row["JS exact"] == pytest.approx(0, abs=1e-12) and row["L1 exact"] == 0
            assert row["JS protocol"] > 0
        if "sampler" in source:
            continue
        assert 0 <= row["JS exact"] <= 0.6932
        assert (row["seconds"] is None) == (source == "untrained")
        assert row["trained on"] == "no" or source == "trained"
        papers = d == round(len(Structure.parse("hypergrid", structure).layout.units["input"]) ** 0.5)
        if papers and source in ("trained", "generated, conv1d + unet1d, noise"):
            printed = MAIN[structure, "trained" if source == "trained" else "generated"]
            assert [row[f"{name} printed"] for name in ("JS", "KL", "L1")] == list(printed[:3])
            assert row["seconds printed"] == printed.seconds
        else:
            assert row["JS printed"] is None
    sources = {row["source"] for row in found}
    assert {"untrained", "trained", "generated, coordinate", "generated, conv1d + unet1d, v"} < sources
    shipped = [
        row["JS exact"] for row in found if row["source"] == "generated, coordinate" and row["d"] == 128
    ]
    assert max(shipped) < 0.01


def test_csv_files_are_the_tables(made):
    folder = made
    for name in ("table1", "table6", "diffusion"):
        facts = result(folder, name)
        with (folder / "items" / name / "table1.csv").open() as file:
            header, *lines = csv.reader(file)
        assert header == facts["tables"][0]["columns"]
        for line, row in zip(lines, facts["tables"][0]["rows"], strict=True):
            assert line == ["" if cell is None else str(cell) for cell in row]


def test_known_structures_are_those_that_were_trained_on(made):
    folder = made
    # with two structures, A and B, the generators were not trained on C and D
    for row in rows(folder, "table11"):
        if row["structure"] == "C" and row["source"].startswith("generated"):
            assert row["trained on"] == ("no" if row["N"] == "N = 2" else "yes")
        if row["structure"] == "C*" and row["source"].startswith("generated"):
            assert row["trained on"] == "no"


def test_the_best_is_at_most_the_average_and_the_median(made):
    folder = made
    grouped: dict[tuple, dict] = {}
    for row in rows(folder, "table16"):
        key = (row["structure"], row["d"], row["source"], row["metric"])
        grouped.setdefault(key, {})[row["kind"]] = row
    for kinds in grouped.values():
        for column in ("protocol", "exact"):
            assert kinds["best"][column] <= min(kinds["average"][column], kinds["median"][column]) + 1e-12
    printed = {
        (r["structure"], r["metric"], r["kind"]): r["printed"]
        for r in rows(folder, "table16")
        if r["printed"]
    }
    assert printed["A", "JS", "best"] == 0.674 and printed["D", "KL", "median"] == 9.466
    assert len(printed) == 4 * 3 * 3


def test_again_it_makes_nothing_anew_and_another_seed_is_refused(made, tmp_path):
    folder = made
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.glob("items/*/result.json")}
    done = Job(
        "reproduce", "table1", "figure5", "--scale", "smoke", "--out", "out", "--json", cwd=tmp_path
    ).wait()
    assert {path: path.stat().st_mtime_ns for path in copy.glob("items/*/result.json")} == before
    assert json.loads(done.stdout)["table1"] == result(folder, "table1")
    # another scale or seed in the same folder is another run
    done = Job("reproduce", "figure7", "--scale", "smoke", "--seed", "1", "--out", "out", cwd=tmp_path).wait(
        2
    )
    assert done.stderr.count("\n") == 1 and "seed" in done.stderr


def test_stopped_it_goes_on_and_yields_the_same(made, tmp_path):
    folder = made
    with started("reproduce", "table1", "--scale", "smoke", "--out", "out", cwd=tmp_path) as killed:
        killed.until((tmp_path / "out/zoos/useful/run.json").exists, "the second zoo")
    assert not (tmp_path / "out/report.html").exists()
    Job("reproduce", "table1", "--scale", "smoke", "--out", "out", cwd=tmp_path).wait()

    assert untimed(rows(tmp_path / "out", "table1")) == untimed(rows(folder, "table1"))


#: item -> what is there when its first training is over
STAGES = {
    "figure4": "tuned/*/*/finetuned/population.json",
    "table3": "molecules/*/population.json",
    "optima": "optima/*/optimum-0/population.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("item", STAGES)
def test_stopped_in_the_middle_of_an_item_it_keeps_what_was_trained(made, tmp_path, item):
    whole = made / STAGES[item].split("/")[0]
    shutil.copytree(made, tmp_path / "out", ignore=lambda at, names: {whole.name, "items"} & {*names})
    reproduce = ("reproduce", item, "--scale", "smoke", "--out", "out")
    first: list[Path] = []
    with started(*reproduce, cwd=tmp_path) as killed:
        killed.until(lambda: first.extend((tmp_path / "out").glob(STAGES[item])) or first, "the first stage")
    kept = first[0].stat().st_mtime_ns
    assert not (tmp_path / "out/items" / item / "result.json").exists()
    Job(*reproduce, cwd=tmp_path).wait()
    assert first[0].stat().st_mtime_ns == kept
    found, expected = result(tmp_path / "out", item), result(made, item)
    assert found["tables"] == expected["tables"] and found["findings"] == expected["findings"]


def wrong(*args: object, cwd: Path) -> str:
    done = Job("reproduce", *args, cwd=cwd).wait(2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not list(cwd.iterdir())
    return done.stderr


def test_wrong_requests_are_one_line(tmp_path):
    assert "no item 'tabel2'" in (said := wrong("tabel2", cwd=tmp_path)) and "table2" in said
    assert "name items, or give --all" in wrong(cwd=tmp_path)
    assert "name items, or give --all or --list" in wrong("table1", "--all", cwd=tmp_path)
    assert "more than --budget 5" in wrong("--all", "--scale", "small", "--budget", 5, cwd=tmp_path)
    if ITEMS["figure6a"].missing:
        assert "genflownet[vision]" in wrong("figure6a", cwd=tmp_path)


def test_larger_scales_take_longer():
    smoke, small, paper = (
        job.seconds_of(scale, job._parts(scale, ITEMS), list(ITEMS)) for scale in SCALES.values()
    )
    assert 10 * smoke < small < paper / 5


def test_a_full_disk_is_told_before_anything_is_made(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(GenflowError, match=r"takes some .* GB, and .* has 0.0 GB free"):
        job.run(tmp_path / "out", SCALES["small"], 0, ["table4"], None)
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_is_left_to_do(made):
    folder = made
    empty = {row["item"]: row["seconds"] for row in job.listing(folder / "nowhere", SMOKE)}
    done = {row["item"]: row["seconds"] for row in job.listing(folder, SMOKE)}
    assert list(empty) == list(ITEMS)
    assert all(seconds > 0 for seconds in empty.values())
    assert {name for name, seconds in done.items() if not seconds} == set(CHOSEN)


def test_parts_are_shared_and_come_after_what_they_need():
    parts = with_requirements([part for item in ITEMS.values() for part in item.parts(SMOKE)])
    assert len(parts) == len(set(parts)) == len({part.place for part in parts})
    for place, part in enumerate(parts):
        assert all(need in parts[:place] for need in part.requires())
    assert ModelPart("paper", 4, SMOKE.standard, "epsilon") in parts


def test_what_the_paper_prints_is_of_its_structures():
    assert {name for name, _ in MAIN} <= {*KNOWN, "A*", "B*", "D*", "E*", "F*", "G*", "H*"}
    for table in (MAIN, BY_STRUCTURES, BY_MEMBERS):
        for printed in table.values():
            assert 0 < printed.js < 0.6932 and printed.kl > 0 and 0 < printed.l1 < 1
    assert len(SPREAD) == 4
    for name in KNOWN:
        inputs = len(structure_of(name, "paper").layout.units["input"])
        assert structure_of(name, "paper").fields()["width"] ** 2 == inputs


def test_the_reference_is_what_the_protocol_gives_exact_samplers():
    target = structure_of("A", "paper").solution.target()
    perfect, greedy = reference(target).values()
    assert float(perfect["JS"][0].mean()) == pytest.approx(0.674, abs=0.004)
    expected = float((2 * target * (1 - target) ** 256).mean())
    assert float(perfect["L1"][0].mean()) == pytest.approx(expected, rel=0.01)
    # what prefers high rewards is wrong, and scores better
    assert greedy["JS"][1] > 0.05 and greedy["JS"][0].mean() < perfect["JS"][0].mean()


def test_printed_figures_that_no_distribution_can_have_are_told():
    odd = {
        name
        for (name, _), each in MAIN.items()
        if impossible(each, structure_of(name, "paper").solution.n_states)
    }
    assert odd == {"A", "B", "A*", "B*", "D*", "H*"}


def test_modules_of_a_grid_fit_every_molecule_policy():
    for preset in ("small", "medium", "full"):
        structure = Structure.parse("molecule", preset)
        weights, replaced = with_modules(structure, 0)
        assert weights.shape[1] == structure.layout.size and "net.2.weight" in replaced


def test_cka_between_networks_is_one_for_a_rotation_and_the_squared_correlation_of_single_features():
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, 5, dtype=torch.float64, generator=rng) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=rng)).Q
    found = cka_matrix([x, y[:, :1]], [3 * x @ rotation - 1, y, x[:, :1]])
    assert found.shape == (2, 3)
    assert float(found[0, 0]) == pytest.approx(1)
    squared = float(torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1] ** 2)
    assert float(found[1, 2]) == pytest.approx(squared)
    centred = [each - each.mean(0) for each in (x, y)]
    expected = (centred[1].T @ centred[0]).norm() ** 2
    expected /= (centred[0].T @ centred[0]).norm() * (centred[1].T @ centred[1]).norm()
    assert float(found[0, 1]) == pytest.approx(float(expected))
    assert cka_matrix([torch.ones(60, 2)], [x]).isnan().all()


def test_examples_of_two_grids_are_at_the_same_places():
    first, second = (Structure.parse("hypergrid", name) for name in ("ndim=2,height=4", "ndim=3,height=8"))
    a, b = paired_inputs(first, second, 0)
    coarse = a.reshape(-1, 2, 4).argmax(-1)
    fine = b.reshape(-1, 3, 8).argmax(-1)
    assert torch.equal(coarse, fine[:, :2] // 2)


def test_the_variance_of_parameters_is_that_of_all_numbers():
    population = lively(grid(2, 4), 3)
    values = population.weights.double()
    expected = (values - values.mean(1, keepdim=True)).square().mean(1)
    assert all_metrics()["parameter_variance"](population).tolist() == pytest.approx(expected.tolist())


def test_resnets_have_the_parameters_that_are_known():
    # as torchvision's documentation of its models says
    assert resnet_parameters((2, 2, 2, 2)) == 11_689_512
    assert resnet_parameters((3, 4, 6, 3)) == 21_797_672


def test_optima_are_told_apart_by_what_they_sample_or_by_their_backward_policy():
    for names in (latents.REWARDS, latents.BACKWARD):
        structures = [Structure.parse("hypergrid", f"{name},width=128") for name in names]
        assert len({s.layout.size for s in structures}) == 1
        for place, structure in enumerate(structures):
            start = Population.initialised(structure, 2, 0).weights
            options = PolicyOptions(objective="distill", steps=300, batch_size=512, lr=5e-3)
            with tempfile.TemporaryDirectory() as folder:
                best = train_population(
                    structure,
                    options,
                    start=start,
                    seed=0,
                    folder=Path(folder),
                    progress=Progress(quiet=True),
                )
            num, divergence, good, *shares = latents._told_apart(best, structures)
            assert (num, good) == (2, 1) and divergence < latents.GOOD
            assert shares == [float(place == other) for other in range(len(names))]
