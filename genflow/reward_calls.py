"""What a training pays for: the objects whose score it asked for, counted, and kept on disk.

A call is an object that the training has not asked for before, as in the field's comparisons of sample
efficiency (Gao et al., "Sample Efficiency Matters", 2022). Whoever scores objects asks through `current`.

Several workers that train together ask together: each new object is scored by the next worker that is free,
which keeps its score in a file of its own until the first worker's file has it.
"""

from __future__ import annotations

import glob
import sqlite3
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from genflow.distributed.world import world
from genflow.errors import GenflowError
from genflow.progress import Bar, Progress
from genflow.storage.files import StrPath

#: the folder of scores that were paid for beside what was made with them, and the file of those that
#: describing a structure to a generator took
FOLDER, DESCRIBED = "reward_calls", "described.sqlite"
#: seconds of scoring after which scores are written, so that a kill loses no more: at once, and when all that
#: was asked for is there; and the most objects that are scored at once
WRITE_SECONDS, KEEP_SECONDS, MAX_BATCH = 0.5, 0.05, 1024

#: a reward's identity, an object's name, and its score
Row = tuple[str, str, float]
#: names of objects -> their scores; names and scores -> which are modes
Score = Callable[[Sequence[str]], Sequence[float]]
IsMode = Callable[[Sequence[str], Sequence[float]], Sequence[bool]]

_current: ContextVar[RewardCalls | None] = ContextVar("reward_calls", default=None)


def described_in(folder: StrPath) -> Path:
    """The file of the reward calls that describing the structure of generated policies took."""
    return Path(folder) / FOLDER / DESCRIBED


