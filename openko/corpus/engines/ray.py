"""Tasks on a Ray cluster."""

import logging
import os
import socket
from dataclasses import dataclass

from openko.corpus.engines import ranks, slurm
from openko.corpus.tasks import Job
from openko.errors import InputError


@dataclass(frozen=True)
class Ray:
    """workers: tasks at once, each on one CPU. address: of the cluster; None: as Ray decides ($RAY_ADDRESS, a cluster that runs on
    this machine, one of its own for this process). memory: GB that Ray sets aside for a task."""

    workers: int
    address: str | None = None
    memory: int = 4

    def do(self, job: Job) -> None:
        slurm.refuse_beside(job)
        executors, ray = ranks.needed(ranks.EXECUTORS), ranks.needed("ray")
        self._connect(ray)
        ranks.prepare(job)

        def finished(rank: int) -> None:
            if ranks.unseen([job.tasks[rank]]):
                raise InputError(
                    f"rank {rank} is done, but {job.tasks[rank].path} is not to be seen here: all machines must share that folder"
                )
            job.finished(job.tasks[rank])

        with executors.log_in(job.folder):
            executors.PlainTasks(**executors.options(job), workers=self.workers, mem_per_cpu_gb=self.memory).run(finished)

    def _connect(self, ray) -> None:
        """Once in a process. What is asked of the cluster must be possible, for Ray would wait for it without end."""
        if not ray.is_initialized():
            _check_reachable(os.environ.get("RAY_ADDRESS") if self.address in (None, "auto") else self.address)
            try:
                ray.init(address=self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
                raise InputError(f"no work with the Ray cluster at {self.address or 'the place that Ray found'}: {problem}") from None
        elif self.address not in (None, "auto", found := ray.get_runtime_context().gcs_address):
            raise InputError(f"this process already works with the Ray cluster at {found}, not at {self.address}: start another for that")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        largest = max((node.get("memory", 0) for node in nodes), default=0)
        if largest < self.memory * 1e9:
            raise InputError(
                f"a task is to have a CPU and {self.memory} GB, but no machine of the Ray cluster has more than {largest / 1e9:.1f} GB "
                "for tasks: less --memory, or a larger machine"
            )


def _check_reachable(address: str | None) -> None:
    """HOST:PORT is asked for seconds, where Ray would try for minutes."""
    if address is None or address == "local" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as problem:
        raise InputError(f"no Ray cluster answers at {address} ({problem}): give HOST:PORT as `ray start --head` said it") from None
