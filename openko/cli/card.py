"""openko card …: published benchmark scores, and ours beside them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from openko.cli.printing import AsJson
from openko.evaluation.published import BASE, CARDS, Comparison, Run, against, markdown, read, read_results
from openko.evaluation.published import card as card_of

app = typer.Typer(no_args_is_help=True, help="Published benchmark scores: read harness tables, show the original's card, compare.")


def _show_run(run: Run) -> str:
    settings = {"gen_kwargs": run.gen_kwargs, "limit": run.limit, "num_fewshot": run.num_fewshot, "batch_size": run.batch_size}
    told = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    return f"{run.model} ({run.model_args}), {told}"


@app.command()
def parse(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a model card, a log, any text with tables of lm-evaluation-harness")],
    as_json: AsJson = False,
):
    """Read every harness table in a file, old or new, and print it again; no digit is lost."""
    table = read(file)
    if as_json:
        answer = {"file": str(file), "runs": [asdict(run) for run in table.runs], "rows": [row.record() for row in table.rows]}
        print(json.dumps(answer, ensure_ascii=False))
        return
    for run in table.runs:
        print(_show_run(run) + "\n")
    print(markdown(table), end="")


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="a card; without it, which cards there are")] = None,
    as_json: AsJson = False,
):
    """The benchmark table of the original's model card, with its source."""
    if name is None:
        cards = {short: "no benchmark table" if why else f"{len(card_of(short).table.rows)} rows" for short, why in CARDS.items()}
        print(json.dumps(cards) if as_json else "\n".join(f"{short:<{max(map(len, cards))}}  {what}" for short, what in cards.items()))
        return
    found = card_of(name)
    source = {field: getattr(found, field) for field in ("name", "model", "url", "revision", "harness", "notes")}
    if as_json:
        runs, rows = [asdict(run) for run in found.table.runs], [row.record() for row in found.table.rows]
        print(json.dumps(source | {"runs": runs, "rows": rows}, ensure_ascii=False))
        return
    print(f"{found.model}, revision {found.revision} ({found.url})\nharness: {found.harness}")
    for note in found.notes:
        print(f"note: {note}")
    for run in found.table.runs:
        print(f"run: {_show_run(run)}")
    print("\n" + markdown(found.table), end="")


@app.command()
def compare(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"a card, such as {BASE}")],
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="what lm-evaluation-harness wrote")],
    as_json: AsJson = False,
):
    """A run of the harness beside a card: differences in standard errors, and what is not alike."""
    rows = against(name, read_results(results))
    if as_json:
        print(json.dumps({"card": card_of(name).name, "results": str(results), "rows": [row.record() for row in rows]}, ensure_ascii=False))
    else:
        print_comparison(rows)


def print_comparison(rows: list[Comparison]) -> None:
    """Rows that both sides have as a table, what is not alike beside each; then what one side alone has, and why."""
    both = [row for row in rows if row.is_compared]
    if both:
        shown = [("task", "metric", "ours", "card", "difference", "in s.e.", "")] + [_line(row) for row in both]
        widths = [max(len(line[k]) for line in shown) for k in range(6)]
        for line in shown:
            cells = [f"{cell:{'<' if k < 2 else '>'}{widths[k]}}" for k, cell in enumerate(line[:6])]
            print("  ".join([*cells, line[6]]).rstrip())
        measured = [abs(row.standard_errors) for row in both if row.standard_errors is not None]
        print(f"\n{len(both)} compared; {sum(x > 2 for x in measured)} of {len(measured)} with standard errors differ by more than two")
    else:
        print("nothing to compare: this run and the card share no measurement")
    for title, chosen in (
        ("only on the card", [row for row in rows if row.ours is None]),
        ("only here", [row for row in rows if row.ours is not None and row.published is None]),
    ):
        by_reason = {}
        for row in chosen:
            by_reason.setdefault("; ".join(row.notes), []).append(f"{row.task} {row.metric}")
        for why, names in by_reason.items():
            print(f"\n{title}: {why}\n  " + "\n  ".join(names))


def _line(row: Comparison) -> tuple[str, ...]:
    def beside(value: str, error: str | None) -> str:
        return f"{value} ±{error}" if error is not None else f"{value}{'':8}"

    apart = "" if row.standard_errors is None else f"{row.standard_errors:+.1f}"
    metric = row.metric if row.filter == "none" else f"{row.metric} ({row.filter})"
    return (
        row.task, metric, beside(f"{row.ours:.4f}", None if row.stderr is None else f"{row.stderr:.4f}"),
        beside(row.published, row.published_stderr), f"{row.difference:+.4f}", apart, "; ".join(row.notes),
    )  # fmt: skip
