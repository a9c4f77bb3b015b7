"""What made this directory, from what, with which hashes; and the one way in which directories are made.

Every step of the road writes one directory with a `manifest.json`. `build` makes it under a temporary name
(NAME.partial), hashes it and renames it, so that a directory under its final name is whole. Asked again with the
same recipe, inputs and code, it answers at once; a step that can resume finds its own half-done work in the
temporary directory.
"""

import ast
import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import xxhash

from openko.errors import InputError

NAME = "manifest.json"
MARK = ".making"  # in a temporary directory: what is being made there
JOURNAL = "OPENKO_JOURNAL"  # environment variable: a file to which the path of every directory that `build` answers for is added
SCRATCH = ".scratch"  # what a step keeps only until its directory is finished, such as checkpoints
PACKAGE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """kind: "token-shards", "hf-model", …  recipe: every setting that shaped the content.
    inputs: {name: {"path", "content"}}.  code: fingerprint of the openko modules that made it.
    files: {relative path: {"bytes", "sha256"}}, or "xxh3_128" for gigabytes that a step reads back itself.
    facts: what is worth knowing (counts, losses, sources)."""

    kind: str
    recipe: dict
    inputs: dict
    code: str
    files: dict
    facts: dict

    @property
    def content(self) -> str:
        """Hash of the file hashes: equal when and only when all files are equal and were hashed alike (see `files`)."""
        return digest(self.files)

    def is_made_by(self, kind: str, recipe: dict, inputs: dict, code: str) -> bool:
        contents = {name: i["content"] for name, i in self.inputs.items()}
        return (self.kind, self.recipe, contents, self.code) == (
            kind, recipe, {name: i["content"] for name, i in inputs.items()}, code,
        )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What `make` may return in place of facts alone, having read its own files back: their hashes.

    hashes: {relative path: xxh3_128} of files that need no second reading. It finds any damage and is twelve times as fast as
    SHA-256, which no one would need here: a manifest is no signature. `build` then also sees to it that all files were given
    to the disk before the directory gets its name. What is read back right after writing comes from the system's cache:
    that checks the writing, and `verify` on a later day the medium.
    """

    facts: dict
    hashes: dict[str, str]


def digest(value) -> str:
    """SHA-256 of plain JSON data, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


ALGORITHMS = {"sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """One of ALGORITHMS over a file's bytes, as hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, ALGORITHMS[algorithm]).hexdigest()


def write_json(path: Path, value) -> None:
    """As `write_text`, in lines that a person can read."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Through a temporary name, so that a reader never meets half a file."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read(directory: Path, *kinds: str, made_by: str = "") -> Manifest:
    """The manifest of a directory of one of `kinds`, each file there with its right size.

    made_by: what the person should run when the directory is missing ("notebook 02_corpus").
    """
    directory = Path(directory)
    if not (directory / NAME).is_file():
        partial = directory.with_name(directory.name + ".partial")
        unfinished = f" (unfinished work lies in {partial})" if partial.exists() else ""
        hint = f": {made_by} makes it" if made_by else ""
        raise InputError(f"{directory} is missing or has no {NAME}{unfinished}{hint}")
    try:
        manifest = Manifest(**json.loads((directory / NAME).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise InputError(f"{directory / NAME} cannot be read ({problem}): delete the directory and make it again") from None
    if kinds and manifest.kind not in kinds:
        raise InputError(f"{directory} holds {manifest.kind!r}, but {' or '.join(kinds)} is needed here")
    for name, entry in manifest.files.items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            state = "is missing" if found is None else f"has {found} bytes in place of {entry['bytes']}"
            raise InputError(f"{path} {state}: delete {directory} and make it again" + (f" ({made_by})" if made_by else ""))
    return manifest


def verify(directory: Path) -> Manifest:
    """Read every byte and compare it with the manifest's hashes."""
    manifest = read(directory)
    for name, entry in manifest.files.items():
        algorithm = next((known for known in ALGORITHMS if known in entry), None)
        if algorithm is None:
            raise InputError(
                f"{Path(directory) / NAME} gives {name} no hash that is known here ({', '.join(ALGORITHMS)}): it is another version's "
                "manifest; verify it with that version of openko"
            )
        if file_hash(Path(directory) / name, algorithm) != entry[algorithm]:
            raise InputError(f"{Path(directory) / name} has changed since it was written: delete {directory} and make it again")
    return manifest


def describe_inputs(
    inputs: dict[str, Path], say: Callable[[str], None] = print, identify: Callable[[Path], str] | None = None
) -> dict:  # fmt: skip
    """{name: directory} -> {name: {"path", "content"}}; a foreign directory without manifest is hashed.

    identify: directory -> what stands for the content of a foreign directory, where reading every byte of it takes too long.
    """
    described, known = {}, {}  # a model directory is often also the tokenizer's: it is hashed once
    for name, path in inputs.items():
        path = Path(path)
        if path in known:
            content = known[path]
        elif (path / NAME).is_file():
            content = read(path).content
        elif path.is_dir() and identify is not None:
            content = identify(path)
        elif path.is_dir():
            _announce_hashing(path, say)
            content = digest(hash_files(path))
        else:
            raise InputError(f"input {name!r}: {path} does not exist")
        known[path] = content
        described[name] = {"path": path.as_posix(), "content": content}
    return described


def _announce_hashing(directory: Path, say: Callable[[str], None]) -> None:
    """A line where it will take more than a few seconds."""
    size = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and SCRATCH not in p.parts)
    if size > 2e9:
        say(f"hashing {directory}, {size / 1e9:.0f} GB: about {size / 5e8:.0f} s")


