"""How many objects are scored at once: few of a slow function, so that a kill loses few scores."""

from __future__ import annotations

#: seconds of scoring after which scores are written, so that a kill loses no more: of any function, and of
#: one that takes as long for each object, or when all that was asked for is there
WRITE_SECONDS, KEEP_SECONDS = 0.5, 0.05
#: the most objects that are scored at once, and the fraction of an object's time below which more are a gain
MAX_BATCH, GAIN = 1024, 0.75


class BatchSize:
    """The size of the next batch, by the seconds that those before it took.

    A slow function is asked for one object after the other, so that a kill loses none, unless more at once
    take it no longer, which is tried where one takes at most `WRITE_SECONDS`.

    Attributes:
        size: of the next batch.
        slow: whether larger batches would be too slow, by more than the first one, which may load something.
    """

    def __init__(self) -> None:
        self.size, self.slow = 1, False
        self._first, self._tried, self._each = True, False, 0.0

    def adapt(self, seconds: float, each: float, size: int) -> None:
        """Learn from a batch of `size` objects that took so many seconds, and so many for each object."""
        if size < self.size and seconds <= WRITE_SECONDS:  # there were no more
            return
        gains = each <= GAIN * self._each if size > 1 else not self._tried
        self._each, self._tried = each, self._tried or size > 1
        too_slow = seconds > WRITE_SECONDS or not (each < KEEP_SECONDS or gains)
        self.slow, self._first = too_slow and not self._first, False
        if too_slow:
            self.size = max(1, size // 2) if each < KEEP_SECONDS else 1
        else:
            self.size = min(MAX_BATCH, 2 * self.size)
