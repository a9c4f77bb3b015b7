"""Where a model comes from, by the manifests of the directories that it was made from.

Manifests name their inputs by path and content. What is still there is followed; what is gone, or has changed since, is
said to be so and never guessed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from openko import manifest, tokenizers
from openko.errors import InputError
from openko.manifest import Manifest
from openko.release import licences
from openko.release.licences import Parent

# Inputs whose weights went into a model: of training, a merge, a repair.
MODELS = ("start", "target", "base", "chat", "source", "model")
MADE, FOREIGN, GONE, CHANGED = "made", "foreign", "gone", "changed"
META_FIRST_SPECIAL = 128_000  # id of <|begin_of_text|> in Meta's vocabulary: the 128,000 pieces come before it
META_NAMES = re.compile(r"(?:Meta-)?Llama-3(?:\.\d)?-\d+B(?:-Instruct)?")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A directory that something was made from. role: what it was there ("start", "data-0"); empty for the model itself.

    state: MADE with a manifest, FOREIGN without, GONE, or CHANGED since it was used. content: its hash when it was used."""

    role: str
    path: Path
    state: str
    content: str | None
    manifest: Manifest | None
    inputs: tuple["Origin", ...] = ()

    @property
    def name(self) -> str:
        return hub_name(self.path) or self.path.resolve().name

    @property
    def models(self) -> tuple["Origin", ...]:
        return tuple(origin for origin in self.inputs if origin.role in MODELS)

    @property
    def roots(self) -> tuple["Origin", ...]:
        """The models from which all others descend; one that was trained from fresh weights is its own root."""
        return tuple(root for model in self.models for root in model.roots) or (self,)


def trace(directory: Path) -> Origin:
    """The directory with all that its manifest names, and so on."""
    return _trace(Path(directory), role="", content=None, above=())


def _trace(path: Path, *, role: str, content: str | None, above: tuple[Path, ...]) -> Origin:
    if not path.is_dir() or path.resolve() in above:
        return Origin(role=role, path=path, state=GONE, content=content, manifest=None)
    if not (path / manifest.NAME).is_file():
        return Origin(role=role, path=path, state=FOREIGN, content=content, manifest=None)
    try:
        found = manifest.read(path)
    except InputError:
        if not role:
            raise
        return Origin(role=role, path=path, state=CHANGED, content=content, manifest=None)
    if content not in (None, found.content):
        return Origin(role=role, path=path, state=CHANGED, content=content, manifest=None)
    inputs = (
        _trace(_where(told["path"], path), role=name, content=told["content"], above=(*above, path.resolve()))
        for name, told in found.inputs.items()
    )
    return Origin(role=role, path=path, state=MADE, content=found.content, manifest=found, inputs=tuple(inputs))


def _where(told: str, user: Path) -> Path:
    """A path as a manifest tells it; a run that was moved as a whole keeps its directories beside each other."""
    path = Path(told)
    beside = user.parent / path.name
    return beside if not path.exists() and beside.exists() else path


def hub_name(path: Path) -> str | None:
    """ "meta-llama/Meta-Llama-3-8B" of a directory in the Hub's cache, or one that is called as Meta calls its models."""
    for part in Path(path).absolute().parts:
        if part.startswith("models--") and part.count("--") >= 2:
            return part.removeprefix("models--").replace("--", "/", 1)
    name = Path(path).absolute().name
    return f"meta-llama/{name}" if META_NAMES.fullmatch(name) else None


@dataclass(frozen=True, kw_only=True)
class Descent:
    """parent: the Llama that the licence asks about, None for an exempt model. how: how that is known, in words."""

    parent: Parent | None
    how: str


