"""The harness's own tasks, with their data from the hub or from files of the same form.

    DIR/haerae/general_knowledge/test.jsonl        history, loan_words, rare_words, standard_nomenclature
    DIR/kobest/boolq/train.jsonl, test.jsonl       copa, hellaswag, sentineg, wic; few-shot examples come from train
    DIR/kmmlu/Law/dev.jsonl, test.jsonl            a folder for each subject; few-shot examples come from dev

A folder for each configuration, a file for each split, .jsonl or .parquet. Prompts, answers, metrics and versions stay the
harness's: of a task's definition only dataset_path, dataset_name and dataset_kwargs change.

`PRACTICE` is such a directory: some questions of our own in each form, to try all of this on. They are no benchmark.
"""

import contextlib
import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import lm_eval
import lm_eval.api.task
import pyarrow
import pyarrow.parquet
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory

from openko.errors import InputError
from openko.evaluation.forgetting import json_lines

PRACTICE = Path(__file__).parent / "practice"
PRACTICE_DATA = "practice"  # what results call it
FAMILIES = ("haerae", "kmmlu", "kobest")  # folders of the harness that are indexed first: all of its 14,000 files take many seconds
TEXT = "text"
CELL = "text or number"  # of a table without types: "12" is a number there, and an empty cell is null
YES_NO = (0, 1)


@dataclass(frozen=True)
class Form:
    """What records of a data set look like. folder: in --data-dir. fields: {name: TEXT, CELL, or the values it may have}."""

    folder: str
    fields: dict[str, object]

    def describe(self) -> str:
        return ", ".join(
            f"{name} ({kind if isinstance(kind, str) else ', '.join(map(str, kind[:-1])) + ' or ' + str(kind[-1])})"
            for name, kind in self.fields.items()
        )


HAERAE = Form("haerae", {"query": TEXT, "answer": ("(A)", "(B)", "(C)", "(D)", "(E)")})
KMMLU = Form("kmmlu", {"question": TEXT, "A": CELL, "B": CELL, "C": CELL, "D": CELL, "answer": (1, 2, 3, 4)})
KOBEST = {
    "boolq": Form("kobest", {"paragraph": TEXT, "question": TEXT, "label": YES_NO}),
    "copa": Form(
        "kobest", {"premise": TEXT, "question": ("원인", "결과"), "alternative_1": TEXT, "alternative_2": TEXT, "label": YES_NO}
    ),
    "hellaswag": Form(
        "kobest", {"context": TEXT, "ending_1": TEXT, "ending_2": TEXT, "ending_3": TEXT, "ending_4": TEXT, "label": (0, 1, 2, 3)}
    ),
    "sentineg": Form("kobest", {"sentence": TEXT, "label": YES_NO}),
    "wic": Form("kobest", {"word": TEXT, "context_1": TEXT, "context_2": TEXT, "label": YES_NO}),
}  # fmt: skip


def form_of(dataset_path: str, dataset_name: str | None) -> Form | None:
    """The form of a data set that --data-dir can replace; None for any other."""
    if dataset_path == "HAERAE-HUB/HAE_RAE_BENCH":
        return HAERAE
    if dataset_path == "HAERAE-HUB/KMMLU":
        return KMMLU
    return KOBEST.get(dataset_name) if dataset_path == "skt/kobest_v1" else None


def load(names: Sequence[str], *, data_dir: Path | None = None, num_fewshot: int | None = None) -> dict:
    """The harness's tasks and groups by their names, as its `TaskManager.load` gives them.

    data_dir: where the data lie, in the layout above; by default the harness gets them from the hub. num_fewshot: how many examples
    a prompt will hold, so that a file with too few is refused now. Refused too: unknown names, missing files, files of another form.
    """
    manager = _manager(names)
    manager._factory = _Factory(None if data_dir is None else Path(data_dir))
    # kobest names a scorer on the hub that the harness would fetch and, for multiple choice, never call.
    fetch = lm_eval.api.task.get_metric
    with mock.patch.object(lm_eval.api.task, "get_metric", lambda name, hub=False: None if hub else fetch(name)):
        try:
            loaded = manager.load(list(dict.fromkeys(names)))
        except ValueError as problem:
            if "Duplicate task" not in str(problem):
                raise
            raise InputError(f"{problem}: name the group or the task, not both") from None
    for name, task in loaded["tasks"].items():
        _check_examples(name, task, num_fewshot)
    return loaded


