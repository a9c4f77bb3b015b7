"""Work for tests of openko.corpus.engines: a module that other processes and machines can import, and quickly."""

import os
import signal
import time
from pathlib import Path

import psutil

from openko.errors import InputError


def double(number):
    return {"doubled": 2 * number}


def refuses(number):
    raise InputError(f"file {number} is no corpus: give another")


def breaks(number):
    return {"inverse": 1 / (number - 1)}


def is_killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


def is_killed_once(folder, number):
    """By the system, as far as the process can tell, the first time that it is tried."""
    mark = Path(folder) / f"{number}.killed"
    if not mark.exists():
        mark.touch()
        is_killed(number)
    return {"number": number}


def slow(folder, number):
    """Writes down who does it; all but number 0 take their time until they may end."""
    with open(Path(folder) / f"{number}.begun", "a") as file:
        file.write(f"{os.getpid()}\n")
    while number and not (Path(folder) / "may-end").exists():
        time.sleep(0.02)
    return {"number": number}


def refuses_while_another_works(folder, number):
    if number:
        slow(folder, number)
    while not (Path(folder) / "1.begun").exists():
        time.sleep(0.02)
    refuses(number)


def runs(begun: Path) -> bool:
    """Whether the process runs that wrote itself down there. One that has ended may stay in the table as a zombie."""
    try:
        return psutil.Process(int(begun.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
