"""Did the training text hold the questions? Said beside every score, for a score on questions that were seen says nothing.

Looked for as openko.corpus.decontaminate looks: 25 letters in a row, or the whole of a shorter question from 15 letters on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openko import manifest
from openko.corpus import parts
from openko.corpus.decontaminate import FORMS, OPTIONS, SYLLABLES, Questions
from openko.errors import InputError
from openko.progress import Progress

ANSWERS = ("answer", "label", "gold")  # fields of other tasks that are no part of the question


@dataclass(frozen=True)
class Status:
    """questions: of the task.  looked_for: long enough and no mere phrase of examiners.  found: at least so many of those stand in the
    corpus, for a document is counted for the one question it holds most of.  documents: that hold one."""

    questions: int
    looked_for: int
    found: int
    documents: int

    def __str__(self) -> str:
        if not self.looked_for:
            return "not looked for"
        rest = self.questions - self.looked_for
        found = f"{'at least ' if self.found else ''}{self.found or 'none'} of {self.looked_for} found"
        return found + (f", {rest} not looked for" if rest else "")


def contamination(corpus: Path, tasks: dict[str, list[dict]], say: Callable[[str], None] = print) -> dict[str, Status]:
    """{task: Status} for {task: records of its questions}, after one pass over the training documents of a built corpus directory."""
    records = {task: [_record(row) for row in rows] for task, rows in tasks.items()}
    # One index for each task: in a common one a question that two tasks have would count for the first alone.
    indexes = {task: Questions({task: rows}, {}, syllables=SYLLABLES, share=0.0) for task, rows in records.items() if rows}
    names = ("ko.train", "en.train")
    paths = [path for name in names for path in _files(corpus, name)]
    if not paths:
        raise InputError(f"{corpus} has no training documents ({' or '.join(names)}): there is nothing to look in")
    total, done, progress = max(1, sum(path.stat().st_size for path in paths)), 0, Progress(say)
    found: dict[str, set[int]] = {task: set() for task in records}
    documents = dict.fromkeys(records, 0)
    for name in names:
        for document in parts.stream(corpus, name) if _files(corpus, name) else ():
            done += len(document["text"].encode("utf-8", "surrogatepass"))
            for task, index in indexes.items():
                if (match := index.match(document["text"])) is not None:
                    found[task].add(match.number)
                    documents[task] += 1
            progress(f"looking for {sum(map(len, records.values())):,} questions in {corpus}", min(1.0, done / total))
    return {
        task: Status(len(rows), indexes[task].facts[task].get("looked-for", 0) if rows else 0, len(found[task]), documents[task])
        for task, rows in records.items()
    }


def _files(corpus: Path, part: str) -> list[Path]:
    if part not in manifest.read(corpus, parts.KIND, made_by="openko corpus build").facts["files"]:
        return []
    return parts.files(corpus, part)


def _record(row: dict) -> dict[str, str]:
    """The texts of a question; lists of options are put together."""
    fields = next((form for form in FORMS.values() if all(name in row for name in form)), None)
    fields = [name for name in row if name not in ANSWERS] if fields is None else fields
    found = {name: row[name] if isinstance(row[name], str) else "\n".join(map(str, row[name])) for name in fields if _is_text(row[name])}
    return found or {next(iter(OPTIONS)): ""}


def _is_text(value) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, str) for part in value))
