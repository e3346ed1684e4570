"""``genflow explore``, as somebody with a browser meets it: the numbers, the pictures, two visitors, the end.

What the pages show is compared with what the public functions give here.
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from processes import started, until

import genflow
from genflow.cli.main import main

pytest.importorskip("nicegui")
browser = pytest.importorskip("browser", reason="selenium is not installed")

from genflow_explore import tasks  # noqa: E402

needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=f"{browser.missing()} is installed here")
#: pictures of the pages are kept there, if it is set
PICTURES = os.environ.get("EXPLORE_PICTURES")
RECIPE = Path(__file__).parents[2] / "plugins/genflow_hypergrid/pretrained/default.toml"


@contextmanager
def served() -> Iterator[str]:
    """The address of a server, which must end quietly, and with its processes, when it is interrupted."""
    with started("explore", "--no-browser", "--port", 0) as job:
        line = job.process.stdout.readline()
        if not line.startswith("genflow explore: http://127.0.0.1:"):
            job.wait()
        yield line.split()[2]
        job.send(signal.SIGINT)
        job.wait()  # until its output is closed, so that whatever it started has ended too
        assert job.stdout + job.stderr == ""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as found:
        yield found


class Page:
    """What a visitor does and reads in one window."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.driver.switch_to.new_window("window")
        self.window = driver.current_window_handle
        browser.resize(driver, 1280, 900)
        driver.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        self.driver.switch_to.window(self.window)
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        self.driver.switch_to.window(self.window)
        return until(lambda: self.driver.find_elements("css selector", selector), selector)[0]

    def text(self, selector: str) -> str:
        return self.run("return (document.querySelector(arguments[0]) || {}).innerText || ''", selector)

    def press(self, selector: str, *keys: str) -> None:
        """Focus what is there and press keys."""
        element = self.find(selector)
        self.run("arguments[0].focus()", element)
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def type(self, name: str, text: str) -> None:
        """Write into a box by its label."""
        self.press(
            f'input[aria-label="{name}"]', "\ue009a\ue000", text or "\ue003"
        )  # after Ctrl-A; or Backspace

    def click(self, text: str) -> None:
        button = until(
            lambda: self.run(
                "return [...document.querySelectorAll('button:not([disabled])')]"
                ".find(each => each.innerText.trim() == arguments[0])",
                text,
            ),
            text,
        )
        button.click()

    def picture(self, name: str, width: int) -> bytes:
        """All of the page at a width."""
        self.driver.switch_to.window(self.window)
        browser.resize(self.driver, width, 760)
        height = self.run("return document.documentElement.scrollHeight")
        assert self.run("return document.documentElement.scrollWidth") <= width, "cut off at the right"
        browser.resize(self.driver, width, max(height, 760))
        content = self.driver.get_screenshot_as_png()
        if PICTURES:
            Path(PICTURES, f"{name}_{width}.png").write_bytes(content)
        browser.resize(self.driver, 1280, 900)
        return content


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Any]:
    with browser.opened(downloads=str(tmp_path_factory.mktemp("downloads"))) as found:
        yield found
        assert browser.asked(found) == {"127.0.0.1"}
        assert not browser.complaints(found)


def shown_js(page: Page, population: genflow.Population) -> None:
    """The page shows the exact divergence of this policy, and what it draws."""
    target = population.structure.solution.target()
    js = float(genflow.js(target, population.terminal_distribution()[0]))

    def shown() -> bool:
        text = page.text(".js").removeprefix("JS ")
        # another number of threads may change the last digits
        return text not in ("", "-") and float(text) == pytest.approx(js, rel=0.02)

    until(shown, f"JS {js:.3g}")
    table = genflow.sample_objects(population, tasks.DRAWS, seed=0).table
    places = zip(*(table[name] for name in table if name.startswith("x")), strict=True)
    names = [f"({', '.join(map(str, place))})" for place in places]
    until(lambda: page.text(".samples").split("\n") == names, f"samples {names}")


