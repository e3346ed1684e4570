"""Files from strangers: whatever is in them, they load to something valid or are refused in one line.

Soon, and in little memory.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import grid, lively
from safetensors.torch import save

from genflow import Generator, GenflowError, Population, Structure, Zoo
from genflow.evaluation import pictures, report_sections
from genflow.evaluation.baselines import transplant
from genflow.evaluation.evaluate import table
from genflow.evaluation.report import write_report
from genflow.evaluation.report_data import read_report_data
from genflow.generator import FORMAT
from genflow.model_card import Card, EncoderCard
from genflow.noise import NoiseOptions, SamplingOptions
from genflow.registry import registry
from genflow.schema import brief
from genflow.stages.autoencoder import load_autoencoder
from genflow.storage.files import (
    MAX_DEPTH,
    MAX_HEADER,
    MAX_JSON,
    MAX_VALUES,
    finite,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

ROOT = Path(__file__).parent.parent
ASKED = grid(2, 3, width=4)
#: seconds, and bytes beyond those in use before, that a case may take
SECONDS, MEMORY = 60, 200 * 2**20
#: bytes of address space that all cases together may take
SPACE = 4 * 2**30
#: cases of each kind; the slow test has more
CASES = {
    "population": 1200,
    "zoo": 300,
    "conv1d": 300,
    "coordinate": 300,
    "autoencoder": 500,
    "findings": 400,
    "report": 10,
}
SLOW = 10


# --- what is attacked


def make_population(folder: Path, height: int = 3) -> None:
    """As `genflow train-zoo` writes it."""
    population = lively(grid(2, height, width=4), 3)
    provenance = {
        "source": "trained",
        "training_structures": [population.structure.fields()],
        "members": [{"run": i, "metrics": {"js": 0.1 * i}} for i in range(3)],
        "seconds": 1.5,
        "budget": {"objective": "tb", "steps": 10, "batch_size": 4},
        "history": {"loss": [[1, 2.0], [2, None], [3, 0.5]], "js": [[3, 0.25]]},
    }
    Population(population.structure, population.weights, provenance).save(folder)


def make_encoder(name: str, latent_size: int = 8) -> Any:
    """An untrained encoder of two structures."""
    sizes = {
        "conv1d": {"levels": 2},
        "coordinate": {"hidden": 8, "embedding": 8, "depth": 1, "matrices": 2, "rank": 1},
    }[name]
    cls = registry().load("encoder", name)
    return cls.for_zoo(
        cls.Config(latent_size=latent_size, **sizes),
        [lively(grid(2, height, width=4), 3) for height in (3, 4)],
    )


def make_generator(folder: Path, name: str) -> None:
    """As `genflow train-ldm` writes it."""
    encoder, structures = make_encoder(name), [grid(2, height, width=4) for height in (3, 4)]
    denoiser_cls = registry().load("denoiser", "unet1d")
    options = denoiser_cls.Config(channels=(8, 8), patch=1, embedding=8)
    sizes = {"latent_size": 8, "condition_size": len(ASKED.condition())}
    quality = {
        "structure": ASKED.fields(),
        "name": ASKED.name,
        "role": "selection",
        "num": 2,
        "metrics": {"js": 0.1},
    }
    card = Card(
        format=FORMAT,
        env="hypergrid",
        policy="mlp3",
        training_structures=[s.fields() for s in structures],
        coverage={"height": (2, 5)},
        quality=[quality],
        encoder=EncoderCard.of(name, encoder),
        denoiser="unet1d",
        denoiser_options=options.model_dump(mode="json"),
        **sizes,
        noise=NoiseOptions(timesteps=20),
        sampling=SamplingOptions(steps=2),
        provenance={"seed": 0, "seconds": 2.5, "history": {"loss": [[1, 0.5], [2, 0.25]]}},
    )
    Generator(card, encoder, denoiser_cls(options, **sizes), torch.zeros(8), torch.ones(8)).save_pretrained(
        folder
    )


def make_autoencoder(folder: Path) -> None:
    """As `genflow train-ae` writes it."""
    encoder = make_encoder("conv1d")
    write_tensors(folder / "autoencoder.safetensors", encoder.state_dict())
    facts = {
        "encoder": EncoderCard.of("conv1d", encoder).model_dump(mode="json"),
        "seconds": 1.0,
        "history": {"loss": [[1, 0.5]]},
    }
    write_json(folder / "autoencoder.json", facts)


def make_run(folder: Path) -> None:
    """What `genflow report` reads."""
    make_population(folder / "zoo" / "one")
    make_autoencoder(folder / "autoencoder")
    make_generator(folder / "generator", "conv1d")
    entries = [
        {
            "env": "hypergrid", "name": "a", "source": source, "seen": False, "num": 4,
            "metrics": {"js": {"mean": 0.1, "min": 0.05, "max": 0.2}}, "seconds": 1.0,
        }
        for source in ("generated", "trained")
    ]  # fmt: skip
    write_json(
        folder / "evaluation.json", {"entries": entries, "config": {"seed": 3}, "versions": {"torch": "2"}}
    )
    write_json(
        folder / "run.json",
        {"stage": "run", "seed": 3, "config": {"env": "hypergrid"}, "versions": {"torch": "2"}},
    )


def load_one(folder: Path) -> None:
    """A population is finite and of the right shape, and its provenance can be told and saved."""
    population = Population.load(folder)
    assert population.weights.dtype == torch.float32 and population.weights.shape == (
        len(population),
        population.layout.size,
    )
    assert len(population) and torch.isfinite(population.weights).all()
    facts = {key: population.provenance.get(key) for key in ("seconds", "budget", "started_from")}
    table(
        [
            {
                "name": "",
                "seen": population.seen,
                "source": population.source,
                "num": 1,
                "metrics": {},
                **facts,
            }
        ],
        [],
    )
    json.dumps(finite(dict(population.provenance)), allow_nan=False)
    assert len(population[:1]) == 1


def load_zoo(folder: Path) -> None:
    """Every structure has a name and a condition."""
    for structure in Zoo(folder).structures:
        assert structure.name and torch.isfinite(structure.condition()).all()


def load_generator(folder: Path) -> None:
    """A generator makes finite policies, or says why not."""
    generator = Generator.from_pretrained(folder)
    tensors = [
        *generator.encoder.state_dict().values(),
        *generator.denoiser.state_dict().values(),
        generator.latent_mean,
    ]
    assert all(torch.isfinite(tensor).all() for tensor in tensors) and (generator.latent_std > 0).all()
    generator.check(ASKED)
    generator.caution(ASKED)
    assert generator.training_structures
    made = generator.generate(ASKED, 1, steps=2)
    assert made.weights.shape == (1, ASKED.layout.size) and torch.isfinite(made.weights).all()


def load_encoder(folder: Path) -> None:
    """An encoder decodes, or says why not."""
    encoder, card = load_autoencoder(folder)
    assert all(torch.isfinite(tensor).all() for tensor in encoder.state_dict().values())
    with torch.no_grad():
        made = encoder.decode(torch.zeros(1, encoder.latent_size), ASKED.layout, ASKED.condition())
    assert made.shape == (1, ASKED.layout.size) and card.name


#: kind -> (what makes the files, what reads them)
KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "population": (make_population, load_one),
    "zoo": (lambda folder: [make_population(folder / str(height), height) for height in (3, 4)], load_zoo),
    "conv1d": (lambda folder: make_generator(folder, "conv1d"), load_generator),
    "coordinate": (lambda folder: make_generator(folder, "coordinate"), load_generator),
    "autoencoder": (make_autoencoder, load_encoder),
    "findings": (make_run, read_report_data),
    "report": (make_run, lambda folder: write_report(folder, folder.parent / "written")),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for kind, (make, load) in KINDS.items():
        make(folder / kind)
        load(folder / kind)
    return folder


@pytest.fixture
def attacked(originals, tmp_path):
    """Copies of valid files, to be spoilt."""
    return Path(shutil.copytree(originals, tmp_path / "attacked"))


# --- what a case may do


class Late(BaseException):
    """Nothing that a loader takes for a sign of a bad file."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail on a case that hangs, or that needs much memory at any time."""

    def late(*_: object) -> None:
        raise Late(f"not done after {SECONDS} s")

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, previous = status("VmRSS"), signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert status("VmHWM") - before < MEMORY, f"took {(status('VmHWM') - before) // 2**20} MB"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """No large allocation, not even of memory that is never touched."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS,
        (int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPACE, hard),
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refusal(load: Callable[[Path], Any], folder: Path) -> str | None:
    """What a loader says, None if it loads; a failure if it does anything else."""
    with bounded():
        try:
            load(folder)
        except GenflowError as error:
            message = str(error)
            assert len(message) < 1000 and message.isprintable(), ascii(message[:2000])
            return message
    return None


# --- the fuzzer

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
NASTY = [
    None, True, False, 0, -1, 1, 2, 3.0, 0.5, 2**31, 2**53, 2**63, 2**64, 10**9, 10**30, -(10**30), 10**400,
    1e308, -1e308, 5e-324, float("nan"), float("inf"), "", "a", "3", "x" * 100_000, "\ud800", "\x1b[2J\n\r",
    "<script>alert(1)</script>", "[/x]", "$\\frac{$", "../../../etc/passwd", "/dev/zero", "js", "conv1d",
    "coordinate", "line", "hypergrid", [], {}, [[]], {"a": 1}, [1, 2], [0.5, 0.25],
    [0] * 2_000, ["x"] * 2_000, [{}] * 2_000, {str(i): i for i in range(2_000)},
    "@DIGITS@", "@EXPONENT@", "@DEEP@", DEEP,
]  # fmt: skip
DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I8",
    "U8",
    "U64",
    "BOOL",
    "C64",
    "F8_E4M3",
    "F8_E8M0",
    "F6_E2M3",
    "F4",
    "Q9",
    "",
]
SIZES = [0, 1, 2, 3, 4, 9, -1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, "3", None]


def nodes(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in JSON data."""
    found, level = [], [data]
    while level:
        each = level.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each))
        found += [(each, key) for key in keys]
        level += [each[key] for key in keys if isinstance(each[key], dict | list)]
    return found


