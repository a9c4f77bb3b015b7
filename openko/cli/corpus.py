"""openko corpus …: raw Korean text to token shards."""

import os
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson, print_record, to_stderr
from openko.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Raw text to token shards: build, or its steps clean, decontaminate, pack, report.")
RecipeFile = Annotated[str, typer.Argument(metavar="MANIFEST", help="YAML file, or laptop, open-ko, koen")]
Data = Annotated[Path, typer.Option(help="folder in which the manifest's paths begin")]
Workers = Annotated[int, typer.Option(min=1, help="processes; all cores by default")]
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
    workers: Workers = CORES,
    tokenizer: Tokenizer = "llama-3",
    keep: Keep = False,
    remake: Remake = False,
    as_json: AsJson = False,
):
    """From downloaded files to token shards and a report; cut off, the same command goes on."""
    from openko.corpus import pack as packing
    from openko.corpus import report as reporting

    other = kept_or_not(keep, remake)
    corpus, made = out / "corpus", clean_corpus(recipe, without, out / "corpus", data, workers, other)
    shards = [out / "shards" / part for part in made.facts["files"] if part.endswith(".train")]
    for directory in shards:
        packing.pack(directory, corpus=corpus, part=directory.name, tokenizer=tokenizer, workers=workers, other_code=other, say=to_stderr)
    page = reporting.write(corpus, out / "report.html", shards)
    print_record({"corpus": str(corpus), "shards": [str(d) for d in shards], "report": str(page)} | summary(made.facts), as_json)


@app.command()
def clean(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="corpus directory to write")],
    data: Data = Path("."),
    without: Without = [],  # noqa: B006
    workers: Workers = CORES,
    keep: Keep = False,
    remake: Remake = False,
    as_json: AsJson = False,
):
    """Read, clean and filter; drop exact copies; hold a part out."""
    made = clean_corpus(recipe, without, out, data, workers, kept_or_not(keep, remake))
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
def pack(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="corpus directory")],
    out: Annotated[Path, typer.Option(help="directory of token shards to write")],
    part: Annotated[str, typer.Option(help="ko.train, ko.heldout, en.train or en.heldout")] = "ko.train",
    source: Annotated[str | None, typer.Option(help="only what this source gave")] = None,
    tokenizer: Tokenizer = "llama-3",
    workers: Workers = CORES,
    as_json: AsJson = False,
):
    """Tokens of one part of a corpus, as training reads them."""
    from openko.corpus import pack as packing

    made = packing.pack(out, corpus=corpus, part=part, source=source, tokenizer=tokenizer, workers=workers, say=to_stderr)
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


def clean_corpus(recipe: str, without: list[str], out: Path, data: Path, workers: int, other_code: str):
    from openko.corpus import build
    from openko.corpus import recipe as recipes

    made = build.build(out, recipes.load(recipe).without(without), data=data, workers=workers, other_code=other_code, say=to_stderr)
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
