"""The markdown tables of lm-evaluation-harness: read from any file, of any of its years, and printed again digit by digit.

The form changed with the harness (read in the sources of 0.3.0, 0.4.2, 0.4.3, 0.4.4, 0.4.8 and 0.4.13):

    0.3.0      |Task|Version|Metric|Value| |Stderr|
    0.4.0      |Tasks|Version|Filter|Metric|Value| |Stderr|, soon with n-shot, and |Groups|… below; members are "- NAME", indented
    0.4.3      an unnamed column before Value: ↑ where more is better, ↓ where less is
    0.4.4      N/A with blanks before it; a group without an aggregate is a row with a name only

openko evaluate adds a last column, "in training".

Nothing is computed here: a number is the string that was printed.
"""

import ast
import re
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from openko.errors import InputError

EXAMPLE = "|Tasks|Version|Filter|n-shot|Metric| |Value| |Stderr|"
FIELDS = ("task", "version", "filter", "n_shot", "metric", "value", "stderr")
NAMED = {
    "Version": "version", "Filter": "filter", "n-shot": "n_shot", "Metric": "metric", "Value": "value", "Stderr": "stderr",
    "in training": "in_training",
}  # fmt: skip
FIRST = ("Tasks", "Task", "Groups", "Group")
# In this order, those in parentheses not in every year.
ORDER = re.compile(r"task version (filter )?(n_shot )?metric (direction )?value (sign )?stderr( in_training)?")
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
RUN = re.compile(
    r"(?:[-*] )?`?(?P<model>[\w./-]+) \((?P<model_args>.*?)\), (?:gen_kwargs: \((?P<gen_kwargs>.*?)\), )?limit: (?P<limit>[^,]+), "
    r"(?:provide_description: [^,]+, )?num_fewshot: (?P<num_fewshot>[^,]+), batch_size: (?P<batch_size>[^`]+?)`?"
)
NUMERIC = ("version", "n_shot", "value", "stderr")
NONE = "N/A"


@dataclass(frozen=True)
class Run:
    """What the harness prints above a table: how the model was loaded and asked. All as printed, "None" included."""

    model: str
    model_args: str
    gen_kwargs: str | None
    limit: str
    num_fewshot: str
    batch_size: str

    @property
    def arguments(self) -> dict[str, str]:
        """`model_args` by name ("pretrained", "revision", "dtype", …), from key=value,… or from a printed dict; {} from anything else."""
        if self.model_args.startswith("{"):
            try:
                return {str(name): str(value) for name, value in ast.literal_eval(self.model_args).items()}
            except (ValueError, SyntaxError):
                return {}
        pairs = (part.partition("=") for part in self.model_args.split(",") if "=" in part)
        return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, every field as printed; None where the table has no such column or left it blank.

    direction: "↑", "↓" or None.  depth: 0, or how far a group's member is indented.
    metric, value: both None in a row that only names a group.  in_training: openko evaluate's word on the questions.
    """

    task: str
    version: str | None = None
    filter: str | None = None
    n_shot: str | None = None
    metric: str | None
    direction: str | None = None
    value: str | None
    stderr: str | None = None
    in_training: str | None = None
    depth: int = 0

    def record(self) -> dict:
        """{task, version, filter, n_shot, metric, value, stderr}."""
        return {name: getattr(self, name) for name in FIELDS}


@dataclass(frozen=True, kw_only=True)
class Section:
    """Rows below one header.

    columns: the header's cells, also of a header that was lost.  right: of each column, whether its rule row says right-aligned.
    headed: False where someone pasted a Groups table below a Tasks table without its header.
    padded: N/A is printed with blanks before it, as from 0.4.4 on.
    """

    run: Run | None
    columns: tuple[str, ...]
    right: tuple[bool, ...]
    headed: bool
    padded: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """All harness tables of one text, in its order."""

    sections: tuple[Section, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every printed measurement, a group's as often as it was printed; rows that only name a group left out."""
        return tuple(row for section in self.sections for row in section.rows if row.metric is not None)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(dict.fromkeys(section.run for section in self.sections if section.run is not None))


