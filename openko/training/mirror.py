"""Checkpoints in places that orbax does not write to, such as the Hub (hf://): a copy of the newest local ones.

A copy is complete when its mark is there, which is uploaded last; only complete ones are seen.
"""

import json
import threading
from pathlib import Path

import fsspec
from tqdm import tqdm

from openko.errors import InputError

MARK = "complete.json"  # {file: bytes} of a checkpoint, uploaded after all its files


class Mirror:
    """The remote copies of one local checkpoint directory, for a single host.

    url: any writable place that fsspec knows. keep: complete copies that stay there.
    """

    def __init__(self, url: str, local: Path, keep: int, *, say=print):
        self._local, self._keep, self._say = local, keep, say
        self._thread: threading.Thread | None = None
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
        """Bring the newest complete copy here, if there is none as new."""
        copies, here = self.complete(), [int(p.name) for p in self._local.glob("*") if p.name.isdigit()]
        if not copies or copies[-1] <= max(here, default=-1):
            return
        step, partial = copies[-1], self._local / f"{copies[-1]}.partial"
        remote = f"{self._root}/{step}"
        sizes = json.loads(self._files.cat_file(f"{remote}/{MARK}"))
        with tqdm(desc=f"fetching checkpoint {step}", total=sum(sizes.values()), unit="B", unit_scale=True, leave=False) as bar:
            for name, size in sizes.items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{remote}/{name}", str(target))
                if target.stat().st_size != size:
                    raise InputError(f"{remote}/{name} came with {target.stat().st_size} bytes in place of {size}: run again")
                bar.update(size)
        partial.rename(self._local / str(step))

    def push(self, step: int) -> None:
        """Copy a complete local checkpoint in the background; one at a time."""
        self.wait()
        self._thread = threading.Thread(target=self._push, args=(step,))
        self._thread.start()

    def wait(self) -> None:
        """Until the copy under way is complete."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _push(self, step: int) -> None:
        source, remote = self._local / str(step), f"{self._root}/{step}"
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        try:
            for name in names:
                self._files.makedirs(f"{remote}/{name}".rsplit("/", 1)[0], exist_ok=True)
                self._files.put_file(str(source / name), f"{remote}/{name}")
            sizes = {name: (source / name).stat().st_size for name in names}
            self._files.pipe_file(f"{remote}/{MARK}", json.dumps(sizes).encode())
            for old in self.complete()[: -self._keep]:
                self._files.rm_file(f"{self._root}/{old}/{MARK}")  # first of all: half a copy is none
                self._files.rm(f"{self._root}/{old}", recursive=True)
        except Exception as problem:  # a service that is away for a while must not end the training; the next save tries again
            self._say(f"checkpoint of step {step} could not be copied to {self._root} ({type(problem).__name__}: {problem})")
