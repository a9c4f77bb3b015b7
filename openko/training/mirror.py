"""Checkpoints in places that orbax does not write to, such as the Hub (hf://): a copy of the newest local ones.

A copy is complete when its mark is there, which is uploaded last; only complete ones are seen.
"""

import json
import shutil
import threading
from pathlib import Path

import fsspec
from tqdm import tqdm

from openko.errors import InputError
from openko.progress import bar_stream

MARK = "complete.json"  # {file: bytes} of a checkpoint, uploaded after all its files


class Mirror:
    """The remote copies of one local checkpoint directory, for a single host.

    url: any writable place that fsspec knows. keep: complete copies that stay there.
    """

    def __init__(self, url: str, local: Path, keep: int, *, say=print):
        self._local, self._keep, self._say = local, keep, say
        self._thread: threading.Thread | None = None
        self._failed: int | None = None  # the step that could not be copied
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as problem:
            raise InputError(f"--checkpoint-dir {url}: {problem}") from None

    def complete(self) -> list[int]:
        """Steps of the complete copies, oldest first."""
        try:
            found = [Path(entry["name"]) for entry in self._files.ls(self._root, detail=True) if entry["type"] == "directory"]
        except FileNotFoundError:
            return []
        return sorted(int(p.name) for p in found if p.name.isdigit() and self._files.exists(f"{self._root}/{p.name}/{MARK}"))

    def fetch(self) -> None:
        """Bring the newest complete copy here, if there is none as new; where one does not come whole, an older one."""
        here = max((int(p.name) for p in self._local.glob("*") if p.name.isdigit()), default=-1)
        for step in reversed(self.complete()):
            if step <= here or self._fetch(step):
                return

    def _fetch(self, step: int) -> bool:
        partial, remote = self._local / f"{step}.partial", f"{self._root}/{step}"
        shutil.rmtree(partial, ignore_errors=True)
        sizes = json.loads(self._files.cat_file(f"{remote}/{MARK}"))
        with tqdm(
            desc=f"fetching checkpoint {step}", total=sum(sizes.values()), unit="B", unit_scale=True, leave=False, file=bar_stream()
        ) as bar:  # fmt: skip
            for name, size in sizes.items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{remote}/{name}", str(target))
                if target.stat().st_size != size:
                    self._say(f"{remote}/{name} came with {target.stat().st_size} bytes in place of {size}: trying an older copy")
                    shutil.rmtree(partial)
                    return False
                bar.update(size)
        partial.rename(self._local / str(step))
        return True

    def push(self, step: int) -> None:
        """Copy a complete local checkpoint in the background; one at a time."""
        self.wait()
        self._thread = threading.Thread(target=self._push, args=(step,))
        self._thread.start()

    def wait(self, *, try_again: bool = False) -> str:
        """Until the copy under way is complete. try_again: once more if it failed. Returns what is wrong then, or nothing."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if try_again and self._failed is not None:
            self._push(self._failed)
            if self._failed is not None:
                return (
                    f"the checkpoint of step {self._failed} is in {self._local} only, for copying it to {self._root} failed twice: "
                    "save that directory before this machine goes, or run again here when the service is back"
                )
        return ""

    def _push(self, step: int) -> None:
        source, remote, self._failed = self._local / str(step), f"{self._root}/{step}", step
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        try:
            if self._files.exists(f"{remote}/{MARK}"):
                self._files.rm_file(f"{remote}/{MARK}")  # the files under it change now
            for name in names:
                self._files.makedirs(f"{remote}/{name}".rsplit("/", 1)[0], exist_ok=True)
                self._files.put_file(str(source / name), f"{remote}/{name}")
            sizes = {name: (source / name).stat().st_size for name in names}
            self._files.pipe_file(f"{remote}/{MARK}", json.dumps(sizes).encode())
            for old in self.complete()[: -self._keep]:
                self._files.rm_file(f"{self._root}/{old}/{MARK}")  # first of all: half a copy is none
                self._files.rm(f"{self._root}/{old}", recursive=True)
            self._failed = None
        except Exception as problem:  # a service that is away for a while must not end the training; the next save tries again
            self._say(f"checkpoint of step {step} could not be copied to {self._root} ({type(problem).__name__}: {problem})")
