"""A recipe in, a corpus directory out: read, cleaned, filtered, without copies and near-copies, with a part held out.

    {ko,en}.{train,heldout}-NNNNN.jsonl   documents (openko.corpus.document.Document), in the order of their texts' hashes
    rejected.jsonl, faults.jsonl          what did not stay and what could not be read, each with its reason
    manifest.json                         counts of all of it; `openko corpus report` draws them

In three steps. Workers sift pieces of the input into sorted runs (openko.corpus.sift); near-duplicates are found among them
(openko.corpus.near_duplicates); then the runs are merged, file by file (openko.corpus.arrange). All leave finished parts on disk, so
a build that was cut off goes on where it stood.
"""

import itertools
import json
import os
import pickle
import platform
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openko import manifest
from openko.corpus import arrange, engines, near_duplicates, readers, sift, tasks
from openko.corpus.decontaminate import Questions
from openko.corpus.document import LANGUAGES, Piece, Source
from openko.corpus.parts import KIND
from openko.corpus.recipe import Recipe
from openko.corpus.runs import save
from openko.errors import InputError

TASK_BYTES = 64_000_000  # of input; small files are read together


def build(
    directory: Path, recipe: Recipe, *, data: Path, engine: tasks.Engine = engines.THIS_PROCESS, other_code: str = "remake", say=print
) -> manifest.Manifest:  # fmt: skip
    """Make the corpus of a recipe. data: the folder that the recipe's paths begin in. engine: who works, of openko.corpus.engines.
    other_code: as in `manifest.build`.

    The same input makes the same documents in the same files whatever the engine and its workers, and however the documents are spread
    over input files; only `place`, and ids where the data gives none, name the file that a document came from.
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"{data} is no folder: give the one that the recipe's paths begin in")
    files = {source.name: readers.find_files(source, data) for source in recipe.sources}
    exams = readers.find_files(Source(name="decontaminate", reader="json", licence="", language="ko", path=recipe.questions), data)

    def make(partial: Path) -> dict:
        scratch = partial / manifest.SCRATCH
        questions = _questions(recipe, [data / path for path in exams], scratch)
        tallies, sifted = _sift(recipe, files, data, questions, scratch, engine, say)
        near, compared = _near(recipe, sifted, scratch, engine, say)
        arranged, written = _arrange(recipe, sifted, near, partial, engine, say)
        arrange.concatenate([d / sift.FAULTS for d in sifted], partial / sift.FAULTS)
        copies = [scratch / "copies" / span.name for span in arranged.files]
        arrange.concatenate([*(d / sift.REJECTED for d in sifted), *copies], partial / sift.REJECTED)
        asked = {"questions": _unpickled(questions).facts if questions else {}, "near_duplicates": compared}
        return _facts(recipe, tallies, arranged, written) | asked

    return manifest.build(
        directory, kind=KIND, recipe=_key(recipe, data), inputs={"data": data}, module="openko.corpus.build", make=make,
        identify=lambda folder: _identity(folder, [*itertools.chain(*files.values()), *exams]), other_code=other_code, say=say,
    )  # fmt: skip


# ── the three steps ──────────────────────────────────────────────────────────────────────────────────────────────────


def _sift(recipe: Recipe, files: dict[str, list[Path]], data: Path, questions: Path | None, scratch: Path, engine: tasks.Engine, say):
    """What became of every document, and the directories with runs, rejects and faults."""
    work = _tasks(recipe, files, data)
    sifted = [scratch / f"{number:05d}" for number in range(len(work))]
    asked = [(recipe, source, pieces, data, questions, out) for (source, pieces, _), out in zip(work, sifted, strict=True)]
    options = {"sizes": [size for _, _, size in work], "engine": engine, "what": "reading and cleaning", "say": say}
    return tasks.run(sift.sift, asked, scratch / "sifted", **options), sifted


def _tasks(recipe: Recipe, files: dict[str, list[Path]], data: Path) -> list[tuple[Source, list[Piece], float]]:
    """Pieces of one source, as many as make about TASK_BYTES of input, and how many bytes that is."""
    work = []
    for source in recipe.sources:
        held, size = [], 0.0
        for piece in readers.pieces(source, files[source.name], data):
            more = _bytes(piece, data)
            if held and size + more > TASK_BYTES:
                work.append((source, held, size))
                held, size = [], 0.0
            held.append(piece)
            size += more
        work += [(source, held, size)] if held else []
    return work


def _bytes(piece: Piece, data: Path) -> float:
    """About how much input a piece is: a file's bytes, or TASK_BYTES for a part of one. Never 0."""
    whole = piece.file is not None and piece.start == 0 and piece.stop is None
    return (data / piece.file).stat().st_size + 1.0 if whole else float(TASK_BYTES)


def _questions(recipe: Recipe, files: list[Path], scratch: Path) -> Path | None:
    """The evaluation questions of a recipe, read once and pickled for the workers."""
    if not files:
        return None
    scratch.mkdir(exist_ok=True)
    (scratch / "questions.pickle").write_bytes(pickle.dumps(Questions.read(files, **recipe.decontaminate)))
    return scratch / "questions.pickle"


def _unpickled(questions: Path) -> Questions:
    return pickle.loads(questions.read_bytes())


def _near(recipe: Recipe, sifted: list[Path], scratch: Path, engine: tasks.Engine, say) -> tuple[Path | None, dict]:
    """Where the near-duplicates are written down, and what was compared."""
    if recipe.near_duplicates is None:
        return None, {}
    priorities = [source.priority for source in recipe.sources]
    languages = [LANGUAGES.index(source.language) for source in recipe.sources]
    return near_duplicates.find(sifted, priorities, languages, recipe.near_duplicates, scratch / "near", engine=engine, say=say)


