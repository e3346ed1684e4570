"""Shared by all tests: one thread, so that runs are repeatable and gentle to the machine."""

from __future__ import annotations

import pytest
import torch

from genflow.registry import registry

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Code that draws from torch's global generator (torchgfn's sampler) is repeatable."""
    torch.manual_seed(0)


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a third party's distribution with one component, found in this process until the test ends.

    Returns a function of the hook's name, the component's name, its "module:Class", and further arguments of
    `register`.
    """

    def install(hook: str, name: str, target: str, **more: str) -> None:
        site = tmp_path / "site"
        module = f"third_party_{name}_{tmp_path.name}".replace("-", "_")
        info = site / f"third_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: third-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[genflow]\n{name} = {module}\n")
        arguments = "".join(f", {key}={value!r}" for key, value in more.items())
        (site / f"{module}.py").write_text(
            f"import genflow\n@genflow.hookimpl\ndef {hook}(register):\n"
            f"    register({name!r}, {target!r}{arguments})\n"
        )
        monkeypatch.syspath_prepend(str(site))
        registry.cache_clear()

    yield install
    registry.cache_clear()
