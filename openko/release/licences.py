"""What Meta's community licences ask of a model that descends from Llama 3, and which files say that it was done.

Section 1.b of the Meta Llama 3 Community License (18 April 2024): who passes on the model or one made from it gives a copy of
the Agreement with it, shows "Built with Meta Llama 3", begins the name of a derived model with "Llama 3", and keeps an
attribution in a text file called "Notice"; its use follows the Acceptable Use Policy. Those of Llama 3.1, 3.2 and 3.3 ask for
"Built with Llama" and a name that begins with "Llama".
"""

import re
from dataclasses import dataclass
from pathlib import Path

from openko.errors import InputError

LICENCE_NAMES, POLICY_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md"), ("USE_POLICY.md", "USE_POLICY", "USE_POLICY.txt")
NOTICE = "NOTICE"
HEADING = re.compile(r"\bLLAMA[ -]?(\d(?:\.\d)?) COMMUNITY LICENSE AGREEMENT")
HEAD = 2_000  # characters in which a licence names itself


@dataclass(frozen=True, kw_only=True)
class Terms:
    """hub: the licence's id on the Hub. begins: what a name must begin with, for the message; pattern: the same as a regular
    expression. built_with, notice: the two lines word for word."""

    hub: str
    title: str
    begins: str
    pattern: str
    built_with: str
    notice: str

    def check_name(self, name: str) -> None:
        """Refuse a name that the licence does not allow for a derived model."""
        if not re.match(self.pattern, name):
            raise InputError(f"{name!r}: the {self.title} wants the name of a derived model to begin with {self.begins}")


def _terms(version: str, owner: str, begins: str, pattern: str, built_with: str) -> Terms:
    model = f"{owner}Llama {version}"
    return Terms(
        hub=f"llama{version}", title=f"{model} Community License", begins=begins, pattern=pattern, built_with=built_with,
        notice=f"{model} is licensed under the {model} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
    )  # fmt: skip


# "Llama-3.1-Ko" would claim another parent than Llama 3, and "Llama-30B" another family.
TERMS = {
    "3": _terms("3", "Meta ", "'Llama 3' or 'Llama-3'", r"Llama[ -]3(?![0-9A-Za-z.])", "Built with Meta Llama 3"),
    **{v: _terms(v, "", "'Llama'", r"Llama(?![A-Za-z])", "Built with Llama") for v in ("3.1", "3.2", "3.3")},
}


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A Llama directory whose licence a derived model carries on, with the two files to be copied."""

    directory: Path
    terms: Terms
    licence: Path
    policy: Path


def licence_file(directory: Path) -> Path | None:
    return _first(directory, LICENCE_NAMES)


def policy_file(directory: Path) -> Path | None:
    return _first(directory, POLICY_NAMES)


def notice_file(directory: Path) -> Path | None:
    """The text file "Notice", in whatever case."""
    found = (
        path for path in sorted(Path(directory).glob("*")) if path.is_file() and path.name.lower() in ("notice", "notice.txt", "notice.md")
    )
    return next(found, None)


def _first(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((Path(directory) / name for name in names if (Path(directory) / name).is_file()), None)


def llama_version(path: Path) -> str | None:
    """Which Llama a licence file is about ("3", "3.1", "2", …); None where it is no Llama licence."""
    text = " ".join(Path(path).read_text(encoding="utf-8", errors="replace")[:HEAD].upper().split())
    found = HEADING.search(text)
    return found[1] if found else None


def is_llama(directory: Path) -> bool:
    """Whether a directory carries a Llama licence."""
    path = licence_file(directory)
    return path is not None and llama_version(path) is not None


def open_parent(directory: Path) -> Parent:
    """The parent in `directory`, refused where its licence or its use policy is not there to be copied."""
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"parent {directory} does not exist: give the directory of the Llama model, or 'none'")
    licence, policy = licence_file(directory), policy_file(directory)
    absent = [name for name, path in (("LICENSE", licence), ("USE_POLICY.md", policy)) if path is None]
    if absent:
        raise InputError(
            f"parent {directory} has no {' and no '.join(absent)}: a model that descends from Llama 3 must carry them word for "
            "word. They lie in Meta's own repository of the model on the Hub (meta-llama/Meta-Llama-3-8B): download them "
            "into that directory, or name one that has them with --parent"
        )
    version = llama_version(licence)
    if version not in TERMS:
        what = "no Llama community licence" if version is None else f"the licence of Llama {version}"
        raise InputError(f"{licence} is {what}; openko knows the duties of Llama {', '.join(TERMS)}: give another --parent, or 'none'")
    return Parent(directory=directory, terms=TERMS[version], licence=licence, policy=policy)


def check_name_of_exempt(name: str) -> None:
    """A model without a Llama parent must not be called as if it had one."""
    if name.lower().startswith(("llama", "meta-llama", "meta llama")):
        raise InputError(
            f"{name!r}: this model has no Llama parent, and a name that begins with Llama would claim one; if it has one: --parent DIR"
        )
