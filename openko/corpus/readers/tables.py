"""Tables as text or as Excel: a document for each row, from the column that the header names."""

import csv
import tempfile
from collections import deque
from collections.abc import Iterator

from openko.corpus.document import Fault, Text
from openko.corpus.readers import files, paths
from openko.corpus.readers.archives import Archive
from openko.corpus.readers.files import Content, Lines

# What published tables call the Korean text; the first that is there is read.
COLUMNS = ("text", "sentence", "content", "문장", "원문", "본문", "내용", "한국어", "ko", "document")

MOST_AGAIN = 4 * files.LONGEST  # characters of a table that are read again behind quotation marks that nobody closes

csv.field_size_limit(files.LONGEST)  # the module's own limit is shorter than many a document


def delimited(content: Content, column: str | int | None) -> Iterator[Text | Fault]:
    """Rows of .csv and .tsv. column: its name; or its number from 1, where there is no header; or None: one of COLUMNS.

    A quotation mark that nobody closes, or that text stands behind, costs the row that it is in, not those after it.
    In .tsv quotation marks are text, for a tab ends a field whatever stands before it. Positions are numbers of rows, the header 0.
    """
    tabs = content.suffix == ".tsv"
    faults: list[Fault] = []
    lines = _Lines(_good_lines(content, faults))
    rows = csv.reader(lines, strict=True, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    yield from _documents(_rows(rows, lines, content.place, faults), column, content.place, "")


def _good_lines(content: Content, faults: list[Fault]) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and texts of the lines that can be decoded."""
    for number, (_, line) in enumerate(Lines.of(content).decoded(content.place), 1):
        if isinstance(line, Fault):
            faults.append(line)
        else:
            yield number, line + "\n"


class _Lines:
    """Lines for csv.reader, of which it can be given some again. row: those of the row that it reads."""

    def __init__(self, lines: Iterator[tuple[int, str]]):
        self.lines, self.row, self.waiting, self.again = lines, [], deque(), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        numbered = self.waiting.popleft() if self.waiting else next(self.lines)
        self.row.append(numbered)
        return numbered[1]

    def all_but_first(self) -> None:
        """Go on with the line after the one that the row began with."""
        self.again += sum(len(line) for _, line in self.row[1:])
        self.waiting.extendleft(reversed(self.row[1:]))


def _rows(rows: Iterator[list[str]], lines: _Lines, place: str, faults: list[Fault]) -> Iterator[list | Fault]:
    while True:
        lines.row.clear()
        try:
            row = next(rows, None)
        except csv.Error as problem:
            faults.append(Fault("invalid-table", f"{place}#line {lines.row[0][0]}", str(problem)))
            if lines.again > MOST_AGAIN:
                yield Fault("invalid-table", place, f"too many unclosed quotation marks: what comes after line {lines.row[0][0]} is lost")
                return
            lines.all_but_first()
            continue
        finally:
            yield from faults
            faults.clear()
        if row is None:
            return
        yield row


def excel(content: Content, column: str | int | None) -> Iterator[Text | Fault]:
    """Rows of all sheets of an .xlsx. Positions are "<sheet>:<row>", rows counted as Excel does."""
    import openpyxl
    from openpyxl.utils.escape import unescape  # openpyxl leaves _x000D_ and its like as they are in the file

    with tempfile.SpooledTemporaryFile(files.PIECE_BYTES) as copy:
        with content.open() as file:
            while part := file.read(files.BUFFER):
                copy.write(part)
        inside = Archive(copy)
        refused = inside.fault or next((found for member in inside.members if (found := member.refused())), None)
        if refused:
            yield Fault(refused[0], content.place, f"as an archive of XML, which .xlsx is: {refused[1]}")
            return
        try:
            book = openpyxl.load_workbook(copy, read_only=True, data_only=True)
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # some programs write a size that is not the sheet's
                rows = ([unescape(v) if isinstance(v, str) else v for v in row] for row in sheet.iter_rows(values_only=True))
                yield from _documents(rows, column, content.place, f"{sheet.title}:", first=1)
        except Exception as problem:  # there is no telling what a broken workbook makes openpyxl raise
            yield Fault("unreadable-member", content.place, f"openpyxl: {type(problem).__name__}: {problem}")


def _documents(rows: Iterator, column: str | int | None, place: str, sheet: str, first: int = 0) -> Iterator[Text | Fault]:
    """sheet: what positions begin with.  first: the number of the first row."""
    index = column - 1 if isinstance(column, int) else None
    number = first - 1
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        number += 1
        if index is None:
            names = [str(name).strip().removeprefix("\ufeff") if name is not None else "" for name in row]
            index = _index(names, column)
            if index is None:
                wanted = column if column is not None else " / ".join(COLUMNS)
                yield Fault("unknown-form", f"{place}#{sheet}{number}", f"no column {wanted}; there are {', '.join(names)[:300]}")
                return
        elif any(field not in (None, "") for field in row):
            value = row[index] if index < len(row) else None
            yield _document(value, f"{place}#{sheet}{number}", index)


def _index(names: list[str], column: str | None) -> int | None:
    wanted = [column] if column is not None else [name for name in COLUMNS if name in (lowered := [n.lower() for n in names])]
    if not wanted:
        return None
    compared = names if column is not None else lowered
    return compared.index(wanted[0]) if wanted[0] in compared else None


def _document(value, place: str, index: int) -> Text | Fault:
    if value is None:
        return Fault("missing-field", place, f"the row has nothing in column {index + 1}")
    if not isinstance(value, str):
        return Fault("wrong-type", place, f"column {index + 1} holds {paths.kind(value)}: {paths.shown(value)}")
    return paths.checked(value, place)
