"""The chat vector's merge against mergekit's task_arithmetic, and against the limit of reading two models and copying the third.

    python benchmarks/merge.py [--gigabytes 2.8] [--rounds 3] [--directory runs] [--mergekit PATH] [--json] [--keep]

Three bf16 models of Llama's shape are written in files of 500 MB (random weights; chat and target lie near the base), and in
each round the three ways run one after the other, in turn first, each in a process of its own and each followed by `sync`:

    limit     cat base/* chat/* > /dev/null && cp -r target out && sync
    openko    python -m openko.cli merge …, and sync
    mergekit  mergekit-yaml config.yml out --lazy-unpickle, and sync

The files lie in the page cache where the machine has the memory for them, for all three alike. Printed: medians, ratios, the
largest resident memory of each process, openko's memory over time, and how much of its result differs from fp32 sums rounded
once. --json ends with {name, ours, peer, ratio, unit, limit}: seconds; ratio: mergekit's time over ours. Without --mergekit the peer
was not run, and peer and ratio are null.

mergekit wants other versions of its libraries than openko, so it gets an environment of its own:

    python -m venv mergekit && mergekit/bin/pip install torch==2.13.0 mergekit
    python benchmarks/merge.py --mergekit mergekit/bin/mergekit-yaml
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
from side_by_side import CORES, print_result

from openko import hf_weights
from openko.profiles import LlamaConfig
from openko.rope import Rope

BF16 = np.dtype(ml_dtypes.bfloat16)
PIECE = 1 << 20  # weights made at once
# Standard deviations of what is added to the base's weights, which have 0.02.
APART = {"base": 0.0, "chat": 0.001, "target": 0.006}


def shape(gigabytes: float, hidden_size: int = 2048, vocab_size: int = 32_000) -> LlamaConfig:
    """A Llama of about that many gigabytes in bf16, by its number of layers; at least one."""
    intermediate, heads, kv_heads = hidden_size * 11 // 4, hidden_size // 64, max(1, hidden_size // 512)
    ends, layer = 2 * vocab_size * hidden_size, hidden_size * (2 * hidden_size + 2 * 64 * kv_heads + 3 * intermediate)
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate, num_attention_heads=heads,
        num_key_value_heads=kv_heads, num_hidden_layers=max(1, round((gigabytes * 1e9 / 2 - ends) / layer)), head_dim=64,
        rope=Rope(theta=5e5), max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip


def write_models(directory: Path, config: LlamaConfig) -> None:
    """base, chat and target, piece by piece; their numbers are cut from one block of noise at places that names decide."""
    noise = np.random.default_rng(0).standard_normal(16 * PIECE, np.float32)

    def pieces(model: str, name: str, size: int):
        for start in range(0, size, PIECE):
            count = min(PIECE, size - start)
            cut = [zlib.crc32(f"{who} {name} {start}".encode()) % (len(noise) - count) for who in ("base", model)]
            of_base, own = (noise[at : at + count] for at in cut)
            yield (0.02 * of_base + APART[model] * own).astype(BF16)

    for model in APART:
        (directory / model).mkdir(parents=True)
        entries = [
            (name, BF16, shape, lambda n=name, s=shape, m=model: pieces(m, n, int(np.prod(s))))
            for _, name, shape in hf_weights._each(config)
        ]
        hf_weights.write_tensors(directory / model, entries, shard_bytes=500_000_000)
        ids = {"bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "dtype": "bfloat16"}
        hf_weights.write_configs(directory / model, config, ids)


def written_apart(directory: Path, config: LlamaConfig) -> None:
    """`write_models` in a process of its own, because a child's largest memory counts from its parent's at the fork."""
    writer = multiprocessing.Process(target=write_models, args=(directory, config))
    writer.start()
    writer.join()
    if writer.exitcode:
        sys.exit(f"the models could not be written into {directory}")


def run(command: list[str], *, curve: bool = False) -> dict:
    """{"seconds" of the command and a sync, "cpu" seconds, "peak" bytes, "curve": [(second, bytes)]} of a process of its own."""
    os.sync()
    started, samples = time.monotonic(), []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        watched = psutil.Process(process.pid)
        while curve and not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            samples.append((time.monotonic() - started, watched.memory_info().rss))
            time.sleep(0.05)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended = time.monotonic()
        os.sync()
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)}\n{said.read().decode(errors='replace')[-3000:]}\nended with {process.returncode}")
    return {
        "seconds": time.monotonic() - started, "sync": time.monotonic() - ended, "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024, "curve": samples,
    }  # fmt: skip


def commands(here: Path, mergekit: str | None) -> dict[str, list[str]]:
    limit = f"cat {here}/base/* {here}/chat/* > /dev/null && cp -r {here}/target {here}/limit && sync"
    ours = [sys.executable, "-m", "openko.cli", "merge", "--out", str(here / "openko")]
    for model in APART:
        ours += [f"--{model}", str(here / model)]
    found = {"limit": ["sh", "-c", limit], "openko": ours}
    if mergekit:
        recipe = {
            "merge_method": "task_arithmetic", "base_model": str(here / "base"), "dtype": "bfloat16",
            "models": [{"model": str(here / model), "parameters": {"weight": 1.0}} for model in ("target", "chat")],
        }  # fmt: skip
        (here / "mergekit.yml").write_text(json.dumps(recipe))  # JSON is YAML
        found["mergekit"] = [mergekit, str(here / "mergekit.yml"), str(here / "mergekit"), "--lazy-unpickle"]
    return found


def differing(here: Path, result: str) -> tuple[int, int, int]:
    """(weights, how many are not the fp32 sum rounded once, the largest distance in steps of bf16)."""
    models = {name: hf_weights.Tensors(here / name) for name in (*APART, result)}
    weights, other, furthest = 0, 0, 0
    for name, info in models["target"].info.items():
        for start in range(0, info.shape[0], 512):
            rows = slice(start, min(start + 512, info.shape[0]))
            t, b, c, found = (models[m].read(name, rows) for m in ("target", "base", "chat", result))
            wide = t.astype(np.float32) + (c.astype(np.float32) - b.astype(np.float32))
            steps = np.abs(_ordinal(found) - _ordinal(wide.astype(BF16)))
            weights, other, furthest = weights + t.size, other + int(np.count_nonzero(steps)), max(furthest, int(steps.max()))
    return weights, other, furthest


def _ordinal(x: np.ndarray) -> np.ndarray:
    """Neighbouring bf16 numbers have neighbouring ordinals; both zeros are 0."""
    bits = x.view(np.int16).astype(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.8, help="of each model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("runs"), help="where the models are written, on the disk to be measured")
    parser.add_argument("--mergekit", help="mergekit-yaml of another environment; without it the peer is left out")
    parser.add_argument("--keep", action="store_true", help="leave the models where they are")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    here = Path(tempfile.mkdtemp(prefix="merge-", dir=asked.directory)).resolve()
    try:
        config = shape(asked.gigabytes)
        written_apart(here, config)
        size = sum(path.stat().st_size for path in (here / "target").glob("*.safetensors"))
        print(f"three models of {size / 1e9:.2f} GB, {config.num_hidden_layers} layers, {CORES} cores", flush=True)
        if not asked.mergekit:
            print("mergekit is left out: make it an environment (see this file's first lines) and give --mergekit")
        ways = commands(here, asked.mergekit)
        runs = {way: [] for way in ways}
        for number in range(asked.rounds):
            order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for way in order:
                shutil.rmtree(here / way, ignore_errors=True)
                runs[way].append(run(ways[way], curve=way == "openko"))
                found = runs[way][-1]
                what = f"{found['seconds']:6.2f} s, of it sync {found['sync']:.2f}; processor {found['cpu']:6.2f} s"
                print(f"round {number + 1}  {way:<9} {what}, peak {found['peak'] / 1e6:,.0f} MB", flush=True)
        report(here, ways, runs, asked)
    finally:
        if asked.keep:
            print(f"kept: {here}")
        else:
            shutil.rmtree(here, ignore_errors=True)


def report(here: Path, ways: dict, runs: dict[str, list[dict]], asked) -> None:
    seconds = {way: statistics.median(found["seconds"] for found in runs[way]) for way in ways}
    peak = {way: max(found["peak"] for found in runs[way]) for way in ways}
    print("\nmedians of", asked.rounds)
    for way in ways:
        print(f"  {way:<9} {seconds[way]:6.2f} s  {seconds[way] / seconds['limit']:5.2f} × the limit  peak {peak[way] / 1e6:,.0f} MB")
    ratio = seconds["mergekit"] / seconds["openko"] if "mergekit" in seconds else None
    if ratio is not None:
        print(f"  mergekit takes {ratio:.1f} times as long as openko, and {peak['mergekit'] / peak['openko']:.0f} times the memory")
    curve = runs["openko"][-1]["curve"]
    print("\nopenko's resident memory in the last round")
    for at in np.linspace(0, len(curve) - 1, min(12, len(curve))).round().astype(int):
        print(f"  {curve[at][0]:5.2f} s  {curve[at][1] / 1e6:6.0f} MB")
    print(f"  largest {peak['openko'] / 1e6:6.0f} MB")
    for way in ways:
        if way != "limit":
            weights, other, furthest = differing(here, way)
            print(f"\n{way}: {other:,} of {weights:,} weights are not the fp32 sum rounded once; furthest {furthest} bf16 steps", end="")
    print()
    if asked.json:
        more = {f"{way}_peak_mb": peak[way] / 1e6 for way in ways} | {"rounds": asked.rounds}
        print_result("merge", ours=seconds["openko"], peer=seconds.get("mergekit"), ratio=ratio, unit="s", limit=seconds["limit"], **more)


if __name__ == "__main__":
    main()
