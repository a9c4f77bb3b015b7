"""English prose of the running Python: its language reference (pydoc) and its long docstrings."""

import ast
import os
import pydoc_data.topics
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from openko.corpus.document import Piece, Source, Text

SHORTEST = 200  # characters: shorter docstrings are mere signatures
NO_PROSE = {"site-packages", "dist-packages", "test", "tests", "lib2to3", "idlelib"}


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    return [Piece(source.name, None)]


def read_reference(piece: Piece, source: Source, data: Path) -> Iterator[Text]:
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield Text(text, f"pydoc_data.topics#{name}", name)


def read_docstrings(piece: Piece, source: Source, data: Path) -> Iterator[Text]:
    """A document for each module: its docstrings, and those of what is in it."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(_modules(library)):
        inside = path.relative_to(library)
        text = "\n\n\n".join(d for d in _docstrings(path) if len(d) > SHORTEST)
        if text:
            yield Text(text, inside.as_posix(), inside.with_suffix("").as_posix())


def _modules(library: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(library):
        folders[:] = set(folders) - NO_PROSE  # site-packages may hold ten thousand files
        yield from (Path(directory, name) for name in files if name.endswith(".py"))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # the library ships some files that are broken on purpose
        return
    waiting = deque([tree])
    while waiting:  # ast.walk's order, but only where definitions can stand: an eighth of the nodes
        node = waiting.popleft()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            waiting.extend(getattr(node, block, ()))
