"""A recipe in, a corpus directory out: read, cleaned, filtered, without exact copies, with a part held out.

    {ko,en}.{train,heldout}-NNNNN.jsonl   documents (openko.corpus.document.Document), in the order of their texts' hashes
    rejected.jsonl, faults.jsonl          what did not stay and what could not be read, each with its reason
    manifest.json                         counts of all of it; `openko corpus report` draws them

In two steps. Workers sift pieces of the input into sorted runs (openko.corpus.sift); then the runs are merged, file by file
(openko.corpus.arrange). Both leave finished parts on disk, so a build that was cut off goes on where it stood.
"""

import itertools
import json
import os
import pickle
import platform
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from openko import manifest
from openko.corpus import arrange, readers, sift, tasks
from openko.corpus.decontaminate import Questions
from openko.corpus.document import Piece, Source
from openko.corpus.parts import KIND
from openko.corpus.recipe import Recipe
from openko.errors import InputError

TASK_BYTES = 64_000_000  # of input; small files are read together


def build(
    directory: Path, recipe: Recipe, *, data: Path, workers: int = 1, other_code: str = "remake", say=print
) -> manifest.Manifest:  # fmt: skip
    """Make the corpus of a recipe. data: the folder that the recipe's paths begin in. workers: processes. other_code: as in
    `manifest.build`.

    The same input makes the same documents in the same files whatever the number of workers, and however the documents are spread
    over input files; only `place`, and ids where the data gives none, name the file that a document came from.
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"{data} is no folder: give the one that the recipe's paths begin in")
    files = {source.name: readers.find_files(source, data) for source in recipe.sources}
    exams = Source(name="decontaminate", reader="json", licence="", language="ko", path=recipe.questions)
    asked = [data / path for path in readers.find_files(exams, data)]

    def make(partial: Path) -> dict:
        work = _tasks(recipe, files, data)
        scratch = partial / manifest.SCRATCH
        against = _questions(recipe, asked, scratch)
        sifted = [scratch / f"{number:05d}" for number in range(len(work))]
        tallies = tasks.run(
            sift.sift, [(recipe, source, pieces, data, against, out) for (source, pieces), out in zip(work, sifted, strict=True)],
            scratch / "sifted", sizes=[_bytes(pieces, data) for _, pieces in work], workers=workers, what="reading and cleaning", say=say,
        )  # fmt: skip
        arranged, written = _arrange(recipe, sifted, partial, workers, say)
        _concatenate([d / sift.FAULTS for d in sifted], partial / sift.FAULTS)
        beside = [partial / f"{span.name}.rejected" for span in arranged.files]
        _concatenate([d / sift.REJECTED for d in sifted] + beside, partial / sift.REJECTED)
        for path in beside:
            path.unlink()
        return _facts(recipe, tallies, arranged, written)

    return manifest.build(
        directory, kind=KIND, recipe=_key(recipe), inputs={"data": data}, module="openko.corpus.build", make=make,
        identify=lambda folder: _identity(folder, [*itertools.chain(*files.values()), *asked]), say=say,
        other_code=other_code,
    )  # fmt: skip


# ── the two steps ──────────────────────────────────────────────────────────────────────────────────────────────────


def _tasks(recipe: Recipe, files: dict[str, list[Path]], data: Path) -> list[tuple[Source, list[Piece]]]:
    """Pieces of one source, as many as make TASK_BYTES of input."""
    work = []
    for source in recipe.sources:
        held: list[Piece] = []
        for piece in readers.pieces(source, files[source.name], data):
            if held and _bytes([*held, piece], data) > TASK_BYTES:
                work.append((source, held))
                held = []
            held.append(piece)
        work += [(source, held)] if held else []
    return work


def _bytes(pieces: list[Piece], data: Path) -> float:
    """About how much input some pieces are: a file's bytes, or TASK_BYTES for a part of one. Never 0."""
    return sum((data / p.file).stat().st_size if p.file and p.stop is None and p.start == 0 else TASK_BYTES for p in pieces) + 1.0


