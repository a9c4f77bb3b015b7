"""A corpus as a YAML file: which sources, under which licence, with which rules.

    name: my-corpus
    sources:
      - {name: news, reader: aihub, path: "020.뉴스/**/*.zip", licence: AI Hub, language: ko, split: train, priority: 1, weight: 1.0}
    clean: [control-characters, nfc, entities, personal-data, spaces]   # left out: what every text is given
    filters: {too-short: 50}                                            # thresholds other than the usual ones
    held-out: 0.01                                                      # share of each language's bytes that no training sees
    max-bytes: {ko: 2000000}                                            # of each language, at most
    near-duplicates: {unit: syllable, threshold: 0.7}                   # of texts as similar as that, one stays; false: all of them
    decontaminate: {files: ["eval/*.jsonl"], syllables: 25}             # documents that hold evaluation questions go

What else a source may have is an option of its reader (`text`, `id`, …). Recipes that come with openko go by their names:
laptop, open-ko, koen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from openko.corpus import clean, filters, readers
from openko.corpus.document import LANGUAGES, Source
from openko.corpus.minhash import Similar
from openko.errors import InputError

SHIPPED = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """clean: rules that every text is given. filters: {name: threshold}, all of them. held_out: share of each language's bytes.
    max_bytes: {language: bytes}. near_duplicates: which texts are so similar that one of them stays; None: all stay.
    questions: files with evaluation questions, below the data folder. decontaminate: what `Questions.read` is told beside them.
    """

    name: str
    sources: tuple[Source, ...]
    clean: tuple[str, ...] = clean.USUAL
    filters: dict[str, float] = field(default_factory=lambda: filters.thresholds({}))
    held_out: float = 0.01
    max_bytes: dict[str, int] = field(default_factory=dict)
    near_duplicates: Similar | None = Similar()  # noqa: RUF009 (it is frozen)
    questions: tuple[str, ...] = ()
    decontaminate: dict = field(default_factory=dict)

    def rules(self, source: Source) -> tuple[str, ...]:
        """The cleaning rules of a source, in their order: what every text is given, what its reader's texts need, its own."""
        wanted = {*self.clean, *clean.FOR_READER.get(source.reader, ()), *source.clean}
        return tuple(name for name in clean.CLEANERS if name in wanted)

    def without(self, names: Sequence[str]) -> "Recipe":
        """The same without some of its sources."""
        unknown = sorted(set(names) - {s.name for s in self.sources})
        if unknown:
            raise InputError(f"{self.name} has no source {unknown[0]!r}; there are {', '.join(s.name for s in self.sources)}")
        return replace(self, sources=tuple(s for s in self.sources if s.name not in names))

    def capped(self, size: int | None) -> "Recipe":
        """The same with at most `size` bytes of each language that has no cap of its own; None: no more caps."""
        return self if size is None else replace(self, max_bytes=dict.fromkeys(LANGUAGES, size) | self.max_bytes)


