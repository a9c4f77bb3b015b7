"""Documents to token ids: openko corpus pack against `datasets.map` with transformers' fast tokenizer, both of the real Llama-3.

    python benchmarks/pack.py [--megabytes 64] [--rounds 3] [--directory runs/benchmark] [--json]

Real Korean sentences, shuffled into documents of about 2.5 kB. Both begin with JSON lines on disk and end with ids on disk, with as
many processes as there are cores, in turn, each in a process of its own; reading the JSON lines into Arrow is
left out of the peer's time. The ids are compared, all of them. The limit is tiktoken alone, in as many processes.
--json ends with {name, ours, peer, ratio, unit, limit}: MB of text a second.
"""

import argparse
import base64
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import korean_text
import numpy as np
from side_by_side import CORES, print_result

from openko import shards, tokenizers
from openko.corpus import build, engines, pack, parts
from openko.corpus.recipe import parse


def llama3_json(directory: Path) -> Path:
    """tokenizer.json of the real Llama-3, from Meta's tokenizer.model: what the hub's copy holds."""
    if not (directory / "tokenizer.json").exists():
        from transformers.convert_slow_tokenizer import TikTokenConverter

        real = tokenizers.load("llama-3")
        directory.mkdir(parents=True, exist_ok=True)
        model = directory / "tokenizer.model"
        pairs = sorted(real.vocabulary(), key=lambda pair: pair[1])
        model.write_bytes(b"".join(base64.b64encode(bytes.fromhex(piece)) + b" %d\n" % rank for piece, rank in pairs))
        converted = TikTokenConverter(str(model), pattern=tokenizers.PATTERN, extra_special_tokens=list(real.special)).converted()
        converted.save(str(directory / "tokenizer.json"))
    return directory


def ours(corpus: Path, out: Path, pipe) -> None:
    began = time.perf_counter()
    pack.pack(out, corpus=corpus, part="ko.train", tokenizer="llama-3", engine=engines.Local(CORES), say=lambda line: None)
    pipe.send(time.perf_counter() - began)


def limit(files: list[Path], pipe) -> None:
    texts = [[json.loads(line)["text"] for line in open(path, encoding="utf-8")] for path in files]  # noqa: SIM115
    shares = [[t for some in texts for t in some][k::CORES] for k in range(CORES)]
    with multiprocessing.get_context("fork").Pool(CORES) as pool:
        pool.map(_encode, [share[:100] for share in shares])  # the tokenizer is loaded
        began = time.perf_counter()
        pool.map(_encode, shares)
        pipe.send(time.perf_counter() - began)


_llama3 = None


def _encode(texts: list[str]) -> int:
    global _llama3
    _llama3 = _llama3 or tokenizers.load("llama-3")
    return sum(len(ids) for ids in _llama3.encode_arrays(texts))


def peer(files: list[Path], tokenizer: Path, cache: Path, pipe) -> None:
    script = Path(__file__).with_name("pack_peer.py")
    done = subprocess.run([sys.executable, script, tokenizer, cache, str(CORES), *files], stdout=subprocess.PIPE, text=True, check=True)
    pipe.send(float(done.stdout.split()[-1]))


def timed(work, *given) -> float:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(*given, there))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed")
    return here.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    here = asked.directory / "pack"
    shutil.rmtree(here, ignore_errors=True)
    korean_text.write(korean_text.sentences(asked.directory), int(asked.megabytes * 1e6), here / "raw", files=CORES)
    source = {"name": "made", "reader": "jsonl", "path": "*.jsonl", "licence": "see korean_text.py", "language": "ko"}
    recipe = parse({"name": "made", "held-out": 0.0, "sources": [source]}, where="benchmark")
    build.build(here / "corpus", recipe, data=here / "raw", engine=engines.Local(CORES), say=lambda line: None)
    files = parts.files(here / "corpus", "ko.train")
    size = sum(len(d["text"].encode()) for d in parts.stream(here / "corpus", "ko.train"))
    tokenizer = llama3_json(asked.directory / "llama-3")

    ways = {"ours": (ours, here / "corpus", here / "shards"), "peer": (peer, files, tokenizer, here / "cache"), "limit": (limit, files)}
    found = {name: [] for name in ways}
    for number in range(asked.rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            shutil.rmtree(here / "shards", ignore_errors=True)
            found[name].append(size / 1e6 / timed(*ways[name]))
            print(f"round {number + 1}  {name:<6}{found[name][-1]:8.1f} MB/s", flush=True)
            if name == "ours":
                packed = shards.TokenShards(here / "shards")
                ids = np.concatenate([packed[k] for k in range(len(packed))])
    same = np.array_equal(ids, np.fromfile(here / "cache" / "ids.bin", shards.TOKEN))
    speeds = {name: median(values) for name, values in found.items()}
    ratio = speeds["ours"] / speeds["peer"]
    print(f"{size / 1e6:.0f} MB, {len(packed):,} documents, {len(ids):,} tokens in {len(files)} files; all ids equal: {same}")
    print(f"openko {speeds['ours']:.1f} MB/s, datasets.map {speeds['peer']:.1f} MB/s: {ratio:.2f} times")
    print(f"tiktoken alone {speeds['limit']:.1f} MB/s")
    if not same:
        raise SystemExit("the ids differ")
    if asked.json:
        print_result("pack", **speeds, ratio=ratio, unit="MB/s", megabytes=size / 1e6)


if __name__ == "__main__":
    main()