def _arrange(
    recipe: Recipe, sifted: list[Path], near: Path | None, partial: Path, engine: tasks.Engine, say
) -> tuple[arrange.Arrangement, list[dict]]:
    arranged, scratch = arrange.Arranger(recipe, sifted, near).plan(), partial / manifest.SCRATCH
    shared, copies = scratch / "shared-ids.npy", scratch / "copies"
    save(shared, arranged.shared)
    copies.mkdir(exist_ok=True)
    asked = [(recipe, sifted, near, span, shared, partial, copies) for span in arranged.files]
    options = {"sizes": [arrange.FILE_BYTES] * len(asked), "engine": engine, "what": "writing in order", "say": say}
    return arranged, tasks.run(_write, asked, scratch / "arranged", **options)


def _write(
    recipe: Recipe, sifted: list[Path], near: Path | None, span: arrange.Span, shared: Path, partial: Path, copies: Path
) -> dict:  # fmt: skip
    return arrange.Arranger(recipe, sifted, near).write(span, np.load(shared), partial, copies)


# ── what the manifest says ─────────────────────────────────────────────────────────────────────────────────────────


def _facts(recipe: Recipe, tallies: list[dict], arranged: arrange.Arrangement, written: list[dict]) -> dict:
    names = [s.name for s in recipe.sources]
    read, faults = {n: Counter() for n in names}, {n: Counter() for n in names}
    cleaned: dict[str, Counter] = {}
    examples: dict[str, list] = {}
    for tally in tallies:
        read[tally["source"]].update(tally["read"])
        faults[tally["source"]].update(tally["faults"])
        for rule, counts in tally["cleaned"].items():
            cleaned.setdefault(rule, Counter()).update(counts)
        for rule, some in tally["examples"].items():
            examples[rule] = (examples.get(rule, []) + some)[: sift.EXAMPLES]
    kept: dict[str, dict[str, Counter]] = {}
    renamed = Counter()
    for span, found in zip(arranged.files, written, strict=True):
        for source, counts in found["kept"].items():
            kept.setdefault(span.part, {}).setdefault(source, Counter()).update(counts)
        renamed.update({source: counts["documents"] for source, counts in found["renamed"].items()})
    rejected = _rejected(names, tallies, arranged, written)
    _check_sums(names, read, kept, rejected)
    parts = sorted({span.part for span in arranged.files})
    return {
        "recipe": _plain(recipe), "read": read, "faults": faults, "cleaned": cleaned, "rejected": rejected, "kept": kept,
        "renamed": renamed, "files": {part: [span.name for span in arranged.files if span.part == part] for part in parts},
        "examples": {"cleaned": examples}, "warnings": _warnings(names, read, kept, rejected, renamed),
    }  # fmt: skip


def _rejected(names: list[str], tallies: list[dict], arranged: arrange.Arrangement, written: list[dict]) -> dict[str, dict[str, Counter]]:
    rejected: dict[str, dict[str, Counter]] = {n: {} for n in names}
    over = {source: {"over-max-bytes": counts} for source, counts in arranged.over.items()}
    copies = [
        {source: {reason: counts} for source, counts in found[name].items()}
        for found in written
        for name, reason in (("exact", "exact-copy"), ("near", "near-duplicate"))
    ]
    for some in [{t["source"]: t["rejected"]} for t in tallies] + copies + [over]:
        for source, reasons in some.items():
            for reason, counts in reasons.items():
                rejected[source].setdefault(reason, Counter()).update(counts)
    return rejected


def _check_sums(names: list[str], read: dict, kept: dict, rejected: dict) -> None:
    for name in names:
        left = sum(part.get(name, {}).get("documents", 0) for part in kept.values())
        gone = sum(counts["documents"] for counts in rejected[name].values())
        if left + gone != read[name]["documents"]:
            raise RuntimeError(
                f"source {name}: {read[name]['documents']:,} documents read, {left:,} kept and {gone:,} refused: some are lost"
            )


def _warnings(names: list[str], read: dict, kept: dict, rejected: dict, renamed: Counter) -> list[str]:
    """What a person should look at before anything is trained on it."""
    found = [] if kept else ["no document was kept"]
    for name in names:
        whole = read[name]["documents"]
        gone = sum(counts["documents"] for reason, counts in rejected[name].items() if reason != "over-max-bytes")
        if whole == 0:
            found.append(f"source {name}: nothing was read")
        elif gone > whole / 2:
            found.append(f"source {name}: {gone:,} of {whole:,} documents were refused")
        if renamed[name]:
            found.append(f"source {name}: {renamed[name]:,} documents share their id with others and were given their place beside it")
    return found


def _plain(recipe: Recipe) -> dict:
    return json.loads(json.dumps(asdict(recipe)))


def _key(recipe: Recipe, data: Path) -> dict:
    """What the corpus depends on beside the content of its input: Python's own text, and folders that `hub` reads."""
    hubs = [Path(s.options["dataset"]) for s in recipe.sources if s.reader == "hub" and Path(s.options["dataset"]).is_dir()]
    local = {str(folder): _identity(folder, sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())) for folder in hubs}
    of_python = any(s.reader.startswith("python-") for s in recipe.sources)
    return _plain(recipe) | {"local": local} | ({"python": platform.python_version()} if of_python else {})


def _identity(folder: Path, used: list[Path]) -> str:
    """Names, sizes and times of the files that are read stand for their content: hashing them would read everything twice."""
    stats = [(path, (folder / path).stat()) for path in used]
    # Names in no known encoding hold surrogate escapes, which JSON's bytes cannot.
    return manifest.digest([[os.fsencode(path).hex(), stat.st_size, stat.st_mtime_ns] for path, stat in stats])
