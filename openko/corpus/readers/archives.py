"""Zip archives read in place, safely: nothing is unpacked to a name that an archive gives, and nothing without a limit."""

import functools
import io
import os
import re
import struct
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from openko.corpus.document import Fault, Piece, Source
from openko.corpus.readers import files
from openko.corpus.readers.files import Content, Unreadable

MOST_BYTES = 2 << 30  # of an unpacked member, unless it is an archive that can be read where it lies
MOST_RATIO = 200  # unpacked to packed: text is packed to a third or, where it repeats itself, to a fiftieth
SMALL = 64 << 20  # bytes: what unpacks to less is no danger, whatever its ratio

ENCRYPTED, UTF8_NAME = 0x1, 0x800  # bits of a member's flags
METHODS = {9: "Deflate64, which Windows makes of large files", 93: "Zstandard", 98: "PPMd", 99: "AES encryption"}
LOCAL = struct.Struct("<4sHHHHHIIIHH")  # a member's own header: signature, version, flags, method, time, date, CRC, sizes, lengths
WITHOUT_TEXT = re.compile(r"(?:^|/)(?:__MACOSX/|\.(?!\.?/))")  # what macOS puts beside each file, and hidden files


@dataclass(frozen=True)
class Member:
    """name: as a person reads it, with slashes, in NFC.  start: where its bytes begin, of members that were recovered."""

    name: str
    info: zipfile.ZipInfo
    start: int | None = None

    @property
    def lies_open(self) -> bool:
        """Whether it is an archive that was packed as it is, so that its members can be read without unpacking it."""
        return _is_zip(self.info.filename) and self.info.compress_type == zipfile.ZIP_STORED

    def refused(self) -> tuple[str, str] | None:
        """The reason, one of FAULTS, and what was found, if the member must not be opened.

        The size that it declares is what counts: zipfile gives out no byte more, and takes what is longer for damaged.
        """
        packed, unpacked = self.info.compress_size, self.info.file_size
        if self.name.startswith("/") or re.match("[A-Za-z]:", self.name) or ".." in self.name.split("/"):
            return "escaping-path", f"the name is {self.name!r}"
        if unpacked > max(SMALL, MOST_RATIO * packed):
            return "zip-bomb", f"{packed:,} bytes that say they unpack to {unpacked:,}"
        if unpacked > MOST_BYTES and not self.lies_open:
            return "too-large", f"it unpacks to {unpacked:,} bytes: unpack it and name the folder in the recipe"
        if self.info.flag_bits & ENCRYPTED:
            return "unreadable-member", "it is encrypted"
        return None


class Archive:
    """The members of a zip file, in its order. fault: what is wrong with the archive as a whole."""

    def __init__(self, file: BinaryIO):
        self.file, self.fault, self.zip = file, None, None
        size = file.seek(0, io.SEEK_END)
        try:
            self.zip = zipfile.ZipFile(file)
            _check_directory(self.zip, file)
            self.members = _members((info, None) for info in self.zip.infolist())
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, struct.error) as problem:
            self.members, lost = _recovered(file, size)
            found = f"{len(self.members)} members are recovered from their own headers"
            self.fault = (
                "broken-archive",
                f"{problem}, as where a download was cut off; {found}, what begins at byte {lost:,} of {size:,} is lost",
            )
        # Folders and macOS's companions hold no text. What is left keeps its number, by which pieces know it.
        self.members = [m for m in self.members if not m.name.endswith("/") and not WITHOUT_TEXT.search(m.name)]
        if sum(m.info.compress_size for m in self.members) > size:
            self.members, self.fault = (
                [],
                ("zip-bomb", "its members have more packed bytes than the archive, so they must lie on each other"),
            )

    def open(self, member: Member) -> BinaryIO:
        """The unpacked bytes of a member; Unreadable is raised here if it must not be opened, and while reading if it is damaged."""
        if refused := member.refused():
            raise Unreadable(*refused)
        try:
            if member.start is None:
                inner = self.zip.open(member.info)
            else:
                self.file.seek(member.start)
                inner = zipfile.ZipExtFile(self.file, "r", member.info)
        except (*files.DAMAGE, NotImplementedError, RuntimeError, struct.error) as problem:
            method = METHODS.get(member.info.compress_type)
            about = f"{method}: unpack it with a program that can, and name the folder in the recipe" if method else str(problem)
            raise Unreadable("unreadable-member", about) from None
        return files.checked(inner)

    def part(self, member: Member) -> BinaryIO:
        """The bytes of a member that lies open, where they are in the archive."""
        if refused := member.refused():
            raise Unreadable(*refused)
        start = member.start
        if start is None:
            self.file.seek(member.info.header_offset)
            header = self.file.read(LOCAL.size)
            if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
                raise Unreadable("unreadable-member", f"no member begins at byte {member.info.header_offset:,}, where the directory has it")
            start = member.info.header_offset + LOCAL.size + sum(LOCAL.unpack(header)[-2:])
        return io.BufferedReader(_Part(self.file, start, member.info.compress_size), files.BUFFER)


