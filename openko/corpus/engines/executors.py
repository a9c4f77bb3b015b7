"""datatrove's executors with one rank for each task. Imported only where a cluster works, for it needs openko[cluster]."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger, setup_default_logger

from openko.corpus.engines import ranks
from openko.corpus.tasks import Job
from openko.errors import InputError

RETRIES = 3  # of a rank whose process was killed, as often as RayPipelineExecutor's
AWAY = 1  # a "local rank" other than 0: a rank's log goes to its file and not to the terminal too


class DoTask(PipelineStep):
    """The one step of our pipelines: the task of its rank, from the folder in which the command was started."""

    type, name = "openko", "task"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.start = folder.absolute(), Path.cwd()

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> tuple:
        try:
            os.chdir(self.start)
            task = ranks.task_of(self.folder, rank)
            if not task.done:
                task.do()
        except Exception as problem:
            # Into the log first: whoever waits ends this job as soon as the failure is there, perhaps before datatrove has written.
            logger.error(f"rank {rank} ends with {type(problem).__name__}: {problem}")
            ranks.keep_failure(self.folder, rank, problem)
            raise
        return ()


class _LongestFirst:
    """order: ranks, in which they are done."""

    def __init__(self, *, order: list[int], **options):
        super().__init__(**options)
        self.order = order

    def get_incomplete_ranks(self, ranks=None, skip_completed=None) -> list[int]:
        incomplete = set(super().get_incomplete_ranks(ranks, skip_completed))
        return [rank for rank in self.order if rank in incomplete]


class OneArray(_LongestFirst, SlurmPipelineExecutor):
    def launch_merge_stats(self) -> None:
        """datatrove queues one more job that adds the ranks' statistics; what a build counts is in its results."""


class PlainTasks(_LongestFirst, RayPipelineExecutor):
    """RayPipelineExecutor with its ranks as plain Ray tasks.

    Its own `run` puts each rank into a multiprocessing.Pool in an actor in a placement group (datatrove 0.10.1), and waits for ever
    when the pool's process is killed, as it is when memory runs out, when an actor cannot start, and when no node is large
    enough; and when an actor is killed, the rank goes on beside the one that is to replace it, writing the same files.
    """

    # The log lies in the shared folder while the rank runs. RayPipelineExecutor's waits in a temporary folder, one for all users.
    _run_for_rank = PipelineExecutor._run_for_rank

    def run(self, finished: Callable[[int], None]) -> None:
        import ray

        options = {"num_cpus": self.cpus_per_task, "memory": int(self.mem_per_cpu_gb * 1e9)}
        work = ray.remote(max_retries=RETRIES, scheduling_strategy="SPREAD", **options)(_do_rank)
        executor, queue, running = ray.put(self), self.get_incomplete_ranks(), {}
        try:
            while queue or running:
                while queue and len(running) < self.workers:
                    rank = queue.pop(0)
                    running[work.remote(executor, rank)] = rank
                [ended], _ = ray.wait(list(running), num_returns=1)
                rank = running.pop(ended)
                logger.info(f"rank {rank} is done, by node {self._node(ended, rank)}")
                finished(rank)
        finally:
            # An error stops the rest, and nothing goes on writing after it.
            for reference in running:
                ray.cancel(reference, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=ranks.PATIENCE)

    def _node(self, ended, rank: int) -> str:
        """Id of the node that did a rank; or the error that the rank ended with."""
        import ray

        folder = self.pipeline[0].folder
        try:
            return ray.get(ended)
        except ray.exceptions.RayTaskError as problem:
            ranks.raise_failure(folder)
            raise problem.cause from None
        except ray.exceptions.RayError as problem:
            raise InputError(
                f"rank {rank} was ended from outside {RETRIES + 1} times, by the system if memory ran out: run again with fewer --workers "
                f"or more --memory; finished parts are kept. {str(problem).splitlines()[0]} Its log: {ranks.log_of(folder, rank)}"
            ) from None


def _do_rank(executor: PlainTasks, rank: int) -> str:
    """In a process of Ray's; returns the node's id."""
    import ray

    [step] = executor.pipeline
    if not (step.folder / ranks.TASKS).is_file():
        raise InputError(f"{step.folder} is not to be seen on {ray.util.get_node_ip_address()}: all machines must share that folder")
    executor._run_for_rank(rank, AWAY)
    return ray.get_runtime_context().get_node_id()


def options(job: Job) -> dict:
    """What both executors are told: a rank for each task, of which those that wait are done."""
    order = [task.number for task in job.waiting()]
    return {"pipeline": [DoTask(job.folder)], "tasks": len(job.tasks), "order": order, "logging_dir": str(job.folder.absolute())}


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[None]:
    """What datatrove says in this process goes to a file."""
    logger.remove()
    logger.add(folder / "waiting.log")
    try:
        yield
    finally:
        setup_default_logger()
