"""One piece of a source: read, clean, filter, compare with evaluation questions; the good go into runs, the rest to its reasons."""

import functools
import json
import pickle
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from openko.corpus import clean, filters, personal, readers
from openko.corpus.decontaminate import Questions
from openko.corpus.document import LANGUAGES, Document, Fault, Piece, Source, Text
from openko.corpus.recipe import Recipe
from openko.corpus.runs import RunWriter

REJECTED, FAULTS = "rejected.jsonl", "faults.jsonl"
EXAMPLES, EXCERPT = 3, 160  # before and after each cleaning rule: how many, and how many characters
# The rules that undo a way of writing characters: a number or an address behind one of them is found only after them.
HIDING = ("entities", "mojibake", "control-characters", "nfc")


@dataclass
class Tally:
    """What became of the documents of a source; plain JSON by `asdict`."""

    source: str
    read: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    cleaned: dict = field(default_factory=lambda: defaultdict(Counter))
    rejected: dict = field(default_factory=lambda: defaultdict(Counter))
    examples: dict = field(default_factory=lambda: defaultdict(list))


def sift(recipe: Recipe, source: Source, pieces: list[Piece], data: Path, questions: Path | None, directory: Path) -> dict:
    """Sift some pieces of a source into `directory` (runs, REJECTED, FAULTS), made anew if it is there. Returns a Tally as JSON.

    questions: pickled Questions; reading them anew takes seconds and 1.5 GB, in every process.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    runs = RunWriter(directory, recipe.sources.index(source), recipe.near_duplicates, among=LANGUAGES.index(source.language))
    tally, rules = Tally(source.name), recipe.rules(source)
    against = _unpickled(questions) if questions else None
    # A fault's detail may quote half a surrogate pair, which no encoding knows.
    writing = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace"}
    with open(directory / REJECTED, **writing) as rejected, open(directory / FAULTS, **writing) as faults:
        for piece in pieces:
            for found in readers.read(piece, source, data):
                found = _encodable(found)
                if isinstance(found, Fault):
                    tally.faults[found.reason] += 1
                    found = found._replace(detail=personal.mask(found.detail))  # some quote the record that cannot be read
                    faults.write(json.dumps({"source": source.name, **found._asdict()}, ensure_ascii=False) + "\n")
                    continue
                document = _cleaned(found, source, rules, tally)
                refused = _refused(document, recipe.filters, against)
                if refused:
                    _count(tally.rejected[refused["reason"]], document.text)
                    lineage = {"id": document.id, "source": document.source, "place": document.place}
                    rejected.write(json.dumps(lineage | refused | {"text": document.text}, ensure_ascii=False) + "\n")
                else:
                    runs.add(document.line(), document.text, document.id.encode())
    runs.close()
    return vars(tally)


def _encodable(found: Text | Fault) -> Text | Fault:
    """A JSON string may hold half of a surrogate pair, which no file can; so may a file's name."""
    if isinstance(found, Text):
        try:
            "\n".join((found.text, found.place, found.own_id or "")).encode()
        except UnicodeEncodeError as problem:
            return Fault("wrong-encoding", found.place, f"half a surrogate pair at character {problem.start} of text, place or id")
    return found


def _cleaned(found: Text, source: Source, rules: tuple[str, ...], tally: Tally) -> Document:
    text, touched = clean.clean(found.text, rules)
    _count(tally.read, found.text)
    for rule, shorter in touched.items():
        tally.cleaned[rule]["documents"] += 1
        tally.cleaned[rule]["bytes"] += shorter
        if len(tally.examples[rule]) < EXAMPLES:
            tally.examples[rule].append({"id": found.place} | _example(found.text, rules, rule))
    name = f"{source.name}/{found.own_id or found.place}"
    return Document(name, text, source.language, source.name, source.licence, found.place)


def _refused(document: Document, thresholds: dict, against: Questions | None) -> dict | None:
    """Why a document goes: what a line of REJECTED says beside lineage and text."""
    failed = filters.check(document.text, document.language, thresholds)
    if failed:
        reason, value, threshold = failed
        return {"reason": reason, "value": value, "threshold": threshold}
    match = against.match(document.text) if against else None
    return {"reason": "contaminated", "question": match._asdict()} if match else None


def _count(counter: Counter, text: str) -> None:
    counter["documents"] += 1
    counter["bytes"] += len(text.encode())


def _example(text: str, rules: tuple[str, ...], rule: str) -> dict:
    """ "before" and "after" one rule, around the first difference, and never a person's number or address.

    A corpus's manifest and page travel further than its text, so numbers and addresses are masked in what every rule shows,
    whether or not the source's rules do that. Of the rule that does, and where masking would miss what is hidden by the way it
    is written (hong&#64;…), only "after" is given.
    """
    before, _ = clean.clean(text, rules[: rules.index(rule)])
    after = clean.CLEANERS[rule](before)
    if rule == personal.RULE or _hides_more(before) or _hides_more(after):
        after = personal.mask(clean.clean(after, HIDING)[0])
        return {"after": after[_around_difference(before, after)]}
    before, after = personal.mask(before), personal.mask(after)  # as wholes: the half of a number that a cut leaves is not found
    part = _around_difference(before, after)
    return {"before": before[part], "after": after[part]}


def _hides_more(text: str) -> bool:
    """Whether something personal is left after masking, to be read by whoever undoes entities and the like."""
    return bool(personal.find(clean.clean(personal.mask(text), HIDING)[0]))


def _around_difference(before: str, after: str) -> slice:
    same = next((k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    return slice(max(0, same - EXCERPT // 2), same + EXCERPT // 2)


@functools.cache
def _unpickled(questions: Path) -> Questions:
    """Once in each process."""
    return pickle.loads(questions.read_bytes())
