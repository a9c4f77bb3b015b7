"""Deduplication: openko corpus dedup against datatrove's MinHash pipeline, on a corpus with planted copies whose truth is known.

    python benchmarks/dedup.py [FILE.jsonl…] [--documents 24000] [--megabytes 60] [--rounds 3] [--workers 2] [--datatrove PYTHON] [--json]
    python benchmarks/dedup.py --curve [0.25 0.5 1 2] [--lines N] [--workers 2] [--json]
    python benchmarks/dedup.py --templates [--json]

FILE: any JSON lines with "text", of which the first are taken; without, real Korean sentences, shuffled into documents of 0.5 to 30 kB.
Of each kind of planted_copies.py, copies are a twentieth of all documents: 1,200 of 24,000. --documents and --megabytes count
originals and copies together; whichever is reached first ends the corpus.

Both are timed as whole processes from start to end, start-up, reading and writing included, in turn, each in its default options
(dedup_peer.py says which are datatrove's). Memory: the largest sum over a process and its children of what only they hold, looked at
ten times a second. Caught: a copy is not caught if both it and its original are among the survivors. Without a twin: removed documents
whose Jaccard with every survivor is below 0.7, all removed documents against all survivors, by planted_copies.py's own sets of
5-character strings. Of openko's duplicates.jsonl every line is checked by the same sets. The limit is the larger of two: reading
and writing the files (cat, and sync of the result), and rensa's signatures alone, of shingles that are hashed already, on all
cores.

--json ends with {name, ours, peer, ratio, unit, limit, …}: seconds, ratio: datatrove's over ours. With --curve: MB/s at the largest size;
peer and ratio are null, for datatrove takes minutes for the smallest size and is measured above; the limit is copying the same files and
waiting for the disk. With --templates the line is about what is removed, not about speed: its table is in `rows`, the first four are null.

--curve: seconds and memory by the size of the input, a tenth of whose documents are copies with words changed or spaces lost; what that
makes of 61 GB on 16 cores, line by line. --templates: how many of 200 documents that are made from frames go, by threshold and unit.

datatrove wants other versions of its libraries than openko, so it gets an environment of its own:

    python -m venv datatrove && datatrove/bin/pip install datatrove==0.10.1 orjson regex tokenizers 'kiwipiepy<0.22' 'xxhash<4'
    python benchmarks/dedup.py --datatrove datatrove/bin/python
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from itertools import combinations, islice
from pathlib import Path
from statistics import mean, median

import korean_text
import numpy as np
import orjson
import planted_copies
from corpus import copied, slope, watched
from rensa import RMinHash
from side_by_side import print_result

from openko.corpus import minhash, shingles

SHARE = 0.05  # of each kind of copy, of all documents
THRESHOLD = 0.7
FILES = 8
WHOLE, CORES = 61e9, 16  # what the forecast is for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE.jsonl")
    parser.add_argument("--documents", type=int, default=24_000)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--datatrove", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--directory", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--curve", type=float, nargs="*", metavar="GB")
    parser.add_argument("--lines", type=int, help="of the real text, from which all documents of the curve are made: few make them alike")
    parser.add_argument("--templates", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    here = asked.directory / "dedup"
    shutil.rmtree(here, ignore_errors=True)
    if asked.curve is not None:
        pool = korean_text.sentences(asked.directory)
        pool = random.Random(0).sample(pool, min(len(pool), asked.lines or len(pool)))
        found = curve(pool, here, sorted(asked.curve) or [0.25, 0.5, 1, 2], asked.workers)
    elif asked.templates:
        found = templates(korean_text.sentences(asked.directory), here, asked.workers)
    else:
        found = compare(asked, here)
    if asked.json:
        print_result(**found)


# The comparison


def compare(asked: argparse.Namespace, here: Path) -> dict:
    try:
        documents, truth = planted_copies.plant(list(originals(asked)), SHARE)
    except ValueError as error:
        sys.exit(str(error))
    files = planted_copies.write(documents, here / "raw", FILES)
    texts = {document["id"]: document["text"] for document in documents}
    size = sum(path.stat().st_size for path in files)
    print(f"{len(texts):,} documents, {len(truth):,} of them copies, {size / 1e6:.0f} MB in {len(files)} files", flush=True)
    seconds, memory = timed(files, here, asked.rounds, asked.workers, asked.datatrove)
    survivors = {name: ids(here / name) for name in ("ours", "peer")}
    likely = {name: copy.original for name, copy in truth.items()} | {copy.original: name for name, copy in truth.items()}
    found = {
        name: {
            "seconds": round(seconds[name], 2), "mb_per_second": round(size / 1e6 / seconds[name], 2), "mb": round(memory[name] / 1e6),
            "caught": {kind: round(share, 4) for kind, share in planted_copies.caught(truth, some).items()},
            "removed": len(texts) - len(some), "without_twin": len(planted_copies.twinless(texts, some, likely, THRESHOLD)),
        } for name, some in survivors.items()
    }  # fmt: skip
    alike = planted_copies.alike(truth, texts, THRESHOLD)
    print_table(found, alike, per_kind=len(truth) // len(planted_copies.KINDS))
    print(f"cat and sync {seconds['cat']:.2f} s; rensa's signatures alone {seconds['signatures']:.2f} s")
    wrong = planted_copies.misstated(read(here / "ours" / "duplicates.jsonl"), texts, survivors["ours"], THRESHOLD)
    if wrong or found["ours"]["without_twin"]:
        sys.exit("openko removed or stated what is not so:\n" + "\n".join(wrong[:20]))
    print(f"all {found['ours']['removed']:,} lines of duplicates.jsonl are true")
    limit = max(seconds["cat"], seconds["signatures"])
    return {"name": "dedup", "ours": found["ours"]["seconds"], "peer": found["peer"]["seconds"],
            "ratio": seconds["peer"] / seconds["ours"], "unit": "s", "limit": limit,
            "floors": {name: round(seconds[name], 2) for name in ("cat", "signatures")},
            "documents": len(texts), "bytes": size, "alike": alike, "both": found}  # fmt: skip


def originals(asked: argparse.Namespace):
    """As many texts as leave room for their copies."""
    room = 1 - SHARE * len(planted_copies.KINDS)
    count, size = int(asked.documents * room), asked.megabytes * 1e6 * room
    if asked.files:
        texts = (line.get("text") for path in asked.files for line in read(path))
    else:
        texts = (document["text"] for document in korean_text.documents(korean_text.sentences(asked.directory), int(size)))
    left_out = 0
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            left_out += 1
            continue
        yield text
        count, size = count - 1, size - len(text.encode())
        if count <= 0 or size <= 0:
            break
    if left_out:
        print(f"{left_out:,} lines without text are left out")


def read(path: Path):
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield dict(orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError, ValueError) as error:
                sys.exit(f"{path}:{number}: not a JSON object: {error}")


def ids(out: Path) -> set[str]:
    """Of the documents that survived. openko writes them beside its lists, datatrove into a folder of their own."""
    return {line["id"] for path in [*out.glob("documents-*.jsonl"), *out.glob("documents/*.jsonl")] for line in read(path)}


def ours(files: list[Path], out: Path, workers: int, *options: str) -> list[str]:
    command = [sys.executable, "-m", "openko.cli", "corpus", "dedup", *map(str, files), "--out", str(out)]
    return [*command, "--workers", str(workers), "--json", *options]


def timed(files: list[Path], here: Path, rounds: int, workers: int, python: str) -> tuple[dict[str, float], dict[str, int]]:
    """Medians of seconds, and the largest memory in bytes. What the last round wrote stays. python: that datatrove is installed for."""
    script = Path(__file__).with_name("dedup_peer.py")
    commands = {
        "ours": ours(files, here / "ours", workers),
        "peer": [python, str(script), str(files[0].parent), str(here / "peer"), str(workers)],
    }
    hashed = hashed_shingles(files)
    floors = {"cat": lambda: copied(files, here / "copied"), "signatures": lambda: signatures(hashed)}
    seconds, memory, written = {name: [] for name in [*commands, *floors]}, Counter(), set()
    for number in range(rounds):
        for name in sorted(seconds, reverse=number % 2 == 1):
            shutil.rmtree(here / name, ignore_errors=True)
            os.sync()  # nobody waits for what another wrote
            if name in commands:
                took, most = watched(commands[name])
                memory[name] = max(memory[name], most)
            else:
                took = floors[name]()
            seconds[name].append(took)
            told = f"{memory[name] / 1e6:8.0f} MB" if name in commands else ""
            print(f"round {number + 1}  {name:<12}{took:8.2f} s{told}", flush=True)
        written.add(digest(here / "ours"))
    if len(written) > 1:
        sys.exit("openko wrote other bytes in another round")
    return {name: median(values) for name, values in seconds.items()}, dict(memory)


def digest(out: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(out.glob("*.jsonl")):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def hashed_shingles(files: list[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Shingles and starts of a thousand texts at a time."""
    texts = [line["text"] for path in files for line in read(path)]
    return [shingles.hashes(texts[start : start + 1000], "syllable") for start in range(0, len(texts), 1000)]


