"""Which texts are worth comparing: signatures by rensa's R-MinHash, cut into bands (Leskovec, Rajaraman, Ullman: Mining of Massive
Datasets, chapter 3). Two texts with a band in common are candidates; how similar they are is then measured, not estimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash

from openko.corpus import shingles
from openko.errors import InputError

PERMUTATIONS, SEED = 128, 42
CAUGHT = 0.9  # of pairs exactly at the threshold; above it, more


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

    def of(self, hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """A hash of each band of each text: uint64 [count, texts]. hashes, starts: as `shingles.hashes` gives them."""
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), self.count * self.rows, SEED)
        values = np.array(matrix.to_rows(), np.uint64).reshape(len(starts) - 1, self.count, self.rows)
        mixed = np.zeros(values.shape[:2], np.uint64)
        for k in range(self.rows):
            mixed = (mixed ^ values[:, :, k]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
        return np.ascontiguousarray(mixed.T)


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

    def sketch(self, texts: Sequence[str]) -> np.ndarray:
        """uint64 [bands, texts]."""
        return self.bands.of(*shingles.hashes(texts, self.unit))
