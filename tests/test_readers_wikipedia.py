"""A Wikipedia dump: articles alone, each once, whatever its compression and wherever it is cut."""

import bz2
import gzip
import io
from xml.sax.saxutils import escape

import pytest
from test_readers import SENTENCES, everything, faults, source, texts, write

from openko.corpus import readers
from openko.corpus.document import Text
from openko.corpus.readers import files, wikipedia

HEADER = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11">\n<siteinfo><sitename>위키</sitename></siteinfo>\n'
FOOTER = "</mediawiki>\n"


def page(number: int, text: str, *, title: str | None = None, ns: int = 0, redirect: bool = False) -> str:
    to = '<redirect title="다른 문서" />' if redirect else ""
    return (
        f"  <page>\n    <title>{escape(title or f'문서 {number}')}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n    {to}"
        f"<revision><id>{number + 1000}</id><contributor><id>9</id></contributor><model>wikitext</model>"
        f'<text bytes="1" xml:space="preserve">{escape(text)}</text></revision>\n  </page>\n'
    )


PAGES = [page(number, sentence) for number, sentence in enumerate(SENTENCES, 1)]
ARTICLES = [Text(f"문서 {n}\n\n{s}", f"#{n}", str(n)) for n, s in enumerate(SENTENCES, 1)]
DUMP = (HEADER + "".join(PAGES) + FOOTER).encode()


def articles(found: list) -> list[Text]:
    """Without the file's name in their places."""
    return [one._replace(place=one.place[one.place.index("#") :]) for one in found if isinstance(one, Text)]


def multistream(pages: int, cut: int = 0) -> bytes:
    """As Wikimedia makes them: header, some pages and footer each in a stream. cut: bytes to a stream, whatever ends there (pbzip2)."""
    parts = [HEADER.encode(), *("".join(PAGES[n : n + pages]).encode() for n in range(0, len(PAGES), pages)), FOOTER.encode()]
    if cut:
        whole = b"".join(parts)
        parts = [whole[n : n + cut] for n in range(0, len(whole), cut)]
    return b"".join(map(bz2.compress, parts))


def test_only_articles_are_read(tmp_path):
    others = [page(90, "토론", ns=1), page(91, "#넘겨주기 [[다른 문서]]", redirect=True), page(92, "틀", ns=10), page(93, "")]
    write(
        tmp_path / "a.xml", HEADER + PAGES[0] + "".join(others) + page(94, "'''굵은''' 글과 [[고리|연결]]이다.", title="가 & 나") + FOOTER
    )
    found = everything(source("wikipedia", "a.xml"), tmp_path)
    assert texts(found) == [ARTICLES[0].text, "가 & 나\n\n굵은 글과 연결이다."] and faults(found) == [("empty", "a.xml#93")]


@pytest.mark.parametrize("size", [1, 100, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", DUMP),
        ("a.xml.gz", gzip.compress(DUMP)),
        ("a.xml.bz2", bz2.compress(DUMP)),
        ("multi.xml.bz2", multistream(3)),
        ("cut.xml.bz2", multistream(3, cut=97)),
        ("tiny.xml.bz2", multistream(3, cut=5)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_article_is_in_exactly_one_piece(tmp_path, monkeypatch, name, content, size):
    monkeypatch.setattr(files, "PIECE_BYTES", max(size, len(content) // 300))
    write(tmp_path / name, content)
    found = everything(source("wikipedia", name), tmp_path)
    assert articles(found) == ARTICLES and faults(found) == []


def test_multistream_dumps_are_read_by_many(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 500)
    write(tmp_path / "a.xml.bz2", multistream(3))
    asked = source("wikipedia", "a.xml.bz2")
    by_piece = [
        list(readers.read(piece, asked, tmp_path)) for piece in readers.pieces(asked, readers.find_files(asked, tmp_path), tmp_path)
    ]
    assert sum(map(bool, by_piece)) > 5


@pytest.mark.parametrize("pages", [0, 3])
def test_pieces_of_bz2_read_little_more_than_their_own_bytes(tmp_path, monkeypatch, pages):
    counted = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            counted.append(len(data))
            return data

    content = multistream(pages) if pages else bz2.compress(DUMP)
    write(tmp_path / "a.xml.bz2", content)
    size = len(content) // 20
    monkeypatch.setattr(files, "PIECE_BYTES", size)
    monkeypatch.setattr(files, "BUFFER", 16)
    monkeypatch.setattr(wikipedia, "open", lambda path, mode: Counted(path, mode), raising=False)
    assert len(texts(everything(source("wikipedia", "a.xml.bz2"), tmp_path))) == len(PAGES)
    stream = len(content) // (len(PAGES) // pages) if pages else 0
    assert len(content) <= sum(counted) < 2 * len(content) + 21 * (2 * stream + 50)  # to the last page's end; once more for the marks


@pytest.mark.parametrize("suffix", [".xml", ".xml.gz", ".xml.bz2"])
@pytest.mark.parametrize("size", [400, 1 << 20])
def test_a_dump_that_is_cut_off_gives_what_came_before_and_a_fault(tmp_path, monkeypatch, suffix, size):
    monkeypatch.setattr(files, "PIECE_BYTES", size)
    whole = {".xml": DUMP, ".xml.gz": gzip.compress(DUMP), ".xml.bz2": multistream(3)}[suffix]
    name = f"a{suffix}"
    for cut in (len(whole) * 2 // 3, len(whole) - 25):
        write(tmp_path / name, whole[:cut])
        found = everything(source("wikipedia", name), tmp_path)
        assert articles(found) == ARTICLES[: len(texts(found))] and len(faults(found)) == 1
        if suffix != ".xml.gz":  # so few bytes are one block of gzip
            assert len(texts(found)) > 10


def test_a_dump_that_ends_between_two_pages_is_no_whole_one(tmp_path):
    write(tmp_path / "a.xml", HEADER + "".join(PAGES[:5]))
    write(tmp_path / "none.xml", "")
    found = everything(source("wikipedia", "*.xml"), tmp_path)
    assert articles(found) == ARTICLES[:5] and faults(found) == [("invalid-xml", "a.xml"), ("empty", "none.xml")]


def test_a_broken_page_is_a_fault_and_the_others_are_read(tmp_path, monkeypatch):
    broken = page(95, "열린 꺾쇠").replace("열린", "<열린")
    write(tmp_path / "a.xml", HEADER + PAGES[0] + broken + PAGES[1] + FOOTER)
    found = everything(source("wikipedia", "a.xml"), tmp_path)
    assert articles(found) == ARTICLES[:2] and faults(found) == [("invalid-xml", "a.xml")]
    monkeypatch.setattr(files, "LONGEST", 200_000)
    write(tmp_path / "endless.xml", HEADER + PAGES[0] + "<page>" + "끝없이" * 100_000)
    assert faults(everything(source("wikipedia", "endless.xml"), tmp_path)) == [("invalid-xml", "endless.xml")]


def test_a_damaged_stream_costs_no_more_than_its_piece(tmp_path, monkeypatch):
    whole = multistream(3)
    monkeypatch.setattr(files, "PIECE_BYTES", len(whole) // 4)
    at = len(whole) // 3
    write(tmp_path / "a.xml.bz2", whole[:at] + b"\0" * 20 + whole[at + 20 :])
    found = everything(source("wikipedia", "a.xml.bz2"), tmp_path)
    assert faults(found) == [("unreadable-member", "a.xml.bz2")] and len(texts(found)) > 25
