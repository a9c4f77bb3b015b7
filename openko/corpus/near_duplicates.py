"""Which documents of some runs are nearly the same as one that stays.

A document goes if the Jaccard of its shingles with those of a *kept* document is at or above the threshold, so there are no chains: of
A ~ B ~ C with A unlike C, both A and C stay. Who is asked first stays: the source of the smallest priority number, then the longer text,
then the smaller hash. So the result depends on the texts alone, not on files, workers or their order.

Candidates (openko.corpus.candidates) are compared first, in parts that do not concern each other, by any number of workers; who goes is
decided afterwards, by their Jaccards alone, a million pairs in a tenth of a second. Two rounds: in the first, documents are compared
with the FIRST of each of their buckets, in which most copies find the one that stays. What is left is a crowd, such as a form that a
hundred thousand people filled in: of those who stay in it, the first MOST of each bucket are compared.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
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
TASK_PAIRS, TASKS = 20_000, 2_000  # pairs that one worker compares; no more tasks than that, larger ones instead
LOAD_BYTES, HELD_BYTES = 4_000_000, 200_000_000  # of texts read together, and of shingles in memory


def find(
    directories: list[Path], priorities: list[int], among: list[int], similar: Similar, scratch: Path, *, engine: tasks.Engine,
    say: Callable[[str], None] = print,
) -> tuple[Path, dict]:  # fmt: skip
    """The path of an array of NEAR, sorted by place, and {"candidates": pairs whose sketches were compared; "compared": pairs whose
    texts were compared; "incomplete": documents that stayed although not all of their candidates were looked at}.

    priorities, among: of the sources, by their numbers; only documents of the same `among` are compared (as RunWriter was told).
    Copies of a text are not looked at, but for the first. scratch: a directory for what lies between, and the result.
    """
    scratch.mkdir(parents=True, exist_ok=True)

    def do(work: Callable[..., dict], asked: list[tuple], name: str, what: str, sizes: list[float] | None = None) -> list[dict]:
        return tasks.run(work, asked, scratch / name, engine=engine, sizes=sizes, what=what, say=say)

    ranks, places, near = (scratch / f"{name}.npy" for name in ("ranks", "places", "near"))
    given, counts = (directories, priorities, similar), {"candidates": 0, "compared": 0, "incomplete": 0}
    [whole] = do(candidates.rank, [(directories, priorities, among, ranks, places)], "ranked", "ordering documents")
    each, pieces = whole["bytes"] / max(1, whole["documents"]), 1 + whole["documents"] // candidates.PIECE
    edges, standing = [], None
    for number, window in enumerate((FIRST, MOST), start=1):
        here, last = scratch / f"round-{number}", window == MOST
        for folder in ("pairs", "edges"):
            (here / folder).mkdir(parents=True, exist_ok=True)
        buckets = [
            (band, piece, pieces, here / "pairs" / f"{band:03d}-{piece:05d}")
            for band in range(similar.bands.count)
            for piece in range(pieces)
        ]
        asked = [(*given, ranks, places, standing, window, *bucket) for bucket in buckets]
        sizes = [whole["bytes"] / len(asked)] * len(asked)
        paired = do(candidates.pair, asked, f"round-{number}/paired", f"finding candidates, round {number}", sizes)
        files = [
            out.with_name(f"{out.name}-{k:03d}.npy")
            for (*_, out), result in zip(buckets, paired, strict=True)
            for k in range(result["segments"])
        ]
        shares = list(_shares(files, whole["documents"]))
        asked = [(*given, places, files, *share, here / "edges" / f"{k:05d}.npy") for k, share in enumerate(shares)]
        sizes = [count * each for _, _, count in shares]
        compared = do(_compare, asked, f"round-{number}/compared", f"comparing candidates, round {number}", sizes)
        found = [out for *_, out in asked]
        deciding = (found, [out.with_suffix(".open") for *_, out in buckets], whole["documents"], standing, last, here / "standing.npy")
        [settled] = do(_settle, [deciding], f"round-{number}/settled", "deciding")
        edges, standing = edges + found, here / "standing.npy"
        counts["candidates"] += sum(result["candidates"] for result in paired)
        counts["compared"] += sum(result["compared"] for result in compared)
        counts["incomplete"] = settled["incomplete"]
        if not settled["open"]:
            break
    do(_name, [(edges, standing, places, near)], "named", "naming those that stay")
    return near, counts


# ── comparing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _shares(files: list[Path], documents: int) -> Iterator[tuple[int, int, int]]:
    """[low, high) of ranks, and how many pairs they have together: about TASK_PAIRS. A pair in two files counts twice."""
    bins = 1 << 16
    width = -(-documents // bins) or 1
    counts = np.zeros(bins, np.int64)
    for path in files:
        pairs = np.load(path, mmap_mode="r")
        for start in range(0, len(pairs), 1 << 20):
            later = (pairs[start : start + (1 << 20)] >> LATER).astype(np.int64)
            counts += np.bincount(later // width, minlength=bins)
    share = np.cumsum(counts) // max(TASK_PAIRS, int(counts.sum()) // TASKS)
    starts = np.flatnonzero(np.append(True, share[1:] != share[:-1]))
    for low, high, count in zip(starts.tolist(), [*starts[1:].tolist(), bins], np.add.reduceat(counts, starts).tolist(), strict=True):
        if count:
            yield low * width, high * width, count


def _compare(
    directories: list[Path], priorities: list[int], similar: Similar, places: Path, files: list[Path], low: int, high: int, count: int,
    out: Path,
) -> dict:  # fmt: skip
    """Write the EDGEs among the pairs whose later one's rank is in [low, high), sorted. count: of these pairs in the files; a result
    for another number is not taken for this one."""
    bounds = np.array([low, high], np.uint64) << LATER
    of_all = (np.load(path, mmap_mode="r") for path in files)
    pairs = np.unique(np.concatenate([pairs[slice(*np.searchsorted(pairs, bounds))] for pairs in of_all]))
    later, earlier = (pairs >> LATER).astype(np.int64), (pairs & EARLIER).astype(np.int64)
    texts, likeness = _Texts(Runs(directories, priorities), np.load(places, mmap_mode="r"), similar.unit), np.empty(len(pairs))
    for some in _portions(texts.sizes(later) + texts.sizes(earlier)):
        texts.load(np.union1d(later[some], earlier[some]).tolist())
        for k in range(some.start, some.stop):
            likeness[k] = shingles.jaccard(texts[later[k]], texts[earlier[k]])
    alike = likeness >= similar.threshold
    edges = np.empty(np.count_nonzero(alike), EDGE)
    edges["later"], edges["earlier"], edges["jaccard"] = later[alike], earlier[alike], likeness[alike]
    save(out, edges)
    return {"compared": len(pairs)}


def _portions(sizes: np.ndarray) -> Iterator[slice]:
    """Slices of about LOAD_BYTES, or of one."""
    portion = np.cumsum(sizes) // LOAD_BYTES
    starts = np.flatnonzero(np.append(True, portion[1:] != portion[:-1])[: len(sizes)])
    yield from map(slice, starts.tolist(), np.append(starts[1:], len(sizes)).tolist())


class _Texts:
    """The shingles of documents by their rank; the last HELD_BYTES of them stay in memory."""

    def __init__(self, runs: Runs, places: np.ndarray, unit: str):
        self._runs, self._places, self._unit = runs, places, unit
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0

    def sizes(self, ranks: np.ndarray) -> np.ndarray:
        """Bytes of the texts of some ranks, int64."""
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


# ── deciding ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _settle(edges: list[Path], not_all: list[Path], documents: int, standing: Path | None, last: bool, out: Path) -> dict:
    """Write the standing of each rank, uint8. {"open": how many are; "incomplete": who stays and was not paired with all before it}.

    edges: of this round, by `later`. not_all: who was not paired with all before it; before the last round they stay open, unless they
    are like one that is surely kept. standing: of the round before: who was open in it has all its edges in this one's.
    """
    stands = bytearray(documents) if standing is None else bytearray(np.load(standing))
    stood = np.frombuffer(stands, np.uint8)
    stood[stood == OPEN] = KEPT
    waiting = np.unique(np.concatenate([np.load(path) for path in not_all]))
    if not last:
        stood[waiting] = OPEN
    for path in edges:
        found = np.load(path)
        for later, earlier in zip(found["later"].tolist(), found["earlier"].tolist(), strict=True):
            before = stands[earlier]
            if before == KEPT:
                stands[later] = REMOVED
            elif before == OPEN and stands[later] == KEPT:
                stands[later] = OPEN
    save(out, stood)
    return {"open": int(np.count_nonzero(stood == OPEN)), "incomplete": int(np.count_nonzero(stood[waiting] == KEPT))}


def _name(edges: list[Path], standing: Path, places: Path, out: Path) -> dict:
    """Write NEAR of those that are removed: with the one that stays that is most like it, of equals the first."""
    stands, found = np.load(standing), [np.empty(0, EDGE)]
    for path in edges:
        some = np.load(path)
        found.append(_best(some[(stands[some["later"]] == REMOVED) & (stands[some["earlier"]] == KEPT)]))
    best, place_of = _best(np.concatenate(found)), np.load(places, mmap_mode="r")
    near = np.empty(len(best), NEAR)
    near["place"], near["kept"], near["jaccard"] = place_of[best["later"]], place_of[best["earlier"]], best["jaccard"]
    near.sort(order="place")
    save(out, near)
    return {"removed": len(near)}


def _best(edges: np.ndarray) -> np.ndarray:
    edges = edges[np.lexsort((edges["earlier"], -edges["jaccard"], edges["later"]))]
    return edges[np.unique(edges["later"], return_index=True)[1]]
