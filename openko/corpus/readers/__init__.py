"""Published corpora, as they are downloaded, to texts: one reader for each way in which they are published.

A reader divides its files into pieces, which depend on the files alone, and reads a piece as a stream of texts. What it cannot read is a
Fault with a reason, a place and what was found; what stands around it is read all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openko.corpus.document import Fault, Piece, Source, Text
from openko.corpus.readers import aihub, archives, files, lines, modu, parquet, paths, python, wikipedia
from openko.corpus.readers.files import find_files
from openko.errors import InputError

__all__ = ["ANY_SPLIT", "READERS", "Reader", "check", "find_files", "pieces", "read"]

ANY_SPLIT = ("*",)


@dataclass(frozen=True)
class Reader:
    """pieces: how files, relative to the data folder, are divided. read: a piece of a source as texts and faults, the data folder last.

    options: names in Source.options that it knows; none is a field of Source, for a recipe writes both side by side.
    splits: published splits that it knows, ANY_SPLIT if the data says which.
    """

    pieces: Callable[[Source, list[Path], Path], list[Piece]]
    read: Callable[[Piece, Source, Path], Iterator[Text | Fault]]
    options: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    needs_files: bool = True


READERS = {
    "jsonl": Reader(files.byte_pieces, lines.read_jsonl, options=("text", "id")),
    "text": Reader(lines.text_pieces, lines.read_text_file, options=("separator",)),
    "parquet": Reader(parquet.pieces, parquet.read, options=("text", "id")),
    "hub": Reader(
        parquet.hub_pieces, parquet.read_hub, options=("dataset", "config", "revision", "text", "id"), splits=ANY_SPLIT, needs_files=False
    ),
    "wikipedia": Reader(wikipedia.pieces, wikipedia.read),
    "aihub": Reader(aihub.pieces, aihub.read, options=("text", "json", "questions"), splits=aihub.SPLITS),
    "modu": Reader(archives.pieces, modu.read),
    "json": Reader(modu.json_pieces, modu.read_json, options=("documents", "text", "id")),
    "python-reference": Reader(python.pieces, python.read_reference, needs_files=False),
    "python-docstrings": Reader(python.pieces, python.read_docstrings, needs_files=False),
}


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    """The pieces of a source's files, in the files' order. found: as `find_files` gives them. Refused: what the reader does not know."""
    reader = _reader(source)
    check(source)
    return reader.pieces(source, found, Path(data))


def read(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    """What is in a piece, always in the same order."""
    return _reader(source).read(piece, source, Path(data))


def _reader(source: Source) -> Reader:
    if source.reader not in READERS:
        raise InputError(f"source {source.name}: no reader {source.reader!r}; there are {', '.join(READERS)}")
    return READERS[source.reader]


def check(source: Source) -> None:
    """Options, split and path of a source against what its reader knows."""
    reader = _reader(source)
    unknown = sorted(set(source.options) - set(reader.options))
    if unknown:
        known = f"it knows {', '.join(reader.options)}" if reader.options else "it knows none"
        raise InputError(f"source {source.name}: reader {source.reader} has no option {unknown[0]!r}; {known}")
    if source.split is not None and reader.splits != ANY_SPLIT and source.split not in reader.splits:
        known = f"it knows {', '.join(reader.splits)}" if reader.splits else "it knows none: leave split out"
        raise InputError(f"source {source.name}: reader {source.reader} has no split {source.split!r}; {known}")
    if reader.needs_files != bool(source.path):
        raise InputError(
            f"source {source.name}: reader {source.reader} " + ("needs a path" if reader.needs_files else "reads no files: leave out path")
        )
    for name in {"documents", "text", "id"} & set(source.options):
        if not (source.reader == "aihub" and isinstance(source.options[name], int)):
            try:
                paths.parse(source.options[name])
            except InputError as problem:
                raise InputError(f"source {source.name}: {name}: {problem}") from None
