"""Documents that contain evaluation questions, found by long pieces of letters that both share.

Compared are letters and digits alone (NFC, case folded), so spaces, punctuation and line breaks make no difference. A document
holds a question if `syllables` letters in a row are the same (an n-gram), or all of a question that is shorter. In Korean a
letter is a syllable.

25 syllables, because: 50 letters of English, GPT-4's measure, become 26 letters in Korean, and GPT-3's 13 words 33 (315 pairs of
sentences, JupyterLab's language pack). Of 329 passages of 120 letters from Korean law, 22% share 10 letters in a row with 0.5 M letters of
research manuals, which quote none of them; 5.5% share 15, 1.2% share 20, 0.3% share 25 (one formula, "… 다만 다음 각 호의 어느 하나에
해당하는 경우에는"), none 30. And half of KMMLU's questions have fewer than 30 letters (225 examples in lm-eval).

A short question counts as a whole from 15 letters: of law's clauses that short, 1 in 100 stands in the manuals by chance, of
those with 12 letters 1 in 58. A piece of 15 letters that stands in more than 10 questions is a phrase of examiners
("위 글의 내용과 일치하지 않는 것은"), and what consists of such pieces is no evidence.

Answer options are no evidence alone: "산업통상자원부장관이 정하는 바에 따른다" is one, and stands in many a law. A document needs a
piece of the question's stem; then the options count with it. A question whose stem is too short, or a phrase of examiners and
nothing more, is therefore not looked for, and the facts count it.

A law that a question quotes makes every document that quotes it look contaminated. Such documents go too: a lost document costs
little, a leaked question makes a score worthless. The facts name the questions that took most documents; who finds that they
took too many gives a `share`.
"""

import csv
import functools
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from openko import manifest
from openko.corpus.document import Fault
from openko.corpus.readers import files
from openko.corpus.readers.lines import text_record
from openko.errors import InputError
from openko.progress import Progress

KIND = "decontaminated"
SYLLABLES, MINIMUM, TEMPLATE = 25, 15, 10  # letters of an n-gram, of a short question; questions that may share a piece

# Fields that a file of each published form has. A file is of the first form all of whose fields its first record has.
FORMS = {
    "kmmlu": ("question", "A", "B", "C", "D"),
    "kobest-boolq": ("paragraph", "question"),
    "kobest-copa": ("premise", "alternative_1", "alternative_2"),
    "kobest-hellaswag": ("context", "ending_1", "ending_2", "ending_3", "ending_4"),
    "kobest-wic": ("context_1", "context_2"),
    "haerae": ("query", "options"),
    "haerae-query": ("query",),
    "kobest-sentineg": ("sentence",),
}
# Fields that hold answers to choose from; what a record has beside them is its stem.
OPTIONS = frozenset(("A", "B", "C", "D", "alternative_1", "alternative_2", "ending_1", "ending_2", "ending_3", "ending_4", "options"))
BASE = 0x9E3779B97F4A7C15  # of the polynomial: odd, so that it has an inverse modulo 2**64
BLOCK = 1 << 15  # letters that are looked at in one go: what they need stays in the processor's cache
SHOWN = 200  # letters of a shared piece that a table shows
MOST_HITS = 20


class Match(NamedTuple):
    """The question that a document holds most of. dataset: file of questions. number: of the record in it, from 1.
    field: where in the record the piece stands. piece: the longest shared piece, as the document spells it.
    share: of the question's n-grams, how many the document has."""

    dataset: str
    number: int
    field: str
    piece: str
    share: float

    @property
    def question(self) -> str:
        return f"{self.dataset}#{self.number}"


# ── letters and their hashes ─────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _letter_values() -> np.ndarray:
    """uint64 by code point: 0 for what is no letter or digit, else a number that belongs to the case-folded letter alone."""
    letters = [c for c in map(chr, range(0x110000)) if c.isalnum()]
    folded = [f if len(f := c.casefold()) == 1 else c for c in letters]  # "ß" would become two
    x = np.array([ord(c) for c in folded], np.uint64) * np.uint64(BASE)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64's finish, one to one
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    values = np.zeros(0x110000, np.uint64)
    values[[ord(c) for c in letters]] = x ^ (x >> np.uint64(31))
    return values


