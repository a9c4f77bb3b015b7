"""Tasks in processes of this machine."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from openko.corpus.engines import slurm
from openko.corpus.tasks import Job, Task
from openko.errors import InputError


@dataclass(frozen=True)
class Local:
    """workers: processes; one worker is this process."""

    workers: int = 1

    def do(self, job: Job) -> None:
        slurm.refuse_beside(job)
        waiting = job.waiting()
        if self.workers > 1 and len(waiting) > 1:
            _in_processes(waiting, min(self.workers, len(waiting)), job.finished)
            return
        for task in waiting:
            task.do()
            job.finished(task)


def _in_processes(waiting: list[Task], workers: int, finished: Callable[[Task], None]) -> None:
    # Spawned, not forked: a notebook's process may hold jax, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        # Few at once, so that an error stops the rest.
        running, queue = {}, list(reversed(waiting))
        try:
            while queue or running:
                while queue and len(running) < 2 * workers:
                    task = queue.pop()
                    running[pool.submit(task.do)] = task
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


def _end_with_parent() -> None:
    """A pool's workers outlive a killed parent, and would still be writing when the command is started again."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
