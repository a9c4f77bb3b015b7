"""Clean and pack against the size of the input: seconds, memory, the slope of the curve; and where the time goes.

    python benchmarks/corpus.py [--gigabytes 0.25 0.5 1 2] [--workers 2] [--directory runs/benchmark] [--json]
    python benchmarks/corpus.py --profile [--megabytes 20]

Real Korean sentences, shuffled into documents of about 2.5 kB, as JSON lines in 8 files; every document is cleaned, filtered,
hashed and put in order, then packed with the real Llama-3 tokenizer. Memory: the largest sum over the process and its workers of
what only they hold, looked at ten times a second. Slope: of log seconds against log bytes, 1 where time is linear.
--profile runs both steps in this process under cProfile, and prints the share of time outside Python functions' own:
regular expressions, string methods, hashes, numpy, the tokenizer. The profiler's own cost counts as Python's, so the
share is a lower bound. --json ends with {name, ours, peer, ratio, unit, limit}; ours: MB/s at the largest size.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import time
from pathlib import Path

import korean_text
import numpy as np
import psutil
import yaml

from openko.corpus import build, pack, recipe
from openko.manifest import read

CORES = len(os.sched_getaffinity(0))


def watched(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the largest memory of it and its children, bytes."""
    began, largest = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            largest = max(largest, sum(p.memory_full_info().uss for p in [process, *process.children(recursive=True)]))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - began, largest


def made_recipe(place: Path) -> Path:
    place.write_text(yaml.safe_dump({"name": "made", "sources": [
        {"name": "made", "reader": "jsonl", "path": "*.jsonl", "licence": "see korean_text.py", "language": "ko"}]}))  # fmt: skip
    return place


def curve(pool: list[str], here: Path, gigabytes: list[float], workers: int) -> list[dict]:
    rows = []
    for size in gigabytes:
        shutil.rmtree(here, ignore_errors=True)
        korean_text.write(pool, int(size * 1e9), here / "raw", files=8)
        openko = [sys.executable, "-m", "openko.cli", "corpus"]
        options = ["--workers", str(workers), "--json"]
        clean = watched(
            [*openko, "clean", str(made_recipe(here / "made.yaml")), "--data", str(here / "raw"), "--out", str(here / "corpus"), *options]
        )
        packed = watched([*openko, "pack", str(here / "corpus"), "--out", str(here / "shards"), *options])
        facts = read(here / "shards").facts
        rows.append({
            "gigabytes": size, "clean_seconds": clean[0], "pack_seconds": packed[0], "clean_mb": clean[1] / 1e6, "pack_mb": packed[1] / 1e6,
            "documents": facts["documents"], "tokens": facts["tokens"],
        })  # fmt: skip
        print(f"{size:5.2f} GB  clean {clean[0]:6.1f} s {clean[1] / 1e6:5.0f} MB   pack {packed[0]:6.1f} s {packed[1] / 1e6:5.0f} MB   "
              f"{facts['documents']:,} documents, {facts['tokens']:,} tokens", flush=True)  # fmt: skip
    shutil.rmtree(here)
    return rows


def slope(rows: list[dict], name: str) -> float:
    return float(np.polyfit(np.log([r["gigabytes"] for r in rows]), np.log([r[name] for r in rows]), 1)[0])


def profile(pool: list[str], here: Path, megabytes: float) -> None:
    shutil.rmtree(here, ignore_errors=True)
    korean_text.write(pool, int(megabytes * 1e6), here / "raw", files=1)
    made = recipe.load(made_recipe(here / "made.yaml"))
    build.build(here / "warm", made, data=here / "raw", say=lambda line: None)  # imports and tables are made
    steps = {
        "clean": lambda: build.build(here / "corpus", made, data=here / "raw", say=lambda line: None),
        "pack": lambda: pack.pack(here / "shards", corpus=here / "corpus", part="ko.train", tokenizer="llama-3", say=lambda line: None),
    }
    for name, step in steps.items():
        profiler = cProfile.Profile()
        profiler.runcall(step)
        stats = pstats.Stats(profiler).stats
        whole = sum(own for _, _, own, _, _ in stats.values())
        python = sum(own for (file, _, _), (_, _, own, _, _) in stats.items() if file != "~")
        print(
            f"\n{name}: {whole:.2f} s, {megabytes / whole:.1f} MB/s under the profiler; {1 - python / whole:.1%} outside Python functions"
        )
        for (file, line, function), (_, calls, own, _, _) in sorted(stats.items(), key=lambda item: -item[1][2])[:16]:
            print(f"  {own / whole:6.1%} {calls:>9,} × {function if file == '~' else f'{Path(file).name}:{line} {function}'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.25, 0.5, 1, 2])
    parser.add_argument("--workers", type=int, default=CORES)
    parser.add_argument("--directory", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    pool = korean_text.sentences(asked.directory)
    if asked.profile:
        profile(pool, asked.directory / "profile", asked.megabytes)
        return
    rows = curve(pool, asked.directory / "curve", asked.gigabytes, asked.workers)
    if len(rows) > 1:
        print(f"slope: clean {slope(rows, 'clean_seconds'):.2f}, pack {slope(rows, 'pack_seconds'):.2f}")
    last = rows[-1]
    speed = last["gigabytes"] * 1e3 / (last["clean_seconds"] + last["pack_seconds"])
    hours = 61e3 / (speed / asked.workers * 16) / 3600
    print(f"{speed:.1f} MB/s with {asked.workers} processes; 61 GB on 16 cores at this speed a core: {hours:.1f} h")
    if asked.json:
        numbers = {"ours": round(speed, 2), "peer": None, "ratio": None, "unit": "MB/s", "limit": None}
        print(json.dumps({"name": "corpus", **numbers, "curve": rows}))


if __name__ == "__main__":
    main()
