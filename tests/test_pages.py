"""openko.training.pages: what a step frees, the next one finds again."""

import subprocess
import sys

import pytest

BLOCKS = """
import resource, sys
import numpy as np
from openko.training.pages import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    print("cannot")
    sys.exit()
for _ in range(2):  # the first time, pages are new whatever malloc does
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(50_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(program: str, how: str) -> int:
    """What the program prints, run in a process of its own."""
    ended = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True)
    if "cannot" in ended.stdout:
        pytest.skip("this C library's malloc has no such switch")
    return int(ended.stdout)


def test_pages_of_large_blocks_are_new_only_once():
    """Five blocks of 50 MB: as malloc has it, over 60,000 pages (or large ones, fewer); kept, next to none."""
    faults = {how: new_pages(BLOCKS, how) for how in ("kept", "default")}
    assert faults["kept"] < 50 and faults["kept"] < faults["default"]


STEPS = """
import resource, sys
import jax, jax.numpy as jnp
from openko.training.pages import compute_in_line, keep_freed_memory

if sys.argv[1] == "in line":
    compute_in_line()
if not keep_freed_memory():
    print("cannot")
    sys.exit()
# A loop's state is 100 MB of temporary memory, and a copy of it.
step = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.roll(y, 1) + x, jnp.zeros(25_000_000)).sum())
x = jnp.ones(())
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_pages_of_a_step_are_new_only_once():
    """Three steps with 100 MB and more each: in a thread of jax's own they are mapped anew, in the caller's they are not."""
    faults = {how: new_pages(STEPS, how) for how in ("in line", "default")}
    assert faults["in line"] < 1_000 < faults["default"]
