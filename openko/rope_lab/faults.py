"""RoPE broken on purpose: copies of a sound directory with the faults that uploads are found to have.

None of them changes a shape, so every loader takes them without a word.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from openko import hf_weights, manifest
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.rope import Llama3Scaling, Rope
from openko.rope_lab import directory, layouts, rewrite
from openko.rope_lab.directory import ModelDirectory

WRONG_THETA, SPURIOUS, MISSING_SCALING = "wrong-theta", "spurious-scaling", "missing-scaling"
NO_THETA, NO_OLD_THETA = "theta-missing", "theta-missing-for-old-readers"
INTERLEAVED, Q_PERMUTED, K_PERMUTED, HEAD_COUNT = "interleaved-layout", "q-permuted", "k-permuted", "k-wrong-head-count"

# The order is that in which they are put in: a scaling needs the keys that a missing θ takes away.
FAULTS = {
    WRONG_THETA: "another θ under every key that carries it: 10000, or --theta",
    SPURIOUS: "Llama-3.1's frequency scaling, in proportion to the context, in the config of a model trained without one",
    MISSING_SCALING: "the frequency scaling that the model was trained with is gone",
    NO_THETA: "θ is gone under every key: readers take 10000 without a word",
    NO_OLD_THETA: "rope_parameters alone, as transformers 5 writes it: older readers find no θ",
    INTERLEAVED: "rows of q_proj and k_proj in Meta's order, as if the converter had not permuted them",
    Q_PERMUTED: "only the rows of q_proj in Meta's order",
    K_PERMUTED: "only the rows of k_proj in Meta's order",
    HEAD_COUNT: "rows of k_proj permuted with the number of query heads",
}

# What a fault decides; two that decide the same thing contradict each other.
DECIDES = {
    WRONG_THETA: {"θ"},
    SPURIOUS: {"the scaling"},
    MISSING_SCALING: {"the scaling"},
    NO_THETA: {"θ", "what old readers find"},
    NO_OLD_THETA: {"what old readers find"},
    INTERLEAVED: {"the rows of q_proj", "the rows of k_proj"},
    Q_PERMUTED: {"the rows of q_proj"},
    K_PERMUTED: {"the rows of k_proj"},
    HEAD_COUNT: {"the rows of k_proj"},
}
ROWS = {
    INTERLEAVED: {"q": layouts.INTERLEAVED, "k": layouts.INTERLEAVED},
    Q_PERMUTED: {"q": layouts.INTERLEAVED},
    K_PERMUTED: {"k": layouts.INTERLEAVED},
    HEAD_COUNT: {"k": layouts.HEAD_COUNT},
}
LLAMA_3_1 = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


def broken(source: Path, out: Path, faults: Sequence[str], *, theta: float | None = None, say=print) -> manifest.Manifest:
    """Write the model directory `out`: `source` with `faults`, names of FAULTS in any order.

    theta: for wrong-theta; by default 1e4, or 5e5 where the model has 1e4. The rows of `source` are taken to be sound.
    """
    faults = _in_order(faults)
    model, raw = directory.open_directory(source), hf_weights.read_json(source)
    has = _theta_of(model, raw)
    if WRONG_THETA in faults:
        theta = _another_theta(model, has, theta)
    elif theta is not None:
        raise InputError(f"a θ ({theta:g}) goes with the fault {WRONG_THETA} alone: add it, or leave the θ out")
    _check_possible(model, raw, has, faults)
    changed, rows = _config_with(raw, model.config.max_position_embeddings, faults, theta), _rows_with(model.config, faults)
    if NO_THETA in faults and has == directory.READERS_DEFAULT_THETA:
        say(f"{source}: θ is {has:g}, just what readers take where none is given: most will not notice that it is gone")

    def make(partial: Path) -> dict:
        rewrite.copy(model, partial, say=say)
        if changed != raw:
            rewrite.write_config(partial, changed)
        rewrite.permute(model, partial, rows, say=say)
        return {"faults": faults} | ({} if theta is None else {"theta": theta})

    return manifest.build(
        out, kind=hf_weights.KIND, recipe={"faults": faults, "theta": theta}, inputs={"source": model.path},
        module="openko.rope_lab.faults", make=make, say=say,
    )  # fmt: skip


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def _in_order(names: Sequence[str]) -> list[str]:
    """The faults in the order of FAULTS, none twice and no two that contradict each other."""
    known = "\n".join(f"  {name}: {what}" for name, what in FAULTS.items())
    if not names:
        raise InputError(f"no fault is named; there are\n{known}")
    for name in names:
        if name not in FAULTS:
            raise InputError(f"there is no fault {name!r}; there are\n{known}")
        if list(names).count(name) > 1:
            raise InputError(f"fault {name} is named twice: once is enough")
    ordered = [name for name in FAULTS if name in names]
    for one, other in itertools.combinations(ordered, 2):
        both = DECIDES[one] & DECIDES[other]
        if both:
            raise InputError(f"faults {one} and {other} contradict each other: both decide {' and '.join(sorted(both))}; choose one")
    if {Q_PERMUTED, K_PERMUTED} <= set(ordered):
        raise InputError(f"faults {Q_PERMUTED} and {K_PERMUTED}: together they are {INTERLEAVED}; name that")
    return ordered


def _theta_of(model: ModelDirectory, raw: dict) -> float | None:
    """The one θ of the directory, None where readers find none."""
    found = {key: (raw.get(key) or {}).get("rope_theta") for key in ("rope_scaling", "rope_parameters")}
    found = {"rope_theta": raw.get("rope_theta")} | {f"{key}.rope_theta": value for key, value in found.items()}
    found = {key: value for key, value in found.items() if value is not None}
    if any(value != next(iter(found.values())) for value in found.values()):
        thetas = ", but ".join(f"{key} is {value}" for key, value in found.items())
        raise InputError(f"{model.path / 'config.json'}: {thetas}: readers disagree already; repair it first")
    return model.written.new_theta


def _another_theta(model: ModelDirectory, has: float | None, theta: float | None) -> float:
    where = model.path / "config.json"
    if has is None:
        raise InputError(f"{where}: readers find no θ, so none can be replaced; repair it first")
    if theta is None:
        return 1e4 if has != 1e4 else 5e5
    if not 1 < theta < math.inf:
        raise InputError(f"theta must be a number above 1, found {theta!r}; Llama-2 has 10000, Llama-3 500000")
    if theta == has:
        raise InputError(f"{where}: θ is {has:g} already; a wrong θ must be another number")
    return float(theta)


def _check_possible(model: ModelDirectory, raw: dict, has: float | None, faults: list[str]) -> None:
    """Refuse what `source` has already, or cannot have."""
    where, written = model.path / "config.json", model.written
    if has is None and (NO_THETA in faults or NO_OLD_THETA in faults):
        raise InputError(f"{where}: readers find no θ already; repair it first")
    if NO_OLD_THETA in faults and written.old_theta is None:
        raise InputError(f"{where}: there is no rope_theta, so old readers find none already")
    has_scaling = written.old_scaling is not None or written.new_scaling is not None
    if SPURIOUS in faults and has_scaling:
        raise InputError(f"{where}: has a frequency scaling, so that one cannot be added that the model was not trained with")
    if MISSING_SCALING in faults and not has_scaling:
        raise InputError(f"{where}: has no frequency scaling that could go missing")
    if HEAD_COUNT in faults and layouts.why_no_head_count(model.config):
        raise InputError(f"{where}: {layouts.why_no_head_count(model.config)}")
    for fault, index in ((f, i) for f in faults for i in _rows_with(model.config, [f]).values()):
        if rewrite.is_identity(index):
            raise InputError(f"{where}: head_dim is {model.config.head_dim}, and {fault} then leaves the rows where they are")


# ── what is done ─────────────────────────────────────────────────────────────────────────────────────────────────


def _rows_with(config: LlamaConfig, faults: list[str]) -> dict[str, np.ndarray]:
    """{projection: index}, `broken = sound[index]`."""
    names = {projection: name for fault in faults if fault in ROWS for projection, name in ROWS[fault].items()}
    return {projection: layouts.order(config, projection, name) for projection, name in names.items()}


def _config_with(raw: dict, context: int, faults: list[str], theta: float | None) -> dict:
    """The fields of config.json with the faults, which are in the order of FAULTS."""
    raw = copy.deepcopy(raw)
    edits = {
        WRONG_THETA: lambda: _replace_theta(raw, theta),
        SPURIOUS: lambda: _add_scaling(raw, context),
        MISSING_SCALING: lambda: _remove_scaling(raw),
        NO_THETA: lambda: _remove_theta(raw),
        NO_OLD_THETA: lambda: _for_new_readers(raw),
    }
    for fault in faults:
        if fault in edits:
            edits[fault]()
    return raw


def _blocks(raw: dict) -> dict[str, dict]:
    """Those of `rope_scaling` and `rope_parameters` that hold something."""
    return {key: raw[key] for key in ("rope_scaling", "rope_parameters") if raw.get(key)}


def _replace_theta(raw: dict, theta: float) -> None:
    for fields in (raw, *_blocks(raw).values()):
        if fields.get("rope_theta") is not None:
            fields["rope_theta"] = theta


def _add_scaling(raw: dict, context: int) -> None:
    # From 8,192 positions on the published block; in a shorter context that one would turn nothing by much.
    start = LLAMA_3_1.original_max_position_embeddings
    scaling = LLAMA_3_1 if context >= start else replace(LLAMA_3_1, original_max_position_embeddings=max(1, context // 8))
    keys = set(_blocks(raw))
    # A rope_scaling next to a θ that lies in rope_parameters alone would hide that θ: a second fault.
    if raw.get("rope_theta") is not None or not keys:
        keys.add("rope_scaling")
    for key in keys:
        kept = {k: v for k, v in (raw.get(key) or {}).items() if k == "rope_theta"}
        raw[key] = kept | rewrite.scaling_fields(Rope(theta=directory.READERS_DEFAULT_THETA, scaling=scaling))


def _remove_scaling(raw: dict) -> None:
    for key, block in _blocks(raw).items():
        kept = {k: v for k, v in block.items() if k == "rope_theta"} | {"rope_type": "default"}
        raw[key] = None if key == "rope_scaling" and "rope_theta" not in kept else kept


def _remove_theta(raw: dict) -> None:
    for fields in (raw, *_blocks(raw).values()):
        fields.pop("rope_theta", None)
    if (raw.get("rope_parameters") or {}) in ({}, {"rope_type": "default"}):
        raw.pop("rope_parameters", None)
    if raw.get("rope_scaling") == {}:  # θ was all that it held
        raw["rope_scaling"] = None


def _for_new_readers(raw: dict) -> None:
    written = directory.written(raw)
    raw["rope_parameters"] = rewrite.rope_parameters(Rope(theta=written.new_theta, scaling=written.new_scaling))
    raw.pop("rope_theta", None)
    raw.pop("rope_scaling", None)
