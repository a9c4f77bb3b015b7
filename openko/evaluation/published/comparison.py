"""A run of lm-evaluation-harness beside a card: differences in standard errors, and why a number has no other beside it.

Between 0.4.2, which the card's form belongs to, and 0.4.13 (read in the task files of both) the names, versions, prompts and
metrics of haerae, kmmlu_direct and kobest stayed; what moved is the groups. haerae got a version of its own, the card prints
N/A. kmmlu_direct was a group to 0.4.3, a mere tag in 0.4.4 (so without an aggregate), and is a group again in 0.4.8, of
four groups. All those aggregates are means weighted by the members' questions, with the pooled standard error; so where only
the members were measured, theirs is made here.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from openko.errors import InputError
from openko.evaluation.published.cards import card
from openko.evaluation.published.tables import NONE, Row

# What stands among a task's results without being a measurement.
NO_METRIC = ("alias", "name", "sample_len", "sample_count", "samples", " ")
SHARES = ("acc", "acc_norm", "exact_match")  # of questions answered rightly: value and standard error tell how many there were
NO_FILTER = "none"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measurement, ours and the card's.

    ours, stderr: as the harness computed them; None where there is none.
    published, published_stderr: as printed; None where the card has no such row or no standard error.
    difference: ours − published.  standard_errors: the difference divided by √(stderr² + published_stderr²); None without both.
    Both sides answer the same questions, so two runs of the same weights should lie far within 1, and 2 between different
    models is a cautious bound.
    questions: how many we asked.  published_questions: [fewest, most] that the printed numbers allow.
    notes: what makes the two numbers less than alike, or why one of them is missing.
    """

    task: str
    metric: str
    filter: str
    ours: float | None
    stderr: float | None
    published: str | None
    published_stderr: str | None
    difference: float | None
    standard_errors: float | None
    questions: int | None
    published_questions: tuple[int, int] | None
    notes: tuple[str, ...]

    @property
    def is_compared(self) -> bool:
        return self.difference is not None

    def record(self) -> dict:
        return asdict(self)


def read_results(path: Path) -> dict:
    """The harness's results from the JSON file that `--output_path` writes. Raises InputError, naming the file."""
    path = Path(path)
    try:
        results = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(
            f"{path} is a directory: name the harness's results file in it, such as results_2026-01-31T12-00-00.json"
        ) from None
    except ValueError as problem:
        raise InputError(f"{path} is not JSON ({problem}): name the results file of lm-evaluation-harness") from None
    _check(results, str(path))
    return results


def _check(results: dict, name: str) -> None:
    tasks = results.get("results") if isinstance(results, dict) else None
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise InputError(f'{name} has no "results" with an object for each task: name the results file of lm-evaluation-harness')
    for field in ("versions", "n-shot", "n-samples", "group_subtasks"):
        if not isinstance(results.get(field) or {}, dict):
            raise InputError(f"{name}: {field!r} must be an object with one entry a task, found {results[field]!r}")
    for group, below in (results.get("group_subtasks") or {}).items():
        if not isinstance(below, list) or not all(isinstance(task, str) for task in below):
            raise InputError(f"{name}: 'group_subtasks' of {group} must be a list of names, found {below!r}")


def against(name: str, results: dict) -> list[Comparison]:
    """Every row of the card called `name` beside ours, in the card's order, and then what only we measured.

    results: what lm_eval.simple_evaluate returns, or its file read: results, versions, n-shot, n-samples, group_subtasks.
    Raises InputError where there is no such card or it has no table, for results of another form, and for scores on openko's
    practice questions, which are not the benchmarks.
    """
    _check(results, "the results")
    if _asked(results).get("data") == "practice":
        raise InputError(
            "these results are scores on openko's own practice questions, and the card has scores on the benchmarks: there is nothing to "
            "compare; measure with the benchmarks' questions (the hub's, or --data-dir)"
        )
    ours, groups = _measured(results), _groups(results)
    rows = {(row.task, row.metric, row.filter or NO_FILTER): row for row in card(name).table.rows}
    members = _members(card(name).table.rows)
    compared = []
    for key, row in rows.items():
        task, metric, chosen = key
        found, notes = ours.get(key), []
        if found is None and task in members:
            found, why = _aggregate(ours, results, members[task], metric, chosen)
            notes.append(why)
        elif found is None:
            notes.append(_missing(key, ours, results))
        if found is not None:
            notes += _unlike(row, members.get(task, ()), rows, results, groups)
        compared.append(_compared(key, found, row, rows, members, results, groups, notes))
    for key in (key for key in ours if key not in rows):
        compared.append(_compared(key, ours[key], None, rows, members, results, groups, [_unpublished(key, rows)]))
    return compared


def _asked(results: dict) -> dict:
    """What openko says of its own run; nothing where the harness ran alone."""
    ours = results.get("openko")
    return ours if isinstance(ours, dict) else {}