def _questions(recipe: Recipe, files: list[Path], scratch: Path) -> Path | None:
    """The evaluation questions of a recipe, read once and pickled for the workers."""
    if not files:
        return None
    questions = Questions.read(files) if recipe.syllables is None else Questions.read(files, syllables=recipe.syllables)
    scratch.mkdir(exist_ok=True)
    (scratch / "questions.pickle").write_bytes(pickle.dumps(questions))
    return scratch / "questions.pickle"


def _arrange(recipe: Recipe, sifted: list[Path], partial: Path, workers: int, say) -> tuple[arrange.Arrangement, list[dict]]:
    arranged = arrange.Arranger(recipe, sifted).plan()
    written = tasks.run(
        _write, [(recipe, sifted, span, arranged.twice, partial) for span in arranged.files], partial / manifest.SCRATCH / "arranged",
        sizes=[arrange.FILE_BYTES] * len(arranged.files), workers=workers, what="writing in order", say=say,
    )  # fmt: skip
    return arranged, written


def _write(recipe: Recipe, sifted: list[Path], span: arrange.Span, twice: dict, partial: Path) -> dict:
    return arrange.Arranger(recipe, sifted).write(span, twice, partial)


def _concatenate(parts: list[Path], path: Path) -> None:
    with open(path, "wb") as whole:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)


# ── what the manifest says ─────────────────────────────────────────────────────────────────────────────────────────


def _facts(recipe: Recipe, tallies: list[dict], arranged: arrange.Arrangement, written: list[dict]) -> dict:
    names = [s.name for s in recipe.sources]
    read, faults = {n: Counter() for n in names}, {n: Counter() for n in names}
    cleaned: dict[str, Counter] = {}
    examples: dict[str, list] = {}
    rejected: dict[str, dict[str, Counter]] = {n: {} for n in names}
    for tally in tallies:
        read[tally["source"]].update(tally["read"])
        faults[tally["source"]].update(tally["faults"])
        for rule, counts in tally["cleaned"].items():
            cleaned.setdefault(rule, Counter()).update(counts)
        for rule, some in tally["examples"].items():
            examples[rule] = (examples.get(rule, []) + some)[: sift.EXAMPLES]
    kept: dict[str, dict[str, Counter]] = {}
    for span, found in zip(arranged.files, written, strict=True):
        for source, counts in found["kept"].items():
            kept.setdefault(span.part, {}).setdefault(source, Counter()).update(counts)
    over = {source: {"over-max-bytes": counts} for source, counts in arranged.over.items()}
    for some in [{t["source"]: t["rejected"]} for t in tallies] + [w["rejected"] for w in written] + [over]:
        for source, reasons in some.items():
            for reason, counts in reasons.items():
                rejected[source].setdefault(reason, Counter()).update(counts)
    parts = sorted({span.part for span in arranged.files})
    return {
        "recipe": _plain(recipe), "read": read, "faults": faults, "cleaned": cleaned, "rejected": rejected, "kept": kept,
        "files": {part: [span.name for span in arranged.files if span.part == part] for part in parts},
        "examples": {"cleaned": examples},
    }  # fmt: skip


def _plain(recipe: Recipe) -> dict:
    return json.loads(json.dumps(asdict(recipe)))


def _key(recipe: Recipe) -> dict:
    """What the corpus depends on beside the content of its input."""
    own = any(not readers.READERS[s.reader].needs_files for s in recipe.sources)
    return _plain(recipe) | {"task_bytes": TASK_BYTES} | ({"python": platform.python_version()} if own else {})


def _identity(folder: Path, used: list[Path]) -> str:
    """Names, sizes and times of the files that are read stand for their content: hashing them would read everything twice."""
    stats = [(path, (folder / path).stat()) for path in used]
    # Names in no known encoding hold surrogate escapes, which JSON's bytes cannot.
    return manifest.digest([[os.fsencode(path).hex(), stat.st_size, stat.st_mtime_ns] for path, stat in stats])
