"""Articles of a Wikipedia dump (`*-pages-articles*.xml`, as it is or compressed; with bz2, also the multistream ones)."""

import bz2
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from openko.corpus.document import Fault, Piece, Source, Text
from openko.corpus.readers import files
from openko.corpus.readers.files import Unreadable

ARTICLES = "0"  # the namespace; talk, templates, categories and the like have other numbers
# MediaWiki escapes < in all text, so these bytes are these tags and nothing else.
BEGIN, END, LAST = b"<page>", b"</page>", b"</mediawiki>"
STREAM, MARKS = re.compile(rb"BZh[1-9]1AY&SY"), 10  # with which each bz2 stream begins, and how many bytes that are
ENTERABLE = (".bz2", ".xml")


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    """Ranges of PIECE_BYTES of the file as it lies. Of .bz2 those that no stream begins in are empty."""
    made = []
    for path in found:
        size = (data / path).stat().st_size if path.suffix.lower() in ENTERABLE else 0
        starts = [0, *range(files.PIECE_BYTES, size, files.PIECE_BYTES)]
        made += [Piece(source.name, path, start, stop) for start, stop in zip(starts, [*starts[1:], None], strict=True)]
    return made


def read(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    """Title, blank line and plain text of each article that is no redirect. Position and own id are the page's id."""
    place = files.place(piece.file)
    return files.guarded(_articles(piece, place, data), place)


def _articles(piece: Piece, place: str, data: Path) -> Iterator[Text | Fault]:
    from openko.corpus import markup  # mwparserfromhell is needed by this reader alone

    if not (data / piece.file).stat().st_size:
        raise Unreadable("empty", "0 bytes")
    for xml in _pages(_parts(data / piece.file, piece.start, piece.stop)):
        try:
            page = ElementTree.fromstring(xml)
        except ElementTree.ParseError as problem:
            yield Fault("invalid-xml", place, f"{problem}, in the page that begins {xml[:200].decode('utf-8', 'replace')!r}")
            continue
        if page.findtext("ns") != ARTICLES or page.find("redirect") is not None:
            continue
        title, number = page.findtext("title"), page.findtext("id")
        plain = markup.plain(page.findtext("revision/text") or "")
        here = f"{place}#{number}"
        yield Text(f"{title}\n\n{plain}", here, number) if plain.strip() else Fault("empty", here, f"{title}: no running text")


def _pages(parts: Iterator[tuple[bytes, bool]]) -> Iterator[bytes]:
    """The XML of each page that begins in the parts that belong to the piece; the last page may end in the next part."""
    buffer, ours, belongs, tail = b"", 0, False, b""  # ours: how many bytes of the buffer belong to the piece
    for part, belongs in parts:
        buffer, tail = buffer + part, (tail + part)[-100:]
        ours += len(part) if belongs else 0
        done = 0
        while 0 <= (begin := buffer.find(BEGIN, done)) < ours and (end := buffer.find(END, begin)) >= 0:
            done = end + len(END)
            yield buffer[begin:done]
        if begin < 0:
            done = max(done, len(buffer) - len(LAST) + 1)  # a tag may go on in the next part
        buffer, ours = buffer[done:], ours - done
        if not belongs and len(buffer) - ours >= len(BEGIN) and not 0 <= buffer.find(BEGIN) < ours:
            return
        if len(buffer) > files.LONGEST:
            raise Unreadable("invalid-xml", f"a page of more than {files.LONGEST:,} bytes, so its end is missing")
    tail = tail.rstrip()
    if belongs and not (tail.endswith(LAST) or LAST.endswith(tail)):  # if the end does not belong to this piece, its own will say so
        raise Unreadable("invalid-xml", "the dump ends in the middle: was its download cut off?")


def _parts(path: Path, start: int, stop: int | None) -> Iterator[tuple[bytes, bool]]:
    """XML from `start` on, and whether it belongs to the piece; goes on behind the piece for as long as it is asked to."""
    suffix = path.suffix.lower()
    if suffix == ".bz2":
        yield from _bz2_parts(path, start, stop)
        return
    with files.open_file(path) as file:
        file.seek(start) if start else None
        at = start
        while part := file.read(files.BUFFER if stop is None or at >= stop else min(files.BUFFER, stop - at)):
            yield part, stop is None or at < stop
            at += len(part)


def _bz2_parts(path: Path, start: int, stop: int | None) -> Iterator[tuple[bytes, bool]]:
    """A stream of bz2 belongs to the piece in which its first byte is. Multistream dumps have one for every hundred pages."""
    with open(path, "rb") as file:
        begin = _first_stream(file, start, stop) if start else 0
        if begin is None:
            return
        file.seek(begin)
        stream, belongs, unfinished = bz2.BZ2Decompressor(), True, False
        while packed := file.read(files.BUFFER):
            while packed or not stream.needs_input:
                try:
                    part, packed = stream.decompress(packed, files.HEAD), b""
                except OSError as problem:
                    if belongs:
                        raise Unreadable("unreadable-member", f"before byte {file.tell():,}: {problem}") from None
                    yield b"", belongs  # the piece that the stream belongs to says so
                    return
                yield part, belongs
                unfinished = not stream.eof
                if stream.eof:
                    packed, stream = stream.unused_data, bz2.BZ2Decompressor()
                    belongs = stop is None or file.tell() - len(packed) < stop
        if unfinished and belongs:
            raise Unreadable("unreadable-member", "the file ends in the middle of a bz2 stream: was its download cut off?")


def _first_stream(file, start: int, stop: int | None) -> int | None:
    """Where the first bz2 stream that begins from `start` to before `stop` does; only the marks of the last can be behind `stop`."""
    file.seek(start)
    at, end, kept = start, stop + MARKS - 1 if stop is not None else sys.maxsize, b""
    while part := file.read(min(files.HEAD, end - at)):
        at += len(part)
        window = kept + part
        if found := STREAM.search(window):
            return at - len(window) + found.start()
        kept = window[1 - MARKS :]
    return None
