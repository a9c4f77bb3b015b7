"""AI Hub's zips, read in place, and folders of what was in them.

Each data set has JSON of its own form; FORMS are those of the published ones. What a form leaves out (labels, summaries, questions)
is no running text. Validation splits are left to evaluation by `split: train`.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from openko.corpus.document import Fault, Piece, Source, Text
from openko.corpus.readers import archives, files, json_documents, lines, paths, tables
from openko.corpus.readers.files import Content
from openko.corpus.readers.json_documents import Form
from openko.errors import InputError

SPLITS = ("train", "validation", "test")
QUESTIONS = ("paragraphs[].qas[].question", "paragraphs[].qas[].answers[].text", "paragraphs[].qas[].answers.text")

# The first that fits is taken, so what holds more of the text stands before what holds less.
FORMS = (
    Form("SJML.text[]", ("content",)),  # 방송·온라인 글 말뭉치, source files
    Form("named_entity[]", ("content[ ].sentence",)),  # 030 웹데이터, 031 온라인 구어체 말뭉치, labels
    Form("documents[]", ("text[][ ].sentence",)),  # 문서요약 텍스트
    Form("data[]", ("rows[].text",)),  # 전문분야 말뭉치
    Form("data[]", ("paragraphs[].context",)),  # 기계독해, in SQuAD's form
    Form("data[]", ("summary_entire[].orginal_text", "summary_section[].orginal_text")),  # 018 논문자료 요약, spelt so
    Form("data[]", ("utterance",), turns="body.dialogue[]", speaker="participantID"),  # 한국어 대화 요약
    Form("data[]", ("utterance",), turns="body[]", speaker="participantID"),  # 한국어 SNS
    Form("data[]", ("corpus",)),  # 119 국가기록물 말뭉치, source files
    Form("data[]", ("context",)),  # the same, labels
    Form("data[]", ("ko",)),  # 번역 병렬 말뭉치: the Korean side
    Form("data[]", ("한국어",)),
    Form("data[]", ("원문",)),
    Form("info[]", ("annotations.text",)),  # 020 주제별 텍스트 일상 대화
    Form("", ("standard_form",), turns="utterance[]", speaker="speaker_id"),  # 한국어 방언 발화, 자유대화
    Form("", ("paragraphs[].sentences[ ].text",)),  # 029 대규모 구매도서: a book in a file
    Form("", ("Meta(Refine).passage",)),  # 022 요약문 및 레포트 생성
    Form("", ("passage",)),  # 도서자료 요약
    Form("", ("ko",)),
    Form("", ("한국어",)),
    Form("", ("원문",)),
)

WORDS = {
    "train": re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])", re.IGNORECASE),
    "validation": re.compile(r"(?<![a-z])(?:validation|valid|val|dev)(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE),
}
# Korean words must be the whole name, as in 1.학습 or [검증데이터].zip: in others, 학습 is what the data is about (기계학습) or for.
KOREAN = re.compile(r"[\d\W_]*(?:(?P<train>학습)|(?P<validation>검증)|(?P<test>시험))(?:[ _]?(?:데이터|셋|세트))?[\d\W_]*(?:zip|json|txt)?")
MARK = re.compile(r"\[?(?:(?P<train>T[LS])|(?P<validation>V[LS]))(?![A-Za-z])")


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    column = source.options.get("text")
    if isinstance(column, int) and (isinstance(column, bool) or column < 1):
        raise InputError(
            f"source {source.name}: text is the name of a column, or its number from 1 where there is no header, found {column}"
        )
    _forms(source)
    return archives.pieces(source, found, data)


def read(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    """The documents of a piece; members of another split than the source's are one Fault that says how many there are."""
    forms, disk = _forms(source), files.place(piece.file)
    if source.split is not None and (here := _named(disk)) not in (None, source.split):
        if piece.start == 0:
            yield Fault("other-split", disk, f"{archives.count(piece, data):,} members of {here}")
        return
    others = Counter()
    for content in archives.contents(piece, data):
        if isinstance(content, Fault):
            yield content
        elif source.split in (None, split_of(disk, content.place.removeprefix(disk))):
            yield from files.guarded(_documents(content, forms, source), content.place)
        else:
            others[content.place.rpartition("!")[0] or content.place] += 1
    for place, number in others.items():
        yield Fault("other-split", place, f"{number:,} members of the members {piece.start} to {piece.stop or 'the last'}")


def split_of(disk: str, member: str = "") -> str:
    """The split of a file, or of a member of one: as its path on disk says; where that says nothing, as the member's name does;
    where neither does, train. The innermost part that names a split counts."""
    return _named(disk) or _named(member) or "train"


def _named(path: str) -> str | None:
    for part in reversed(re.split("[/!]", path)):
        named = KOREAN.fullmatch(part) or MARK.match(part)
        split = named.lastgroup if named else next((split for split in SPLITS if WORDS[split].search(part)), None)
        if split:
            return split
    return None


def _documents(content: Content, forms: tuple[Form, ...], source: Source) -> Iterator[Text | Fault]:
    column = source.options.get("text")
    match content.suffix:
        case ".json":
            return json_documents.read(content, forms)
        case ".jsonl":
            return lines.jsonl(content, {"text": column} if column else {})
        case ".txt":
            return lines.plain(content)
        case ".csv" | ".tsv":
            return tables.delimited(content, column)
        case ".xlsx":
            return tables.excel(content, column)
    return iter([Fault("unknown-form", content.place, f"a file of type {content.suffix or 'unknown'}, in which no text is looked for")])


def _forms(source: Source) -> tuple[Form, ...]:
    """The forms of JSON that are looked for."""
    own, questions = source.options.get("json"), source.options.get("questions", False)
    if not isinstance(questions, bool):
        raise InputError(f"source {source.name}: questions is true or false, found {questions!r}")
    if own is not None:
        return (_own_form(source, own),)
    if questions:
        return tuple(Form(f.documents, f.text, also=QUESTIONS) if f.text == ("paragraphs[].context",) else f for f in FORMS)
    return FORMS


def _own_form(source: Source, written) -> Form:
    """The form of the option `json`: "<path of the documents> / <path of their text>"."""
    parts = str(written).split("/")
    if len(parts) != 2:
        raise InputError(f"source {source.name}: json is '<path of the documents> / <path of their text>', as in 'data[] / rows[].text', "
                         f"found {written!r}")  # fmt: skip
    documents, text = (part.strip() for part in parts)
    for path in (documents, text):
        paths.parse(path)
    return Form(documents, (text,))