def _spell(text: str) -> np.ndarray:
    """Letter values of a text in NFC, 0 where no letter stands; uint64 [characters]."""
    return _letter_values().take(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4"))


def _letters(text: str) -> np.ndarray:
    values = _spell(unicodedata.normalize("NFC", text))
    return values.take(values.nonzero()[0])


@functools.cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """BASE**k and BASE**-k modulo 2**64 for a block."""
    both = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        powers = np.full(BLOCK, base, np.uint64)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


def _hashes(values: np.ndarray, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first position, hashes of the windows of `length` letters from there on), until all have been there."""
    powers, inverses = _powers()
    for start in range(0, len(values) - length + 1, BLOCK - length + 1):
        block = values[start : start + BLOCK]
        sums = np.zeros(len(block) + 1, np.uint64)
        np.multiply(block, powers[: len(block)], out=sums[1:])
        np.add.accumulate(sums, out=sums)
        hashes = sums[length:] - sums[:-length]
        hashes *= inverses[: len(hashes)]
        yield start, hashes


class _Grams:
    """Windows of `length` letters of the questions, to be found in documents. places: where each begins in the questions."""

    def __init__(self, length: int, hashes: np.ndarray, places: np.ndarray):
        order = np.argsort(hashes, kind="stable")
        self.length, self._hashes, self.places = length, hashes[order], places[order]
        # Two bits for each in a table of at least 64 times as many: at most 0.1% of other windows find both and must be looked up.
        self._shift = 64 - max(22, (64 * len(hashes) - 1).bit_length())
        self._table = np.zeros(1 << (64 - self._shift - 3), np.uint8)
        for probe in (hashes, hashes * _BASE):
            bits = self._bits(probe)
            np.bitwise_or.at(self._table, bits >> 3, _BIT[bits & 7])

    def _bits(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(self._shift)).view(np.int64)

    def _marked(self, hashes: np.ndarray) -> np.ndarray:
        bits = self._bits(hashes)
        return (self._table.take(bits >> 3) & _BIT.take(bits & 7)).nonzero()[0]

    def find(self, letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows with equal hashes: (positions in the document, numbers of the grams); one position may have several grams."""
        positions, numbers = [], []
        for start, hashes in _hashes(letters, self.length):
            where = self._marked(hashes)
            if len(where):
                where = where.take(self._marked(hashes.take(where) * _BASE))
            if not len(where):
                continue
            asked = hashes.take(where)
            first = self._hashes.searchsorted(asked)
            known = (self._hashes.take(first, mode="clip") == asked).nonzero()[0]
            first = first[known]
            counts = self._hashes.searchsorted(asked[known], side="right") - first
            ends = np.cumsum(counts)
            numbers.append(np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts))
            positions.append(np.repeat(where[known] + start, counts))
        return (np.concatenate(positions), np.concatenate(numbers)) if positions else (_NONE, _NONE)


_NONE, _BASE = np.empty(0, np.int64), np.uint64(BASE)
_BIT = (1 << np.arange(8)).astype(np.uint8)


# ── the questions ────────────────────────────────────────────────────────────────────────────────────────────────


