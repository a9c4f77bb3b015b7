"""Break, look at and repair RoPE in Hugging Face directories; so far the one fault that was published: θ gone.

θ is not stored in any weight. A model whose θ is lost answers short prompts almost as well as before, and worse the
longer the text: that is why such uploads pass a quick look.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from openko import hf_weights, manifest
from openko.bits_per_byte import window_losses
from openko.errors import InputError
from openko.rope import Rope

READERS_DEFAULT_THETA = 10_000.0  # what transformers takes when no θ is given


def forget_theta(source: Path, out: Path, *, say=print) -> manifest.Manifest:
    """A copy of `source` whose config.json has θ under neither key: the exporter's accident (`theta-missing`)."""

    def make(partial: Path) -> dict:
        _copy(source, partial)
        raw = json.loads((partial / "config.json").read_text(encoding="utf-8"))
        for key in hf_weights.ROPE:
            raw.pop(key, None)
        (partial / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        return {}

    return _build(out, {"fault": "theta-missing"}, source, make, say)


def repair_config(source: Path, out: Path, rope: Rope, *, say=print) -> manifest.Manifest:
    """A copy of `source` whose config.json has `rope` under both key styles; nothing else is touched."""

    def make(partial: Path) -> dict:
        _copy(source, partial)
        fields = hf_weights.config_to_hf(hf_weights.read_config(source, rope=rope)[0])
        raw = json.loads((partial / "config.json").read_text(encoding="utf-8"))
        raw |= {key: fields[key] for key in hf_weights.ROPE}
        (partial / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        return {}

    return _build(out, {"repair": "config", "rope": asdict(rope)}, source, make, say)


def losses_by_position(directory: Path, windows: np.ndarray, rope: Rope) -> np.ndarray:
    """Mean loss in nats at each position, fp64 [context], of token windows [count, context + 1] read with `rope`."""
    config, parameters = hf_weights.load(directory, rope=rope)
    if windows.shape[1] < 2:
        raise InputError(f"windows of {windows.shape[1]} tokens have nothing to predict")
    run = jax.jit(lambda p, tokens, targets: window_losses(config, p, tokens, targets))
    batches = np.array_split(windows, max(1, len(windows) // 8))
    return np.concatenate([np.asarray(run(parameters, b[:, :-1], b[:, 1:]), np.float64) for b in batches]).mean(axis=0)


def pairs_off(theta: float, other: float, head_dim: int, distance: int) -> int:
    """How many pairs of a head are turned by over one radian more (or less) when θ is read as `other`."""
    apart = Rope(theta=theta).angles(np.array(distance), head_dim) - Rope(theta=other).angles(np.array(distance), head_dim)
    return int(np.sum(np.abs(apart) > 1))


def _copy(source: Path, partial: Path) -> None:
    for path in sorted(Path(source).iterdir()):
        if path.is_file() and path.name != manifest.NAME:
            shutil.copyfile(path, partial / path.name)


def _build(out, recipe, source, make, say) -> manifest.Manifest:
    return manifest.build(out, kind=hf_weights.KIND, recipe=recipe, inputs={"source": source}, module="openko.rope_lab", make=make, say=say)
