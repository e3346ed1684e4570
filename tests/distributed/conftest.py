"""A small job that all of these tests share, as one process alone does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import COORDINATE, SMALL
from processes import quickly


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """The configuration of the small job."""
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def coordinate(tmp_path_factory) -> Path:
    """The same with an encoder that learns behaviour."""
    path = tmp_path_factory.mktemp("config") / "coordinate.toml"
    path.write_text(SMALL.split("[autoencoder]")[0] + COORDINATE)
    return path


@pytest.fixture(scope="session")
def alone(small, tmp_path_factory) -> Path:
    """Zoo, autoencoder and generator of one process."""
    out = tmp_path_factory.mktemp("alone")
    quickly("train-ldm", "--config", small, "--out", out / "job", folder=out)
    return out / "job"