def _measured(results: dict) -> dict[tuple, tuple]:
    """{(task, metric, filter): (value, standard error or None)} of one run."""
    found = {}
    for task, fields in results["results"].items():
        for key, value in fields.items():
            metric, _, chosen = key.partition(",")
            if key in NO_METRIC or metric.endswith("_stderr") or not _is_number(value):
                continue
            error = fields.get(f"{metric}_stderr,{chosen}" if chosen else f"{metric}_stderr")
            found[task, metric, chosen or NO_FILTER] = (float(value), float(error) if _is_number(error) else None)
    return found


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _groups(results: dict) -> dict[str, list[str]]:
    """{group: its tasks, those of groups in it included} of one run."""
    direct = {name: below for name, below in (results.get("group_subtasks") or {}).items() if below}

    def leaves(name: str, above: frozenset = frozenset()) -> Iterable[str]:
        for below in direct[name]:
            if below not in direct:
                yield below
            elif below not in above:
                yield from leaves(below, above | {name})

    return {name: sorted(set(leaves(name))) for name in direct}


def _members(rows: Iterable[Row]) -> dict[str, list[str]]:
    """{group: its tasks} as a table indents them below it."""
    found, group = {}, None
    for row in rows:
        if row.depth == 0:
            group = row.task
        elif row.task not in found.setdefault(group, []):
            found[group].append(row.task)
    return found


def _aggregate(ours: dict, results: dict, members: list[str], metric: str, chosen: str) -> tuple:
    """((value, standard error), why): the mean of a group that was not measured as one, by the harness's own formulas."""
    found = [ours.get((task, metric, chosen)) for task in members]
    if None in found:
        measured = len(found) - found.count(None)
        return None, "not measured here" + (f" ({measured} of its {len(members)} tasks were)" if measured else "")
    sizes = [_questions(task, results, {}) for task in members]
    if not all(sizes):
        return None, "the harness printed no aggregate, and the results do not say how many questions each task has"
    total = sum(sizes)
    mean = sum(value * size for (value, _), size in zip(found, sizes, strict=True)) / total
    why = f"made here from its {len(members)} tasks, weighted by their questions: the run has no such group"
    if total == len(sizes) or any(error is None for _, error in found):
        return (mean, None), why
    pooled = sum((size - 1) * size * error**2 for (_, error), size in zip(found, sizes, strict=True)) / (total - len(sizes))
    return (mean, math.sqrt(pooled / total)), why


def _missing(key: tuple, ours: dict, results: dict) -> str:
    task, metric, chosen = key
    if task not in results["results"]:
        return "not measured here"
    if {metric, f"{metric},{chosen}"} & set(results["results"][task]):
        return f"{metric} is no number here"
    others = [m if f == NO_FILTER else f"{m} by {f}" for t, m, f in ours if t == task]
    return f"this run has no {metric} of it" + (f" (but {', '.join(others)})" if others else "")


def _unpublished(key: tuple, rows: dict) -> str:
    task, metric, chosen = key
    if all(known != task for known, _, _ in rows):
        return "not on the card"
    filters = [f for t, m, f in rows if (t, m) == (task, metric)]
    return f"the card's {metric} is by filter {', '.join(filters)}, not {chosen}" if filters else f"the card has no {metric} of it"


def _unlike(row: Row, members: Iterable[str], rows: dict, results: dict, groups: dict) -> list[str]:
    """How the two measurements of a row were not asked alike. A group's own version is not compared, its tasks' are."""
    notes = []
    there, here = {known.task: known.version for known in rows.values()}, results.get("versions") or {}
    other = [
        task
        for task in members or [row.task]
        if here.get(task) is not None and there[task] not in (None, NONE) and not _same(here[task], there[task])
    ]
    if members and other:
        notes.append(f"{len(other)} of its tasks have another version here")
    elif other:
        notes.append(f"task version {here[row.task]} here, {row.version} on the card")
    shots = _shots(row.task, members, results)
    if row.n_shot is not None and shots and not all(_same(shot, row.n_shot) for shot in shots):
        notes.append(f"{' and '.join(map(str, shots))} shots here, {row.n_shot} on the card")
    if _asked(results).get("apply_chat_template"):
        notes.append("asked through a chat template")
    asked = groups.get(row.task) or members or [row.task]
    truncated = _asked(results).get("truncated") or {}
    if lost := sum(truncated.get(task, 0) for task in asked):
        of = _questions(row.task, results, {row.task: asked} if members else {})
        notes.append(f"{lost:,} {'' if of is None else f'of {of:,} '}prompts lost their beginning")
    ours, theirs = set(groups.get(row.task, members)), set(members)
    if members and ours - theirs:
        notes.append(f"{len(ours - theirs)} tasks of our group are not in the card's")
    if members and theirs - ours:
        notes.append(f"{len(theirs - ours)} of the card's tasks are not in our group")
    return notes


