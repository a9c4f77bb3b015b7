"""What every command does alike: answers as a table or as JSON, texts from files, progress beside the answer."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from openko.errors import InputError

AsJson = Annotated[bool, typer.Option("--json", help="print the answer as JSON")]


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: --text takes one UTF-8 file") from None
    except UnicodeDecodeError as problem:
        raise InputError(
            f"{path} is not UTF-8 ({problem.reason} at byte {problem.start}): convert it with iconv -f cp949 -t utf-8"
        ) from None


def print_record(record: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
        return
    width = max(len(k) for k in record)
    for key, value in record.items():
        print(f"{key:<{width}}  {value:,.4g}" if isinstance(value, float) else f"{key:<{width}}  {value}")


def print_rows(rows: list[dict], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, no_wrap=name != "hardware")  # 80 columns hold all the names and numbers
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    Console().print(table)
