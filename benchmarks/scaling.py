"""How time grows: the training step with tokens, weights and context; the merge and the removal of near-copies with their input.

    python benchmarks/scaling.py [--only tokens …] [--rounds 5] [--out DIR] [--directory runs/benchmark] [--json]

Slopes of log seconds against log size, by least squares over all points, beside the slope of what is to be done:

    tokens        rows of 256 tokens a step, 1 to 16 of them; the work is in proportion: 1
    parameters    0.35 to 29 million weights, 4 × 256 tokens. The slope of openko.hardware.flops_per_token at the same points: six
                  operations for each weight (the table of words is tied to the head, so all of them stand in products), and attention's,
                  which are 8% of the smallest model's and 4% of the largest's: 0.99
    context       128 to 4,096 tokens a row, 4,096 a step. The slope of the same formula: 6 × weights stay, attention's
                  12 × layers × width × context / 2 grow (causal: a token sees half of the others): 0.24 over all points, 0.06 between
                  the first two and 0.51 between the last
    merge         three models of 0.04 to 1 GB each, of one width and more and more layers, read and one of them written, sync
                  included; bytes are in proportion to size: 1
    dedup         8 to 128 MB of Korean; documents, shingles and bytes are in proportion: 1

The training step is that of `openko train` on a CPU, as train_step.py measures it, with jax alone in a process for each point. All
points of a curve are there at once and are asked in turn, there and back, so that what the machine does beside hits all of them; medians
over the rounds. Merge and dedup are whole processes, in turn too. Beside the wall's seconds stand the processor's, of all threads and
children: on a machine with other work their slope is the better one.

Where a curve bends: seconds = fixed + each × work is fitted (by relative error), and the bend is the size at which both parts are equal:
below it the curve is flat, whatever is done. What else bends it shows in the speed at each point: products that are too narrow to
fill a core's registers, or a working set that no longer fits into the cache.

--out writes scaling.json, the numbers, and scaling-by-size.png: seconds for each unit of work, where a level line is the expected slope.
Twelve minutes on two quiet cores, 2.5 GB of memory, 6 GB of disk. --json ends with {name, ours, peer, ratio, unit, limit, curves}:
ours: the largest distance of a slope (by the wall) from the expected one; limit: none, 0; peer and ratio are null, for a slope has none.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from side_by_side import CORES, Side, answer, print_result, seconds
from train_step import our_steps

from openko import hardware, profiles
from openko.profiles import LlamaConfig
from openko.progress import Progress

# Nothing that imports jax, torch or the corpus's libraries is imported above: the children begin with this file.
CURVES = ("tokens", "parameters", "context", "merge", "dedup")
SHARES = {"tokens": 0.15, "parameters": 0.25, "context": 0.25, "merge": 0.15, "dedup": 0.2}  # of the time, for the time that is left
LAPTOP = profiles.MODELS["tiny-llama3"]
ROWS = (1, 2, 4, 8, 16)
WIDTHS = ((64, 2), (128, 3), (192, 4), (256, 6), (384, 8), (512, 9))  # width, layers
CONTEXTS, TOKENS = (128, 256, 512, 1024, 2048, 4096), 4096
MERGED = (0.04, 0.12, 0.35, 1.0)  # GB of a model
DEDUPLICATED = (0.008, 0.016, 0.032, 0.064, 0.128)  # GB of text
PREPARING = 0.5  # of a curve's time: compiling, or writing what is to be read
SAMPLE = 0.4  # seconds at least that steps are timed together


class Point(NamedTuple):
    """size: of the horizontal axis. work: in proportion to the seconds that are expected. seconds, cpu: one for each round."""

    size: float
    work: float
    seconds: list[float]
    cpu: list[float]


def of_width(width: int, layers: int) -> LlamaConfig:
    """tiny-llama3, wider and deeper; heads of 32, two queries to a key."""
    heads = width // 32
    return replace(
        LAPTOP, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads // 2,
    )  # fmt: skip


def steps_of(curve: str) -> list[tuple[float, LlamaConfig, int, int]]:
    """(size, model, rows, length) of each point."""
    if curve == "tokens":
        return [(rows * 256, LAPTOP, rows, 256) for rows in ROWS]
    if curve == "parameters":
        return [(hardware.parameter_count(config), config, 4, 256) for config in (of_width(*shape) for shape in WIDTHS)]
    return [(length, LAPTOP, TOKENS // length, length) for length in CONTEXTS]


def stepping(config: LlamaConfig, rows: int, length: int, pipe) -> None:
    """Answers a number of steps with (wall seconds, processor seconds) of one."""
    run = our_steps(config, rows, length)
    run(2)  # the first asks the system for its memory

    def timed(count: int) -> tuple[float, float]:
        cpu = time.process_time()
        wall, _ = seconds(lambda: run(count))
        return wall / count, (time.process_time() - cpu) / count

    answer(pipe, timed)


def in_turn(asked: list[Callable[[], tuple[float, float]]], rounds: int, tell: Callable) -> list[tuple[list[float], list[float]]]:
    """(wall, processor) seconds of every round of each, there and back."""
    found = [([], []) for _ in asked]
    for number in range(rounds):
        for place in range(len(asked))[:: -1 if number % 2 else 1]:
            wall, cpu = asked[place]()
            found[place][0].append(wall)
            found[place][1].append(cpu)
            done = sum(len(walls) for walls, _ in found) / (rounds * len(asked))
            tell(f"round {number + 1} of {rounds}", PREPARING + (1 - PREPARING) * done)
    return found


def training(curve: str, rounds: int, tell: Callable) -> list[Point]:
    wanted, sides, counts = steps_of(curve), [], []
    for size, *point in wanted:
        sides.append(Side(stepping, *point))
        counts.append(max(1, round(SAMPLE / sides[-1](1)[0])))  # one compiles at a time
        tell(f"{size:,.0f} compiled", PREPARING * len(sides) / len(wanted))
    asked = [lambda side=side, count=count: side(count) for side, count in zip(sides, counts, strict=True)]
    found = in_turn(asked, rounds, tell)
    for side in sides:
        side.end()
    works = [rows * length * hardware.flops_per_token(config, length) for _, config, rows, length in wanted]
    return [Point(size, work, *times) for (size, *_), work, times in zip(wanted, works, found, strict=True)]


def merging(here: Path, rounds: int, tell: Callable) -> list[Point]:
    import merge

    sizes, asked = [], []
    for gigabytes in MERGED:
        place = here / f"merge-{gigabytes}"
        merge.written_apart(place, merge.shape(gigabytes, hidden_size=1024, vocab_size=4000))
        sizes.append(sum(path.stat().st_size for path in (place / "target").glob("*.safetensors")))
        tell(f"three models of {gigabytes} GB written", PREPARING * len(sizes) / len(MERGED))

        def once(place: Path = place) -> tuple[float, float]:
            shutil.rmtree(place / "openko", ignore_errors=True)
            found = merge.run(merge.commands(place, None)["openko"])
            return found["seconds"], found["cpu"]

        asked.append(once)
    found = in_turn(asked, rounds, tell)
    return [Point(size, size, *times) for size, times in zip(sizes, found, strict=True)]


def deduplicating(here: Path, directory: Path, rounds: int, tell: Callable) -> list[Point]:
    import dedup
    import korean_text

    pool, sizes, asked = korean_text.sentences(directory), [], []
    for gigabytes in DEDUPLICATED:
        place = here / f"dedup-{gigabytes}"
        files, _ = dedup.written(pool, int(gigabytes * 1e9), place / "raw")
        sizes.append(sum(path.stat().st_size for path in files))
        tell(f"{gigabytes * 1e3:.0f} MB of text written", PREPARING * len(sizes) / len(DEDUPLICATED))

        def once(files: list[Path] = files, place: Path = place) -> tuple[float, float]:
            found = dedup.run_ours(files, place / "ours", CORES)
            return found["seconds"], found["main_process"] + found["others"]

        asked.append(once)
    found = in_turn(asked, rounds, tell)
    return [Point(size, size, *times) for size, times in zip(sizes, found, strict=True)]


def slope(x: list[float], y: list[float]) -> float:
    """Of log y against log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fixed_and_each(work: list[float], spent: list[float]) -> tuple[float, float]:
    """(fixed, each) of spent = fixed + each × work, by least squares of the relative error; fixed is not negative."""
    work, spent = np.array(work), np.array(spent)
    (fixed, each), *_ = np.linalg.lstsq(np.stack([1 / spent, work / spent], axis=1), np.ones(len(work)), rcond=None)
    if fixed <= 0:
        fixed, (each,) = 0.0, np.linalg.lstsq((work / spent)[:, None], np.ones(len(work)), rcond=None)[0]
    return float(fixed), float(each)


