"""Directories in buckets, brought to local disk: gs://, hf://, s3:// and whatever else fsspec reads.

Token shards are read by memory map and weights by slices, so they must lie on a disk. A directory is staged once, and again
when any of its files has changed.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

import filelock
import fsspec
from tqdm import tqdm

from openko.errors import InputError
from openko.manifest import digest
from openko.progress import bar_stream

SOURCES = "staged.json"  # beside the staged directory: what was fetched


def is_remote(place: str | Path) -> bool:
    """Whether a place is a URL ("gs://bucket/shards") and not a path."""
    return "://" in str(place)


def local(place: str | Path, *, cache: Path | None = None) -> Path:
    """The directory itself if it is local, else a local copy of it.

    cache: where copies lie; by default $OPENKO_CACHE, else ~/.cache/openko.
    """
    if not is_remote(place):
        return Path(place)
    url = str(place).rstrip("/")
    cache = cache or Path(os.environ.get("OPENKO_CACHE") or Path.home() / ".cache" / "openko")
    directory = cache / digest(url)[:16] / url.rsplit("/", 1)[-1]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory.parent / ".lock"):  # several processes of one host stage it once
        _stage(url, directory)
    return directory


def _stage(url: str, directory: Path) -> None:
    files, root = open_directory(url)
    marks = {name: _mark(info) for name, info in files.items()}
    sources = directory.parent / SOURCES
    known = json.loads(sources.read_text(encoding="utf-8")) if sources.is_file() else {}
    if known == marks and all(_size(directory / name) == info["size"] for name, info in files.items()):
        return
    shutil.rmtree(directory, ignore_errors=True)
    partial = directory.with_name(directory.name + ".partial")
    partial.mkdir(exist_ok=True)
    started = partial / SOURCES  # an interrupted staging goes on, unless the files have changed since
    if not started.is_file() or json.loads(started.read_text(encoding="utf-8")) != marks:
        shutil.rmtree(partial)
        partial.mkdir()
        started.write_text(json.dumps(marks), encoding="utf-8")
    missing = {name: info for name, info in files.items() if _size(partial / name) != info["size"]}
    needed, free = sum(info["size"] for info in missing.values()), shutil.disk_usage(partial).free
    if needed > free:
        raise InputError(f"staging {url} needs {needed / 1e9:.1f} GB in {partial.parent}, which has {free / 1e9:.1f}: set OPENKO_CACHE")
    with tqdm(desc=f"staging {url}", total=needed, unit="B", unit_scale=True, mininterval=1.0, leave=False, file=bar_stream()) as bar:
        for name, info in missing.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            root.fs.get_file(info["name"], str(target) + ".part")
            found = _size(Path(str(target) + ".part"))
            if found != info["size"]:
                raise InputError(f"{url}/{name} came with {found} bytes in place of {info['size']}: run again")
            os.replace(str(target) + ".part", target)
            bar.update(info["size"])
    os.replace(started, sources)
    os.replace(partial, directory)


def open_directory(url: str):
    """({relative name: fsspec's info of the file}, the directory as an fsspec map)."""
    scheme = url.split("://", 1)[0]
    try:
        root = fsspec.get_mapper(url)
        found = root.fs.find(root.root, detail=True)
    except ImportError as problem:
        raise InputError(f"reading {scheme}:// needs another package: {problem}") from None
    except Exception as problem:  # each service has its own errors for "no such bucket" and "not allowed"
        raise InputError(f"{url} cannot be read ({type(problem).__name__}: {problem}): check the name, the login and the network") from None
    if not found:
        raise InputError(f"{url} has no files: check the name")
    return {path[len(root.root) :].lstrip("/"): info for path, info in found.items()}, root


def _mark(info: dict) -> list:
    """What changes when a remote file does: its size, and the service's own mark where it gives one."""
    return [info["size"], *(str(info[key]) for key in ("etag", "ETag", "md5Hash", "crc32c", "blob_id") if info.get(key))]


def _size(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return None
