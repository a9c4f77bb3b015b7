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
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from side_by_side import CORES, SHAPES, Side, answer, multiplying, print_result, seconds, write_model

from openko import hardware
from openko.profiles import LlamaConfig

# Neither jax nor torch is imported above: each process holds its own alone.
PROMPT = 64


def prompts_of(config: LlamaConfig, batch: int) -> list[list[int]]:
    return np.random.default_rng(batch).integers(10, config.vocab_size, (batch, PROMPT)).tolist()


def ours(config: LlamaConfig, directory: Path, pipe) -> None:
    """Answers (batch, new tokens) with (seconds, tokens), and "limits" with `limits`."""
    from openko import decoding

    decoder = decoding.load(directory)

    def generate(batch: int, count: int):
        prompts = prompts_of(config, batch)
        return seconds(lambda: decoder.generate(prompts, terminators=(), temperature=0.0, max_new_tokens=count, say=lambda line: None))

    answer(pipe, lambda *asked: limits(config) if asked == ("limits",) else generate(*asked))


def limits(config: LlamaConfig) -> tuple[float, float]:
    """Seconds to read all weights once, and seconds of one floating-point operation in a large matrix product."""
    import jax
    import jax.numpy as jnp

    weights = jnp.ones((CORES, hardware.parameter_count(config) // CORES), jnp.float32)  # a row for each core to read
    total = jax.jit(lambda x: jnp.sum(x, axis=1))
    return median(seconds(lambda: total(weights).block_until_ready())[0] for _ in range(20)), multiplying()


def theirs(config: LlamaConfig, directory: Path, pipe) -> None:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(CORES)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def generate(batch: int, count: int):
        ids = torch.tensor(prompts_of(config, batch))
        how = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
        spent, found = seconds(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **how))
        return spent, found[:, PROMPT:].tolist()

    answer(pipe, generate)


def equal_share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of the tokens that come before a row's first difference."""
    before = [next((n for n, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x)) for x, y in zip(ours, theirs, strict=True)]
    return sum(before) / sum(map(len, ours))


def compare(config: LlamaConfig, mine: Side, peer: Side, batch: int, new_tokens: int, rounds: int) -> dict:
    first_call, found = mine(batch, new_tokens)
    same = equal_share(found, peer(batch, new_tokens)[1])
    pairs = [(peer(batch, new_tokens)[0], mine(batch, new_tokens)[0]) for _ in range(rounds)]
    starts = [(peer(batch, 1)[0], mine(batch, 1)[0]) for _ in range(rounds + 1)][1:]
    theirs, ours = (median(column) for column in zip(*pairs, strict=True))
    reading, operation = mine("limits")
    step = max(reading, 2 * hardware.parameter_count(config) * batch * operation)
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
        write_model(Path(directory), config)
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
            print_result(f"generate-{arguments.shape}-batch-{batch}", unit="tokens/s", **found)


if __name__ == "__main__":
    main()