def names() -> list[str]:
    """Recipes that come with openko."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(name: str | Path) -> Recipe:
    """The recipe of a YAML file, or one of `names()`."""
    path = SHIPPED / f"{name}.yaml" if str(name) in names() else Path(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} cannot be read ({problem}): give a YAML file, or one of {', '.join(names())}") from None
    except yaml.YAMLError as problem:
        raise InputError(f"{path} is not YAML: {problem}") from None
    return parse(content, where=str(path))


def parse(content, *, where: str) -> Recipe:
    """A recipe from plain data; where: what messages call it."""
    fields = _checked(content, {
        "name": str, "sources": list, "clean": list, "filters": dict, "held-out": float, "max-bytes": dict,
        "near-duplicates": (dict, bool), "decontaminate": dict,
    }, required=("name", "sources"), where=where)  # fmt: skip
    against = _checked(
        fields.get("decontaminate", {}), {"files": list, "syllables": int, "share": float, "fields": list}, where=f"{where}: decontaminate"
    )
    sources = tuple(_source(entry, f"{where}: source {number}") for number, entry in enumerate(fields["sources"], 1))
    _check_sources(sources, where)
    recipe = Recipe(
        name=fields["name"], sources=sources, clean=_rules(fields.get("clean", clean.USUAL), where),
        filters=filters.thresholds(fields.get("filters", {})), held_out=float(fields.get("held-out", 0.01)),
        max_bytes=fields.get("max-bytes", {}), near_duplicates=_similar(fields.get("near-duplicates", {}), where),
        questions=_texts(against.get("files", []), where),
        decontaminate={name: value for name, value in against.items() if name != "files"},
    )  # fmt: skip
    if not 0 <= recipe.held_out < 1:
        raise InputError(f"{where}: held-out is a share from 0 to below 1, found {recipe.held_out}")
    for language, size in recipe.max_bytes.items():
        if language not in LANGUAGES or not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"{where}: max-bytes is {{{'|'.join(LANGUAGES)}: bytes}}, found {language!r}: {size!r}")
    return recipe


def _similar(given, where: str) -> Similar | None:
    if given is False:
        return None
    where = f"{where}: near-duplicates"
    try:
        return Similar(**_checked(given, {"unit": str, "threshold": float}, where=where))
    except InputError as problem:
        raise InputError(str(problem) if str(problem).startswith(where) else f"{where}: {problem}") from None


def _source(entry, where: str) -> Source:
    known = {
        "name": str, "reader": str, "path": (str, list), "licence": str, "language": str, "split": str, "priority": int, "weight": float,
        "clean": list,
    }  # fmt: skip
    name = entry.get("reader") if isinstance(entry, dict) else None
    reader = readers.READERS.get(name) if isinstance(name, str) else None
    if isinstance(name, str) and reader is None:
        raise InputError(f"{where}: no reader {name!r}; there are {', '.join(readers.READERS)}")
    options = dict.fromkeys(reader.options, (str, int, bool)) if reader else {}
    fields = _checked(entry, known | options, required=("name", "reader", "licence", "language"), where=where)
    where = f"{where} ({fields['name']})"
    if fields["language"] not in LANGUAGES:
        raise InputError(f"{where}: language is one of {', '.join(LANGUAGES)}, found {fields['language']!r}")
    path, weight = fields.get("path", []), float(fields.get("weight", 1.0))
    if not 0 <= weight <= 100:
        raise InputError(f"{where}: weight says how often each document is packed, 0 to 100, found {weight:g}")
    source = Source(
        name=fields["name"], reader=name, licence=fields["licence"], language=fields["language"],
        path=(path,) if isinstance(path, str) else _texts(path, where), split=fields.get("split"), priority=fields.get("priority", 1),
        weight=weight, clean=_rules(fields.get("clean", []), where), options={name: fields[name] for name in options if name in fields},
    )  # fmt: skip
    readers.check(source)
    return source


def _check_sources(sources: tuple[Source, ...], where: str) -> None:
    seen = [s.name for s in sources]
    twice = sorted({name for name in seen if seen.count(name) > 1})
    if not sources:
        raise InputError(f"{where}: sources is empty")
    if twice:
        raise InputError(f"{where}: more than one source is called {', '.join(twice)}")


def _texts(given: list, where: str) -> tuple[str, ...]:
    for item in given:
        if not isinstance(item, str):
            raise InputError(f"{where}: a list of texts is needed, found {item!r} in it")
    return tuple(given)


def _rules(given: Sequence[str], where: str) -> tuple[str, ...]:
    unknown = [name for name in _texts(list(given), where) if name not in clean.CLEANERS]
    if unknown:
        raise InputError(f"{where}: no cleaning rule {unknown[0]!r}; there are {', '.join(clean.CLEANERS)}")
    return tuple(given)


def _checked(content, types: dict, *, required=(), where: str) -> dict:
    """`content` as a dict with known fields of the right types; an integer will do for a float."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: needs fields such as {', '.join(types)}, found {type(content).__name__}")
    for name, value in content.items():
        if name not in types:
            raise InputError(f"{where}: unknown field {name!r}; there are {', '.join(types)}")
        expected = (int, float) if types[name] is float else types[name]
        if not isinstance(value, expected) or (
            isinstance(value, bool) and bool not in (expected if isinstance(expected, tuple) else (expected,))
        ):
            raise InputError(f"{where}: {name} must be {_name(types[name])}, found {value!r}")
    missing = [name for name in required if name not in content]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing")
    return content


def _name(types) -> str:
    plain = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping", bool: "true or false"}
    return " or ".join(plain[t] for t in (types if isinstance(types, tuple) else (types,)))
