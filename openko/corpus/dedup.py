"""JSONL files without copies and near-copies: of texts that are equal or nearly so, one stays.

A corpus's own build does the same between its sources (openko.corpus.build); this is for texts that come from elsewhere.
"""

import functools
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import orjson

from openko import manifest
from openko.corpus import arrange, engines, near_duplicates, tasks
from openko.corpus.document import Fault, Piece, Source
from openko.corpus.minhash import Similar
from openko.corpus.readers import files, lines
from openko.corpus.recipe import Recipe
from openko.corpus.runs import RunWriter, parsed
from openko.errors import InputError

KIND = "deduplicated"
DUPLICATES, UNREADABLE = "duplicates.jsonl", "unreadable.jsonl"
# All of it is one source and one language: nothing is preferred but the longer text.
EVERYTHING = Source(name="documents", reader="jsonl", licence="", language="ko")
LEAST_BYTES, MOST_BYTES = 4_000_000, 32_000_000  # of input that a worker reads at once: little input is shared out all the same


def dedup(
    inputs: list[Path], out: Path, *, similar: Similar = Similar(), engine: tasks.Engine = engines.THIS_PROCESS,  # noqa: B008 (frozen)
    other_code: str = "remake", say=print,
) -> manifest.Manifest:  # fmt: skip
    """Copy JSONL files with `text`, also packed as .gz, .bz2 or .zst, without what another line already says.

    out/documents-NNNNN.jsonl: lines that stay, as they are, in UTF-8, in the order of the hashes of their texts.
    out/duplicates.jsonl: {"id", "kept", "jaccard", "exact"} of each line that went: its `id`, the `id` of the line that stayed, how
    similar they are, and whether their texts are equal. Text and whole numbers are ids; without one a line is called by the SHA-256 of
    its text.
    out/unreadable.jsonl: lines that are no document, with the reason.

    Of equal texts one stays, of similar ones the longer (openko.corpus.near_duplicates). Documents and duplicates are the same bytes
    whatever the engine, its workers, and the number and order of the input files; unreadable.jsonl names files. engine: who works,
    of openko.corpus.engines. other_code: as in `manifest.build`.
    """
    paths = _checked([Path(path) for path in inputs], Path(out))
    stats = [(path, path.stat()) for path in paths]

    def make(partial: Path) -> dict:
        scratch = partial / manifest.SCRATCH
        read, directories = _read_all(paths, similar, scratch, engine, say)
        near, compared = near_duplicates.find(directories, [EVERYTHING.priority], [0], similar, scratch / "near", engine=engine, say=say)
        written, names = _write_all(directories, near, partial, engine, say)
        arrange.concatenate([scratch / "duplicates" / name for name in names], partial / DUPLICATES)
        arrange.concatenate([directory / UNREADABLE for directory in directories], partial / UNREADABLE)
        return _facts(read, written, compared, names)

    # Names, sizes and times stand for the content: hashing would read everything twice.
    documents = [[_printable(path.as_posix()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    return manifest.build(
        out, kind=KIND, recipe={"documents": documents} | asdict(similar), inputs={}, module="openko.corpus.dedup", make=make,
        other_code=other_code, say=say,
    )  # fmt: skip


def _checked(paths: list[Path], out: Path) -> list[Path]:
    """The same in one order: what was begun with them in another goes on."""
    if not paths:
        raise InputError("no JSONL file with documents was given")
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is no file: give JSONL files, one document with a field `text` in each line")
        if path.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{path} lies in {out}, which will be written: choose another place")
        try:
            open(path, "rb").close()
        except OSError as problem:
            raise InputError(f"{path} cannot be read: {problem.strerror}") from None
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is given more than once")
    return sorted(paths)


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_all(paths: list[Path], similar: Similar, scratch: Path, engine: tasks.Engine, say) -> tuple[list[dict], list[Path]]:
    work = _tasks(paths)
    directories = [scratch / f"{number:05d}" for number in range(len(work))]
    asked = [(pieces, similar, directory) for (pieces, _), directory in zip(work, directories, strict=True)]
    read = tasks.run(_read, asked, scratch / "read", sizes=[size for _, size in work], engine=engine, what="reading", say=say)
    return read, directories


def _tasks(paths: list[Path]) -> list[tuple[list[Piece], int]]:
    """Pieces of the input for one worker, and how many bytes they are."""
    sizes = {path: path.stat().st_size for path in paths}
    most = min(MOST_BYTES, max(LEAST_BYTES, sum(sizes.values()) // 64))
    work, held, size = [], [], 0
    for piece in files.byte_pieces(EVERYTHING, paths, Path(), most):
        more = most if piece.stop is not None else sizes[piece.file] - piece.start
        if held and size + more > most:
            work.append((held, size))
            held, size = [], 0
        held.append(piece)
        size += more
    return [*work, (held, size)]


def _read(pieces: list[Piece], similar: Similar, directory: Path) -> dict:
    """Some pieces of the input into runs in `directory`, made anew if it is there, and how much they were."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    runs, counts, unreadable = RunWriter(directory, 0, similar), Counter(documents=0, bytes=0), Counter()
    with open(directory / UNREADABLE, "wb") as faults:
        for piece in pieces:
            for found in _documents(piece):
                if isinstance(found, Fault):
                    unreadable[found.reason] += 1
                    faults.write(orjson.dumps({"place": found.place, "reason": found.reason, "detail": _printable(found.detail)}) + b"\n")
                    continue
                line, text = found
                runs.add(line, text, line)
                counts.update(documents=1, bytes=len(text.encode()))
    runs.close()
    return {**counts, "unreadable": unreadable}


def _documents(piece: Piece) -> Iterator[tuple[bytes, str] | Fault]:
    content = files.content(piece.file, Path())
    return files.guarded(_lines(content, piece), content.place)


def _lines(content: files.Content, piece: Piece) -> Iterator[tuple[bytes, str] | Fault]:
    """Lines, each with its line end, and their texts."""
    read = files.Lines.of(content)
    for offset, line in read.between(piece.start, piece.stop):
        if line is not None and not line.strip():
            continue
        place = f"{content.place}#{offset}"
        record = lines.text_record(line, read, place)
        if isinstance(record, Fault):
            yield record
        elif _printable(record["text"]) != record["text"]:
            yield Fault("wrong-encoding", place, "half a surrogate pair in text")
        else:
            yield (line if read.encoding == "utf-8" else line.decode(read.encoding).encode()) + b"\n", record["text"]


def _printable(text: str) -> str:
    """Without halves of surrogate pairs, which no file can hold."""
    return text.encode(errors="backslashreplace").decode()


# ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_all(directories: list[Path], near: Path, partial: Path, engine: tasks.Engine, say) -> tuple[list[dict], list[str]]:
    """What was written, and the names of the files."""
    aside = partial / manifest.SCRATCH / "duplicates"
    aside.mkdir(exist_ok=True)
    spans = [replace(span, part="documents") for span in _arranger(directories, near).plan().files]
    asked = [(directories, near, span, partial, aside) for span in spans]
    options = {"sizes": [arrange.FILE_BYTES] * len(asked), "engine": engine, "what": "writing", "say": say}
    return tasks.run(_write, asked, partial / manifest.SCRATCH / "written", **options), [span.name for span in spans]


def _write(directories: list[Path], near: Path, span: arrange.Span, directory: Path, aside: Path) -> dict:
    nothing_is_renamed = np.empty(0, np.uint64)
    return _arranger(directories, near).write(span, nothing_is_renamed, directory, aside, refusal=_refusal)


def _arranger(directories: list[Path], near: Path) -> arrange.Arranger:
    return arrange.Arranger(Recipe(name="", sources=(EVERYTHING,), held_out=0), directories, near)


def _refusal(line: bytes, twin: arrange.Twin) -> bytes:
    return orjson.dumps({"id": _name(line), "kept": _name(twin.line), "jaccard": twin.jaccard, "exact": twin.exact}) + b"\n"


def _name(line: bytes) -> str | int:
    """A line's own id, or what stands for it."""
    record = parsed(line)
    own = record.get("id")
    if isinstance(own, str):
        return _printable(own)
    if isinstance(own, int) and not isinstance(own, bool) and abs(own) < 1 << 63:
        return own
    return f"sha256:{hashlib.sha256(record['text'].encode()).hexdigest()}"


def _facts(read: list[dict], written: list[dict], compared: dict, names: list[str]) -> dict:
    total = lambda name: {n: sum(found[name].get("documents", {}).get(n, 0) for found in written) for n in ("documents", "bytes")}  # noqa: E731
    facts = {name: sum(counts[name] for counts in read) for name in ("documents", "bytes")}
    kept, exact, near = total("kept"), total("exact"), total("near")
    if kept["documents"] + exact["documents"] + near["documents"] != facts["documents"]:
        raise RuntimeError(f"{facts['documents']:,} documents read, {kept} kept, {exact} and {near} removed: some are lost")
    unreadable = functools.reduce(Counter.__add__, (Counter(counts["unreadable"]) for counts in read))
    return facts | {
        "kept": kept, "removed": {"exact": exact, "near": near}, "unreadable": unreadable, "compared": compared, "files": names,
    }  # fmt: skip
