"""A small language for places in JSON: `data[].rows[].text`.

Names between dots are fields. `[]` goes through a list and puts each item on a line of its own; `[ ]` goes through a list and
puts the items one after another, with a space between. "" is the value itself.
"""

import functools
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass

from openko.corpus.document import Fault, Text
from openko.errors import InputError

LINES, WORDS = "[]", "[ ]"
JOINED_BY = {LINES: "\n", WORDS: " "}
STEP = re.compile(r"\[ ?\]|[^.\[\]]+")
WRITTEN = re.compile(r"(?:[^.\[\]]+(?:\[ ?\])*|(?:\[ ?\])+)(?:\.[^.\[\]]+(?:\[ ?\])*)*")


class WrongType(Exception):
    """Something else than text where a path leads; says what."""


@dataclass(frozen=True)
class Path:
    """A path that was read by `parse`. steps: names of fields, LINES or WORDS."""

    written: str
    steps: tuple[str, ...]

    def each(self, value) -> Iterator:
        """The values at the end of the path, in their order; where a field is missing there are none."""
        return _each(value, self.steps)

    def text(self, value) -> str | None:
        """The text at the end of the path, lists joined; None if there is none, or only null."""
        return _text(value, self.steps, Lost(self))

    @property
    def prefix(self) -> str:
        """The same path as ijson writes it."""
        return ".".join("item" if step in JOINED_BY else step for step in self.steps)


@functools.cache
def parse(written: str) -> Path:
    if not isinstance(written, str) or (written and not WRITTEN.fullmatch(written)):
        raise InputError(f"{written!r} is no path: write fields with dots between, and [] behind a list, as in data[].rows[].text")
    return Path(written, tuple(STEP.findall(written)))


def _each(value, steps: tuple[str, ...]) -> Iterator:
    for number, step in enumerate(steps):
        if step in JOINED_BY:
            for item in value if isinstance(value, list) else ():
                yield from _each(item, steps[number + 1 :])
            return
        if not isinstance(value, dict) or step not in value:
            return
        value = value[step]
    yield value


def _text(value, steps: tuple[str, ...], lost: "Lost") -> str | None:
    for number, step in enumerate(steps):
        if step in JOINED_BY:
            return _joined(value, step, steps[number + 1 :], lost) if isinstance(value, list) else None
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    if value is None or isinstance(value, str):
        return value
    raise WrongType(f"{lost.path.written or 'the record'} holds {kind(value)} where text is needed: {shown(value)}")


def _joined(items: list, step: str, rest: tuple[str, ...], lost: "Lost") -> str | None:
    found = [text for item in items if (text := lost.item(item, rest)) is not None]
    return JOINED_BY[step].join(found) if found else None


def _ends_in_list(value, steps: tuple[str, ...]) -> bool:
    """Whether a list is reached. If it gave no text and nothing was lost there, it is empty, as in a paragraph without sentences."""
    for step in steps:
        if step in JOINED_BY:
            return isinstance(value, list)
        value = value.get(step) if isinstance(value, dict) else None
    return False


class Lost:
    """What of a document could not be read, although the rest could: by reason, how many items of lists, and the first of them."""

    def __init__(self, path: Path):
        self.path, self.count, self.first = path, 0, {}

    def item(self, item, steps: tuple[str, ...]) -> str | None:
        """The text of an item; None where it is lost, or where there is none for want of items."""
        before = self.count
        try:
            text = _text(item, steps, self)
        except WrongType as problem:
            self.add("wrong-type", str(problem))
            return None
        if text is None and self.count == before and not _ends_in_list(item, steps):
            self.add("missing-field", f"no text at {self.path.written!r}: the item is {shown(item)}")
        return text

    def add(self, reason: str, about: str) -> None:
        self.count += 1
        number, first = self.first.get(reason, (0, about))
        self.first[reason] = number + 1, first

    def faults(self, place: str) -> list[Fault]:
        """One for each reason."""
        return [Fault(reason, place, f"{number} x {about}") for reason, (number, about) in self.first.items()]


def read_text(record, path: Path, place: str, own_id: str | None = None) -> list[Text | Fault]:
    """The text of a record and what was lost of it, or what is wrong with the whole."""
    lost = Lost(path)
    try:
        text = _text(record, path.steps, lost)
    except WrongType as problem:
        return [Fault("wrong-type", place, str(problem))]
    if text is not None:
        return [checked(text, place, own_id), *lost.faults(place)]
    if lost.count:
        return lost.faults(place)
    has = f"there are {', '.join(map(str, record))[:200]}" if isinstance(record, dict) else f"the record is {kind(record)}"
    return [Fault("missing-field", place, f"no text at {path.written!r}; {has}")]


def checked(text: str, place: str, own_id: str | None = None) -> Text | Fault:
    """Refuses what is empty."""
    if not text or text.isspace():
        return Fault("empty", place, f"{len(text)} characters, none of which is to be seen")
    return Text(text, place, own_id)


def read_id(record, path: Path | None) -> str | None:
    """The data's own id of a record: text, or a whole number. Anything else is no id."""
    value = next(path.each(record), None) if path else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def shown(value) -> str:
    """The beginning of a value, for a person, however deep or long it is."""
    return repr(reprlib.repr(value)[:80])


def kind(value) -> str:
    """What a JSON value is, for a person."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")
