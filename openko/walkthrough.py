"""The main job: every notebook by papermill, with one display, resumable, and a page at the end.

A notebook runs when those whose results it reads have run. Which must run again is decided by content: a notebook's cells,
the openko modules it imports, its parameters, and those of the notebooks that it needs.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
import papermill
import psutil
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from openko import manifest, notebook, page, profiles
from openko.committed import collapse_carriage_returns
from openko.errors import InputError, Interrupted

# The results that each notebook reads, and those that were needed for them in turn.
NEEDS = {
    "01_tokenizers": (), "02_corpus": ("01_tokenizers",), "03_pretraining": ("02_corpus",), "04_rope": ("03_pretraining",),
    "05_chat_vector": ("03_pretraining",), "06_samples": ("05_chat_vector",), "07_evaluation": ("05_chat_vector",),
    "08_koen": ("05_chat_vector",),
}  # fmt: skip
# Most notebooks keep one core busy: on CPU two run side by side where neither needs the other. An accelerator serves one.
AT_ONCE = {"cpu": 2}
# What each notebook adds to the whole of profile laptop, in seconds; only the display's "time left" depends on it.
SHARES = {
    "01_tokenizers": 14, "02_corpus": 8, "03_pretraining": 261, "04_rope": 45, "05_chat_vector": 60, "06_samples": 4,
    "07_evaluation": 23, "08_koen": 196,
}  # fmt: skip
SAVE_EVERY, TELL_EVERY = 10.0, 3.0  # seconds between two looks at a notebook that runs, and between two requests to end


def walkthrough(profile_name: str, out: Path, *, console: Console | None = None) -> dict:
    """Run what is not up to date and write summary.json and index.html under `out`. Returns the summary."""
    console = console or Console(stderr=True)
    profile, out = profiles.get(profile_name), Path(out)
    directory = out / "notebooks"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"{out} cannot be made ({problem.strerror}): choose another --out") from None
    _keep_caches_inside(out)
    state_path = out / "walkthrough.json"
    state = json.loads(state_path.read_text(encoding="utf-8")) if state_path.exists() else {}
    keys, ran, pages, began, writing = _keys(profiles.fingerprint(profile)), [], [], time.monotonic(), threading.Lock()

    def run(name: str) -> None:
        if state.get(name, {}).get("key") == keys[name] and _is_whole(state[name], out):
            display.skip(name)
        else:
            started = time.time()
            made = _execute(name, profile_name, out, display)
            entry = {"key": keys[name], "began": started, "seconds": time.time() - started, "made": made, "files": _files(name, out)}
            with writing:
                state[name] = entry | {"peak_rss_gb": memory.peak_gb()}
                manifest.write_json(state_path, state)
                ran.append(name)
        pages.append(beside.submit(page.write_notebook, out, name))  # while the next notebook computes

    with _Memory() as memory, ThreadPoolExecutor(1) as beside, _Display(console) as display:
        _in_order(run, AT_ONCE.get(profile.platform, 1))
        for written in pages:
            written.result()
    summary_path = out / "summary.json"
    if not ran and summary_path.exists() and (out / "index.html").exists():
        console.print(f"all {len(notebook.NAMES)} notebooks are up to date ({time.monotonic() - began:.1f} s): {out / 'index.html'}")
        return json.loads(summary_path.read_text(encoding="utf-8"))
    summary = _summary(profile_name, out, state)
    manifest.write_json(summary_path, summary)
    page.write_index(out, summary)
    console.print(f"{len(ran)} notebooks run in {time.monotonic() - began:.0f} s: open {out / 'index.html'}")
    return summary


def _keys(key: str) -> dict[str, str]:
    """{notebook: hash of its code, and of that of all it needs}"""
    keys = {}
    for name in notebook.NAMES:
        own = notebook_fingerprint(notebook.ROOT / "notebooks" / f"{name}.ipynb")
        keys[name] = manifest.digest([key, *(keys[needed] for needed in NEEDS[name]), own])
    return keys


def _in_order(run: Callable[[str], None], at_once: int) -> None:
    """Call `run` for every notebook as soon as those that it needs are done. The first error ends the others too."""
    waiting, running, done = list(notebook.NAMES), {}, set()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                for name in [n for n in waiting if done.issuperset(NEEDS[n])][: at_once - len(running)]:
                    waiting.remove(name)
                    running[pool.submit(run, name)] = name
                # Not without end: an interrupt that another thread receives is seen when this one wakes.
                for ended in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    ended.result()
                    done.add(running.pop(ended))
        except BaseException:
            told: dict[psutil.Process, float] = {}
            while wait(running, timeout=0.2).not_done:
                for kernel in _kernels():
                    if time.monotonic() - told.get(kernel, -math.inf) > TELL_EVERY:
                        kernel.terminate()  # training saves its state and stops; at its last step it does not stop, hence again
                        told[kernel] = time.monotonic()
            raise


def _kernels() -> Iterator[psutil.Process]:
    """This process's children that run a notebook."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if manifest.JOURNAL in child.environ():
                yield child


