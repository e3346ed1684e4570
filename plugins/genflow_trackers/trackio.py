"""Runs of trackio, on this machine unless its environment variables say otherwise."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

import genflow
from genflow_trackers.needs import need

#: in the folder of a training, names its run
MARKER = "trackio.json"


class Trackio(genflow.Tracker):
    """A run of trackio for each training, named for its folder."""

    class Config(genflow.Schema):
        """Options of trackio."""

        project: str = Field(default="genflow", min_length=1, description="The project of trackio.")

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._trackio, self._storage = need("trackio", "trackio", "trackio.sqlite_storage")
        self._run: Any = None

    def open(self, folder: Path, facts: Mapping[str, Any]) -> Mapping[str, int]:
        """Resume the run that the folder names, or begin one and name it there."""
        marker, project = folder / MARKER, self.config.project
        resumes = marker.exists()
        if not resumes:
            # that no other folder is called so would be chance
            name = f"{'/'.join(folder.absolute().parts[-2:])} {secrets.token_hex(3)}"
            genflow.write_json(marker, {"run": name, "config": dict(facts)})
        begun = genflow.read_json(marker)
        name = str(begun["run"])
        with _silent():
            self._run = self._trackio.init(
                project=project, name=name, config=begun["config"], resume="allow" if resumes else "never",
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        last: dict[str, int] = {}
        for entry in self._storage.SQLiteStorage.get_logs(project, name) if resumes else ():
            for key in entry.keys() - {"step", "timestamp"}:
                last[key] = max(last.get(key, 0), int(entry["step"]))
        return last

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand figures to trackio, whose own thread writes them."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Wait until all is written."""
        if self._run is not None:
            with _silent():
                self._trackio.finish()  # of the run that was begun last, which is this one


def _silent() -> contextlib.AbstractContextManager[object]:
    """Drop what trackio prints, because standard output is for a command's result."""
    return contextlib.redirect_stdout(io.StringIO())
