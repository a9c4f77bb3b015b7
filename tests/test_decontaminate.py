"""openko.corpus.decontaminate: what holds a question is found however it is spelled, and nothing else is."""

import csv
import json
import pickle
import random
import time
import unicodedata

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from openko import manifest
from openko.corpus import decontaminate
from openko.corpus.decontaminate import MINIMUM, SYLLABLES, Questions
from openko.corpus.document import FAULTS
from openko.corpus.readers import files
from openko.errors import InputError

QUESTION = "강가의 물레방아가 하루에 열두 바퀴를 돌 때, 방아가 찧는 보리는 모두 몇 말이 되는지 고르시오."
OTHER = "겨울에 얼어붙은 호수 아래에서 물고기가 살아남는 까닭으로 알맞은 것을 두 가지 쓰시오."
SHORT = "마당의 감나무가 우물보다 오래되었다."  # 15 letters or more, but fewer than 25
TINY = "소는 풀을 먹는다."


def letters(text):
    """What may be compared, by the letter of the definition and character by character."""
    folded = (f if len(f := c.casefold()) == 1 else c for c in unicodedata.normalize("NFC", text) if c.isalnum())
    return "".join(folded)


def sentence(rng, count):
    return "".join(chr(rng.randrange(0xAC00, 0xD7A4)) for _ in range(count))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.fixture
def questions(tmp_path):
    def read(*texts, **settings):
        return Questions.read([write(tmp_path / "asked.jsonl", [{"sentence": t} for t in texts])], **settings)

    return read


# ── what is found ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "spelled",
    [
        lambda q: q,
        lambda q: q.replace(" ", ""),
        lambda q: " ".join(q),
        lambda q: q.replace(" ", "\n\n").replace(",", " —"),
        lambda q: unicodedata.normalize("NFD", q),
        lambda q: "".join(f"{c}\u200b" for c in q),
    ],
    ids=["as it is", "no spaces", "spaced", "lines", "NFD", "zero-width spaces"],
)
def test_spaces_punctuation_and_normal_forms_make_no_difference(questions, spelled):
    found = questions(OTHER, QUESTION).match(f"어느 날의 시험지. {spelled(QUESTION)} 답은 없다.")
    assert (found.dataset, found.number, found.field, found.share) == ("asked.jsonl", 2, "sentence", 1.0)
    assert letters(found.piece) == letters(QUESTION)


def test_latin_letters_are_compared_without_their_case(questions):
    asked = questions("The Mill by the River Grinds Barley from dawn to dusk")
    assert asked.match("… THE MILL by the river GRINDS barley FROM DAWN to dusk!").share == 1.0


def test_one_letter_fewer_than_an_n_gram_is_no_match(questions):
    asked, text = questions(QUESTION), letters(QUESTION)
    for start in range(len(text) - SYLLABLES + 1):
        piece = text[start : start + SYLLABLES]
        found = asked.match(f"가나다 {piece} 라마바")
        assert letters(found.piece) == piece and found.share == pytest.approx(1 / (len(text) - SYLLABLES + 1))
        assert asked.match(f"가나다 {piece[:-1]} 라마바") is None and asked.match(f"가나다 {piece[1:]} 라마바") is None


def test_syllables_decide_how_long_a_piece_must_be(questions):
    piece = letters(QUESTION)[3:23]
    assert questions(QUESTION, syllables=20).match(piece) and not questions(QUESTION, syllables=21).match(piece)


def test_a_short_question_counts_as_a_whole(questions):
    assert MINIMUM <= len(letters(SHORT)) < SYLLABLES
    asked = questions(SHORT, QUESTION)
    assert asked.match(f"할머니 말씀에 {SHORT} 그래서 그늘이 넓다.")[:2] == ("asked.jsonl", 1)
    assert asked.match(letters(SHORT)[:-1]) is None
    # its beginning stands there first, and the whole of it only later
    assert asked.match(letters(SHORT)[:-1] + " 그리고 " + SHORT).share == 1.0