def notebook_fingerprint(path: Path) -> str:
    """Changes with the code cells of a notebook and with the openko modules that they import; not with its prose."""
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return manifest.digest([cells, manifest.code_fingerprint(*manifest.imports_of("\n".join(cells)))])


def _keep_caches_inside(out: Path) -> None:
    """Fonts, histories and connection files go under `out` too: a run writes nowhere else."""
    for variable in ("MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        directory = (out / ".cache" / variable.lower()).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(variable, str(directory))


def _execute(name: str, profile_name: str, out: Path, display: "_Display") -> dict[str, str]:
    """Run a notebook. Returns {directory below out: content} of all that it made or found up to date."""
    source = notebook.ROOT / "notebooks" / f"{name}.ipynb"
    final = out / "notebooks" / f"{name}.ipynb"
    unfinished = final.with_name(f"{name}.partial.ipynb")
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it cannot parse comments in our parameters cell, and need not
    journal = out / ".cache" / f"{name}.made"
    journal.unlink(missing_ok=True)
    papermill_engines.register(f"openko-{name}", _engine(name, display, journal))
    try:
        papermill.execute_notebook(
            source, unfinished.absolute(), parameters={"profile": profile_name, "out_dir": out.as_posix()}, engine_name=f"openko-{name}",
            kernel_name="python3", progress_bar=False, start_timeout=120,
        )  # fmt: skip
    except papermill.PapermillExecutionError as problem:
        where = f"notebook {name}, cell {problem.exec_count}"
        if problem.ename == "InputError":
            raise InputError(f"{where}: {problem.evalue}") from None
        if problem.ename == "Interrupted":
            raise Interrupted(f"{where}: {problem.evalue}") from None
        raise RuntimeError(f"{where} failed with {problem.ename}: {problem.evalue}\nsee {unfinished}") from problem
    finished = nbformat.read(unfinished, as_version=4)
    collapse_carriage_returns(finished.cells)
    nbformat.write(finished, unfinished)
    os.replace(unfinished, final)
    return _made(journal, out.resolve())


def _made(journal: Path, out: Path) -> dict[str, str]:
    """{directory below out: content} of what a journal names and is still there."""
    named = {Path(line) for line in journal.read_text(encoding="utf-8").splitlines()} if journal.exists() else set()
    there = sorted(d for d in named if d.is_relative_to(out) and (d / manifest.NAME).is_file())
    return {d.relative_to(out).as_posix(): manifest.read(d).content for d in there}


def _engine(name: str, display: "_Display", journal: Path) -> type[NBClientEngine]:
    """papermill's engine, telling the display which cell runs and what it last printed."""

    class Client(PapermillNotebookClient):
        def process_message(self, message, cell, cell_index):
            if message["msg_type"] == "stream":
                text = message["content"]["text"].replace("\r", "\n").strip()
                if text:
                    display.say(text.splitlines()[-1])
            return super().process_message(message, cell, cell_index)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **settings):
            code = [i for i, c in enumerate(nb_man.nb.cells) if c.cell_type == "code"]
            plain_start = nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                if cell_index in code:
                    display.cell(name, code.index(cell_index), len(code))
                return plain_start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            client = Client(
                nb_man, kernel_name=kernel_name, startup_timeout=settings["start_timeout"], timeout=None, iopub_timeout=60,
                extra_arguments=["--IPKernelApp.log_level=50"],
            )  # fmt: skip
            with _saved_seldom(nb_man):
                client.execute(cwd=str(notebook.ROOT), env=os.environ | {manifest.JOURNAL: str(journal.absolute())})
            display.done(name)

    return Engine


