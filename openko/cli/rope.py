"""openko rope …: RoPE in Hugging Face directories."""

import json
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson, print_record, to_stderr

app = typer.Typer(no_args_is_help=True, help="RoPE in Hugging Face directories: diagnose, repair, compare, break.")


@app.command()
def diagnose(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    text: Annotated[Path | None, typer.Option(help="UTF-8 text in the model's language; built-in Korean and English without")] = None,
    as_json: AsJson = False,
):
    """What is wrong with RoPE in a model directory? From weights and text first, then against config.json."""
    from openko.rope_lab.diagnosis import diagnose

    answer = diagnose(directory, text=text, say=to_stderr)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
        return
    theta, scaling = answer["theta"], answer["scaling"]
    said = "no θ" if theta["config"] is None else f"{theta['config']:,.0f}"
    low, high = (f"{side:,.0f}" if side else "no bound" for side in (theta["low"], theta["high"]))
    print_record({
        "verdict": ", ".join(answer["verdict"]),
        "θ": f"{theta['estimate']:,.0f} ({low} to {high}); in common use: {theta['nearest']:,.0f}; config.json: {said}",
        "rows of q": answer["layout"]["q"] or "not to be told",
        "rows of k": answer["layout"]["k"] or "not to be told",
        "scaling": f"{_scaling(scaling['estimate'])}{'' if scaling['sure'] else ', perhaps'}; config.json: {_scaling(scaling['config'])}",
        **({"repair": answer["repair"]} if answer["repair"] else {}),
    }, as_json)  # fmt: skip
    for note in answer["notes"]:
        print(f"  {note}")


def _scaling(block: dict | None) -> str:
    return "none" if block is None else f"{block['factor']:g} times from {block['original_max_position_embeddings']:,} positions"


@app.command()
def repair(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    out: Annotated[Path, typer.Option(help="model directory to write")],
    theta: Annotated[float | None, typer.Option(help="θ that the model was trained with, if you know it")] = None,
    layout: Annotated[str | None, typer.Option(metavar="NAME", help="how the rows lie now: NAME for both, or q=NAME,k=NAME")] = None,
    text: Annotated[Path | None, typer.Option(help="UTF-8 text in the model's language, for the diagnosis")] = None,
    as_json: AsJson = False,
):
    """Diagnose, and write a copy with rows, θ and scaling put right; no weight changes by a bit."""
    from openko.rope_lab.repair import cure, layout_from, repaired

    told = None if layout is None else layout_from(layout)
    found = cure(directory, theta=theta, layout=told, text=text, say=to_stderr)
    made = repaired(directory, out, theta=found.theta, scaling=found.scaling, layout=found.layout, say=to_stderr)
    print_record({"out": str(out), **made.facts}, as_json)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="model directory before")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="model directory after")],
    as_json: AsJson = False,
):
    """What happened between two uploads of a model: new numbers in config.json, rows moved, or other weights?"""
    from openko.rope_lab.comparison import compare

    answer = compare(old, new, say=to_stderr)
    print_record(answer if as_json else {"verdict": answer["verdict"], "": answer["sentence"]}, as_json)


def _list_faults(wanted: bool) -> None:
    if wanted:
        from openko.rope_lab.faults import FAULTS

        width = max(len(name) for name in FAULTS)
        print("\n".join(f"{name:<{width}}  {what}" for name, what in FAULTS.items()))
        raise typer.Exit


@app.command(name="break")
def break_(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR", help="a sound model directory")],
    fault: Annotated[list[str], typer.Option(help="what to put in; --list names them; may be repeated")],
    out: Annotated[Path, typer.Option(help="model directory to write")],
    theta: Annotated[float | None, typer.Option(help="for wrong-theta; by default 10000, or 500000 where the model has 10000")] = None,
    listing: Annotated[bool, typer.Option("--list", is_eager=True, callback=_list_faults, help="list the faults and stop")] = False,
    as_json: AsJson = False,
):
    """Copy a model directory and put RoPE faults in on purpose."""
    from openko.rope_lab.faults import broken

    made = broken(directory, out, fault, theta=theta, say=to_stderr)
    print_record({"out": str(out), **made.facts}, as_json)