def summary(points: list[Point]) -> dict:
    """What is kept of a curve. bend: a size, or null where it lies below the smallest. slope_beyond_fixed: of the seconds less the fixed
    ones, or null where a point took no longer than these. Slopes of a point are those from the one before."""
    rows = [
        {"size": p.size, "work": p.work, "seconds": median(p.seconds), "processor_seconds": median(p.cpu),
         "spread": max(p.seconds) / min(p.seconds) - 1} for p in points
    ]  # fmt: skip
    column = {name: [row[name] for row in rows] for name in rows[0]}
    fixed, each = fixed_and_each(column["work"], column["seconds"])
    beyond = [seconds - fixed for seconds in column["seconds"]]
    bend = None
    if fixed / each >= column["work"][0]:
        bend = float(np.exp(np.interp(np.log(fixed / each), np.log(column["work"]), np.log(column["size"]))))
    for before, row in pairwise(rows):
        for name, of in (("slope", "seconds"), ("expected", "work")):
            row[name] = slope([before["size"], row["size"]], [before[of], row[of]])
    return {
        "slope": slope(column["size"], column["seconds"]), "processor_slope": slope(column["size"], column["processor_seconds"]),
        "expected": slope(column["size"], column["work"]), "fixed_seconds": fixed, "bend": bend,
        "slope_beyond_fixed": slope(column["size"], beyond) if min(beyond) > 0 else None, "points": rows,
    }  # fmt: skip


