"""Documents to token shards: <|begin_of_text|> document <|end_of_text|>, a shard for each file of the corpus.

Beside the tokens of shard N lie `bytes-N.bin` (uint32: UTF-8 bytes of each document) and `source-N.bin` (uint16: its source, by its
number in the manifest's "source_names"), so that tokens can be counted, weighed and forecast by source.
"""

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import xxhash

from openko import manifest, shards, tokenizers
from openko.corpus import engines, parts, tasks
from openko.errors import InputError

BATCH = 64  # documents that a thread encodes at once
BYTES, SOURCE = np.dtype("<u4"), np.dtype("<u2")


def pack(
    directory: Path, *, corpus: Path, part: str, tokenizer: str | Path, source: str | None = None,
    engine: tasks.Engine = engines.THIS_PROCESS, other_code: str = "remake", say=print,
) -> manifest.Manifest:  # fmt: skip
    """Shards of one part ("ko.train") of a corpus, or of what one source gave to it.

    tokenizer: "llama-3" or a directory with a tokenizer.json. engine, other_code: as in openko.corpus.build.
    A source's weight in the recipe says how often each of its documents is packed; which of them, where the weight is no
    whole number, is decided by a hash of the text.
    """
    sources = manifest.read(corpus, parts.KIND, made_by="openko corpus build").facts["recipe"]["sources"]
    names, files = [s["name"] for s in sources], parts.files(corpus, part)
    if source is not None and source not in names:
        raise InputError(f"{corpus} has no source {source!r}; there are {', '.join(names)}")

    def make(partial: Path) -> dict:
        weights = {s["name"]: s["weight"] for s in sources if source in (None, s["name"])}
        threads = max(1, engine.workers // len(files))  # few files: each by several threads
        work = [(path, number, str(tokenizer), names, weights, threads, partial) for number, path in enumerate(files)]
        results = partial / manifest.SCRATCH / "packed"
        packed = tasks.run(_pack, work, results, sizes=[p.stat().st_size for p in files], engine=engine, what=f"packing {part}", say=say)
        counts = {name: sum(p[name] for p in packed) for name in ("documents", "tokens", "bytes")}
        if not counts["documents"]:
            raise InputError(f"{corpus}: {part} has no document" + (f" of source {source!r}" if source else ""))
        by_source = {n: {k: sum(p["sources"][n][k] for p in packed) for k in ("documents", "tokens", "bytes")} for n in weights}
        described = {name: packed[0][name] for name in ("tokenizer", "vocab_size")}
        return counts | {"shards": len(files), "source_names": names, "sources": by_source} | described

    real = str(tokenizer) == tokenizers.LLAMA_3
    return manifest.build(
        directory, kind=shards.KIND, recipe={"part": part, "source": source} | ({"tokenizer": tokenizers.LLAMA_3} if real else {}),
        inputs={"corpus": corpus} | ({} if real else {"tokenizer": Path(tokenizer)}), module="openko.corpus.pack", make=make, say=say,
        other_code=other_code,
    )  # fmt: skip


def per_document(directory: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{source: (bytes, tokens)} of every document in a directory of shards made here, int64."""
    directory = Path(directory)
    facts = manifest.read(directory, shards.KIND, made_by="openko corpus pack").facts
    if "source_names" not in facts:
        raise InputError(f"{directory} does not say which source a document came from: it was not made by openko corpus pack")
    columns = {
        name: np.concatenate([np.fromfile(directory / f"{name}-{n:05d}.bin", dtype) for n in range(facts["shards"])])
        for name, dtype in (("bytes", BYTES), ("source", SOURCE))
    }
    tokens, sizes = shards.TokenShards(directory).lengths, columns["bytes"].astype(np.int64)
    of = {name: columns["source"] == number for number, name in enumerate(facts["source_names"])}
    return {name: (sizes[chosen], tokens[chosen]) for name, chosen in of.items() if chosen.any()}


def _pack(path: Path, number: int, tokenizer: str, names: list[str], weights: dict[str, float], threads: int, directory: Path) -> dict:
    """One file of a corpus into one shard."""
    loaded = _tokenizer(tokenizer)
    begin, end = (np.array([loaded[token]], shards.TOKEN) for token in (tokenizers.BEGIN, tokenizers.END))
    counts = {name: {"documents": 0, "tokens": 0, "bytes": 0} for name in weights}
    sizes, sources = [], []

    def packed() -> Iterator[np.ndarray]:
        for document, ids in _encoded(path, loaded, weights, threads):
            size, counter = len(document["text"].encode()), counts[document["source"]]
            tokens = np.concatenate((begin, ids, end))
            for _ in range(_times(document, weights)):
                sizes.append(size)
                sources.append(names.index(document["source"]))
                counter["documents"] += 1
                counter["tokens"] += len(tokens)
                counter["bytes"] += size
                yield tokens

    shards.write_one(directory, number, packed())
    (directory / f"bytes-{number:05d}.bin").write_bytes(np.array(sizes, BYTES).tobytes())
    (directory / f"source-{number:05d}.bin").write_bytes(np.array(sources, SOURCE).tobytes())
    whole = {name: sum(c[name] for c in counts.values()) for name in ("documents", "tokens", "bytes")}
    return whole | {"sources": counts, "tokenizer": loaded.fingerprint, "vocab_size": loaded.vocab_size}


def _encoded(path: Path, tokenizer: tokenizers.Tokenizer, weights: dict[str, float], threads: int) -> Iterator[tuple[dict, np.ndarray]]:
    """The documents of a file that are to be packed, with their ids. tiktoken lets other threads run while it encodes."""
    with open(path, "rb") as file, ThreadPoolExecutor(threads) as pool:
        chosen = (d for d in map(orjson.loads, file) if d["source"] in weights and _times(d, weights))
        while batches := list(itertools.islice(iter(lambda: list(itertools.islice(chosen, BATCH)), []), 8 * threads)):
            encoded = pool.map(lambda batch: [_ids(document, tokenizer, path) for document in batch], batches)
            for batch, ids in zip(batches, encoded, strict=True):
                yield from zip(batch, ids, strict=True)


def _ids(document: dict, tokenizer: tokenizers.Tokenizer, path: Path) -> np.ndarray:
    try:
        [ids] = tokenizer.encode_arrays([document["text"]])
    except Exception as problem:  # tiktoken's regular expressions give up on runs of a million equal characters
        raise InputError(
            f"{path}: document {document['id']} cannot be encoded ({problem}): leave it out of the corpus, or set filters that do"
        ) from problem
    return ids


def _times(document: dict, weights: dict[str, float]) -> int:
    """How often a document is packed: 2.3 is twice, and a third time for three texts in ten."""
    whole, part = divmod(weights[document["source"]], 1.0)
    return int(whole) + (part > 0 and xxhash.xxh3_64_intdigest(document["text"].encode()) < math.ldexp(part, 64))


_loaded: dict[str, tokenizers.Tokenizer] = {}


def _tokenizer(source: str) -> tokenizers.Tokenizer:
    """Once in each process."""
    if source not in _loaded:
        _loaded[source] = tokenizers.load(source)
    return _loaded[source]