def test_what_is_too_short_is_counted_and_not_looked_for(questions):
    asked = questions(TINY, QUESTION)
    assert asked.facts == {"asked.jsonl": {"questions": 2, "too-short": 1, "looked-for": 1}}
    assert asked.match(TINY * 3) is None
    with pytest.raises(InputError, match=f"no question is left.*too-short 1.*{MINIMUM} letters"):
        questions(TINY)


def test_the_question_with_the_largest_share_is_named_and_its_longest_piece(questions):
    asked = questions(QUESTION, OTHER)
    half = QUESTION[:45]
    found = asked.match(f"{half} 그만. {OTHER}")
    assert found.number == 2 and found.share == 1.0
    found = asked.match(f"{half[:40]} 다른 이야기 {half}")
    assert found.number == 1 and 0 < found.share < 1 and letters(found.piece) == letters(half)


def test_share_asks_for_more_than_one_n_gram(questions):
    half = QUESTION[: len(QUESTION) * 7 // 10]
    share = questions(QUESTION).match(half).share
    assert questions(QUESTION, share=share).match(half) and not questions(QUESTION, share=share + 0.01).match(half)
    assert questions(QUESTION, share=1.0).match(QUESTION)


def test_phrases_of_many_questions_are_no_evidence(questions):
    rng = random.Random(0)
    phrase = "위의 글을 읽고 아래의 물음에 대한 대답으로 가장 알맞은 것을 하나만 고르시오"
    assert len(letters(phrase)) >= SYLLABLES + 5
    many = [f"{sentence(rng, 30)} {phrase}" for _ in range(decontaminate.TEMPLATE + 1)]
    asked = questions(*many)
    assert asked.match(f"안내. {phrase}. 끝.") is None
    assert asked.match(many[4]).number == 5
    few = questions(*many[: decontaminate.TEMPLATE])
    assert few.match(f"안내. {phrase}. 끝.") is not None


def test_a_question_of_templates_alone_is_counted(questions):
    rng = random.Random(0)
    phrase = "아래의 물음에 대한 대답으로 가장 알맞은 것을 하나만 고르시오"
    asked = questions(phrase, *(f"{sentence(rng, 30)} {phrase}" for _ in range(decontaminate.TEMPLATE)))
    assert asked.facts["asked.jsonl"] == {"questions": 11, "only-templates": 1, "looked-for": 10}


def test_options_count_only_together_with_their_stem(tmp_path):
    option, rng = "산림청장이 정하여 고시하는 바에 따라 해마다 두 번 숲을 살핀다", random.Random(0)
    row = {"question": QUESTION, "A": option, "B": OTHER, "C": TINY, "D": TINY}
    path = write(tmp_path / "kmmlu.jsonl", [row, {"question": "옳은 것은?"} | {x: sentence(rng, 40) for x in "ABCD"}])
    asked = Questions.read([path])
    assert asked.facts == {"kmmlu.jsonl": {"questions": 2, "looked-for": 1, "too-short": 1}}
    assert json.loads(json.dumps(asked.facts)) == asked.facts
    for law in (option, f"{option} {OTHER}", f"제1조 {option}. {QUESTION[:20]}"):
        assert asked.match(f"제1조(목적) {law}") is None
    alone, all_of_it = asked.match(QUESTION), asked.match(f"{option} {OTHER} {QUESTION}")
    assert (alone.field, alone.number) == ("question", 1) and 0 < alone.share < all_of_it.share == 1
    assert Questions.read([path], share=1.0).match(QUESTION) is None


def test_a_piece_that_stem_and_option_share_is_the_stems(tmp_path):
    row = {"A": QUESTION, "B": "", "C": "", "D": "", "question": f"{QUESTION} {OTHER}"}
    assert Questions.read([write(tmp_path / "kmmlu.jsonl", [row])]).match(QUESTION).field == "question"


def test_a_stem_that_another_question_has_as_an_option_is_looked_for(tmp_path):
    rows = [{"question": QUESTION, "A": OTHER, "B": "", "C": "", "D": ""}, {"question": OTHER, "A": QUESTION, "B": "", "C": "", "D": ""}]
    asked = Questions.read([write(tmp_path / "kmmlu.jsonl", rows)])
    assert asked.facts["kmmlu.jsonl"] == {"questions": 2, "looked-for": 2}
    assert asked.match(QUESTION)[1:3] == (1, "question") and asked.match(OTHER)[1:3] == (2, "question")


def test_a_record_of_options_alone_is_its_own_stem(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"options": [QUESTION, OTHER]}])
    assert Questions.read([path], fields=["options"]).match(OTHER).field == "options"


