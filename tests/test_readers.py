"""openko.corpus.readers: files are found by their names, every line is read once, and what cannot be read says why."""

import ast
import bz2
import dataclasses
import gzip
import itertools
import json
import os
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
import zstandard

from openko.corpus import readers
from openko.corpus.document import FAULTS, Fault, Piece, Source, Text
from openko.corpus.readers import files, json_documents, paths, python
from openko.errors import InputError

SENTENCES = [f"{number}번째 문장은 시험을 위해 쓴 것이다." for number in range(40)]


def source(reader: str, *path: str, split: str | None = None, **options) -> Source:
    return Source(name="source", reader=reader, licence="own", language="ko", path=path, split=split, options=options)


def everything(asked: Source, data: Path) -> list[Text | Fault]:
    """What all pieces hold, in order; each place once, each reason a known one."""
    pieces = readers.pieces(asked, readers.find_files(asked, data), data)
    found = [one for piece in pieces for one in readers.read(piece, asked, data)]
    places = [one.place for one in found if isinstance(one, Text)]
    assert len(set(places)) == len(places)
    assert all(one.reason in FAULTS and one.detail for one in found if isinstance(one, Fault))
    return found


def texts(found: list[Text | Fault]) -> list[str]:
    return [one.text for one in found if isinstance(one, Text)]


def faults(found: list[Text | Fault]) -> list[tuple[str, str]]:
    return [(one.reason, one.place) for one in found if isinstance(one, Fault)]


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(records) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


# ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_brackets_mean_themselves_and_stars_are_patterns(tmp_path):
    for name in ("01.데이터/[라벨]뉴스.txt", "01.데이터/라.txt", "01.데이터/[원천]뉴스.txt", "01.데이터/깊이/더/[라벨]글1.txt"):
        write(tmp_path / name, "글")

    def found(*patterns):
        return [path.as_posix() for path in readers.find_files(source("text", *patterns), tmp_path)]

    assert found("01.데이터/[라벨]*.txt") == ["01.데이터/[라벨]뉴스.txt"]
    assert found("**/[라벨]*.txt") == ["01.데이터/[라벨]뉴스.txt", "01.데이터/깊이/더/[라벨]글1.txt"]
    assert found("01.데이터/**/*글?.txt") == ["01.데이터/깊이/더/[라벨]글1.txt"]
    assert len(found("**", "01.데이터/*.txt", "**/**/*.txt")) == 4  # each once, whatever the patterns


def test_names_are_compared_and_given_in_nfc_but_opened_as_they_are(tmp_path):
    decomposed = unicodedata.normalize("NFD", "한국어/말뭉치.txt")
    write(tmp_path / decomposed, "글이다.")
    asked = source("text", "한국어/말뭉치.txt")
    (path,) = readers.find_files(asked, tmp_path)
    assert (tmp_path / path).is_file()
    assert everything(asked, tmp_path) == [Text("글이다.", "한국어/말뭉치.txt#0")]


def test_names_in_cp949_are_found_too(tmp_path):
    (tmp_path / os.fsdecode("말뭉치.txt".encode("cp949"))).write_text("글이다.")
    assert everything(source("text", "말뭉치.txt"), tmp_path) == [Text("글이다.", "말뭉치.txt#0")]


def test_hidden_files_need_to_be_asked_for_and_links_may_lead_out(tmp_path):
    outside = write(tmp_path / "outside" / "a.txt", "밖")
    data = tmp_path / "data"
    write(data / "._b.txt", "숨은")
    write(data / "inner" / "c.txt", "안")
    (data / "d.txt").symlink_to(outside)
    (data / "inner" / "circle").symlink_to(data)
    assert [p.name for p in readers.find_files(source("text", "**/*.txt"), data)] == ["d.txt", "c.txt"]
    assert [p.name for p in readers.find_files(source("text", ".*"), data)] == ["._b.txt"]


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    write(outside / "deep" / "a.txt", "밖")
    write(data / "z" / "b.txt", "안")
    (outside / "back").symlink_to(data)
    (data / "linked").symlink_to(outside)
    (data / "a").symlink_to(data / "z")  # what has a name of its own is found by it
    (data / "itself").symlink_to(data / "itself")
    (data / "nowhere").symlink_to(tmp_path / "nowhere")
    for pattern in ("**/*.txt", "**/**/*.txt"):
        assert {p.as_posix() for p in readers.find_files(source("text", pattern), data)} >= {"linked/deep/a.txt", "z/b.txt"}
    assert len(readers.find_files(source("text", "**/*.txt"), data)) == 2
    assert [p.as_posix() for p in readers.find_files(source("text", "*/*.txt"), data)] == ["a/b.txt", "z/b.txt"]


