"""The weights of a directory: what is stored as it says, whether every number is finite, and how they come into a release.

Nothing here holds more than a piece of one tensor.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors

from openko import hf_weights
from openko.errors import InputError
from openko.hf_weights import TensorInfo, Tensors
from openko.progress import Progress

PIECE = 1 << 22  # numbers that are looked at at once
# A number whose exponent bits are all one is infinite or no number: the bits, and the type that holds them.
EXPONENTS = {"F32": (np.dtype("<u4"), 0x7F800000), "BF16": (np.dtype("<u2"), 0x7F80), "F16": (np.dtype("<u2"), 0x7C00)}
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
BUFFER = "rotary_emb.inv_freq"  # old exports carry it, and every reader computes it anew


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor as the header of its file says: dtype is safetensors' code ("BF16"); the data begin at byte `start`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def stored(directory: Path) -> dict[str, Stored]:
    """Every tensor of the directory's weight files by its name, whatever its dtype. Refused where a file is not whole."""
    found: dict[str, Stored] = {}
    for path in hf_weights.weight_files(Path(directory)):
        start, fields = hf_weights.header(path)
        for name, field in fields.items():
            if name in found:
                raise InputError(f"tensor {name} lies in both {found[name].file} and {path}: readers take one or the other")
            found[name] = Stored(file=path, dtype=field["dtype"], shape=tuple(field["shape"]), start=start + field["data_offsets"][0])
    return found


def without_format(directory: Path) -> list[str]:
    """Files whose metadata name none of the formats that transformers 4 knows; it refuses them."""
    found = []
    for path in hf_weights.weight_files(Path(directory)):
        with safetensors.safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("format") not in ("pt", "tf", "flax", "mlx"):
                found.append(path.name)
    return found


def not_finite(tensors: dict[str, Stored], say: Callable[[str], None]) -> dict[str, int]:
    """{name: how many numbers are infinite or none} of the tensors that have any."""
    progress, found = Progress(say), {}
    whole = sum(tensor.size for tensor in tensors.values())
    done = 0
    for name, tensor in tensors.items():
        bits, exponent = EXPONENTS[tensor.dtype]
        for begin in range(0, tensor.size, PIECE):
            count = min(PIECE, tensor.size - begin)
            piece = np.fromfile(tensor.file, bits, count, offset=tensor.start + begin * bits.itemsize)
            bad = int(np.count_nonzero((piece & exponent) == exponent))
            if bad:
                found[name] = found.get(name, 0) + bad
            done += count
            progress(f"looked at {done / 1e6:,.0f}M of {whole / 1e6:,.0f}M weights", done / whole)
    return found


# ── into a release ───────────────────────────────────────────────────────────────────────────────────────────────


def carry(tensors: Tensors, names: list[str], directory: Path, *, shard_bytes: int, say: Callable[[str], None]) -> str:
    """Write the tensors `names` into `directory`, with an index where there are several files. Answers how, in words.

    Files that are as they should be become hard links, so that 16 GB need no second place on the disk, or copies on another
    one; files over `shard_bytes`, or with tensors that no reader wants, are written anew, a piece at a time.
    """
    files = hf_weights.weight_files(tensors.directory)
    sizes = {path: path.stat().st_size for path in files}
    counts = {path: sum(info.file == path for info in tensors.info.values()) for path in files}
    too_large = [path for path in files if sizes[path] > shard_bytes and counts[path] > 1]
    if too_large or set(names) != set(tensors.info) or without_format(tensors.directory) or not _named_as_usual(files):
        _check_space(directory, sum(tensors.info[name].bytes for name in names))
        progress, whole = Progress(say), sum(tensors.info[name].bytes for name in names)
        done = [0]

        def pieces(name: str) -> Iterator[np.ndarray]:
            for piece in _pieces(tensors.info[name]):
                yield piece
                done[0] += piece.nbytes
                progress(f"wrote {done[0] / 1e9:.1f} of {whole / 1e9:.1f} GB", done[0] / whole)

        entries = ((name, tensors.info[name].dtype, tensors.info[name].shape, lambda n=name: pieces(n)) for name in names)
        hf_weights.write_tensors(directory, entries, shard_bytes=shard_bytes)
        return "written anew"
    linked = [_link(path, directory / path.name, say) for path in files]
    _write_index(tensors, directory)
    return "linked" if all(linked) else "copied"


def _named_as_usual(files: list[Path]) -> bool:
    usual = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    return [path.name for path in files] in (usual, ["model.safetensors"])


def _pieces(info: TensorInfo) -> Iterator[np.ndarray]:
    for begin in range(0, info.size, PIECE):
        count = min(PIECE, info.size - begin)
        yield np.fromfile(info.file, np.uint8, count * info.dtype.itemsize, offset=info.start + begin * info.dtype.itemsize).view(
            info.dtype
        )


def _link(source: Path, target: Path, say: Callable[[str], None]) -> bool:
    """A hard link where the disk allows one, else a copy; whether it is a link."""
    real = source.resolve()  # the Hub's cache holds symbolic links
    try:
        os.link(real, target)
        return True
    except OSError:
        size = real.stat().st_size
        _check_space(target.parent, size)
        if size > 2e9:
            say(f"copying {source.name}, {size / 1e9:.0f} GB")
        shutil.copyfile(real, target)
        return False


def _write_index(tensors: Tensors, directory: Path) -> None:
    places = {name: info.file.name for name, info in tensors.info.items()}
    if len(set(places.values())) > 1:
        total = sum(info.bytes for info in tensors.info.values())
        content = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"
        (directory / hf_weights.INDEX).write_text(content, encoding="utf-8")


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(f"{directory.parent} has {free:,} bytes free, and {needed:,} are needed: free some, and run again")
