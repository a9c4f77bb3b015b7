"""Progress in lines: for work that may end at once or take an hour."""

import time
from collections.abc import Callable


class Progress:
    """Says a line at most every `seconds`; work that is done sooner says nothing."""

    def __init__(self, say: Callable[[str], None], seconds: float = 5.0):
        self._say, self._seconds = say, seconds
        self._began = self._last = time.monotonic()

    def __call__(self, line: str, done: float | None = None) -> None:
        """done: the share of the work behind us, in (0, 1]; the time left is said with it."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._say(line if done is None else f"{line}, {(now - self._began) * (1 - done) / done:.0f} s left")
