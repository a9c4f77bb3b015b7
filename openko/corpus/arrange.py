"""Cleaned documents of all workers into the corpus's own order: copies leave, a part is held out, the rest fills files.

Everything is decided by the hash of a document's text, range by range, so memory does not grow with the corpus, and files,
workers and their order do not matter.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openko.corpus.document import LANGUAGES
from openko.corpus.recipe import Recipe
from openko.corpus.runs import Runs

FILE_BYTES = 256_000_000  # of text in a file, about: 61 GB are 240 files, and as many shards, which training holds open
BLOCK_BYTES = 32_000_000  # of lines held at once while a file is written
RANGES = 256  # parts of the hash's range that are looked at one at a time
EVERY_HASH = 1 << 64


@dataclass(frozen=True)
class Span:
    """A file to be: the documents of one language with low ≤ hash < high."""

    part: str  # "ko.train", "ko.heldout", …
    number: int
    language: str
    low: int
    high: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.number:05d}.jsonl"


@dataclass(frozen=True)
class Arrangement:
    """files: in order. shared: xxh3_64 of ids that several texts bear, uint64, sorted. over: {source: {"documents", "bytes"}}
    that max_bytes left out."""

    files: list[Span]
    shared: np.ndarray
    over: dict[str, Counter]


class Arranger:
    def __init__(self, recipe: Recipe, directories: list[Path]):
        self.recipe, self.runs = recipe, Runs(directories, [s.priority for s in recipe.sources])
        self._languages = np.array([LANGUAGES.index(s.language) for s in recipe.sources])

    def plan(self) -> Arrangement:
        """Which files there will be; from the indexes alone. 8 bytes a document are the most that is held of a whole corpus."""
        totals, ids = Counter(), [np.empty(0, np.uint64)]
        for number, entries, stays in self._walk():
            totals[number] += int(entries["bytes"][stays].sum(dtype=np.int64))
            ids.append(entries["id"][stays])
        cuts = [_Cuts(language, totals[number], self.recipe) for number, language in enumerate(LANGUAGES)]
        for number, entries, stays in self._walk():
            cuts[number].add(entries[stays])
        over: dict[str, Counter] = {}
        if any(cut.end < EVERY_HASH for cut in cuts):
            for number, entries, _ in self._walk():
                if cuts[number].end < EVERY_HASH:
                    self._count(over, entries[entries["high"] >= cuts[number].end])
        return Arrangement([span for cut in cuts for span in cut.spans()], _repeated(np.concatenate(ids)), over)

    def write(self, span: Span, shared: np.ndarray, directory: Path, aside: Path) -> dict:
        """One file in `directory`, and the copies that met in it in `aside`. Returns what is in them, counted by source."""
        entries, runs = self.runs.entries(span.low, span.high)
        ours = self._languages[entries["source"]] == LANGUAGES.index(span.language)
        entries, runs = entries[ours], runs[ours]
        original = _original(entries)
        copies = original != np.arange(len(entries))
        renamed = np.isin(entries["id"], shared) & ~copies
        with open(directory / span.name, "wb") as kept, open(aside / span.name, "w", encoding="utf-8") as rejected:
            for block in _blocks(entries, original):
                lines = self.runs.lines(entries[block], runs[block])
                for k in np.flatnonzero(renamed[block]).tolist():
                    lines[k] = _with_place(lines[k])
                kept.writelines(line for line, copy in zip(lines, copies[block].tolist(), strict=True) if not copy)
                for k in np.flatnonzero(copies[block]).tolist():
                    rejected.write(_refusal(lines[k], lines[original[block][k] - block.start]) + "\n")
        chosen = {"kept": ~copies, "copies": copies, "renamed": renamed}
        return {name: self._counted(entries[which]) for name, which in chosen.items()}

    def _counted(self, entries: np.ndarray) -> dict[str, Counter]:
        counters: dict[str, Counter] = {}
        self._count(counters, entries)
        return counters

    def _count(self, counters: dict[str, Counter], entries: np.ndarray) -> None:
        for number in np.unique(entries["source"]).tolist():
            sizes = entries["bytes"][entries["source"] == number]
            counter = counters.setdefault(self.recipe.sources[number].name, Counter())
            counter.update(documents=len(sizes), bytes=int(sizes.sum(dtype=np.int64)))

    def _walk(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All documents in order, range by range: number of the language, entries, and which of them are no copies."""
        for k in range(RANGES):
            entries, _ = self.runs.entries(k * EVERY_HASH // RANGES, (k + 1) * EVERY_HASH // RANGES)
            languages = self._languages[entries["source"]]
            for number in range(len(LANGUAGES)):
                ours = entries[languages == number]
                yield number, ours, _original(ours) == np.arange(len(ours))


class _Cuts:
    """Where one language's documents, in order, are cut into held-out and training files, and where its cap ends them."""

    def __init__(self, language: str, total: int, recipe: Recipe):
        self.language, self.cap = language, recipe.max_bytes.get(language, total)
        self.held_bytes = recipe.held_out * min(total, self.cap)
        self.taken, self.end, self.parts = 0, EVERY_HASH, {"heldout": [], "train": []}
        self._in_file = 0

    def add(self, entries: np.ndarray) -> None:
        """Take the next documents, up to the cap."""
        if self.end < EVERY_HASH:
            return
        highs, sizes = entries["high"].tolist(), entries["bytes"].tolist()
        for high, size in zip(highs, sizes, strict=True):
            if self.taken + size > self.cap:
                self.end = high if self.taken else 0
                return
            starts = self.parts["heldout" if self.taken < self.held_bytes else "train"]
            if not starts or self._in_file >= FILE_BYTES:
                starts.append(high)
                self._in_file = 0
            self.taken, self._in_file = self.taken + size, self._in_file + size

    def spans(self) -> list[Span]:
        starts = [(part, number, low) for part, lows in self.parts.items() for number, low in enumerate(lows)]
        ends = [*(low for _, _, low in starts[1:]), self.end][: len(starts)]
        spans = [Span(f"{self.language}.{part}", n, self.language, low, high) for (part, n, low), high in zip(starts, ends, strict=True)]
        return [replace(spans[0], low=0), *spans[1:]] if spans else []


def _original(entries: np.ndarray) -> np.ndarray:
    """For each of sorted entries, the first with the same text."""
    new = np.ones(len(entries), bool)
    new[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
    return np.flatnonzero(new)[np.cumsum(new) - 1] if len(entries) else np.empty(0, np.int64)


def _repeated(ids: np.ndarray) -> np.ndarray:
    ids.sort()
    return np.unique(ids[1:][ids[1:] == ids[:-1]])


def _blocks(entries: np.ndarray, original: np.ndarray) -> Iterator[slice]:
    """Neighbours of up to BLOCK_BYTES of lines; equal texts stay together."""
    start, ends = 0, np.cumsum(entries["length"], dtype=np.int64)
    while start < len(entries):
        before = int(ends[start]) - int(entries["length"][start])
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_BYTES, side="right")))
        while stop < len(entries) and original[stop] != stop:
            stop += 1
        yield slice(start, stop)
        start = stop


def _with_place(line: bytes) -> bytes:
    """Data whose own ids begin anew in every file: the place tells them apart."""
    document = json.loads(line)
    document["id"] = f"{document['id']}@{document['place']}"
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _refusal(line: bytes, original: bytes) -> str:
    """What stands in the rejected file of a copy; its text is its original's."""
    document = json.loads(line)
    lineage = {name: document[name] for name in ("id", "source", "place")}
    return json.dumps(lineage | {"reason": "exact-copy", "copy_of": json.loads(original)["id"]}, ensure_ascii=False)
