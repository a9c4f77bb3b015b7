"""Memory that a step frees and asks for again stays with the process."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
NEVER = 2**31 - 1  # bytes at the end of the heap before they are given back


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to give nothing back to the system; whether it could be told (other C libraries have no such switch).

    XLA asks for a step's temporaries anew in every step. By default malloc maps such large blocks and unmaps them again, and the
    system clears every page of them each time: a fifth of the processor's time of a step on a laptop's CPU. From now on they come
    out of a heap that only grows, and the process keeps its peak memory until it ends. Of threads other than the first one, malloc
    maps every block over 64 MB all the same: hence `compute_in_line`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def compute_in_line() -> None:
    """Have jax on a CPU compute in the thread that asks for it; without effect where jax has started its devices already.

    By default a step runs in a thread of jax's own, from which its memory is mapped and unmapped whatever `keep_freed_memory` said:
    1 GB in every step of 7.2M weights and 8 × 512 tokens, a sixth of the processor's time.
    """
    import jax  # here, for torch's side of benchmarks/train_step.py keeps its memory too and holds nothing of jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
