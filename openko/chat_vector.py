"""The chat vector: target + λ (chat − base), streamed through little memory.

Huang et al., "Chat Vector" (arXiv 2310.04799): the difference between a chat model and its base carries the ability
to chat, and can be added to a model that was continued on another language. This is how Llama-3-Open-Ko-8B became
Instruct-preview without one Korean chat.

`merge` writes a model directory; `add` gives the same sum for parameters in memory, for trying many λ.
"""

import json
import math
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from openko import hf_weights, manifest, tokenizers
from openko.errors import InputError
from openko.hf_weights import Tensors
from openko.profiles import VectorScale

CHUNK = 4_000_000  # weights in flight: 16 MB for each of the three models in fp32
WHOLE = VectorScale()  # the paper's: every part alike


def merge(
    out: Path, *, target: Path, base: Path, chat: Path, scale: float = 1.0, parts: VectorScale = WHOLE, say=print
) -> manifest.Manifest:
    """Write the model directory `out` = target + scale × (chat − base), in the target's dtypes.

    scale: λ. parts: its share for each part of the model, and whether the rows of the chat format's special tokens are
    the chat model's own, whatever λ is. Computed in fp32 and rounded once. config.json is the target's;
    generation_config, tokenizer and chat template are the chat model's. The manifest's facts give the Euclidean norm of
    the whole vector and of the target.
    """
    models = {name: Tensors(path) for name, path in (("target", target), ("base", base), ("chat", chat))}
    config, carried = hf_weights.read_config(target)
    _check(models, target, base, chat)
    special = special_rows(chat, parts)

    def make(partial: Path) -> dict:
        squares = {"vector": 0.0, "target": 0.0}
        size = sum(math.prod(i.shape) for i in models["target"].info.values())
        bar = tqdm(desc=Path(out).name, total=size, unit="weights", unit_scale=True, file=sys.stderr, mininterval=1.0, leave=False)

        def content(name):
            for rows in _row_chunks(models["target"].info[name].shape):
                t, b, c = (models[m].read(name, rows).astype(np.float32) for m in ("target", "base", "chat"))
                vector = c - b
                if not np.isfinite(vector).all() or not np.isfinite(t).all():
                    raise InputError(f"tensor {name} holds NaN or infinity in {_who_is_broken(models, name, rows)}")
                squares["vector"] += float(np.vdot(vector, vector))
                squares["target"] += float(np.vdot(t, t))
                bar.update(t.size)
                summed = _sum(hf_weights.part_of(name), t, b, c, scale, parts, special, first_row=rows.start)
                yield summed.astype(models["target"].info[name].dtype)

        entries = ((name, i.dtype, i.shape, lambda n=name: content(n)) for name, i in models["target"].info.items())
        hf_weights.write_tensors(partial, entries, shard_bytes=5_000_000_000)
        bar.close()
        # Llama-3-Instruct names its two end tokens in generation_config.json alone.
        generation = Path(chat) / "generation_config.json"
        settings = hf_weights.read_config(chat)[1]
        settings |= json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
        hf_weights.write_configs(partial, config, carried | {k: v for k, v in settings.items() if k.endswith("_token_id")})
        if generation.is_file():
            shutil.copyfile(generation, partial / generation.name)
        tokenizers.copy_files(chat, partial)
        return {f"{name}_norm": math.sqrt(value) for name, value in squares.items()}

    return manifest.build(
        out, kind=hf_weights.KIND, recipe={"method": "chat-vector", "scale": scale, "parts": asdict(parts)},
        inputs={"target": target, "base": base, "chat": chat}, module="openko.chat_vector", make=make, say=say,
    )  # fmt: skip


def add(target: dict, base: dict, chat: dict, *, scale: float, parts: VectorScale = WHOLE, special: np.ndarray) -> dict:
    """The same sum for parameter trees in memory (openko.llama's), fp32 in and out.

    special: ids of the rows to take from `chat`, from `special_rows`; int, shape [n].
    """

    def one(path, t, b, c):
        return _sum(
            hf_weights.part_of(".".join(key.key for key in path)), *(np.asarray(x, np.float32) for x in (t, b, c)), scale, parts, special
        )

    return jax.tree_util.tree_map_with_path(one, target, base, chat)


def parts_from(assignments: Iterable[str], special: str = "merge") -> VectorScale:
    """["attention=0.5", "embed=0"] -> VectorScale; a part that is not named keeps 1."""
    shares = {}
    for assignment in assignments:
        name, _, number = assignment.partition("=")
        if name not in hf_weights.PARTS:
            raise InputError(f"a part is one of {', '.join(hf_weights.PARTS)} with its share, such as attention=0.5; found {assignment!r}")
        try:
            shares[name] = float(number)
        except ValueError:
            raise InputError(f"the share of {name} must be a number, found {number!r}") from None
    return VectorScale(**shares, special=special)


def special_rows(chat: Path, parts: VectorScale) -> np.ndarray:
    """Ids of the rows that `parts` wants taken from the chat model: its special tokens, without those that frame every
    document, which target and base have trained as well."""
    if parts.special not in ("merge", "transplant"):
        raise InputError(f"special tokens are made by 'merge' or 'transplant', found {parts.special!r}")
    if parts.special == "merge":
        return np.array([], np.int64)
    special = tokenizers.load(chat).special
    return np.array(sorted(number for token, number in special.items() if token not in (tokenizers.BEGIN, tokenizers.END)), np.int64)


def _sum(part: str, t, b, c, scale: float, parts: VectorScale, special: np.ndarray, first_row: int = 0) -> np.ndarray:
    """fp32 rows of target + λ (chat − base); `first_row` is the tensor's row that they begin with."""
    summed = t + np.float32(scale * getattr(parts, part)) * (c - b)
    if part == "embed":
        rows = special[(special >= first_row) & (special < first_row + len(t))] - first_row
        summed[rows] = c[rows]
    return summed


def _row_chunks(shape: tuple[int, ...]):
    rows = max(1, CHUNK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _check(models: dict[str, Tensors], *directories: Path) -> None:
    target = models["target"]
    for (name, other), directory in zip(models.items(), directories, strict=True):
        hf_weights.check_tensors(other, hf_weights.read_config(directory)[0])
        for tensor in target.info.keys() ^ other.info.keys():
            raise InputError(f"tensor {tensor} is in {'target' if tensor in target.info else name} alone: these models have other layers")
        for tensor, info in target.info.items():
            found = other.info[tensor].shape
            if found != info.shape:
                raise InputError(
                    f"tensor {tensor} is {info.shape} in {target.directory}, but {found} in {other.directory}: a chat vector needs "
                    "one architecture and one vocabulary; nothing is cut to fit"
                )


def _who_is_broken(models: dict[str, Tensors], name: str, rows: slice) -> str:
    return ", ".join(str(t.directory) for t in models.values() if not np.isfinite(t.read(name, rows).astype(np.float32)).all())