def read(path: Path) -> Table:
    """`parse` of a UTF-8 file, with or without a byte order mark.

    Raises InputError, naming the file, for what is missing, a directory, not UTF-8, or no harness table.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: name one text file with a harness table, such as a model card's README.md") from None
    except UnicodeDecodeError as problem:
        raise InputError(
            f"{path} is not UTF-8 text ({problem.reason} at byte {problem.start}): name a text file with a harness table, "
            "or convert it with iconv -t utf-8"
        ) from None
    return parse(text, name=str(path))


def parse(text: str, *, name: str = "the text") -> Table:
    """Every harness table in `text`, whatever else stands there: prose, other tables, code.

    name: what messages call the text.
    Raises InputError with the line for a row with another number of cells than its header, a value that is no number, a row
    that continues nothing, a header without its |---| or without rows; and where no table is the harness's.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [re.sub(r"^[\s>]+", "", line).rstrip() for line in lines]
    sections, others, run, at = [], [], None, 0
    while at < len(lines):
        line = lines[at]
        if found := RUN.fullmatch(line):
            run = Run(**found.groupdict())
        kinds = _kinds(line)
        if kinds is None:
            if _kinds(f"|{line.strip('|')}|"):
                raise InputError(f"{name}, line {at + 1}: a table's header must begin and end with |, found {_shown(line)}")
            if line.startswith("|") and not (at and lines[at - 1].startswith("|")):
                others.append(at + 1)
            at += 1
            continue
        stop = next((n for n in range(at + 1, len(lines)) if not lines[n].startswith("|") or _kinds(lines[n])), len(lines))
        if stop < len(lines) and lines[stop].count("|") > 1 and not lines[stop].startswith("|"):
            raise InputError(
                f"{name}, line {stop + 1}: a row must begin with |, found {_shown(lines[stop])}: mend it or put a blank line before"
            )
        made = _sections(lines[at:stop], kinds, run, lambda n, start=at: f"{name}, line {start + n + 1}")
        sections += made
        # A Groups table shares the line above its Tasks table; to any other table that line says nothing.
        following = next((line for line in lines[stop:] if line), "")
        run = run if (_cells(following) or [""])[0].strip().startswith("Group") else None
        at = stop
    if not sections:
        seen = f" (it has other tables, the first at line {others[0]})" if others else ""
        raise InputError(f"{name} has no table of lm-evaluation-harness{seen}: its header is such as {EXAMPLE}")
    return Table(tuple(sections))


def _shown(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "…")


def _cells(line: str) -> list[str] | None:
    """The raw cells of a row; None for what does not begin with |, or has one | only."""
    parts = re.split(r"(?<!\\)\|", line)
    return parts[1:] if line.startswith("|") and len(parts) > 1 else None


def _plain(cell: str) -> str:
    return re.sub(r"\\([\\_*|`<>\[\]#~-])", r"\1", cell.strip())


def _kinds(line: str) -> list[str] | None:
    """What each column of a harness header holds; None for any other line."""
    cells = _cells(line)
    if cells is None or cells[-1] or _plain(cells[0]) not in FIRST:
        return None
    kinds = ["task"]
    for cell in map(_plain, cells[1:-1]):
        kinds.append(NAMED.get(cell) or ("" if cell else "sign" if "value" in kinds else "direction"))
    return kinds if ORDER.fullmatch(" ".join(kinds)) else None


def _widths(cells: list[str]) -> list[int]:
    return [_width(cell) for cell in cells]


def _width(text: str) -> int:
    """Columns of a terminal; what is wide there (Hangul, 漢字) takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _sections(lines: list[str], kinds: list[str], run: Run | None, place) -> list[Section]:
    """A header, its rule and its rows: one section, or two where a second table's header was lost."""
    table = [_row_cells(line, len(kinds), place(n)) for n, line in enumerate(lines)]
    header, rule, rows = table[0], table[1] if len(table) > 1 else [], table[2:]
    if not rule or not all(re.fullmatch(r":?-+:?", cell.strip()) for cell in rule):
        raise InputError(f"{place(0)}: a table's header must be followed by a row of |---|; was the file cut off or edited?")
    if not rows:
        raise InputError(f"{place(0)}: the table has a header and no rows; was the file cut off?")
    margin = all(row[kinds.index("metric")].startswith(" ") for row in rows)  # as formatters of markdown lay tables out
    aligned = _widths(header) == _widths(rule) == _widths(rows[0])
    right = tuple(cell.strip().endswith(":") for cell in rule)
    columns = tuple(map(_plain, header))

    parts, read, seen = [[]], [], set()
    for n, cells in enumerate(rows, start=2):
        row = _row(dict(zip(kinds, cells, strict=True)), read[-1] if read else None, margin, place(n))
        repeats = aligned and row.depth == 0 and row.task in seen and cells[0].strip() and _widths(cells) != _widths(header)
        if repeats and len(parts) == 1:
            parts.append([])
        parts[-1].append((row, cells))
        read.append(row)
        seen.add(row.task)
    blank_first = [kinds.index("version"), kinds.index("stderr")]
    return [
        Section(
            run=run, columns=columns if part is parts[0] else ("Groups", *columns[1:]), right=right, headed=part is parts[0],
            rows=tuple(row for row, _ in part),
            padded=any(cells[k].strip() == NONE and cells[k].startswith("   ") for _, cells in part for k in blank_first),
        )
        for part in parts
    ]  # fmt: skip


