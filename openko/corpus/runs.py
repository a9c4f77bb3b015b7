"""What workers leave for the ordering: cleaned documents as JSON lines, sorted by the hash of their text, with an index.

A run is two files: `NNNNNN.jsonl`, one line a document, and `NNNNNN.npy`, one ENTRY a document in the same order. A worker writes as
many runs as its piece of input needs, each from at most RUN_BYTES in memory. The order by hash is the corpus's own: it
does not depend on files, workers or their order, equal texts meet in it, and any beginning of it is a fair sample.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from openko.corpus.document import Document

RUN_BYTES = 64_000_000
# high, low: the first 16 bytes of the text's SHA-256, as two numbers. id: xxh3_64. offset, length: of the line. bytes: of the text.
ENTRY = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("id", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("bytes", "<u4"), ("source", "<u2")]
)  # fmt: skip


class RunWriter:
    """Takes documents of one source in any order and writes runs into a directory. source: its number in the recipe."""

    def __init__(self, directory: Path, source: int):
        self._source = source
        self._directory, self._lines, self._entries, self._held, self._runs = directory, [], [], 0, 0

    def add(self, document: Document) -> None:
        text = document.text.encode()
        line = document.line()
        digest = hashlib.sha256(text).digest()
        high, low, name = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16]), xxhash.xxh3_64_intdigest(document.id.encode())
        self._entries.append((high, low, name, 0, len(line), len(text), self._source))
        self._lines.append(line)
        self._held += len(line)
        if self._held >= RUN_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        if not self._lines:
            return
        entries = np.array(self._entries, ENTRY)
        order = np.lexsort((entries["id"], entries["low"], entries["high"]))
        entries = entries[order]
        entries["offset"] = np.cumsum(entries["length"], dtype=np.uint64) - entries["length"]
        with open(self._directory / f"{self._runs:06d}.jsonl", "wb") as file:
            file.writelines(self._lines[k] for k in order.tolist())
        np.save(self._directory / f"{self._runs:06d}.npy", entries)
        self._lines, self._entries, self._held, self._runs = [], [], 0, self._runs + 1


class Runs:
    """All runs below some directories. No file stays open: sixty gigabytes are a thousand runs."""

    def __init__(self, directories: Iterable[Path], priorities: Sequence[int]):
        """priorities: of the sources, by their numbers."""
        self._priorities = np.array(priorities)
        self._paths = sorted(path for directory in directories for path in directory.glob("*.npy"))

    def entries(self, low: int = 0, high: int = 1 << 64) -> tuple[np.ndarray, np.ndarray]:
        """ENTRYs whose `high` is in [low, high), with the number of each one's run; sorted by hash, then priority, then id."""
        found, runs = [np.empty(0, ENTRY)], [np.empty(0, np.int64)]
        for number, path in enumerate(self._paths):
            index = np.load(path, mmap_mode="r")
            start, stop = (_place(index["high"], bound) for bound in (low, high))
            found.append(np.array(index[start:stop]))
            runs.append(np.full(stop - start, number))
        found, runs = np.concatenate(found), np.concatenate(runs)
        order = np.lexsort((found["id"], self._priorities[found["source"]], found["low"], found["high"]))
        return found[order], runs[order]

    def lines(self, entries: np.ndarray, runs: np.ndarray) -> list[bytes]:
        """The lines of some entries, in their order. What lies between them in a run is read too, so they should be neighbours."""
        lines = [b""] * len(entries)
        for run in np.unique(runs).tolist():
            chosen = np.flatnonzero(runs == run)
            offsets, ends = entries["offset"][chosen].astype(np.int64), (entries["offset"] + entries["length"])[chosen].astype(np.int64)
            first = int(offsets.min())
            with open(self._paths[run].with_suffix(".jsonl"), "rb") as file:
                file.seek(first)
                block = memoryview(file.read(int(ends.max()) - first))
            for k, start, stop in zip(chosen.tolist(), (offsets - first).tolist(), (ends - first).tolist(), strict=True):
                lines[k] = bytes(block[start:stop])
        return lines


def _place(sorted_numbers: np.ndarray, bound: int) -> int:
    """How many of them are below `bound`, which may be 2**64."""
    return len(sorted_numbers) if bound >= 1 << 64 else int(np.searchsorted(sorted_numbers, np.uint64(bound)))
