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

FILE_BYTES = 64_000_000  # of text in a file, about; a file is what one worker packs
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
    """files: in order. twice: {xxh3_64 of an id that several texts bear: (priority, high, low) of the one that stays}.
    over: {source: {"documents", "bytes"}} that max_bytes left out."""

    files: list[Span]
    twice: dict[int, tuple[int, int, int]]
    over: dict[str, Counter]


class Arranger:
    def __init__(self, recipe: Recipe, directories: list[Path]):
        self.recipe, self.runs = recipe, Runs(directories, [s.priority for s in recipe.sources])
        self._languages = np.array([LANGUAGES.index(s.language) for s in recipe.sources])
        self._priorities = [s.priority for s in recipe.sources]

    def plan(self) -> Arrangement:
        """Which files there will be; from the indexes alone."""
        twice = self._ids_borne_twice()
        totals = Counter()
        for number, entries, stays in self._walk(twice):
            totals[number] += int(entries["bytes"][stays].sum(dtype=np.int64))
        cuts = [_Cuts(language, totals[number], self.recipe) for number, language in enumerate(LANGUAGES)]
        for number, entries, stays in self._walk(twice):
            cuts[number].add(entries[stays])
        over: dict[str, Counter] = {}
        if any(cut.end < EVERY_HASH for cut in cuts):
            for number, entries, _ in self._walk(twice):
                if cuts[number].end < EVERY_HASH:
                    self._count(over, entries[entries["high"] >= cuts[number].end])
        return Arrangement([span for cut in cuts for span in cut.spans()], twice, over)

    def write(self, span: Span, twice: dict[int, tuple[int, int, int]], directory: Path) -> dict:
        """One file, and beside it the copies that met in it (NAME.rejected). Returns what is in them, counted by source."""
        entries, runs = self.runs.entries(span.low, span.high)
        ours = self._languages[entries["source"]] == LANGUAGES.index(span.language)
        entries, runs = entries[ours], runs[ours]
        lines, original = self.runs.lines(entries, runs), _original(entries)
        copies = original != np.arange(len(entries))
        again = self._id_again(entries, twice) & ~copies
        kept, rejected = {}, {}
        with open(directory / span.name, "wb") as file:
            file.writelines(lines[k] for k in np.flatnonzero(~copies & ~again).tolist())
        with open(directory / f"{span.name}.rejected", "w", encoding="utf-8") as file:
            for k in np.flatnonzero(copies | again).tolist():
                document, reason = json.loads(lines[k]), "exact-copy" if copies[k] else "duplicate-id"
                line = {name: document[name] for name in ("id", "source", "place")} | {"reason": reason}
                # A copy's text is its original's; a text that only shares its id stands nowhere else.
                line |= {"copy_of": json.loads(lines[original[k]])["id"]} if copies[k] else {"text": document["text"]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._count(kept, entries[~copies & ~again])
        for reason, chosen in (("exact-copy", copies), ("duplicate-id", again)):
            by_source: dict[str, Counter] = {}
            self._count(by_source, entries[chosen])
            for source, counter in by_source.items():
                rejected.setdefault(source, {})[reason] = counter
        return {"kept": kept, "rejected": rejected}

    def _count(self, counters: dict[str, Counter], entries: np.ndarray) -> None:
        for number in np.unique(entries["source"]).tolist():
            size = int(entries["bytes"][entries["source"] == number].sum(dtype=np.int64))
            counters.setdefault(self.recipe.sources[number].name, Counter()).update(
                documents=int((entries["source"] == number).sum()), bytes=size
            )  # fmt: skip

    def _walk(self, twice: dict) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All documents in order, range by range: number of the language, entries, and which of them are no copies."""
        for k in range(RANGES):
            entries, _ = self.runs.entries(k * EVERY_HASH // RANGES, (k + 1) * EVERY_HASH // RANGES)
            languages = self._languages[entries["source"]]
            for number in range(len(LANGUAGES)):
                ours = entries[languages == number]
                yield number, ours, (_original(ours) == np.arange(len(ours))) & ~self._id_again(ours, twice)

    def _ids_borne_twice(self) -> dict[int, tuple[int, int, int]]:
        ids = self.runs.ids()
        suspects = np.unique(ids[1:][ids[1:] == ids[:-1]])
        winners: dict[int, tuple[int, int, int]] = {}
        if len(suspects):
            for _, entries, stays in self._walk({}):
                for entry in entries[stays & np.isin(entries["id"], suspects)]:
                    key = (self._priorities[entry["source"]], int(entry["high"]), int(entry["low"]))
                    winners[int(entry["id"])] = min(key, winners.get(int(entry["id"]), key))
        return winners

    def _id_again(self, entries: np.ndarray, twice: dict) -> np.ndarray:
        """Where another text with the same id stays in place of this one."""
        again = np.zeros(len(entries), bool)
        if twice:
            for k in np.flatnonzero(np.isin(entries["id"], np.array(list(twice), np.uint64))).tolist():
                entry = entries[k]
                again[k] = twice[int(entry["id"])][1:] != (int(entry["high"]), int(entry["low"]))
        return again


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
        # What lies before the first that stays is a text whose id another bears: it is to be counted in the first file.
        return [replace(spans[0], low=0), *spans[1:]] if spans else []


def _original(entries: np.ndarray) -> np.ndarray:
    """For each of sorted entries, the first with the same text."""
    new = np.ones(len(entries), bool)
    new[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
    return np.flatnonzero(new)[np.cumsum(new) - 1] if len(entries) else np.empty(0, np.int64)
