"""Files of a source: found by their names, opened whatever their compression and encoding, read line by line."""

import codecs
import io
import lzma
import os
import re
import unicodedata
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import BinaryIO

from openko.corpus.document import Fault, Piece, Source, Text
from openko.errors import InputError

PIECE_BYTES = 64 << 20  # of a text file, or of unpacked members: what one worker reads in one go
LONGEST = 64 << 20  # bytes of a line, or of a document in a file of its own: longer ones are no document
HEAD = 1 << 20  # bytes at the beginning of a file, by which its encoding is told
BUFFER = 1 << 17
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
DAMAGE = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)  # what broken compressed data raises


class Unreadable(Exception):
    """The rest of a file or of a member cannot be read. reason: one of FAULTS."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Content:
    """Bytes with a name: a file, or a member of an archive. size: in bytes, unpacked where that is known; open: from the start."""

    place: str
    size: int
    open: Callable[[], BinaryIO]

    @property
    def suffix(self) -> str:
        """ ".json", also of "news.JSON" """
        return os.path.splitext(self.place)[1].lower()

    def head(self) -> bytes:
        """Up to HEAD bytes of it; less where it is damaged before, which whoever reads on will be told."""
        parts, size = [], 0
        with self.open() as file:
            try:
                while size < HEAD and (part := file.read1(BUFFER)):
                    parts.append(part)
                    size += len(part)
            except Unreadable:
                pass
        return b"".join(parts)


def guarded(found: Iterable[Text | Fault], place: str) -> Iterator[Text | Fault]:
    """What is found, and a Fault where the rest is unreadable."""
    try:
        yield from found
    except Unreadable as problem:
        yield Fault(problem.reason, place, problem.detail)


# ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────────


def find_files(source: Source, data: Path) -> list[Path]:
    """Files below `data` that the source's patterns name, each once, sorted by place. Relative to `data`, as the disk spells them.

    Only * ? and ** are special, so "[라벨]" means itself. Names are compared in NFC, for macOS writes them in NFD. Names that
    begin with a dot are found only by patterns that do. ** follows links to folders, but goes into each folder once.
    """
    data, found = Path(data), set()
    for pattern in source.path:
        parts = tuple(unicodedata.normalize("NFC", pattern).split("/"))
        if "" in parts or ".." in parts or re.match(r"[A-Za-z]:|\\", pattern):
            raise InputError(
                f"source {source.name}: path {pattern!r} leads out of {data}: write it as below that folder, with / between folders"
            )
        here = set(_matching(data, Path(), parts))
        if not here:
            raise InputError(f"source {source.name}: path {pattern!r} finds nothing in {data}: {_nearest(data, parts)}")
        found |= here
    return sorted(found, key=lambda path: (place(path), str(path)))


def _matching(folder: Path, inside: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Files in `folder` whose names match; inside: the folder below the data folder."""
    first, rest = parts[0], parts[1:]
    if first == "**":
        for below in _folders(folder):
            yield from _matching(folder / below, inside / below, rest or ("*",))
        return
    fits = re.compile(translate(first.replace("[", "[[]"))).match  # a bracket in brackets means itself
    for entry in _entries(folder):
        name = readable(entry.name)
        if not fits(name) or (name.startswith(".") and not first.startswith(".")):
            continue
        if rest and _is_folder(entry):
            yield from _matching(folder / entry.name, inside / entry.name, rest)
        elif not rest and _is_file(entry):
            yield inside / entry.name


def _folders(top: Path) -> Iterator[Path]:
    """`top` and the folders below it, relative to it, each once, so that links in a circle end. Links come last, for a folder to be
    found by a name of its own where it has one."""
    folders, links, seen = [Path()], deque(), set()
    while folders or links:
        here = folders.pop() if folders else links.popleft()
        found = os.stat(top / here)
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        yield here
        for entry in _entries(top / here):
            if _is_folder(entry) and not entry.name.startswith("."):
                (links if entry.is_symlink() else folders).append(here / entry.name)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as problem:
        raise InputError(f"{folder} cannot be looked into: {problem.strerror}") from None


