"""What a training pays for: the objects whose score it asked for, counted, and kept on disk.

A call is an object that the training has not asked for before, as in the field's comparisons of sample
efficiency (Gao et al., "Sample Efficiency Matters", 2022). Whoever scores objects asks through `current`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from genflow.errors import GenflowError
from genflow.storage.files import StrPath

#: seconds of scoring after which scores are written, so that a kill loses no more, and the most of them
WRITE_SECONDS, MAX_BATCH = 0.5, 1024

_current: ContextVar[RewardCalls | None] = ContextVar("reward_calls", default=None)


class RewardCalls:
    """The calls of one training, in a file that survives a kill.

    Attributes:
        limit: the number of calls after which the training ends, None for no limit.
        best: the highest score so far, None before the first.
    """

    def __init__(self, file: StrPath, limit: int | None = None) -> None:
        """Open the file, or create it.

        Raises:
            GenflowError: it holds something else, or cannot be written.
        """
        self.limit = limit
        self.best: float | None = None
        self._file, self._batch = Path(file), 1
        self._known: dict[tuple[str, str], float] = {}
        with self._told():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(self._file)
            self._store.execute(
                "CREATE TABLE IF NOT EXISTS scores (reward TEXT, object TEXT, score REAL NOT NULL,"
                " PRIMARY KEY (reward, object)) WITHOUT ROWID"
            )
            for reward, name, score in self._store.execute("SELECT reward, object, score FROM scores"):
                self._keep(reward, name, score)

    @staticmethod
    def current() -> RewardCalls | None:
        """Return those that are counted, None if nothing is."""
        return _current.get()

    @contextmanager
    def as_current(self) -> Iterator[RewardCalls]:
        """Count what is asked meanwhile, and close the file at the end."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)
            self._store.close()

    def __len__(self) -> int:
        """The number of calls."""
        return len(self._known)

    @property
    def spent(self) -> float:
        """The fraction of the limit that is used, 0 without one."""
        return len(self) / self.limit if self.limit else 0.0

    def figures(self) -> dict[str, float]:
        """Return the number of calls and the best score, if there is one."""
        return {"calls": float(len(self)), **({} if self.best is None else {"best_score": self.best})}

    def scores(
        self,
        reward: str,
        names: Sequence[str],
        score: Callable[[Sequence[str]], Sequence[float]],
        failed: Container[str] = (),
    ) -> list[float]:
        """Return the scores of objects by name.

        Args:
            reward: what tells the scoring function and its options from others.
            names: objects as text, the same text for the same object.
            score: computes the scores of objects; it is asked for those that are new.
            failed: objects for which it failed, read after it was asked; they are counted, and asked for
                again by the next process.

        Raises:
            GenflowError: the file cannot be written.
        """
        new = [name for name in dict.fromkeys(names) if (reward, name) not in self._known]
        while new:
            part, new, began = new[: self._batch], new[self._batch :], time.monotonic()
            found = [(reward, name, float(value)) for name, value in zip(part, score(part), strict=True)]
            late = time.monotonic() - began > WRITE_SECONDS
            self._batch = max(1, self._batch // 2) if late else min(MAX_BATCH, 2 * self._batch)
            with self._told(), self._store:
                paid = [each for each in found if each[1] not in failed]
                self._store.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", paid)
            for each in found:
                self._keep(*each)
        return [self._known[reward, name] for name in names]

    def _keep(self, reward: str, name: str, score: float) -> None:
        self._known[reward, name] = score
        self.best = score if self.best is None else max(self.best, score)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what goes wrong with the file into one line."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            with suppress(AttributeError):
                self._store.close()
            raise GenflowError(f"{self._file} cannot hold the scores of a training: {error}") from error