class _Part(io.RawIOBase):
    """Some bytes of a file as a file. It can be read by turns with other parts: each seeks before it reads."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer) -> int:
        self.file.seek(self.start + self.at)
        data = self.file.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _members(infos: Iterable[tuple[zipfile.ZipInfo, int | None]]) -> list[Member]:
    """A name that was there before is given its count, for places to differ."""
    members, seen = [], Counter()
    for info, start in infos:
        name = _name(info)
        seen[name] += 1
        if seen[name] > 1:
            name = f"~{seen[name]}".join(os.path.splitext(name))
        members.append(Member(name, info, start))
    return members


def _name(info: zipfile.ZipInfo) -> str:
    """zipfile reads names without the flag for UTF-8 as cp437; Korean programs write cp949 there, macOS UTF-8 all the same."""
    name = info.orig_filename.split("\0")[0] if info.orig_filename else info.filename
    if not info.flag_bits & UTF8_NAME:
        name = files.readable_bytes(name.encode("cp437"))
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _recovered(file: BinaryIO, size: int) -> tuple[list[Member], int]:
    """The members of a zip without its directory, as far as their own headers tell where each ends; and where that stops."""
    infos, at = [], 0
    while True:
        file.seek(at)
        header = file.read(LOCAL.size)
        if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
            return _members(infos), at
        _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = LOCAL.unpack(header)
        name, extra = file.read(name_length), file.read(extra_length)
        if packed == unpacked == 0xFFFFFFFF and extra[:2] == b"\1\0" and len(extra) >= 20:
            unpacked, packed = struct.unpack_from("<QQ", extra, 4)
        start = at + LOCAL.size + name_length + extra_length
        if start + packed > size or (flags & 0x8 and not packed):  # cut off, or sizes that stand behind the data
            return _members(infos), at
        info = zipfile.ZipInfo(name.decode("utf-8", "replace") if flags & UTF8_NAME else name.decode("cp437"))
        info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size = flags, method, crc, packed, unpacked
        infos.append((info, start))
        at = start + packed


# ── pieces ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    """Runs of members of up to PIECE_BYTES unpacked; files that are no archive whole."""
    made = []
    for path in found:
        starts = _starts(data / path) if _is_zip(path.name) else [0]
        stops = [*starts[1:], None]
        made += [Piece(source.name, path, start, stop) for start, stop in zip(starts, stops, strict=True)]
    return made


def _starts(path: Path) -> list[int]:
    """Numbers of the members at which pieces begin."""
    starts, size = [0], 0
    for number, member in enumerate(_opened(path).members):
        if size and size + member.info.file_size > files.PIECE_BYTES:
            starts.append(number)
            size = 0
        size += member.info.file_size
    return starts


def contents(piece: Piece, data: Path) -> Iterator[Content | Fault]:
    """The file of a piece, or the members of its archive; those of archives inside it too, one level deep."""
    if not _is_zip(piece.file.name):
        yield files.content(piece.file, data)
        return
    place, archive = files.place(piece.file), _opened(data / piece.file)
    if archive.fault and piece.start == 0:
        yield Fault(archive.fault[0], place, archive.fault[1])
    for member in archive.members[piece.start : piece.stop]:
        inside = f"{place}!{member.name}"
        if _is_zip(member.info.filename):
            yield from _nested(archive, member, inside)
        else:
            yield Content(inside, member.info.file_size, functools.partial(archive.open, member))


def _check_directory(opened: zipfile.ZipFile, file: BinaryIO) -> None:
    """A zip that was cut off behind a stored inner zip ends in that one's directory, which zipfile then takes for the whole's."""
    file.seek(0)
    if file.read(4) == b"PK\x03\x04" and min((info.header_offset for info in opened.infolist()), default=1) > 0:
        raise zipfile.BadZipFile("its directory is that of an archive inside of it")


def _nested(archive: Archive, member: Member, place: str) -> Iterator[Content | Fault]:
    try:
        with archive.part(member) if member.lies_open else tempfile.SpooledTemporaryFile(files.PIECE_BYTES) as file:
            if not member.lies_open:
                with archive.open(member) as packed:
                    while part := packed.read(files.BUFFER):
                        file.write(part)
            yield from _inside(Archive(file), place)
    except Unreadable as problem:
        yield Fault(problem.reason, place, problem.detail)


def _inside(inner: Archive, place: str) -> Iterator[Content | Fault]:
    if inner.fault:
        yield Fault(inner.fault[0], place, inner.fault[1])
    for found in inner.members:
        inside = f"{place}!{found.name}"
        if _is_zip(found.info.filename):
            yield Fault("unknown-form", inside, "an archive in an archive in an archive: unpack the outer one")
        else:
            yield Content(inside, found.info.file_size, functools.partial(inner.open, found))


def count(piece: Piece, data: Path) -> int:
    """How many members the archive of a piece has; 1 of a file that is no archive."""
    return len(_opened(data / piece.file).members) if _is_zip(piece.file.name) else 1


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _opened(path: Path) -> Archive:
    stat = path.stat()
    return _kept(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1)  # a worker reads pieces of one archive after another, and a directory of many members is slow to read
def _kept(path: Path, changed: int, size: int) -> Archive:
    return Archive(open(path, "rb", buffering=files.BUFFER))
