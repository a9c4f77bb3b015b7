"""Clean and pack against the size of the input: seconds, memory, the slope of the curve; and where the time goes.

    python benchmarks/corpus.py [--gigabytes 0.25 0.5 1 2] [--workers 2] [--directory runs/benchmark] [--json]
    python benchmarks/corpus.py --profile [--megabytes 20]

Real Korean sentences, shuffled into documents of about 2.5 kB, as JSON lines in 8 files; every document is cleaned, filtered,
hashed and put in order, then packed with the real Llama-3 tokenizer. Memory: the largest sum over the process and its workers of
what only they hold, looked at ten times a second. Slope: of log seconds against log bytes, 1 where time is linear.
--profile runs both steps in one process under py-spy and prints the share of samples that end in machine code (regular
expressions, string methods, hashes, numpy, the tokenizer) and not in a line of Python. C functions without symbols, such as what
counts for collections.Counter, are taken for the line that calls them, so the share is a lower bound.

--json ends with {name, ours, peer, ratio, unit, limit, curve, …}; ours: MB/s of text at the largest size, both steps together. peer and
ratio are null: no other program cleans Korean by these rules, and where a part has a peer it has a benchmark of its own (pack.py,
dedup.py). limit: MB/s of copying the same files and waiting for the disk, which no program that reads and writes them can pass; it
leaves out every rule and the tokenizer, whose own limit is pack.py's.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import korean_text
import numpy as np
import psutil
import yaml
from side_by_side import CORES, print_result

from openko.manifest import read


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


def copied(files: list[Path], to: Path) -> float:
    """Seconds of reading the files and writing them to the disk, as one."""
    began = time.perf_counter()
    with open(to, "wb") as file:
        subprocess.run(["cat", *files], stdout=file, check=True)
        os.fsync(file.fileno())
    return time.perf_counter() - began


def made_recipe(place: Path) -> Path:
    # benchmarks/dedup.py measures the removal of near-copies.
    place.write_text(yaml.safe_dump({"name": "made", "near-duplicates": False, "sources": [
        {"name": "made", "reader": "jsonl", "path": "*.jsonl", "licence": "see korean_text.py", "language": "ko"}]}))  # fmt: skip
    return place


def curve(pool: list[str], here: Path, gigabytes: list[float], workers: int) -> list[dict]:
    rows = []
    for size in gigabytes:
        shutil.rmtree(here, ignore_errors=True)
        files = korean_text.write(pool, int(size * 1e9), here / "raw", files=8)
        copying = copied(files, here / "copied")
        openko = [sys.executable, "-m", "openko.cli", "corpus"]
        options = ["--workers", str(workers), "--json"]
        clean = watched(
            [*openko, "clean", str(made_recipe(here / "made.yaml")), "--data", str(here / "raw"), "--out", str(here / "corpus"), *options]
        )
        packed = watched([*openko, "pack", str(here / "corpus"), "--out", str(here / "shards"), *options])
        facts = read(here / "shards").facts
        rows.append({
            "gigabytes": size, "clean_seconds": clean[0], "pack_seconds": packed[0], "clean_mb": clean[1] / 1e6, "pack_mb": packed[1] / 1e6,
            "documents": facts["documents"], "tokens": facts["tokens"], "copy_seconds": copying,
        })  # fmt: skip
        print(f"{size:5.2f} GB  clean {clean[0]:6.1f} s {clean[1] / 1e6:5.0f} MB   pack {packed[0]:6.1f} s {packed[1] / 1e6:5.0f} MB   "
              f"{facts['documents']:,} documents, {facts['tokens']:,} tokens   copy {copying:.2f} s", flush=True)  # fmt: skip
    shutil.rmtree(here)
    return rows


def slope(rows: list[dict], name: str) -> float:
    return float(np.polyfit(np.log([r["gigabytes"] for r in rows]), np.log([r[name] for r in rows]), 1)[0])


def profile(pool: list[str], here: Path, megabytes: float) -> None:
    """Where the processor is, 200 times a second, by py-spy, which sees C functions too."""
    if not shutil.which("py-spy"):
        sys.exit("--profile needs py-spy: pip install py-spy")
    shutil.rmtree(here, ignore_errors=True)
    korean_text.write(pool, int(megabytes * 1e6), here / "raw", files=1)
    openko = [sys.executable, "-m", "openko.cli", "corpus"]
    steps = {
        "clean": ["clean", str(made_recipe(here / "made.yaml")), "--data", str(here / "raw"), "--out", str(here / "corpus")],
        "pack": ["pack", str(here / "corpus"), "--out", str(here / "shards")],
    }
    whole = Counter()
    for name, step in steps.items():
        options = ["--native", "--rate", "200", "--format", "raw", "--output", str(here / name)]
        command = ["py-spy", "record", *options, "--", *openko, *step, "--workers", "1", "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = _by_leaf(here / name)
        whole.update(found["where"])
        print(f"{name}: {_share(found['where']):.1%} outside the interpreter; most of what is left:")
        for function, samples in found["python"].most_common(8):
            print(f"  {samples / found['where'].total():6.1%} {function}")
    print(f"both: {_share(whole):.1%} outside the interpreter")


def _by_leaf(stacks: Path) -> dict[str, Counter]:
    """Samples that end in a line of Python, and in machine code, where tasks are worked on (starting up left out)."""
    found = {"where": Counter(), "python": Counter()}
    for line in stacks.read_text(encoding="utf-8").splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if any("(openko/corpus/tasks.py" in frame for frame in frames):
            in_python = re.search(r"\.py:\d+\)$|<frozen |<string>", frames[-1])
            found["where"]["python" if in_python else "native"] += int(samples)
            found["python"].update({frames[-1]: int(samples)} if in_python else {})
    return found


def _share(where: Counter) -> float:
    return where["native"] / where.total()


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
        slopes = {f"{step}_slope": slope(rows, f"{step}_seconds") for step in ("clean", "pack") if len(rows) > 1}
        limit = last["gigabytes"] * 1e3 / last["copy_seconds"]
        print_result("corpus", ours=speed, peer=None, ratio=None, unit="MB/s", limit=limit, curve=rows, **slopes)


if __name__ == "__main__":
    main()
