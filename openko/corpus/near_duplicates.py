"""Which documents of some runs are nearly the same as one that stays.

A document goes if the Jaccard of its shingles with those of a *kept* document is at or above the threshold, so there are no chains: of
A ~ B ~ C with A unlike C, both A and C stay. Who is asked first stays: the source of the smallest priority number, then the longer text,
then the smaller hash. So the result depends on the texts alone, not on files, workers or their order.

Candidates (openko.corpus.candidates) are compared first, in parts that do not concern each other, by any number of workers; who goes is
decided afterwards, by their Jaccards alone, and that takes a process a second for a million pairs. Two rounds: in the first, documents
are compared with the FIRST of each of their buckets, in which most copies find the one that stays. What is left is a crowd, such as a
form that a hundred thousand people filled in: of those who stay in it, the first MOST of each bucket are compared.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from openko.corpus import candidates, shingles, tasks
from openko.corpus.candidates import EARLIER, KEPT, LATER, OPEN, REMOVED
from openko.corpus.minhash import Similar
from openko.corpus.runs import Runs, parsed, save

# A near-duplicate: its place, the place of the document that stays, and how similar they are.
NEAR = np.dtype([("place", "<u8"), ("kept", "<u8"), ("jaccard", "<f8")])
EDGE = np.dtype([("later", "<u4"), ("earlier", "<u4"), ("jaccard", "<f8")])  # two ranks at or above the threshold
FIRST, MOST = 8, 64
TASK_PAIRS = 20_000  # that one worker compares; little input makes small tasks, to keep all workers busy
LOAD_BYTES, HELD_BYTES = 4_000_000, 200_000_000  # of texts read together, and of shingles in memory


def find(
    directories: list[Path], priorities: list[int], among: list[int], similar: Similar, scratch: Path, *, engine: tasks.Engine, say=print
) -> tuple[Path, dict]:  # fmt: skip
    """The path of an array of NEAR, sorted by place, and {"candidates": pairs that share a band, once for each band; "compared": pairs
    whose texts were compared; "incomplete": documents that stayed although not all of their candidates were looked at}.

    priorities, among: of the sources, by their numbers; only documents of the same `among` are compared (as RunWriter was told).
    Copies of a text are not looked at, but for the first. scratch: a directory for what lies between, and the result.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    ranks, places = scratch / "ranks.npy", scratch / "places.npy"
    ranking = (directories, priorities, among, ranks, places)
    [whole] = tasks.run(candidates.rank, [ranking], scratch / "ranked", engine=engine, what="ordering documents", say=say)
    given = (directories, priorities, similar)
    edges, standing, counts = np.empty(0, EDGE), None, {"candidates": 0, "compared": 0}
    for round, window in enumerate((FIRST, MOST), start=1):
        here = scratch / f"round-{round}"
        (here / "pairs").mkdir(parents=True, exist_ok=True)
        pieces = 1 + whole["documents"] // candidates.PIECE
        asked = [
            (*given, ranks, places, standing, window, band, piece, pieces, here / "pairs" / f"{band:03d}-{piece:05d}.npy")
            for band in range(similar.bands.count)
            for piece in range(pieces)
        ]
        sizes = [whole["bytes"] / len(asked)] * len(asked)
        paired = tasks.run(
            candidates.pair, asked, here / "paired", engine=engine, sizes=sizes, what=f"finding candidates, round {round}", say=say
        )
        counts["candidates"] += sum(result["candidates"] for result in paired)
        files = [asked_for[-1] for asked_for in asked]
        found, compared = _compared(given, places, files, here, whole, engine, f"comparing candidates, round {round}", say)
        counts["compared"] += compared
        edges = np.unique(np.concatenate((edges, found)))
        not_all = np.unique(np.concatenate([np.load(path.with_suffix(".open")) for path in files]))
        stands = _stand(whole["documents"], edges, not_all)
        if not (stands == OPEN).any():
            break
        standing = here / "standing.npy"
        save(standing, stands)
    stands = _stand(whole["documents"], edges, not_all[:0])
    place_of = np.load(places)
    near = _near(edges, stands, place_of)
    save(scratch / "near.npy", near)
    return scratch / "near.npy", counts | {"incomplete": int(np.count_nonzero(stands[not_all] == KEPT))}


def _stand(documents: int, edges: np.ndarray, not_all: np.ndarray) -> np.ndarray:
    """uint8 [documents], by rank: KEPT, REMOVED or OPEN. Open are those in not_all and those that are like an open one, unless they are
    like one that is surely kept. edges: sorted by `later`, then `earlier`."""
    stands = np.full(documents, KEPT)
    stands[not_all] = OPEN
    found = np.unique(edges["later"], return_index=True, return_counts=True)
    earlier = edges["earlier"].tolist()
    for rank, start, count in zip(*(numbers.tolist() for numbers in found), strict=True):
        before = {stands[other] for other in earlier[start : start + count]}
        if KEPT in before:
            stands[rank] = REMOVED
        elif OPEN in before:
            stands[rank] = OPEN
    return stands


