"""What happened between two uploads of one model: new numbers in config.json, rows moved, or other weights?

A re-upload that says "RoPE fixed" can be any of the three, and its files tell which. Read tensor by tensor.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openko import hf_weights
from openko.profiles import LlamaConfig
from openko.progress import Progress
from openko.rope_lab import layouts, rewrite
from openko.rope_lab.directory import ModelDirectory, Written, open_directory

CHUNK = 4_000_000  # weights in flight


def compare(old: Path, new: Path, *, say=print) -> dict:
    """How `new` differs from `old`; plain JSON data, always with these keys.

    verdict: "identical"; "config": the same weights with other fields in config.json; "rows-permuted": the same weights
    with rows of q_proj or k_proj moved, alike in all layers; "retrained": other weights; "other-model": other tensors.
    sentence: the same in English.
    config: {field: [old, new]} of every field that differs, null where absent.
    theta, scaling: {"old": {"transformers_4": …, "transformers_5": …}, "new": …}, as either reads them; null where none.
    tensors: how many are "equal", "permuted", "other"; null where they were not compared.
    layout_old_to_new: {"q": "interleaved → half-split", …} of moved rows. Other pairs of layouts that differ by the same
    move, which the weights alone cannot tell apart, are in layout_alternatives.
    relative_change: ‖new − old‖ / ‖old‖ in fp64 by kind of module if retrained, null where that is no number.
    dtype: [old, new] where tensors differ in it. Values are then equal if rounding to the narrower dtype makes them so.
    other_tensors: of another model, the first five that differ in name or shape.
    """
    before, after = open_directory(old), open_directory(new)
    answer = {
        "verdict": "",
        "sentence": "",
        "config": _other_fields(hf_weights.read_json(old), hf_weights.read_json(new)),
        "theta": {"old": _theta(before.written), "new": _theta(after.written)},
        "scaling": {"old": _scaling(before.written), "new": _scaling(after.written)},
        "tensors": None,
        "layout_old_to_new": {},
        "layout_alternatives": {},
        "relative_change": {},
        "dtype": None,
        "other_tensors": _other_tensors(before, after)[:5],
    }
    if answer["other_tensors"]:
        answer["verdict"] = "other-model"
    else:
        answer |= _weights(before, after, Progress(say))
        counts = answer["tensors"]
        differing = {"retrained": counts["other"], "rows-permuted": counts["permuted"], "config": answer["config"]}
        answer["verdict"] = next((verdict for verdict, found in differing.items() if found), "identical")
    return answer | {"sentence": _sentence(answer)}


# ── config.json ──────────────────────────────────────────────────────────────────────────────────────────────────


def _other_fields(old: dict, new: dict) -> dict[str, list]:
    return {field: [old.get(field), new.get(field)] for field in (old | new) if old.get(field) != new.get(field)}


def _theta(written: Written) -> dict:
    return {"transformers_4": written.old_theta, "transformers_5": written.new_theta}


def _scaling(written: Written) -> dict:
    found = {"transformers_4": written.old_scaling, "transformers_5": written.new_scaling}
    return {reader: None if scaling is None else asdict(scaling) for reader, scaling in found.items()}


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _names(config: LlamaConfig) -> list[str]:
    """Every tensor that config.json asks for; a repeated embedding or stored frequencies are nothing of their own."""
    names = hf_weights.tensor_names(config).values()
    layers = [n.format(layer) for layer in range(config.num_hidden_layers) for n in names if "{}" in n]
    return [n for n in names if "{}" not in n] + layers


def _other_tensors(before: ModelDirectory, after: ModelDirectory) -> list[str]:
    """Tensors that are in one model alone or have another shape, as text."""
    old, new = ({name: list(m.tensors.info[name].shape) for name in _names(m.config)} for m in (before, after))
    found = []
    for name in old | new:
        if old.get(name) != new.get(name):
            shapes = f"{old[name]} → {new[name]}" if name in old and name in new else f"only in {'old' if name in old else 'new'}"
            found.append(f"{name}: {shapes}")
    return found


def _weights(before: ModelDirectory, after: ModelDirectory, progress) -> dict:
    """The part of `compare`'s answer that needs the weights of two models of the same shapes."""
    names, differing = _names(before.config), set()
    for number, name in enumerate(names):
        if not all(_same(old, new) for old, new in _chunks(before, after, name)):
            differing.add(name)
        progress(f"{number + 1} of {len(names)} tensors, {len(differing)} differ")
    moves = {projection: _moves(before, after, projection, differing, progress) for projection in ("q", "k")}
    moves = {projection: pairs for projection, pairs in moves.items() if pairs}
    moved = {rewrite.weight_name(layer, p) for p in moves for layer in range(before.config.num_hidden_layers)} & differing
    other = differing - moved
    return {
        "tensors": {"equal": len(names) - len(differing), "permuted": len(moved), "other": len(other)},
        "layout_old_to_new": {projection: pairs[0] for projection, pairs in moves.items()},
        "layout_alternatives": {projection: pairs[1:] for projection, pairs in moves.items() if pairs[1:]},
        "relative_change": _relative_change(before, after, names, other, progress) if other else {},
        "dtype": _dtypes(before, after, names),
    }