def is_practice(data_dir: Path) -> bool:
    return Path(data_dir).resolve() == PRACTICE.resolve()


def _manager(names: Sequence[str]) -> TaskManager:
    if not names:
        raise InputError("no task was named: --tasks haerae,kobest_copa")
    root = Path(lm_eval.__file__).parent / "tasks"
    manager = TaskManager(include_defaults=False, include_path=[root / family for family in FAMILIES])
    unknown = [name for name in names if name not in manager.task_index]
    if unknown and not unknown[0].startswith(FAMILIES):
        manager = TaskManager()
        unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        near = difflib.get_close_matches(unknown[0], manager.all_tasks, n=3, cutoff=0.6)
        raise InputError(
            f"the harness ({lm_eval.__version__}) has no task {unknown[0]!r}"
            + (f"; did you mean {' or '.join(near)}?" if near else ": haerae, kmmlu_direct and kobest are the card's")
        )
    return manager


class _Factory(TaskFactory):
    """Builds the harness's tasks over files of a directory, or says what is missing where the data cannot be had."""

    def __init__(self, data_dir: Path | None):
        super().__init__()
        self._data_dir = data_dir

    def _build_task(self, entry, overrides):
        config = entry.cfg or {}
        path, name = config.get("dataset_path"), config.get("dataset_name")
        form = form_of(path, name)
        if self._data_dir is not None:
            if form is None:
                raise InputError(
                    f"task {entry.name}: --data-dir serves haerae, kmmlu, kmmlu_direct and kobest; this one's data ({path}) "
                    "come from the hub"
                )
            overrides = (overrides or {}) | local_fields(self._data_dir, entry.name, config, form)
        import datasets

        try:
            return super()._build_task(entry, overrides)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as problem:
            reason = str(problem).strip().split("\n")[0][:200]
            if self._data_dir is not None:
                where = self._data_dir / form.folder / str(name)
                raise InputError(f"task {entry.name}: the files in {where} cannot be read together ({reason}): one type a field") from None
            way = "" if form is None else f", or lay files of its form into a folder and name that with --data-dir: {_wanted(config, form)}"
            raise InputError(f"task {entry.name}: its data ({path}, {name}) could not be had ({reason}): {_advice(problem)}{way}") from None


def _advice(problem: Exception) -> str:
    """What to do where a data set did not come, by why it did not."""
    told, kinds = str(problem).lower(), {kind.__name__ for kind in type(problem).__mro__}
    if "script" in told and isinstance(problem, RuntimeError | ValueError):
        return "this version of datasets runs no loading script, so it cannot be had from the hub"
    if "gated" in told or "GatedRepoError" in kinds or "401 client" in told or "403 client" in told:
        return "ask for access on its page of the hub, and log in (hf auth login)"
    if {"DatasetNotFoundError", "RepositoryNotFoundError"} & kinds or "doesn't exist on the hub" in told:
        return "the hub has no data set of this name, or none that you may see"
    if isinstance(problem, OSError):
        return "check the network"
    return "the data set is not what the harness expects"


