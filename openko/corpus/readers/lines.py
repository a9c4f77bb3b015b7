"""Text files: JSON Lines, and plain text with one document or many to a file."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import orjson

from openko.corpus.document import Fault, Piece, Source, Text
from openko.corpus.readers import files, paths
from openko.corpus.readers.files import Content, Lines
from openko.errors import InputError

SEPARATORS = ("blank-lines", "lines")
SHOWN = 300  # characters of what is found, for a person


def read_jsonl(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    content = files.content(piece.file, data)
    return files.guarded(jsonl(content, source.options, piece.start, piece.stop), content.place)


def jsonl(content: Content, options: dict, start: int = 0, stop: int | None = None) -> Iterator[Text | Fault]:
    """A document for each line that is not blank; its position is the offset of the line in bytes, unpacked."""
    text, own_id, lines = paths.parse(options.get("text", "text")), paths.parse(options.get("id", "id")), Lines.of(content)
    for offset, line in lines.between(start, stop):
        if line is not None and not line.strip():
            continue
        place = f"{content.place}#{offset}"
        record = _record(line, lines, place)
        if isinstance(record, Fault):
            yield record
        else:
            yield from paths.read_text(record, text, place, paths.read_id(record, own_id))


def text_record(line: bytes | None, lines: Lines, place: str) -> dict | Fault:
    """The object in a line, whatever its fields, if it has a `text` that can be written down again."""
    found = _record(line, lines, place)
    if isinstance(found, Fault):
        return found
    text = found.get("text")
    if text is None:
        return Fault("missing-field", place, f"no text; there are {', '.join(found)}"[:SHOWN])
    if not isinstance(text, str):
        return Fault("wrong-type", place, f"text holds {paths.kind(text)}")
    read = paths.checked(text, place)
    return read if isinstance(read, Fault) else found


def _record(line: bytes | None, lines: Lines, place: str) -> dict | Fault:
    record = _parsed(line, lines, place)
    if not isinstance(record, dict | Fault):
        return Fault("wrong-type", place, f"the line holds {paths.kind(record)} where an object is needed")
    return record


def _parsed(line: bytes | None, lines: Lines, place: str):
    """orjson reads UTF-8 2.8 times as fast as json; what it refuses (NaN, half a surrogate pair) is json's to read or to explain."""
    if line is not None and lines.encoding == "utf-8":
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(line)
    if fault := lines.fault(line, place):
        return fault
    try:
        return json.loads(line.decode(lines.encoding))
    except RecursionError:
        return Fault("invalid-json", place, "nested too deeply")
    except ValueError as problem:
        return Fault("invalid-json", place, str(problem))


def text_pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    separator = source.options.get("separator")
    if separator not in (None, *SEPARATORS):
        raise InputError(f"source {source.name}: separator is one of {', '.join(SEPARATORS)}, or left out where each file is a document, "
                         f"found {separator!r}")  # fmt: skip
    return files.byte_pieces(source, found, data) if separator == "lines" else files.whole_files(source, found, data)


def read_text_file(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    content = files.content(piece.file, data)
    return files.guarded(plain(content, source.options.get("separator"), piece.start, piece.stop), content.place)


def plain(content: Content, separator: str | None = None, start: int = 0, stop: int | None = None) -> Iterator[Text | Fault]:
    """Documents of a text file. separator: "lines", "blank-lines", or None where the file is one document.

    Positions are offsets in bytes, unpacked. A document of which a line cannot be decoded is refused as a whole.
    """
    lines = Lines.of(content)
    if separator == "lines":
        for offset, line in lines.decoded(content.place, start, stop):
            if isinstance(line, Fault):
                yield line
            elif line and not line.isspace():
                yield Text(line, f"{content.place}#{offset}")
    elif separator == "blank-lines":
        yield from _blocks(lines, content.place)
    else:
        yield _whole(content, lines)


def _blocks(lines: Lines, place: str) -> Iterator[Text | Fault]:
    block = _Block()
    for offset, line in lines.decoded(place):
        if isinstance(line, str) and (not line or line.isspace()):
            yield from block.close(place)
            block = _Block()
        else:
            block.add(offset, line)
    yield from block.close(place)


class _Block:
    """Lines of one document, or the first thing that is wrong with them."""

    def __init__(self):
        self.start, self.lines, self.size, self.fault = None, [], 0, None

    def add(self, offset: int, line: str | Fault) -> None:
        self.start = offset if self.start is None else self.start
        if self.fault:
            return
        if isinstance(line, Fault):
            self.fault = line
        else:
            self.size += len(line) + 1
            self.lines.append(line)
            if self.size > files.LONGEST:
                self.lines, self.fault = [], Fault("too-long-line", "", f"more than {files.LONGEST:,} characters without a blank line")

    def close(self, place: str) -> Iterator[Text | Fault]:
        place = f"{place}#{self.start}"
        if self.fault:
            yield self.fault._replace(place=place)
        elif self.lines:
            yield Text("\n".join(self.lines), place)


def _whole(content: Content, lines: Lines) -> Text | Fault:
    found, size = [], 0
    for _, line in lines.decoded(content.place):
        if isinstance(line, Fault):
            return line
        size += len(line) + 1
        if size > files.LONGEST:
            about = f"more than {files.LONGEST:,} characters in one document: say separator: blank-lines or lines if it holds many"
            return Fault("too-long-line", content.place, about)
        found.append(line)
    return paths.checked("\n".join(found), f"{content.place}#0")
