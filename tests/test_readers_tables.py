"""Tables: CSV, TSV, Excel, Parquet and data sets in the hub's form; each row once, and a reason for each that cannot be read."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import HfHubHTTPError
from test_readers import SENTENCES, everything, faults, source, texts, write

from openko.corpus import readers
from openko.corpus.document import Fault, Text
from openko.corpus.readers import files, tables
from openko.errors import InputError

ONE, TWO, THREE = SENTENCES[:3]


def workbook(sheets: dict[str, list[list]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def table(rows: list[dict], path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


# ── CSV and TSV ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("column", ["text", "Sentence", "문장", "원문", "본문", "한국어"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_the_column_is_told_by_the_header(tmp_path, column, encoding):
    write(tmp_path / "a.csv", f"번호,{column},영어\n1,{ONE},one\n\n2,{TWO},two\n".encode(encoding))
    assert everything(source("aihub", "a.csv"), tmp_path) == [Text(ONE, "a.csv#1"), Text(TWO, "a.csv#3")]


def test_a_column_of_ones_own_by_name_or_number(tmp_path):
    write(tmp_path / "a.tsv", f"text\t제목\n{ONE}\t{TWO}\n")
    write(tmp_path / "b.tsv", f"책.1\t{ONE}\n책.2\t{TWO}\n")
    assert texts(everything(source("aihub", "a.tsv", text="제목"), tmp_path)) == [TWO]
    assert everything(source("aihub", "b.tsv", text=2), tmp_path) == [Text(ONE, "b.tsv#0"), Text(TWO, "b.tsv#1")]
    (unknown,) = everything(source("aihub", "b.tsv"), tmp_path)
    assert unknown.reason == "unknown-form" and "책.1" in unknown.detail


def test_rows_that_cannot_be_read_are_faults(tmp_path, monkeypatch):
    rows = ["id,text", f"1,{ONE}", "2", "3,", "4,\xff", f"5,{TWO}\r6,x", f"7,{THREE}"]
    write(tmp_path / "a.csv", b"\n".join(row.encode("utf-8" if "\xff" not in row else "latin-1") for row in rows))
    found = everything(source("aihub", "a.csv"), tmp_path)
    assert texts(found) == [ONE, THREE]
    assert [reason for reason, _ in faults(found)] == ["missing-field", "empty", "wrong-encoding", "invalid-table"]


def test_a_quotation_mark_that_is_never_closed_does_not_eat_memory(tmp_path):
    write(tmp_path / "a.csv", f'id,text\n1,{ONE}\n2,"{TWO}\n' + f"3,{THREE}\n" * 1000)
    found = everything(source("aihub", "a.csv"), tmp_path)
    assert texts(found) == [ONE, *[THREE] * 1000] and faults(found) == [("invalid-table", "a.csv#line 3")]


def test_a_quotation_mark_that_another_one_ends_costs_its_row_alone(tmp_path):
    write(tmp_path / "a.csv", f'id,text\n1,"{ONE}\n2,"{TWO}"\n3,"가"나\n4,"{THREE}\n둘째 줄"\n')
    found = everything(source("aihub", "a.csv"), tmp_path)
    assert texts(found) == [TWO, f"{THREE}\n둘째 줄"]
    assert faults(found) == [("invalid-table", "a.csv#line 2"), ("invalid-table", "a.csv#line 4")]


def test_rows_that_all_open_a_quotation_mark_take_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_AGAIN", 1_000_000)
    row = 'a",",""b\n'  # it leaves a quotation mark open, whether it began in one or not
    write(tmp_path / "a.csv", "id,text\n" + row * 100_000)  # 45 GB if every row were read to the end
    found = everything(source("aihub", "a.csv"), tmp_path)
    assert len(found) == 4 and {reason for reason, _ in faults(found)} == {"invalid-table"}
    assert sum("is lost" in fault.detail for fault in found) == 1


# ── Excel ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_workbooks_are_read_sheet_by_sheet(tmp_path):
    pairs = [["SID", "원문", "번역문"], [1, ONE, "one"], [2, None, "none"], [3, 4.5, "number"], [None, None, None], [4, TWO, "two"]]
    write(tmp_path / "a.xlsx", workbook({"대화": pairs, "설명": [["이름", "값"], ["x", "y"]], "더": [["문장"], [THREE]]}))
    found = everything(source("aihub", "a.xlsx"), tmp_path)
    assert [one for one in found if isinstance(one, Text)] == [
        Text(ONE, "a.xlsx#대화:2"), Text(TWO, "a.xlsx#대화:6"), Text(THREE, "a.xlsx#더:2"),
    ]  # fmt: skip
    assert faults(found) == [("missing-field", "a.xlsx#대화:3"), ("wrong-type", "a.xlsx#대화:4"), ("unknown-form", "a.xlsx#설명:1")]


def test_what_excel_escapes_is_text_again(tmp_path):
    rows = [["_x0066_", "text"], ["x", f"{ONE}_x000D_\n{TWO}"], ["x", "_x005F_x000D_는 글이다."]]
    write(tmp_path / "a.xlsx", workbook({"a": rows}))
    assert texts(everything(source("aihub", "a.xlsx"), tmp_path)) == [f"{ONE}\r\n{TWO}", "_x000D_는 글이다."]


def test_workbooks_that_say_they_are_smaller_are_read_whole(tmp_path):
    data, changed = io.BytesIO(workbook({"a": [["문장"], [ONE], [TWO]]})), io.BytesIO()
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<dimension ref="A1:A3"', b'<dimension ref="A1:A1"'))
    assert changed.getvalue() != data.getvalue()
    write(tmp_path / "a.xlsx", changed.getvalue())
    assert texts(everything(source("aihub", "a.xlsx"), tmp_path)) == [ONE, TWO]


def test_broken_workbooks_and_bombs_are_faults(tmp_path):
    good = workbook({"a": [["문장"], [ONE]]})
    bomb = io.BytesIO(good)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media.xml", bytes(70_000_000))
    write(tmp_path / "bomb.xlsx", bomb.getvalue())
    write(tmp_path / "cut.xlsx", good[:-100])
    write(tmp_path / "other.xlsx", _zip({"a.txt": "글"}))
    found = everything(source("aihub", "*.xlsx"), tmp_path)
    assert faults(found) == [("zip-bomb", "bomb.xlsx"), ("broken-archive", "cut.xlsx"), ("unreadable-member", "other.xlsx")]


def _zip(members: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


# ── Parquet ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 500, 1 << 20])
def test_every_row_is_in_exactly_one_piece(tmp_path, monkeypatch, size):
    monkeypatch.setattr(files, "PIECE_BYTES", size)
    table([{"id": n, "text": s} for n, s in enumerate(SENTENCES)], tmp_path / "a.parquet", row_group_size=6)
    asked = source("parquet", "a.parquet")
    assert everything(asked, tmp_path) == [Text(s, f"a.parquet#{n}", str(n)) for n, s in enumerate(SENTENCES)]
    assert len(readers.pieces(asked, [Path("a.parquet")], tmp_path)) == {1: 7, 500: 7, 1 << 20: 1}[size]


def test_rows_without_text_are_faults(tmp_path):
    raw = pyarrow.array([ONE.encode(), None, b"\xff\xfe", b" ", TWO.encode()], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": raw}), tmp_path / "a.parquet")
    table([{"meta": {"글": ONE}}, {"meta": {"글": None}}, {"meta": None}], tmp_path / "b.parquet")
    table([{"text": 5}], tmp_path / "c.parquet")
    found = everything(source("parquet", "a.parquet"), tmp_path)
    assert texts(found) == [ONE, TWO]
    assert faults(found) == [("missing-field", "a.parquet#1"), ("wrong-encoding", "a.parquet#2"), ("empty", "a.parquet#3")]
    nested = everything(source("parquet", "b.parquet", text="meta.글"), tmp_path)
    assert texts(nested) == [ONE] and faults(nested) == [("missing-field", f"b.parquet#{n}") for n in (1, 2)]
    assert faults(everything(source("parquet", "c.parquet"), tmp_path)) == [("wrong-type", "c.parquet#0")]


def test_a_column_that_is_not_there_is_the_persons_to_mend(tmp_path):
    table([{"body": ONE}], tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"source source: a\.parquet has no column for text: 'text'; there are body"):
        everything(source("parquet", "a.parquet"), tmp_path)
    with pytest.raises(InputError, match="no column for id: 'key'"):
        everything(source("parquet", "a.parquet", text="body", id="key"), tmp_path)


def test_a_broken_parquet_file_is_a_fault(tmp_path):
    table([{"text": s} for s in SENTENCES], tmp_path / "a.parquet", compression="none", use_dictionary=False)
    whole = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path / "cut.parquet", whole[:-20])
    at = whole.index(SENTENCES[0].encode()) - 4  # where the page tells the length of its first text
    write(tmp_path / "damaged.parquet", whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :])
    for name in ("cut", "damaged"):
        assert faults(everything(source("parquet", f"{name}.parquet"), tmp_path)) == [("unreadable-member", f"{name}.parquet")]


# ── the hub ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def wikipedia(tmp_path):
    """A data set in the form that wikimedia/wikipedia has on the hub: a folder of Parquet files."""
    for number in range(3):
        rows = [{"id": str(10 * number + n), "title": "제목", "text": SENTENCES[10 * number + n]} for n in range(10)]
        table(rows, tmp_path / "wiki" / "data" / f"train-0000{number}-of-00003.parquet")
    return tmp_path


def test_a_data_set_is_streamed_file_by_file(wikipedia):
    asked = source("hub", dataset="wiki", split="train")
    found = everything(asked, wikipedia)
    assert len(readers.pieces(asked, [], wikipedia)) == 3
    assert found == [Text(SENTENCES[n], f"wiki/train#{n // 10}.{n % 10}", str(n)) for n in range(30)]


def test_a_data_set_without_the_split_or_the_column_is_refused(wikipedia):
    with pytest.raises(InputError, match="source source: wiki cannot be loaded"):
        everything(source("hub", dataset="wiki", split="validation"), wikipedia)
    with pytest.raises(InputError, match="no column for text: 'body'; there are id, title, text"):
        everything(source("hub", dataset="wiki", split="train", text="body"), wikipedia)


def test_readers_import_neither_jax_nor_flax(wikipedia):
    code = (
        "import sys; from pathlib import Path; from openko.corpus import readers; from openko.corpus.document import Source; "
        "s = Source(name='s', reader='hub', licence='l', language='ko', split='train', options={'dataset': 'wiki'}); "
        "d = Path(sys.argv[1]); "
        "print(len([t for p in readers.pieces(s, [], d) for t in readers.read(p, s, d)]), {'jax', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(wikipedia)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "30 set()"


def test_a_damaged_file_of_a_data_set_is_a_fault(wikipedia):
    path = wikipedia / "wiki" / "data" / "train-00001-of-00003.parquet"
    whole = path.read_bytes()
    asked = source("hub", dataset="wiki", split="train")
    pieces = readers.pieces(asked, [], wikipedia)
    path.write_bytes(whole[: len(whole) // 2])
    found = [one for piece in pieces for one in readers.read(piece, asked, wikipedia)]
    assert len(texts(found)) == 20 and faults(found) == [("unreadable-member", "wiki/train#1")]
    assert isinstance(found[10], Fault)


TRANSPORT = HfHubHTTPError.__bases__[0]  # what the HTTP library raises, whichever the hub's client stands on


class Remote:
    """A data set on the hub whose connection breaks after the first row."""

    num_shards, column_names = 1, None

    def __init__(self, problem: Exception):
        self.problem = problem

    def shard(self, num_shards: int, index: int):
        yield {"id": "1", "text": ONE}
        raise self.problem


@pytest.mark.parametrize(
    "problem", [TRANSPORT("reset"), ConnectionError("reset"), TimeoutError(), OSError("reset")], ids=lambda p: type(p).__name__
)
def test_trouble_with_the_network_is_no_fault_of_the_data(tmp_path, monkeypatch, problem):
    asked = source("hub", dataset="somebody/texts", split="train", config="ko")

    def refuse(*_, **__):
        raise problem

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match=r"source source: somebody/texts cannot be loaded: .*run again"):
        readers.pieces(asked, [], tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Remote(problem))
    (piece,) = readers.pieces(asked, [], tmp_path)
    rows = readers.read(piece, asked, tmp_path)
    assert next(rows) == Text(ONE, "somebody/texts/ko/train#0.0", "1")
    with pytest.raises(InputError, match=r"source source: the hub broke off \(.+\): run again, what is done stays"):
        next(rows)


@pytest.mark.parametrize("problem", [pyarrow.ArrowInvalid("x"), pyarrow.ArrowNotImplementedError("x"), pyarrow.ArrowKeyError("x")])
def test_damaged_rows_of_the_hub_are_faults(tmp_path, monkeypatch, problem):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Remote(problem))
    found = everything(source("hub", dataset="somebody/texts", split="train"), tmp_path)
    assert texts(found) == [ONE] and faults(found) == [("unreadable-member", "somebody/texts/train#0")]
