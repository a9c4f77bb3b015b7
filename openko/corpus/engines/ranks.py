"""What an engine of a cluster keeps in a job's folder, which all its machines see. A task's number is its rank.

    tasks.pickle   the tasks
    completions/   datatrove's: `00003` when rank 3 is done
    failures/      `00003` with the error that rank 3 ended with
    logs/, stats/  datatrove's, a file for each rank
    waiting.log    datatrove's lines in the process that waits for the ranks

All of it is in the scratch folder of a build, and goes with it when the build is done.
"""

import importlib
import os
import pickle
import platform
import shutil
import time
import traceback
from pathlib import Path
from types import ModuleType

from openko.corpus.tasks import Job, Task
from openko.errors import InputError

EXECUTORS = "openko.corpus.engines.executors"  # our step and executors for datatrove
TASKS, COMPLETIONS, FAILURES = "tasks.pickle", "completions", "failures"
PATIENCE = 60.0  # seconds until a file of another machine is to be seen: NFS keeps what it knows of a folder for so long


def prepare(job: Job) -> None:
    """Write the tasks down. A rank is complete where its task's result is there, and only there, whoever left the folder as it is."""
    for name in (COMPLETIONS, FAILURES):
        shutil.rmtree(job.folder / name, ignore_errors=True)
        (job.folder / name).mkdir(parents=True)
    for task in job.tasks:
        if task.done:
            (job.folder / COMPLETIONS / f"{task.number:05d}").touch()
    _write(job.folder / TASKS, job.tasks)


def needed(module: str) -> ModuleType:
    """A module that is there, or works, with an extra only."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise InputError(f"{problem.name or problem} is missing: pip install 'openko[cluster]', on every machine") from None


def task_of(folder: Path, rank: int) -> Task:
    return pickle.loads((folder / TASKS).read_bytes())[rank]


def log_of(folder: Path, rank: int) -> Path:
    return folder / "logs" / f"task_{rank:05d}.log"


def keep_failure(folder: Path, rank: int, problem: Exception) -> None:
    """For the process that waits: the error of a rank as it was, or its text where it cannot be sent."""
    trace = "".join(traceback.format_exception(problem))
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:
        problem = RuntimeError(f"{type(problem).__name__}: {problem}")
    _write(folder / FAILURES / f"{rank:05d}", (rank, platform.node(), problem, trace))


def raise_failure(folder: Path) -> None:
    """Raise the error that a rank left, if one did: bad input as bad input, and anything else with its traceback."""
    for path in sorted((folder / FAILURES).glob("*[0-9]")):
        rank, machine, problem, trace = pickle.loads(path.read_bytes())
        where = f"rank {rank}, on {machine}; its log: {log_of(folder, rank)}"
        if isinstance(problem, InputError):
            raise InputError(f"{problem} ({where})")
        problem.add_note(f"{where}\n{trace}")
        raise problem


def unseen(tasks: list[Task]) -> list[Task]:
    """Which tasks that have ended on other machines have no result here, after some patience."""
    give_up = time.monotonic() + PATIENCE
    while (missing := [task for task in tasks if not task.done]) and time.monotonic() < give_up:
        os.listdir(missing[0].path.parent)  # NFS asks the server again
        time.sleep(0.1)
    return missing


def _write(path: Path, value) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(pickle.dumps(value))
    os.replace(temporary, path)
