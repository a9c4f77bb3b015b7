"""Progress of work that may end at once or take an hour: in lines, and where bars are drawn."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Says a line at most every `seconds`; work that is done sooner says nothing."""

    def __init__(self, say: Callable[[str], None], seconds: float = 5.0):
        self._say, self._seconds = say, seconds
        self._began = self._last = time.monotonic()
        self._before = 0.0  # the share that was done when it began

    def __call__(self, line: str, done: float | None = None, *, warming_up: bool = False) -> None:
        """done: the share of the work behind us, in (0, 1]; the time left is said with it. warming_up: what was done until now held
        work that comes once, such as compiling: no time left is said, and what is said later goes by the speed from here on."""
        now = time.monotonic()
        if warming_up:
            self._began, self._before = now, done or 0.0
        if now - self._last >= self._seconds:
            self._last = now
            if done is not None and self._before < done < 1:
                line += f", {(now - self._began) * (1 - done) / (done - self._before):.0f} s left"
            self._say(line)


def bar_stream() -> TextIO:
    """Where a bar is drawn: on stderr, for a command's stdout is its answer's; in a notebook on stdout, for there stderr is shown
    as alarm."""
    return sys.stdout if _in_notebook() else sys.stderr


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel. IPython in a terminal has none; a command never imports IPython."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def scaled(value: float) -> tuple[str, str]:
    """A number and the prefix of its unit, in powers of 1000: 1_078_144 is ("1.1", "M"), 512 is ("512", "")."""
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.99995 * factor:
            return f"{value / factor:,.1f}", prefix
    return f"{value:.0f}", ""
