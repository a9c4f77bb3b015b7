"""Tasks as one array job of Slurm.

This process queues the job, and looks every few seconds at the results and at the queue. The job's name says which folder it works
in and at which tasks. So when this process is killed and started again, it finds the job that still runs, and waits for it.
"""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from openko import manifest
from openko.corpus.engines import ranks
from openko.corpus.tasks import Job, Task
from openko.errors import InputError
from openko.progress import Progress

LOOK = 5.0  # seconds between two looks
PENDING = 60.0  # seconds between two lines that say that a job waits in the queue
ARRAY = 1000  # elements of an array job; Slurm's own limit is 1,001 unless a site has another
SCRIPT, RANKS = "launch_script.slurm", "ranks_to_run.json"  # datatrove's: the job's script, and which rank each element does
LAUNCH = "launch_pickled_pipeline"  # datatrove's command in that script
ADVICE = {
    "OUT_OF_MEMORY": "give it more --memory",
    "TIMEOUT": "give it more --time",
    "COMPLETED": "all machines must share that folder",
}


@dataclass(frozen=True)
class Slurm:
    """workers: elements of the array at once. partition, time: as in sbatch, time being that of an element. memory: GB of one."""

    workers: int
    partition: str
    time: str
    memory: int = 4

    def do(self, job: Job) -> None:
        _check(job.folder.absolute())
        executors = ranks.needed(ranks.EXECUTORS)
        if earlier := _earlier(job):
            job.say(f"{job.what}: waiting for Slurm job {earlier} of an earlier start")
            _wait(job, earlier)
        if job.waiting():
            _wait(job, self._submit(self.executor(executors, job), executors, job))

    def executor(self, executors, job: Job):
        """datatrove's, for what waits. The nodes use the Python that this process uses."""
        python = shlex.quote(str(Path(sys.executable).parent))
        return executors.OneArray(
            **executors.options(job), workers=self.workers, partition=self.partition, time=self.time, mem_per_cpu_gb=self.memory,
            tasks_per_job=_tasks_per_element(len(job.waiting())), job_name=_name(job), env_command=f"export PATH={python}:$PATH",
            job_id_retriever=_number, qos="",
        )  # fmt: skip

    def _submit(self, executor, executors, job: Job) -> str:
        """The number of the job."""
        ranks.prepare(job)
        with executors.log_in(job.folder):
            try:
                executor.run()
            except subprocess.CalledProcessError as problem:
                raise InputError(f"sbatch refused {job.folder / SCRIPT} (status {problem.returncode}); what it said stands above") from None
        waiting = len(executor.order)
        job.say(f"{job.what}: Slurm job {executor.job_id} with {waiting} tasks, {self.workers} at once; logs in {job.folder}")
        return executor.job_id


def refuse_beside(job: Job) -> None:
    """For the other engines: what a Slurm job of an earlier start still writes, no one else may."""
    if not (job.folder / SCRIPT).is_file():
        return
    if shutil.which("squeue") is None:
        raise InputError(
            f"an earlier start left a Slurm job in {job.folder}, and there is no squeue here to say whether it still runs: go on where "
            f"Slurm is, or, if it has ended, remove {job.folder / SCRIPT}"
        )
    for number, _, name in _jobs():
        if name.startswith(_name_of_place(job)):
            raise InputError(
                f"Slurm job {number} of an earlier start still works in {job.folder}: wait for it with --engine slurm, or scancel {number}"
            )


def _check(folder: Path) -> None:
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise InputError(f"{command} is not on the PATH: --engine slurm is for a login node of a Slurm cluster")
    if "SLURM_JOB_ID" in os.environ:
        inside = os.environ["SLURM_JOB_ID"]
        raise InputError(f"this is inside Slurm job {inside}, whose settings a new one would take over: start from a login node")
    python = Path(sys.executable).parent
    for path in (folder, python):
        if not re.fullmatch(r"[\w./+=@,:-]+", str(path)):
            raise InputError(f"{path} has a space or another sign that a Slurm script does not take: choose another place")
    if not (python / LAUNCH).is_file():
        raise InputError(f"{python / LAUNCH} is missing: pip install 'openko[cluster]' into that Python")


# ── names and the queue ────────────────────────────────────────────────────────────────────────────────────────────