class Questions:
    """Evaluation questions, ready to be found in documents.

    Pickled it has some 45 bytes a letter, and reading takes five times that for a moment.

    files: {dataset: {"bytes", "sha256", "fields"}}.  facts: {dataset: {"questions", "looked-for", "too-short", "only-templates",
    "copies"}}, plain JSON; too short is a stem, and copies are questions whose stem another one has too, under whose name they are found.
    """

    def __init__(self, records: dict[str, list[dict[str, str]]], files: dict, *, syllables: int, share: float):
        """records: {dataset: [{field: text}]}; where all fields of a record are OPTIONS, they are its stem."""
        self.files, self.syllables, self.share = files, syllables, share
        self.minimum = min(MINIMUM, syllables)
        self._datasets, self._numbers, self._fields = [], [], []  # of each question, each question, each text
        texts, owners, stems, states, seen = [], [], [], [], set()  # seen: stems
        for dataset, questions in records.items():
            for number, record in enumerate(questions, 1):
                stem = {field for field in record if field not in OPTIONS} or set(record)
                in_order = sorted(record, key=lambda field: field not in stem)  # a piece that both have is the stem's
                long_enough = {field: x for field in in_order if len(x := _letters(record[field])) >= self.minimum}
                new = {field: x for field, x in long_enough.items() if field not in stem or x.tobytes() not in seen}
                states.append("too-short" if stem.isdisjoint(long_enough) else "copies" if stem.isdisjoint(new) else "looked-for")
                if states[-1] == "looked-for":
                    seen.update(x.tobytes() for field, x in new.items() if field in stem)
                    for field, letters in new.items():
                        texts.append(letters)
                        owners.append(len(self._datasets))
                        stems.append(field in stem)
                        self._fields.append(field)
                self._datasets.append(dataset)
                self._numbers.append(number)
        self._stems = np.array(stems, bool)  # of each text
        self._index(texts, np.array(owners, np.int64))
        facts = {dataset: Counter() for dataset in records}
        for number, (dataset, state) in enumerate(zip(self._datasets, states, strict=True)):
            only_templates = state == "looked-for" and not self._total[number]
            facts[dataset].update(["questions", "only-templates" if only_templates else state])
        self.facts = {dataset: dict(counts) for dataset, counts in facts.items()}

    @classmethod
    def read(
        cls, files: Iterable[Path], *, syllables: int = SYLLABLES, fields: Sequence[str] | None = None, share: float = 0.0
    ) -> "Questions":  # fmt: skip
        """Questions of JSONL, JSON, parquet, CSV and TSV files in one of FORMS, or with the named `fields`.

        syllables: letters of an n-gram. share: how much of a question a document must hold to be a match; with 0 one n-gram is enough.
        """
        paths = [Path(path) for path in files]
        if not paths:
            raise InputError("no file with evaluation questions was given")
        if not 10 <= syllables <= 1000 or not 0 <= share <= 1:
            raise InputError(f"an n-gram has 10 to 1000 syllables and a share is from 0 to 1, found {syllables} and {share}")
        records, described = {}, {}
        for name, path in zip(_names(paths), paths, strict=True):
            rows = _rows(path)
            wanted = tuple(fields) if fields else _form(path, rows)
            records[name] = [_record(row, wanted, path, number) for number, row in enumerate(rows, 1)]
            described[name] = {"bytes": path.stat().st_size, "sha256": manifest.file_hash(path), "fields": list(wanted)}
        questions = cls(records, described, syllables=syllables, share=share)
        if not questions._total.any():
            counts = "; ".join(f"{name}: " + ", ".join(f"{k} {v}" for k, v in facts.items()) for name, facts in questions.facts.items())
            raise InputError(f"no question is left to look for ({counts}): a question needs {questions.minimum} letters of its own")
        return questions

    @property
    def recipe(self) -> dict:
        """What decides which documents match."""
        return {"files": self.files, "syllables": self.syllables, "minimum": self.minimum, "template": TEMPLATE, "share": self.share}

    def _index(self, texts: list[np.ndarray], owners: np.ndarray) -> None:
        """All n-grams, and the beginnings of short texts, of what is no template."""
        lengths = np.array([len(t) for t in texts], np.int64)
        # Behind the last text an n-gram's room, so that any place can be compared over a whole n-gram.
        self._letters = np.concatenate([*texts, np.zeros(self.syllables, np.uint64)])
        starts = np.cumsum(lengths) - lengths
        owner_of_letter = np.repeat(owners, lengths)
        ends = np.repeat(starts + lengths, lengths)
        covered = np.concatenate([[0], np.cumsum(_templates(self._letters, ends, owner_of_letter, self.minimum))])

        def evidence(places: np.ndarray, length: np.ndarray | int) -> np.ndarray:
            return places[length - (covered[places + length] - covered[places]) >= self.minimum]

        short = starts[lengths < self.syllables]
        short = evidence(short, ends[short] - short)
        places = np.arange(len(ends))
        long = evidence(places[places + self.syllables <= ends], self.syllables)
        hashes = _at(self._letters, self.syllables, long)
        once = _first_of_pairs(hashes, owner_of_letter[long])
        self._grams = [_Grams(self.syllables, hashes[once], long[once])] if len(once) else []
        if len(short):
            self._grams.append(_Grams(self.minimum, _at(self._letters, self.minimum, short), short))
        self._starts, self._lengths, self._owners = starts, lengths, owners
        pieces = np.concatenate([long[once], short])
        of_stem = pieces[np.repeat(self._stems, lengths)[pieces]]
        total, stems = (np.bincount(owner_of_letter[some], minlength=len(self._numbers)) for some in (pieces, of_stem))
        self._total = np.where(stems, total, 0)  # pieces of each question; 0 where no document can match

    def match(self, text: str) -> Match | None:
        """The question that `text` holds most of, by the share of its n-grams, one of the stem's at least; of equal ones the first."""
        letters = _letters(text)
        found = [(grams, *grams.find(letters)) for grams in self._grams]
        if not any(len(numbers) for _, _, numbers in found):  # nearly every document
            return None
        padded = np.concatenate([letters, np.ones(self.syllables, np.uint64)])  # 1 belongs to no letter
        positions = np.concatenate([positions for _, positions, _ in found])
        places = np.concatenate([grams.places[numbers] for grams, _, numbers in found])
        owner = np.searchsorted(self._starts, places, side="right") - 1
        lengths = np.minimum(self._lengths[owner], self.syllables)
        same = _same(padded, positions, self._letters, places, lengths)
        with_stem = np.unique(self._owners[owner[same & self._stems[owner]]])
        same &= np.isin(self._owners[owner], with_stem)
        positions, places, owner, lengths = positions[same], places[same], owner[same], lengths[same]
        if not len(places):
            return None
        _, once = np.unique(places, return_index=True)
        candidates, counts = np.unique(self._owners[owner[once]], return_counts=True)
        shares = counts / self._total[candidates]
        best, share = candidates[shares.argmax()], shares.max()
        if share < self.share:
            return None
        own = np.flatnonzero(self._owners[owner] == best)
        own = own[np.argsort(positions[own], kind="stable")]
        first, last = _longest_run(positions[own])
        begin, end = positions[own[first]], positions[own[last]] + lengths[own[last]]
        piece = _piece(text, int(begin), int(end))
        return Match(self._datasets[best], self._numbers[best], self._fields[owner[own[first]]], piece, float(share))


