"""Where the laptop's text comes from: real Korean and English that installed packages carry.

Korean text is not in this repository. `install_packages` fetches pinned PyPI packages into a folder, without what
they depend on, and only their data files are read: no code of theirs is ever imported. English prose comes with
Python itself. Every document keeps its source, place and licence.
"""

import ast
import importlib.metadata
import json
import pydoc_data.topics
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openko import manifest
from openko.errors import InputError


@dataclass(frozen=True)
class Document:
    """id: unique in the corpus.  place: file and position inside the source."""

    id: str
    text: str
    language: str
    source: str
    licence: str
    place: str


def text_packages() -> list[str]:
    """The pinned requirements of the extra `text`, each pinned to one version."""
    marked = re.compile(r"""^(?P<pin>\S+)\s*;\s*extra\s*==\s*['"]text['"]$""")
    found = (marked.match(line) for line in importlib.metadata.requires("openko") or ())
    return sorted(m["pin"] for m in found if m)


def install_packages(directory: Path) -> manifest.Manifest:
    """Install the text packages into `directory`, without their dependencies; once."""

    def make(partial: Path) -> dict:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
                   "--disable-pip-version-check", "--upgrade", "--target", str(partial), *text_packages()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(
                f"pip could not fetch {' '.join(text_packages())}: {done.stderr.strip()[-600:]}\n"
                f"Is the package index reachable? The same by hand: {' '.join(command)}"
            )
        licences = {}
        for path in sorted(partial.glob("*.dist-info/METADATA")):
            fields = importlib.metadata.PathDistribution(path.parent).metadata
            licences[fields["Name"]] = fields["License-Expression"] or fields["License"]
        return {"licences": licences}

    return manifest.build(
        directory, kind="text-packages", recipe={"packages": text_packages()}, inputs={}, module="openko.corpus.sources", make=make
    )


def korean(packages: Path) -> Iterator[Document]:
    """Korean documents of the installed packages: the constitution, ten bills, government R&D manuals by section."""
    packages = Path(packages)
    licences = manifest.read(packages, "text-packages", made_by="notebook 01_tokenizers").facts["licences"]
    for path in sorted((packages / "konlpy" / "data" / "corpus").rglob("*.txt")):
        text, name = path.read_text(encoding="utf-8"), f"konlpy/{path.parent.name}/{path.stem}"
        yield Document(name, text, "ko", "konlpy", f"public law text, in a package under {licences['konlpy']}", path.name)
    for path in sorted((packages / "korean_rnd_regs_mcp").glob("manual_*.json")):
        for section in json.loads(path.read_text(encoding="utf-8"))["sections"]:
            text = "\n".join(page["text"] for page in section["pages"])
            place = f"{path.name}#{section['id']}"
            name = f"rnd-manuals/{path.stem.removeprefix('manual_')}/{section['id']}"
            yield Document(name, text, "ko", "korean-rnd-regs-mcp", licences["korean-rnd-regs-mcp"], place)


def english() -> Iterator[Document]:
    """English prose of the running Python: its language reference (pydoc) and its long docstrings."""
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield Document(f"pydoc/{name}", text, "en", "python-reference", "PSF-2.0", f"pydoc_data.topics[{name!r}]")
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if {"site-packages", "dist-packages", "test", "tests", "lib2to3", "idlelib"} & set(inside.parts):
            continue
        text = "\n\n\n".join(d for d in _docstrings(path) if len(d) > 200)
        if text:
            yield Document(f"docstrings/{inside.with_suffix('').as_posix()}", text, "en", "python-docstrings", "PSF-2.0", inside.as_posix())


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # the library ships some files that are broken on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
