"""openko release, audit, push: a model directory ready for the Hub."""

import json
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson, print_record, to_stderr

MARKS = {"pass": "ok", "fail": "FAIL", "skipped": "--"}
Text = Annotated[Path | None, typer.Option(help="UTF-8 text in the model's language, for the diagnosis of RoPE")]


def release(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR", help="the model as training, merge or repair wrote it")],
    name: Annotated[str, typer.Option(help="what the model is called; with a Llama 3 parent it begins with 'Llama-3' or 'Llama 3'")],
    out: Annotated[Path, typer.Option(help="directory to write")],
    author: Annotated[str, typer.Option(help="for the card and the citation")] = "",
    parent: Annotated[
        str | None,
        typer.Option(metavar="DIR|none", help="the Llama model it descends from, with LICENSE and USE_POLICY.md; the manifests' without"),
    ] = None,
    base_model: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="the parent's name on the Hub")] = None,
    licence: Annotated[
        str, typer.Option("--licence", "--license", metavar="ID", help="for a model without a Llama parent, such as apache-2.0")
    ] = "",
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="where it will lie on the Hub, for sample usage and citation")] = "",
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="results of lm-evaluation-harness; 'not evaluated' without")] = None,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="of a file of weights")] = "5GB",
    text: Text = None,
    as_json: AsJson = False,
):
    """Write a directory ready for the Hub: weights, configs, tokenizer, card, licence, provenance; audited before it gets its name."""
    from openko import hf_weights
    from openko.release import making

    made = making.release(
        directory, out, name=name, author=author, parent=parent, base_model=base_model, licence=licence, repository=repo, results=results,
        text=text, shard_bytes=hf_weights.bytes_from(max_shard_size), say=to_stderr,
    )  # fmt: skip
    answer = making.as_record(out, made)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
        return
    print_record({key: value for key, value in answer.items() if key not in ("checks", "passed")}, as_json)
    _print_checks(answer)


def audit(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR", help="any Llama directory, released or foreign")],
    text: Text = None,
    as_json: AsJson = False,
):
    """Is a model directory fit to be used by strangers? Eleven checks, each with its reason; status 1 where one fails."""
    from openko.release import auditing

    answer = auditing.audit(directory, text=text, say=to_stderr)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
    else:
        _print_checks(answer)
    if not answer["passed"]:
        raise typer.Exit(1)


def _print_checks(answer: dict) -> None:
    width = max(len(name) for name in answer["checks"])
    for name, check in answer["checks"].items():
        print(f"{MARKS[check['status']]:<4}  {name:<{width}}  {check['reason']}")
    print("passed" if answer["passed"] else "not passed")


def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a release, or any directory that passes its audit")],
    repository: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would go; needs no network and no token")] = False,
    private: Annotated[bool, typer.Option("--private", help="a repository that is made new is private")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="made where it is not there; main without")] = None,
    text: Text = None,
    as_json: AsJson = False,
):
    """Send a directory to the Hub; one that fails its audit is refused."""
    from openko.release import hub

    answer = hub.push(directory, repository, dry_run=dry_run, private=private, revision=revision, text=text, say=to_stderr)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
        return
    width = max(map(len, answer["files"]))
    for name, size in answer["files"].items():
        print(f"{name:<{width}}  {size:>16,}")
    what = "sent to " + answer["url"] if answer["url"] else f"would go to {repository}, {answer['revision']}; nothing was sent"
    print(f"{len(answer['files'])} files, {answer['bytes']:,} bytes: {what}")