@contextlib.contextmanager
def _saved_seldom(nb_man: NotebookExecutionManager) -> Iterator[None]:
    """papermill writes the notebook twice for every cell; once in a while, and at the end, is enough to look at."""
    save, last = nb_man.save, 0.0

    def now_and_then(**_):
        nonlocal last
        if time.monotonic() - last > SAVE_EVERY:
            save()
            last = time.monotonic()

    nb_man.save = now_and_then
    try:
        yield
    finally:
        nb_man.save = save


def _is_whole(known: dict, out: Path) -> bool:
    """Everything that the notebook made is still there, unchanged as far as sizes tell."""
    if not all((out / path).is_file() for path in known["files"]):
        return False
    try:
        return all(manifest.read(out / d).content == content for d, content in known["made"].items())
    except InputError:
        return False


def _files(name: str, out: Path) -> list[str]:
    """The executed notebook, its figures and its results, below `out`: their names begin with its number."""
    number = name.partition("_")[0]
    return [p.relative_to(out).as_posix() for d in ("notebooks", "figures", "results") for p in sorted((out / d).glob(f"{number}[_-]*"))]


def _summary(profile_name: str, out: Path, state: dict) -> dict:
    results = {}
    for path in sorted((out / "results").glob("*.json")):
        for key, value in json.loads(path.read_text(encoding="utf-8")).items():
            results[key] = results.get(key, {}) | value if isinstance(value, dict) else value
    root = notebook.ROOT.resolve()
    models = {p.parent.name: p.parent for p in sorted((out / "models").glob(f"*/{manifest.NAME}"))}
    return {
        "profile": profile_name,
        "models": {n: Path(os.path.relpath(p.resolve(), root)).as_posix() for n, p in models.items()},
        "notebooks": {name: round(state[name]["seconds"], 1) for name in notebook.NAMES},
        "seconds": round(_busy(state), 1),
        "peak_rss_gb": round(max(entry["peak_rss_gb"] for entry in state.values()), 2),
        **results,
    }


def _busy(state: dict) -> float:
    """Seconds in which at least one notebook ran."""
    total, until = 0.0, 0.0
    for began, seconds in sorted((entry["began"], entry["seconds"]) for entry in state.values()):
        total += max(0.0, began + seconds - max(began, until))
        until = max(until, began + seconds)
    return total


class _Memory:
    """Peak resident memory of this process and its children together, looked at twice a second."""

    def __enter__(self) -> "_Memory":
        self._stop, self._peak = threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def peak_gb(self) -> float:
        return self._peak / 1e9

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:  # it ended between the two calls
                    continue
            self._peak = max(self._peak, total)


class _Display:
    """One line over the whole run: notebooks and their cells, what was last said, time left."""

    def __init__(self, console: Console):
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(), TextColumn("left {task.fields[left]}"), TextColumn("[dim]{task.fields[said]}"),
        )  # fmt: skip
        self._console, self._progress = console, Progress(*columns, console=console, transient=True)
        self._reached: dict[str, float] = {}  # how much of each notebook has run
        self._running: dict[str, str] = {}
        self._began, self._last_line = time.monotonic(), 0.0

    def __enter__(self) -> "_Display":
        self._progress.start()
        self._task = self._progress.add_task("start", total=100, left="?", said="")
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def skip(self, name: str) -> None:
        self._console.print(f"{name}: up to date")
        self._reached[name] = 1.0
        self._show()

    def cell(self, name: str, number: int, cells: int) -> None:
        self._running[name] = f"{name} cell {number + 1}/{cells}"
        self._reached[name] = number / cells
        self._show()

    def say(self, line: str) -> None:
        room = max(20, shutil.get_terminal_size().columns - 80)
        self._progress.update(self._task, said=line[:room])
        if not self._console.is_terminal and time.monotonic() - self._last_line > 15:  # a log file gets a line now and then
            self._last_line = time.monotonic()
            self._console.print(f"{self._progress.tasks[self._task].description}: {line[:150]}")

    def done(self, name: str) -> None:
        del self._running[name]
        self._reached[name] = 1.0
        self._show()
        self._console.print(f"{name}: done after {time.monotonic() - self._began:.0f} s, left {self._left()}")

    def _show(self) -> None:
        running = " + ".join(self._running.values())
        self._progress.update(self._task, description=running, completed=self._share() * 100, left=self._left())

    def _share(self) -> float:
        return sum(SHARES[name] * reached for name, reached in self._reached.items()) / sum(SHARES.values())

    def _left(self) -> str:
        share = self._share()
        if share < 0.02:
            return "?"
        seconds = (time.monotonic() - self._began) * (1 - share) / share
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
