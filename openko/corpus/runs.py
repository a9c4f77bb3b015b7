"""What workers leave for the ordering: documents as JSON lines, sorted by the hash of their text, with an index.

A run is `NNNNNN.jsonl`, one line a document; `NNNNNN.npy`, one ENTRY a document in the same order; `NNNNNN.bands` and `.sketch`, by which
near-duplicates find each other. A worker writes as many runs as its piece of input needs, each from at most RUN_BYTES in memory. The order
by hash is the corpus's own: it does not depend on files, workers or their order, equal texts meet in it, and any beginning of it is
a fair sample.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import xxhash

from openko.corpus.minhash import Similar

RUN_BYTES, RUN_DOCUMENTS = 64_000_000, 200_000  # whichever is reached first
SKETCH_BYTES, SKETCH_TEXTS = 500_000, 2_000  # that are sketched at once: what fits into a processor's cache
# high, low: the first 16 bytes of the text's SHA-256, as two numbers. key: xxh3_64. offset, length: of the line. bytes: of the text.
ENTRY = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("key", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("bytes", "<u4"), ("source", "<u2")]
)  # fmt: skip
EVERY_HASH = 1 << 64
WALK = 400_000  # documents that are looked at together
RUN, ROW = np.uint64(32), np.uint64(0xFFFFFFFF)  # a document's place is one number: run << RUN | row


class RunWriter:
    """Takes documents of one source in any order and writes runs into a directory. source: its number in the recipe.

    similar: how near-duplicates are found; None: not at all. among: a number; only documents of the same one can be near-duplicates.
    """

    def __init__(self, directory: Path, source: int, similar: Similar | None, among: int = 0):
        self._directory, self._source, self._similar, self._runs = directory, source, similar, 0
        self._apart = np.uint64(among * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
        self._forget()

    def add(self, line: bytes, text: str, key: bytes) -> None:
        """line: ends in a line end. key: orders documents of the same text."""
        encoded = text.encode()
        digest = hashlib.sha256(encoded).digest()
        high, low = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
        self._entries.append((high, low, xxhash.xxh3_64_intdigest(key), 0, len(line), len(encoded), self._source))
        self._lines.append(line)
        self._held += len(line)
        if self._similar:
            self._texts.append(text)
            self._text_bytes += len(encoded)
            if self._text_bytes >= SKETCH_BYTES or len(self._texts) >= SKETCH_TEXTS:
                self._sketch()
        if self._held >= RUN_BYTES or len(self._lines) >= RUN_DOCUMENTS:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        if not self._lines:
            return
        entries = np.array(self._entries, ENTRY)
        order = np.lexsort((entries["key"], entries["low"], entries["high"]))
        entries = entries[order]
        entries["offset"] = np.cumsum(entries["length"], dtype=np.uint64) - entries["length"]
        with open(self._directory / f"{self._runs:06d}.jsonl", "wb") as file:
            file.writelines(self._lines[k] for k in order.tolist())
        if self._similar:
            self._sketch()
            save(self._directory / f"{self._runs:06d}.bands", np.concatenate(self._bands, axis=1)[:, order] ^ self._apart)
            save(self._directory / f"{self._runs:06d}.sketch", np.concatenate(self._sketches)[order])
        save(self._directory / f"{self._runs:06d}.npy", entries)
        self._runs += 1
        self._forget()

    def _sketch(self) -> None:
        if self._texts:
            bands, sketches = self._similar.sketch(self._texts)
            self._bands.append(bands)
            self._sketches.append(sketches)
        self._texts, self._text_bytes = [], 0

    def _forget(self) -> None:
        self._lines, self._entries, self._held = [], [], 0
        self._texts, self._text_bytes, self._bands, self._sketches = [], 0, [], []


class Runs:
    """All runs below some directories. No file stays open: sixty gigabytes are a thousand runs."""

    def __init__(self, directories: Iterable[Path], priorities: Sequence[int]):
        """priorities: of the sources, by their numbers."""
        self.priorities = np.array(priorities)
        self._paths = sorted(path for directory in directories for path in directory.glob("*.npy"))
        self._mapped: dict[int, np.ndarray] = {}  # the index of each run: to map it anew takes a quarter of a millisecond

    # ── in the order of the hashes ──

    def walk(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All documents as `entries` gives them, about WALK at a time."""
        ranges = 1 + int(self.sizes().sum()) // WALK
        for k in range(ranges):
            yield self.entries(k * EVERY_HASH // ranges, (k + 1) * EVERY_HASH // ranges)

    def entries(self, low: int = 0, high: int = EVERY_HASH) -> tuple[np.ndarray, np.ndarray]:
        """ENTRYs whose `high` is in [low, high), and their places, uint64; sorted by hash, then priority, then key."""
        found, places = [np.empty(0, ENTRY)], [np.empty(0, np.uint64)]
        for number, index in enumerate(self.indexes()):
            start, stop = (_rank(index["high"], bound) for bound in (low, high))
            found.append(np.array(index[start:stop]))
            places.append(np.arange(start, stop, dtype=np.uint64) | np.uint64(number) << RUN)
        found, places = np.concatenate(found), np.concatenate(places)
        order = np.lexsort((found["key"], self.priorities[found["source"]], found["low"], found["high"]))
        return found[order], places[order]

    def lines(self, entries: np.ndarray, places: np.ndarray) -> list[bytes]:
        """The lines of neighbours in that order. What lies between them in a run is read too."""
        lines = [b""] * len(entries)
        for number, chosen in self._by_run(places):
            offsets, ends = entries["offset"][chosen].astype(np.int64), (entries["offset"] + entries["length"])[chosen].astype(np.int64)
            first = int(offsets.min())
            with open(self._paths[number].with_suffix(".jsonl"), "rb") as file:
                file.seek(first)
                block = memoryview(file.read(int(ends.max()) - first))
            for k, start, stop in zip(chosen.tolist(), (offsets - first).tolist(), (ends - first).tolist(), strict=True):
                lines[k] = bytes(block[start:stop])
        return lines

    # ── one by one ──

    def at(self, places: np.ndarray) -> np.ndarray:
        """The ENTRYs at some places, in their order."""
        found = np.empty(len(places), ENTRY)
        for number, chosen in self._by_run(places):
            found[chosen] = self._index(number)[(places[chosen] & ROW).astype(np.int64)]
        return found

    def scattered_lines(self, places: np.ndarray) -> list[bytes]:
        """The lines at some places, in their order, read one by one."""
        lines, entries = [b""] * len(places), self.at(places)
        for number, chosen in self._by_run(places):
            with open(self._paths[number].with_suffix(".jsonl"), "rb") as file:
                for k in chosen[np.argsort(entries["offset"][chosen])].tolist():
                    file.seek(int(entries["offset"][k]))
                    lines[k] = file.read(int(entries["length"][k]))
        return lines

    # ── what near-duplicates find each other by ──

    def sizes(self) -> np.ndarray:
        """How many documents each run has, int64."""
        return np.array([len(index) for index in self.indexes()], np.int64)

    def band(self, number: int) -> Iterator[np.ndarray]:
        """One band of all documents, run by run: uint64."""
        for path in self._paths:
            yield np.load(path.with_suffix(".bands"), mmap_mode="r")[number]

    def sketches(self, places: np.ndarray) -> np.ndarray:
        """One byte of each value of the signatures of the documents at some places: uint8 [places, values]."""
        found = np.empty((0, 0), np.uint8)
        for number, chosen in self._by_run(places):
            of_run = np.load(self._paths[number].with_suffix(".sketch"), mmap_mode="r")
            found = found if len(found) else np.empty((len(places), of_run.shape[1]), np.uint8)
            found[chosen] = of_run[(places[chosen] & ROW).astype(np.int64)]
        return found

    def indexes(self) -> Iterator[np.ndarray]:
        """The ENTRYs of each run, in their order on disk."""
        for number in range(len(self._paths)):
            yield self._index(number)

    def _index(self, number: int) -> np.ndarray:
        if number not in self._mapped:
            self._mapped[number] = np.load(self._paths[number], mmap_mode="r")
        return self._mapped[number]

    def _by_run(self, places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each run that is meant, and which of the places are in it."""
        if len(places) == 0:
            return
        runs = (places >> RUN).astype(np.int64)
        order = np.argsort(runs, kind="stable")
        numbers, starts = np.unique(runs[order], return_index=True)
        yield from zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)


def save(path: Path, array: np.ndarray) -> None:
    """np.save writes through C's buffer and says nothing when the disk is full (numpy 2.4); to what is no file to it, by `write`."""
    with open(path, "wb") as file:
        np.lib.format.write_array(SimpleNamespace(write=file.write), array)


def parsed(line: bytes) -> dict:
    """A line's record. Lines of other people may hold NaN, which orjson refuses."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def _rank(sorted_numbers: np.ndarray, bound: int) -> int:
    """How many of them are below `bound`, which may be 2**64."""
    return len(sorted_numbers) if bound >= EVERY_HASH else int(np.searchsorted(sorted_numbers, np.uint64(bound)))
