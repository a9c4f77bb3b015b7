"""How many tokens a corpus will make, from the documents that are there: bytes per token, by source, with intervals.

The model card counts "17.7B+" tokens of "60GB+" text, Open-Solar-Ko's card about 61 GB of the same: 3.45 bytes a token. A forecast
says what other text says about that, and how surely.
"""

import math
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from scipy import stats

from openko.errors import InputError

CARD_TOKENS, CARD_BYTES = 17.7e9, 61e9  # Llama-3-Open-Ko-8B's card; Open-Solar-Ko's card
CONFIDENCE = 0.95
FEW = 30  # effective documents
GROUPS = 10_000
CHUNK = 256  # resamples in memory at a time: 256 × 10,000 numbers, 20 MB


@dataclass(frozen=True)
class Estimate:
    """Bytes per token of one source. low, high: its 95% interval over documents. bytes, tokens, documents: what was measured.

    effective: the number of equally large documents that would tell as much (Kish: (Σ bytes)² / Σ bytes²).
    """

    value: float
    low: float
    high: float
    documents: int
    effective: float
    bytes: int
    tokens: int

    @property
    def note(self) -> str:
        """What a person should know of the interval; empty where there is nothing."""
        if self.documents < FEW:
            return f"only {self.documents} document" + ("s" if self.documents > 1 else "")
        if self.effective < FEW:
            return f"{self.documents} documents of very unequal size tell as much as {self.effective:.0f}"
        return ""


@dataclass(frozen=True)
class Forecast:
    """tokens of `total_bytes` of text, with a 95% interval that covers the choice of documents inside each source and nothing else.

    if_all: {source: tokens if all of it were like this source}: how far the mixture, which no interval covers, may move the forecast.
    weights: {source: share of the bytes}.
    """

    total_bytes: float
    tokens: float
    low: float
    high: float
    weights: dict[str, float]
    estimates: dict[str, Estimate]

    @property
    def bytes_per_token(self) -> float:
        return self.total_bytes / self.tokens

    @property
    def if_all(self) -> dict[str, float]:
        return {name: self.total_bytes / e.value for name, e in self.estimates.items()}

    def to_json(self) -> dict:
        """Plain JSON data; None stands for an end that is not known."""
        return {
            "total_bytes": self.total_bytes, "tokens": self.tokens, "low": self.low, "high": _finite(self.high),
            "bytes_per_token": self.bytes_per_token, "confidence": CONFIDENCE, "weights": self.weights, "if_all": self.if_all,
            "card": {"tokens": CARD_TOKENS, "bytes": CARD_BYTES, "bytes_per_token": CARD_BYTES / CARD_TOKENS},
            "sources": {
                name: {
                    "bytes_per_token": e.value, "low": e.low, "high": _finite(e.high), "documents": e.documents,
                    "effective_documents": e.effective, "bytes": e.bytes, "tokens": e.tokens, "note": e.note,
                }
                for name, e in self.estimates.items()
            },
        }  # fmt: skip

    def table(self) -> str:
        """Plain text for a terminal."""
        total = f"{self.total_bytes / 1e9:g} GB"
        rows = [("source", "documents", "share", "bytes/token", "95%", f"tokens of {total}, if all were like it")]
        for name, e in self.estimates.items():
            rows.append((name, f"{e.documents:,}", f"{self.weights[name]:.1%}", f"{e.value:.3f}", _interval(e.low, e.high, ".3f"),
                         f"{self.if_all[name] / 1e9:.2f}B"))  # fmt: skip
        low, high = (self.total_bytes / x if x else math.inf for x in (self.high, self.low))
        rows.append(("forecast", "", "", f"{self.bytes_per_token:.3f}", _interval(low, high, ".3f"),
                     f"{self.tokens / 1e9:.2f}B ({_interval(self.low / 1e9, self.high / 1e9, '.2f')})"))  # fmt: skip
        rows.append(("model card", "", "", f"{CARD_BYTES / CARD_TOKENS:.3f}", "", f"{CARD_TOKENS / 1e9:.2f}B of {CARD_BYTES / 1e9:g} GB"))
        widths = [max(cell_len(row[k]) for row in rows) for k in range(len(rows[0]))]  # Hangul is two cells wide
        lines = []
        for row in rows:
            gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join([row[0] + gaps[0], *(gap + cell for gap, cell in zip(gaps[1:], row[1:], strict=True))]).rstrip())
        notes = [f"{name}: {e.note}" for name, e in self.estimates.items() if e.note]
        notes.append("The interval covers which documents of these sources were measured, not which sources there will be" + self._spread())
        return "\n".join([*lines, "", *notes]) + "\n"

    def _spread(self) -> str:
        if len(self.if_all) == 1:
            return "."
        least, most = (choose(self.if_all, key=self.if_all.get) for choose in (min, max))
        by = f"{self.if_all[least] / 1e9:.2f}B ({least}) and {self.if_all[most] / 1e9:.2f}B ({most})"
        return f": with another mixture of them alone it is between {by}."


