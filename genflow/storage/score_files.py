"""Files of scores that were paid for: SQLite, so that each score that is written survives a kill."""

from __future__ import annotations

import glob
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from genflow.errors import GenflowError
from genflow.storage.files import StrPath

#: the folder of scores that were paid for beside what was made with them, and the file of those that
#: describing a structure to a generator took
FOLDER, DESCRIBED = "reward_calls", "described.sqlite"

#: a reward's identity, an object's name, and its score
Row = tuple[str, str, float]


def described_in(folder: StrPath) -> Path:
    """The file of the reward calls that describing the structure of generated policies took."""
    return Path(folder) / FOLDER / DESCRIBED


def files_of(folder: StrPath) -> list[Path]:
    """The files of scores of a run, of the runs in a folder, or of the run that a training's folder is of.

    None that a link places outside of that folder.
    """
    folder = Path(folder)
    own = [path for inner in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{inner}{FOLDER}/*.sqlite"))]
    found = _inside(own, folder)
    beside = folder.absolute().parent / FOLDER
    if (beside / f"{folder.absolute().name}.sqlite").exists():
        found += _inside(sorted(beside.glob("*.sqlite")), beside.parent)
    return found


def _inside(paths: Sequence[Path], folder: Path) -> list[Path]:
    root = os.path.realpath(folder)
    return [path for path in paths if Path(os.path.realpath(path)).is_relative_to(root)]


class ScoreFile:
    """A file that scores are added to; it is made with the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: sqlite3.Connection | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Write scores, which are safe when this returns.

        Raises:
            GenflowError: the file cannot be written.
        """
        with _told(self.path):
            if self._store is None:
                self._store = _opened(self.path)
            with self._store:
                self._store.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)

    def gathered(self) -> list[Row]:
        """The scores in it, after it has taken in those that workers which were killed left beside it.

        Raises:
            GenflowError: a file cannot be read or written.
        """
        left = sorted(self.path.parent.glob(f"{glob.escape(self.path.stem)}.worker-*.sqlite"))
        if rows := rows_of(left):
            self.add(rows)
        for each in left:
            each.unlink()
        return rows_of([self.path])

    def close(self) -> None:
        """Close it; adding opens it again."""
        if self._store is not None:
            self._store.close()
        self._store = None


def rows_of(files: Sequence[StrPath | Row]) -> list[Row]:
    """The scores in those of some files that are there; those that are given themselves are among them.

    Raises:
        GenflowError: a file cannot be read, or holds something else.
    """
    found: list[Row] = []
    for path in files:
        if isinstance(path, tuple):
            found.append(path)
        elif Path(path).exists():
            with _told(path):
                with closing(_opened(path)) as store:
                    rows = store.execute("SELECT reward, object, score FROM scores").fetchall()
                if any(not (isinstance(row[2], float) and math.isfinite(row[2])) for row in rows):
                    raise sqlite3.DataError("a score is no number")
                found += rows
    return found


def stale_note(there: Sequence[str], reward: str) -> str | None:
    """Say where scores of a function are from before it changed, and none are from after.

    Args:
        there: the identities of the rewards of all scores.
        reward: that of the function as it is.
    """
    function = reward.split(" ")[0]
    stale = sum(other.split(" ")[0] == function for other in there)
    if not stale or reward in there:
        return None
    return (
        f"{stale:,} scores of {function} that were paid for are not used, as its code, its options or what it"
        " builds on has changed since; they are asked for anew where needed"
    )


def _opened(path: StrPath) -> sqlite3.Connection:
    """Open a file of scores, or make it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    store = sqlite3.connect(path)
    try:
        store.execute(
            "CREATE TABLE IF NOT EXISTS scores (reward TEXT, object TEXT, score REAL NOT NULL,"
            " PRIMARY KEY (reward, object)) WITHOUT ROWID"
        )
    except sqlite3.Error:
        store.close()
        raise
    return store


@contextmanager
def _told(path: StrPath) -> Iterator[None]:
    """Turn what goes wrong with a file into one line."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise GenflowError(
            f"{path} cannot be used as a file of scores: {error}; move it away, and its scores are asked for"
            " anew"
        ) from error