def test_the_same_question_often_is_one_question_and_no_template(questions):
    asked = questions(*[QUESTION] * 30, OTHER)
    assert asked.facts["asked.jsonl"] == {"questions": 31, "looked-for": 2, "copies": 29}
    assert asked.match(QUESTION).number == 1


def test_documents_agree_with_a_search_by_strings(questions):
    """Against the definition: a document matches if it holds an n-gram of a question or a short question."""
    rng = random.Random(1)
    syllables = "가나다라"  # so few that pieces meet by chance
    texts = ["".join(rng.choice(syllables) for _ in range(rng.choice([9, 12, 13, 16, 20]))) for _ in range(10)]
    asked = questions(*texts, syllables=10)
    grams = {t[i : i + 10] for t in texts for i in range(len(t) - 9)}
    found = 0
    for _ in range(2000):
        document = "".join(rng.choice(syllables) for _ in range(300))
        if rng.random() < 0.5:
            start = rng.randrange(280)
            piece = rng.choice(texts)[: rng.randrange(9, 11)]
            document = document[:start] + piece + document[start + len(piece) :]
        expected = any(g in document for g in grams)
        match = asked.match(document)
        assert (match is not None) == expected
        assert match is None or match.piece in document
        found += expected
    assert 500 < found < 1500


def test_a_piece_that_crosses_a_block_is_found(questions):
    asked, rng = questions(QUESTION, SHORT), random.Random(0)
    filler = sentence(rng, decontaminate.BLOCK * 2)
    for at in (*range(decontaminate.BLOCK - 60, decontaminate.BLOCK + 5, 7), decontaminate.BLOCK * 2 - 1):
        assert asked.match(filler[:at] + QUESTION + filler[at:]).share == 1.0
        assert asked.match(filler[:at] + SHORT + filler[at:]).number == 2
    assert asked.match(filler) is None and asked.match("") is None


def test_equal_hashes_are_not_enough(questions, monkeypatch):
    """With a hash that tells nothing apart, only equal letters are a match."""
    asked = questions(QUESTION, SHORT)
    monkeypatch.setattr(decontaminate, "_hashes", lambda values, n: iter([(0, np.zeros(max(0, len(values) - n + 1), np.uint64))]))
    for grams in asked._grams:
        grams.__init__(grams.length, np.zeros(len(grams.places), np.uint64), grams.places)
    assert asked.match("이 글에는 아무 문항도 들어 있지 않으며 길이만 스물다섯 글자를 넘을 뿐이라고 한다.") is None
    assert asked.match(f"앞 {QUESTION} 뒤").share == 1.0


def test_workers_get_the_same_questions(questions):
    asked = questions(QUESTION, SHORT, OTHER)
    copy = pickle.loads(pickle.dumps(asked))
    for text in (QUESTION, SHORT, OTHER, TINY, "… " + QUESTION[10:50]):
        assert copy.match(text) == asked.match(text)
    assert copy.recipe == asked.recipe


