"""openko corpus …: raw Korean text to token shards."""

import os
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson, print_record, to_stderr
from openko.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Raw text to token shards: build, or its steps clean, decontaminate, dedup, pack, report.")
RecipeFile = Annotated[str, typer.Argument(metavar="MANIFEST", help="YAML file, or laptop, open-ko, koen")]
Data = Annotated[Path, typer.Option(help="folder in which the manifest's paths begin")]
EngineName = Annotated[str, typer.Option("--engine", help="who works: local, ray or slurm")]
Workers = Annotated[int | None, typer.Option(min=1, help="tasks at once; with --engine local, all cores by default")]
Partition = Annotated[str | None, typer.Option(help="slurm: as in sbatch")]
Time = Annotated[str | None, typer.Option(help="slurm: limit of one task, as in sbatch, such as 4:00:00")]
Memory = Annotated[int | None, typer.Option(min=1, help="ray, slurm: GB for one task; 4 by default")]
Address = Annotated[str | None, typer.Option(help="ray: of the cluster; without it as ray decides ($RAY_ADDRESS, a running one, its own)")]
Without = Annotated[list[str], typer.Option(help="a source of the manifest to leave out; may be repeated")]
Keep = Annotated[bool, typer.Option("--keep", help="use what another version of the code made or began")]
Remake = Annotated[bool, typer.Option("--remake", help="make anew what another version of the code made or began")]
Tokenizer = Annotated[str, typer.Option(help="llama-3, or a directory with tokenizer.json")]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # what Slurm and containers allow


@app.command()
def build(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="directory to write: corpus/, shards/, report.html")],
    data: Data = Path("."),
    without: Without = [],  # noqa: B006
    engine: EngineName = "local",
    workers: Workers = None,
    partition: Partition = None,
    time: Time = None,
    memory: Memory = None,
    address: Address = None,
    tokenizer: Tokenizer = "llama-3",
    keep: Keep = False,
    remake: Remake = False,
    as_json: AsJson = False,
):
    """From downloaded files to token shards and a report; cut off, the same command goes on."""
    from openko.corpus import pack as packing
    from openko.corpus import report as reporting

    other, chosen = kept_or_not(keep, remake), engine_of(engine, workers, partition=partition, time=time, memory=memory, address=address)
    corpus, made = out / "corpus", clean_corpus(recipe, without, out / "corpus", data, chosen, other)
    shards = [out / "shards" / part for part in made.facts["files"] if part.endswith(".train")]
    for directory in shards:
        packing.pack(directory, corpus=corpus, part=directory.name, tokenizer=tokenizer, engine=chosen, other_code=other, say=to_stderr)
    page = reporting.write(corpus, out / "report.html", shards)
    print_record({"corpus": str(corpus), "shards": [str(d) for d in shards], "report": str(page)} | summary(made.facts), as_json)


@app.command()
def clean(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="corpus directory to write")],
    data: Data = Path("."),
    without: Without = [],  # noqa: B006
    engine: EngineName = "local",
    workers: Workers = None,
    partition: Partition = None,
    time: Time = None,
    memory: Memory = None,
    address: Address = None,
    keep: Keep = False,
    remake: Remake = False,
    as_json: AsJson = False,
):
    """Read, clean and filter; drop copies and near-copies; hold a part out."""
    chosen = engine_of(engine, workers, partition=partition, time=time, memory=memory, address=address)
    made = clean_corpus(recipe, without, out, data, chosen, kept_or_not(keep, remake))
    print_record({"corpus": str(out)} | summary(made.facts), as_json)


@app.command()
def decontaminate(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE.jsonl…", help='JSON lines with "text"')],
    against: Annotated[list[Path], typer.Option(help="file with evaluation questions; may be repeated")],
    out: Annotated[Path, typer.Option(help="directory to write")],
    syllables: Annotated[int | None, typer.Option(help="length of the pieces that are compared; 25 by default")] = None,
    share: Annotated[float, typer.Option(help="of a question's pieces that a document must hold; 0: one is enough")] = 0.0,
    fields: Annotated[list[str], typer.Option("--field", help="field with text in files of no known form; may be repeated")] = [],  # noqa: B006
    as_json: AsJson = False,
):
    """Remove documents that hold evaluation questions from JSONL files; a corpus's own build does it by its manifest."""
    from openko.corpus import decontaminate as against_questions

    given = {"share": share} | ({"syllables": syllables} if syllables else {}) | ({"fields": fields} if fields else {})
    questions = against_questions.Questions.read(against, **given)
    made = against_questions.decontaminate(inputs, questions, out, say=to_stderr)
    print_record({"out": str(out), **made.facts}, as_json)


