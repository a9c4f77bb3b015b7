"""What two texts are compared by: the sets of their shingles, as 64-bit hashes.

A shingle is LENGTH neighbouring units of a text in NFC: "syllable": characters, with white space left out, so that Korean that lost
its spaces, or has others, has the same shingles; "eojeol": what stands between white space. A text of fewer units is one shingle.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

UNITS = ("syllable", "eojeol")
LENGTH = 5
FILLER = "\udfff"  # makes short texts long enough: half a surrogate pair stands in no text that a file holds
# Odd, so that no factor of 2**64 is lost: a polynomial's base, and the finalizer of MurmurHash3 (public domain), which mixes its result.
BASE, MIX = np.uint64(0x9E3779B97F4A7C15), (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
HALF = np.uint64(33)


def hashes(texts: Sequence[str], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Shingles of all texts, with repetitions: uint64 [n], and where each text's begin and the last one's end, int64 [texts + 1]."""
    values, counts = _syllables(texts) if unit == "syllable" else _eojeol(texts)
    ends = np.cumsum(counts)
    whole = np.zeros(max(0, len(values) - LENGTH + 1), np.uint64)
    for k in range(LENGTH):
        whole *= BASE
        whole += values[k : k + len(whole)]
    # The last windows of a text reach into the next one.
    within = np.ones(len(values), bool)
    for k in range(1, LENGTH):
        within[ends[counts > 0] - k] = False
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.maximum(counts - LENGTH + 1, 0), out=starts[1:])
    return _mixed(whole[within[: len(whole)]]), starts


def sets(texts: Sequence[str], unit: str) -> list[np.ndarray]:
    """The set of each text's shingles: uint64, sorted, each once. Empty for a text of white space."""
    flat, starts = hashes(texts, unit)
    return [_distinct(flat[start:stop]) for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a ∩ b| / |a ∪ b| of two sets as `sets` gives them; 0 if both are empty."""
    both = np.concatenate((a, b))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / max(1, len(both) - shared)


def _distinct(values: np.ndarray) -> np.ndarray:
    # np.unique takes twice as long.
    values.sort()
    return values[np.concatenate((values[:1] == values[:1], values[1:] != values[:-1]))]


def _syllables(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    bare = ["".join(_composed(text).split()) for text in texts]
    bare = [text.ljust(LENGTH, FILLER) if text else "" for text in bare]
    return _letters("".join(bare)).astype(np.uint64), _counts(bare)


def _eojeol(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    words = [_composed(text).split() for text in texts]
    words = [some + [FILLER] * (LENGTH - len(some)) if some else some for some in words]
    flat = [word for some in words for word in some]
    if not flat:
        return np.empty(0, np.uint64), _counts(words)
    lengths = _counts(flat)
    starts = np.cumsum(lengths) - lengths
    powers = np.cumprod(np.full(lengths.max(), BASE))
    places = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return _mixed(np.add.reduceat(_letters("".join(flat)) * powers[places], starts)), _counts(words)


def _composed(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _letters(text: str) -> np.ndarray:
    # Half a surrogate pair is a character like any other here.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _counts(items: Sequence) -> np.ndarray:
    return np.fromiter(map(len, items), np.int64, len(items))


def _mixed(values: np.ndarray) -> np.ndarray:
    values = values ^ (values >> HALF)
    for factor in MIX:
        values *= factor
        values ^= values >> HALF
    return values