def _at(letters: np.ndarray, length: int, places: np.ndarray) -> np.ndarray:
    """Hashes of the windows that begin at `places`."""
    return np.concatenate([hashes for _, hashes in _hashes(letters, length)] or [np.empty(0, np.uint64)])[places]


def _first_of_pairs(hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Where each pair of a hash and an owner stands first, in the order of the hashes."""
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    new = np.ones(len(order), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return order[new]


def _templates(letters: np.ndarray, ends: np.ndarray, owners: np.ndarray, length: int) -> np.ndarray:
    """Which letters stand in a piece of `length` that more than TEMPLATE questions have; bool [letters of all texts]."""
    places = np.arange(len(ends))
    places = places[places + length <= ends]
    hashes = _at(letters, length, places)
    pieces, questions = np.unique(hashes[_first_of_pairs(hashes, owners[places])], return_counts=True)
    begins = places[np.isin(hashes, pieces[questions > TEMPLATE])]
    edges = np.zeros(len(ends) + length + 1, np.int64)
    np.add.at(edges, begins, 1)
    np.add.at(edges, begins + length, -1)
    return np.cumsum(edges)[: len(ends)] > 0


def _same(a: np.ndarray, in_a: np.ndarray, b: np.ndarray, in_b: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whether lengths[k] letters from a[in_a[k]] are those from b[in_b[k]]; bool [len(lengths)]."""
    same, steps = np.empty(len(lengths), bool), np.arange(lengths.max(initial=0))
    for start in range(0, len(lengths), 4096):
        rows = slice(start, start + 4096)
        equal = a[in_a[rows, None] + steps] == b[in_b[rows, None] + steps]
        same[rows] = (equal | (steps >= lengths[rows, None])).all(axis=1)
    return same


def _longest_run(positions: np.ndarray) -> tuple[int, int]:
    """First and last index of the longest stretch without a gap; positions are sorted and may repeat."""
    breaks = np.flatnonzero(np.diff(positions) > 1)
    firsts, lasts = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(positions) - 1]])
    k = int(np.argmax(positions[lasts] - positions[firsts]))
    return int(firsts[k]), int(lasts[k])


