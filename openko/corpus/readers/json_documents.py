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

    def read(self, document, place: str) -> Text | Fault:
        own_id = paths.read_id(document, paths.parse(self.id)) if self.id else None
        if self.turns is not None:
            try:
                talk = conversation(paths.parse(self.turns).each(document), paths.parse(self.speaker), paths.parse(self.text[0]))
            except paths.WrongType as problem:
                return Fault("wrong-type", place, str(problem))
            if talk is None:
                return Fault("missing-field", place, f"no text at {self.turns}.{self.text[0]}")
            return paths.checked(talk, place, own_id)
        found = paths.read_text(document, self._text_path(document), place, own_id)
        return self._with_more(found, document) if self.also and isinstance(found, Text) else found

    def _text_path(self, document) -> paths.Path:
        tried = [paths.parse(written) for written in self.text]
        return next((path for path in tried[:-1] if next(path.each(document), None) is not None), tried[-1])

    def _with_more(self, found: Text, document) -> Text:
        lines = [line for written in self.also for line in paths.parse(written).each(document)]
        return found._replace(text="\n".join([found.text, *(line for line in lines if isinstance(line, str))]))


def conversation(turns: Iterator, speaker: paths.Path, text: paths.Path) -> str | None:
    """A line for each turn: what one speaker says in utterances that follow each other, with spaces between."""
    lines: list[str] = []
    last = None
    for turn in turns:
        said = text.text(turn)
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


def _held(content: Content, forms: Sequence[Form]) -> Iterator[Text | Fault]:
    roots, problem = _load(content)
    form = _fitting(lambda form: itertools.chain.from_iterable(map(form.document_path.each, roots)), forms)
    if form:
        numbers = itertools.count()
        for number, root in enumerate(roots):
            empty = True
            for document in form.document_path.each(root):
                yield form.read(document, f"{content.place}#{next(numbers)}")
                empty = False
            if empty:
                yield Fault(
                    "unknown-form", content.place, f"object {number} has nothing at {form.documents!r}, where the first ones have documents"
                )
    elif not problem:
        yield Fault("unknown-form", content.place, f"no text where it is looked for; there are {_outline(roots)}")
    if problem:
        yield problem


def _fitting(documents: Callable[[Form], Iterable], forms: Sequence[Form]) -> Form | None:
    """The first form by which a document has text; else the first by which one has something else in its place."""
    for reasons in (("empty",), ("empty", "wrong-type")):
        for form in forms:
            tried = (form.read(document, "") for document in itertools.islice(documents(form), LOOKED_AT))
            if any(isinstance(found, Text) or found.reason in reasons for found in tried):
                return form
    return None


def _load(content: Content) -> tuple[list, Fault | None]:
    """What the JSON holds, lists at its root as their items, and what is wrong with the rest of it."""
    with content.open() as file:
        data = file.read()
    if not data or data.isspace():
        return [], Fault("empty", content.place, f"{len(data)} bytes, none of which is to be seen")
    try:
        values, problem = [orjson.loads(data)], None
    except orjson.JSONDecodeError:
        text = files.decode(data)
        values, problem = lenient(text)
    roots = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return roots, Fault("invalid-json", content.place, problem) if problem else None


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
                    yield from _one_by_one(content, form, itertools.chain(first, documents))
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


def _one_by_one(content: Content, form: Form, documents: Iterator) -> Iterator[Text | Fault]:
    for number, document in enumerate(documents):
        if isinstance(document, ijson.JSONError):
            yield from _not_strict(content, (form,), document, done=number)
        else:
            yield form.read(document, f"{content.place}#{number}")


def _not_strict(content: Content, forms: Sequence[Form], problem: ijson.JSONError, done: int = 0) -> Iterator[Text | Fault]:
    """What comes after the first `done` documents, where JSON is not strict from there on."""
    if content.size > LENIENT:
        about = f"read one document at a time, which must be strict JSON: {problem}"
        yield Fault("invalid-json", content.place, " ".join(about.split())[:300])
        return
    read = 0
    for found in _held(content, forms):
        of_a_document = found.place != content.place
        read += of_a_document
        if read > done or not of_a_document:
            yield found


def _first_list(content: Content, lists: dict) -> str | None:
    """The first of some lists that the content has."""
    with files.as_utf8(content) as file:
        for prefix, event, _ in ijson.parse(file, use_float=True, multiple_values=True):
            # A list at the root may hold documents, or objects that do: that is known at the end of its first item.
            if prefix in lists and (prefix != "item" or event == "end_map"):
                return prefix
    return None