def test_time_is_linear_on_any_text(questions):
    asked = questions(QUESTION, SHORT, "ㅋ" * 40, "가나" * 20)
    for text in ("ㅋ" * 1_000_000, "가나" * 500_000, QUESTION * 20_000, letters(SHORT)[:-1] * 60_000, "\u1100" * 1_000_000, "((" * 500_000):
        began = time.process_time()
        asked.match(text)
        assert time.process_time() - began < 2


# ── files of questions ───────────────────────────────────────────────────────────────────────────────────────────


FORMS = {
    "kmmlu": {"question": QUESTION, "A": OTHER, "B": "2", "C": "3", "D": "4", "answer": 1},
    "boolq": {"paragraph": OTHER, "question": QUESTION, "label": 1},
    "copa": {"premise": QUESTION, "question": "결과", "alternative_1": OTHER, "alternative_2": TINY, "label": 0},
    "hellaswag": {"context": QUESTION, "ending_1": OTHER, "ending_2": TINY, "ending_3": TINY, "ending_4": TINY, "label": 0},
    "wic": {"word": "물레", "context_1": QUESTION, "context_2": OTHER, "label": 0},
    "haerae": {"query": QUESTION, "options": [OTHER, TINY], "answer": "(A)"},
    "haerae without options": {"query": f"{QUESTION} {OTHER}", "answer": "(A)"},
    "sentineg": {"sentence": f"{QUESTION} {OTHER}", "label": 0},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".tsv"])
@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_is_known_in_every_kind_of_file(tmp_path, form, suffix):
    asked = Questions.read([write(tmp_path / f"test{suffix}", [FORMS[form]])])
    assert asked.match(QUESTION).number == asked.match(f"{QUESTION} {OTHER}").number == 1
    options = form in ("kmmlu", "copa", "hellaswag", "haerae")  # in which OTHER is an answer, and no evidence alone
    assert (asked.match(OTHER) is None) == options
    assert asked.files[f"test{suffix}"]["sha256"] == manifest.file_hash(tmp_path / f"test{suffix}")
    # Fields that are no part of the text of a question are not looked for.
    assert not {"label", "answer", "word"} & set(asked.files[f"test{suffix}"]["fields"])


