"""모두의 말뭉치 of the National Institute of Korean Language, and other JSON whose place of documents the recipe tells.

Masks of personal data such as &name& stay as they are: the rule modu-masks is for them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from openko.corpus.document import Fault, Piece, Source, Text
from openko.corpus.readers import archives, files, json_documents
from openko.corpus.readers.json_documents import Form
from openko.errors import InputError

FORMS = (
    Form("document[]", ("paragraph[].form",), id="id"),  # written, news, web, unpublished
    Form("document[]", ("form",), turns="utterance[]", speaker="speaker_id", id="id"),  # spoken, messenger, online talk
    Form("document[]", ("sentence[].form",), id="id"),  # the analysed corpora, from 2019 on
)


def read(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    return _read(piece, data, FORMS)


def json_pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    _form(source)
    return archives.pieces(source, found, data)


def read_json(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    return _read(piece, data, (_form(source),))


def _form(source: Source) -> Form:
    options = source.options
    if "documents" not in options or "text" not in options:
        raise InputError(f"source {source.name}: reader json needs `documents` and `text`, as in documents: sections[], text: pages[].text")
    return Form(options["documents"], (options["text"],), id=options.get("id"))


def _read(piece: Piece, data: Path, forms: Sequence[Form]) -> Iterator[Text | Fault]:
    for content in archives.contents(piece, data):
        if isinstance(content, Fault):
            yield content
        elif content.suffix == ".json":
            yield from files.guarded(json_documents.read(content, forms), content.place)
        else:
            yield Fault("unknown-form", content.place, f"a file of type {content.suffix or 'unknown'} where JSON is looked for")
