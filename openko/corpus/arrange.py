"""Documents of all workers into the corpus's own order: copies leave, a part is held out, the rest fills files.

Everything is decided by the hash of a document's text, range by range, so memory does not grow with the corpus, and files,
workers and their order do not matter.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from openko.corpus.document import LANGUAGES
from openko.corpus.near_duplicates import NEAR
from openko.corpus.recipe import Recipe
from openko.corpus.runs import EVERY_HASH, Runs

FILE_BYTES = 256_000_000  # of text in a file, about: 61 GB are 240 files, and as many shards, which training holds open
BLOCK_BYTES = 32_000_000  # of lines held at once while a file is written


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
    """files: in order. shared: keys (xxh3_64 of ids) that several texts bear, uint64, sorted. over: {source: {"documents", "bytes"}}
    that max_bytes left out."""

    files: list[Span]
    shared: np.ndarray
    over: dict[str, Counter]


class Twin(NamedTuple):
    """Why a document goes: the line of the one that stays, how similar they are, and whether they are equal."""

    line: bytes
    jaccard: float
    exact: bool


class Arranger:
    """near: an array of NEAR in a file, as `near_duplicates.find` makes it; None where nobody looked for them."""

    def __init__(self, recipe: Recipe, directories: list[Path], near: Path | None):
        self.recipe, self.runs = recipe, Runs(directories, [s.priority for s in recipe.sources])
        self._near = np.empty(0, NEAR) if near is None else np.load(near, mmap_mode="r")
        self._near_places = np.ascontiguousarray(self._near["place"])
        self._languages = np.array([LANGUAGES.index(s.language) for s in recipe.sources])

    def plan(self) -> Arrangement:
        """Which files there will be; from the indexes alone. 8 bytes a document are the most that is held of a whole corpus."""
        totals, ids = Counter(), [np.empty(0, np.uint64)]
        for number, entries, stays in self._walk():
            totals[number] += int(entries["bytes"][stays].sum(dtype=np.int64))
            ids.append(entries["key"][stays])
        cuts = [_Cuts(language, totals[number], self.recipe) for number, language in enumerate(LANGUAGES)]
        for number, entries, stays in self._walk():
            cuts[number].add(entries[stays])
        over: dict[str, Counter] = {}
        if any(cut.end < EVERY_HASH for cut in cuts):
            for number, entries, _ in self._walk():
                if cuts[number].end < EVERY_HASH:
                    self._count(over, entries[entries["high"] >= cuts[number].end])
        return Arrangement([span for cut in cuts for span in cut.spans()], _repeated(np.concatenate(ids)), over)

    def write(self, span: Span, shared: np.ndarray, directory: Path, aside: Path, refusal=None) -> dict:
        """One file in `directory`, and what went, as JSON lines by `refusal(line, Twin)`, in `aside`. Returns counts by source.

        Copies of a near-duplicate go as it goes, so that what a refusal names has stayed.
        """
        entries, places = self.runs.entries(span.low, span.high)
        ours = self._languages[entries["source"]] == LANGUAGES.index(span.language)
        entries, places = entries[ours], places[ours]
        original = _original(entries)
        near = self._nearly(places)[original]
        exact = (original != np.arange(len(entries))) & (near < 0)
        goes = exact | (near >= 0)
        renamed = np.isin(entries["key"], shared) & ~goes
        carried = b""  # the original of copies that go on in the next block
        with open(directory / span.name, "wb") as kept, open(aside / span.name, "wb") as rejected:
            for block in _blocks(entries):
                lines = self.runs.lines(entries[block], places[block])
                for k in np.flatnonzero(renamed[block]).tolist():
                    lines[k] = _with_place(lines[k])
                kept.writelines(line for line, gone in zip(lines, goes[block].tolist(), strict=True) if not gone)
                originals = [carried if k < block.start else lines[k - block.start] for k in original[block].tolist()]
                carried = originals[-1]
                twins = self._twins(originals, near[block], exact[block], shared)
                rejected.writelines((refusal or _refusal)(lines[k], twin) for k, twin in sorted(twins.items()))
        chosen = {"kept": ~goes, "exact": exact, "near": near >= 0, "renamed": renamed}
        return {name: self._counted(entries[which]) for name, which in chosen.items()}

    def _twins(self, originals: list[bytes], near: np.ndarray, exact: np.ndarray, shared: np.ndarray) -> dict[int, Twin]:
        """What the documents of a block that go are like."""
        twins = {k: Twin(originals[k], 1.0, True) for k in np.flatnonzero(exact).tolist()}
        which = np.flatnonzero(near >= 0)
        found = self._near[near[which]]
        places, whose = np.unique(found["kept"], return_inverse=True)
        stay = self.runs.scattered_lines(places)
        for k in np.flatnonzero(np.isin(self.runs.at(places)["key"], shared)).tolist():
            stay[k] = _with_place(stay[k])
        return twins | {k: Twin(stay[n], float(j), False) for k, n, j in zip(which.tolist(), whose.tolist(), found["jaccard"], strict=True)}

    def _nearly(self, places: np.ndarray) -> np.ndarray:
        """For each place its row in the array of near-duplicates, or -1."""
        if len(self._near) == 0:
            return np.full(len(places), -1)
        row = np.minimum(np.searchsorted(self._near_places, places), len(self._near) - 1)
        return np.where(self._near_places[row] == places, row, -1)

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
        """All documents in order, range by range: number of the language, entries, and which of them stay."""
        for entries, places in self.runs.walk():
            languages = self._languages[entries["source"]]
            for number in range(len(LANGUAGES)):
                ours = languages == number
                stays = _original(entries[ours]) == np.arange(np.count_nonzero(ours))
                yield number, entries[ours], stays & (self._nearly(places[ours]) < 0)


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


def concatenate(parts: list[Path], path: Path) -> None:
    """Files end to end in one."""
    with open(path, "wb") as whole:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)


def _original(entries: np.ndarray) -> np.ndarray:
    """For each of sorted entries, the first with the same text."""
    new = np.ones(len(entries), bool)
    new[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
    return np.flatnonzero(new)[np.cumsum(new) - 1] if len(entries) else np.empty(0, np.int64)


def _repeated(ids: np.ndarray) -> np.ndarray:
    ids.sort()
    return np.unique(ids[1:][ids[1:] == ids[:-1]])


def _blocks(entries: np.ndarray) -> Iterator[slice]:
    """Neighbours of up to BLOCK_BYTES of lines."""
    start, ends = 0, np.cumsum(entries["length"], dtype=np.int64)
    while start < len(entries):
        before = int(ends[start]) - int(entries["length"][start])
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK_BYTES, side="right")))
        yield slice(start, stop)
        start = stop


def _with_place(line: bytes) -> bytes:
    """Data whose own ids begin anew in every file: the place tells them apart."""
    document = orjson.loads(line)
    document["id"] = f"{document['id']}@{document['place']}"
    return orjson.dumps(document) + b"\n"


def _refusal(line: bytes, twin: Twin) -> bytes:
    """What stands in the rejected file of a corpus; the text of an exact copy is its original's."""
    document, kept = orjson.loads(line), orjson.loads(twin.line)["id"]
    record = {name: document[name] for name in ("id", "source", "place")}
    if twin.exact:
        record |= {"reason": "exact-copy", "copy_of": kept}
    else:
        record |= {"reason": "near-duplicate", "copy_of": kept, "jaccard": twin.jaccard, "text": document["text"]}
    return orjson.dumps(record) + b"\n"