def _chunks(before: ModelDirectory, after: ModelDirectory, name: str):
    """The same rows of a tensor from both models, at most CHUNK weights at a time (one row at least)."""
    shape = before.tensors.info[name].shape
    rows = max(1, CHUNK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        part = slice(start, min(start + rows, shape[0]))
        yield before.tensors.read(name, part), after.tensors.read(name, part)


def _same(old: np.ndarray, new: np.ndarray) -> bool:
    """Equal bit for bit, NaN too; in two dtypes, equal once both are rounded to the narrower (of two 16-bit ones, the new)."""
    if old.dtype == new.dtype:
        return np.array_equal(old.view(np.uint8), new.view(np.uint8))
    narrow = new.dtype if new.dtype.itemsize <= old.dtype.itemsize else old.dtype
    with np.errstate(over="ignore"):  # fp16 ends at 65504
        old, new = (x.astype(np.float32).astype(narrow).astype(np.float32) for x in (old, new))
    return np.array_equal(old, new, equal_nan=True)


def _dtypes(before: ModelDirectory, after: ModelDirectory, names: list[str]) -> list[str] | None:
    pairs = {(before.tensors.info[name].dtype, after.tensors.info[name].dtype) for name in names}
    pairs = {pair for pair in pairs if pair[0] != pair[1]}
    return [" and ".join(sorted({str(pair[side]) for pair in pairs})) for side in (0, 1)] if pairs else None


def _moves(before: ModelDirectory, after: ModelDirectory, projection: str, differing: set[str], progress) -> list[str]:
    """Pairs of layouts, "old → new", whose move of rows makes the old projection the new one in every layer."""
    layers = range(before.config.num_hidden_layers)
    names = [rewrite.weight_name(layer, projection) for layer in layers]
    if not differing.intersection(names):
        return []
    candidates = _candidates(before.config, projection)
    for layer, name in enumerate(names):
        old, new = before.tensors.read(name), after.tensors.read(name)
        candidates = [(index, pairs) for index, pairs in candidates if _same(old[index], new)]
        if not candidates:
            return []
        progress(f"rows of {projection}_proj: {layer + 1} of {len(layers)} layers")
    return candidates[0][1]


def _candidates(config: LlamaConfig, projection: str) -> list[tuple[np.ndarray, list[str]]]:
    """Every move of rows from one layout to another, `new = old[index]`, with the pairs of layouts that it joins.

    Pairs that end at the sound order come first, then those that begin there: an upload said to be fixed is tried as such.
    """
    found = {}
    known = layouts.names(config, projection)
    for old in known:
        for new in known:
            index = np.argsort(layouts.order(config, projection, old))[layouts.order(config, projection, new)]
            if not rewrite.is_identity(index):
                found.setdefault(index.tobytes(), (index, []))[1].append((old, new))
    ranked = [(index, sorted(pairs, key=lambda p: (p[1] != layouts.SOUND, p[0] != layouts.SOUND))) for index, pairs in found.values()]
    return [(index, [f"{old} → {new}" for old, new in pairs]) for index, pairs in ranked]


def _relative_change(before: ModelDirectory, after: ModelDirectory, names: list[str], other: set[str], progress) -> dict:
    """‖new − old‖ / ‖old‖, fp64, by kind of module; rows that were only moved count as unchanged."""
    change, size = dict.fromkeys(hf_weights.PARTS, 0.0), dict.fromkeys(hf_weights.PARTS, 0.0)
    for number, name in enumerate(names):
        kind = hf_weights.part_of(name)
        for old, new in _chunks(before, after, name):
            old = old.astype(np.float64)
            size[kind] += float(np.vdot(old, old))
            if name in other:
                change[kind] += float(np.sum((new.astype(np.float64) - old) ** 2))
        progress(f"size of the change: {number + 1} of {len(names)} tensors")
    ratios = {kind: math.sqrt(change[kind] / size[kind]) if size[kind] else math.nan for kind in hf_weights.PARTS}
    return {kind: ratio if math.isfinite(ratio) else None for kind, ratio in ratios.items()}


# ── the sentence ─────────────────────────────────────────────────────────────────────────────────────────────────


def _sentence(answer: dict) -> str:
    if answer["verdict"] == "other-model":
        return f"Another model: {'; '.join(answer['other_tensors'])}."
    counts, parts = answer["tensors"], []
    if counts["other"]:
        kinds = ", ".join(f"{kind} {'not a number' if r is None else f'{r:.2g}'}" for kind, r in answer["relative_change"].items())
        parts.append(f"Other weights: {counts['other']} of {sum(counts.values())} tensors differ, relative change {kinds}")
    else:
        parts.append("Same weights")
    if answer["dtype"]:
        parts[-1] += f" (stored as {answer['dtype'][0]} → {answer['dtype'][1]})"
    for projection, pair in answer["layout_old_to_new"].items():
        also = "".join(f" (or {pair})" for pair in answer["layout_alternatives"].get(projection, []))
        parts.append(f"rows of {projection}_proj {pair}{also}")
    parts.append(f"config.json: {_changes(answer['config'])}" if answer["config"] else "same config.json")
    if answer["config"] and all(answer[key]["old"] == answer[key]["new"] for key in ("theta", "scaling")):
        parts[-1] += " (RoPE reads as before)"
    return "; ".join(parts) + "."


def _changes(fields: dict[str, list]) -> str:
    """`rope_theta 10000 → 500000, …`; of objects only what differs in them."""
    flat = {}
    for field, (old, new) in fields.items():
        if isinstance(old, dict) and isinstance(new, dict):
            flat |= {f"{field}.{name}": pair for name, pair in _other_fields(old, new).items()}
        else:
            flat[field] = (old, new)
    return ", ".join(f"{field} {_shown(old)} → {_shown(new)}" for field, (old, new) in flat.items())


def _shown(value) -> str:
    if value is None:
        return "absent"
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