def test_options_of_readers_are_no_fields_of_sources():
    fields = {field.name for field in dataclasses.fields(Source)}
    assert {name: fields & set(reader.options) for name, reader in readers.READERS.items() if fields & set(reader.options)} == {}


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("020.뉴스/없음/*.zip", "'020.뉴스/없음/*.zip' finds nothing in {data}: the nearest folder is {data}/020.뉴스, which holds a.txt"),
        ("../*.txt", "leads out of"),
        ("/etc/*", "leads out of"),
        ("C:/*", "leads out of"),
    ],
)  # fmt: skip
def test_what_is_not_found_is_refused_with_the_nearest_folder(tmp_path, pattern, told):
    write(tmp_path / "020.뉴스" / "a.txt", "글")
    with pytest.raises(InputError) as refused:
        readers.find_files(source("text", pattern), tmp_path)
    assert told.format(data=tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (source("hwp", "*"), "no reader 'hwp'; there are jsonl, text, parquet"),
        (source("jsonl", "*", colour="red"), "no option 'colour'; it knows text, id"),
        (source("jsonl", "*", split="train"), "no split 'train'"),
        (source("aihub", "*", split="dev"), "no split 'dev'; it knows train, validation, test"),
        (source("jsonl"), "needs a path"),
        (source("python-reference", "*"), "reads no files"),
        (source("jsonl", "*", text="a..b"), "'a..b' is no path"),
        (source("text", "*", separator="comma"), "separator is one of blank-lines, lines"),
        (source("json", "*", text="a"), "needs `documents` and `text`"),
        (source("aihub", "*", json="data[].text"), "json is '<path of the documents> / <path of their text>'"),
        (source("aihub", "*", text=0), "its number from 1"),
        (source("aihub", "*", questions="yes"), "questions is true or false"),
        (source("hub", split="train"), "needs `dataset`"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else value.reader,
)
def test_what_a_reader_does_not_know_is_refused(tmp_path, asked, told):
    with pytest.raises(InputError, match="source") as refused:
        readers.pieces(asked, [], tmp_path)
    assert told in str(refused.value)


# ── JSON Lines ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 7, 64, 100, 1000, 1 << 20])
def test_every_line_is_in_exactly_one_piece(tmp_path, monkeypatch, size):
    content = jsonl({"text": sentence * (n % 7 + 1), "id": n} for n, sentence in enumerate(SENTENCES))
    write(tmp_path / "a.jsonl", content)
    write(tmp_path / "b.jsonl", content.rstrip(b"\n"))
    write(tmp_path / "empty.jsonl", b"")
    asked = source("jsonl", "*.jsonl")
    whole = everything(asked, tmp_path)
    monkeypatch.setattr(files, "PIECE_BYTES", size)
    assert everything(asked, tmp_path) == whole
    assert len(readers.pieces(asked, [Path("a.jsonl")], tmp_path)) == -(-len(content) // size)
    assert [t.own_id for t in whole] == [str(n) for n in range(40)] * 2
    for found in whole:  # a place is a file and an offset
        name, offset = found.place.split("#")
        assert json.loads((tmp_path / name).read_bytes()[int(offset) :].split(b"\n")[0])["text"] == found.text


def compressed(content: bytes, suffix: str) -> bytes:
    """In two parts behind one another, as tools that work in parallel write them."""
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.ZstdCompressor().compress, "": bytes}[suffix]
    return packed(content[:100]) + packed(content[100:])


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_compressed_files_hold_what_plain_ones_do(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 50)
    content = jsonl({"text": sentence} for sentence in SENTENCES)
    write(tmp_path / "a.jsonl", content)
    write(tmp_path / f"b.jsonl{suffix}", compressed(content, suffix))
    plain, packed = (everything(source("jsonl", pattern), tmp_path) for pattern in ("a.*", "b.*"))
    assert [(t.text, t.place.split("#")[1]) for t in packed] == [(t.text, t.place.split("#")[1]) for t in plain]
    assert len(readers.pieces(source("jsonl", "b.*"), [Path(f"b.jsonl{suffix}")], tmp_path)) == 1


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_a_compressed_file_that_is_cut_off_is_no_whole_one(tmp_path, suffix):
    content = jsonl({"text": os.urandom(200).hex()} for _ in range(4000))
    packed = compressed(content, suffix)
    write(tmp_path / f"cut.jsonl{suffix}", packed[: len(packed) * 3 // 4])
    write(tmp_path / f"garbage.jsonl{suffix}", b"no such stream" * 100)
    found = everything(source("jsonl", "cut.*"), tmp_path)
    assert 1000 < len(texts(found)) < 4000 and faults(found) == [("unreadable-member", f"cut.jsonl{suffix}")]
    assert faults(everything(source("jsonl", "garbage.*"), tmp_path)) == [("unreadable-member", f"garbage.jsonl{suffix}")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16", "utf-16-le-mark", "utf-16-be-mark"])
@pytest.mark.parametrize("reader", ["jsonl", "text"])
def test_encodings_hold_what_utf_8_does(tmp_path, monkeypatch, encoding, reader):
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    lines = [json.dumps({"text": s}, ensure_ascii=False) for s in SENTENCES] if reader == "jsonl" else SENTENCES
    content = "\r\n".join(lines)
    mark = "\ufeff" if encoding.endswith("mark") else ""
    write(tmp_path / "a.txt", content)
    write(tmp_path / "b.txt", (mark + content).encode(encoding.removesuffix("-mark")))
    options = {} if reader == "jsonl" else {"separator": "lines"}
    for name in ("a.txt", "b.txt"):
        assert texts(everything(source(reader, name, **options), tmp_path)) == SENTENCES


def test_lines_that_cannot_be_read_are_faults_and_the_others_are_read(tmp_path):
    lines = [
        b'{"text": "\xea\xb0\x80 good", "id": 1}',
        b'{"text": "cut',
        b'{"text": "\xff\xfe broken"}',
        b"",
        b'{"text": 5}',
        b'{"text": null}',
        b'{"body": "elsewhere"}',
        b'{"text": " \\n "}',
        b'["text"]',
        b'{"text": "number that is none", "value": NaN}',
        b"[" * 100_000,
        b'{"text": "last", "id": [1]}',
    ]
    write(tmp_path / "a.jsonl", b"\n".join(lines))
    offsets = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    found = everything(source("jsonl", "a.jsonl"), tmp_path)
    assert [(t.text, t.own_id) for t in found if isinstance(t, Text)] == [("가 good", "1"), ("number that is none", None), ("last", None)]
    assert faults(found) == [
        (reason, f"a.jsonl#{offsets[number]}")
        for number, reason in [
            (1, "invalid-json"), (2, "wrong-encoding"), (4, "wrong-type"), (5, "missing-field"), (6, "missing-field"), (7, "empty"),
            (8, "wrong-type"), (10, "invalid-json"),
        ]
    ]  # fmt: skip
    details = [one.detail for one in found if isinstance(one, Fault)]
    assert "Unterminated string" in details[0] and "0xff" in details[1] and "a number" in details[2] and "body" in details[4]


def test_fields_are_named_by_dots(tmp_path):
    write(tmp_path / "a.jsonl", jsonl([{"meta": {"text": "안에 있다.", "key": 7}}, {"meta": "text"}]))
    found = everything(source("jsonl", "a.jsonl", text="meta.text", id="meta.key"), tmp_path)
    assert found[0] == Text("안에 있다.", "a.jsonl#0", "7") and found[1].reason == "missing-field"


def test_half_cp949_files_are_read_line_by_line(tmp_path):
    good = SENTENCES[0].encode("cp949")
    write(tmp_path / "a.txt", b"\n".join([good, good, SENTENCES[1].encode(), b"\xff\xff", good]))
    found = everything(source("text", "a.txt", separator="lines"), tmp_path)
    assert texts(found) == [SENTENCES[0]] * 3 and [reason for reason, _ in faults(found)] == ["wrong-encoding"] * 2


def test_one_broken_byte_does_not_make_utf_8_into_cp949(tmp_path):
    lines = [s.encode() for s in SENTENCES]
    lines[3] = lines[3][:-2] + b"\x80" + lines[3][-2:]
    write(tmp_path / "a.txt", b"\n".join(lines))
    found = everything(source("text", "a.txt", separator="lines"), tmp_path)
    assert texts(found) == SENTENCES[:3] + SENTENCES[4:] and faults(found) == [
        ("wrong-encoding", f"a.txt#{sum(len(x) + 1 for x in lines[:3])}")
    ]


def test_half_a_character_of_utf_16_is_a_fault(tmp_path):
    write(tmp_path / "odd.txt", "가나\n다".encode("utf-16") + b"\x01")
    write(tmp_path / "half.txt", "가나\n\ud800\n다".encode("utf-16", "surrogatepass"))
    odd, half = (everything(source("text", name, separator="lines"), tmp_path) for name in ("odd.txt", "half.txt"))
    assert faults(odd) == [("wrong-encoding", "odd.txt")]
    assert texts(half) == ["가나", "다"] and faults(half) == [("wrong-encoding", "half.txt#7")]


def test_a_line_of_70_mb_is_refused_in_bounded_memory(tmp_path):
    good = jsonl([{"text": "짧다."}])
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(good + b'{"text": "')
        file.seek(70_000_000, os.SEEK_CUR)  # zeros, which take no room on the disk
        file.write(b'"}\n' + good)
    asked = source("jsonl", "a.jsonl")
    tracemalloc.start()
    found = everything(asked, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts(found) == ["짧다."] * 2 and faults(found) == [("too-long-line", f"a.jsonl#{len(good)}")]
    assert len(readers.pieces(asked, [Path("a.jsonl")], tmp_path)) == 2
    assert peak < 200e6


# ── text ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_file_is_one_document_or_many(tmp_path):
    write(tmp_path / "a.txt", "첫 줄\n둘째 줄\n \n\n셋째 줄\r\n")

    def found(**options):
        return [(t.text, t.place) for t in everything(source("text", "a.txt", **options), tmp_path)]

    first, second, third = 0, len("첫 줄\n".encode()), len("첫 줄\n둘째 줄\n \n\n".encode())
    assert found() == [("첫 줄\n둘째 줄\n \n\n셋째 줄", "a.txt#0")]
    assert found(separator="lines") == [("첫 줄", f"a.txt#{first}"), ("둘째 줄", f"a.txt#{second}"), ("셋째 줄", f"a.txt#{third}")]
    assert found(separator="blank-lines") == [("첫 줄\n둘째 줄", f"a.txt#{first}"), ("셋째 줄", f"a.txt#{third}")]


def test_a_document_with_a_line_that_cannot_be_decoded_is_refused_as_a_whole(tmp_path):
    write(tmp_path / "a.txt", "처음\n".encode() + b"\xff\xff\n" + "더\n\n다음".encode())
    (whole,) = everything(source("text", "a.txt"), tmp_path)
    assert whole.reason == "wrong-encoding"
    found = everything(source("text", "a.txt", separator="blank-lines"), tmp_path)
    assert texts(found) == ["다음"] and faults(found) == [("wrong-encoding", "a.txt#0")]


def test_documents_that_are_too_long_or_empty_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 100)
    write(tmp_path / "long.txt", "열 글자인 한 줄이다.\n" * 20)
    write(tmp_path / "blank.txt", " \n\n")
    write(tmp_path / "none.txt", "")
    found = everything(source("text", "*.txt"), tmp_path)
    assert faults(found) == [("empty", "blank.txt#0"), ("too-long-line", "long.txt"), ("empty", "none.txt#0")]
    assert "separator" in found[1].detail
    assert faults(everything(source("text", "long.txt", separator="blank-lines"), tmp_path)) == [("too-long-line", "long.txt#0")]


# ── paths and JSON ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("a", {"a": "글"}, "글"),
        ("a.b", {"a": {"b": "글"}}, "글"),
        ("", "글", "글"),
        ("a[]", {"a": ["하나", None, "둘"]}, "하나\n둘"),
        ("a[ ]", {"a": ["하나", "둘"]}, "하나 둘"),
        ("a[][ ].b", {"a": [[{"b": "하나"}, {"b": "둘"}], [{"c": "x"}], [{"b": "셋"}]]}, "하나 둘\n셋"),
        ("[].a", [{"a": "하나"}, {"a": "둘"}], "하나\n둘"),
        ("a[]", {"a": []}, None),
        ("a[]", {"a": "글"}, None),
        ("a.b", {"a": ["글"]}, None),
        ("Meta(Refine).passage", {"Meta(Refine)": {"passage": "글"}}, "글"),
    ],
)
def test_paths_lead_to_texts(path, value, text):
    assert paths.parse(path).text(value) == text


@pytest.mark.parametrize("written", ["a.", ".a", "a..b", "a[0]", "a[", "a]b", "[]a", "a[].[]"])
def test_what_is_no_path_is_refused(written):
    with pytest.raises(InputError, match="is no path"):
        paths.parse(written)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 1,}', [{"a": 1}]),
        ('[1, 2, ]', [[1, 2]]),
        ('{"a": "한\n줄\t"}', [{"a": "한\n줄\t"}]),
        ('{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}, {"a": 2},', [{"a": 1}, {"a": 2}]),
        ('{"a": "쉼표,]와 \\",}\\" 따옴표",}', [{"a": '쉼표,]와 ",}" 따옴표'}]),
        ('{"a": -Infinity}', [{"a": float("-inf")}]),
    ],
)  # fmt: skip
def test_json_is_read_leniently(text, values):
    assert json_documents.lenient(text) == (values, None)