def _near(edges: np.ndarray, stands: np.ndarray, places: np.ndarray) -> np.ndarray:
    """NEAR of those that are removed: with the one that stays that is most like it, of equals the first."""
    edges = edges[stands[edges["earlier"]] == KEPT]
    edges = edges[np.lexsort((edges["earlier"], -edges["jaccard"], edges["later"]))]
    _, best = np.unique(edges["later"], return_index=True)
    edges = edges[best]
    near = np.empty(len(edges), NEAR)
    near["place"], near["kept"], near["jaccard"] = places[edges["later"]], places[edges["earlier"]], edges["jaccard"]
    near.sort(order="place")
    return near


# ── comparing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(
    given: tuple, places: Path, files: list[Path], here: Path, whole: dict, engine: tasks.Engine, what: str, say
) -> tuple[np.ndarray, int]:  # fmt: skip
    """All EDGEs among the pairs of some files, and how many pairs there were."""
    folder = here / "edges"
    folder.mkdir(exist_ok=True)
    bounds, counts = _shares(files, whole["documents"])
    each = whole["bytes"] / max(1, whole["documents"])
    asked = [(*given, places, files, low, high, folder / f"{number:05d}.npy") for number, (low, high) in enumerate(bounds)]
    results = tasks.run(_compare, asked, here / "compared", engine=engine, sizes=[count * each for count in counts], what=what, say=say)
    return np.concatenate([np.empty(0, EDGE), *(np.load(out) for *_, out in asked)]), sum(result["compared"] for result in results)


def _shares(files: list[Path], documents: int) -> tuple[list[tuple[int, int]], list[int]]:
    """[low, high) of ranks that have about TASK_PAIRS pairs together, and how many they have. A pair in two files counts twice."""
    bins = 1 << 16
    width = -(-documents // bins) or 1
    counts = np.zeros(bins, np.int64)
    for path in files:
        pairs = np.load(path, mmap_mode="r")
        for start in range(0, len(pairs), 1 << 20):
            later = (pairs[start : start + (1 << 20)] >> LATER).astype(np.int64)
            counts += np.bincount(later // width, minlength=bins)
    before = np.cumsum(counts) - counts
    starts = np.flatnonzero(np.append(True, np.diff(before // TASK_PAIRS) > 0))
    shares = np.add.reduceat(counts, starts)
    bounds = [(int(a) * width, int(b) * width) for a, b in zip(starts, np.append(starts[1:], bins), strict=True)]
    return [bound for bound, count in zip(bounds, shares, strict=True) if count], [int(count) for count in shares if count]


def _compare(
    directories: list[Path], priorities: list[int], similar: Similar, places: Path, files: list[Path], low: int, high: int, out: Path
) -> dict:  # fmt: skip
    """Write the EDGEs among the pairs whose later one's rank is in [low, high)."""
    of_all = [np.load(path, mmap_mode="r") for path in files]
    bounds = np.array([low, high], np.uint64) << LATER
    pairs = np.unique(np.concatenate([pairs[slice(*np.searchsorted(pairs, bounds))] for pairs in of_all]))
    later, earlier = (pairs >> LATER).astype(np.int64), (pairs & EARLIER).astype(np.int64)
    texts, likeness = _Texts(Runs(directories, priorities), np.load(places, mmap_mode="r"), similar.unit), np.empty(len(pairs))
    for some in _portions(texts.bytes(later) + texts.bytes(earlier)):
        texts.load(np.union1d(later[some], earlier[some]).tolist())
        for k in range(some.start, some.stop):
            likeness[k] = shingles.jaccard(texts[later[k]], texts[earlier[k]])
    alike = likeness >= similar.threshold
    edges = np.empty(np.count_nonzero(alike), EDGE)
    edges["later"], edges["earlier"], edges["jaccard"] = later[alike], earlier[alike], likeness[alike]
    save(out, edges)
    return {"compared": len(pairs)}


def _portions(bytes: np.ndarray) -> Iterator[slice]:
    """Slices of about LOAD_BYTES, or of one."""
    portion = np.cumsum(bytes) // LOAD_BYTES
    starts = np.flatnonzero(np.append(True, portion[1:] != portion[:-1])[: len(bytes)])
    yield from map(slice, starts.tolist(), np.append(starts[1:], len(bytes)).tolist())


class _Texts:
    """The shingles of documents by their rank; the last HELD_BYTES of them stay in memory."""

    def __init__(self, runs: Runs, places: np.ndarray, unit: str):
        self._runs, self._places, self._unit = runs, places, unit
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0

    def bytes(self, ranks: np.ndarray) -> np.ndarray:
        """Of the texts of some ranks, int64."""
        each, which = np.unique(ranks, return_inverse=True)
        return self._runs.at(self._places[each])["bytes"].astype(np.int64)[which]

    def __getitem__(self, rank: int) -> np.ndarray:
        if rank not in self._held:
            self.load([rank])
        self._held.move_to_end(rank)
        return self._held[rank]

    def load(self, ranks: Iterable[int]) -> None:
        missing = [rank for rank in ranks if rank not in self._held]
        texts = [parsed(line)["text"] for line in self._runs.scattered_lines(self._places[missing])]
        for rank, found in zip(missing, shingles.sets(texts, self._unit), strict=True):
            self._held[rank] = found
            self._bytes += found.nbytes
        while self._bytes > HELD_BYTES and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