def wild_json(rng: random.Random, text: bytes) -> bytes:
    """Valid JSON with a few nodes replaced, removed, renamed, repeated or exchanged."""
    data = json.loads(text)
    for turn in range(rng.choice([1, 1, 1, 2, 5])):
        places = nodes(data)
        if not places:
            break
        parent, key = rng.choice(places)
        action = rng.randrange(8)
        if action < 4:
            parent[key] = copy.deepcopy(rng.choice(NASTY))
        elif action == 4:
            del parent[key]
        elif action == 5 and isinstance(parent, dict):
            parent[
                rng.choice(["", "a", "x" * 5000, "\ud800", "\x1b[31m", "ndim", "a.b", "forward", "9" * 400])
            ] = parent.pop(key)
        elif action == 6 and isinstance(parent, list):
            parent.extend(
                [parent[key]] * rng.choice([1, 3, 1000 if turn == 0 else 3])
            )  # more would be the test's own explosion
        else:
            other, where = rng.choice(places)
            parent[key] = copy.deepcopy(other[where])
    written = json.dumps(data)
    written = (
        written.replace('"@DIGITS@"', "9" * 5000)
        .replace('"@EXPONENT@"', "1e999")
        .replace('"@DEEP@"', "[" * 5000 + "]" * 5000)
    )
    if rng.random() < 0.1:  # a key that is there twice
        written = '{"provenance": 1, "structure": {}, "encoder": [], ' + written[1:]
    return written.encode("utf-8", "surrogatepass")