def _piece(text: str, begin: int, end: int) -> str:
    """The characters from letter `begin` to before letter `end`, in NFC."""
    text = unicodedata.normalize("NFC", text)
    where = np.flatnonzero(_spell(text))
    return text[where[begin] : where[end - 1] + 1]


# ── files of questions ───────────────────────────────────────────────────────────────────────────────────────────


def _names(paths: list[Path]) -> list[str]:
    """Each path from the folder on that holds all of them, for "test.jsonl" is the name of many."""
    resolved = [path.resolve() for path in paths]
    twice = [str(path) for path, count in Counter(resolved).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} was given twice")
    folder = os.path.commonpath([path.parent for path in resolved])
    return [path.relative_to(folder).as_posix() for path in resolved]


def _rows(path: Path) -> list[dict]:
    """The records of a file; a file that is damaged anywhere is refused, for a question that was not read would stay in the corpus."""
    readers = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    if not path.is_file():
        raise InputError(f"{path} with evaluation questions does not exist")
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: questions are read from {', '.join(readers)} files")
    try:
        rows = readers[path.suffix.lower()](path)
    except (ValueError, RecursionError, csv.Error, pyarrow.ArrowException) as problem:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path} cannot be read ({problem}): get it again; no part of it was used") from None
    if not rows:
        raise InputError(f"{path} holds no record")
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path}: records with named fields are needed, found {next(type(r).__name__ for r in rows if not isinstance(r, dict))}"
        )
    return rows


def _json_lines(path: Path) -> list:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _json(path: Path) -> list:
    """A list of records, or an object one field of which is such a list."""
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise ValueError(f"an object with {len(lists)} lists; one list of records is needed")
        content = lists[0]
    return content if isinstance(content, list) else []


def _parquet(path: Path) -> list:
    return pyarrow.parquet.read_table(path).to_pylist()


def _csv(path: Path) -> list:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True))


def _form(path: Path, rows: list[dict]) -> tuple[str, ...]:
    for fields in FORMS.values():
        if all(field in rows[0] for field in fields):
            return fields
    known = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in FORMS.items())
    raise InputError(f"{path} has the fields {', '.join(map(str, rows[0]))}, which is no known form ({known}): name the fields with text")


def _record(row: dict, fields: tuple[str, ...], path: Path, number: int) -> dict[str, str]:
    """{field: text}; lists of options are put together."""
    record = {}
    for field in fields:
        if field not in row:
            raise InputError(f"{path}, record {number}: no field {field!r}, found {', '.join(map(str, row))}")
        value = row[field]
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str | int | float | None) for part in parts):
            raise InputError(f"{path}, record {number}: {field!r} is text or a list of texts, found {type(value).__name__}")
        record[field] = "\n".join(str(part) for part in parts if part is not None)
    return record


# ── a whole corpus ───────────────────────────────────────────────────────────────────────────────────────────────


def decontaminate(inputs: list[Path], questions: Questions, out: Path, say=print) -> manifest.Manifest:
    """Copy JSONL files with `text` without the documents that hold a question. Lines stay as they are, but end in "\\n", in UTF-8.

    out/documents-NNNNN.jsonl: one for each input, in their order.  contaminated.jsonl: what went, with its question.
    unreadable.jsonl: lines that are no document, with the reason.
    """
    paths = [Path(path) for path in inputs]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is no file: give JSONL files, one document with a field `text` in each line")
        if path.suffix.lower() in files.COMPRESSED:
            raise InputError(f"{path} is compressed: unpack it first")
        if path.resolve().is_relative_to(Path(out).resolve()):
            raise InputError(f"{path} lies in {out}, which will be written: choose another place")
    if not paths:
        raise InputError("no JSONL file with documents was given")
    size = sum(path.stat().st_size for path in paths)
    if size > 2e9:
        say(f"hashing {len(paths)} files, {size / 1e9:.0f} GB")
    described = {
        name: {"bytes": path.stat().st_size, "xxh3_128": manifest.file_hash(path, "xxh3_128")}
        for name, path in zip(_names(paths), paths, strict=True)
    }
    return manifest.build(
        out, kind=KIND, recipe={"documents": list(described.items()), "questions": questions.recipe}, inputs={},
        module="openko.corpus.decontaminate", say=say,
        make=lambda partial: _Run(partial, questions, size, Progress(say)).over(dict(zip(described, paths, strict=True))),
    )  # fmt: skip


