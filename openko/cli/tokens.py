"""openko tokens …: what Korean costs in a tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson, to_stderr
from openko.errors import InputError

app = typer.Typer(no_args_is_help=True, help="What Korean costs in a tokenizer: compare several on text files.")
JSON_LINES, TEXT, COMPRESSED = (".jsonl", ".ndjson"), (".txt", ".md"), (".gz", ".bz2", ".zst")


@app.command()
def compare(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE…", help='a domain each: JSON lines with "text", or text with a blank '
                                                 "line between documents; also .gz, .bz2, .zst")],
    tokenizer: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="PATH: llama-3, a model directory, a tokenizer.json, a tiktoken "
                                                 "or SentencePiece file, or hub:ORG/NAME; may be repeated; without, llama-3 alone")] = [],  # noqa: B006
    baseline: Annotated[str | None, typer.Option(metavar="NAME", help="whose tokens are 1 in the ratios; by default Llama-2-Ko or its "
                                                 "stand-in if there is one, else the first")] = None,
    out: Annotated[Path | None, typer.Option(help="directory for pictures and their numbers")] = None,
    packages: Annotated[Path, typer.Option(help="--out: folder with the text packages, for their font")] = Path("runs/laptop/packages"),
    as_json: AsJson = False,
):  # fmt: skip
    """Tokens, bytes a token, broken syllables of each file, with 95% intervals; the card's claim; what it means; round trips.

    The claim and what it means are read off the files that are mostly Hangul. Intervals are drawn over documents: few make them
    too narrow, and below 8 there are none.
    """
    from openko import figures, tokenizers
    from openko.token_study import claims, meaning, pictures, round_trips
    from openko.token_study import compare as compared

    named, domains = _named(tokenizer), _domains(inputs)
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: name a directory")
    if out is not None:
        figures.hangul_font(packages)  # better now than after the counting
    if baseline is None:
        baseline = next((name for name in named if claims.is_korean(name)), None)
    elif baseline not in named:
        raise InputError(f"--baseline {baseline}: choose one of {', '.join(named)}")
    loaded = {name: tokenizers.load(place) for name, place in named.items()}
    study = compared(loaded, {name: _documents(path) for name, path in domains.items()}, baseline=baseline, say=to_stderr)
    meant = meaning.of(study) if study["korean"] else None
    answer = {"study": study, "claim": claims.of(study), "meaning": meant, "round_trips": round_trips.table(loaded)}
    if out is not None:
        drawn = [m for m in pictures.LABELS if study["all"]["tokenizers"][study["baseline"]][m]["value"] is not None]
        answer["pictures"] = [str(figures.save(out, m.replace("_", "-"), pictures.bars(study, m), packages=packages)) for m in drawn]
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
        return
    _print(answer)
    if not tokenizer:
        to_stderr("llama-3 alone; to compare add --tokenizer llama-3 --tokenizer NAME=PATH")


def _named(entries: list[str]) -> dict[str, str]:
    """Places by name."""
    from openko.tokenizers import LLAMA_3

    named = {}
    for entry in entries or [LLAMA_3]:
        name, _, place = (entry, "", entry) if entry == LLAMA_3 else entry.partition("=")
        if not name or not place:
            raise InputError(f"--tokenizer {entry}: write NAME=PATH, such as llama-2-ko=hub:beomi/llama-2-ko-7b")
        if name in named:
            raise InputError(f"--tokenizer {entry}: {name} is given twice: give each tokenizer its own name")
        named[name] = place
    return named


def _domains(inputs: list[Path]) -> dict[str, Path]:
    """Files by the names of their domains: the file's own, or the whole paths where two have the same or one is a whole's, such as all."""
    from openko.token_study.study import WHOLES

    for path in inputs:
        if not path.is_file():
            raise InputError(f"{path} {'is a directory: give its files' if path.is_dir() else 'does not exist'}")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: give a file with text")
        if _form(path) not in JSON_LINES + TEXT:
            known = ", ".join(JSON_LINES + TEXT)
            raise InputError(f"{path}: its name tells no form; rename it to end in one of {known}, packed or not ({', '.join(COMPRESSED)})")
    short = [path.name.removesuffix(path.suffix if path.suffix in COMPRESSED else "").rpartition(".")[0] for path in inputs]
    clear = len(set(short)) == len(short) and not set(short) & set(WHOLES)
    domains = dict(zip(short if clear else map(str, inputs), inputs, strict=True))
    if len(domains) < len(inputs):
        raise InputError("a file is given twice: name each once")
    return domains


def _form(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def _documents(path: Path) -> Iterator[str]:
    from openko.corpus.document import FAULTS, Fault
    from openko.corpus.readers import files, lines

    content = files.content(path, Path())
    found = lines.jsonl(content, {}) if _form(path) in JSON_LINES else lines.plain(content, "blank-lines")
    for each in files.guarded(found, content.place):
        if isinstance(each, Fault):
            raise InputError(f"{each.place}: {FAULTS[each.reason]} ({each.detail}): mend the file and try again")
        yield each.text


def _print(answer: dict) -> None:
    from openko.token_study.study import parts_of

    study, names = answer["study"], list(answer["study"]["tokenizers"])
    for domain, part in parts_of(study).items():
        print(f"{domain}: " + ", ".join(f"{part[unit]:,} {unit}" for unit in ("documents", "bytes", "syllables", "eojeol")))
        rows = [["", *names], ["tokens", *(f"{part['tokenizers'][n]['tokens']:,}" for n in names)]]
        for measure in ("bytes_per_token", "syllables_per_token", "tokens_per_eojeol", "broken_syllables", "tokens_ratio"):
            label = f"tokens to {study['baseline']}" if measure == "tokens_ratio" else measure.replace("_", " ")
            rows.append([label, *(_cell(part["tokenizers"][n][measure], share=measure == "broken_syllables") for n in names)])
        _print_table(rows)
    if any(part["tokenizers"][names[0]]["bytes_per_token"]["interval"] is None for part in study["domains"].values()):
        print(f"no interval: fewer than {study['bootstrap']['least']} documents; with a few more it is still too narrow\n")
    claim, meaning = answer["claim"], answer["meaning"]
    print(f'"{claim["claim"]}": {claim["status"]}' + (f" ({claim['why']})" if claim["why"] else ""))
    said = claim["published"]
    if claim["ratio"] is not None:
        lies = f" lies {claim['published_ratio_is']} this interval" if claim["published_ratio_is"] else ""
        print(f"  ratio {_cell(claim)} on {', '.join(claim['domains'])}; the cards' {said['ratio']:.2f}{lies}")
    print(f"  the cards: {said['ratio']:.2f}, or {said['interval'][0]:.2f} to {said['interval'][1]:.2f} {said['interval_is']}")
    print(f"  {said['source']}")
    if meaning is None:
        print("\nno file is mostly Hangul: nothing is said of a Korean corpus")
    else:
        _print_meaning(meaning)
    print("\nround trips")
    for row in answer["round_trips"]:
        lost = {n: cell["came_back"] for n, cell in row["tokenizers"].items() if not cell["exact"]}
        print(f"  {row['sample']:<22}" + ("exact" if not lost else "; ".join(f"{n}: {text!r}" for n, text in lost.items())))


def _print_meaning(meaning: dict) -> None:
    assumed = meaning["assumptions"]
    scale = f"{assumed['corpus_bytes'] / 1e9:.0f} GB like {', '.join(assumed['domains'])}, {assumed['parameters'] / 1e9:.2f}B weights"
    print(f"\nfor {scale}, {assumed['chips']} × {assumed['chip']}")
    rows = [["", "tokens", "FLOP", "hours", "dollars", f"{assumed['context']:,} tokens hold"]]
    for name, row in meaning["tokenizers"].items():
        held = f"{row['context_bytes']:,.0f} bytes" + (f", {row['context_syllables']:,.0f} syllables" if row["context_syllables"] else "")
        hours, dollars = _range(row["hours"], 1), _range(row["dollars"], 0)
        rows.append([name, f"{row['tokens'] / 1e9:.1f}B", f"{row['flops']:.2g}", hours, dollars, held])
    _print_table(rows)
    for source in assumed["sources"]:
        print(f"  {source}")


def _range(by_rate: dict, digits: int) -> str:
    return f"{by_rate['maxtext']:,.{digits}f} to {by_rate['cautious']:,.{digits}f}"


def _cell(found: dict, share: bool = False) -> str:
    value, interval = found["ratio"] if "ratio" in found else found["value"], found["interval"]
    if value is None:
        return "–"
    form = "{:.2%}" if share else "{:.3f}"
    return form.format(value) + (f" [{', '.join(map(form.format, interval))}]" if interval else "")


def _print_table(rows: list[list[str]]) -> None:
    """Rows of any width: a terminal's 80 columns would cut the intervals of the third tokenizer."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
