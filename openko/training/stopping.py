"""When a run should stop before its end: a signal, or a session that is about to be over."""

import re
import signal
import threading
import time

from openko.errors import InputError

MARGIN = 1.5  # a save may take longer than the last one did
NOT_YET, OUT_OF_TIME, SIGNALLED = 0, 1, 2
REASONS = {OUT_OF_TIME: "the time budget is used up", SIGNALLED: "asked to by SIGTERM"}


class Stopping:
    """Watches the clock from the start, and SIGTERM (what a preempted machine, Slurm and Kubernetes send) while in its context.

    time_budget: seconds from now until the session ends, the last save included; None: no end.
    """

    def __init__(self, time_budget: float | None):
        self._end = None if time_budget is None else time.monotonic() + time_budget
        self._signalled = False

    @property
    def has_end(self) -> bool:
        return self._end is not None

    def __enter__(self) -> "Stopping":
        # Signals reach the main thread alone; elsewhere the budget still holds.
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        if self._in_main:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, *_) -> None:
        self._signalled = True

    def reason(self, *, step_seconds: float, save_seconds: float) -> int:
        """NOT_YET, or why this host should save and stop now: another step and a save would not fit any more."""
        if self._signalled:
            return SIGNALLED
        if self._end is not None and time.monotonic() + step_seconds + MARGIN * save_seconds > self._end:
            return OUT_OF_TIME
        return NOT_YET


def seconds(duration: str) -> float:
    """ "8h30m", "45m", "90s" -> seconds."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", duration.strip())
    if not duration.strip() or found is None:
        raise InputError(f"a time budget is written like 8h30m, 45m or 90s, found {duration!r}")
    return sum(float(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True))
