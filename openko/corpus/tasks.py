"""Many independent tasks in a few processes; each leaves its result on disk, so that a build that was cut off goes on."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from openko import manifest
from openko.errors import InputError
from openko.progress import Progress


def run(
    work: Callable[..., dict], tasks: Sequence[tuple], results: Path, *, sizes: Sequence[float] | None = None, workers: int = 1, what: str,
    say: Callable[[str], None] = print,
) -> list[dict]:  # fmt: skip
    """work(*task) of every task, in their order: plain JSON data, which also lies in results/.

    A task whose result is there is not done again, so `work` must have its files under their final names when it returns; what
    it left when it was cut off it must write anew. sizes: bytes of each, for their order and the time left. work: a function
    of a module, for it goes to other processes; with one worker it runs in this one.
    """
    results.mkdir(parents=True, exist_ok=True)
    # What was asked is part of the name: a result of other pieces of the input is not taken for this one's.
    paths = [results / f"{number:05d}-{manifest.digest(repr(task))[:12]}.json" for number, task in enumerate(tasks)]
    sizes = list(sizes or [1.0] * len(tasks))
    # The longest first, so that none is left alone at the end.
    waiting = sorted((number for number, path in enumerate(paths) if not path.exists()), key=lambda number: -sizes[number])
    whole, done, progress = sum(sizes[n] for n in waiting) or 1.0, 0.0, Progress(say)

    if whole > 5e7:
        say(f"{what}: {len(waiting)} of {len(tasks)} parts to do")

    def finished(number: int) -> None:
        nonlocal done
        done += sizes[number]
        progress(f"{what}: {done / whole:.0%}", done / whole)

    if workers == 1 or len(waiting) < 2:
        for number in waiting:
            _keep(work, tasks[number], paths[number])
            finished(number)
    else:
        _in_processes(work, tasks, paths, waiting, workers, finished)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _in_processes(work, tasks, paths, waiting: list[int], workers: int, finished) -> None:
    # Spawned, not forked: a notebook's process may hold jax, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context) as pool:
        # Few at once, so that an error stops the rest.
        running, queue = {}, list(reversed(waiting))
        try:
            while queue or running:
                while queue and len(running) < 2 * workers:
                    number = queue.pop()
                    running[pool.submit(_keep, work, tasks[number], paths[number])] = number
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    finished(running.pop(future))
        except BrokenProcessPool:
            raise InputError(
                "a worker process was ended from outside, by the system if memory ran out: run again with fewer --workers; "
                "finished parts are kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _keep(work: Callable[..., dict], task: tuple, path: Path) -> None:
    manifest.write_json(path, work(*task))