def bytes_per_token(bytes: np.ndarray, tokens: np.ndarray, *, samples: int = 2000, seed: int = 0) -> Estimate:
    """Bytes per token of a source, from bytes [n] and tokens [n] of its documents: Σ bytes / Σ tokens, not the mean of ratios.

    The interval is the percentile bootstrap over documents, on the logarithm, widened by what it is known to lack: √(n / (n − 1)) for
    the variance, and Student's t in place of the normal distribution, n the effective number of documents. One document
    says nothing of its spread: its interval is (0, ∞). More than GROUPS documents are first put together into as many
    groups at random, which leaves the variance as it is.
    """
    sizes, counts = np.asarray(bytes, np.int64), np.asarray(tokens, np.int64)
    if sizes.ndim != 1 or sizes.shape != counts.shape:
        raise InputError(f"bytes and tokens are two numbers for each document, found shapes {sizes.shape} and {counts.shape}")
    if not len(sizes):
        raise InputError("bytes per token of no document: measure one at least")
    if (sizes < 0).any() or (counts <= 0).any():
        raise InputError("a document has 0 bytes or more and 1 token or more; found others")
    random = np.random.default_rng(seed)
    whole_bytes, whole_tokens = int(sizes.sum()), int(counts.sum())
    if not whole_bytes:
        raise InputError(f"{len(sizes)} documents without a byte of text")
    value, x = whole_bytes / whole_tokens, sizes.astype(np.float64)
    effective = float(x.sum() ** 2 / (x**2).sum())
    low, high = _bootstrap(*_groups(sizes, counts, random), samples, random)
    widened = _widening(effective)
    if math.isfinite(widened):
        with np.errstate(divide="ignore", over="ignore"):  # 0 and ∞ are honest ends
            low, high = (float(value * (np.float64(end) / value) ** widened) for end in (low, high))
    else:
        low, high = 0.0, math.inf
    return Estimate(value, low, high, len(sizes), effective, whole_bytes, whole_tokens)


def forecast(estimates: dict[str, Estimate], total_bytes: float = CARD_BYTES, weights: dict[str, float] | None = None) -> Forecast:
    """Tokens of `total_bytes` of text of which each source has its share. weights: bytes of each source, in any unit; left out: as
    measured.

    Sources are measured apart, so what is uncertain in each adds up in squares, downwards and upwards for itself.
    """
    if not estimates:
        raise InputError("a forecast needs one source at least")
    weights = {name: e.bytes for name, e in estimates.items()} if weights is None else weights
    if set(weights) != set(estimates) or any(not w >= 0 for w in weights.values()) or not 0 < sum(weights.values()) < math.inf:
        raise InputError(f"weights are bytes for each of {', '.join(estimates)}, 0 or more and not all 0; found {weights}")
    if not 0 < total_bytes < math.inf:
        raise InputError(f"a forecast is for more than 0 bytes, found {total_bytes}")
    shares = {name: weights[name] / sum(weights.values()) for name in estimates}
    used = {name: e for name, e in estimates.items() if shares[name]}
    tokens = {name: total_bytes * shares[name] / e.value for name, e in used.items()}
    below = math.hypot(*(tokens[name] - total_bytes * shares[name] / e.high for name, e in used.items()))
    above = math.hypot(*((total_bytes * shares[name] / e.low if e.low else math.inf) - tokens[name] for name, e in used.items()))
    total = sum(tokens.values())
    return Forecast(total_bytes, total, max(0.0, total - below), total + above, shares, dict(estimates))


def _groups(sizes: np.ndarray, counts: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sums over GROUPS random groups of documents, as float64; the documents themselves where they are fewer."""
    if len(sizes) <= GROUPS:
        return sizes.astype(np.float64), counts.astype(np.float64)
    group = random.permutation(len(sizes)) % GROUPS
    return np.bincount(group, sizes, GROUPS), np.bincount(group, counts, GROUPS)


def _bootstrap(sizes: np.ndarray, counts: np.ndarray, samples: int, random: np.random.Generator) -> tuple[float, float]:
    """2.5th and 97.5th percentile of Σ bytes / Σ tokens over resampled documents."""
    ratios = []
    for start in range(0, samples, CHUNK):
        drawn = random.integers(0, len(sizes), (min(CHUNK, samples - start), len(sizes)))
        ratios.append(sizes[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(ratios), [tail, 100 - tail])
    return float(low), float(high)


def _widening(effective: float) -> float:
    """By how much a bootstrap interval of so many documents is too narrow; 1 for many, infinite for one."""
    if effective <= 1 + 1e-9:
        return math.inf
    tail = (1 - CONFIDENCE) / 2
    return float(stats.t.isf(tail, effective - 1) / stats.norm.isf(tail)) * math.sqrt(effective / (effective - 1))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _interval(low: float, high: float, form: str) -> str:
    return f"{low:{form}} to {high:{form}}"
