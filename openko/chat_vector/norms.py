"""How large the vector is, by layer and part, and whether three models can be what they are said to be."""

import math

import numpy as np

from openko.chat_vector.arithmetic import Squares
from openko.chat_vector.models import Addition, Models
from openko.chat_vector.streaming import Done

SAMPLED, FROM_EACH = 16, 1 << 15  # matrices that are looked at before the work, and about how many weights of each
# |chat − base| / |base| over the matrices of attention and MLPs. A chat tuning moves them by 0.1 (laptop and smoke profile;
# less in large models), two models from different starts by 1.38 to 1.54 (the same profiles), √2 where their norms agree.
# The continued model in the base's place, which is a likely mistake, makes it 0.91.
FAR = 0.7
# Cosine of target and base over the same matrices: 0.67 and 0.98 for the continued models of the laptop and the smoke
# profile, the first of which was moved by 0.90 of its norm; 0.001 for models from different starts. Its size does not matter.
UNRELATED = 0.3


def table(additions: list[Addition], done: dict[str, Done]) -> list[dict]:
    """A row for each layer and part, and for each tensor outside the layers, in the order of the model.

    {"place", "part", "vector", "base", "moved", "target"}: Euclidean norms of chat − base, base, target − base, target;
    None where the target's tensor was copied because the others have other rows.
    """
    rows: dict[tuple, Squares | None] = {}
    for addition in additions:
        key, found = (addition.place, addition.part), done[addition.name].squares
        rows[key] = None if found is None else rows.get(key, Squares()) + found
    return [{"place": place, "part": part} | _norms(found) for (place, part), found in rows.items()]


def of_tensors(additions: list[Addition], done: dict[str, Done]) -> list[dict]:
    """The same for every tensor, with its shape and λ."""
    return [
        {"tensor": a.name, "shape": list(a.target.shape), "dtype": str(a.target.dtype), "scale": a.scale} | _norms(done[a.name].squares)
        for a in additions
    ]


def _norms(found: Squares | None) -> dict[str, float | None]:
    return dict.fromkeys(Squares._fields) if found is None else {name: math.sqrt(value) for name, value in found._asdict().items()}


def total(additions: list[Addition], done: dict[str, Done], *parts: str) -> Squares:
    """Over all tensors that were summed, or those of some parts."""
    return sum((d.squares for a in additions if (d := done[a.name]).squares and (not parts or a.part in parts)), start=Squares())


def judge(found: Squares, models: Models, nearer: float | None = None) -> dict[str, str]:
    """{kind: what a person should know}, with the numbers; empty where nothing is odd.

    found: sums over matrices of attention and MLPs. nearer: |chat − target|² over the same, where it is known.
    """
    target, base, chat = (model.path for model in models.all.values())
    vector, of_base, moved, of_target = (math.sqrt(x) for x in found)
    if of_base == 0 or of_target == 0:
        return {"zero": f"the matrices of {base if of_base == 0 else target} are zero"}
    cosine = (found.target + found.base - found.moved) / (2 * of_target * of_base)
    warnings = {}
    if vector == 0:
        warnings["nothing"] = f"{chat} and {base} hold the same weights: the vector is zero"
    elif vector / of_base > FAR:
        warnings["base"] = (
            f"|chat − base| is {vector / of_base:.2f} of |base| (a chat tuning moves it by 0.1 or less, unrelated models are 1.4 apart): "
            f"was {chat} really tuned from {base}?"
        )
    elif nearer is not None and nearer < found.vector:
        warnings["base"] = (
            f"{chat} is nearer to the target (|chat − target| = {math.sqrt(nearer / found.base):.2g} of |base|) than to the base "
            f"({vector / of_base:.2g}): are {target} and {base} exchanged?"
        )
    if cosine < UNRELATED:
        warnings["target"] = (
            f"the cosine between target and base is {cosine:.2f}, |target − base| is {moved / of_base:.2f} of |base| (the cosine of a "
            f"continued model is 0.6 to 1, of an unrelated one 0): did {target} really go on from {base}?"
        )
    return warnings


def look(additions: list[Addition], models: Models) -> dict[str, str]:
    """`judge` by some rows from the middle of some matrices, in a moment, before all the weights are read."""
    matrices = [a for a in additions if a.part in ("attention", "mlp") and len(a.target.shape) == 2]
    some = [matrices[i] for i in sorted({round(x) for x in np.linspace(0, len(matrices) - 1, SAMPLED)})]
    found, nearer = Squares(), 0.0
    for a in some:
        height, width = a.target.shape
        rows = slice(height // 2, min(height, height // 2 + max(1, FROM_EACH // width)))
        t, b, c = (model.tensors.read(a.name, rows).astype(np.float64) for model in models.all.values())
        found += Squares(*(float(np.sum(x * x)) for x in (c - b, b, t - b, t)))
        nearer += float(np.sum((c - t) ** 2))
    return judge(found, models, nearer) if math.isfinite(sum(found)) else {}  # a NaN is named with its tensor later