def local_fields(data_dir: Path, task: str, config: dict, form: Form) -> dict:
    """The three fields of a task's definition that name its data, for files under `data_dir`; the files are read and checked."""
    folder = data_dir / form.folder / (config.get("dataset_name") or "default")
    splits = {config.get(f"{part}_split") for part in ("training", "validation", "test", "fewshot")} - {None}
    files = {split: found for split in sorted(splits) if (found := _file(task, folder, split)) is not None}
    for split in (config.get("test_split"), config.get("fewshot_split") or config.get("training_split") or config.get("test_split")):
        if split not in files:
            raise InputError(
                f"task {task}: {folder / split}.jsonl does not exist (nor .parquet); it needs records with the fields {form.describe()}"
            )
    if len({path.suffix for path in files.values()}) > 1:
        raise InputError(f"task {task}: {folder} has .jsonl and .parquet files: keep one kind")
    for path in files.values():
        _check(path, form)
    kind = "json" if next(iter(files.values())).suffix == ".jsonl" else "parquet"
    return {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": {"data_files": {s: str(p) for s, p in files.items()}}}


def _wanted(config: dict, form: Form) -> str:
    splits = (config.get("fewshot_split") or config.get("training_split"), config.get("test_split"))
    folder = f"{form.folder}/{config.get('dataset_name')}"
    return " and ".join(f"{folder}/{split}.jsonl" for split in dict.fromkeys(splits) if split) + f" with {form.describe()}"


def _file(task: str, folder: Path, split: str) -> Path | None:
    found = [path for path in (folder / f"{split}.jsonl", folder / f"{split}.parquet") if path.is_file()]
    if len(found) > 1:
        raise InputError(f"task {task}: {found[0]} and {found[1].name} are both there: keep one of them")
    return found[0] if found else None


def records(path: Path) -> list[dict]:
    """The records of a .jsonl or .parquet file."""
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        return list(json_lines(path))
    except (ValueError, pyarrow.ArrowException) as problem:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path} cannot be read: {problem}") from None


def _check(path: Path, form: Form) -> None:
    rows = records(path)
    if not rows:
        raise InputError(f"{path} holds no record; it needs records with the fields {form.describe()}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, record {number}: an object with named fields is needed, found {type(row).__name__}")
        for name, kind in form.fields.items():
            if name not in row:
                raise InputError(f"{path}, record {number}: no field {name!r}, found {', '.join(map(str, row))}; needed: {form.describe()}")
            value = row[name].strip() if isinstance(row[name], str) else row[name]  # copa's 원인 and 결과 come with blanks
            if isinstance(kind, str):
                good = isinstance(value, str) or (kind == CELL and type(value) in (int, float, type(None)))
            else:
                good = value in kind and type(value) is type(kind[0])
            if not good:
                raise InputError(f"{path}, record {number}: {name} is {row[name]!r}; needed: {form.describe()}")


def _check_examples(name: str, task, num_fewshot: int | None) -> None:
    wanted = num_fewshot if num_fewshot is not None and task.get_config("num_fewshot") != 0 else task.get_config("num_fewshot") or 0
    if not wanted:
        return
    config = task.config
    if task.fewshot_cfg.split is not None:
        source = task.fewshot_cfg.split
    elif task.fewshot_cfg.samples is not None:
        source = None
    else:
        source = config.training_split or config.validation_split or config.test_split
    same = source is not None and source == config.test_split
    have = len(list(task.fewshot_docs()))
    if have < wanted + same:  # a question is no example of itself
        raise InputError(f"task {name}: {have} questions to take {wanted} examples from{' besides the one asked' if same else ''}: too few")


def texts(task) -> list[dict]:
    """The questions of a task as they lie in its data, before the harness makes prompts of them."""
    return [dict(row) for row in task.dataset[task.config.test_split or task.config.validation_split]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the harness and its libraries log, count in bars and print stays away; what goes to stdout goes to stderr."""
    import logging

    import datasets
    import tqdm
    import transformers

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers", "evaluate", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars, init = datasets.is_progress_bar_enabled(), tqdm.std.tqdm.__init__
    said = transformers.utils.logging.get_verbosity()

    def silent(self, *args, **kwargs):
        init(self, *args, **kwargs | {"disable": True})

    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        with mock.patch.object(tqdm.std.tqdm, "__init__", silent), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers.utils.logging.set_verbosity(said)
        if bars:
            datasets.enable_progress_bars()
