"""A directory to the Hub, once its audit has passed."""

from collections.abc import Callable
from pathlib import Path

from openko import manifest
from openko.errors import InputError
from openko.release import auditing, licences
from openko.release.auditing import Directory

# openko's own records of this machine: their paths are nobody's business, and provenance.json says the rest.
LEFT_HERE = (manifest.NAME,)


def push(
    directory: Path, repository: str, *, dry_run: bool = False, private: bool = False, revision: str | None = None,
    text: Path | None = None, say: Callable[[str], None] = print,
) -> dict:  # fmt: skip
    """Send a model directory to `repository` ("OWNER/NAME") on the Hub; with dry_run, only say what would go, without a network.

    private: for a repository that is made new. revision: a branch, made where it is not there. text: as in `audit`.
    Answers {"repository", "revision", "files": {name: bytes}, "bytes", "url"}, url None in a dry run. A directory that fails its
    audit is refused; that of a release is believed as long as every byte of it is that of its manifest.
    """
    directory = Path(directory)
    check_repository("repository", repository)
    found = _audit(directory, text, say)
    if not found["passed"]:
        failed = "; ".join(f"{name}: {check['reason']}" for name, check in found["checks"].items() if check["status"] == auditing.FAIL)
        raise InputError(f"{directory} does not pass its audit, and nothing was sent: {failed}")
    _check_name(directory, repository, say)
    files = sending(directory)
    folders = sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if folders:
        say(f"folders stay here: {', '.join(folders)}")
    answer = {"repository": repository, "revision": revision or "main", "files": files, "bytes": sum(files.values()), "url": None}
    return answer if dry_run else answer | {"url": _send(directory, repository, files, private, revision)}


def sending(directory: Path) -> dict[str, int]:
    """{name: bytes} of the files that would go: those at the top, hidden ones and openko's own records apart."""
    paths = (path for path in sorted(directory.iterdir()) if path.is_file() and not path.name.startswith("."))
    return {path.name: path.stat().st_size for path in paths if path.name not in LEFT_HERE}


def _audit(directory: Path, text: Path | None, say: Callable[[str], None]) -> dict:
    if Directory(directory, text, say).provenance and (directory / manifest.NAME).is_file():
        made = manifest.read(directory)
        if "audit" in made.facts and made.code == manifest.code_fingerprint("openko.release"):
            manifest.verify(directory)
            surplus = set(sending(directory)) - set(made.files)
            if surplus:
                raise InputError(f"{directory}: {', '.join(sorted(surplus))} came after the audit: take it out, or release again")
            return made.facts["audit"]
    return auditing.audit(directory, text=text, say=say)


def check_repository(what: str, repository: str) -> None:
    """Refuse what is no name on the Hub; `what` is called by it in the message."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repository.count("/") != 1:
        raise InputError(f"{what} {repository!r}: write OWNER/NAME, such as meta-llama/Meta-Llama-3-8B")
    try:
        validate_repo_id(repository)
    except HFValidationError as problem:
        raise InputError(f"{what} {repository!r}: {problem}") from None


def _check_name(directory: Path, repository: str, say: Callable[[str], None]) -> None:
    """The repository's name is the model's name to the world, so the licence's rule is about it too."""
    seen, name = Directory(directory, None, say), repository.split("/")[1]
    terms = auditing.terms_of(seen)
    if seen.is_metas:
        raise InputError(
            f"{directory} is Meta's own model: who passes it on owes a notice, a name and more, and `openko release` writes them"
        )
    if terms is not None:
        terms.check_name(name)
    elif "descent" in seen.provenance:
        licences.check_name_of_exempt(name)


def _send(directory: Path, repository: str, files: dict[str, int], private: bool, revision: str | None) -> str:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if huggingface_hub.get_token() is None:
        raise InputError("there is no token of the Hub: `hf auth login`, or set HF_TOKEN to one that may write; --dry-run needs none")
    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if revision:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository, folder_path=directory, allow_patterns=list(files), revision=revision,
            commit_message=f"openko push: {len(files)} files",
        )  # fmt: skip
    except HfHubHTTPError as problem:
        raise InputError(
            f"the Hub refused {repository} ({' '.join(str(problem).split())}): check the name and what the token may do"
        ) from None
    except (OSError, RuntimeError, HfHubHTTPError.__bases__[0]) as problem:  # the Hub's client has changed its HTTP library more than once
        raise InputError(f"{repository} could not be sent ({' '.join(str(problem).split())}): check the network, and run again") from None
    return str(getattr(done, "commit_url", "") or f"https://huggingface.co/{repository}")