def _row_cells(line: str, count: int, place: str) -> list[str]:
    *cells, rest = _cells(line)
    if rest:
        raise InputError(f"{place}: a row must end with |, found {_shown(line)}: was the file cut off?")
    if len(cells) != count:
        raise InputError(f"{place}: the row has {len(cells)} cells and its header {count}: {_shown(line)}; was the file cut off?")
    return cells


def _row(cells: dict[str, str], above: Row | None, margin: bool, place: str) -> Row:
    plain = {kind: _plain(cell) or None for kind, cell in cells.items()}
    first = cells["task"][1:] if margin else cells["task"]
    member = re.match(r"( *)- ", first)
    depth = max(1, len(member[1])) if member else 0
    task, version = plain["task"], plain["version"]
    if task is None:
        if above is None:
            raise InputError(f"{place}: the first row names no task: mend the table's first column")
        task, version, depth = above.task, version or above.version, above.depth
    elif member:
        task = _plain(first[member.end() :])
    metric, value, stderr = plain["metric"], plain["value"], plain["stderr"]
    if (metric is None) != (value is None):
        missing, given = ("Metric", value) if metric is None else ("Value", metric)
        raise InputError(f"{place}: {task} has no {missing} beside {given}: mend the row or take it out")
    for column, found in (("Value", value), ("Stderr", stderr)):
        if found not in (None, NONE) and not NUMBER.fullmatch(found):
            raise InputError(f"{place}: {column} of {task} must be a number or {NONE}, found {found!r}")
    return Row(
        task=task, version=version, filter=plain.get("filter"), n_shot=plain.get("n_shot"), metric=metric,
        direction=plain.get("direction"), value=value, stderr=stderr, in_training=plain.get("in_training"), depth=depth,
    )  # fmt: skip


def markdown(table: Table) -> str:
    """The tables in the harness's own form: names once, numbers to the right, columns as wide as they must be.

    What the harness printed comes back byte by byte where a column does not mix N/A with numbers of different lengths;
    what a person laid out otherwise comes back in the harness's form, with the same digits.
    """
    printed = [_printed(section) for section in table.sections]
    gaps = ["" if n == 0 or not section.headed else "\n" for n, section in enumerate(table.sections)]
    return "".join(gap + text for gap, text in zip(gaps, printed, strict=True))


def _printed(section: Section) -> str:
    kinds = _kinds("|" + "|".join(section.columns) + "|")
    rows, named = [], set()
    for n, row in enumerate(section.rows):
        above = section.rows[n - 1] if n else None
        what = (row.metric, row.filter)
        continues = above is not None and (above.task, above.depth) == (row.task, row.depth) and what not in named
        named = named | {what} if continues else {what}
        rows.append([_cell(row, kind, continues, section.padded) for kind in kinds])
    widths = [max(3, *(_width(cells[k]) for cells in (section.columns, *rows))) for k in range(len(kinds))]
    lines = []
    if section.headed:
        lines.append([_centred(name, width) for name, width in zip(section.columns, widths, strict=True)])
        lines.append(["-" * (width - to_right) + ":" * to_right for width, to_right in zip(widths, section.right, strict=True)])
    for cells in rows:
        sides = [
            to_right or (kind in NUMERIC and bool(NUMBER.fullmatch(cell)))
            for kind, cell, to_right in zip(kinds, cells, section.right, strict=True)
        ]
        lines.append([
            " " * (width - _width(cell)) + cell if to_right else cell + " " * (width - _width(cell))
            for cell, width, to_right in zip(cells, widths, sides, strict=True)
        ])  # fmt: skip
    return "".join("|" + "|".join(cells) + "|\n" for cells in lines)


def _centred(text: str, width: int) -> str:
    room = width - _width(text)
    return " " * (room // 2) + text + " " * (room - room // 2)


def _cell(row: Row, kind: str, continues: bool, padded: bool) -> str:
    if kind == "task":
        name = " " * row.depth + "- " + row.task if row.depth else row.task
        return "" if continues else name.replace("|", "\\|")
    if kind == "sign":
        return "" if row.stderr is None else "±"
    if kind == "version" and continues:
        return ""
    found = getattr(row, kind) or ""
    before = {"version": "    ", "stderr": "   "}.get(kind, "")
    return before + found if padded and found == NONE else found.replace("|", "\\|")


def as_data(table: Table) -> dict:
    """A table as plain JSON data; `from_data` gives it back, equal."""
    return asdict(table)


def from_data(data: dict) -> Table:
    """A table from what `as_data` made."""
    return Table(tuple(
        Section(**section | {
            "run": section["run"] and Run(**section["run"]),
            "columns": tuple(section["columns"]),
            "right": tuple(section["right"]),
            "rows": tuple(Row(**row) for row in section["rows"]),
        })
        for section in data["sections"]
    ))  # fmt: skip
