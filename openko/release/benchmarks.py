"""The benchmark table of a model card, from what lm-evaluation-harness wrote: its results file, or a table it printed."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from openko.errors import InputError
from openko.evaluation import published
from openko.evaluation.published.tables import NONE, Row, Section, Table

COLUMNS = ("Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr")
RIGHT = (False, True, False, True, False, False, True, False, True)


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """markdown: the tables. how: under which conditions, one line each. model: whose scores they are, where the file says so."""

    markdown: str
    how: tuple[str, ...]
    model: str | None = None


def read(path: Path) -> Benchmarks:
    """Tables of a results file (lm_eval --output_path, JSON) or of a text with the harness's tables.

    Refused: a file without either.
    """
    path = Path(path)
    if path.suffix != ".json":
        found = published.read(path)
        return Benchmarks(markdown=published.markdown(found), how=tuple(_of_run(run.num_fewshot, run.limit, None) for run in found.runs))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sections = _sections(content)
        ours, config = content.get("openko") or {}, content.get("config") or {}
        how = [_of_run(config.get("num_fewshot"), config.get("limit"), content.get("lm_eval_version")), *_of_questions(content)]
    except OSError as problem:
        raise InputError(f"--results {path} cannot be read: {problem.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as problem:
        raise InputError(
            f"--results {path} is not a results file of lm-evaluation-harness ({type(problem).__name__}: {problem}): give what "
            "`lm_eval --output_path` or `openko evaluate` wrote"
        ) from None
    return Benchmarks(markdown=published.markdown(Table(tuple(sections))), how=tuple(how), model=ours.get("model"))


def _of_run(few_shot, limit, version) -> str:
    said = ["lm-evaluation-harness" + (f" {version}" if version else "")]
    if few_shot not in (None, "None"):
        said.append(f"{few_shot} shots")
    if limit not in (None, "None"):
        said.append(f"only the first {limit} questions of each task: not comparable with published scores")
    return ", ".join(said)


def _of_questions(content: dict) -> list[str]:
    """What a reader of the scores must know of the questions."""
    ours, said = content.get("openko") or {}, []
    if ours.get("data") == "practice":
        said.append("The questions are openko's own practice ones in the benchmarks' form, not the benchmarks: the scores mean nothing")
    asked = {task: n for task, n in (content.get("n-samples") or {}).items() if n["effective"] < n["original"]}
    if asked:
        least = min(n["effective"] for n in asked.values())
        said.append(f"Asked in part: {', '.join(sorted(asked))}, {least} questions at least: not comparable with published scores")
    looked = {task: status for task, status in (ours.get("contamination") or {}).items() if status is not None}
    if looked:
        found = sum(status["found"] for status in looked.values())
        whole = sum(status["looked_for"] for status in looked.values())
        said.append(f"{found:,} of {whole:,} questions were found in the training texts")
    elif ours:
        said.append("Whether the questions are in the training texts was not checked")
    return said


def _sections(content: dict) -> list[Section]:
    rows = [row for task, depth in _in_order(content) for row in _rows(content, task, depth)]
    if not any(row.value for row in rows):
        raise ValueError("it holds no score")
    return [Section(run=None, columns=COLUMNS, right=RIGHT, headed=True, padded=False, rows=tuple(rows))]


def _in_order(content: dict) -> list[tuple[str, int]]:
    """(task, depth) as the harness prints them: by name, a group before its members."""
    found, groups = content["results"], content.get("group_subtasks") or {}
    members = {member for some in groups.values() for member in some}

    def below(name: str, depth: int) -> list[tuple[str, int]]:
        here = [(name, depth)] if name in found else []
        return here + [one for member in groups.get(name, ()) for one in below(member, depth + len(here))]

    return [one for name in sorted({*found, *groups} - members) for one in below(name, 0)]


def _rows(content: dict, task: str, depth: int) -> list[Row]:
    found = content["results"][task]
    alias = str(found.get("alias", task))
    depth = depth or (len(alias) - len(alias.lstrip()) if alias.lstrip().startswith("- ") else 0)
    version, shots = content.get("versions", {}).get(task), content.get("n-shot", {}).get(task)
    better = content.get("higher_is_better", {}).get(task) or {}
    common = {
        "task": re.sub(r"^\s*- ", "", alias), "version": NONE if version is None else str(version).removesuffix(".0"),
        "n_shot": None if shots is None else str(shots), "depth": depth,
    }  # fmt: skip
    rows = []
    for key, value in found.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = found.get(f"{metric}_stderr,{chosen}")
        rows.append(
            Row(
                filter=chosen, metric=metric, direction={True: "↑", False: "↓"}.get(better.get(metric)), value=_number(value),
                stderr=NONE if error is None else _number(error), **common,
            )
        )  # fmt: skip
    return rows or [Row(metric=None, value=None, **common)]


def _number(value) -> str:
    """As the harness prints it."""
    return value if isinstance(value, str) else f"{value:.4f}"
