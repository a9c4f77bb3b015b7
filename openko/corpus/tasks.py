"""Many independent tasks; each leaves its result on disk, so that a build that was cut off goes on. An engine does them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openko import manifest
from openko.progress import Progress


@dataclass(frozen=True)
class Task:
    """work(*arguments), whose result, plain JSON data, is to lie at `path`. size: bytes of input, about."""

    number: int
    work: Callable[..., dict]
    arguments: tuple
    path: Path
    size: float

    @property
    def done(self) -> bool:
        return self.path.exists()

    def do(self) -> None:
        manifest.write_json(self.path, self.work(*self.arguments))


@dataclass(frozen=True)
class Job:
    """tasks: all of them, by their numbers. folder: for what an engine keeps beside the results. finished: to be called for each
    task that is done from now on."""

    tasks: list[Task]
    folder: Path
    what: str
    finished: Callable[[Task], None]
    say: Callable[[str], None]

    def waiting(self) -> list[Task]:
        """What is not done, the longest first, so that none is left alone at the end."""
        return sorted((task for task in self.tasks if not task.done), key=lambda task: -task.size)


class Engine(Protocol):
    """Who does the tasks of a job: one of openko.corpus.engines. workers: how many at once."""

    workers: int

    def do(self, job: Job) -> None:
        """Every task that waits is done afterwards; the first that fails ends the rest, and its error is raised."""


def run(
    work: Callable[..., dict], tasks: Sequence[tuple], results: Path, *, engine: Engine, sizes: Sequence[float] | None = None, what: str,
    say: Callable[[str], None] = print,
) -> list[dict]:  # fmt: skip
    """work(*task) of every task, in their order: plain JSON data, which also lies in results/.

    A task whose result is there is not done again, so `work` must have its files under their final names when it returns; what
    it left when it was cut off it must write anew. sizes: bytes of each, for their order and the time left. work: a function
    of a module, for it goes to other processes and machines; what it is given must be the same there (whole paths).
    """
    results.mkdir(parents=True, exist_ok=True)
    sizes = list(sizes or [1.0] * len(tasks))
    every = [Task(number, work, given, _path(results, number, given), sizes[number]) for number, given in enumerate(tasks)]
    waiting = sum(not task.done for task in every)
    whole, done, progress = sum(task.size for task in every if not task.done) or 1.0, 0.0, Progress(say)

    if whole > 5e7:
        say(f"{what}: {waiting} of {len(tasks)} parts to do")

    def finished(task: Task) -> None:
        nonlocal done
        done += task.size
        progress(f"{what}: {done / whole:.0%}", done / whole)

    if waiting:
        engine.do(Job(every, results / "engine", what, finished, say))
    return [json.loads(task.path.read_text(encoding="utf-8")) for task in every]


def _path(results: Path, number: int, given: tuple) -> Path:
    """What was asked is part of the name: a result of other pieces of the input is not taken for this one's."""
    return results / f"{number:05d}-{manifest.digest(repr(given))[:12]}.json"
