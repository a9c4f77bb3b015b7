"""Zips of AI Hub and 모두의 말뭉치, read in place: every form of JSON, and archives that are broken or mean harm."""

import io
import json
import struct
import unicodedata
import zipfile
from pathlib import Path

import pytest
from test_readers import SENTENCES, everything, faults, source, texts, write

from openko.corpus import readers
from openko.corpus.document import Fault, Text
from openko.corpus.readers import archives, files, json_documents
from openko.corpus.readers.aihub import split_of

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
CSV = 'id,text,label\n1,"첫 문장, 쉼표와 함께\n둘째 줄",a\n2,둘째 문장,b\n'


def packed(members: dict[str, bytes | str | dict | list], method: int = DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes | str) else json.dumps(content, ensure_ascii=False))
    return file.getvalue()


def book(*sentences: str) -> dict:
    """A document of AI Hub's SJML."""
    return {"SJML": {"text": [{"title": "제목", "content": sentence} for sentence in sentences]}}


def patched(data: bytes, name: str, local: dict[int, bytes], central: dict[int, bytes]) -> bytes:
    """A zip with other bytes at these offsets in the headers of a member."""
    data = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        start = archive.getinfo(name).header_offset
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    for at, changes in ((start, local), (directory, central)):
        for offset, new in changes.items():
            data[at + offset : at + offset + len(new)] = new
    return bytes(data)


