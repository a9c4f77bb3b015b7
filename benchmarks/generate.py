"""Greedy generation against transformers' `generate`, batches of 1 and 16.

    python benchmarks/generate.py [--shape 7M | 135M] [--new-tokens 256] [--rounds 5] [--json]

Both decode the same random weights in fp32 from the same prompts of 64 tokens with as many threads as there are cores, each in a
process of its own (the threads of the one would wait busily while the other works), asked in turn. For each batch: tokens a
second by the median over the rounds, prompts included; the ratio pair by pair; the share of equal tokens before the first
difference; the time to the first token; and apart from all that the time that compiling took. The limit is the longer of two
times measured here: reading the weights once a token, and multiplying by them at the speed of one large matrix product.
--json ends with a line {name, ours, peer, ratio, unit, limit, …} for each batch.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from openko import decoding, hf_weights, llama
from openko.profiles import LlamaConfig
from openko.rope import Rope

PROMPT = 64
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


def seconds(work) -> tuple[float, object]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def prompts_of(config: LlamaConfig, batch: int) -> list[list[int]]:
    return np.random.default_rng(batch).integers(10, config.vocab_size, (batch, PROMPT)).tolist()


def ours(config: LlamaConfig, directory: Path, pipe) -> None:
    """Answers (batch, new tokens) with (seconds, tokens), and "limits" with `limits`."""
    decoder = decoding.load(directory)

    def generate(batch: int, count: int):
        prompts = prompts_of(config, batch)
        return seconds(lambda: decoder.generate(prompts, terminators=(), temperature=0.0, max_new_tokens=count, say=lambda line: None))

    while (asked := pipe.recv()) is not None:
        pipe.send(limits(config) if asked == "limits" else generate(*asked))


def limits(config: LlamaConfig) -> tuple[float, float]:
    """Seconds to read all weights once, and seconds of one floating-point operation in a large matrix product."""
    cores = len(os.sched_getaffinity(0))
    weights = jnp.ones((cores, llama.parameter_count(config) // cores), jnp.float32)  # a row for each core to read
    matrix = jnp.ones((2048, 2048), jnp.float32)
    total, product = jax.jit(lambda x: jnp.sum(x, axis=1)), jax.jit(jnp.matmul)
    reading = median(seconds(lambda: total(weights).block_until_ready())[0] for _ in range(20))
    multiplying = median(seconds(lambda: product(matrix, matrix).block_until_ready())[0] for _ in range(20))
    return reading, multiplying / (2 * 2048**3)


def theirs(config: LlamaConfig, directory: Path, pipe) -> None:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def generate(batch: int, count: int):
        ids = torch.tensor(prompts_of(config, batch))
        how = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
        spent, found = seconds(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **how))
        return spent, found[:, PROMPT:].tolist()

    while (asked := pipe.recv()) is not None:
        pipe.send(generate(*asked))


class Side:
    """One of the two, in its own process."""

    def __init__(self, work, config: LlamaConfig, directory: Path):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=work, args=(config, directory, other), daemon=True).start()

    def __call__(self, asked):
        self._pipe.send(asked)
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.send(None)


def equal_share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of the tokens that come before a row's first difference."""
    before = [next((n for n, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x)) for x, y in zip(ours, theirs, strict=True)]
    return sum(before) / sum(map(len, ours))


def compare(config: LlamaConfig, mine: Side, peer: Side, batch: int, new_tokens: int, rounds: int) -> dict:
    first_call, found = mine((batch, new_tokens))
    same = equal_share(found, peer((batch, new_tokens))[1])
    pairs = [(peer((batch, new_tokens))[0], mine((batch, new_tokens))[0]) for _ in range(rounds)]
    starts = [(peer((batch, 1))[0], mine((batch, 1))[0]) for _ in range(rounds + 1)][1:]
    theirs, ours = (median(column) for column in zip(*pairs, strict=True))
    reading, multiplying = mine("limits")
    step = max(reading, 2 * llama.parameter_count(config) * batch * multiplying)
    return {
        "ours": batch * new_tokens / ours, "peer": batch * new_tokens / theirs,
        "ratio": median(theirs / ours for theirs, ours in pairs), "limit": batch / step, "equal": same,
        "compile_seconds": first_call - ours,
        "first_token_ms": 1000 * median(s[1] for s in starts), "peer_first_token_ms": 1000 * median(s[0] for s in starts),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7M")
    parser.add_argument("--batch", type=int, action="append", help="may be repeated; 1 and 16 by default")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config, results = SHAPES[arguments.shape], {}
    with tempfile.TemporaryDirectory() as directory:
        hf_weights.save(Path(directory), config, llama.init(config, jax.random.key(0)))
        mine, peer = (Side(work, config, Path(directory)) for work in (ours, theirs))
        for batch in arguments.batch or (1, 16):
            results[batch] = compare(config, mine, peer, batch, arguments.new_tokens, arguments.rounds)
        mine.end()
        peer.end()
    for batch, found in results.items():
        print(f"{arguments.shape}, batch {batch}: {found['ours']:,.0f} tokens/s, limit {found['limit']:,.0f}; ", end="")
        print(f"transformers {found['peer']:,.0f}: {found['ratio']:.2f} times; {found['equal']:.0%} of the tokens before a difference")
        print(f"    first token {found['first_token_ms']:.1f} ms, transformers {found['peer_first_token_ms']:.1f} ms; ", end="")
        print(f"compiling {found['compile_seconds']:.1f} s", flush=True)
    if arguments.json:
        for batch, found in results.items():
            name = f"generate-{arguments.shape}-batch-{batch}"
            print(json.dumps({"name": name, "unit": "tokens/s"} | {k: round(v, 3) for k, v in found.items()}))


if __name__ == "__main__":
    main()