def _same(a, b) -> bool:
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return str(a) == str(b)


def _shots(task: str, members: Iterable[str], results: dict) -> list:
    told = results.get("n-shot")
    if told is None:  # 0.3.0 has one number for all tasks
        config = results.get("config")
        told = dict.fromkeys(results["results"], config["num_fewshot"]) if isinstance(config, dict) and "num_fewshot" in config else {}
    if told.get(task) is not None:
        return [told[task]]
    return sorted({told[member] for member in members if told.get(member) is not None}, key=str)


def _questions(task: str, results: dict, groups: dict, which: str = "effective") -> int | None:
    """How many questions were asked, or there were ("original"); of a group, of all its tasks."""
    if task in groups:
        sizes = [_questions(member, results, {}, which) for member in groups[task]]
        return None if None in sizes else sum(sizes)
    counts = (results.get("n-samples") or {}).get(task)
    if isinstance(counts, dict) and _is_number(counts.get(which)):
        return int(counts[which])
    size = results["results"].get(task, {}).get("sample_len")
    return int(size) if _is_number(size) else None


def questions(rows: Iterable[Row]) -> tuple[int, int] | None:
    """(fewest, most) questions that a task's printed values and standard errors can come from; None where they do not tell.

    A share p of n questions has the standard error √(p (1 − p) / (n − 1)) in the harness, and p is a whole number of n-ths.
    """
    possible = None
    for row in rows:
        if row.metric in SHARES and row.stderr not in (None, NONE) and row.value != NONE:
            found = _counts(row.value, row.stderr)
            if found is not None:
                possible = found if possible is None else possible & found
    return (min(possible), max(possible)) if possible else None


def _counts(value: str, error: str) -> set[int] | None:
    """All n for which value and error print as they do; None where too little was printed to tell."""
    digits = [len(text.partition(".")[2]) for text in (value, error)]
    p, e, half = float(value), float(error), 0.5 * 10.0 ** -digits[1]
    spread = 0.5 * 10.0 ** -digits[0]
    if not (0 < p < 1 and half < e):
        return None
    shares = [min(1.0, max(0.0, p + side * spread)) for side in (-1, 0, 1)]
    variances = [share * (1 - share) for share in shares]
    low, high = math.floor(min(variances) / (e + half) ** 2), math.ceil(max(variances) / (e - half) ** 2) + 1
    if high - low > 100_000:
        return None
    found = set()
    for n in range(max(2, low), high + 1):
        for right in {math.floor(p * n), math.ceil(p * n)}:
            share = right / n
            if f"{share:.{digits[0]}f}" == value and f"{math.sqrt(share * (1 - share) / (n - 1)):.{digits[1]}f}" == error:
                found.add(n)
    return found


def _published_questions(task: str, rows: dict, members: dict) -> tuple[int, int] | None:
    """Of a group the sums over its tasks: its pooled standard error leaves out what lies between them."""
    tasks = members.get(task, [task])
    found = [questions(row for (name, _, _), row in rows.items() if name == member) for member in tasks]
    return None if None in found else (sum(low for low, _ in found), sum(high for _, high in found))


def _compared(
    key: tuple, found: tuple | None, row: Row | None, rows: dict, members: dict, results: dict, groups: dict, notes: list
) -> Comparison:  # fmt: skip
    task, metric, chosen = key
    value, error = found or (None, None)
    published = row.value if row is not None and row.value != NONE else None
    published_error = row.stderr if row is not None and row.stderr != NONE else None
    tasks = ({task: members[task]} if task in members else {}) | groups
    asked, whole = (None if found is None else _questions(task, results, tasks, which) for which in ("effective", "original"))
    allowed = None if row is None else _published_questions(task, rows, members)
    difference = None if value is None or published is None else value - float(published)
    spread = None if error is None or published_error is None else math.hypot(error, float(published_error))
    if difference is not None and asked is not None and asked < (whole or 0):
        notes.append(f"{asked:,} of {whole:,} questions here")
    there_are = whole or asked
    if difference is not None and there_are is not None and allowed is not None and not allowed[0] <= there_are <= allowed[1]:
        there = f"{allowed[0]:,}" if allowed[0] == allowed[1] else f"{allowed[0]:,} to {allowed[1]:,}"
        notes.append(f"{there_are:,} questions here, {there} on the card")
    if difference is not None and not spread:
        missing = {"here": not error, "on the card": not float(published_error or 0)}
        notes.append(f"no standard error {' nor '.join(side for side, it_is in missing.items() if it_is)}")
    return Comparison(
        task=task, metric=metric, filter=chosen, ours=value, stderr=error, published=published, published_stderr=published_error,
        difference=difference, standard_errors=difference / spread if difference is not None and spread else None,
        questions=asked, published_questions=allowed, notes=tuple(notes),
    )  # fmt: skip
