"""The parts of a finished corpus: "ko.train", "ko.heldout", "en.train", "en.heldout"."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from openko import manifest
from openko.errors import InputError

KIND = "corpus"


def read(directory: Path, part: str) -> list[dict]:
    """Documents of "ko.train", "ko.heldout", "en.train" or "en.heldout", as dicts of Document's fields; all of them in memory."""
    return list(stream(directory, part))


def stream(directory: Path, part: str) -> Iterator[dict]:
    """The same one at a time."""
    for path in files(directory, part):
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


def files(directory: Path, part: str) -> list[Path]:
    """The JSONL files of a part, in order."""
    facts = manifest.read(directory, KIND, made_by="openko corpus build (in the notebooks: 01_tokenizers)").facts
    if part not in facts["files"]:
        raise InputError(f"{directory} has no part {part!r}; there are {', '.join(facts['files']) or 'none'}")
    return [Path(directory) / name for name in facts["files"][part]]


def up_to(documents: list[dict], size: int) -> list[dict]:
    """The first documents, as long as they have at most `size` bytes together. Their order in a corpus is that of the
    hashes of their texts, so the first are a fair sample."""
    totals = itertools.accumulate(len(d["text"].encode()) for d in documents)
    return [d for d, total in zip(documents, totals, strict=True) if total <= size]
