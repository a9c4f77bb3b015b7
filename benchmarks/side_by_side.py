"""Two programs side by side, asked in turn: what the benchmarks share.

One core's worth of another program's idle threads, its allocator or its imports is enough to bend a ratio. So each side lives in a
process of its own, which imports nothing of the other's, and works only while it is asked:

    def ours(config, pipe):                  # the last argument is the side's end of the pipe
        model = load(config)                 # jax, torch, … are imported in here, and never above in a file that has sides:
        answer(pipe, lambda n: seconds(lambda: model.run(n)))          # a child begins by importing that file

    mine, peer = Side(ours, config), Side(theirs, config)
    pairs = [(peer(n), mine(n)) for n in sizes]                          # while one answers, the other sleeps in recv()

A child that fails ends the benchmark with its exit code; its own traceback stands above. Every benchmark ends with `print_result`.
"""

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from openko.profiles import LlamaConfig
from openko.rope import Rope

SHAPES = {
    "7M": LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=896, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2,
        head_dim=32, rope=Rope(theta=5e5), max_position_embeddings=4096, tie_word_embeddings=True,
    ),
    # SmolLM2-135M's numbers, from its config.json.
    "135M": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        head_dim=64, rope=Rope(theta=1e5), max_position_embeddings=8192, tie_word_embeddings=True,
    ),
}  # fmt: skip
CORES = len(os.sched_getaffinity(0))


class Side:
    """One of the two, in a process of its own. work: a function at the top of a file, called there with `arguments` and a pipe."""

    def __init__(self, work: Callable, *arguments):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(*arguments, other), daemon=True)
        self._process.start()
        other.close()  # so that this end learns when the process is gone

    def __call__(self, *asked):
        """What the side answers. SystemExit: it is gone."""
        try:
            self._pipe.send(asked)
            return self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise SystemExit(f"a side ended with exit code {self._process.exitcode}: what it said stands above") from None

    def end(self) -> None:
        """The side's process ends, and its memory is free when this returns."""
        self._pipe.send(None)
        self._process.join()


def answer(pipe, work: Callable) -> None:
    """In the child: answers each question of its Side with work(*asked), until that ends it or is killed."""
    with contextlib.suppress(EOFError):
        while (asked := pipe.recv()) is not None:
            pipe.send(work(*asked))


def seconds(work: Callable) -> tuple[float, object]:
    """The wall seconds of work(), and what it returned."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def multiplying() -> float:
    """Wall seconds of one floating-point operation in a large fp32 matrix product on all cores: the limit of what is all products."""
    import jax
    import jax.numpy as jnp

    matrix, product = jnp.ones((2048, 2048), jnp.float32), jax.jit(jnp.matmul)
    return median(seconds(lambda: product(matrix, matrix).block_until_ready())[0] for _ in range(20)) / (2 * 2048**3)


def write_model(directory: Path, config: LlamaConfig, carried: dict | None = None) -> None:
    """A Hugging Face directory of random weights, the same in each run. carried: further fields of its config.json."""
    import jax

    from openko import hf_weights, llama

    hf_weights.save(directory, config, llama.init(config, jax.random.key(0)), carried=carried)


def print_result(name: str, *, ours, peer, ratio, unit: str, limit, **more) -> None:
    """The line of JSON that a benchmark ends with; five digits of each number that is not whole.

    ours, peer: in `unit`. ratio: how many times as fast, or as good, ours is. limit: what this machine allows, in `unit`. None is
    what is truly not there, and the benchmark's first lines say why. more: what else is worth keeping, behind the six.
    """
    line = {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "limit": limit} | more
    rounded = json.loads(json.dumps(line), parse_float=lambda digits: float(f"{float(digits):.5g}"))
    print(json.dumps(rounded, ensure_ascii=False), flush=True)
