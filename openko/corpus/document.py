"""What passes from step to step of the corpus: a source, a piece of it, a document with its lineage or a fault."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

LANGUAGES = ("ko", "en")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One corpus as published. path: patterns below the data folder ("[라벨]" is meant as it stands; * ? ** are patterns).

    split: the published split that is read, for readers that know splits. priority: of equal documents, the one from the
    source with the smallest number stays. weight: how often each document is packed; 0.3 packs three in ten, 2 each twice.
    clean: cleaning rules beside those of the recipe. options: what the reader is told beside ("text": name of the field, …).
    """

    name: str
    reader: str
    licence: str
    language: str
    path: tuple[str, ...] = ()
    split: str | None = None
    priority: int = 1
    weight: float = 1.0
    clean: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A part of a source that is read in one go, by one worker. file: below the data folder (None where the source has no
    files). start, stop: bytes of a text file, members of an archive, row groups of a table; stop None: to the end."""

    source: str
    file: Path | None
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """id: unique in the corpus, "<source>/<own id>", or "<source>/<place>" where the data gives none.
    place: where the text stands, "<file>!<member>#<position>"; file below the data folder, "!<member>" in archives only.
    """

    id: str
    text: str
    language: str
    source: str
    licence: str
    place: str

    def line(self) -> bytes:
        """One line of a JSONL file."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__}) + b"\n"


class Text(NamedTuple):
    """What a reader finds: the text, its place, and the data's own id of it, if there is one."""

    text: str
    place: str
    own_id: str | None = None


class Fault(NamedTuple):
    """What a reader could not read. reason: one of FAULTS. detail: what was found, for a person."""

    reason: str
    place: str
    detail: str


FAULTS = {
    "broken-archive": "an archive, or the rest of it, that cannot be opened",
    "unreadable-member": "a member of an archive, or a file, that cannot be unpacked: wrong checksum, cut off, encrypted",
    "escaping-path": "a member whose name leads out of the archive",
    "zip-bomb": "a member that unpacks to far more than any text does",
    "too-large": "a member that is too large to be read inside its archive",
    "other-split": "members of a published split that the recipe does not read",
    "wrong-encoding": "neither UTF-8 nor another encoding that Korean text comes in",
    "invalid-json": "JSON that cannot be read, even leniently",
    "invalid-xml": "XML that cannot be read any further",
    "invalid-table": "a row of a table that cannot be read",
    "unknown-form": "a readable file in none of the forms that its reader knows",
    "missing-field": "a record without the field that holds its text",
    "wrong-type": "a field that holds something else than text",
    "too-long-line": "a line longer than any document",
    "empty": "a record whose text is empty",
}
