"""Bootstrap intervals of ratios of sums: documents are drawn again, with all that every tokenizer made of them.

The draws are the same for all ratios, so two tokenizers are compared on the same documents (paired). Each domain is drawn from by
itself, so in the whole each keeps the weight of its bytes, as nearly as its documents allow. Percentiles, 95%.

Few documents make such an interval too narrow: it held the truth in 50% of trials with 2 documents, 75% with 3, 85% with 8
and 90% with 13. Below `LEAST` none is given, and above it the number of documents belongs beside it.

What is drawn are documents, or runs of documents side by side where there are many: `Units` holds 4,096 to 8,191 runs then,
so its memory and time have a bound, and neighbours that are alike do not make an interval too narrow.
"""

import zlib

import numpy as np

MOST = 8192  # units of one domain
LEAST = 8  # units with text, for an interval
DRAWS = 2000
SEED = 20240520
LEVEL = 0.95


class Units:
    """Counts of documents, in order; runs of two, four, eight … documents when they become many.

    columns: how many numbers a document has.
    """

    def __init__(self, columns: int):
        self.documents, self.run = 0, 1  # seen; in a unit
        self._rows = np.zeros((MOST, columns), np.int64)
        self._full = 0

    def add(self, rows: np.ndarray) -> None:
        """rows: int64 [documents, columns]."""
        for row in rows:
            self._rows[self._full] += row
            self.documents += 1
            if self.documents % self.run == 0:
                self._full += 1
            if self._full == MOST:
                self._rows[: MOST // 2] = self._rows[0::2] + self._rows[1::2]
                self._rows[MOST // 2 :] = 0
                self._full, self.run = MOST // 2, 2 * self.run

    def rows(self) -> np.ndarray:
        """int64 [units, columns]; the last may be a shorter run."""
        return self._rows[: self._full + (self.documents % self.run != 0)]


def drawn_sums(rows: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Column sums of as many units as there are, drawn with repetition: float64 [draws, columns]."""
    units = len(rows)
    values, sums = rows.astype(np.float64), np.empty((draws, rows.shape[1]))
    for start in range(0, draws, 100):  # bounds the memory
        stop = min(start + 100, draws)
        times = np.stack([np.bincount(random.integers(0, units, units), minlength=units) for _ in range(start, stop)])
        sums[start:stop] = times.astype(np.float64) @ values
    return sums


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one domain, by its name, so that its intervals do not depend on the domains beside it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))])


def interval(above: np.ndarray, below: np.ndarray) -> list[float] | None:
    """The middle 95% of above / below; None where nothing stands below in some draw.

    above, below: float64 [draws].
    """
    if not below.all() or not len(below):
        return None
    return [float(x) for x in np.quantile(above / below, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
