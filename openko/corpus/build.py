"""Documents in, a corpus directory out: cleaned, filtered, without exact copies, with a part held out.

corpus/{ko,en}.train.jsonl  {ko,en}.heldout.jsonl  rejected.jsonl  manifest.json
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from openko import manifest
from openko.corpus import sources
from openko.corpus.clean import clean, reason_to_reject
from openko.corpus.sources import Document

KIND = "corpus"


def build(directory: Path, *, packages: Path, max_bytes: int, held_out: float = 0.06, say=print) -> manifest.Manifest:
    """The first corpus: Korean of the installed packages and English of Python itself.

    max_bytes: of each language (the documents with the smallest hashes stay, so the choice is the same everywhere).
    held_out: share of each language's bytes that no training ever sees. Whole documents are held out.
    """

    def make(partial: Path) -> dict:
        facts = {"sources": Counter(), "cleaned": Counter(), "rejected": Counter(), "documents": {}, "bytes": {}}
        with open(partial / "rejected.jsonl", "w", encoding="utf-8") as rejects:
            read = {"ko": sources.korean(packages), "en": sources.english()}
            for language, documents in read.items():
                kept = _clean_and_filter(documents, rejects, facts)
                parts = _split(kept, max_bytes, held_out)
                over = len(kept) - sum(map(len, parts.values()))
                facts["rejected"].update({"over-max-bytes": over} if over else {})
                for part, chosen in parts.items():
                    name = f"{language}.{part}"
                    with open(partial / f"{name}.jsonl", "w", encoding="utf-8") as out:
                        out.writelines(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in chosen)
                    facts["documents"][name] = len(chosen)
                    facts["bytes"][name] = sum(len(d.text.encode()) for d in chosen)
        return facts

    recipe = {"max_bytes": max_bytes, "held_out": held_out}
    return manifest.build(
        directory, kind=KIND, recipe=recipe, inputs={"packages": packages}, module="openko.corpus.build", make=make, say=say
    )


def read(directory: Path, name: str) -> list[dict]:
    """Documents of "ko.train", "ko.heldout", "en.train" or "en.heldout", as dicts of Document's fields."""
    manifest.read(directory, KIND, made_by="notebook 01_tokenizers")
    with open(Path(directory) / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def up_to(documents: list[dict], size: int) -> list[dict]:
    """The first documents, as long as they have at most `size` bytes together. Their order in a corpus is that of the
    hashes of their texts, so the first are a fair sample."""
    totals = itertools.accumulate(len(d["text"].encode()) for d in documents)
    return [d for d, total in zip(documents, totals, strict=True) if total <= size]


def _clean_and_filter(documents: Iterable[Document], rejects, facts: dict) -> list[Document]:
    kept, seen = [], {}
    for document in documents:
        facts["sources"][document.source] += 1
        text, touched = clean(document.text)
        facts["cleaned"].update(touched)
        reason = reason_to_reject(text, document.language)
        key = _hash(text)
        if reason is None and key in seen:
            reason = "exact-copy"
        if reason:
            facts["rejected"][reason] += 1
            rejects.write(
                json.dumps({"id": document.id, "reason": reason, "copy_of": seen.get(key), "text": text}, ensure_ascii=False) + "\n"
            )
        else:
            seen[key] = document.id
            kept.append(Document(**asdict(document) | {"text": text}))
    return kept


def _split(documents: list[Document], max_bytes: int, held_out: float) -> dict[str, list[Document]]:
    """By the hash of the text: the first documents are held out until their share is reached, the rest trains."""
    ordered = sorted(documents, key=lambda d: _hash(d.text))
    total, chosen = 0, []
    for document in ordered:
        size = len(document.text.encode())
        if total + size <= max_bytes:
            chosen.append(document)
            total += size
    parts, taken = {"heldout": [], "train": []}, 0
    for document in chosen:
        part = "heldout" if taken < held_out * total else "train"
        taken += len(document.text.encode()) if part == "heldout" else 0
        parts[part].append(document)
    return parts


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