def shown(name: str, curve: dict) -> None:
    unit, size = {"merge": ("MB/s", 1e6), "dedup": ("MB/s", 1e6)}.get(name, ("GFLOP/s", 1e9))
    bend = "below the smallest" if curve["bend"] is None else f"{curve['bend']:,.0f}"
    found = "slope {slope:.2f}, of processor seconds {processor_slope:.2f}, expected {expected:.2f}; fixed {fixed_seconds:.3f} s"
    beyond = "" if curve["slope_beyond_fixed"] is None else f"; without the fixed seconds {curve['slope_beyond_fixed']:.2f}"
    print(f"{name}: {found.format(**curve)}, bend {bend}{beyond}")
    for row in curve["points"]:
        line = "{size:>16,.0f} {seconds:9.3f} s {processor_seconds:9.3f} processor seconds, spread {spread:4.0%}, ".format(**row)
        line += f"{row['work'] / row['seconds'] / size:8.1f} {unit}"
        line += f", slope {row['slope']:.2f} (expected {row['expected']:.2f})" if "slope" in row else ""
        print(line, flush=True)


def draw(curves: dict[str, dict], out: Path, packages: Path) -> None:
    """Seconds a unit of work, against those of the largest size: level where the slope is the expected one."""
    from openko import figures

    series = {}
    for name, curve in curves.items():
        last = curve["points"][-1]
        each = [row["seconds"] / row["work"] * last["work"] / last["seconds"] for row in curve["points"]]
        series[name] = {"x": [round(row["size"] / last["size"], 5) for row in curve["points"]], "y": [round(y, 3) for y in each]}
    figures.save(out, "scaling-by-size", {
        "kind": "lines", "log": "x",
        "title": ["일 하나에 드는 시간: 평평하면 예상한 기울기", "Seconds a unit of work: level is as expected"],
        "x": ["크기, 가장 큰 것 = 1", "size, the largest = 1"], "y": ["시간 ÷ 일, 가장 큰 것 = 1", "seconds ÷ work, the largest's = 1"],
        "series": series,
    }, packages=packages)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CURVES, default=CURVES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for scaling.json and the figure")
    parser.add_argument("--directory", type=Path, default=Path("runs/benchmark"), help="for what is merged and deduplicated")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    here, curves, done = asked.directory / "scaling", {}, 0.0
    whole = sum(SHARES[name] for name in asked.only)
    progress = Progress(lambda line: print(line, file=sys.stderr, flush=True))
    for name in asked.only:
        share = SHARES[name] / whole

        def tell(line: str, part: float, name: str = name, before: float = done, share: float = share) -> None:
            progress(f"{name}: {line}", before + part * share)

        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        if name == "merge":
            points = merging(here, asked.rounds, tell)
        elif name == "dedup":
            points = deduplicating(here, asked.directory, asked.rounds, tell)
        else:
            points = training(name, asked.rounds, tell)
        shutil.rmtree(here)
        done += share
        curves[name] = summary(points)
        shown(name, curves[name])
    furthest = max(abs(c["slope"] - c["expected"]) for c in curves.values())
    about = {"curves": curves, "cores": CORES, "rounds": asked.rounds, "load_at_the_end": os.getloadavg()[0]}
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        rounded = json.loads(json.dumps(about), parse_float=lambda digits: float(f"{float(digits):.5g}"))
        (asked.out / "scaling.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
        draw(curves, asked.out, asked.directory / "packages")
    if asked.json:
        print_result("scaling", ours=furthest, peer=None, ratio=None, unit="log-log slope", limit=0, **about)


if __name__ == "__main__":
    main()
