"""A foreign Hugging Face directory, opened without belief: its shape, its tensors, and what its config says of RoPE."""

from dataclasses import dataclass
from pathlib import Path

from openko import hf_weights
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.rope import Llama3Scaling, Rope

READERS_DEFAULT_THETA = 10_000.0  # what transformers takes when no θ is given
PLACEHOLDER = Rope(theta=READERS_DEFAULT_THETA)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What config.json says about RoPE as two generations of readers take it; None where it says nothing.

    old: transformers 4 and what copied it read `rope_theta` and `rope_scaling` alone.
    new: transformers 5 takes `rope_scaling` where there is one, else `rope_parameters`, and `rope_theta` only if that
    has none (PreTrainedConfig.convert_rope_params_to_dict).
    """

    old_theta: float | None
    new_theta: float | None
    old_scaling: Llama3Scaling | None
    new_scaling: Llama3Scaling | None


@dataclass(frozen=True, kw_only=True)
class ModelDirectory:
    """config: the shape; its `rope` is a placeholder and means nothing. unknown: fields that openko does not know."""

    path: Path
    config: LlamaConfig
    tensors: hf_weights.Tensors
    written: Written
    unknown: tuple[str, ...]


def open_directory(path: Path) -> ModelDirectory:
    """A Llama-type directory with every tensor in its place; anything else is refused with the reason.

    Unlike `hf_weights.load`, fields that openko does not know are only listed: they are other people's.
    """
    path = Path(path)
    raw, where = hf_weights.read_json(path), str(path / "config.json")
    known = hf_weights.OURS | hf_weights.ROPE | hf_weights.CARRIED | set(hf_weights.FIXED)
    try:
        config, _ = hf_weights.config_from_hf({k: v for k, v in raw.items() if k in known}, where=where, rope=PLACEHOLDER)
        says = written(raw, where)
        tensors = hf_weights.Tensors(path)
        hf_weights.check_tensors(tensors, config)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as problem:
        raise InputError(f"{where}: a field has a value of a kind that it should not have ({problem})") from problem
    return ModelDirectory(path=path, config=config, tensors=tensors, written=says, unknown=tuple(sorted(set(raw) - known)))


def written(raw: dict, where: str = "config.json") -> Written:
    """The RoPE fields of a parsed config.json. A scaling of another kind than Llama-3.1's is refused."""
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(raw.get(key), dict | None):
            raise InputError(f"{where}: {key} is {raw[key]!r}; it should be an object or null")
    old, new = raw.get("rope_scaling"), raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    return Written(
        old_theta=_theta(raw, "rope_theta", where),
        new_theta=_theta(new, "rope_theta", where) or _theta(raw, "rope_theta", where),
        old_scaling=hf_weights.scaling_from_hf(old, where) if old else None,
        new_scaling=hf_weights.scaling_from_hf(new, where) if new else None,
    )


def _theta(fields: dict, name: str, where: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value < float("inf"):
        raise InputError(f"{where}: {name} is {value!r}; it should be a number above 1, such as 500000.0")
    return float(value)
