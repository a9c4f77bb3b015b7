"""Documents in JSON files: read leniently, in whichever published form they have, a piece at a time where the file is large."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import ijson
import orjson

from openko.corpus.document import Fault, Text
from openko.corpus.readers import files, paths
from openko.corpus.readers.files import Content

HELD = 32 << 20  # bytes: smaller JSON is held in memory, where it takes up to nine times as much; larger is streamed, as fast
LENIENT = 256 << 20  # bytes: JSON up to here is held all the same where it cannot be streamed, for it to be read leniently
INSIDE = ("map_key", "start_map", "start_array")  # what ijson tells of before a value has ended
LOOKED_AT = 100  # documents by which the form of a file is told

# Strings are matched, so that no comma inside them goes; unfinished ones too, for the time to stay linear.
TRAILING_COMMA = re.compile(r'("(?:[^"\\]++|\\.)*+"?)|,(?=\s*+[\]}])', re.DOTALL)
SPACE = re.compile(r"[\s,]*+")


@dataclass(frozen=True)
class Form:
    """Where a kind of file has its documents, and where a document has its text, in the language of `paths`.

    documents: from the root, or from each item where the root is a list. text: from a document; of several, the first that
    leads anywhere. turns: for conversations, from a document to its utterances, text then being from an utterance;
    speaker: from an utterance. also: a path to more lines of the document, put behind its text.
    """

    documents: str
    text: tuple[str, ...]
    turns: str | None = None
    speaker: str = ""
    id: str | None = None
    also: tuple[str, ...] = ()

    @cached_property
    def document_path(self) -> paths.Path:
        return paths.parse(self.documents)

    def read(self, document, place: str) -> list[Text | Fault]:
        """The text of a document, and what was lost of it; or what is wrong with the whole."""
        own_id = paths.read_id(document, paths.parse(self.id)) if self.id else None
        if self.turns is not None:
            return self._talk(document, place, own_id)
        found = paths.read_text(document, self._text_path(document), place, own_id)
        return [self._with_more(one, document) if self.also and isinstance(one, Text) else one for one in found]

    def _talk(self, document, place: str, own_id: str | None) -> list[Text | Fault]:
        lost = paths.Lost(paths.parse(self.text[0]))
        talk = conversation(paths.parse(self.turns).each(document), paths.parse(self.speaker), lost)
        if talk is not None:
            return [paths.checked(talk, place, own_id), *lost.faults(place)]
        return lost.faults(place) or [Fault("missing-field", place, f"no text at {self.turns}.{self.text[0]}")]

    def _text_path(self, document) -> paths.Path:
        tried = [paths.parse(written) for written in self.text]
        return next((path for path in tried[:-1] if next(path.each(document), None) is not None), tried[-1])

    def _with_more(self, found: Text, document) -> Text:
        lines = [line for written in self.also for line in paths.parse(written).each(document)]
        return found._replace(text="\n".join([found.text, *(line for line in lines if isinstance(line, str))]))


def conversation(turns: Iterator, speaker: paths.Path, utterances: paths.Lost) -> str | None:
    """A line for each turn: what one speaker says in utterances that follow each other, with spaces between.

    utterances: the path to the text of an utterance; it is told of those that have none.
    """
    lines: list[str] = []
    last = None
    for turn in turns:
        said = utterances.item(turn, utterances.path.steps)
        if not said:
            continue
        now = next(speaker.each(turn), None)
        if lines and now is not None and now == last:
            lines[-1] += " " + said
        else:
            lines.append(said)
        last = now
    return "\n".join(lines) if lines else None


def read(content: Content, forms: Sequence[Form]) -> Iterator[Text | Fault]:
    """The documents of a JSON content in the first of `forms` that it has. Positions count the documents from 0."""
    return _streamed(content, forms) if content.size > HELD else _held(content, forms)


# ── held in memory ─────────────────────────────────────────────────────────────────────────────────────────────────


def _held(content: Content, forms: Sequence[Form], done: int = 0) -> Iterator[Text | Fault]:
    """done: how many documents were read before."""
    roots, problem = _load(content)
    form = _fitting(lambda form: itertools.chain.from_iterable(map(form.document_path.each, roots)), forms)
    if form:
        position, empty = 0, []
        for number, root in enumerate(roots):
            before = position
            for document in form.document_path.each(root):
                if position >= done:
                    yield from form.read(document, f"{content.place}#{position}")
                position += 1
            if position == before:
                empty.append(number)
        yield from _without_documents(content, form, empty)
    elif not problem:
        yield Fault("unknown-form", content.place, f"no text where it is looked for; there are {_outline(roots)}")
    if problem:
        yield problem


def _without_documents(content: Content, form: Form, numbers: Iterable[int]) -> Iterator[Fault]:
    for number in numbers:
        about = f"object {number} has nothing at {form.documents!r}, where others have documents"
        yield Fault("unknown-form", content.place, about)


def _fitting(documents: Callable[[Form], Iterable], forms: Sequence[Form]) -> Form | None:
    """The first form by which a document has text; else the first by which one has something else in its place."""
    for reasons in (("empty",), ("empty", "wrong-type")):
        for form in forms:
            tried = (found for document in itertools.islice(documents(form), LOOKED_AT) for found in form.read(document, ""))
            if any(isinstance(found, Text) or found.reason in reasons for found in tried):
                return form
    return None


def _load(content: Content) -> tuple[list, Fault | None]:
    """What the JSON holds, lists at its root as their items, and what is wrong with the rest of it."""
    with content.open() as file:
        data = file.read()
    if not data or data.isspace():
        return [], Fault("empty", content.place, f"{len(data)} bytes, none of which is to be seen")
    wrong = None
    try:
        values, problem = [orjson.loads(data)], None
    except orjson.JSONDecodeError:
        text, wrong = files.decode(data)
        values, problem = lenient(text)
    roots = [item for value in values for item in (value if isinstance(value, list) else [value])]
    if not problem:
        return roots, None
    return roots, Fault("invalid-json", content.place, f"{problem}; {wrong}" if wrong else problem)


def lenient(text: str) -> tuple[list, str | None]:
    """The values of a JSON text, and what ended them if it was not the end of the text.

    Beside JSON it takes control characters in strings, NaN, commas behind the last item, and several values one after another.
    """
    values, problem = _values(text)
    if problem and "," in text:
        mended = TRAILING_COMMA.sub(r"\1", text)
        if len(mended) < len(text):
            values, problem = _values(mended)
    return values, problem


def _values(text: str) -> tuple[list, str | None]:
    decoder, values, at = json.JSONDecoder(strict=False), [], SPACE.match(text).end()
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as problem:
            return values, str(problem)
        except RecursionError:
            return values, "nested too deeply"
        values.append(value)
        at = SPACE.match(text, at).end()
    return values, None


def _outline(roots: list) -> str:
    """The fields of the first object, for a person who looks for the one with the text."""
    if not roots:
        return "no records"
    if not isinstance(roots[0], dict):
        return paths.kind(roots[0])
    inner = [f"{name}: {', '.join(map(str, value))}" if isinstance(value, dict) else str(name) for name, value in roots[0].items()]
    return "; ".join(inner)[:300]


# ── too large to be held ───────────────────────────────────────────────────────────────────────────────────────────


def _streamed(content: Content, forms: Sequence[Form]) -> Iterator[Text | Fault]:
    lists: dict[str, list[Form]] = {}  # where documents may be, in the language of ijson, and the forms that have theirs there
    for form in forms:
        prefix = form.document_path.prefix
        for written in [f"item.{prefix}", prefix] if prefix else ["item"]:
            lists.setdefault(written, []).append(form)
    try:
        while (prefix := _first_list(content, lists)) is not None:
            candidates = lists.pop(prefix)
            with files.as_utf8(content) as file:
                documents = _strict(file, prefix)
                first = list(itertools.islice(documents, LOOKED_AT))
                whole = [document for document in first if not isinstance(document, ijson.JSONError)]
                if form := _fitting(lambda form, whole=whole: whole, candidates):
                    yield from _one_by_one(content, form, prefix, itertools.chain(first, documents))
                    return
    except ijson.JSONError as problem:
        yield from _not_strict(content, forms, problem)
        return
    if content.size <= LENIENT:  # a document to a file, or no text at all
        yield from _held(content, forms)
        return
    about = f"JSON of {content.size:,} bytes is read one document at a time, and there is text in none of the lists that documents are in"
    yield Fault("unknown-form", content.place, f"{about}: {', '.join(sorted({form.documents for form in forms} - {''}))}")


def _strict(file: BinaryIO, prefix: str) -> Iterator:
    """Documents, and at the end what broke them off, if anything did."""
    try:
        yield from ijson.items(file, prefix, use_float=True, multiple_values=True)
    except ijson.JSONError as problem:
        yield problem


def _one_by_one(content: Content, form: Form, prefix: str, documents: Iterator) -> Iterator[Text | Fault]:
    for number, document in enumerate(documents):
        if isinstance(document, ijson.JSONError):
            yield from _not_strict(content, (form,), document, done=number)
            return
        yield from form.read(document, f"{content.place}#{number}")
    if form.documents:
        yield from _without_documents(content, form, _empty_roots(content, prefix))


def _empty_roots(content: Content, prefix: str) -> Iterator[int]:
    """Numbers of the objects at the root, or in a list there, that have nothing at `prefix`. A second way through the file, which
    takes as long as the first: the first sees the documents alone, and not where one root ends."""
    number, end, full = 0, "", False  # end: the prefix of the value that ends a root
    with files.as_utf8(content) as file:
        for here, event, _ in ijson.parse(file, use_float=True, multiple_values=True):
            if here == prefix:
                full = True
            if here == "" and event in ("start_array", "end_array"):
                end = "item" if event == "start_array" else ""
            elif here == end and event not in INSIDE:
                if not full:
                    yield number
                number, full = number + 1, False


def _not_strict(content: Content, forms: Sequence[Form], problem: ijson.JSONError, done: int = 0) -> Iterator[Text | Fault]:
    """What comes after the first `done` documents, where JSON is not strict from there on."""
    if content.size > LENIENT:
        about = f"read one document at a time, which must be strict JSON: {problem}"
        yield Fault("invalid-json", content.place, " ".join(about.split())[:300])
        return
    yield from _held(content, forms, done)


def _first_list(content: Content, lists: dict) -> str | None:
    """The first of some lists that the content has."""
    with files.as_utf8(content) as file:
        for prefix, event, _ in ijson.parse(file, use_float=True, multiple_values=True):
            # A list at the root may hold documents, or objects that do: that is known at the end of its first item.
            if prefix in lists and (prefix != "item" or event == "end_map"):
                return prefix
    return None