def signatures(hashed: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Seconds of rensa's signatures of all of it; rensa works in a thread for each core."""
    bands, began = minhash.Bands.for_threshold(THRESHOLD), time.perf_counter()
    for values, starts in hashed:
        RMinHash.digest_matrix_from_flat_token_hashes(values, starts.astype(np.uint64), bands.count * bands.rows, minhash.SEED)
    return time.perf_counter() - began


def print_table(found: dict, alike: dict[str, float], per_kind: int) -> None:
    both, ratio = (found["ours"], found["peer"]), found["peer"]["seconds"] / found["ours"]["seconds"]
    row = lambda what, form, *values, more="": print(f"{what:<32}{values[0]:>12{form}}{values[1]:>12{form}}  {more}".rstrip())  # noqa: E731
    print(f"\n{'':<32}{'openko':>12}{'datatrove':>12}")
    row("seconds", ".1f", *(one["seconds"] for one in both), more=f"{ratio:.1f} times")
    row("MB/s", ".2f", *(one["mb_per_second"] for one in both))
    row("memory, MB", ".0f", *(one["mb"] for one in both))
    for kind in planted_copies.KINDS:
        more = f"of {per_kind:,}; {alike[kind]:.1%} of them at or above {THRESHOLD}"
        row(f"caught: {kind}", ".1%", *(one["caught"][kind] for one in both), more=more)
    row("removed documents", ",", *(one["removed"] for one in both))
    row(f"  without a twin at {THRESHOLD}", ",", *(one["without_twin"] for one in both))
    print()


# The curve


def curve(pool: list[str], here: Path, gigabytes: list[float], workers: int) -> dict:
    rows, made = [], {}
    for size in gigabytes:
        shutil.rmtree(here, ignore_errors=True)
        files, documents = written(pool, int(size * 1e9), here / "raw")
        row = {"gigabytes": size, "documents": documents, "bytes": sum(path.stat().st_size for path in files)}
        rows.append(row | run_ours(files, here / "ours", workers))
        line = "{gigabytes:5.2f} GB {documents:10,} documents {seconds:8.1f} s {mb:7.0f} MB {removed:9,} removed"
        line += "; {candidates:,} shared bands, {compared:,} pairs measured, {incomplete:,} stayed with candidates left"
        print(line.format(**rows[-1]), flush=True)
    if len(rows) > 1:
        last, before = rows[-1], rows[-2]
        each = (last["mb"] - before["mb"]) * 1e6 / (last["documents"] - before["documents"])
        print(f"slope {slope(rows, 'seconds'):.2f}; {each:.0f} bytes a document, {before['gigabytes']} to {last['gigabytes']} GB")
        many = run_ours(files, here / "ours", CORES)
        (here / "few.jsonl").write_bytes(b"".join(islice(open(files[0], "rb"), 10)))  # noqa: SIM115
        few = run_ours([here / "few.jsonl"], here / "ours", workers)
        made |= {"slope": slope(rows, "seconds"), "forecast": forecast(last, few, many["mb"], max(0.0, each), workers)}
    speed, fastest = (rows[-1]["bytes"] / 1e6 / took for took in (rows[-1]["seconds"], copied(files, here / "copied")))
    shutil.rmtree(here)
    return {"name": "dedup-curve", "ours": speed, "peer": None, "ratio": None, "unit": "MB/s", "limit": fastest, "curve": rows, **made}


# The processor's seconds of a command and of all processes that it started and waited for.
COUNTED = """
import json, resource, sys
from openko.cli import main
to = sys.argv.pop(1)
try:
    main()
finally:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with open(to, "w") as file:
        json.dump([one.ru_utime + one.ru_stime for one in spent], file)
"""


def run_ours(files: list[Path], out: Path, workers: int) -> dict:
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    python, _, _, *given = ours(files, out, workers)
    spent = out.with_name("spent.json")
    seconds, memory = watched([python, "-c", COUNTED, str(spent), *given])
    main_process, others = json.loads(spent.read_text())
    removed = sum(1 for _ in read(out / "duplicates.jsonl"))
    looked = json.loads((out / "manifest.json").read_text())["facts"]["compared"]
    return {"seconds": seconds, "main_process": main_process, "others": others, "mb": memory / 1e6, "removed": removed} | looked


def written(pool: list[str], size: int, directory: Path) -> tuple[list[Path], int]:
    """Files of `size` bytes of text and the number of documents. Nine in ten are as korean_text makes them; a copy of one in nine of
    them, of every kind but the exact one, goes into any of the files."""
    directory.mkdir(parents=True)
    draw, count, made = random.Random(0), 0, 0
    paths = [directory / f"made-{number:02d}.jsonl" for number in range(FILES)]
    files = [open(path, "wb") for path in paths]  # noqa: SIM115
    words = [word for line in draw.sample(pool, min(1000, len(pool))) for word in line.split()]
    kinds = [kind for kind in planted_copies.KINDS if kind != "exact"]
    for document in korean_text.documents(pool, size):
        texts = [document["text"]]
        if draw.random() < 1 / 9:
            texts.append(planted_copies.edited(texts[0], draw.choice(kinds), draw, words))
        for text in texts:
            line = orjson.dumps({"id": f"{count:09d}", "text": text}) + b"\n"
            count, made = count + 1, made + len(line)
            draw.choice(files).write(line)
        if made >= size:
            break
    for file in files:
        file.close()
    return paths, count


def forecast(row: dict, few: dict, memory_of_many: float, bytes_each: float, workers: int) -> dict:
    """What the largest size says of the whole, with every step. few: the same of ten documents, which is start-up.

    Three parts make up the clock's time: what worker processes did, which more of them share; what the main process did alone: the
    groups of candidates, the hashes of the files; and the rest, in which somebody waited, for the disk or for the last of a step. The
    rest is taken to grow with the text and not to shrink with more processes, so the sum is rather too high. Start-up is there once.
    """
    mb, whole, both, own, start = row["bytes"] / 1e6, WHOLE / 1e6, row["others"], row["main_process"], few["seconds"]
    alone = own - few["main_process"]
    rest = max(0.0, row["seconds"] - both / workers - alone - start)
    speed, per_gb = mb / both, (alone + rest) / mb * 1e3
    minutes = whole / (speed * CORES) / 60, per_gb * whole / 1e3 / 60
    more = row["documents"] * (whole / mb - 1)
    memory = memory_of_many + more * bytes_each / 1e6
    print(f"""
{whole / 1e3:.0f} GB on {CORES} cores, from {mb:,.0f} MB by {workers} processes in {row["seconds"]:.1f} s
  divided among processes    {both:.1f} s of processor time: {mb:,.0f} MB / {both:.1f} s = {speed:.2f} MB/s a core
  the main process alone     {own:.1f} s of processor time - {few["main_process"]:.1f} s of start = {alone:.1f} s
  waiting                    {row["seconds"]:.1f} - {both:.1f} / {workers} - {alone:.1f} - {start:.1f} s of start = {rest:.1f} s
  not divided                ({alone:.1f} + {rest:.1f}) s / {mb / 1e3:.2f} GB = {per_gb:.2f} s/GB
  divided, of the whole      {whole:,.0f} MB / ({speed:.2f} MB/s x {CORES}) = {minutes[0]:.1f} min
  not divided, of the whole  {per_gb:.2f} s/GB x {whole / 1e3:.0f} GB = {minutes[1]:.1f} min
  together                   {sum(minutes):.1f} min: {whole / sum(minutes) / 60:.0f} MB/s, where the disk is several times as fast
  memory                     {memory_of_many:.0f} MB by {CORES} processes + {more / 1e6:.1f} million more documents x {bytes_each:.0f} bytes
                             = {memory / 1e3:.1f} GB""")
    return {"minutes": sum(minutes), "mb": memory, "mb_per_second_a_core": speed, "not_divided_seconds_per_gb": per_gb}


# Templates

VARIED = (10, 20, 30, 45, 60)  # percent
WAYS = ("lines", "fields")
LINES, EACH = 30, 20  # of a frame; documents of each frame: 200 of the ten frames


def templates(pool: list[str], here: Path, workers: int) -> dict:
    made = filled_frames([line.split() for line in pool if len(line.split()) >= 10])
    files = planted_copies.write([{"id": name, "text": text} for name, text in made.items()], here / "raw", 1)
    frames = [f"{way}/{share}" for way in WAYS for share in VARIED]
    print(f"""{len(made)} documents, {EACH} of each of {len(frames)} frames of {LINES} lines of real text. Whole lines differ, as articles
of laws do, or the last words of every line, as in forms that are filled in. How many of a frame's documents go:

{"":<20}{"percent of the lines":>{8 * len(VARIED)}}{"percent of each line":>{8 * len(VARIED)}}
{"":<20}""" + "".join(f"{frame.split('/')[1]:>8}" for frame in frames) + "     all")  # fmt: skip
    sets = {name: planted_copies.shingles(text) for name, text in made.items()}
    alike = [mean_jaccard([own for name, own in sets.items() if name.startswith(frame + "/")]) for frame in frames]
    print(f"{'Jaccard of two':<20}" + "".join(f"{value:>8.2f}" for value in alike))
    rows = []
    for unit in shingles.UNITS:
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
            out = here / f"{unit}-{threshold}"
            watched(ours(files, out, workers, "--unit", unit, "--threshold", str(threshold)))
            gone = Counter(name.rpartition("/")[0] for name in made.keys() - ids(out))
            shares = {frame: gone[frame] / EACH for frame in frames} | {"all": gone.total() / len(made)}
            rows.append({"unit": unit, "threshold": threshold, "removed": shares})
            print(f"{unit:<12}{threshold:>4}    " + "".join(f"{value:>8.0%}" for value in shares.values()), flush=True)
    return {"name": "dedup-templates", "ours": None, "peer": None, "ratio": None, "unit": "share removed", "limit": None,
            "jaccard": dict(zip(frames, alike, strict=True)), "rows": rows}  # fmt: skip


def mean_jaccard(sets: list[set[str]]) -> float:
    return mean(planted_copies.jaccard(*pair) for pair in combinations(sets, 2))


def filled_frames(lines: list[list[str]]) -> dict[str, str]:
    """{"<way>/<share>/<number>": text}. What varies is taken from other lines of the same real text."""
    draw, made = random.Random(0), {}
    for way in WAYS:
        for share in VARIED:
            frame = draw.sample(lines, LINES)
            varied = draw.sample(range(LINES), LINES * share // 100) if way == "lines" else range(LINES)
            for number in range(EACH):
                filled = list(frame)
                for k in varied:
                    field = max(1, len(frame[k]) * share // 100)
                    other = draw.choice([line for line in lines if len(line) >= field])
                    filled[k] = other if way == "lines" else frame[k][:-field] + other[-field:]
                made[f"{way}/{share}/{number:02d}"] = "\n".join(" ".join(words) for words in filled)
    return made


if __name__ == "__main__":
    main()
