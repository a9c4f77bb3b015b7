"""openko.walkthrough: notebooks run when what they need is there, two at once where they may, and an error ends all."""

import json
import re
import subprocess
import sys
import threading
import time

import psutil
import pytest

from openko import manifest, notebook, walkthrough


def needed(name):
    """All notebooks that must have run before."""
    return {n for direct in walkthrough.NEEDS[name] for n in {direct} | needed(direct)}


@pytest.mark.parametrize("name", notebook.NAMES)
def test_what_a_notebook_reads_is_what_it_needs(name):
    cells = json.loads((notebook.ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert set(re.findall(rf"""["']({"|".join(notebook.NAMES)})["']""", code)) - {name} <= needed(name)


@pytest.mark.parametrize("at_once", [1, 2])
def test_every_notebook_runs_once_after_what_it_needs_and_no_more_together_than_allowed(at_once):
    begun, ended, together, lock = [], set(), [], threading.Lock()

    def run(name):
        with lock:
            assert ended >= needed(name)
            begun.append(name)
            together.append(len(begun) - len(ended))
        time.sleep(0.02)
        with lock:
            ended.add(name)

    walkthrough._in_order(run, at_once)
    assert sorted(begun) == sorted(notebook.NAMES) and max(together) == at_once


def test_the_first_error_ends_the_kernels_of_other_notebooks_and_no_other_process(tmp_path, monkeypatch):
    def sleeper():
        code = "import signal, time; signal.signal(15, lambda *_: signal.signal(15, signal.SIG_DFL)); print(flush=True); time.sleep(60)"
        started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.stdout.readline()  # from here on it does not heed the first request, as a training run at its last step
        ready.set()
        return started

    ready, begun = threading.Event(), []
    ours = sleeper()
    ready.clear()
    monkeypatch.setattr(walkthrough, "TELL_EVERY", 0.5)
    monkeypatch.setenv(manifest.JOURNAL, str(tmp_path / "made"))

    def run(name):
        begun.append(name)
        if name == "04_rope":
            sleeper().wait()
        if name == "05_chat_vector":
            ready.wait()
            raise ValueError("it broke")

    try:
        with pytest.raises(ValueError, match="it broke"):
            walkthrough._in_order(run, 2)
        assert set(begun) == {"01_tokenizers", "02_corpus", "03_pretraining", "04_rope", "05_chat_vector"}
        assert ours.poll() is None and psutil.Process(ours.pid).is_running() and not list(walkthrough._kernels())
    finally:
        ours.kill()
        ours.wait()


def test_seconds_in_which_two_notebooks_ran_count_once():
    state = {"a": {"began": 100.0, "seconds": 10.0}, "b": {"began": 105.0, "seconds": 2.0}, "c": {"began": 108.0, "seconds": 5.0}}
    assert walkthrough._busy(state) == pytest.approx(13.0)
    assert walkthrough._busy(state | {"d": {"began": 200.0, "seconds": 1.0}}) == pytest.approx(14.0)


def test_of_the_journal_only_what_is_still_there_below_the_run_is_kept(tmp_path, monkeypatch):
    journal, out = tmp_path / "journal", tmp_path / "out"
    assert walkthrough._made(journal, out) == {}
    monkeypatch.setenv(manifest.JOURNAL, str(journal))
    for place in (out / "models" / "a", out / "models" / "gone", tmp_path / "elsewhere"):
        kept = manifest.build(
            place, kind="k", recipe={}, inputs={}, module="openko.errors", make=lambda partial: None, say=lambda line: None
        )
    (out / "models" / "gone" / manifest.NAME).unlink()
    assert walkthrough._made(journal, out) == {"models/a": kept.content}
