"""AI Hub's zips, read in place, and folders of what was in them.

Each data set has JSON of its own form; FORMS are those of the published ones. What a form leaves out (labels, summaries, questions)
is no running text. Validation splits are left to evaluation by `split: train`.
"""

import re
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

TRAIN = re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])", re.IGNORECASE), re.compile(r"\[?T[LS](?![A-Za-z])")
VALIDATION = re.compile(r"(?<![a-z])(?:validation|valid|val|dev)(?![a-z])", re.IGNORECASE), re.compile(r"\[?V[LS](?![A-Za-z])")
TEST = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE), re.compile(r"(?!)")


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    column = source.options.get("text")
    if isinstance(column, int) and (isinstance(column, bool) or column < 1):
        raise InputError(
            f"source {source.name}: text is the name of a column, or its number from 1 where there is no header, found {column}"
        )
    _forms(source)
    return archives.pieces(source, found, data)


def read(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    forms = _forms(source)
    for content in archives.contents(piece, data):
        if isinstance(content, Fault):
            yield content
        elif source.split is None or source.split == split_of(content.place):
            yield from files.guarded(_documents(content, forms, source), content.place)


def split_of(place: str) -> str:
    """The split of a file or member: by the innermost part of its path that names one. Where none does it is train."""
    for part in reversed(re.split("[/!]", place)):
        for split, (word, mark) in zip(SPLITS, (TRAIN, VALIDATION, TEST), strict=True):
            if word.search(part) or mark.match(part):
                return split
    return "train"


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