def test_other_files_are_read_by_the_fields_that_are_named(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"stem": QUESTION, "note": OTHER, "count": None}])
    with pytest.raises(InputError, match=r"mine\.jsonl has the fields stem, note, count, which is no known form.*kmmlu: question, A"):
        Questions.read([path])
    asked = Questions.read([path], fields=["stem", "count"])
    assert asked.match(QUESTION).field == "stem" and asked.match(OTHER) is None
    with pytest.raises(InputError, match="record 1: no field 'stern', found stem, note, count"):
        Questions.read([path], fields=["stern"])


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [write(tmp_path / kind / "test.jsonl", [{"sentence": text}]) for kind, text in (("copa", QUESTION), ("wic", OTHER))]
    asked = Questions.read(paths)
    assert asked.match(OTHER).dataset == "wic/test.jsonl" and asked.match(QUESTION).question == "copa/test.jsonl#1"
    with pytest.raises(InputError, match="given twice"):
        Questions.read([paths[0], paths[0]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no record"),
        ("a.json", b"{}", "cannot be read"),
        ("a.jsonl", b'{"sentence": "', "cannot be read"),
        ("a.jsonl", b'{"sentence": "\xff"}', "cannot be read"),
        ("a.jsonl", b'["list"]\n', "found list"),
        ("a.jsonl", b'{"sentence": {"a": 1}}', "'sentence' is text or a list of texts, found dict"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.txt", b"text", "questions are read from .jsonl, .json"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Questions.read([tmp_path / name])


def test_settings_that_are_none_are_refused(tmp_path, questions):
    with pytest.raises(InputError, match="does not exist"):
        Questions.read([tmp_path / "nothing.jsonl"])
    with pytest.raises(InputError, match="no file"):
        Questions.read([])
    for settings in ({"syllables": 9}, {"syllables": 1001}, {"share": 1.5}, {"share": -0.1}):
        with pytest.raises(InputError, match="10 to 1000 syllables"):
            questions(QUESTION, **settings)


# ── a whole corpus ───────────────────────────────────────────────────────────────────────────────────────────────


def line(text, **more):
    return (json.dumps({"text": text} | more, ensure_ascii=False) + "\n").encode()


CLEAN = [
    line("맑은 날에는 산이 보인다.", id="a", other=[1, {"x": 2.50}]),
    b'{"id":"b",  "text":"\\uac00\\ub098 short"}\r\n',
    line("한 줄.", id="c"),
]
DIRTY = line(f"문제집에서: {QUESTION}", id="d", place="z.zip!1#1")
BROKEN = [
    (b'{"text": "cut\n', "invalid-json"), (b'{"text": "\xff\xfe"}\n', "wrong-encoding"), (b"[1]\n", "wrong-type"),
    (b'{"text": 5}\n', "wrong-type"), (b'{"text": " "}\n', "empty"),
    (b'{"body": "x"}\n', "missing-field"), (b"[" * 100_000 + b"\n", "invalid-json"),
]  # fmt: skip


def test_survivors_are_kept_byte_for_byte_but_for_line_ends_and_everything_is_counted(tmp_path, questions):
    first, second = tmp_path / "in" / "1.jsonl", tmp_path / "in" / "2.jsonl"
    first.parent.mkdir()
    first.write_bytes(CLEAN[0] + DIRTY + b"".join(b for b, _ in BROKEN) + CLEAN[1] + b"\n")
    second.write_bytes(CLEAN[2] + line(QUESTION, id="e") + line(OTHER, id="f").rstrip(b"\n"))
    asked = questions(QUESTION, OTHER)
    made = decontaminate.decontaminate([first, second], asked, tmp_path / "out", say=lambda line: None)
    assert made.kind == "decontaminated"
    assert (tmp_path / "out" / "documents-00000.jsonl").read_bytes() == CLEAN[0] + CLEAN[1].replace(b"\r", b"")
    assert (tmp_path / "out" / "documents-00001.jsonl").read_bytes() == CLEAN[2]
    removed = [json.loads(x) for x in (tmp_path / "out" / "contaminated.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["id"], r.get("place"), r["file"], r["line"], r["dataset"], r["number"], r["share"]) for r in removed] == [
        ("d", "z.zip!1#1", "1.jsonl", 2, "asked.jsonl", 1, 1.0), ("e", None, "2.jsonl", 2, "asked.jsonl", 1, 1.0),
        ("f", None, "2.jsonl", 3, "asked.jsonl", 2, 1.0),
    ]  # fmt: skip
    assert letters(removed[0]["piece"]) == letters(QUESTION)
    broken = [json.loads(x) for x in (tmp_path / "out" / "unreadable.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [b["reason"] for b in broken] == [reason for _, reason in BROKEN] and {b["reason"] for b in broken} <= set(FAULTS)
    assert [b["line"] for b in broken] == [3, 4, 5, 6, 7, 8, 9]
    facts = made.facts
    assert facts["documents"] == 6 and facts["kept"]["documents"] == 3 and facts["removed"]["documents"] == 3
    assert facts["bytes"] == facts["kept"]["bytes"] + facts["removed"]["bytes"]
    assert facts["removed"]["bytes"] == len(f"문제집에서: {QUESTION}".encode()) + len(QUESTION.encode()) + len(OTHER.encode())
    assert (
        facts["unreadable"] == {"invalid-json": 2, "wrong-encoding": 1, "wrong-type": 2, "empty": 1, "missing-field": 1}
        and facts["blank_lines"] == 1
    )
    assert facts["by_dataset"] == {"asked.jsonl": 3}
    assert [(q["number"], q["documents"]) for q in facts["most"]] == [(1, 2), (2, 1)] and facts["most"][0]["piece"]
    assert facts["files"] == {"documents-00000.jsonl": "1.jsonl", "documents-00001.jsonl": "2.jsonl"}
    manifest.verify(tmp_path / "out")


def test_a_line_longer_than_any_document_is_skipped_whole(tmp_path, questions, monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 1000)
    source = tmp_path / "in.jsonl"
    source.write_bytes(line("가" * 2000, id="long") + CLEAN[0] + line("나" * 5000).rstrip(b"\n"))
    made = decontaminate.decontaminate([source], questions(QUESTION), tmp_path / "out", say=lambda line: None)
    assert (tmp_path / "out" / "documents-00000.jsonl").read_bytes() == CLEAN[0]
    assert made.facts["unreadable"] == {"too-long-line": 2} and made.facts["documents"] == 1


def test_other_encodings_are_read_and_survivors_are_utf_8(tmp_path, questions):
    both = CLEAN[0].decode() + DIRTY.decode()
    for encoding in ("cp949", "utf-16"):
        (tmp_path / "in.jsonl").write_bytes(both.encode(encoding))
        made = decontaminate.decontaminate([tmp_path / "in.jsonl"], questions(QUESTION), tmp_path / encoding, say=lambda line: None)
        assert (tmp_path / encoding / "documents-00000.jsonl").read_bytes() == CLEAN[0]
        assert made.facts["removed"]["documents"] == 1 and not made.facts["unreadable"]


def test_half_a_surrogate_pair_is_text_like_any_other(tmp_path, questions):
    source = tmp_path / "in.jsonl"
    lines = [b'{"text": "\\ud800 odd"}\n', b'{"id": "\\udfff", "text": "\\ud800 ' + QUESTION.encode() + b'"}\n']
    source.write_bytes(b"".join(lines))
    decontaminate.decontaminate([source], questions(QUESTION), tmp_path / "out", say=lambda line: None)
    assert (tmp_path / "out" / "documents-00000.jsonl").read_bytes() == lines[0]
    assert json.loads((tmp_path / "out" / "contaminated.jsonl").read_text(encoding="utf-8"))["id"] == "\udfff"


def test_asked_again_it_answers_at_once_and_other_questions_or_documents_make_it_again(tmp_path, questions):
    source, said = tmp_path / "in.jsonl", []
    source.write_bytes(CLEAN[0] + DIRTY)
    once = decontaminate.decontaminate([source], questions(QUESTION), tmp_path / "out", say=said.append)
    assert (
        decontaminate.decontaminate([source], questions(QUESTION), tmp_path / "out", say=said.append) == once and "up to date" in said[-1]
    )
    other = decontaminate.decontaminate([source], questions(OTHER), tmp_path / "out", say=said.append)
    assert other.facts["removed"]["documents"] == 0
    source.write_bytes(DIRTY * 3)
    assert decontaminate.decontaminate([source], questions(QUESTION), tmp_path / "out", say=said.append).facts["removed"]["documents"] == 3


def test_inputs_that_cannot_be_are_refused(tmp_path, questions):
    asked = questions(QUESTION)
    for inputs in ([], [tmp_path / "nothing.jsonl"], [tmp_path]):
        with pytest.raises(InputError, match="JSONL file"):
            decontaminate.decontaminate(inputs, asked, tmp_path / "out")
    (tmp_path / "in.jsonl.gz").write_bytes(b"")
    with pytest.raises(InputError, match="unpack it first"):
        decontaminate.decontaminate([tmp_path / "in.jsonl.gz"], asked, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in.jsonl").write_bytes(DIRTY)
    with pytest.raises(InputError, match="choose another place"):
        decontaminate.decontaminate([tmp_path / "out" / "in.jsonl"], asked, tmp_path / "out")