@needs_browser
def test_a_hypergrid_by_sliders_and_by_typing(address, driver):
    page = Page(driver, address)
    until(lambda: page.text(".js") not in ("", "-"), "the first policy")
    shown_js(page, genflow.generate("hypergrid", ndim=2, height=8, num=1))
    picture_is_the_target(page)

    arrow_right, arrow_left = "\ue014", "\ue012"
    page.press('.q-slider[aria-label="h"] [tabindex]', arrow_right, arrow_right)
    page.press('.q-slider[aria-label="R1"] [tabindex]', arrow_left)
    page.type("R0", "0.02")
    page.type("band to", "0.43")
    fields = {"height": 10, "R0": 0.02, "R1": 0.45, "band": (0.3, 0.43)}
    shown_js(page, genflow.generate("hypergrid", {"ndim": 2, **fields}, num=1))
    page.type("n", "3")
    page.type("width", "64")
    shown_js(page, genflow.generate("hypergrid", {"ndim": 3, "width": 64, **fields}, num=1))
    assert "first two dimensions" in page.text(".about") and "all 1,000 positions" in page.text(".about")

    for name, text, sentence in (
        ("h", "99", "h must be a whole number from 2 to 64, and is 99."),
        ("h", "", "h must be a whole number from 2 to 64, and is empty."),
        ("band from", "0.44", "band goes from 0.44 to 0.43; the smaller comes first."),
        ("n", "6", "A grid of 10 to the power of 6 has 1,000,000 positions"),
    ):
        page.type(name, text)
        until(lambda s=sentence: page.text(".message.wrong").startswith(s), sentence)
        page.type(name, {"h": "10", "band from": "0.3", "n": "3"}[name])
        until(lambda: not page.text(".message.wrong"), "no message")
    shown_js(page, genflow.generate("hypergrid", {"ndim": 3, "width": 64, **fields}, num=1))
    for width in (1280, 380):
        page.picture("hypergrid", width)


def picture_is_the_target(page: Page) -> None:
    """The brightest and the darkest cells of the target's picture are where its probabilities are."""
    from PIL import Image

    structure = genflow.Structure.parse("hypergrid", "ndim=2,height=8")
    target = structure.solution.target().reshape(8, 8)
    until(lambda: page.run("return document.querySelectorAll('.target image').length"), "the picture")
    shot = Image.open(io.BytesIO(page.find(".target image").screenshot_as_png)).convert("RGB")
    cell = shot.width / 8
    bright = [
        [sum(shot.getpixel((int((i + 0.5) * cell), int((7.5 - k) * cell)))) for k in range(8)]
        for i in range(8)
    ]
    order = sorted((float(target[i, k]), bright[i][k]) for i in range(8) for k in range(8))
    assert len({round(p, 12) for p, _ in order}) == len({light for _, light in order}) == 3
    assert [light for _, light in order] == sorted(light for _, light in order)


@needs_browser
def test_two_visitors_do_not_mix(address, driver):
    one, two = Page(driver, address), Page(driver, address)
    for page, height in ((one, 5), (two, 7)):
        page.type("h", str(height))
    shown_js(one, genflow.generate("hypergrid", ndim=2, height=5, num=1))
    shown_js(two, genflow.generate("hypergrid", ndim=2, height=7, num=1))
    two.click("Another policy")
    one.type("R2", "3")
    shown_js(two, genflow.generate("hypergrid", ndim=2, height=7, num=1, seed=1))
    shown_js(one, genflow.generate("hypergrid", ndim=2, height=5, R2=3, num=1))


def rows_of(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content)))


@pytest.mark.slow
@needs_browser
def test_molecules_are_drawn_refined_and_kept(address, driver, tmp_path):
    page, other = Page(driver, f"{address}molecules"), Page(driver, f"{address}molecules")
    for each in (page, other):
        until(lambda p=each: p.run("return document.querySelectorAll('.card').length") == 12, "12 molecules")
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
        )
    assert page.run("return document.querySelectorAll('.piece').length") == 72
    for width in (1280, 380):
        page.picture("molecules", width)
    before = other.text(".cards")

    page.click("Tick none")
    page.click("Draw molecules")
    until(lambda: page.text(".message.wrong").startswith("No block is ticked"), "a sentence")
    for number in (0, 5, 7, 11):
        page.press(f".piece:nth-child({number + 1})", " ")
    page.type("weight to", "250")
    page.type("QED from", "0.7")
    page.click("Draw molecules")
    wish = "logp:1.5..3; tpsa:40..70; mw:220..250; qed:>=0.7"
    fields = {"blocks": (0, 5, 7, 11), "max_blocks": 3, "reward": "profile", "profile": wish}
    policy = genflow.generate("molecule", fields, num=1, seed=1)
    columns = list(tasks.DESCRIPTORS)
    objects = genflow.sample_objects(policy, 200, seed=1, unique=True, top=200, columns=columns)
    mean = f"Mean score {objects.summary['mean_score']:.3f}."
    until(lambda: page.text(".summary").startswith(mean), mean)
    scores = [f"score {score:.3f}" for score in objects.table["score"][:12]]
    assert [line for line in page.text(".cards").split("\n") if line.startswith("score")] == scores

    page.click("Download the CSV")
    file = until(lambda: list(tmp_path.glob("*.csv")), "the file")[0]
    objects.save(tmp_path / "wanted" / "own.csv")
    assert rows_of(file.read_text()) == rows_of((tmp_path / "wanted" / "own.csv").read_text())

    page.type("calls", "100")
    page.click("Refine")
    calls = len(policy.layout.reward_calls) + 100
    refined = genflow.finetune(policy, reward_calls=calls, seed=1)
    mean = genflow.sample_objects(refined, 200, seed=1).summary["mean_score"]
    until(lambda: "refined with 100 calls" in page.text(".summary"), "a refined policy")
    assert page.text(".summary").startswith(f"Mean score {mean:.3f}.")
    assert other.text(".cards") == before


