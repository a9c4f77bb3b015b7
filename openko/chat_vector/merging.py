"""Three model directories in, the fourth out; or only the numbers."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from openko import hf_weights, manifest, tokenizers
from openko.chat_vector import norms, streaming
from openko.chat_vector.arithmetic import WHOLE, check_method, effective
from openko.chat_vector.models import Addition, Models, identity
from openko.errors import InputError
from openko.hf_weights import PlannedFile
from openko.profiles import VectorScale
from openko.progress import bar_stream

SHARD_BYTES = 5_000_000_000
MOST_WORKERS = 8


def merge(
    out: Path, *, target: Path, base: Path, chat: Path, scale: float = 1.0, parts: VectorScale = WHOLE, method: str = "add",
    shard_bytes: int = SHARD_BYTES, workers: int | None = None, say=print,
) -> manifest.Manifest:  # fmt: skip
    """Write the model directory `out` = target + scale × (chat − base), in the target's dtypes.

    scale: λ. parts: its share for each part of the model, and how the rows of the chat format's special tokens are made.
    method: "add", or "damped" (openko.chat_vector.arithmetic.Damping). shard_bytes: of a file of weights, at most (one
    tensor at least). workers: threads; by default one for each core, 8 at most.

    Computed in fp32 and rounded once. config.json is the target's; generation_config, tokenizer and chat template are the
    chat model's (where the vocabularies differ: the target's, with the chat model's template). Cut off, it goes on when
    called again: what the journal says is written is compared with what lies there, and only the rest is made. The
    manifest's facts hold the norms by layer (`norms.table`), the hashes of all tensors and the warnings that were given.
    """
    check_method(method)
    lambdas, workers = effective(scale, parts), _threads(workers)
    models = Models.open(target=target, base=base, chat=chat)
    additions = models.additions(lambdas)

    def make(partial: Path) -> manifest.Made:
        texts = _texts(models)
        _write_texts(partial, models, texts)
        warnings = _Warnings(additions, models, texts, say)
        files = _plan(partial, additions, shard_bytes)
        hf_weights.write_index(partial, files)
        journal = streaming.Journal(partial / manifest.SCRATCH / "tensors.jsonl")
        _check_space(partial, files)
        try:
            with _progress(Path(out).name, additions) as progress:
                passed = streaming.run(additions, method=method, workers=workers, files=files, journal=journal, progress=progress)
        finally:
            journal.close()
        return manifest.Made(_facts(additions, passed, files, warnings.after(passed)), passed.files)

    recipe = {"method": method, "scale": {k: v for k, v in asdict(lambdas).items() if k != "special"}, "special": lambdas.special}
    return manifest.build(
        out, kind=hf_weights.KIND, recipe=recipe | {"shard_bytes": shard_bytes}, inputs={"target": target, "base": base, "chat": chat},
        module="openko.chat_vector", make=make, say=say, identify=identity,
    )  # fmt: skip


def survey(
    *, target: Path, base: Path, chat: Path, scale: float = 1.0, parts: VectorScale = WHOLE, method: str = "add",
    shard_bytes: int = SHARD_BYTES, workers: int | None = None, say=print,
) -> dict:  # fmt: skip
    """What `merge` would do and warn of, and how large the vector is; reads all weights and writes nothing.

    method: checked alone, for the norms are those of the vector before damping.
    {"files": {name: bytes}, "bytes", "vector_norm", "target_norm", "norms": `norms.table`, "tensors": `norms.of_tensors`,
    "warnings"}.
    """
    check_method(method)
    models = Models.open(target=target, base=base, chat=chat)
    additions = models.additions(effective(scale, parts))
    warnings = _Warnings(additions, models, _texts(models), say)
    with _progress("survey", additions) as progress:
        passed = streaming.run(additions, workers=_threads(workers), progress=progress)
    files = _plan(Path(), additions, shard_bytes)
    facts = _facts(additions, passed, files, warnings.after(passed))
    return (
        {"files": {file.path.name: file.bytes for file in files}, "tensors": norms.of_tensors(additions, passed.done)}
        | {name: facts[name] for name in ("bytes", "vector_norm", "target_norm", "norms", "warnings")}
    )  # fmt: skip


def check(*, target: Path, base: Path, chat: Path, parts: VectorScale = WHOLE) -> None:
    """Refuse what `merge` refuses, and an embedding that it would leave alone, without reading a weight."""
    additions = Models.open(target=target, base=base, chat=chat).additions(effective(1.0, parts))
    left = [addition.name for addition in additions if addition.base is None]
    if left:
        raise InputError(
            f"{', '.join(left)} of {target}, {base} and {chat} have other shapes, or rows of other tokens: only `openko merge` "
            "can leave them as they are"
        )


class _Warnings:
    """What a person should know, said as soon as it is known: at once what directories and a sample of the weights tell."""

    def __init__(self, additions: list[Addition], models: Models, texts: "_Texts", say: Callable[[str], None]):
        self.additions, self.models, self.say = additions, models, say
        self.of_directories = [*_directory_warnings(models), *texts.warnings]
        self.early = norms.look(additions, models)
        for text in (*self.of_directories, *self.early.values()):
            say(f"warning: {text}")

    def after(self, passed: streaming.Passed) -> list[str]:
        """All of them, once all weights are read: the numbers are then the whole's where the sample had the same suspicion."""
        late = norms.judge(norms.total(self.additions, passed.done, "attention", "mlp"), self.models)
        for kind in late.keys() - self.early.keys():
            self.say(f"warning: {late[kind]}")
        return [*self.of_directories, *(self.early | late).values()]