def hash_files(directory: Path, known: dict[str, str] | None = None) -> dict:
    """{relative path: {"bytes", "sha256"}} of every file below a directory, its manifest apart.

    known: {relative path: xxh3_128} of files whose hash is believed and takes the other's place.
    """
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / NAME)
    # NAME + ".partial": of a run that was killed while it wrote its manifest.
    paths = [p for p in paths if p.name not in (MARK, NAME + ".partial") and SCRATCH not in p.relative_to(directory).parts]
    names, known = {p.relative_to(directory).as_posix(): p for p in paths}, known or {}
    return {
        name: {"bytes": p.stat().st_size} | ({"xxh3_128": known[name]} if name in known else {"sha256": file_hash(p)})
        for name, p in names.items()
    }


def build(
    directory: Path, *, kind: str, recipe: dict, inputs: dict[str, Path], module: str, make: Callable[[Path], "dict | Made | None"],
    say: Callable[[str], None] = print, identify: Callable[[Path], str] | None = None, other_code: str = "remake",
) -> Manifest:  # fmt: skip
    """Make `directory` by `make(temporary directory) -> facts`, unless it is there and up to date.

    module: the openko module whose code (and all it imports) decides the content. A directory made by another
    recipe, from other inputs or by other code is made again; unfinished work of the same making is handed to
    `make` as it lies, so that it can go on. What `make` puts under SCRATCH is not part of the directory.
    identify: as in `describe_inputs`. other_code: what to do where only the code differs from the one that made the directory or
    began it: "remake"; "refuse", for work of many hours, which a person must decide about; "keep" what is there.
    """
    directory = Path(directory)
    _check_place(directory, inputs)
    described, code = describe_inputs(inputs, say, identify), code_fingerprint(module)
    recipe = json.loads(json.dumps(recipe))  # tuples become lists, as they will when read back
    partial = directory.with_name(directory.name + ".partial")
    try:
        with _held(directory):
            if (directory / NAME).is_file():
                try:
                    existing = read(directory)
                except InputError as damage:
                    say(f"making it again: {damage}")
                else:
                    if existing.is_made_by(kind, recipe, described, code):
                        say(f"{directory}: up to date")
                        return _noted(existing, directory)
                    if existing.is_made_by(kind, recipe, described, existing.code) and _kept(directory, other_code):
                        say(f"{directory}: kept as other code made it")
                        return _noted(existing, directory)
            manifest = _finished(partial)
            if manifest is None or not manifest.is_made_by(kind, recipe, described, code):
                _prepare(partial, digest([kind, recipe, described]), code, other_code)
                made = make(partial)
                hashes = made.hashes if isinstance(made, Made) else {}
                facts = made.facts if isinstance(made, Made) else made or {}
                facts = json.loads(json.dumps(facts))  # counters and tuples become plain JSON
                if not hashes:
                    _announce_hashing(partial, say)
                files = hash_files(partial, hashes)
                manifest = Manifest(kind=kind, recipe=recipe, inputs=described, code=code, files=files, facts=facts)
                write_json(partial / NAME, asdict(manifest))
                if hashes:
                    _to_disk([*(partial / name for name in files), partial / NAME, partial])
            _move_into_place(partial, directory)
            return _noted(manifest, directory)
    except filelock.Timeout:
        raise InputError(f"{directory} is being written by another process: wait for it or choose another place") from None
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left while writing {partial}: free some and run again; nothing was put under {directory}"
            ) from problem
        if problem.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise InputError(f"no permission to write {problem.filename or directory}: choose another --out") from problem
        raise