@pytest.mark.parametrize("piece", ['"\\', '\\"', "[", "{", ",", ", ", '",', "{}", '"\\",]'])
def test_lenient_reading_takes_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    json_documents.lenient(text)  # quadratic time would be minutes


# ── Python ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_python_documents_itself(tmp_path):
    for reader, known in (("python-reference", "lambda"), ("python-docstrings", "json/__init__")):
        asked = source(reader)
        assert readers.find_files(asked, tmp_path) == [] and readers.pieces(asked, [], tmp_path) == [Piece("source", None)]
        found = {t.own_id: t.text for t in everything(asked, tmp_path)}
        assert known in found and all(len(text) > 50 for text in found.values())
    assert not any(name.startswith(("test/", "idlelib/")) for name in found)


DEFINITIONS = """
class Outer:
    def method(self): "D method"
    class Inner: "D inner"
try:
    def tried(): "D tried"
except OSError:
    def caught(): "D caught"
else:
    async def gone_on(): "D gone on"
finally:
    def ended(): "D ended"
match 1:
    case 1:
        def matched(): "D matched"
for _ in ():
    while True:
        with open("x"):
            if True:
                def deep(): "D deep"
            else:
                def other(): "D other"
"""


def test_docstrings_are_found_wherever_a_definition_can_stand_in_the_order_of_ast_walk(tmp_path):
    (tmp_path / "module.py").write_text('"D module"\n' + DEFINITIONS, encoding="utf-8")
    named = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse((tmp_path / "module.py").read_text(encoding="utf-8")))
    walked = [ast.get_docstring(node) for node in nodes if isinstance(node, named)]
    found = list(python._docstrings(tmp_path / "module.py"))
    assert found == [text for text in walked if text] and len(found) == 10
