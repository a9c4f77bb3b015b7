"""The training step against transformers + torch's AdamW, in fp32 on CPU.

    python benchmarks/train_step.py [--shape 7M | laptop] [--rounds 5] [--steps 3] [--torch-compile] [--json]

Both train a model of the same shape on the same random tokens with as many threads as there are cores, each in a process of its own,
in turn first. Ours is what `openko train` runs (openko.training.step.compile_step), with several documents in each row and metrics;
torch's rows are one document each, which lets it use its fused causal attention (SDPA). Both clip the norm of the gradient. Torch's
AdamW is the faster of its fused and its foreach form, which is found out first; with --torch-compile also torch.compile. Torch is
given what `openko train` gives itself on a CPU: memory that is freed stays with the process (openko.training.pages); without it, it
is slower.

A round is `steps` steps of each; tokens a second by the median over the rounds, the ratio pair by pair. The processor's seconds of both
are given too: they stay comparable on a machine that has other work. Memory is the largest of each process, without what its imports
took. The limit: the step's FLOPs at the speed of one large matrix product, measured here.
--json ends with a line {name, ours, peer, ratio, unit, limit, …}.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import side_by_side
from side_by_side import CORES, Side, answer, multiplying, print_result, seconds

from openko import hardware, profiles
from openko.profiles import LlamaConfig, Training

# Neither jax nor torch is imported above: each process holds its own alone.
SHAPES = {"7M": side_by_side.SHAPES["7M"], "laptop": profiles.MODELS["tiny-llama3"]}
BATCHES = {"7M": (8, 512), "laptop": (4, 256)}
DOCUMENT = 150  # tokens, on average


def training(rows: int, length: int) -> Training:
    return Training(
        steps=100_000, batch_size=rows, sequence_length=length, peak_learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=100
    )


def batch_of(vocab_size: int, rows: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens in random documents, as openko.training.data lays them out."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, (rows, length + 1), np.int32)
    begins = rng.random((rows, length)) < 1 / DOCUMENT
    begins[:, 0] = True
    here = np.arange(length, dtype=np.int32)
    return {
        "tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segment_ids": np.cumsum(begins, axis=1, dtype=np.int32),
        "positions": here - np.maximum.accumulate(np.where(begins, here, 0), axis=1),
        "weights": np.ones((rows, length), np.float32), "source": np.zeros(rows, np.int32),
    }  # fmt: skip


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(run, before: int, began: float, pipe) -> None:
    """Answers a number of steps with {"seconds", "cpu", "peak", "first"}; `first` is building, compiling and the first step."""
    run(1)
    first = time.perf_counter() - began

    def timed(count: int) -> dict:
        cpu = time.process_time()
        wall, _ = seconds(lambda: run(count))
        return {"seconds": wall, "cpu": time.process_time() - cpu, "peak": peak_bytes() - before, "first": first}

    answer(pipe, timed)


def our_steps(config: LlamaConfig, rows: int, length: int) -> Callable[[int], None]:
    """What `openko train` runs, compiled and ready: called with a number of steps."""
    import jax

    from openko import llama
    from openko.profiles import CPU_STEP, MeshShape
    from openko.training.optimizer import learning_rates
    from openko.training.pages import compute_in_line, keep_freed_memory
    from openko.training.sharding import make_mesh
    from openko.training.step import compile_step, new_state

    compute_in_line()
    keep_freed_memory()
    run = training(rows, length)
    step = compile_step(config, run, CPU_STEP, make_mesh(MeshShape()))
    batch = jax.device_put(batch_of(config.vocab_size, rows, length))
    state = new_state(llama.init(config, jax.random.key(0)), run, CPU_STEP)
    rates = iter(learning_rates(run))

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, batch, next(rates))
            float(metrics["loss"])

    return steps


def ours(shape: str, pipe) -> None:
    import openko.training.step  # noqa: F401  # with jax and flax, whose memory is not counted

    before, began = peak_bytes(), time.perf_counter()
    serve(our_steps(SHAPES[shape], *BATCHES[shape]), before, began, pipe)


def theirs(shape: str, adamw: str, compiled: bool, pipe) -> None:
    import torch
    import transformers

    from openko.training.pages import keep_freed_memory

    before, began = peak_bytes(), time.perf_counter()
    keep_freed_memory()
    torch.set_num_threads(CORES)
    c, run = SHAPES[shape], training(*BATCHES[shape])
    model = transformers.LlamaForCausalLM._from_config(transformers.LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size, num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads, num_key_value_heads=c.num_key_value_heads, head_dim=c.head_dim,
        rope_theta=c.rope.theta, max_position_embeddings=c.max_position_embeddings, tie_word_embeddings=c.tie_word_embeddings,
        rms_norm_eps=c.rms_norm_eps, use_cache=False,
    ), attn_implementation="sdpa").train()  # fmt: skip
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=run.peak_learning_rate, betas=(run.adam_b1, run.adam_b2), eps=run.adam_eps,
        weight_decay=run.weight_decay, **{adamw: True},
    )  # fmt: skip
    ids = torch.from_numpy(batch_of(c.vocab_size, *BATCHES[shape])["tokens"]).long()
    forward = torch.compile(model) if compiled else model

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss = forward(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip_norm, foreach=True)
            optimizer.step()
            loss.item()

    serve(steps, before, began, pipe)


def speed(pipe) -> None:
    answer(pipe, multiplying)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each side in a round; 3, or 30 of the laptop's")
    parser.add_argument("--torch-compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shape, count = arguments.shape, arguments.steps or {"7M": 3, "laptop": 30}[arguments.shape]
    sides = {f"torch, {adamw} AdamW": Side(theirs, shape, adamw, False) for adamw in ("fused", "foreach")}
    if arguments.torch_compile:
        sides["torch.compile, fused AdamW"] = Side(theirs, shape, "fused", True)
    tried = {name: min(side(count)["cpu"] for _ in range(2)) for name, side in sides.items()}
    peer = min(tried, key=tried.get)
    for name, side in sides.items():
        if name != peer:
            side.end()
    mine, limit, rounds = Side(ours, shape), Side(speed), []
    for number in range(arguments.rounds):
        order = [("ours", mine), ("peer", sides[peer])]
        rounds.append({name: side(count) for name, side in order[:: 1 if number % 2 else -1]} | {"flop": limit()})

    run = training(*BATCHES[shape])
    tokens = count * run.tokens_per_step
    rate = {who: tokens / median(r[who]["seconds"] for r in rounds) for who in ("ours", "peer")}
    ratio = median(r["peer"]["seconds"] / r["ours"]["seconds"] for r in rounds)
    cpu = {who: median(r[who]["cpu"] for r in rounds) / count for who in ("ours", "peer")}
    peak = {who: max(r[who]["peak"] for r in rounds) / 1e6 for who in ("ours", "peer")}
    bound = 1 / (hardware.flops_per_token(SHAPES[shape], run.sequence_length) * median(r["flop"] for r in rounds))
    print(f"{shape}, batch {run.batch_size} × {run.sequence_length}, {CORES} cores, load {os.getloadavg()[0]:.1f}")
    print(f"openko {rate['ours']:,.0f} tokens/s, {cpu['ours']:.2f} processor seconds a step, peak {peak['ours']:,.0f} MB; ", end="")
    print(f"building and compiling {rounds[0]['ours']['first']:.1f} s")
    print(f"{peer} {rate['peer']:,.0f} tokens/s, {cpu['peer']:.2f} processor seconds a step, peak {peak['peer']:,.0f} MB")
    print("    tried:", "; ".join(f"{name} {spent / count:.2f} processor seconds" for name, spent in tried.items()))
    print(f"ratio {ratio:.2f}; by processor seconds {cpu['peer'] / cpu['ours']:.2f}; limit {bound:,.0f} tokens/s", flush=True)
    for side in (mine, limit, sides[peer]):
        side.end()
    if arguments.json:
        more = {f"{who}_cpu_seconds": cpu[who] for who in cpu} | {f"{who}_peak_mb": peak[who] for who in peak} | {"peer_form": peer}
        print_result(f"train-step-{shape}", ours=rate["ours"], peer=rate["peer"], ratio=ratio, unit="tokens/s", limit=bound, **more)


if __name__ == "__main__":
    main()