def _noted(manifest: Manifest, directory: Path) -> Manifest:
    """For whoever started this process and wants to know what it made (openko.walkthrough)."""
    if journal := os.environ.get(JOURNAL):
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{directory.resolve()}\n")
    return manifest


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """The right to write a directory. Its lock, and folders made for nothing, are gone afterwards."""
    lock = directory.parent / f".{directory.name}.lock"
    new = [path for path in directory.parents if not path.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock, timeout=0):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is held: nobody else has it
            for path in new:
                with contextlib.suppress(OSError):  # not empty: it was made for something
                    path.rmdir()


def _check_place(directory: Path, inputs: dict[str, Path]) -> None:
    """Only what openko made, or an empty directory, may be replaced, and never one of the inputs."""
    for path in (directory, *directory.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, not a directory: choose another place")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / NAME).is_file():
        raise InputError(f"{directory} is not empty and has no {NAME}, so it is not openko's: choose another place, or delete it yourself")
    for name, path in inputs.items():
        if Path(path).resolve().is_relative_to(directory.resolve()):
            raise InputError(f"{directory} is or holds the input {name!r}, which would be replaced: choose another place")


def _to_disk(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _finished(partial: Path) -> Manifest | None:
    """The manifest of work that was complete but for its last move when it was cut off."""
    try:
        return read(partial)
    except InputError:
        return None


def _move_into_place(partial: Path, directory: Path) -> None:
    """The old directory steps aside in one move: at no moment is half a one under the final name."""
    shutil.rmtree(partial / SCRATCH, ignore_errors=True)
    (partial / MARK).unlink(missing_ok=True)
    old = directory.with_name(directory.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(partial, directory)
    shutil.rmtree(old, ignore_errors=True)


def _prepare(partial: Path, making: str, code: str, other_code: str) -> None:
    """Keep unfinished work of the same making, clear any other."""
    mark = partial / MARK
    if partial.exists():
        began, _, by = mark.read_text().partition(" ") if mark.is_file() else ("", "", "")
        if began != making and other_code != "remake":
            raise InputError(
                f"{partial} holds unfinished work on another recipe or other input (a file that was added or touched is other input): "
                "take the change back and it goes on, or --remake throws it away"
            )
        if began != making or (by != code and not _kept(partial, other_code)):
            shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    mark.write_text(f"{making} {code}")


def _kept(directory: Path, other_code: str) -> bool:
    if other_code == "refuse":
        raise InputError(
            f"{directory} was made by another version of the code, from the same recipe and input: --keep uses it as it is, "
            "--remake makes it anew"
        )
    return other_code == "keep"


def code_fingerprint(*modules: str) -> str:
    """Hash of openko modules and of every openko module they import; comments and docstrings do not count."""
    trees, waiting = {}, list(modules)
    while waiting:
        name = waiting.pop()
        if name in trees:
            continue
        path = _source(name)
        trees[name], imported = _code(path, path.read_text(encoding="utf-8"))
        waiting += imported
    return digest(trees)[:16]


@functools.cache  # a run asks for the same modules dozens of times, and taking Python apart is slow
def _code(path: Path, source: str) -> tuple[str, tuple[str, ...]]:
    """A hash of what counts in a module, and the openko modules that it imports."""
    tree = ast.parse(source)
    return digest(ast.dump(_without_docstrings(tree))), _imports(tree)


def _source(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(source: str) -> list[str]:
    """The openko modules that a piece of Python (a notebook's cells, magics left out) imports."""
    plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    return list(_imports(ast.parse(plain)))


def _imports(tree: ast.AST) -> tuple[str, ...]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("openko.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "openko":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if _source(name).is_file()} or {node.module}
    return tuple(sorted(found - {"openko"}))


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