# ── forms ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ONE, TWO, THREE = SENTENCES[:3]
SQUAD = {"data": [{"title": "t", "paragraphs": [
    {"context": ONE, "qas": [{"question": "무엇인가?", "answers": [{"text": "답", "answer_start": 0}]}]}, {"context": TWO, "qas": []},
]}]}  # fmt: skip
FORMS = {
    "SJML": (book(ONE, TWO), [ONE, TWO]),
    "named_entity": ({"named_entity": [{"title": [{"sentence": "제목"}], "content": [{"sentence": ONE}, {"sentence": TWO}]}]},
                     [f"{ONE} {TWO}"]),
    "documents": ({"name": "x", "documents": [{"id": "1", "text": [[{"sentence": ONE}, {"sentence": TWO}], [], [{"sentence": THREE}]]}]},
                  [f"{ONE} {TWO}\n{THREE}"]),
    "rows": ({"data": [{"rows": [{"text": ONE}, {"text": TWO}]}, {"rows": [{"text": THREE}]}]}, [f"{ONE}\n{TWO}", THREE]),
    "squad": (SQUAD, [f"{ONE}\n{TWO}"]),
    "papers": ([{"data": [{"summary_entire": [{"orginal_text": ONE, "summary_text": "x"}]}, {"summary_section": [{"orginal_text": TWO}]}]}],
               [ONE, TWO]),
    "records": ({"data": [{"title": "t", "corpus": ONE}]}, [ONE]),
    "translation": ({"data": [{"sn": 1, "ko": ONE, "en": "one"}, {"sn": 2, "ko": TWO, "en": "two"}]}, [ONE, TWO]),
    "translation-ko": ({"data": [{"sid": 1, "한국어": ONE, "영어": "one"}]}, [ONE]),
    "pairs": ([{"원문": ONE, "번역문": "one"}, {"원문": TWO, "번역문": "two"}], [ONE, TWO]),
    "info": ({"info": [{"mediatype": "x", "annotations": {"text": ONE, "lines": []}}]}, [ONE]),
    "dialect": ({"metadata": {}, "utterance": [{"speaker_id": "1", "standard_form": ONE, "dialect_form": "x"},
                 {"speaker_id": "1", "standard_form": TWO}, {"speaker_id": "2", "standard_form": THREE}]}, [f"{ONE} {TWO}\n{THREE}"]),
    "chat": ({"data": [{"header": {}, "body": [{"participantID": "P01", "utterance": ONE}, {"participantID": "P02", "utterance": TWO}]}]},
             [f"{ONE}\n{TWO}"]),
    "chat-summary": ({"data": [{"body": {"dialogue": [{"participantID": "P01", "utterance": ONE}], "summary": "x"}}]}, [ONE]),
    "book": ({"id": "1", "paragraphs": [{"sentences": [{"text": ONE}, {"text": TWO}]}, {"sentences": [{"text": THREE}]}]},
             [f"{ONE} {TWO}\n{THREE}"]),
    "report": ({"Meta(Acqusition)": {"doc_id": "1"}, "Meta(Refine)": {"passage": ONE}, "Annotation": {"summary1": "x"}}, [ONE]),
    "passage": ({"passage_id": 1, "metadata": {}, "passage": ONE, "summary": "x"}, [ONE]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_published_forms_of_json_are_known(tmp_path, form, monkeypatch):
    content, expected = FORMS[form]
    write(tmp_path / "a.zip", packed({"a.json": content}))
    write(tmp_path / "folder" / "a.json", json.dumps(content))
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert found == [Text(text, f"a.zip!a.json#{number}") for number, text in enumerate(expected)]
    assert texts(everything(source("aihub", "folder/*"), tmp_path)) == expected
    monkeypatch.setattr(json_documents, "HELD", 0)
    assert everything(source("aihub", "a.zip"), tmp_path) == found
    monkeypatch.setattr(json_documents, "LENIENT", 0)
    streamed = everything(source("aihub", "a.zip"), tmp_path)
    if form in ("dialect", "book", "report", "passage"):  # a document to a file has no list to go through
        assert faults(streamed) == [("unknown-form", "a.zip!a.json")]
    else:
        assert streamed == found


def test_questions_are_read_only_where_they_are_asked_for(tmp_path):
    write(tmp_path / "a.json", json.dumps(SQUAD))
    assert texts(everything(source("aihub", "*"), tmp_path)) == [f"{ONE}\n{TWO}"]
    assert texts(everything(source("aihub", "*", questions=True), tmp_path)) == [f"{ONE}\n{TWO}\n무엇인가?\n답"]


def test_a_form_of_ones_own_is_told_by_paths(tmp_path):
    write(tmp_path / "a.json", json.dumps({"책": [{"쪽": [{"글": ONE}, {"글": TWO}]}, {"쪽": [{"글": 7}]}, {"제목": "x"}]}))
    found = everything(source("aihub", "*", json="책[] / 쪽[].글"), tmp_path)
    assert texts(found) == [f"{ONE}\n{TWO}"] and faults(found) == [("wrong-type", "a.json#1"), ("missing-field", "a.json#2")]
    (unknown,) = everything(source("aihub", "*"), tmp_path)
    assert unknown.reason == "unknown-form" and "책" in unknown.detail


def test_json_is_read_leniently_and_what_fails_is_one_fault(tmp_path):
    good = json.dumps(book(ONE), ensure_ascii=False)
    members = {
        "bom.json": "\ufeff" + good,
        "comma.json": good.replace("]}}", ",]}}"),
        "control.json": good.replace("제목", "제\n목\t"),
        "cp949.json": good.encode("cp949"),
        "utf16.json": good.encode("utf-16"),
        "two.json": good + "\n" + good,
        "cut.json": good + good[:40],
        "unquoted.json": '{"id": (반사회적용어), "text": "아"}',
        "empty.json": "",
        "broken.json": good.encode()[:60] + b"\xff\xff",
        "some.json": json.dumps([book(ONE), {"SJML": {}}]),
        "deep.json": "[" * 100_000,
    }
    write(tmp_path / "a.zip", packed(members))
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert [t.place for t in found if isinstance(t, Text)] == [
        "a.zip!bom.json#0", "a.zip!comma.json#0", "a.zip!control.json#0", "a.zip!cp949.json#0", "a.zip!utf16.json#0", "a.zip!two.json#0",
        "a.zip!two.json#1", "a.zip!cut.json#0", "a.zip!some.json#0",
    ]  # fmt: skip
    assert set(texts(found)) == {ONE}
    assert faults(found) == [
        ("invalid-json", "a.zip!cut.json"), ("invalid-json", "a.zip!unquoted.json"), ("empty", "a.zip!empty.json"),
        ("invalid-json", "a.zip!broken.json"), ("unknown-form", "a.zip!some.json"), ("invalid-json", "a.zip!deep.json"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
def test_large_json_is_streamed_whatever_its_encoding(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(json_documents, "HELD", 1000)
    monkeypatch.setattr(json_documents, "LOOKED_AT", 3)
    content = json.dumps({"meta": {"data": "x"}, "data": [{"ko": s, "n": 1.5} for s in SENTENCES]}, ensure_ascii=False)
    write(tmp_path / "a.json", content.encode(encoding))
    write(tmp_path / "cut.json", content[:1500].encode(encoding))
    assert texts(everything(source("aihub", "a.json"), tmp_path)) == SENTENCES
    cut = everything(source("aihub", "cut.json"), tmp_path)
    assert texts(cut) == SENTENCES[: len(texts(cut))] and len(texts(cut)) > 10 and faults(cut) == [("invalid-json", "cut.json")]


@pytest.mark.parametrize("held", [0, json_documents.HELD])
def test_a_list_of_something_else_before_the_documents_is_passed_over(tmp_path, monkeypatch, held):
    monkeypatch.setattr(json_documents, "HELD", held)
    content = {"info": [{"made": 2021}], "documents": [{"text": 5}, {"text": [[5]]}], "data": [{"corpus": {"a": 1}, "ko": ONE}, {"ko": 5}]}
    write(tmp_path / "a.json", json.dumps(content))
    write(tmp_path / "b.json", json.dumps({"data": [{"ko": 5}]}))
    found = everything(source("aihub", "*"), tmp_path)
    assert texts(found) == [ONE] and faults(found) == [("wrong-type", "a.json#1"), ("wrong-type", "b.json#0")]


@pytest.mark.parametrize("lenient", [0, json_documents.LENIENT])
def test_large_json_is_held_where_it_is_not_strict(tmp_path, monkeypatch, lenient):
    content = json.dumps({"data": [{"ko": s} for s in SENTENCES]}, ensure_ascii=False)
    write(tmp_path / "comma.json", content.replace(f'{{"ko": "{SENTENCES[30]}"}}', f'{{"ko": "{SENTENCES[30]}",}}'))
    write(tmp_path / "nan.json", content.replace('{"data"', '{"meta": NaN, "data"'))
    write(tmp_path / "cut.json", content[: content.index(SENTENCES[30])])
    monkeypatch.setattr(json_documents, "HELD", 0)
    monkeypatch.setattr(json_documents, "LENIENT", lenient)
    comma, nan, cut = (everything(source("aihub", f"{name}.json"), tmp_path) for name in ("comma", "nan", "cut"))
    assert [one.place for one in comma[:30]] == [f"comma.json#{n}" for n in range(30)]
    assert texts(cut) == SENTENCES[:30] and faults(cut) == [("invalid-json", "cut.json")]
    if lenient:
        assert texts(comma) == texts(nan) == SENTENCES and faults(comma) == faults(nan) == []
    else:
        assert texts(comma) == SENTENCES[:30] and faults(comma) == [("invalid-json", "comma.json")]
        assert faults(nan) == [("invalid-json", "nan.json")] and not texts(nan)


def test_modu_documents_are_paragraphs_or_turns(tmp_path, monkeypatch):
    written = {
        "id": "NWRW",
        "document": [{"id": "NWRW.1", "paragraph": [{"id": "NWRW.1.1", "form": ONE}, {"id": "NWRW.1.2", "form": TWO}]}],
    }
    spoken = {"id": "S", "document": [{"id": "S.1", "utterance": [
        {"speaker_id": "1", "form": ONE}, {"speaker_id": "1", "form": "&name&이 왔다."}, {"speaker_id": "2", "form": ""},
        {"speaker_id": "2", "form": TWO}, {"speaker_id": "1", "form": THREE}]}]}  # fmt: skip
    analysed = {"id": "N", "document": [{"id": "N.1", "sentence": [{"id": "N.1.1", "form": ONE}]}, {"id": "N.2", "sentence": []}]}
    write(tmp_path / "a.zip", packed({"NIKL/written.json": written, "NIKL/spoken.json": spoken, "NIKL/읽어두기.pdf": b"%PDF"}))
    write(tmp_path / "folder" / "N.json", json.dumps(analysed))
    for held in (json_documents.HELD, 0):
        monkeypatch.setattr(json_documents, "HELD", held)
        found = everything(source("modu", "a.zip", "folder/*"), tmp_path)
        assert [one for one in found if isinstance(one, Text)] == [
            Text(f"{ONE}\n{TWO}", "a.zip!NIKL/written.json#0", "NWRW.1"),
            Text(f"{ONE} &name&이 왔다.\n{TWO}\n{THREE}", "a.zip!NIKL/spoken.json#0", "S.1"),
            Text(ONE, "folder/N.json#0", "N.1"),
        ]
        assert faults(found) == [("unknown-form", "a.zip!NIKL/읽어두기.pdf"), ("missing-field", "folder/N.json#1")]


def test_any_json_is_read_by_paths(tmp_path):
    manual = {"meta": {}, "sections": [{"id": "b1-1", "pages": [{"text": ONE}, {"text": TWO}]}, {"id": 2, "pages": [{"text": " "}]}]}
    write(tmp_path / "manual_b1.json", json.dumps(manual))
    found = everything(source("json", "manual_*.json", documents="sections[]", text="pages[].text", id="id"), tmp_path)
    assert found[0] == Text(f"{ONE}\n{TWO}", "manual_b1.json#0", "b1-1") and faults(found) == [("empty", "manual_b1.json#1")]


def test_members_of_other_types_are_read_or_named(tmp_path):
    tsv = f'문장\t라벨\n"따옴표가 열린 글\t1\n{TWO}\t2\n'
    members = {
        "a.csv": CSV,
        "b.tsv": tsv.encode("cp949"),
        "c.txt": f"{ONE}\n{TWO}",
        "d.jsonl": json.dumps({"text": THREE}),
        "e.wav": b"RIFF",
    }
    write(tmp_path / "a.zip", packed(members | {"__MACOSX/._a.csv": b"\0", ".DS_Store": b"\0", "folder/": b""}))
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert [(t.text, t.place) for t in found if isinstance(t, Text)] == [
        ("첫 문장, 쉼표와 함께\n둘째 줄", "a.zip!a.csv#1"), ("둘째 문장", "a.zip!a.csv#2"), ('"따옴표가 열린 글', "a.zip!b.tsv#1"),
        (TWO, "a.zip!b.tsv#2"), (f"{ONE}\n{TWO}", "a.zip!c.txt#0"), (THREE, "a.zip!d.jsonl#0"),
    ]  # fmt: skip
    assert faults(found) == [("unknown-form", "a.zip!e.wav")]


# ── splits and pieces ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("split", "places"),
    {
        "train": ["01.데이터/1.Training/라벨링데이터/TL1.zip!a.json", "Training/[라벨]뉴스.zip!a.json", "TS_법률.zip!a",
                  "뉴스.zip!train/a.json", "뉴스.zip!a.json", "1.Training/TS_a.zip!VS_0001.txt", "1.Training/x.zip!validation/a.json",
                  "1.학습/뉴스.zip!VL/a.json", "뉴스.zip![학습데이터]/a.json", "constraining/Invalid.zip!vlog.json",
                  "ko2zh_it_1_training.json", "인공지능 시험문제/검증된 기계학습.zip!a.json"],
        "validation": ["01.데이터/2.Validation/원천데이터/VS3.zip!a.json", "VL.zip!a.json", "[VL]뉴스.zip!a", "KorQuAD_v1.0_dev.json",
                       "기계학습 말뭉치/whole.zip!Validation/a.json", "2.검증/a.zip!TS.json",
                       "[검증데이터].zip!a.json", "01.검증셋/a.json"],
        "test": ["01.데이터/3.Test/TEST.zip!a.json", "3.시험/a.zip!train.json"],
    }.items(),
)  # fmt: skip
def test_splits_are_told_by_the_path_on_disk_and_then_by_the_member(split, places):
    told = {place: split_of(*place.partition("!")[::2]) for place in places}
    assert told == dict.fromkeys(places, split)


def test_a_split_is_read_without_the_others(tmp_path):
    for folder, zipped, text in (("1.Training/라벨링데이터", "TL1", ONE), ("2.Validation/라벨링데이터", "VL1", TWO)):
        write(tmp_path / "01.데이터" / folder / f"{zipped}.zip", packed({f"{zipped}/a.json": book(text)}))
    write(tmp_path / "01.데이터" / "whole.zip", packed({"Training/a.json": book(THREE), "Validation/a.json": book(TWO)}))
    found = {split: everything(source("aihub", "**/*.zip", split=split), tmp_path) for split in ("train", "validation", "test", None)}
    assert [(f.reason, f.place, f.detail.split(" of ")[0]) for f in found["train"] if isinstance(f, Fault)] == [
        ("other-split", "01.데이터/2.Validation/라벨링데이터/VL1.zip", "1 members"), ("other-split", "01.데이터/whole.zip", "1 members"),
    ]  # fmt: skip
    assert [len(faults(found[split])) for split in ("validation", "test", None)] == [2, 3, 0]
    assert {split: texts(of) for split, of in found.items()} == {
        "train": [ONE, THREE],
        "validation": [TWO, TWO],
        "test": [],
        None: [ONE, TWO, THREE, TWO],
    }


@pytest.mark.parametrize("size", [1, 300, 1000, 1 << 20])
def test_every_member_is_in_exactly_one_piece(tmp_path, monkeypatch, size):
    members = {f"{n:02}.json": book(*[sentence] * (n % 5 + 1)) for n, sentence in enumerate(SENTENCES)}
    write(tmp_path / "a.zip", packed(members))
    write(tmp_path / "broken.zip", packed(members)[:-500])
    write(tmp_path / "b.json", json.dumps(book(ONE)))
    asked = source("aihub", "*")
    whole = everything(asked, tmp_path)
    monkeypatch.setattr(files, "PIECE_BYTES", size)
    assert everything(asked, tmp_path) == whole and len(texts(whole)) == 241 and len(faults(whole)) == 1
    assert (len(readers.pieces(asked, [Path("a.zip")], tmp_path)) > 1) == (size < 1 << 20)


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["cp949", "utf-8"])
def test_names_without_the_flag_for_utf_8_are_korean_all_the_same(tmp_path, encoding):
    name = "[라벨]뉴스/기사.json".encode(encoding)
    placeholder = "x" * len(name)
    write(tmp_path / "a.zip", packed({placeholder: book(ONE)}).replace(placeholder.encode(), name))
    assert everything(source("aihub", "a.zip"), tmp_path) == [Text(ONE, "a.zip![라벨]뉴스/기사.json#0")]


def test_names_are_in_nfc_with_slashes_and_told_apart(tmp_path):
    data = packed({unicodedata.normalize("NFD", "폴더\\글.json"): book(ONE)})
    write(tmp_path / "a.zip", data)
    write(tmp_path / "b.zip", packed({"same.json": book(ONE), "sama.json": book(TWO)}).replace(b"sama", b"same"))
    found = everything(source("aihub", "*.zip"), tmp_path)
    assert [t.place for t in found] == ["a.zip!폴더/글.json#0", "b.zip!same.json#0", "b.zip!same~2.json#0"]


# ── broken archives, and those that mean harm ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["../a.json", "x/../../a.json", "/etc/a.json", "C:/a.json", "..\\a.json", "\\\\host\\a.json"])
def test_members_that_lead_out_are_refused(tmp_path, name):
    write(tmp_path / "data" / "a.zip", packed({"good.json": book(ONE), name: book(TWO), "better..json": book(THREE)}))
    before = sorted(tmp_path.rglob("*"))
    found = everything(source("aihub", "*"), tmp_path / "data")
    assert texts(found) == [ONE, THREE] and faults(found) == [("escaping-path", f"a.zip!{name}".replace("\\", "/"))]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    bomb = packed({"bomb.json": bytes(30_000_000), "good.json": book(ONE), "text.json": book(SENTENCES[0] * 20_000)})
    assert len(bomb) < 200_000
    write(tmp_path / "a.zip", bomb)
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert texts(found) == [ONE, SENTENCES[0] * 20_000] and faults(found) == [("zip-bomb", "a.zip!bomb.json")]
    assert "unpack to 30,000,000" in found[0].detail


def test_a_member_over_2_gb_is_refused_whatever_its_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    write(tmp_path / "a.zip", packed({"long.json": book(*SENTENCES), "good.json": book(ONE)}, STORED))
    (fault, good) = everything(source("aihub", "a.zip"), tmp_path)
    assert fault[:2] == ("too-large", "a.zip!long.json") and "unpack it and name the folder" in fault.detail and good.text == ONE


def test_a_declared_size_is_not_trusted(tmp_path):
    liar = packed({"liar.txt": SENTENCES[0] * 100_000, "good.txt": ONE})
    small = struct.pack("<I", 1000)
    write(tmp_path / "a.zip", patched(liar, "liar.txt", {22: small}, {24: small}))
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert texts(found) == [ONE] and faults(found) == [("unreadable-member", "a.zip!liar.txt")]


def test_members_that_lie_on_each_other_are_a_bomb(tmp_path):
    data = packed({"a.json": book(ONE), "b.json": book(TWO)})
    write(tmp_path / "a.zip", patched(data, "b.json", {}, {20: struct.pack("<I", len(data))}))
    (found,) = everything(source("aihub", "a.zip"), tmp_path)
    assert found.reason == "zip-bomb" and found.place == "a.zip"


def test_damaged_members_are_faults_and_the_others_are_read(tmp_path):
    data = packed({name: book(ONE) for name in ("good.json", "flipped.json", "locked.json", "method.json", "last.json")}, STORED)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.getinfo("flipped.json").header_offset + 30 + len("flipped.json") + 30
    data = data[:at] + b"!" + data[at + 1 :]
    data = patched(data, "locked.json", {6: b"\1"}, {8: b"\1"})
    data = patched(data, "method.json", {8: b"\t"}, {10: b"\t"})
    write(tmp_path / "a.zip", data)
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert texts(found) == [ONE, ONE]
    assert faults(found) == [("unreadable-member", f"a.zip!{name}.json") for name in ("flipped", "locked", "method")]
    assert [part in f.detail for f, part in zip(found[1:4], ("CRC", "encrypted", "Deflate64"), strict=True)] == [True] * 3


def test_a_cut_off_archive_is_read_as_far_as_it_goes(tmp_path):
    members = {f"{n}.json": book(sentence) for n, sentence in enumerate(SENTENCES)}
    whole = packed(members)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        cut = archive.getinfo("25.json").header_offset + 50
    write(tmp_path / "cut.zip", whole[:cut])
    write(tmp_path / "garbage.zip", b"not an archive")
    write(tmp_path / "none.zip", b"")
    found = everything(source("aihub", "cut.zip"), tmp_path)
    assert texts(found) == SENTENCES[:25] and faults(found) == [("broken-archive", "cut.zip")]
    assert "25 members are recovered" in found[0].detail and f"byte {cut - 50:,} of {cut:,} is lost" in found[0].detail
    others = everything(source("aihub", "garbage.zip", "none.zip"), tmp_path)
    assert faults(others) == [("broken-archive", "garbage.zip"), ("broken-archive", "none.zip")]


def test_a_cut_off_archive_whose_sizes_stand_behind_the_data_says_so(tmp_path):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation

        def tell(self):
            raise io.UnsupportedOperation

    file = Pipe()
    with zipfile.ZipFile(file, "w", DEFLATED) as archive:
        archive.writestr("a.json", json.dumps(book(ONE)))
    write(tmp_path / "a.zip", file.getvalue())
    assert texts(everything(source("aihub", "a.zip"), tmp_path)) == [ONE]
    write(tmp_path / "a.zip", file.getvalue()[:-30])
    (found,) = everything(source("aihub", "a.zip"), tmp_path)
    assert isinstance(found, Fault) and "0 members are recovered" in found.detail


def test_an_archive_in_an_archive_is_read_one_level_deep(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 200)  # so that the inner ones go through a file
    inner = {"in.json": book(ONE), "../out.json": book(TWO), "deeper.zip": packed({"x.json": book(TWO)})}
    cut = packed({"a.json": book(TWO), "b.json": book(THREE)})
    write(tmp_path / "a.zip", packed({"inner.zip": packed(inner), "cut.zip": cut[:-200], "last.json": book(THREE)}))
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert [t.place for t in found if isinstance(t, Text)] == ["a.zip!inner.zip!in.json#0", "a.zip!cut.zip!a.json#0", "a.zip!last.json#0"]
    assert faults(found) == [
        ("escaping-path", "a.zip!inner.zip!../out.json"), ("unknown-form", "a.zip!inner.zip!deeper.zip"),
        ("broken-archive", "a.zip!cut.zip"),
    ]  # fmt: skip


def test_an_archive_that_was_packed_as_it_is_is_read_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2000)
    inner = packed({f"{n}.json": book(sentence) for n, sentence in enumerate(SENTENCES)}, STORED)
    whole = packed({"inner.zip": inner, "again.zip": inner, "last.json": book(ONE)}, STORED)
    assert len(inner) > 2000
    write(tmp_path / "a.zip", whole)
    monkeypatch.setattr(archives.tempfile, "SpooledTemporaryFile", None)  # nothing is copied
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert texts(found) == [*SENTENCES, *SENTENCES, ONE] and faults(found) == []


def test_an_archive_in_an_archive_that_is_not_where_the_directory_says_is_a_fault(tmp_path):
    data = packed({"inner.zip": packed({"a.json": book(ONE)}), "last.json": book(TWO)}, STORED)
    write(tmp_path / "a.zip", b"XX" + data[2:])
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert texts(found) == [TWO] and faults(found) == [("unreadable-member", "a.zip!inner.zip")]


def test_a_wrong_byte_in_a_members_own_header_is_a_fault(tmp_path):
    data = packed({"글.json": book(ONE), "다음.json": book(TWO)})
    at = data.index("글".encode())
    write(tmp_path / "a.zip", data[:at] + b"\xff" + data[at + 1 :])
    found = everything(source("aihub", "a.zip"), tmp_path)
    assert texts(found) == [TWO] and faults(found) == [("unreadable-member", "a.zip!글.json")]


# ── what is odd in JSON costs itself alone, and no less if the file is streamed ────────────────────────────────────


@pytest.mark.parametrize("held", [0, json_documents.HELD])
@pytest.mark.parametrize("levels", [1010, 3000])
def test_a_value_that_is_too_deep_does_not_stop_a_build(tmp_path, monkeypatch, held, levels):
    monkeypatch.setattr(json_documents, "HELD", held)
    deep = f'{{"text": {"[" * levels}{"]" * levels}}}'
    write(tmp_path / "a.json", f'{{"data": [{{"text": "{ONE}"}}, {deep}]}}')
    write(tmp_path / "a.jsonl", f'{deep}\n{{"text": "{ONE}"}}\n')
    as_lines = everything(source("jsonl", "a.jsonl"), tmp_path)
    assert texts(as_lines) == [ONE] and len(faults(as_lines)) == 1
    found = everything(source("json", "a.json", documents="data[]", text="text"), tmp_path)
    assert len(faults(found)) == 1 and len(found[-1].detail) < 300


@pytest.mark.parametrize("held", [0, json_documents.HELD])
@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
def test_a_wrong_byte_costs_the_document_that_holds_it(tmp_path, monkeypatch, held, encoding):
    monkeypatch.setattr(json_documents, "HELD", held)
    documents = [{"id": f"N.{n}", "paragraph": [{"form": f"{n}번째 글이다."}]} for n in range(1000)]
    data = json.dumps({"id": "N", "document": documents}, ensure_ascii=False).encode(encoding)
    write(tmp_path / "a.json", data.replace("500번째".encode(encoding), b"\xff" + "500번째".encode(encoding)))
    found = everything(source("modu", "a.json"), tmp_path)
    good = [n for n, text in enumerate(texts(found)) if text == f"{n}번째 글이다."]
    assert len(found) == 1000 and good == [n for n in range(1000) if n != 500] and found[500].text == "\udcff500번째 글이다."


@pytest.mark.parametrize("held", [0, json_documents.HELD])
@pytest.mark.parametrize("lenient", [0, json_documents.LENIENT])
@pytest.mark.parametrize("written", ["[%s, %s, %s]", "%s\n%s %s"])
def test_a_root_without_documents_is_a_fault(tmp_path, monkeypatch, held, lenient, written):
    monkeypatch.setattr(json_documents, "HELD", held)
    monkeypatch.setattr(json_documents, "LENIENT", lenient)
    roots = [
        json.dumps(root, ensure_ascii=False) for root in ({"data": [{"ko": ONE}, {"ko": TWO}]}, {"other": [[]]}, {"data": [{"ko": THREE}]})
    ]
    write(tmp_path / "a.json", written % tuple(roots))
    found = everything(source("aihub", "a.json"), tmp_path)
    assert texts(found) == [ONE, TWO, THREE] and faults(found) == [("unknown-form", "a.json")] and "object 1 " in found[-1].detail


@pytest.mark.parametrize("held", [0, json_documents.HELD])
def test_items_without_text_are_counted_and_the_rest_of_the_document_stays(tmp_path, monkeypatch, held):
    monkeypatch.setattr(json_documents, "HELD", held)
    paragraphs = [{"form": ONE}, {"id": 1}, {"form": 5}, {"form": [5]}, "글", {"form": TWO}, {"form": ""}]
    written = {"document": [{"id": "N.1", "paragraph": paragraphs}, {"id": "N.2", "paragraph": [{"form": 5}]}]}
    spoken = {"document": [{"id": "S.1", "utterance": [{"form": ONE}, {"form": None}, {"form": 5}, {"form": TWO}]}]}
    write(tmp_path / "a.json", json.dumps(written))
    write(tmp_path / "b.json", json.dumps(spoken))
    found = everything(source("modu", "*.json"), tmp_path)
    assert texts(found) == [f"{ONE}\n{TWO}\n", f"{ONE}\n{TWO}"]
    assert [(f.reason, f.place, f.detail.split(" ")[0]) for f in found if isinstance(f, Fault)] == [
        ("missing-field", "a.json#0", "2"), ("wrong-type", "a.json#0", "2"), ("wrong-type", "a.json#1", "1"),
        ("missing-field", "b.json#0", "1"), ("wrong-type", "b.json#0", "1"),
    ]  # fmt: skip


def test_a_zip_cut_off_behind_an_inner_zip_is_not_taken_for_that_one(tmp_path):
    """Whose directory is then the last thing in the file, where zipfile looks for the whole's."""
    inner = packed({"안.json": book("안쪽 글")})
    whole = packed({"겉.json": book("겉의 글"), "속.zip": inner}, STORED)
    data = whole[: whole.index(inner) + len(inner)]
    write(tmp_path / "cut.zip", data)
    found = list(everything(source("aihub", "cut.zip"), tmp_path))
    assert {"겉의 글", "안쪽 글"} <= set(texts(found)) and [reason for reason, _ in faults(found)] == ["broken-archive"]