def descent(origin: Origin, told: str | None) -> Descent:
    """Whether a model descends from Llama, by its manifests or as told: a parent's directory, or "none".

    Refused where neither says it, and where the two contradict each other.
    """
    llamas = [root for root in origin.roots if root.state == FOREIGN and licences.is_llama(root.path)]
    if told not in (None, "none"):
        parent = licences.open_parent(Path(told))
        known = {licences.llama_version(licences.licence_file(root.path)) for root in llamas}
        if known and licences.llama_version(parent.licence) not in known:
            raise InputError(
                f"--parent {told} is under the licence of Llama {licences.llama_version(parent.licence)}, but {origin.path} was made from "
                f"{llamas[0].path}, which is under that of Llama {', '.join(sorted(map(str, known)))}: leave it out"
            )
        return Descent(parent=parent, how="told by the person who released it")
    if told == "none":
        if llamas:
            raise InputError(
                f"--parent none: but {llamas[0].path} carries a Llama licence, and {origin.path} was made from it: leave it out"
            )
        if _has_metas_tokenizer(origin.path):
            raise InputError(
                f"--parent none: but the tokenizer of {origin.path} is Meta's, which is under the Llama licence too: give "
                "--parent DIR, a directory with its LICENSE and USE_POLICY.md"
            )
        return Descent(parent=None, how="told by the person who released it")
    if llamas:
        parents = [licences.open_parent(root.path) for root in llamas]
        if len({parent.terms.hub for parent in parents}) > 1:
            raise InputError(
                f"{origin.path} descends from models of different licences ({', '.join(str(p.directory) for p in parents)}): say with "
                "--parent DIR whose goes with it"
            )
        return Descent(parent=parents[0], how="by the manifests of what it was made from")
    unknown = [root for root in origin.roots if root.state != MADE]
    if unknown:
        said = "; ".join(f"{root.path} {_STATES[root.state]}" for root in unknown)
        raise InputError(
            f"{origin.path}: whether it descends from Llama is not known ({said}): say --parent DIR, the Llama model with its LICENSE and "
            "USE_POLICY.md, or --parent none"
        )
    if _has_metas_tokenizer(origin.path):
        raise InputError(
            f"{origin.path} was trained from fresh weights, but its tokenizer is Meta's, which is under the Llama licence too: give "
            "--parent DIR, a directory with its LICENSE and USE_POLICY.md"
        )
    return Descent(parent=None, how="by the manifests of what it was made from: it began with fresh weights")


_STATES = {
    FOREIGN: "has no manifest and no Llama licence",
    GONE: "is no longer there",
    CHANGED: "has changed since it was used",
}


def _has_metas_tokenizer(directory: Path) -> bool:
    return tokenizers.load(directory).special.get(tokenizers.BEGIN) == META_FIRST_SPECIAL


# ── what may be said in public ───────────────────────────────────────────────────────────────────────────────────


# Facts of manifests that hold neither paths of this machine nor anybody's text (a corpus' manifest quotes documents).
PUBLIC_FACTS = (
    "parameters", "tokens", "final_loss", "documents", "bytes", "shards", "sources", "vocab_size", "tokenizer", "vector_norm",
    "target_norm", "kept", "theta", "scaling", "layout",
)  # fmt: skip


def public(origin: Origin) -> dict:
    """The tree of origins as plain JSON: recipes, code, content hashes; no paths, no texts."""
    found = origin.manifest
    told = {"role": origin.role, "name": origin.name, "state": origin.state, "content": origin.content}
    if found is not None:
        told |= {"kind": found.kind, "code": found.code, "recipe": found.recipe}
        told["facts"] = {name: found.facts[name] for name in PUBLIC_FACTS if name in found.facts}
        if "recipe" in found.facts:  # a corpus: the key of its manifest may name folders of this machine
            told["recipe"] = {"name": found.facts["recipe"].get("name"), "sources": sources(found)}
    return told | {"inputs": [public(one) for one in origin.inputs]}


def sources(corpus: Manifest) -> list[dict]:
    """A corpus' sources: name, reader, language, licence, weight, and the data set's name where it is the Hub's."""
    found = []
    for source in corpus.facts["recipe"].get("sources", []):
        dataset = str((source.get("options") or {}).get("dataset", ""))
        named = {"dataset": dataset} if source.get("reader") == "hub" and re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) else {}
        found.append({key: source.get(key) for key in ("name", "reader", "language", "licence", "weight")} | named)
    return found
