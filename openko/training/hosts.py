"""Several hosts that train one model: finding each other, and deciding together.

Every host runs the same program on its own devices; whatever one of them decides alone (stop, save, refuse) must be
known to all before the next collective operation, or the others wait for ever. With one host all of this is free.
"""

import contextlib
import socket
import sys
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from openko.errors import InputError

PATIENCE, TELL_EVERY = 60, 5  # seconds to wait for the other hosts, and between two words about it


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Make this process one of several, before anything else asks jax for devices.

    coordinator: HOST:PORT of process 0. On a Cloud TPU slice (and under Slurm or MPI) all three are found by jax.
    """
    if (coordinator is None) != (processes is None) or (coordinator is None) != (process is None):
        raise InputError("--coordinator, --processes and --process belong together: give all three, or none on a Cloud TPU")
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise InputError(f"--coordinator must be HOST:PORT, found {coordinator!r}")
        if not 0 <= process < processes:
            raise InputError(f"--process must be 0 to {processes - 1}, found {process}")
    with _telling(f"waiting for all {processes} hosts at {coordinator}" if coordinator else "waiting for all hosts of this slice"):
        if process:
            _wait_for(host, int(port))
        try:
            jax.distributed.initialize(coordinator, processes, process, initialization_timeout=PATIENCE)
        except (RuntimeError, ValueError) as problem:
            raise InputError(
                f"the hosts did not come together ({str(problem).splitlines()[0]}): outside a Cloud TPU slice, Slurm or MPI, name them "
                "with --coordinator, --processes and --process"
            ) from None


@contextlib.contextmanager
def _telling(what: str):
    """Say every few seconds what is waited for. A host that never comes makes jax abort the process, without a word that helps."""
    done, began = threading.Event(), time.monotonic()

    def tell():
        while not done.wait(TELL_EVERY):
            waited = time.monotonic() - began
            print(
                f"{what}, {waited:.0f} of {PATIENCE} s: start the same command on every host, and look whether one of them failed",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _wait_for(host: str, port: int) -> None:
    """jax aborts the process when the coordinator is silent; so knock first."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, port), timeout=2).close()
            return
        except OSError as problem:
            if time.monotonic() > until:
                raise InputError(
                    f"the coordinator {host}:{port} does not answer ({problem.strerror or problem}): is process 0 running there, "
                    "and is the port open between the hosts?"
                ) from None
            time.sleep(0.5)


def is_first() -> bool:
    """Whether this host speaks and writes for all."""
    return jax.process_index() == 0


def tell(value: int) -> int:
    """The first host's value, on every host. All must call it."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value


def agree(*values: int) -> tuple[int, ...]:
    """The largest of each value over all hosts. All must call it."""
    if jax.process_count() == 1:
        return values
    everyone = multihost_utils.process_allgather(np.array(values, np.int32))
    return tuple(int(v) for v in everyone.reshape(-1, len(values)).max(axis=0))
