"""Long work says how far it is, and short work nothing; bars go where they are read calmly."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from openko import progress
from openko.decoding import Decoder
from openko.progress import Progress
from openko.training.metrics import Metrics


def test_a_line_every_five_seconds_with_the_time_left(monkeypatch):
    said, now = [], iter([0.0, 1.0, 5.0, 6.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    tell = Progress(said.append)
    for line, done in (("a", None), ("b", None), ("c", 0.3), ("d", 0.25)):
        tell(line, done)
    assert said == ["b", "d, 30 s left"]


def test_what_comes_once_is_in_no_estimate(monkeypatch):
    """80 s of compiling for the first of a hundred, 20 s and 10 of work for the second and the next ten, 10 s for ten each."""
    said, now = [], iter([0.0, 80.0, 100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    tell = Progress(said.append)
    for done in (0.01, 0.02):
        tell(f"{done:.0%}", done, warming_up=True)
    for done in (0.12, 0.22, 1.0):
        tell(f"{done:.0%}", done)
    assert said == ["1%", "2%", "12%, 88 s left", "22%, 78 s left", "100%"]


def test_decoding_says_no_time_left_before_it_has_been_measured(monkeypatch):
    said, clock = [], [0.0]

    def stream(self, prompts, **how):
        for width, seconds in ((1, 580.0), (15, 60.0), (16, 8.0), (64, 32.0)):  # of which the first two are compiled
            clock[0] += seconds
            yield np.ones((len(prompts), width), np.int32)

    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Decoder, "stream", stream)
    Decoder(None, {}).generate([[1]] * 5, terminators=(0,), max_new_tokens=96, say=said.append)
    line = "answering 5 prompts: {} of at most 96 tokens{}"
    assert said == [line.format(*x) for x in ((1, ""), (16, ""), (32, ", 32 s left"), (96, ""))]


@pytest.mark.parametrize(("shell", "where"), [(None, "err"), (SimpleNamespace(), "err"), (SimpleNamespace(kernel=1), "out")])
def test_a_bar_is_on_stdout_in_a_kernel_alone(monkeypatch, capsys, tmp_path, shell, where):
    """On stdout a command has its answer, as JSON perhaps; stderr is red in a notebook. A terminal's IPython has no kernel."""
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    settings = {"name": "training", "lines": [], "steps": 1, "tokens_per_step": 1, "flops_per_step": 1.0, "peak": None}
    with Metrics(tmp_path / "lines.jsonl", tmp_path / "speed.jsonl", **settings) as record:
        record.step(1, {"loss": 1.0})
    found = capsys.readouterr()._asdict()
    assert "training" in found.pop(where) and not any(found.values())


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (512, "512"), (999.96, "1.0k"), (31_000, "31.0k"), (1_078_144, "1.1M"), (2.5e12, "2.5T"), (4e18, "4,000.0P")],
)
def test_numbers_have_a_prefix_that_fits(value, said):
    assert "".join(progress.scaled(value)) == said