class _Run:
    """One pass over the documents, with its counts."""

    def __init__(self, directory: Path, questions: Questions, size: int, progress: Progress):
        self._directory, self._questions, self._size, self._progress = directory, questions, size, progress
        self._done, self._counts, self._unreadable = 0, Counter(), Counter()
        self._removed, self._examples = Counter(), {}  # by question

    def over(self, paths: dict[str, Path]) -> dict:
        with (
            open(self._directory / "contaminated.jsonl", "w", encoding="utf-8") as contaminated,
            open(self._directory / "unreadable.jsonl", "w", encoding="utf-8") as unreadable,
        ):
            written = {f"documents-{number:05d}.jsonl": name for number, name in enumerate(paths)}
            for to, name in written.items():
                content = files.Content(name, paths[name].stat().st_size, functools.partial(open, paths[name], "rb"))
                lines = files.Lines.of(content)
                with open(self._directory / to, "wb") as survivors:
                    for number, (offset, line) in enumerate(lines.between(), 1):
                        self._line(line, lines, {"file": name, "line": number}, survivors, contaminated, unreadable)
                        if number % 256 == 0:
                            self._say(offset)
                self._done += content.size
        return self._facts(written)

    def _say(self, offset: int) -> None:
        done = self._done + offset
        line = f"{done / 1e6:,.0f} of {self._size / 1e6:,.0f} MB, {self._removed.total():,} documents go"
        self._progress(line, min(1.0, done / self._size))  # UTF-16 becomes longer as it is read

    def _line(self, line: bytes | None, lines: files.Lines, where: dict, survivors, contaminated, unreadable) -> None:
        if line is not None and not line.strip():
            self._counts["blank lines"] += 1
            return
        document = text_record(line, lines, "")
        if isinstance(document, Fault):
            self._unreadable[document.reason] += 1
            start = (line or b"")[:1000].decode(lines.encoding, "backslashreplace")
            _write(unreadable, where | {"reason": document.reason, "detail": document.detail, "starts": start})
            return
        size = len(document["text"].encode("utf-8", "surrogatepass"))
        self._counts["documents"] += 1
        self._counts["bytes"] += size
        match = self._questions.match(document["text"])
        if match is None:
            self._counts["kept documents"] += 1
            self._counts["kept bytes"] += size
            survivors.write((line if lines.encoding == "utf-8" else line.decode(lines.encoding).encode()) + b"\n")
            return
        self._removed[match.dataset, match.number] += 1
        self._examples.setdefault((match.dataset, match.number), (match.field, match.piece[:SHOWN]))
        lineage = {name: document[name] for name in ("id", "place") if name in document}
        _write(contaminated, lineage | where | match._asdict())

    def _facts(self, written: dict[str, str]) -> dict:
        by_dataset = dict.fromkeys(self._questions.facts, 0)
        for (dataset, _), count in self._removed.items():
            by_dataset[dataset] += count
        most = sorted(self._removed.items(), key=lambda item: (-item[1], item[0]))[:MOST_HITS]
        counts = self._counts
        return {
            "documents": counts["documents"], "bytes": counts["bytes"],
            "kept": {"documents": counts["kept documents"], "bytes": counts["kept bytes"]},
            "removed": {"documents": counts["documents"] - counts["kept documents"], "bytes": counts["bytes"] - counts["kept bytes"]},
            "by_dataset": by_dataset,
            "most": [
                {"dataset": d, "number": n, "documents": count, "field": self._examples[d, n][0], "piece": self._examples[d, n][1]}
                for (d, n), count in most
            ],
            "unreadable": dict(self._unreadable), "blank_lines": counts["blank lines"], "questions": self._questions.facts,
            "files": written,
        }  # fmt: skip


def _write(file, record: dict) -> None:
    # What a hostile line holds of lone surrogates has no bytes in UTF-8.
    line = json.dumps(record, ensure_ascii=False)
    file.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
