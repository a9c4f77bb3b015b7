"""A directory ready for the Hub: written under a temporary name, audited there, and only then called what it is called."""

import datetime
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openko
from openko import hf_weights, manifest, tokenizers
from openko.errors import InputError
from openko.release import auditing, benchmarks, card, configs, hub, licences, lineage, weights
from openko.release.lineage import Descent, Origin
from openko.rope_lab import directory as rope_directory
from openko.rope_lab import windows

SHARD_BYTES = 5_000_000_000
LICENCES_OF_LLAMA = "llama"


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """All that is known before the first byte is written."""

    source: Path
    names: list[str]
    tensors: hf_weights.Tensors
    carried: dict
    tokenizer: tokenizers.Tokenizer
    origin: Origin
    facts: card.Facts


def release(
    directory: Path, out: Path, *, name: str, author: str = "", parent: str | None = None, base_model: str | None = None, licence: str = "",
    repository: str = "", results: Path | None = None, text: Path | None = None, shard_bytes: int = SHARD_BYTES, year: int | None = None,
    say: Callable[[str], None] = print,
) -> manifest.Manifest:  # fmt: skip
    """Write the model directory `directory` to `out` with all that readers and the licence ask for.

    name: what the model is called; author: for card and citation. parent: the directory of the Llama model from which it descends,
    with its LICENSE and USE_POLICY.md, or "none"; by default what the manifests say. base_model: the parent's name on the Hub,
    where its directory does not tell. licence: the Hub's id, for a model without a Llama parent. repository: "NAME/MODEL" on the
    Hub, for sample usage and citation. results: what lm-evaluation-harness wrote. text: for the diagnosis of RoPE. shard_bytes: of
    a file of weights, at most (one tensor at least). year: of the citation; this year by default.

    The manifest's facts hold the audit. Raises InputError, and leaves nothing behind, where the name breaks the licence, fields of
    the card are missing, the directory is not whole, or the audit fails.
    """
    if text is not None:
        windows.read_text(text)
    ready = _prepare(
        Path(directory), name=name, author=author, parent=parent, base_model=base_model, licence=licence, repository=repository,
        results=results, year=year or datetime.date.today().year,
    )  # fmt: skip
    recipe = _recipe(ready, results, text, shard_bytes)

    def make(partial: Path) -> dict:
        try:
            return _make(partial, ready, text=text, shard_bytes=shard_bytes, say=say)
        except InputError:
            shutil.rmtree(partial)  # a release that was refused is not half a release
            raise

    return manifest.build(
        out, kind=hf_weights.KIND, recipe={"release": recipe}, inputs={"model": ready.source}, module="openko.release", make=make, say=say
    )


def _prepare(
    source: Path, *, name: str, author: str, parent: str | None, base_model: str | None, licence: str, repository: str,
    results: Path | None, year: int,
) -> _Ready:  # fmt: skip
    """Everything that can be refused without writing."""
    if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", name):
        raise InputError(f"--name {name!r} is no name: letters, digits, single spaces, - _ and .")
    tensors = rope_directory.open_directory(source).tensors  # a directory half there is named as such first
    config, carried = hf_weights.read_config(source)
    names = hf_weights.check_tensors(tensors, config)
    if not (source / "tokenizer.json").is_file():
        raise InputError(f"{source / 'tokenizer.json'} does not exist: transformers' AutoTokenizer reads other forms and saves this one")
    tokenizer = tokenizers.load(source)
    configs.check_vocabulary(source, configs.largest_id(tokenizer), config.vocab_size)
    configs.terminators(tokenizer)
    if (source / manifest.NAME).is_file():
        manifest.read(source, hf_weights.KIND)
    origin = lineage.trace(source)
    descent = lineage.descent(origin, parent)
    _check_name(name, descent)
    if repository:
        hub.check_repository("--repo", repository)
        _check_name(repository.split("/")[1], descent)  # the name that people see is held to the same rules
    if base_model is not None:
        hub.check_repository("--base-model", base_model)
    parents = _parents(origin, descent, base_model)
    _check_fields(author=author, licence=licence, descent=descent, parents=parents)
    dtypes = {str(tensors.info[tensor].dtype) for tensor in names}
    if len(dtypes) > 1:
        raise InputError(f"{source}: tensors of several dtypes ({', '.join(sorted(dtypes))}): a release has one")
    facts = card.Facts(
        name=name, author=author, year=year, licence=licence if descent.parent is None else descent.parent.terms.hub,
        repository=repository, parents=parents, config=config, dtype=dtypes.pop(), chats=_chats(source, carried, tokenizer), origin=origin,
        descent=descent, benchmarks=benchmarks.read(results) if results else None,
    )  # fmt: skip
    return _Ready(source=source, names=names, tensors=tensors, carried=carried, tokenizer=tokenizer, origin=origin, facts=facts)


def _check_name(name: str, descent: Descent) -> None:
    if descent.parent is None:
        licences.check_name_of_exempt(name)
    else:
        descent.parent.terms.check_name(name)


def _parents(origin: Origin, descent: Descent, base_model: str | None) -> tuple[str, ...]:
    """Names on the Hub: as told, else those of the Llama directories, where they are called as Meta or the Hub's cache calls them."""
    if base_model:
        return (base_model,)
    if descent.parent is None:
        return ()
    llamas = [root.path for root in origin.roots if root.manifest is None and licences.is_llama(root.path)]
    named = [lineage.hub_name(path) for path in (*llamas, descent.parent.directory)]
    return tuple(dict.fromkeys(filter(None, named)))