def test_the_table_of_molecules_is_that_of_the_public_functions():
    fields = (("blocks", (0, 2, 5, 7)), ("max_blocks", 2), ("reward", "profile"), ("profile", "logp:1..2"))
    found = tasks.molecules(fields, 3)
    policy = genflow.generate("molecule", dict(fields), num=1, seed=3)
    objects = genflow.sample_objects(
        policy, tasks.TRAJECTORIES, seed=3, unique=True, columns=list(tasks.DESCRIPTORS)
    )
    rows = rows_of(found.table.decode())
    assert sorted(row["object"] for row in rows) == sorted(objects.table["object"])
    assert {row["object"]: float(row["mw"]) for row in rows} == pytest.approx(
        dict(zip(objects.table["object"], objects.table["mw"], strict=True))
    )
    assert found.mean == pytest.approx(objects.summary["mean_score"])
    assert [each.smiles for each in found.best] == [row["object"] for row in rows[: tasks.SHOWN]]
    assert found.calls == len(policy.layout.reward_calls)


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_sentence_and_then_there_is_another():
    from genflow_explore.work import Worker

    async def ask() -> None:
        worker = Worker()
        with pytest.raises(genflow.GenflowError, match="try again"):
            await worker.do(os._exit, 1)
        with pytest.raises(genflow.GenflowError, match="the terminal says more"):
            await worker.do(int, "no number")
        assert await worker.do(int, "7") == 7

    asyncio.run(ask())


def test_sliders_lie_where_the_generator_was_trained_and_begin_at_the_defaults():
    from genflow_explore.grid_page import FIELDS, start

    coverage = tomllib.loads(RECIPE.read_text())["coverage"]
    for key, (low, high, *_) in FIELDS.items():
        assert coverage[key][0] <= low < high <= coverage[key][1], key
    given = {**dict(start()), "band": [0.3, 0.4]}
    assert given.items() <= genflow.Structure.parse("hypergrid", "ndim=2,height=8").filled().items()
    assert dict(start())["band"] == (0.3, 0.4)


def test_a_range_at_its_end_is_open_there():
    ranges = {
        "mw": (200, 300, 50, 700),
        "logp": (-3, 2, -3, 7),
        "qed": (0.5, 1, 0, 1),
        "tpsa": (0, 200, 0, 200),
    }
    assert tasks.profile(ranges) == "mw:200..300; logp:<=2; qed:>=0.5"
    with pytest.raises(genflow.GenflowError, match="narrow one"):
        tasks.profile({"tpsa": (0, 200, 0, 200)})


def status(request: Request) -> int:
    try:
        with urlopen(request) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def test_only_this_machine_and_only_the_page_itself_is_answered(address):
    port = int(address.rstrip("/").rpartition(":")[2])
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))  # answered if it listened at all addresses
    assert status(Request(address)) == 200
    assert status(Request(address, headers={"Host": "elsewhere.example"})) == 400
    assert status(Request(address, headers={"Origin": "http://elsewhere.example"})) == 403
    with urlopen(address) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'self' ")


def test_it_ends_quietly_while_it_still_begins():
    with served() as address:
        assert status(Request(address)) == 200


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["explore", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails(capsys, "--no-browser", "--port", str(port))
    assert said.startswith(f"genflow: port {port} of this machine cannot be used (Address already in use)")
    assert said.count("\n") == 1


def test_a_missing_extra_is_one_line_that_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = fails(capsys, "--no-browser")
    assert said == (
        "genflow: the page needs nicegui, which is not installed; in a clone of genflow, run pip install"
        " '.[explore]'\n"
    )