def wild_header(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header says something else, or whose length lies."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(names)
        entry = header.get(name)
        if not isinstance(entry, dict):  # an earlier change took it
            entry = header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        action = rng.randrange(9)
        if action == 0:
            entry["dtype"] = rng.choice(DTYPES)
        elif action == 1:
            entry["shape"] = [rng.choice(SIZES) for _ in range(rng.choice([0, 1, 2, 3, 3, 9]))]
        elif action == 2:
            entry["shape"] = rng.choice(
                [
                    [1] * 5000,
                    [0, 2**63],
                    [2**32, 2**32],
                    [0, 2**62],
                    list(entry.get("shape") or [])[::-1],
                    None,
                    "3",
                ]
            )
        elif action == 3:
            entry["data_offsets"] = [rng.choice([*SIZES, len(body)]), rng.choice([*SIZES, len(body)])]
        elif action == 4:
            header["__metadata__"] = rng.choice(
                [{"a": 1}, {"a": "x" * 100_000}, [], None, {"a": {}}, {"format": "\x1b"}]
            )
        elif action == 5:
            header[rng.choice(["", "x" * 5000, "\x1b[2J", "a", "latent_std", "encoder.", "net.0.weight"])] = (
                header.pop(name)
            )
        elif action == 6:
            del header[name]
        elif action == 7:
            header[name] = copy.deepcopy(rng.choice(NASTY[:-3]))
        else:  # other numbers of the same size
            entry["dtype"] = {"F32": rng.choice(["I32", "U32"]), "F16": rng.choice(["BF16", "I16"])}.get(
                entry.get("dtype"), "F32"
            )
    text = json.dumps(header).encode()
    length = rng.choice(
        [len(text)] * 8 + [0, 1, len(text) - 1, len(text) + 1, 2**22 + 1, 10**8, 2**63, 2**64 - 1]
    )
    return struct.pack("<Q", length) + text + body


def broken_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut short, with flipped bits, with a stretch replaced, repeated or removed."""
    action, place, spoilt = rng.randrange(6), rng.randrange(len(data)), bytearray(data)
    end = min(len(data), place + rng.choice([1, 4, 8, 100]))
    if action == 0:
        return data[:place]
    if action in (1, 2):
        near = min(len(data), rng.choice([8, 600, len(data)]))  # the header is where it matters
        for _ in range(rng.choice([1, 1, 8])):
            spoilt[rng.randrange(near)] ^= 1 << rng.randrange(8)
    elif action == 3:
        spoilt[place:end] = rng.choice(
            [rng.randbytes(end - place), b"\xff" * (end - place), bytes(end - place)]
        )
    elif action == 4:
        spoilt[place:place] = data[place:end] * rng.choice([1, 50])
    else:
        del spoilt[place:end]
    return bytes(spoilt)


def fuzz(kind: str, folder: Path, seeds: range) -> dict[bool, int]:
    """Spoil one file of a valid folder for each seed, and count what was refused and what was not."""
    load, counted = KINDS[kind][1], {True: 0, False: 0}
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix == ".json" or (path.suffix == ".safetensors" and kind != "report")
    )
    valid = {path: path.read_bytes() for path in files}
    for seed in seeds:
        rng = random.Random(f"{kind}-{seed}")
        path = rng.choice(files)
        ways = [broken_bytes, wild_json if path.suffix == ".json" else wild_header]
        path.write_bytes(rng.choices(ways, [1, 3])[0](rng, valid[path]))
        try:
            counted[refusal(load, folder) is None] += 1
        except BaseException as error:
            raise AssertionError(
                f"case {seed} of {kind}, {path.name}: {type(error).__name__}: {ascii(str(error))[:500]}"
            ) from error
        finally:
            path.write_bytes(valid[path])
    return counted


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_load_to_something_valid_or_are_refused(attacked, monkeypatch, kind):
    monkeypatch.setattr(pictures, "DPI", 20)
    monkeypatch.setattr(report_sections, "MAX_STATES", 0)  # distributions take most of a report's time
    with limited():
        counted = fuzz(kind, attacked / kind, range(CASES[kind]))
    assert all(counted.values())  # else the fuzzer does not reach what it should


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_more_spoilt_files(attacked, monkeypatch, kind):
    monkeypatch.setattr(pictures, "DPI", 20)
    with limited():
        fuzz(kind, attacked / kind, range(CASES[kind], CASES[kind] * SLOW))


# --- one way of being hostile at a time


def place(folder: Path, kind: str) -> tuple[Path, Path]:
    """The JSON file and the tensors of a kind."""
    name = {"population": "population", "autoencoder": "autoencoder"}.get(kind, "generator")
    return folder / kind / f"{name}.json", folder / kind / f"{name}.safetensors"


FILES = ["population", "conv1d", "autoencoder"]


@pytest.mark.parametrize("which", [0, 1], ids=["json", "tensors"])
@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_plain_file_is_not_opened(attacked, kind, which):
    path, load = place(attacked, kind)[which], KINDS[kind][1]
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    assert "it is no file" in (refusal(load, attacked / kind) or "")
    path.unlink()
    path.mkdir()
    assert refusal(load, attacked / kind)


@pytest.mark.parametrize("which", [0, 1], ids=["json", "tensors"])
@pytest.mark.parametrize("kind", FILES)
def test_links_stay_in_the_folder_that_was_named(attacked, tmp_path, kind, which):
    folder, load = attacked / kind, KINDS[kind][1]
    path = place(attacked, kind)[which]
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    load(linked)  # what the user names may be a link
    inner = path.rename(folder / "inner")
    path.symlink_to("inner")
    load(folder)
    inner.rename(tmp_path / "outer")
    for target in (tmp_path / "outer", "../../outer"):
        path.unlink()
        path.symlink_to(target)
        assert "leads out of" in (refusal(load, folder) or "")
    path.unlink()
    path.symlink_to(path.name)  # round in a circle
    assert refusal(load, folder)


def test_links_of_a_hubs_cache_lead_to_contents_that_hashes_name(attacked, tmp_path):
    folder = tmp_path / "models--x" / "snapshots" / "s"
    shutil.copytree(attacked / "population", folder)
    path = folder / "population.json"
    data = path.read_bytes()
    name = hashlib.sha256(data).hexdigest()
    blobs = ("models--x/blobs", "blobs")
    secrets = [f"{each}/{file}" for each in blobs for file in ("mine.json", "mi/mine.json", f"zz/{name}")]
    for target in (*secrets, f"blobs/{name}", "models--y/blobs/" + name):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).write_bytes(data)
        path.unlink()
        path.symlink_to(tmp_path / target)
        assert "leads out of" in (refusal(Population.load, folder) or ""), target
    shared = tmp_path / "blobs" / name[:2] / name
    shared.parent.mkdir()
    shared.write_bytes(data)
    (tmp_path / "models--x" / "blobs" / name).symlink_to(shared)
    (tmp_path / "models--x" / "blobs" / name[:40]).write_bytes(data)
    for content in (name, name[:40]):
        path.unlink()
        path.symlink_to(f"../../blobs/{content}")
        assert refusal(Population.load, folder) is None


def test_a_zoo_does_not_lead_elsewhere(attacked, tmp_path):
    zoo = attacked / "zoo"
    (zoo / "round").symlink_to(".")
    (zoo / "again").symlink_to("3")
    assert len(Zoo(zoo).structures) == 2  # nothing is found twice
    (zoo / "out").symlink_to("/etc")
    for load in (Zoo, read_report_data):
        assert "leads out of" in (refusal(load, zoo) or "")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "zoo").symlink_to(attacked / "zoo")
    assert "leads out of" in (refusal(Zoo, tmp_path / "run") or "")
    for name, load in (("generator", Generator.from_pretrained), ("autoencoder", read_report_data)):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).symlink_to(attacked / "findings" / name)
        assert "leads out of" in (refusal(load, tmp_path / name) or "")


def test_a_folder_whose_name_a_terminal_would_obey_is_refused(attacked):
    make_population(attacked / "zoo" / "\x1b[2J\n")
    assert "unprintable" in (refusal(Zoo, attacked / "zoo") or "")


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        """What a pickle does when it is loaded."""
        return os.mkdir, (str(self.mark),)


def test_nothing_is_unpickled(attacked, tmp_path):
    mark = tmp_path / "mark"
    torch.save(Trap(mark), tmp_path / "saved")
    for data in (pickle.dumps(Trap(mark)), (tmp_path / "saved").read_bytes()):
        for kind in FILES:
            for path in place(attacked, kind):
                valid = path.read_bytes()
                path.write_bytes(data)
                assert refusal(KINDS[kind][1], attacked / kind)
                path.write_bytes(valid)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # it was a trap


def test_no_code_could_run_what_is_in_a_file():
    modules = {
        "pickle",
        "cPickle",
        "_pickle",
        "cloudpickle",
        "dill",
        "marshal",
        "shelve",
        "joblib",
        "yaml",
        "runpy",
    }
    calls = {"eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "np.load", "numpy.load"}
    found, files = [], [*ROOT.glob("genflow/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                names = [ast.unparse(node.func)] if ast.unparse(node.func) in calls else []
            elif isinstance(node, ast.Import | ast.ImportFrom):
                imported = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
                names = [name for name in imported if name.split(".")[0] in modules]
            else:
                continue
            found += [f"{path}: {name}" for name in names]
    assert len(files) > 30 and found == []


def spoil(path: Path, **changes: Any) -> None:
    """Write JSON with some dotted keys changed."""
    data = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = data
        for parent in parents:
            inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
        inner[last] = value
    path.write_text(json.dumps(data))


MANY = {str(i): 0 for i in range(100_000)}
#: what a population.json says -> a word of the refusal
POPULATIONS = {
    "a huge structure": ({"structure": {"ndim": 64, "height": 1024, "width": 8192}}, "instead of"),
    "an impossible structure": ({"structure": {"ndim": 64, "height": 1024, "width": 10**9}}, "width"),
    "too many digits": ({"structure__ndim": 10**4000}, "ndim"),
    "no number": ({"structure__R0": float("nan")}, "R0"),
    "rewards beyond float32": ({"structure__R0": 1e300}, "R0"),
    "a long environment": ({"env": "x" * 10**7}, "env"),
    "a long key": ({"structure": {"x" * 10**7: 1}}, "unknown key"),
    "many keys": ({"structure": MANY}, "items"),
    "a long value": ({"structure__reward": "x" * 10**7}, "reward"),
    "a large value": ({"structure__ndim": MANY}, "ndim"),
    "structures that are none": ({"provenance__training_structures": [0] * 10**6}, "training_structures"),
    "members that are none": ({"provenance__members": [0] * 10**6}, "members"),
    "too few members": ({"provenance__members": []}, "members"),
    "markup": ({"provenance__source": "[/x]"}, "source"),
    "what a terminal obeys": ({"provenance__source": "\x1b[2J"}, "source"),
    "seconds as text": ({"provenance__seconds": "3"}, "seconds"),
    "endless seconds": ({"provenance__seconds": 10**400}, "seconds"),
    "a budget that is none": ({"provenance__budget": {"objective": "tb"}}, "budget"),
    "no provenance": ({"provenance": None}, "provenance"),
    "text for provenance": ({"provenance": "abc"}, "provenance"),
    "too deep": ({"provenance__more": DEEP}, "nested"),
    "too many values": ({"provenance__more": [0] * (MAX_VALUES + 1)}, "values"),
}


@pytest.mark.parametrize("case", POPULATIONS)
def test_a_hostile_population_is_refused(attacked, case):
    changes, word = POPULATIONS[case]
    spoil(attacked / "population" / "population.json", **changes)
    with limited():
        assert word in (refusal(load_one, attacked / "population") or "")


FIELDS = grid(2, 3, width=4).fields()
#: what a generator.json says -> a word of the refusal
CARDS = {
    "conv1d": {
        "an endless vector": ({"encoder__spec__length": 2**62}, "length"),
        "a vector that the file lacks": ({"encoder__spec__length": 2**39}, "shape"),
        "a vector of less than nothing": ({"encoder__spec__length": -16}, "length"),
        "many names": ({"encoder__spec__names": ["a"] * 10**6}, "names"),
        "text for names": ({"encoder__spec__names": "abcdef"}, "names"),
        "another latent size": ({"latent_size": 16}, "does not fit"),
        "a huge encoder": ({"encoder__options__levels": 8, "encoder__options__stride": 8}, "does not fit"),
        "a huge denoiser": (
            {"denoiser_options": {"channels": [4096] * 16, "embedding": 8192}},
            "does not fit",
        ),
        "a deep denoiser": ({"denoiser_options__channels": [2] * 10**6}, "channels"),
        "many options": ({"denoiser_options": MANY}, "items"),
        "another encoder": ({"encoder__name": "coordinate"}, "encoder"),
        "many structures": ({"training_structures": [FIELDS] * 20_000}, "training_structures"),
        "structures that are none": ({"training_structures": [0] * 10**6}, "training_structures"),
        "an impossible structure": ({"training_structures": [{**FIELDS, "ndim": 2, "height": []}]}, "height"),
        "a long value": ({"training_structures": [{**FIELDS, "reward": "x" * 10**6}]}, "reward"),
        "a structure of another kind": ({"training_structures": [{"x" * 10**6: 1}]}, "trained on"),
        "a coverage of much": ({"coverage": {f"height{i}": [0, 1] for i in range(200)}}, "coverage"),
        "a measurement of nothing": (
            {"quality__0__structure": {"depth": 1}, "training_structures": []},
            "trained on",
        ),
        "many measurements": ({"quality": [{}] * 100_000}, "quality"),
        "another format": ({"format": {"a": "x" * 10**6}}, "format"),
        "many noise levels": ({"noise__timesteps": 10**9}, "timesteps"),
        "endless guidance": ({"sampling__guidance": float("inf")}, "guidance"),
    },
    "coordinate": {
        "wide layers": ({"encoder__spec__widest": 2**40}, "widest"),
        "layers wider than the file's": ({"encoder__spec__widest": 60_000}, "shape"),
        "many conditions": ({"encoder__spec__conditions": 10**9}, "conditions"),
        "other conditions": ({"encoder__spec__conditions": 3}, "shape"),
        "many axes": ({"encoder__spec__axes": {str(i): ["a"] for i in range(100_000)}}, "items"),
        "an axis too many": ({"encoder__spec__axes": {"w": ["a", "b", "c"]}}, "axes"),
        "nothing described": ({"encoder__spec__described": {}}, "shape"),
        "something else described": (
            {"encoder__spec__described__other": {"amounts": 1, "coordinates": 1, "categories": {}}},
            "described",
        ),
        "many values": (
            {"encoder__spec__described__input__categories": {"dimension": list(range(60_000))}},
            "shape",
        ),
        "values out of order": (
            {"encoder__spec__described__input__categories": {"dimension": [1, 0]}},
            "rise",
        ),
        "many coordinates": ({"encoder__spec__described__input__coordinates": 60_000}, "shape"),
        "many descriptions": (
            {
                "encoder__spec__axes": {f"w{i}": [f"a{i}"] for i in range(200)},
                "encoder__spec__described": {
                    f"a{i}": {
                        "amounts": 300,
                        "coordinates": 1,
                        "categories": {str(j): [0, 3] for j in range(200)},
                    }
                    for i in range(200)
                },
                "encoder__options__depth": 32,
            },
            "described",
        ),
        "a deep network": ({"encoder__options__depth": 10**9}, "depth"),
        "large layers": ({"encoder__options__hidden": 8192, "encoder__options__depth": 32}, "shape"),
        "a field of the first edition": ({"encoder__spec__family": 1.0}, "family"),
    },
}


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in CARDS.items() for case in cases])
def test_a_hostile_card_is_refused(attacked, kind, case):
    changes, word = CARDS[kind][case]
    spoil(attacked / kind / "generator.json", **changes)
    with limited():
        assert word in (refusal(load_generator, attacked / kind) or "")


#: what stands in the place of a tensor of finite 32-bit floats
NUMBERS = {
    "nan": lambda t: t * torch.nan,
    "infinity": lambda t: t + torch.inf,
    "beyond float32": lambda t: t.double() + 1e300,
    "whole numbers": lambda t: t.long(),
    "truth values": lambda t: t > 0,
    "complex numbers": lambda t: t.to(torch.complex64),
    "8 bits": lambda t: t.to(torch.float8_e4m3fn),
    "another shape": lambda t: t[None],
    "nothing": lambda t: t[:0],
}


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("population", "net.2.bias"), ("conv1d", "encoder.to_latent.bias"), ("conv1d", "latent_std")],
)
def test_other_numbers_are_refused(attacked, kind, name, numbers):
    path = place(attacked, kind)[1]
    tensors, _ = read_tensors(path)
    tensors = {each: tensor.clone() for each, tensor in tensors.items()}
    path.write_bytes(save({**tensors, name: NUMBERS[numbers](tensors[name]).contiguous()}))
    assert name.removeprefix("encoder.") in (refusal(KINDS[kind][1], attacked / kind) or "")


def test_latents_without_spread_are_refused(attacked):
    path = place(attacked, "conv1d")[1]
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path)[0].items()}
    for spread in (0.0, -1.0):
        path.write_bytes(save({**tensors, "latent_std": torch.full((8,), spread)}))
        assert "positive" in (refusal(load_generator, attacked / "conv1d") or "")


def exchange(folder: Path, name: str, encoder: Any) -> None:
    """Give a generator another encoder that fits its own card."""
    tensors = {
        each: tensor.clone()
        for each, tensor in read_tensors(folder / "generator.safetensors")[0].items()
        if "encoder." not in each
    }
    tensors |= {f"encoder.{each}": tensor for each, tensor in encoder.state_dict().items()}
    (folder / "generator.safetensors").write_bytes(save(tensors))
    spoil(folder / "generator.json", encoder=EncoderCard.of(name, encoder).model_dump(mode="json"))


def test_an_encoder_of_other_latents_is_refused(attacked):
    exchange(attacked / "conv1d", "conv1d", make_encoder("conv1d", 4))
    assert "latent size" in (refusal(load_generator, attacked / "conv1d") or "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"conditions": 3}, "does not read 12 conditions"),
        (
            {"described": {"hidden2": {"amounts": 1, "coordinates": 1, "categories": {}}}, "widest": 16},
            "does not say it",
        ),
        ({"axes": {"w": ["hidden1", "input"], "b": ["action"]}}, "does not make these parameters: without w"),
    ],
    ids=["conditions", "units", "axes"],
)
def test_an_encoder_of_another_task_is_refused(attacked, changes, why):
    encoder = make_encoder("coordinate")
    exchange(
        attacked / "coordinate",
        "coordinate",
        type(encoder).from_spec(encoder.config, {**encoder.spec(), **changes}),
    )
    Generator.from_pretrained(attacked / "coordinate")
    assert why in (refusal(load_generator, attacked / "coordinate") or "")


@pytest.mark.parametrize("seed", [10**30, 2**31, -1, "3", 0.5])
def test_a_report_takes_no_impossible_seed(attacked, seed):
    spoil(attacked / "findings" / "evaluation.json", config={"seed": seed})
    assert read_report_data(attacked / "findings").seed is None


def test_half_precision_and_double_precision_are_read(attacked):
    path = place(attacked, "population")[1]
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path)[0].items()}
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        path.write_bytes(save({name: tensor.to(kind) for name, tensor in tensors.items()}))
        load_one(attacked / "population")


def test_a_large_file_takes_no_memory_before_it_is_known_to_fit(attacked):
    """Of a gigabyte, which is not on the disk, only the header is read."""
    path, size = place(attacked, "population")[1], 2**30
    header = json.dumps(
        {"net.0.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    assert "without net.0.bias" in (refusal(load_one, attacked / "population") or "")


#: an entry of a header, and how many bytes follow it
HEADERS = {
    "a size beyond 63 bits": ([0, 2**63], "F32", [0, 0], 0),
    "a product beyond 64 bits": ([2**33, 2**33], "F32", [0, 0], 0),
    "a product beyond 64 bits that comes to nothing": ([2**62, 2**62, 0], "F32", [0, 0], 0),
    "many axes": ([1] * 100_000, "F32", [0, 4], 4),
    "fewer bytes than it says": ([9], "F32", [0, 36], 4),
    "bytes that end before they start": ([1], "F32", [4, 0], 4),
    "a kind that torch lacks": ([4], "F6_E2M3", [0, 3], 3),
    "a kind that nobody has": ([1], "x" * 100_000, [0, 4], 4),
    "halves of bytes": ([2], "F4", [0, 1], 1),
    "text for a size": (["1"], "F32", [0, 4], 4),
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("name", ["net.0.bias", "\x1b[2J" + "x" * 10_000])
def test_a_hostile_header_is_refused(attacked, name, case):
    shape, kind, offsets, size = HEADERS[case]
    text = json.dumps({name: {"dtype": kind, "shape": shape, "data_offsets": offsets}}).encode()
    for where in FILES:
        place(attacked, where)[1].write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
        with limited():
            assert refusal(KINDS[where][1], attacked / where)


def test_large_json_and_large_headers_are_refused_before_they_are_read(attacked):
    facts, tensors = place(attacked, "population")
    valid = tensors.read_bytes()
    tensors.write_bytes(struct.pack("<Q", MAX_HEADER + 1) + b" " * (MAX_HEADER + 1))
    assert "header would have" in (refusal(load_one, attacked / "population") or "")
    tensors.write_bytes(valid)
    os.truncate(facts, MAX_JSON + 1)
    with limited():
        assert "bytes" in (refusal(load_one, attacked / "population") or "")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"a":' * 10**5,
        '{"a": ' + "9" * 10**6 + "}",
        '{"a": "' + "x" * 10**7,
        '{"\\ud800": 1}',
        "",
    ],
    ids=brief,
)
def test_json_that_parsers_trip_over_is_refused(attacked, text):
    place(attacked, "population")[0].write_text(text)
    assert refusal(load_one, attacked / "population")


def test_json_as_deep_as_allowed_is_read(tmp_path):
    for levels, fine in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        (tmp_path / "a.json").write_text('{"a":' * levels + "1" + "}" * levels)
        assert (refusal(read_json, tmp_path / "a.json") is None) == fine


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;$\\frac{$\x1b[31m\ud800"


def test_a_report_holds_no_script_of_the_files(attacked, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DPI", 20)
    run = attacked / "findings"
    history = {EVIL: [[1, 2.0], [2, 1.0]], "loss": [[1, 2.0]]}
    entry = {
        "env": EVIL,
        "name": EVIL,
        "source": EVIL,
        "seen": True,
        "num": 2,
        "metrics": {EVIL: {"mean": 1.0}},
        "more": EVIL,
    }
    spoil(run / "evaluation.json", entries=[entry], config={EVIL: [EVIL]}, versions={EVIL: EVIL})
    spoil(run / "run.json", config={EVIL: EVIL}, versions=EVIL)
    spoil(run / "autoencoder" / "autoencoder.json", history=history)
    spoil(run / "generator" / "generator.json", provenance={"history": history})
    spoil(
        run / "zoo" / "one" / "population.json",
        provenance__history=history,
        provenance__started_from="random",
        provenance__x=EVIL,
    )
    with bounded():
        page = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") > 10
    assert "<script" not in page and "<img src=x" not in page


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("evaluation.json", {"entries__0__metrics__js": {"mean": 1e308, "min": -1e308, "max": 1e308}}),
        (
            "evaluation.json",
            {"entries__0__metrics__js__mean": 5e-324, "entries__1__metrics__js__mean": 1e-300},
        ),
        ("evaluation.json", {"config": {"seed": 10**30}}),
        ("evaluation.json", {"config": {"seed": -1}}),
        ("run.json", {"versions": 5, "config": [1]}),
        ("autoencoder/autoencoder.json", {"history": {str(i): [[1, 2]] for i in range(150)}}),
        (
            "autoencoder/autoencoder.json",
            {"history": {"loss": [[1e308, 1e308], [-1e308, -1e308], [0, 1e-320]]}},
        ),
        ("zoo/one/population.json", {"provenance__history": {"loss": [[10**300, 1]], "js": [[1, True]]}}),
        (
            "zoo/one/population.json",
            {"provenance__started_from": None, "provenance__history": {str(i): [[1, 2]] for i in range(150)}},
        ),
    ],
    ids=lambda value: brief(value, 30),
)
def test_odd_numbers_do_not_stop_a_report(attacked, tmp_path, monkeypatch, file, changes):
    monkeypatch.setattr(pictures, "DPI", 20)
    monkeypatch.setattr(pictures, "MAX_CURVES", 3)
    monkeypatch.setattr(report_sections, "MAX_STATES", 0)
    spoil(attacked / "findings" / file, **changes)
    with bounded():
        assert write_report(attacked / "findings", tmp_path / "report.html").read_text().count("<img") < 9


ENTRY = {"env": "e", "name": "n", "source": "s", "seen": True, "num": 1, "metrics": {}}


@pytest.mark.parametrize(
    ("file", "changes", "word"),
    [
        ("evaluation.json", {"entries": [ENTRY] * 5000}, "entries"),
        ("evaluation.json", {"entries": [{**ENTRY, "metrics": {str(i): {} for i in range(65)}}]}, "metrics"),
        ("evaluation.json", {"entries": [{**ENTRY, "metrics": {str(i): {}}} for i in range(65)]}, "metrics"),
        ("evaluation.json", {"entries": [0] * 10**6}, "entries"),
        ("evaluation.json", {"entries__0__name": "x" * 10**6}, "name"),
        ("generator/generator.json", {"provenance": "history"}, "generator.json"),
        ("autoencoder/autoencoder.json", {"history": {"loss": [0] * 10**6}}, "history"),
        ("autoencoder/autoencoder.json", {"history": {"loss": [[0, 1]] * 200_000}}, "history"),
        ("autoencoder/autoencoder.json", {"history": {str(i): [0] * 10_000 for i in range(100)}}, "history"),
        ("autoencoder/autoencoder.json", {"history": MANY}, "items"),
    ],
    ids=lambda value: brief(value, 30),
)
def test_a_report_of_too_much_is_refused(attacked, tmp_path, file, changes, word):
    spoil(attacked / "findings" / file, **changes)
    with limited():
        assert word in (
            refusal(lambda folder: write_report(folder, tmp_path / "out"), attacked / "findings") or ""
        )
    assert not (tmp_path / "out").exists()


def test_many_structures_and_sources_fit_a_report(attacked, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DPI", 20)
    spoil(attacked / "findings" / "evaluation.json", entries=[
        {**ENTRY, "name": f"n{i}", "source": f"s{i}", "metrics": {"js": {"mean": i}}} for i in range(1500)
    ])  # fmt: skip
    monkeypatch.setattr(report_sections, "MAX_STATES", 0)
    with bounded():
        assert (
            "The first 200 of 1500 are drawn"
            in write_report(attacked / "findings", tmp_path / "report.html").read_text()
        )


@pytest.mark.parametrize(
    "load",
    [Generator.from_pretrained, Zoo, Population.load, load_autoencoder, read_report_data, write_report],
)
def test_a_folder_that_cannot_be_looked_at_is_refused(tmp_path, load):
    """As one that this user may not open, which a test of the superuser's cannot show."""
    assert refusal(load, tmp_path / ("x" * 300))


def test_a_reward_that_outgrows_memory_is_refused(attacked):
    """torchgfn's lists every permutation of the dimensions, 16! here."""
    structure = grid(16, 2, width=1, reward="sparse")
    lively(structure, 1).save(attacked / "findings" / "zoo" / "two")
    with limited():
        assert "sparse" in (
            refusal(lambda folder: write_report(folder, folder / "out"), attacked / "findings") or ""
        )


def test_two_large_structures_are_compared_in_little_memory():
    large, other = (grid(16, height, width=1) for height in (1024, 1023))
    with bounded():
        assert transplant(lively(large, 1), other).weights.shape == (1, other.layout.size)


def test_a_name_of_half_a_surrogate_pair_is_a_file_name():
    config = ASKED.environment.config.model_copy(update={"reward": "\ud800"})
    odd = type(ASKED.environment)(config, ASKED.environment.reward)
    assert Structure.of(odd, ASKED.arch, ASKED.env, ASKED.policy).name.isascii()
