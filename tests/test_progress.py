"""Long work says how far it is, and short work nothing."""

from openko import progress
from openko.progress import Progress


def test_a_line_every_five_seconds_with_the_time_left(monkeypatch):
    said, now = [], iter([0.0, 1.0, 5.0, 6.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    tell = Progress(said.append)
    for line, done in (("a", None), ("b", None), ("c", 0.3), ("d", 0.25)):
        tell(line, done)
    assert said == ["b", "d, 30 s left"]
