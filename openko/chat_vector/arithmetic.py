"""target + λ (chat − base) in fp32, a block at a time: the one place where the sum is made.

Plain numpy, for two reasons. Its fp32 is the same on every machine, whereas XLA multiplies and adds in one rounding where
the processor can, which moves a result now and then by one bf16 step. And it is there at once: a compiled function reads
the weights faster, but importing and compiling it costs what it saves on a 1B model.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from openko import hf_weights
from openko.errors import InputError
from openko.profiles import VectorScale

WHOLE = VectorScale()  # the paper's: every part alike
BLOCK = 1 << 18  # weights at once: few enough to stay in the processor's cache, enough that Python's share is small
DOT = 256  # numbers of one BLAS product: numpy lets other threads run only where a call has more than 500 of them
HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # every fp16 number: numpy widens them one by one
METHODS = ("add", "damped")


class Squares(NamedTuple):
    """Sums of squares over some weights: of chat − base, base, target − base and target."""

    vector: float = 0.0
    base: float = 0.0
    moved: float = 0.0
    target: float = 0.0

    def __add__(self, other: "Squares") -> "Squares":
        return Squares(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Damping:
    """Smallest |target − base| of a tensor, and how far the largest lies above it: what "damped" needs of the whole tensor.

    After Jeonghwan Park's (maywell's) EasyLLMFeaturePorter (2024, github.com/StableFluffy/EasyLLMFeaturePorter): each weight
    of the vector is multiplied by 1 − ratio, ratio = sigmoid(12 n − 6), n = |target − base| scaled to [0, 1] by the tensor's
    own smallest and largest. The weights that the continued training moved most receive least of the vector.

    It helps where continued training and chat tuning moved the same weights, and the plain sum at λ = 1 costs too much of
    the new language. It does not help where few outliers set a tensor's largest: nearly every n is then small, 1 − ratio is
    0.998, and the result is the plain sum.
    """

    low: float
    span: float

    @property
    def applies(self) -> bool:
        return self.span >= 1e-6  # else the ratio is 0, as in the original

    def of(self, moved: np.ndarray) -> np.ndarray:
        """target − base, fp32, overwritten by the share 1 − ratio that its weight of the vector receives."""
        np.abs(moved, out=moved)
        moved -= np.float32(self.low)
        moved /= np.float32(self.span)
        moved *= np.float32(12)
        moved -= np.float32(6)
        np.negative(moved, out=moved)
        np.exp(moved, out=moved)
        moved += np.float32(1)
        np.divide(np.float32(1), moved, out=moved)
        return np.subtract(np.float32(1), moved, out=moved)


class Adder:
    """The sum for up to `size` weights at a time, in buffers that are used again; one for each thread."""

    def __init__(self, size: int):
        self._room = np.empty((3, size), np.float32)

    def __call__(self, target, base, chat, scale: float, damping: Damping | None = None) -> tuple[np.ndarray, Squares]:
        """target + scale × (chat − base), and the sums of squares.

        target, base, chat: flat, of one length, in any of hf_weights.DTYPES. The sum is fp32 and lies in a buffer: it is
        overwritten by the next call. Where a sum of squares is not finite, a weight is not, or its square is beyond fp32.
        """
        t, b, c = self._room[:, : len(target)]
        for narrow, wide in ((target, t), (base, b), (chat, c)):
            widen(narrow, wide)
        of_base, of_target = squares(b), squares(t)
        vector, moved = np.subtract(c, b, out=c), np.subtract(t, b, out=b)
        found = Squares(squares(vector), of_base, squares(moved), of_target)
        if scale == 0.0:  # the target's own weights: adding zero would still turn −0 into 0
            return t, found
        if damping is not None and damping.applies:
            vector *= damping.of(moved)
        if scale != 1.0:
            vector *= np.float32(scale)
        return np.add(t, vector, out=t), found

    def moved(self, target, base) -> tuple[float, float]:
        """Smallest and largest |target − base|."""
        t, b, _ = self._room[:, : len(target)]
        widen(target, t)
        widen(base, b)
        apart = np.abs(np.subtract(t, b, out=t), out=t)
        return float(apart.min()), float(apart.max())


def widen(narrow: np.ndarray, wide: np.ndarray) -> None:
    """Any of hf_weights.DTYPES into fp32; exact."""
    if narrow.dtype == np.float16:
        np.take(HALF, narrow.view(np.uint16), out=wide, mode="clip")
    else:
        np.copyto(wide, narrow)


def squares(x: np.ndarray) -> float:
    """Sum of squares of fp32 numbers: in fp32 over DOT of them, in fp64 over those sums."""
    whole = len(x) // DOT * DOT
    rows, rest = x[:whole].reshape(-1, DOT), x[whole:]
    return float(np.vecdot(rows, rows).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def put_rows(summed: np.ndarray, own: np.ndarray, rows: np.ndarray, width: int, start: int) -> None:
    """Rows of a matrix as they are in `own`, where `summed` and `own` are its numbers from `start` on; width: of a row."""
    stop = start + len(summed)
    for row in rows[(rows * width < stop) & ((rows + 1) * width > start)]:
        part = slice(max(row * width, start) - start, min((row + 1) * width, stop) - start)
        summed[part] = own[part]


def effective(scale: float, parts: VectorScale) -> VectorScale:
    """λ of each part: the whole's times the part's share."""
    if parts.special not in ("merge", "transplant", "keep"):
        raise InputError(f"special tokens are made by 'merge', 'transplant' or 'keep', found {parts.special!r}")
    lambdas = {part: float(scale * getattr(parts, part)) for part in hf_weights.PARTS}
    for part, value in lambdas.items():
        if not math.isfinite(value):
            raise InputError(f"λ of {part} must be a finite number, found {value}")
    return VectorScale(**lambdas, special=parts.special)


def check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, found {method!r}")


def add(
    target: dict, base: dict, chat: dict, *, scale: float, parts: VectorScale = WHOLE, special: np.ndarray, method: str = "add"
) -> dict:  # fmt: skip
    """The same sum as `merge` writes, for parameter trees in memory (openko.llama's), fp32 out.

    special: ids of the rows that are not summed, from `special_rows`; int, shape [n]. method: "add" or "damped" (`Damping`).
    """
    check_method(method)
    lambdas, adder = effective(scale, parts), Adder(BLOCK)

    def tensor(part, *models):
        """One tensor as it lies in a file: the whole of a weight, or a layer's part of a stacked one."""
        t, b, c = (x.reshape(-1) for x in models)
        own = c if parts.special == "transplant" else t
        blocks = [slice(start, start + BLOCK) for start in range(0, len(t), BLOCK)]
        damping = damping_of([adder.moved(t[k], b[k]) for k in blocks]) if method == "damped" else None
        out = np.empty(t.shape, np.float32)
        for k in blocks:
            out[k] = adder(t[k], b[k], c[k], getattr(lambdas, part), damping)[0]
            if part == "embed":
                put_rows(out[k], own[k], special, models[0].shape[-1], k.start)
        return out.reshape(models[0].shape)

    def tree(path, t, b, c):
        if isinstance(t, dict):
            # A model whose embedding is tied has it in lm_head's place too.
            return {key: tree((*path, key), t[key], *(m[key if key in m else "embed_tokens"] for m in (b, c))) for key in t}
        part, (t, b, c) = hf_weights.part_of(".".join(path)), (np.asarray(x) for x in (t, b, c))
        if not t.shape == b.shape == c.shape:
            raise InputError(f"{'.'.join(path)} is {t.shape} in the target, {b.shape} in the base and {c.shape} in the chat model")
        if path[0] == "layers":
            return np.stack([tensor(part, *layer) for layer in zip(t, b, c, strict=True)])
        return tensor(part, t, b, c)

    return tree((), target, base, chat)


def damping_of(extremes: list[tuple[float, float]]) -> Damping:
    """From the smallest and largest |target − base| of every block of a tensor."""
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    return Damping(low, high - low)