@app.command()
def dedup(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE.jsonl…", help='JSON lines with "text", also .gz, .bz2, .zst')],
    out: Annotated[Path, typer.Option(help="directory to write: documents-*.jsonl, duplicates.jsonl")],
    unit: Annotated[str, typer.Option(help="of the shingles: syllable (white space does not count) or eojeol")] = "syllable",
    threshold: Annotated[float, typer.Option(help="a document goes if its Jaccard with one that stays is as large")] = 0.7,
    engine: EngineName = "local",
    workers: Workers = None,
    partition: Partition = None,
    time: Time = None,
    memory: Memory = None,
    address: Address = None,
    keep: Keep = False,
    remake: Remake = False,
    as_json: AsJson = False,
):
    """Of equal and nearly equal documents in JSONL files keep one; a corpus's own build does it by its manifest."""
    from openko.corpus import dedup as deduplication
    from openko.corpus.minhash import Similar

    chosen = engine_of(engine, workers, partition=partition, time=time, memory=memory, address=address)
    options = {"similar": Similar(unit, threshold), "engine": chosen, "other_code": kept_or_not(keep, remake)}
    made = deduplication.dedup(inputs, out, **options, say=to_stderr)
    print_record({"out": str(out), **made.facts}, as_json)


@app.command()
def pack(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="corpus directory")],
    out: Annotated[Path, typer.Option(help="directory of token shards to write")],
    part: Annotated[str, typer.Option(help="ko.train, ko.heldout, en.train or en.heldout")] = "ko.train",
    source: Annotated[str | None, typer.Option(help="only what this source gave")] = None,
    tokenizer: Tokenizer = "llama-3",
    engine: EngineName = "local",
    workers: Workers = None,
    partition: Partition = None,
    time: Time = None,
    memory: Memory = None,
    address: Address = None,
    as_json: AsJson = False,
):
    """Tokens of one part of a corpus, as training reads them."""
    from openko.corpus import pack as packing

    chosen = engine_of(engine, workers, partition=partition, time=time, memory=memory, address=address)
    made = packing.pack(out, corpus=corpus, part=part, source=source, tokenizer=tokenizer, engine=chosen, say=to_stderr)
    print_record({"out": str(out), **made.facts}, as_json)


@app.command()
def report(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="corpus directory")],
    out: Annotated[Path | None, typer.Option(help="HTML file; CORPUS.html by default")] = None,
    shards: Annotated[list[Path], typer.Option(help="shards packed from it, for their tokens; may be repeated")] = [],  # noqa: B006
):
    """One HTML page: from raw to kept, what each rule threw away, licences, tokens."""
    from openko.corpus import report as reporting

    print(reporting.write(corpus, out or corpus.with_name(corpus.name + ".html"), shards))


def kept_or_not(keep: bool, remake: bool) -> str:
    """A night's work is not thrown away because a line of code changed: without either option, the person is asked."""
    if keep and remake:
        raise InputError("--keep and --remake contradict each other: give one")
    return "keep" if keep else "remake" if remake else "refuse"


def engine_of(name: str, workers: int | None, **given):
    """The engine that --engine names, of openko.corpus.engines. given: partition, time, memory, address; None where not given."""
    from openko.corpus import engines

    uses = {"local": (), "ray": ("address", "memory"), "slurm": ("partition", "time", "memory")}
    if name not in uses:
        raise InputError(f"--engine is one of {', '.join(uses)}, found {name!r}")
    given = {option: value for option, value in given.items() if value is not None}
    unused = [option for option in given if option not in uses[name]]
    if unused:
        others = [engine for engine, options in uses.items() if unused[0] in options]
        raise InputError(f"--{unused[0]} is for --engine {' or '.join(others)}, not for {name}: leave it out")
    if name == "local":
        return engines.Local(workers or CORES)
    missing = [option for option in ("partition", "time") if name == "slurm" and option not in given]
    if workers is None or missing:
        raise InputError(f"--engine {name} needs --{'workers, the number of tasks at once' if workers is None else missing[0]}")
    return engines.Ray(workers, **given) if name == "ray" else engines.Slurm(workers, **given)


def clean_corpus(recipe: str, without: list[str], out: Path, data: Path, engine, other_code: str):
    from openko.corpus import build
    from openko.corpus import recipe as recipes

    made = build.build(out, recipes.load(recipe).without(without), data=data, engine=engine, other_code=other_code, say=to_stderr)
    for warning in made.facts["warnings"]:
        to_stderr(f"warning: {warning}")
    return made


def summary(facts: dict) -> dict:
    """Documents and bytes that were read, kept and refused, and what could not be read."""
    total = lambda counters, name: sum(c.get(name, 0) for c in counters)  # noqa: E731
    read, kept = list(facts["read"].values()), [c for part in facts["kept"].values() for c in part.values()]
    refused = [c for reasons in facts["rejected"].values() for c in reasons.values()]
    return {
        "documents read": total(read, "documents"), "documents kept": total(kept, "documents"),
        "documents refused": total(refused, "documents"), "bytes read": total(read, "bytes"), "bytes kept": total(kept, "bytes"),
        "could not be read": sum(sum(reasons.values()) for reasons in facts["faults"].values()),
    }  # fmt: skip
