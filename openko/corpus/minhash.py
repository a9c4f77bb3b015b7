"""Which texts are worth comparing: signatures by rensa's R-MinHash, cut into bands (Leskovec, Rajaraman, Ullman: Mining of Massive
Datasets, chapter 3). Two texts with a band in common are candidates. Among millions of texts most candidates share a band by chance; one
byte of each value of the signatures tells them apart (Li, König: b-bit minwise hashing, arXiv 0910.3349). How similar the others are is
then measured, not estimated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash

from openko.corpus import shingles
from openko.errors import InputError

PERMUTATIONS, SEED = 128, 42
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: the golden ratio's
CAUGHT = 0.9  # of pairs exactly at the threshold, by the bands; above it, more
PASSED = 0.999  # of pairs exactly at the threshold, by their bytes


@dataclass(frozen=True)
class Bands:
    """count bands of rows values each."""

    count: int
    rows: int

    @classmethod
    def for_threshold(cls, threshold: float) -> "Bands":
        """The longest bands, so the fewest false candidates, that still catch CAUGHT of the pairs at a Jaccard of `threshold`."""
        choices = [cls(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS + 1)]
        return max((bands for bands in choices if bands.probability(threshold) >= CAUGHT), key=lambda bands: bands.rows)

    def probability(self, jaccard):
        """That two texts of this Jaccard, a number or an array, have a band in common."""
        return 1 - (1 - jaccard**self.rows) ** self.count

    def signatures(self, hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """uint64 [texts, count, rows], of 32 bits each. hashes, starts: as `shingles.hashes` gives them."""
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), self.count * self.rows, SEED)
        return np.array(matrix.to_rows(), np.uint64).reshape(len(starts) - 1, self.count, self.rows)


def hashed(signatures: np.ndarray) -> np.ndarray:
    """A hash of each band of each text: uint64 [bands, texts]."""
    mixed = np.zeros(signatures.shape[:2], np.uint64)
    for k in range(signatures.shape[2]):
        mixed = (mixed ^ signatures[:, :, k]) * MIX
        mixed ^= mixed >> np.uint64(32)
    return np.ascontiguousarray(mixed.T)


def one_byte(signatures: np.ndarray) -> np.ndarray:
    """A byte of each value: uint8 [texts, values]. Those of equal values are equal, those of others in one case of 256."""
    return ((signatures * MIX) >> np.uint64(56)).astype(np.uint8).reshape(len(signatures), -1)


@dataclass(frozen=True)
class Similar:
    """What counts as nearly the same text: a Jaccard of at least `threshold` between the sets of shingles of a `unit`."""

    unit: str = "syllable"
    threshold: float = 0.7

    def __post_init__(self):
        if self.unit not in shingles.UNITS:
            raise InputError(f"unit is one of {', '.join(shingles.UNITS)}, found {self.unit!r}")
        if not 0.3 <= self.threshold <= 1:
            raise InputError(f"threshold is a Jaccard from 0.3 to 1, found {self.threshold:g}: below, half of all pairs were candidates")

    @property
    def bands(self) -> Bands:
        return Bands.for_threshold(self.threshold)

    @property
    def least_equal(self) -> int:
        """So many bytes of two sketches are equal, or more, for PASSED of the pairs at the threshold."""
        values, equal = self.bands.count * self.bands.rows, self.threshold + (1 - self.threshold) / 256
        below = 0.0
        for count in range(values):
            below += math.comb(values, count) * equal**count * (1 - equal) ** (values - count)
            if below > 1 - PASSED:
                return count
        return values

    def sketch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The bands, uint64 [bands, texts], and one byte of each value, uint8 [texts, values]."""
        signatures = self.bands.signatures(*shingles.hashes(texts, self.unit))
        return hashed(signatures), one_byte(signatures)