class RewardCalls:
    """The calls of one training, in a file that survives a kill.

    Attributes:
        limit: the number of calls after which the training ends, None for no limit.
        best: the highest score of the reward that was asked last, None before the first.
        modes: how many of its objects are modes, None where nobody says.
        reward: the identity of that reward, None before the first.
        bar: shows the calls while they are made.
    """

    def __init__(
        self,
        file: StrPath,
        limit: int | None = None,
        before: Sequence[StrPath] = (),
        known: Sequence[StrPath] = (),
    ) -> None:
        """Read the file, which is made with the first score; by all workers that train together.

        Args:
            file: the scores of this training.
            limit: see above.
            before: files of calls that were made for this training before it began. They count.
            known: files of other scores, which count when they are asked for, and are not asked for again.

        Raises:
            GenflowError: a file holds something else.
        """
        self.limit = limit
        self.best: float | None = None
        self.modes: int | None = None
        self.reward: str | None = None
        self.bar = Bar()
        self._file, self._store = Path(file), cast(sqlite3.Connection | None, None)
        self._batch, self._slow = 1, False
        self._is_mode: IsMode | None = None
        self._unwritten: list[Row] = []
        self._owed = 0.0  # seconds that they took
        rows = world().on_rank_zero(lambda: [self._gathered(), _rows(before), _rows(known)])
        self._known, self._before, self._given = ({(r, n): score for r, n, score in each} for each in rows)
        if not world().is_rank_zero:
            self._file = self._file.with_name(f"{self._file.stem}.worker-{world().rank}.sqlite")

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
            if not world().is_rank_zero:  # the first worker's file has it all
                self._close()
                self._file.unlink(missing_ok=True)
        finally:
            _current.reset(token)
            self._close()

    def __len__(self) -> int:
        """The number of calls."""
        return len(self._known)

    @property
    def spent(self) -> float:
        """The fraction of the limit that is used, 0 without one."""
        return len(self) / self.limit if self.limit else 0.0

    def figures(self) -> dict[str, float]:
        """Return the number of calls, the best score and the number of modes, where there are some."""
        more = {"best_score": self.best, "modes": self.modes}
        return {"calls": float(len(self)), **{k: float(v) for k, v in more.items() if v is not None}}

    def scores(
        self,
        reward: str,
        names: Sequence[str],
        score: Score,
        failed: MutableMapping[str, str] | None = None,
        is_mode: IsMode | None = None,
    ) -> list[float]:
        """Return the scores of objects by name, which all workers that train together must ask for.

        Args:
            reward: what tells the scoring function and its options from others.
            names: objects as text, the same text for the same object.
            score: computes the scores of objects; it is asked for those that are new.
            failed: objects for which it failed, and why. It says so while it is asked, here or on another
                worker; they are counted, and asked for again by the next process.
            is_mode: says which objects of such scores are modes.

        Raises:
            GenflowError: the file cannot be written.
        """
        failed = {} if failed is None else failed
        # the first worker's, as rounding may lead elsewhere on another machine
        asked: Any = world().on_rank_zero(lambda: [reward, list(names)])
        reward, names = asked
        if reward != self.reward:
            self._turn_to(reward, is_mode)
        new = [name for name in dict.fromkeys(names) if (reward, name) not in self._known]
        if given := [
            (reward, name, self._given[reward, name]) for name in new if (reward, name) in self._given
        ]:
            self._take(given)
            new = [name for name in new if (reward, name) not in self._known]
        with self._shown(len(new)):
            while new:
                new = new[self._ask(reward, new, score, failed) :]
        self._write(KEEP_SECONDS)
        return [self._known[reward, name] for name in names]

    @contextmanager
    def _shown(self, number: int) -> Iterator[None]:
        """Show so many calls by a bar of their own, where nobody else shows the calls."""
        if self.bar.total or not number:
            yield
            return
        with Progress.current().bar("reward calls", len(self) + number, len(self)) as self.bar:
            yield
        self.bar = Bar()

    def _turn_to(self, reward: str, is_mode: IsMode | None) -> None:
        """Count what belongs to this reward."""
        self.reward, self._is_mode = reward, is_mode
        self.best, self.modes = None, None if is_mode is None else 0
        own = [(r, name, score) for (r, name), score in self._known.items() if r == reward]
        self._look_at(own)
        new = [(r, n, s) for (r, n), s in self._before.items() if r == reward and (r, n) not in self._known]
        if new:
            Progress.current().note(f"{len(new):,} reward calls were made before, to describe the structure")
            self._take(new)
            if self.limit is not None and len(self) >= self.limit:
                Progress.current().warn(
                    f"these are all {self.limit:,} reward calls that may be made, so one step is taken; raise"
                    " finetune.reward_calls"
                )

    def _ask(self, reward: str, new: list[str], score: Score, failed: MutableMapping[str, str]) -> int:
        """Have the first of some new objects scored, and return how many.

        They are as many parts as there are workers while larger parts may still be fast, else all.
        """
        workers = world()
        size = min(self._batch, -(-len(new) // workers.size))
        parts = [new[start : start + size] for start in range(0, len(new), size)]
        parts = parts if self._slow else parts[: workers.size]
        before = len(self)

        def scored(part: list[str]) -> list[Any]:
            began = time.monotonic()
            values = [float(value) for value in score(part)]
            rows = [(reward, *each) for each in zip(part, values, strict=True)]
            seconds = time.monotonic() - began
            self._unwritten += [each for each in rows if each[1] not in failed]
            self._owed += seconds
            self._write(WRITE_SECONDS)
            return [rows, {n: failed[n] for n in part if n in failed}, seconds]

        results = workers.map_dynamic(
            parts, scored, on_progress=lambda done: self.bar.set(before + min(done * size, len(new)))
        )
        self._slow = max(seconds for _, _, seconds in results) > WRITE_SECONDS
        self._batch = max(1, self._batch // 2) if self._slow else min(MAX_BATCH, 2 * self._batch)
        for _, faults, _ in results:
            failed.update(faults)
        found = [(r, n, s) for rows, _, _ in results for r, n, s in rows]
        if not workers.is_rank_zero:
            self._unwritten, self._owed = [], 0.0
        elif workers.size > 1:  # its own among them, which may be written twice
            self._unwritten += [row for row in found if row[1] not in failed]
            self._owed += sum(seconds for _, _, seconds in results)
        self._count(found)
        return sum(map(len, parts))

    def _take(self, rows: Sequence[Row]) -> None:
        """Count calls that were made elsewhere, as if they were made here."""
        self._unwritten += rows if world().is_rank_zero else []
        self._write(0.0)
        self._count(rows)

    def _count(self, rows: Sequence[Row]) -> None:
        self._known.update(((reward, name), score) for reward, name, score in rows)
        self._look_at(rows)

    def _look_at(self, rows: Sequence[Row]) -> None:
        """Look for the best score and for modes."""
        if not rows:
            return
        _, names, scores = zip(*rows, strict=True)
        self.best = max(scores) if self.best is None else max(self.best, *scores)
        if self._is_mode is not None:
            self.modes = (self.modes or 0) + sum(self._is_mode(names, scores))
        self.bar.set(len(self), **{k: v for k, v in self.figures().items() if k != "calls"})

    # files

    def _write(self, seconds: float) -> None:
        """Write the scores that are not in the file, if they took so many seconds."""
        if not self._unwritten or self._owed < seconds:
            return
        with _told(self._file):
            if self._store is None:
                self._store = _opened(self._file)
            with self._store:
                self._store.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", self._unwritten)
        self._unwritten, self._owed = [], 0.0

    def _close(self) -> None:
        try:
            self._write(0.0)
        finally:
            if self._store is not None:
                self._store.close()
            self._store = None

    def _gathered(self) -> list[Row]:
        """The scores in the file, after it has taken in those of workers that were killed."""
        left = sorted(self._file.parent.glob(f"{glob.escape(self._file.stem)}.worker-*.sqlite"))
        self._unwritten = _rows(left)
        self._write(0.0)
        for path in left:
            path.unlink()
        return _rows([self._file])


def _rows(files: Sequence[StrPath]) -> list[Row]:
    """The scores in those of some files that are there."""
    found: list[Row] = []
    for path in files:
        if Path(path).exists():
            with _told(path):
                store = _opened(path)
                with closing(store):
                    found += store.execute("SELECT reward, object, score FROM scores").fetchall()
    return found


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
        raise GenflowError(f"{path} cannot hold the scores of a training: {error}") from error
