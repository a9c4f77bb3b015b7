"""The harness's tasks asked of a model directory, and what must stand beside the scores: where the questions came from, which
prompts did not fit, whether the training text held the questions."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import lm_eval
import numpy as np
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable, make_table

from openko import tokenizers
from openko.errors import InputError
from openko.evaluation import tasks
from openko.evaluation.contamination import Status, contamination
from openko.evaluation.harness import OpenkoLM

SEED = DEFAULT_OTHER_SEED  # of the few-shot examples, the harness's default
KEYS = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")  # the harness's


def score(
    directory: Path, names: Sequence[str], *, num_fewshot: int | None = None, limit: int | None = None, data_dir: Path | None = None,
    corpus: Path | None = None, apply_chat_template: bool = False, seed: int = SEED, say: Callable[[str], None] = print,
    model: Callable[..., object] = OpenkoLM,
) -> dict:  # fmt: skip
    """The harness's results ("results", "groups", "versions", "n-shot", "n-samples", …), plain JSON, and under "openko" ours.

    num_fewshot: examples in each prompt; by default the task's own number. limit: the first so many questions of each task.
    data_dir: as in `tasks.load`. corpus: a built corpus directory to look for the questions in. seed: of the choice of examples
    (of draws too, where a task samples). model: makes the model; its only argument beside `seed` and `say` is the directory.
    apply_chat_template: each example is then a turn of its own, as by the harness's default. Python's and numpy's random states are
    set as the harness sets them before it loads tasks, for some choose their questions by them.

    "openko": {"model", "data", "dtype", "seconds", "context", "seed", "apply_chat_template", "fewshot_as_multiturn",
    "truncated": {task: questions whose prompt lost its beginning}, "contamination": {task: Status as a dict, or null where no corpus
    was given}}.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1 question, found {limit}")
    if num_fewshot is not None and num_fewshot < 0:
        raise InputError(f"--num-fewshot must be at least 0, found {num_fewshot}")
    began = time.monotonic()
    with tasks.quiet():
        lm = model(directory, seed=seed, say=say)
        if apply_chat_template and not tokenizers.chat_template(directory):
            raise InputError(f"{directory} has no chat template: take the directory of a chat model, or leave out --apply-chat-template")
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        loaded = tasks.load(names, data_dir=data_dir, num_fewshot=num_fewshot)
        _prepare(loaded["tasks"], num_fewshot, seed)
        _check_answers(lm, loaded["tasks"])
        seen: dict[str, Status | None] = dict.fromkeys(loaded["tasks"])
        if corpus is not None:
            seen = dict(contamination(corpus, {name: tasks.texts(task) for name, task in loaded["tasks"].items()}, say=say))
        found = evaluate(
            lm=lm, task_dict=loaded, limit=limit, log_samples=False, apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
        )  # fmt: skip
    results = {key: found[key] for key in KEYS if key in found} | {"lm_eval_version": lm_eval.__version__}
    results["openko"] = {
        "model": str(directory),
        "data": "hub" if data_dir is None else tasks.PRACTICE_DATA if tasks.is_practice(data_dir) else str(data_dir),
        "dtype": str(getattr(lm, "dtype", None)),
        "context": lm.max_length,
        "seed": seed,
        "apply_chat_template": apply_chat_template,
        "fewshot_as_multiturn": apply_chat_template,
        "truncated": dict(Counter(task for task, _ in sorted(getattr(lm, "truncated", ())))),
        "contamination": {name: None if status is None else asdict(status) for name, status in seen.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    return json.loads(json.dumps(results, default=handle_non_serializable, ensure_ascii=False))


def _prepare(loaded: dict, num_fewshot: int | None, seed: int) -> None:
    """What the harness does between loading tasks and asking: the number of examples, and the seed they are chosen by."""
    for task in loaded.values():
        own = task.get_config("num_fewshot")
        if own != 0:  # a task that says 0 itself means it
            task.set_config(key="num_fewshot", value=num_fewshot if num_fewshot is not None else own or 0)
        task.set_fewshot_seed(seed=seed)


def _check_answers(lm, loaded: dict) -> None:
    """Refuse before anything is asked what would fail only after every log-likelihood."""
    for name, task in loaded.items():
        if isinstance(lm, OpenkoLM) and task.get_config("output_type") == "generate_until":
            try:
                lm.settings(dict(task.get_config("generation_kwargs") or {}))
            except InputError as problem:
                raise InputError(f"task {name}: {problem}") from None


def report(results: dict) -> str:
    """The harness's own tables, a last column telling what is known of the questions in the training text, and what else to know."""
    texts = []
    for column in ("results", "groups"):
        if results.get(column):
            texts.append(_with_status(make_table(results, column), results))
    ours = results["openko"]
    notes = []
    if ours["data"] == tasks.PRACTICE_DATA:
        notes.append("These are openko's practice questions in the benchmarks' form, a handful for each task, and not the benchmarks.")
    groups = results.get("group_subtasks", {})
    below = {member for members in groups.values() for member in members}
    for name in (name for name in results["results"] if name not in below):
        asked = set(_leaves(name, groups))
        if count := sum(ours["truncated"].get(task, 0) for task in asked):
            total = sum(results["n-samples"][task]["effective"] for task in asked)
            longer = f"longer than the context of {ours['context']:,} tokens"
            notes.append(f"{name}: {count:,} of {total:,} prompts were {longer} and lost their beginning.")
    if all(status is None for status in ours["contamination"].values()):
        notes.append("in training: not checked; --corpus DIR looks for the questions in the corpus a model was trained on.")
    return "\n\n".join([*texts, "\n".join(notes)]).rstrip()


def _with_status(table: str, results: dict) -> str:
    lines = table.rstrip("\n").split("\n")
    names = {**results["results"], **results.get("groups", {})}
    aliases = {entry.get("alias", name).strip(" -"): name for name, entry in names.items()}
    cells = ["in training", None]
    for line in lines[2:]:
        shown = line.split("|")[1].strip(" -")
        cells.append(_status(aliases.get(shown, shown), results) if shown else "")
    width = max(len(cell) for cell in cells if cell is not None)
    return "\n".join(
        line + (f"{cell:<{width}}|" if cell is not None else "-" * width + "|") for line, cell in zip(lines, cells, strict=True)
    )


def _status(name: str, results: dict) -> str:
    known = results["openko"]["contamination"]
    members = list(_leaves(name, results.get("group_subtasks", {})))
    found = [known[member] for member in members if known.get(member) is not None]
    if not found:
        return "not checked"
    return str(Status(*(sum(status[field] for status in found) for field in ("questions", "looked_for", "found", "documents"))))


def _leaves(name: str, groups: dict[str, list[str]]) -> Iterator[str]:
    if not groups.get(name):
        yield name
    for member in groups.get(name, ()):
        yield from _leaves(member, groups)
