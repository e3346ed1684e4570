"""What a training pays for: the objects whose score it asked for, counted, and kept on disk.

A call is an object that the training has not asked for before, as in the field's comparisons of sample
efficiency (Gao et al., "Sample Efficiency Matters", 2022). Whoever scores objects asks through `current`.

Several workers that train together ask together: each new object is scored by the next worker that is free,
which keeps its score in a file of its own until the first worker's file has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from genflow.batch_size import KEEP_SECONDS, WRITE_SECONDS, BatchSize
from genflow.distributed.world import ALONE, World, world
from genflow.progress import Bar, Progress
from genflow.storage.files import StrPath
from genflow.storage.score_files import Row, ScoreFile, files_of, rows_of, stale_note

#: calls of which one is spent on asking for an object again
REPEATED = 100
#: before a reward's identity in a file, for an object that was asked for again, and one that it failed for
AGAIN, FAILED = "again ", "failed "
#: names of objects -> their scores; names and scores -> which are modes
Score = Callable[[Sequence[str]], Sequence[float]]
IsMode = Callable[[Sequence[str], Sequence[float]], Sequence[bool]]
#: an object's name and its score -> its score, asked for again
Again = Callable[[str, float], float]

_current: ContextVar[RewardCalls | None] = ContextVar("reward_calls", default=None)


class RewardCalls:
    """The calls of one training, in a file that survives a kill.

    Attributes:
        limit: the number of calls after which the training ends, None for no limit.
        best: the highest score of the reward that was asked last, None before the first.
        modes: how many of its objects are modes, None where nobody says.
        reward: the identity of that reward, None before the first.
        bar: shows the calls while they are made.
        keeps, measuring: whether scores are written to a file, and whether nothing is learned from them.
    """

    def __init__(
        self,
        file: StrPath | None,
        limit: int | None = None,
        before: Sequence[StrPath | Row] = (),
        known: Sequence[StrPath | Row] = (),
    ) -> None:
        """Read the file, which is made with the first score; by all workers that train together.

        Args:
            file: the scores of this training; None keeps none, and each worker asks for its own.
            limit: see above.
            before: files of calls that were made for this training before it began, or these. They count.
            known: files of other scores, which count when they are asked for, and are not asked for again.

        Raises:
            GenflowError: a file holds something else.
        """
        self.limit = limit
        self.best: float | None = None
        self.modes: int | None = None
        self.reward: str | None = None
        self.bar, self.measuring = Bar(), False
        self._file, self.keeps = None if file is None else ScoreFile(Path(file)), file is not None
        self._batch = BatchSize()
        self._is_mode: IsMode | None = None
        self._unwritten: list[Row] = []
        self._owed = 0.0  # seconds that they took
        self._asked, self._read = 0, set[tuple[str, str]]()
        self._turned_to, self._repeated = set[str](), set[str]()

        def read() -> list[list[Row]]:
            return [self._file.gathered() if self._file else [], rows_of(before), rows_of(known)]

        # where nothing is read, the other workers need not come here
        rows = world().on_rank_zero(read) if file or before or known else read()
        self._failed = {
            (r.removeprefix(FAILED), n) for each in rows for r, n, _ in each if r.startswith(FAILED)
        }
        self._known, self._before, self._given = (
            {(r.removeprefix(FAILED), n): score for r, n, score in each} for each in rows
        )
        if self._file is not None and not world().is_rank_zero:
            path = self._file.path
            self._file = ScoreFile(path.with_name(f"{path.stem}.worker-{world().rank}.sqlite"))

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
            if self._file is not None and not world().is_rank_zero:  # the first worker's file has it all
                self._close()
                self._file.path.unlink(missing_ok=True)
        finally:
            _current.reset(token)
            self._close()

    @classmethod
    @contextmanager
    def of_run(cls, folder: StrPath) -> Iterator[Self]:
        """Take meanwhile the scores that a run has paid for, see `files_of`, and ask for others.

        Nothing is written. At the end a line says how many were asked for and how many were read.

        Raises:
            GenflowError: a file of scores holds something else.
        """
        with (calls := cls(None, known=files_of(folder))).as_current():
            calls.measuring = True
            yield calls
        asked, read = calls.asked_and_read().values()
        if asked or read:
            Progress.current().note(f"{asked:,} scores were asked for, {read:,} read from {folder}")

    def asked_and_read(self) -> dict[str, int]:
        """How many scores all workers asked for, and how many different ones were there already."""
        asked, read = self._asked, [key in self._read for key in self._given]
        if world().size > 1:
            import torch

            asked, *read = world().all_reduce(torch.tensor([asked, *read], dtype=torch.int64)).tolist()
        return {"scores_asked": asked, "scores_read": sum(map(bool, read))}

    @property
    def _workers(self) -> World:
        return ALONE if self._file is None else world()

    def __len__(self) -> int:
        """The number of calls."""
        return len(self._known)

    @property
    def spent(self) -> float:
        """The fraction of the limit that is used, 0 without one."""
        return len(self) / self.limit if self.limit else 0.0

    def rows(self) -> list[Row]:
        """All calls: the identity of the reward, the object's name and its score."""
        return self._marked((reward, name, score) for (reward, name), score in self._known.items())

    def _marked(self, rows: Iterable[Row]) -> list[Row]:
        """Rows as they are written, where those that a reward failed for are told from others."""
        return [(FAILED + r if (r, n) in self._failed else r, n, score) for r, n, score in rows]

    def scored(self, reward: str) -> bool:
        """Return whether there is an object that a reward has scored, here or before."""
        every = {*self._known, *self._before, *self._given} - self._failed
        return any(own == reward for own, _ in every)

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
        again: Again | None = None,
    ) -> list[float]:
        """Return the scores of objects by name, which all workers that train together must ask for.

        Args:
            reward: what tells the scoring function and its options from others, its name in front.
            names: objects as text, the same text for the same object.
            score: computes the scores of objects; it is asked for those that are new.
            failed: objects for which it failed, and why. It says so while it is asked, here or on another
                worker. They are counted and kept as such, and not asked for again.
            is_mode: says which objects of such scores are modes.
            again: asks for one object again and compares. Where `REPEATED` calls may be made, one of them is
                for this.

        Raises:
            GenflowError: the file cannot be written.
        """
        failed = {} if failed is None else failed
        # the first worker's, as rounding may lead elsewhere on another machine
        asked: Any = self._workers.on_rank_zero(lambda: [reward, list(names)])
        reward, names = asked
        if reward != self.reward:
            self._turn_to(reward, is_mode)
        new = [name for name in dict.fromkeys(names) if (reward, name) not in self._known]
        if given := [
            (reward, name, self._given[reward, name]) for name in new if (reward, name) in self._given
        ]:
            self._read.update((r, n) for r, n, _ in given)
            self._take(given)
            new = [name for name in new if (reward, name) not in self._known]
        failed.update(
            (name, f"{reward.split(' ')[0]} failed for {name} before")
            for name in dict.fromkeys(names)
            if (reward, name) in self._failed and name not in failed
        )
        with self._shown(len(new)):
            while new:
                new = new[self._ask(reward, new, score, failed, again) :]
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
        """Count what belongs to this reward, and say what was there before."""
        self.reward, self._is_mode = reward, None if self._file is None else is_mode
        self.best, self.modes = None, None if self._is_mode is None else 0
        own = [(r, name, score) for (r, name), score in self._known.items() if r == reward]
        self._look_at(own)
        if reward in self._turned_to:
            return
        self._turned_to.add(reward)
        every = [r for r, _ in {*self._known, *self._before, *self._given}]
        if note := stale_note(every, reward):
            Progress.current().note(note)
        if own:
            Progress.current().note(f"{len(own):,} reward calls were made before this start, and are kept")
        new = [(r, n, s) for (r, n), s in self._before.items() if r == reward and (r, n) not in self._known]
        if new:
            Progress.current().note(f"{len(new):,} reward calls were made before, to describe the structure")
            self._take(new)
        if (own or new) and self.limit is not None and len(self) >= self.limit:
            Progress.current().warn(
                f"{len(self):,} reward calls are made already, and {self.limit:,} may be: one step is taken"
                " at the most, and the training ends; give more by --reward-calls (finetune.reward_calls)"
            )

    def _ask(
        self,
        reward: str,
        new: list[str],
        score: Score,
        failed: MutableMapping[str, str],
        again: Again | None,
    ) -> int:
        """Have the first of some new objects scored, and return how many.

        They are as many parts as there are workers while larger parts may still be fast, else all.
        """
        workers = self._workers
        size = min(self._batch.size, -(-len(new) // workers.size))
        parts = [new[start : start + size] for start in range(0, len(new), size)]
        parts = parts if self._batch.slow else parts[: workers.size]
        before = len(self)

        def scored(part: list[str]) -> list[Any]:
            began = time.monotonic()
            values = [float(value) for value in score(part)]
            rows = [(reward, *each) for each in zip(part, values, strict=True)]
            seconds = time.monotonic() - began
            self._failed |= {(reward, name) for name in part if name in failed}
            self._unwritten += self._marked(rows)
            self._owed += seconds
            self._write(KEEP_SECONDS if seconds >= KEEP_SECONDS * len(part) else WRITE_SECONDS)
            return [rows, {n: failed[n] for n in part if n in failed}, seconds]

        results = workers.map_dynamic(
            parts, scored, on_progress=lambda done: self.bar.set(before + min(done * size, len(new)))
        )
        self._batch.adapt(*max((seconds, seconds / len(rows)) for rows, _, seconds in results), size)
        for _, faults, _ in results:
            failed.update(faults)
            self._failed |= {(reward, name) for name in faults}
        found = [(r, n, s) for rows, _, _ in results for r, n, s in rows]
        self._asked += len(found)
        if not workers.is_rank_zero:
            self._unwritten, self._owed = [], 0.0
        elif workers.size > 1:  # its own among them, which may be written twice
            self._unwritten += self._marked(found)
            self._owed += sum(seconds for _, _, seconds in results)
        self._count(found)
        if again is not None and (self.limit or 0) >= REPEATED and reward not in self._repeated:
            self._repeat(reward, [row for row in found if row[1] not in failed][:1], again)
        return sum(map(len, parts))

    def _repeat(self, reward: str, rows: Sequence[Row], again: Again) -> None:
        """Ask again for what has just been asked for, once for a reward and a run; this is a call too."""
        marked = AGAIN + reward
        for _, name, score in rows:
            self._repeated.add(reward)
            if not any(marked == other for other, _ in self._known.keys() | self._given.keys()):
                value = self._workers.on_rank_zero(lambda: again(name, score))  # noqa: B023  called at once
                self._asked += 1
                self._known[marked, name] = value
                self._unwritten += [(marked, name, value)] if self._workers.is_rank_zero else []
                self._write(0.0)
                self.bar.set(len(self))

    def _take(self, rows: Sequence[Row]) -> None:
        """Count calls that were made elsewhere, as if they were made here."""
        self._unwritten += self._marked(rows) if self._workers.is_rank_zero else []
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
        if self._file is None:
            self._unwritten, self._owed = [], 0.0
        if self._file is None or not self._unwritten or self._owed < seconds:
            return
        self._file.add(self._unwritten)
        self._unwritten, self._owed = [], 0.0

    def _close(self) -> None:
        if self._file is not None:
            try:
                self._write(0.0)
            finally:
                self._file.close()