def _is_file(entry: os.DirEntry) -> bool:
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def _is_folder(entry: os.DirEntry) -> bool:
    """Links are asked by their path: entry.is_dir() raises for one that leads to itself."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _nearest(data: Path, parts: tuple[str, ...]) -> str:
    """How far a pattern leads, for a person."""
    folder = data
    for part in parts:
        inner = next((p for p in sorted(folder.iterdir()) if p.is_dir() and readable(p.name) == part), None) if folder.is_dir() else None
        if inner is None:
            break
        folder = inner
    if not folder.is_dir():
        return f"{folder} is no folder"
    names = sorted(readable(p.name) for p in folder.iterdir())
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"the nearest folder is {folder}, which " + (f"holds {some}" if names else "is empty")


def place(path: Path) -> str:
    """How a file is called in a place: below the data folder, with slashes, in NFC."""
    return "/".join(readable(part) for part in path.parts)


def readable(name: str) -> str:
    """A name on disk as a person reads it; unpacked on the wrong system, it may be in cp949."""
    return readable_bytes(os.fsencode(name))


def readable_bytes(raw: bytes) -> str:
    for encoding in ("utf-8", "cp949"):
        try:
            return unicodedata.normalize("NFC", raw.decode(encoding))
        except UnicodeDecodeError:
            continue
    return raw.decode("utf-8", "backslashreplace")


# ── opening ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Checked(io.RawIOBase):
    """A stream whose damage is Unreadable."""

    def __init__(self, inner: BinaryIO):
        self.inner, self.count = inner, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            data = self.inner.read(len(buffer))
        except DAMAGE as problem:
            raise Unreadable("unreadable-member", f"after {self.count:,} bytes: {str(problem) or type(problem).__name__}") from None
        self.count += len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.inner.close()
        super().close()


def checked(inner: BinaryIO) -> BinaryIO:
    return io.BufferedReader(Checked(inner), BUFFER)


def content(path: Path, data: Path) -> Content:
    """A file below the data folder; what ends in .gz, .bz2 or .zst is unpacked while it is read."""
    return Content(place(path), (data / path).stat().st_size, lambda: open_file(data / path))


def open_file(path: Path) -> BinaryIO:
    packed = COMPRESSED.get(path.suffix.lower())
    if packed is None:
        return open(path, "rb", buffering=BUFFER)
    import pyarrow

    # Python's gzip is seven times slower, and zstandard's reader takes a cut-off file for a whole one.
    try:
        return checked(pyarrow.input_stream(str(path), compression=packed, buffer_size=BUFFER))
    except DAMAGE as problem:
        raise Unreadable("unreadable-member", str(problem)) from None


# ── encodings and lines ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Lines:
    """The lines of a content and what they are encoded in, "utf-8" or "cp949"."""

    encoding: str
    _open: Callable[[], BinaryIO]

    @classmethod
    def of(cls, content: Content) -> "Lines":
        """UTF-8, UTF-16 with its mark, or cp949, told from the first megabyte."""
        head = content.head()
        if utf_16(head):  # its bytes have no line ends of their own, so it is read as UTF-8; offsets are those there
            return cls("utf-8", lambda: io.BufferedReader(_AsUtf8(content.open(), "utf-16"), BUFFER))
        return cls(encoding(head), content.open)

    def between(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes | None]]:
        """Offset (in bytes, unpacked) and bytes of each line, without its end; None for a line that is longer than LONGEST.

        Lines after the first line end at or after `start`, up to the one that begins at `stop` or last before it.
        So each line is in exactly one of the ranges 0 to a, a to b, b to None.
        """
        with self._open() as file:
            offset = 0
            if start:
                file.seek(start)
                offset = start + _rest_of_line(file, None if stop is None else stop - start)
            elif file.peek(3)[:3] == codecs.BOM_UTF8:
                offset = len(file.read(3))
            while stop is None or offset <= stop:
                line = file.readline(LONGEST)
                if not line:
                    return
                if line.endswith(b"\n") or len(line) < LONGEST:
                    yield offset, line.rstrip(b"\r\n")
                    offset += len(line)
                else:
                    length, line = len(line), b""
                    yield offset, None
                    offset += length + _rest_of_line(file)

    def decoded(self, place: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, "str | Fault"]]:
        """Offset and text of each line, or what is wrong with it."""
        for offset, data in self.between(start, stop):
            try:
                line = data.decode(self.encoding) if data is not None else None
            except UnicodeDecodeError:
                line = None
            yield offset, line if line is not None else self.fault(data, f"{place}#{offset}")

    def fault(self, data: bytes | None, place: str) -> Fault | None:
        """Why a line is no text, if it is none."""
        if data is None:
            return Fault("too-long-line", place, f"a line of more than {LONGEST:,} bytes")
        try:
            data.decode(self.encoding)
        except UnicodeDecodeError as problem:
            return Fault("wrong-encoding", place, _where(problem))
        return None


def _where(problem: UnicodeDecodeError) -> str:
    found = f"byte {problem.start} of {len(problem.object)} is {problem.object[problem.start]:#04x}"
    return f"{found}, which {problem.encoding} does not have there"


def _rest_of_line(file: BinaryIO, enough: int | None = None) -> int:
    """Skip to behind the next line end, or further than `enough` bytes; how many bytes that was."""
    skipped = 0
    while part := file.readline(BUFFER):
        skipped += len(part)
        if part.endswith(b"\n") or (enough is not None and skipped > enough):
            break
    return skipped


def utf_16(head: bytes) -> bool:
    return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def encoding(head: bytes) -> str:
    """ "utf-8" or "cp949": the one that all of `head` is in, else the one that more of its lines, or of its bytes, are in."""
    counts = {}
    for name in ("utf-8", "cp949"):
        try:
            codecs.getincrementaldecoder(name)().decode(head)  # the last character may be cut in two
            return name
        except UnicodeDecodeError:
            lines = [line for line in head.split(b"\n") if not line.isascii()]
            counts[name] = sum(map(_is_in, lines, [name] * len(lines)))
    if counts["cp949"] == counts["utf-8"]:  # as in JSON that is all one line: the one that has fewer bytes wrong
        counts = {name: -head.decode(name, "replace").count("\ufffd") for name in counts}
    return "cp949" if counts["cp949"] > counts["utf-8"] else "utf-8"


def _is_in(line: bytes, name: str) -> bool:
    try:
        line.decode(name)
    except UnicodeDecodeError:
        return False
    return True


class _AsUtf8(io.RawIOBase):
    """A stream in another encoding as UTF-8.

    Half a surrogate pair in UTF-16, or a wrong byte, becomes what is no UTF-8 either, so that it is found out where it stands.
    """

    def __init__(self, inner: BinaryIO, encoding: str):
        self.inner, self.encoding, self.waiting, self.ended = inner, encoding, b"", False
        self.errors = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
        self.decoder = codecs.getincrementaldecoder(encoding)(self.errors)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.waiting and not self.ended:
            data = self.inner.read1(BUFFER)
            self.ended = not data
            try:
                text = self.decoder.decode(data, final=self.ended)
            except UnicodeDecodeError as problem:
                raise Unreadable("wrong-encoding", f"{problem.object[problem.start]:#04x} where {self.encoding} has none") from None
            self.waiting = text.encode("utf-8", self.errors)
        part, self.waiting = self.waiting[: len(buffer)], self.waiting[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self.inner.close()
        super().close()


def decode(data: bytes) -> tuple[str, str | None]:
    """All of a file's bytes as text (UTF-8, UTF-16 with its mark, or cp949), and where a byte is wrong, if one is.

    Wrong bytes become halves of surrogate pairs, which no encoding has: only the documents that hold one will be refused.
    """
    name = "utf-16" if utf_16(data) else encoding(data[:HEAD])
    name = "utf-8-sig" if name == "utf-8" else name
    try:
        return data.decode(name), None
    except UnicodeDecodeError as problem:
        wrong = _where(problem)
    try:
        return data.decode(name, "surrogatepass" if name == "utf-16" else "surrogateescape"), wrong
    except UnicodeDecodeError:
        raise Unreadable("wrong-encoding", wrong) from None


def as_utf8(content: Content) -> BinaryIO:
    """The content in UTF-8 without a mark at its beginning, whatever it was in."""
    head = content.head()
    name = "utf-16" if utf_16(head) else encoding(head)
    if name != "utf-8":
        return io.BufferedReader(_AsUtf8(content.open(), name), BUFFER)
    file = content.open()
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    return file


def byte_pieces(source: Source, files: list[Path], data: Path, size: int | None = None) -> list[Piece]:
    """Plain files of lines in ranges of `size` bytes, PIECE_BYTES if none is given; compressed and UTF-16 files, which cannot be entered
    midway, whole."""
    pieces, size = [], size or PIECE_BYTES
    for path in files:
        whole = (data / path).stat().st_size
        starts = range(0, whole, size) if whole > size and _enterable(data / path) else (0,)
        pieces += [Piece(source.name, path, start, start + size if start != starts[-1] else None) for start in starts]
    return pieces


def _enterable(path: Path) -> bool:
    if path.suffix.lower() in COMPRESSED:
        return False
    with open(path, "rb") as file:
        return not utf_16(file.read(2))


def whole_files(source: Source, files: list[Path], data: Path) -> list[Piece]:
    return [Piece(source.name, path) for path in files]