def _threads(workers: int | None) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, found {workers}")
    return workers or min(usable, MOST_WORKERS)


def _plan(directory: Path, additions: list[Addition], shard_bytes: int) -> list[PlannedFile]:
    """Embedding and lm_head first: while the last tensor is read back, one thread works alone, and those are the largest."""
    order = sorted(additions, key=lambda a: a.part != "embed")
    return hf_weights.plan_files(directory, [(a.name, a.target.dtype, a.target.shape) for a in order], shard_bytes=shard_bytes)


def _check_space(partial: Path, files: list[PlannedFile]) -> None:
    """Before the work and not after most of it; what an earlier attempt has written counts."""
    there = sum(file.path.stat().st_blocks * 512 for file in files if file.path.exists())
    needed = sum(file.bytes for file in files) - there
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise InputError(f"{partial.parent} has {free:,} bytes free, and {needed:,} more are needed: free some, and run again")


@contextmanager
def _progress(name: str, additions: list[Addition]) -> Iterator[Callable[[int], None]]:
    """A bar, in bytes of the target; what it gives is called with how many are through."""
    size = sum(a.target.bytes for a in additions)
    with tqdm(desc=name, total=size, unit="B", unit_scale=True, file=bar_stream(), mininterval=1.0, delay=1.0, leave=False) as bar:
        yield lambda through: bar.update(through - bar.n)


def _facts(additions: list[Addition], passed: streaming.Passed, files: list[PlannedFile], warnings: list[str]) -> dict:
    found, hashes = norms.total(additions, passed.done), {a.name: passed.done[a.name].hashes for a in additions}
    return {
        "vector_norm": math.sqrt(found.vector),
        "target_norm": math.sqrt(found.target),
        "bytes": sum(file.bytes for file in files),
        "norms": norms.table(additions, passed.done),
        # Of the weights as they were read: xxh3_128 of each tensor, and one digest of those for each model.
        "inputs_read": {role: _digest_of(role, hashes) for role in ("target", "base", "chat")},
        "tensor_hashes": {name: found.get("out") for name, found in hashes.items()},
        "warnings": warnings,
    }


def _digest_of(role: str, hashes: dict[str, dict[str, str]]) -> str:
    return manifest.digest({name: found[role] for name, found in hashes.items() if role in found})


# ── what is not weights ──────────────────────────────────────────────────────────────────────────────────────────


