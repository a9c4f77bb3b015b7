"""What breaking and repairing share: copy a directory, reorder rows of q_proj and k_proj in its files, write RoPE into config.json.

The rows are moved as bytes: no number is read, so every dtype is treated alike, and a reordering followed by its inverse
gives the file back bit for bit.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openko import hf_weights, manifest
from openko.errors import InputError
from openko.progress import Progress
from openko.rope import Rope
from openko.rope_lab.directory import ModelDirectory

OTHER_WEIGHTS = ("*.safetensors", *hf_weights.FOREIGN)


def copy(model: ModelDirectory, partial: Path, *, say=print) -> None:
    """Every file of the directory's top level, links as files, but not the manifest. Sub-directories are only named."""
    for info in model.tensors.info.values():
        if info.file.parent != model.path:
            raise InputError(f"{info.file} lies in a sub-directory of {model.path}, and those are not copied: put the weights together")
    paths = sorted(path for path in model.path.iterdir() if path.name not in (manifest.NAME, manifest.MARK))
    directories = [path.name for path in paths if path.is_dir()]
    if directories:
        say(f"{model.path}: sub-directories are not copied: {', '.join(directories)}")
    progress = Progress(say)
    for path in paths:
        if path.is_file():
            progress(f"copying {path.name}")
            shutil.copyfile(path, partial / path.name)


def weight_name(layer: int, projection: str) -> str:
    """The tensor of a layer's projection "q" or "k", [rows, hidden_size]."""
    return f"model.layers.{layer}.self_attn.{projection}_proj.weight"


def permute(model: ModelDirectory, partial: Path, changes: dict[str, np.ndarray], *, say=print) -> None:
    """Reorder rows in `partial`, a copy of `model`, in place: `new = old[index]` in every layer.

    changes: index, int64 [rows], for projection "q" and / or "k". One tensor at a time is in memory; headers and all
    other bytes stay as they are.
    """
    changes = {projection: index for projection, index in changes.items() if not is_identity(index)}
    if not changes:
        return
    used = {info.file.name for info in model.tensors.info.values()}
    unused = sorted({path.name for kind in OTHER_WEIGHTS for path in partial.glob(kind)} - used)
    if unused:
        say(f"{', '.join(unused)}: copied as they are, for only the safetensors files that the model is read from are changed")
    progress = Progress(say)
    for layer in range(model.config.num_hidden_layers):
        for projection, index in changes.items():
            info = model.tensors.info[weight_name(layer, projection)]
            shape = (len(index), info.bytes // len(index))
            content = np.memmap(partial / info.file.name, np.uint8, "r+", offset=info.start, shape=shape)
            content[:] = content[index]  # the right side is a copy
            content.flush()
        progress(f"rows of {layer + 1} of {model.config.num_hidden_layers} layers")


def is_identity(index: np.ndarray) -> bool:
    return np.array_equal(index, np.arange(len(index)))


def rope_parameters(rope: Rope) -> dict:
    """The field `rope_parameters` as transformers 5 writes it."""
    return {"rope_theta": rope.theta} | (scaling_fields(rope) or {"rope_type": "default"})


def scaling_fields(rope: Rope) -> dict | None:
    """The field `rope_scaling` as transformers 4 writes it."""
    return None if rope.scaling is None else {"rope_type": "llama3"} | asdict(rope.scaling)


def with_rope(raw: dict, rope: Rope) -> dict:
    """The fields of a config.json with θ and scaling under both key styles; the others keep their order."""
    return raw | {"rope_theta": rope.theta, "rope_scaling": scaling_fields(rope), "rope_parameters": rope_parameters(rope)}


def write_config(directory: Path, raw: dict) -> None:
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
