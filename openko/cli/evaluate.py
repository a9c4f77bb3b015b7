"""openko evaluate: the harness's tasks, bits per byte, and what was forgotten."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson, print_rows, to_stderr
from openko.errors import InputError

NO_BENCHMARK = "openko's practice questions are its own, and the card has scores on the benchmarks: there is nothing to compare"


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    tasks: Annotated[
        list[str], typer.Option("--tasks", metavar="NAME,…", help="of lm-evaluation-harness, such as haerae,kobest_copa,kmmlu_direct")
    ] = (),
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="examples in each prompt; by default the task's own number")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first so many questions of each task")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="questions in files, DIR/haerae/history/test.jsonl; without it the harness asks the hub")
    ] = None,
    practice: Annotated[
        bool, typer.Option("--practice", help="openko's own few questions in the benchmarks' form; not the benchmarks")
    ] = False,
    apply_chat_template: Annotated[bool, typer.Option("--apply-chat-template", help="ask through the directory's chat template")] = False,
    corpus: Annotated[Path | None, typer.Option(help="a built corpus directory to look for the questions in")] = None,
    against: Annotated[str | None, typer.Option(metavar="CARD", help="a published table to compare with, such as card")] = None,
    bits_per_byte: Annotated[
        list[Path], typer.Option("--bits-per-byte", metavar="FILE", help='UTF-8 text or .jsonl with "text"; may be repeated')
    ] = (),
    before: Annotated[
        Path | None, typer.Option(metavar="HF_DIR", help="with --bits-per-byte: the model before; what was forgotten?")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="with --bits-per-byte: tokens seen at once")] = 256,
    seed: Annotated[int, typer.Option(help="of the choice of examples")] = 1234,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="write the results as JSON, in the harness's form")] = None,
    as_json: AsJson = False,
):
    """What can a model do? lm-evaluation-harness's tasks, bits per byte of texts, and what it forgot."""
    names = [name.strip() for entry in tasks for name in entry.split(",") if name.strip()]
    _check(names, bits_per_byte, before, against, data_dir, practice, out)
    from openko import manifest
    from openko.evaluation import forgetting

    if against is not None:
        from openko.evaluation import published
        from openko.evaluation import tasks as questions

        if data_dir is not None and questions.is_practice(data_dir):
            raise InputError(NO_BENCHMARK)
        card = published.card(published.BASE if against == "card" else against)
        shots = sorted({row.n_shot for row in card.table.rows if row.n_shot is not None})
        if num_fewshot is None and shots:
            to_stderr(
                f"the card's scores are {' and '.join(shots)}-shot, and the tasks' own numbers are asked now: --num-fewshot {shots[0]}"
            )
    texts = {str(path): forgetting.read(path) for path in bits_per_byte}
    for model in (directory, before) if texts else ():
        if model is not None:  # now, for scores can take hours
            forgetting.check_context(model, context)
    results: dict = {"openko": {"model": str(directory)}}
    if names:
        from openko.evaluation import scores
        from openko.evaluation.tasks import PRACTICE

        results = scores.score(
            directory, names, num_fewshot=num_fewshot, limit=limit, data_dir=PRACTICE if practice else data_dir, corpus=corpus,
            apply_chat_template=apply_chat_template, seed=seed, say=to_stderr,
        )  # fmt: skip
        if out is not None:  # what comes next may fail, and these took long
            manifest.write_json(out, results)
    if before is not None:
        changes = forgetting.compare(before, directory, texts, context=context, say=to_stderr)
        results["openko"]["bits_per_byte"] = [asdict(change) | {"verdict": change.verdict} for change in changes]
    elif texts:
        results["openko"]["bits_per_byte"] = forgetting.table({"bits_per_byte": directory}, texts, context=context, say=to_stderr)
    rows = None
    if against is not None:
        rows = published.against(card.name, results)
        results["openko"]["against"] = [row.record() for row in rows]
    if out is not None:
        manifest.write_json(out, results)
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
        return
    _print(results, rows)


def _check(names, texts, before, against, data_dir, practice, out) -> None:
    """Refuse before anything is read what cannot be done."""
    if not names and not texts:
        raise InputError("nothing to measure: name --tasks (haerae,kobest_copa,kmmlu_direct) or --bits-per-byte FILE")
    if practice and data_dir is not None:
        raise InputError("--practice is a --data-dir of its own: give one of the two")
    if not names and (practice or data_dir is not None or against is not None):
        raise InputError("--data-dir, --practice and --against are about tasks: name them with --tasks")
    if practice and against is not None:
        raise InputError(NO_BENCHMARK)
    if before is not None and not texts:
        raise InputError("--before compares bits per byte: name the texts with --bits-per-byte FILE")
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"{data_dir} is no directory: --data-dir is one with haerae/, kobest/ or kmmlu/ in it")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"{out} cannot be written: --out is a file in a directory that exists")
    if len(set(texts)) < len(texts):
        raise InputError("a file is given twice to --bits-per-byte")
    if names and importlib.util.find_spec("lm_eval") is None:
        raise InputError("the tasks come with lm-evaluation-harness: pip install 'openko[eval]'")


def _print(results: dict, rows) -> None:
    ours = results["openko"]
    if "results" in results:
        from openko.evaluation import scores

        print(scores.report(results))
    if "bits_per_byte" in ours:
        if "results" in results:
            print()
        print_rows([{name: _shown(name, value) for name, value in row.items()} for row in ours["bits_per_byte"]], False)
    if rows is not None:
        from openko.cli.card import print_comparison

        print()
        print_comparison(rows)


def _shown(name: str, value):
    if not isinstance(value, float):
        return value
    return f"{value:+.1f}%" if name == "percent" else f"{value:+.4f}" if name == "difference" else f"{value:.4f}"