def _place(job: Job) -> Path:
    """The folder that a build works in: all its jobs, one after the other, write there."""
    scratch = (folder.parent for folder in job.folder.absolute().parents if folder.name == manifest.SCRATCH)
    return next(scratch, job.folder.absolute().parent)


def _name_of_place(job: Job) -> str:
    """How the names of all jobs begin that work in the same place."""
    return f"openko-{manifest.digest(str(_place(job)))[:8]}-"


def _name(job: Job) -> str:
    return _name_of_place(job) + manifest.digest([task.path.name for task in job.tasks])[:8]


def _number(said: str) -> str:
    """From "Submitted batch job 123 on cluster x"."""
    return re.search(r"\d+", said).group()


def _tasks_per_element(waiting: int) -> int:
    return math.ceil(waiting / ARRAY)


def _jobs() -> list[tuple[str, str, str]]:
    """(number, state, name) of this person's jobs that are not over; an array has several lines."""
    found = subprocess.run(["squeue", "--me", "--noheader", "--format=%F %T %j"], capture_output=True, text=True)
    if found.returncode:
        raise InputError(f"squeue does not answer: {found.stderr.strip()}")
    return [tuple(line.split(maxsplit=2)) for line in found.stdout.splitlines()]


def _earlier(job: Job) -> str | None:
    """The number of a job that still does these tasks, left by a process that was killed."""
    for number, state, name in _jobs():
        if name == _name(job) and (job.folder / SCRIPT).is_file():
            return number
        if name.startswith(_name_of_place(job)) and state != "COMPLETING":
            raise InputError(
                f"Slurm job {number} ({name}) of an earlier start, on another recipe, input or code, still writes into {_place(job)}: "
                f"scancel {number}, remove that folder when squeue no longer lists the job, and run again"
            )
    return None


def _wait(job: Job, number: str) -> None:
    """Until a job has left the queue and its results are there. An error, or an interrupt of this process, ends the job."""
    left, pending = job.waiting(), Progress(job.say, PENDING)
    try:
        while True:
            states = _states(number)  # asked before the results are looked for: what ends in between is seen the next time
            for task in [task for task in left if task.done]:
                left.remove(task)
                job.finished(task)
            ranks.raise_failure(job.folder)
            if states == {"PENDING"}:
                pending(f"{job.what}: Slurm job {number} waits in the queue")
            if not states or (not left and states == {"COMPLETING"}):
                break
            time.sleep(LOOK)
    except BaseException:
        job.say(f"{job.what}: ending Slurm job {number}")
        _cancel(number)
        raise
    if missing := ranks.unseen(left):
        raise InputError(_ended(job, number, missing))
    for task in left:
        job.finished(task)
    (job.folder / SCRIPT).unlink()


def _cancel(number: str) -> None:
    """End a job, and wait until nothing of it can write any more."""
    subprocess.run(["scancel", number], capture_output=True)
    give_up = time.monotonic() + ranks.PATIENCE
    while _states(number) and time.monotonic() < give_up:
        time.sleep(LOOK)


def _states(number: str) -> set[str]:
    try:
        return {state for found, state, _ in _jobs() if found == number}
    except InputError:  # a controller that starts anew is no reason to give up; the job goes on without it
        return {"UNKNOWN"}


def _ended(job: Job, number: str, missing: list[Task]) -> str:
    """What to say of a job that is over and left tasks undone: of the first of them, its state by sacct, and where its log lies."""
    order = json.loads((job.folder / RANKS).read_text())
    lacking = {task.number for task in missing}
    place = next(place for place, rank in enumerate(order) if rank in lacking)
    element = f"{number}_{place // _tasks_per_element(len(order))}"
    asked = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={element}", "--format=State"]
    found = subprocess.run(asked, capture_output=True, text=True) if shutil.which("sacct") else None
    state = found.stdout.split()[0] if found and found.stdout.strip() else "a state that sacct does not know"
    return (
        f"Slurm job {element} (rank {order[place]}) ended as {state} and left no result: {ADVICE.get(state, 'see its log')}. "
        f"Its log: {job.folder / 'slurm_logs' / element}.out; {len(missing)} tasks are left, finished parts are kept"
    )