def _check_fields(*, author: str, licence: str, descent: Descent, parents: tuple[str, ...]) -> None:
    missing = [] if author.strip() else ["--author, who answers for the model"]
    if len(author.splitlines()) > 1:
        raise InputError(f"--author {author!r}: write it on one line")
    if descent.parent is None and not licence:
        missing.append("--licence, an id of the Hub such as apache-2.0: there is no Llama parent, so the choice is yours")
    if descent.parent is not None and licence not in ("", descent.parent.terms.hub):
        raise InputError(
            f"--licence {licence}: a model that descends from Llama is under its licence, {descent.parent.terms.hub}: leave it out"
        )
    if descent.parent is None and licence.lower().startswith(LICENCES_OF_LLAMA):
        raise InputError(f"--licence {licence}: this model has no Llama parent ({descent.how}); if it has, give --parent DIR")
    if descent.parent is not None and not parents:
        missing.append("--base-model, the parent's name on the Hub such as meta-llama/Meta-Llama-3-8B")
    if missing:
        raise InputError(f"the model card lacks fields: {'; '.join(missing)}")


def _chats(source: Path, carried: dict, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a model was taught to end its turns: its directory ends generation on <|eot_id|>."""
    found = (hf_weights.read_generation_config(source) or {}).get("eos_token_id", carried.get("eos_token_id"))
    return tokenizer[tokenizers.TURN_END] in (found if isinstance(found, list) else [found])


def _recipe(ready: _Ready, results: Path | None, text: Path | None, shard_bytes: int) -> dict:
    """What shapes a release beside the model: the card's fields, the licence's files, evaluation, where it came from."""
    facts, parent = ready.facts, ready.facts.descent.parent
    files = {} if parent is None else {path.name: manifest.file_hash(path) for path in (parent.licence, parent.policy)}
    return {
        "name": facts.name, "author": facts.author, "year": facts.year, "licence": facts.licence, "repository": facts.repository,
        "parents": facts.parents, "descent": facts.descent.how, "verbatim": files, "shard_bytes": shard_bytes,
        "results": manifest.file_hash(results) if results else None, "text": manifest.file_hash(text) if text else None,
        "lineage": manifest.digest(lineage.public(ready.origin)),
    }  # fmt: skip


def _make(partial: Path, ready: _Ready, *, text: Path | None, shard_bytes: int, say: Callable[[str], None]) -> dict:
    facts = ready.facts
    for path in partial.iterdir():  # of a run that was cut off
        if path.name != manifest.MARK:
            path.unlink()
    how = weights.carry(ready.tensors, ready.names, partial, shard_bytes=shard_bytes, say=say)
    notes = configs.write(
        partial, source=ready.source, config=facts.config, carried=ready.carried, dtype=facts.dtype, tokenizer=ready.tokenizer
    )
    if facts.benchmarks and facts.benchmarks.model and _is_another(Path(facts.benchmarks.model), ready.source):
        notes.append(f"the benchmarks are those of {Path(facts.benchmarks.model).name}, not of {ready.source.name}: is it the same model?")
    for note in notes:
        say(note)
    verbatim = _licence_files(partial, facts.descent)
    (partial / auditing.CARD).write_text(card.write(facts), encoding="utf-8")
    manifest.write_json(partial / auditing.PROVENANCE, _provenance(partial, ready, verbatim, notes))
    found = auditing.audit(partial, text=text, say=say)
    if not found["passed"]:
        failed = "; ".join(f"{name}: {check['reason']}" for name, check in found["checks"].items() if check["status"] == auditing.FAIL)
        message = f"{ready.source} does not pass its audit, and nothing was written: {failed}"
        raise InputError(message.replace(str(partial.resolve()), str(ready.source.resolve())))  # in the command that repairs
    return {"audit": found, "weights": how, "notes": notes}


def _is_another(model: Path, source: Path) -> bool:
    return model.is_dir() and not model.samefile(source)


def _licence_files(partial: Path, descent: Descent) -> dict[str, str]:
    """Licence and policy byte for byte, and the notice; {name: sha256} of the copies."""
    if descent.parent is None:
        return {}
    parent = descent.parent
    for path in (parent.licence, parent.policy):
        (partial / path.name).write_bytes(path.read_bytes())
    (partial / licences.NOTICE).write_text(parent.terms.notice + "\n", encoding="utf-8")
    return {path.name: manifest.file_hash(partial / path.name) for path in (parent.licence, parent.policy)}


def _provenance(partial: Path, ready: _Ready, verbatim: dict[str, str], notes: list[str]) -> dict:
    """What goes to the Hub in place of the manifest, whose paths are this machine's."""
    facts, parent = ready.facts, ready.facts.descent.parent
    return {
        "made_by": "openko release",
        "name": facts.name,
        "openko": {"version": _version(), "revision": _revision(), "code": manifest.code_fingerprint("openko.release")},
        "descent": {"licence": parent.terms.hub if parent else None, "how": facts.descent.how, "parents": facts.parents},
        "verbatim": verbatim,
        "notes": [note.replace(str(ready.source), ready.origin.name) for note in notes],
        "lineage": lineage.public(ready.origin),
        "files": manifest.hash_files(partial),
    }


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("openko")
    except metadata.PackageNotFoundError:
        return "unknown"


def _revision() -> str | None:
    """The git revision of the code, where it runs from a checkout."""
    root = Path(openko.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def as_record(out: Path, made: manifest.Manifest) -> dict:
    """What a command prints of a release."""
    return {
        "out": str(out), "name": made.recipe["release"]["name"], "licence": made.recipe["release"]["licence"],
        "files": len(made.files), "bytes": sum(entry["bytes"] for entry in made.files.values()), "weights": made.facts["weights"],
        **json.loads(json.dumps(made.facts["audit"])),
    }  # fmt: skip