def _directory_warnings(models: Models) -> list[str]:
    target, chat = models.target, models.chat
    warnings = []
    ropes = {role: model.config.rope for role, model in models.all.items()}
    if len(set(ropes.values())) > 1:
        said = "; ".join(f"{role}: θ {rope.theta:,g}, {_scaling(rope)}" for role, rope in ropes.items())
        warnings.append(f"RoPE differs ({said}): the target's is written, and the vector was trained under another")
    epsilons = {role: model.config.rms_norm_eps for role, model in models.all.items()}
    if len(set(epsilons.values())) > 1:
        said = ", ".join(f"{role}: {epsilon:g}" for role, epsilon in epsilons.items())
        warnings.append(f"rms_norm_eps differs ({said}): the target's is written")
    if not (chat.path / "tokenizer.json").is_file():
        other = "the target's is taken" if (target.path / "tokenizer.json").is_file() else f"{target.path} has none either"
        warnings.append(f"{chat.path} has no tokenizer.json: {other}")
    if not tokenizers.chat_template(chat.path):
        warnings.append(f"{chat.path} has no chat template: the result will not know how a chat is written")
    if models.generation is None:
        ends = chat.carried.get("eos_token_id")
        warnings.append(f"{chat.path} has no generation_config.json: the end tokens are those of its config.json, {ends}")
    return warnings


def _scaling(rope) -> str:
    return "no scaling" if rope.scaling is None else f"scaled by {rope.scaling.factor:g}"


@dataclass(frozen=True)
class _Texts:
    """What is written beside the weights. ids: the tokens that config.json names; settings: generation_config.json, if any;
    template: the chat model's, where the tokenizer is the target's; warnings: what a person should know of them."""

    ids: dict
    settings: dict | None
    template: str
    warnings: list[str]


def _texts(models: Models) -> _Texts:
    # Llama-3-Instruct names its two end tokens in generation_config.json alone.
    settings = models.generation or {}
    ids = {k: v for k, v in (models.chat.carried | settings).items() if k.endswith("_token_id")}
    template, warnings = "", []
    if not models.one_vocabulary:
        ids, template, warnings = _chat_format_of_target(models, ids)
        settings = {k: v for k, v in settings.items() if not k.endswith("_token_id")} | ids
    # Others, such as decoder_start_token_id, are generation's alone, and config.json would be no plain Llama's with them.
    ids = {k: v for k, v in ids.items() if k in hf_weights.CARRIED}
    return _Texts(ids, None if models.generation is None else settings, template, warnings)


def _write_texts(partial: Path, models: Models, texts: _Texts) -> None:
    """Configs, tokenizer and chat template."""
    target, chat = models.target, models.chat
    if not models.one_vocabulary or not (chat.path / "tokenizer.json").is_file():
        tokenizers.copy_files(target.path, partial)
    if models.one_vocabulary:
        tokenizers.copy_files(chat.path, partial)
    elif texts.template:
        (partial / "chat_template.jinja").write_text(texts.template, encoding="utf-8")
    hf_weights.write_configs(partial, target.config, target.carried | texts.ids)
    if texts.settings is not None:
        content = json.dumps(texts.settings, indent=2, ensure_ascii=False) + "\n"
        (partial / "generation_config.json").write_text(content, encoding="utf-8")


def _chat_format_of_target(models: Models, ids: dict) -> tuple[dict, str, list[str]]:
    """For a target with a vocabulary of its own: the chat model's tokens' ids there, as far as they exist, and its template."""
    target, chat = models.target.path, models.chat.path
    if not all((path / "tokenizer.json").is_file() for path in (target, chat)):
        return {}, "", [f"without both tokenizers the chat format of {chat} cannot be written in the tokens of {target}: it is left out"]
    mine, theirs, warnings = tokenizers.load(target), tokenizers.load(chat), []
    absent = [token for token in theirs.special if token in theirs.chat_template and token not in mine.special]
    if absent:
        warnings.append(f"the tokenizer of {target} has no {', '.join(absent)}, which the chat template of {chat} uses: it is left out")
    names, found = {number: token for token, number in theirs.special.items()}, {}
    for key, value in ids.items():
        if value is None:
            continue
        wanted = [names.get(number) for number in (value if isinstance(value, list) else [value])]
        numbers = [mine.special[token] for token in wanted if token in mine.special]
        if len(numbers) < len(wanted):
            warnings.append(f"{key} of {chat} ({value}) has tokens that {target} does not know: only {numbers} is written")
        if numbers:
            found[key] = numbers if isinstance(value, list) else numbers[0]
    return found, "" if absent else theirs.chat_template, warnings
