"""Which documents of some runs are to be compared: pairs that share a band and whose sketches do not say that chance did it.

Documents are numbered in the order in which they are asked whether they stay, their *rank*: the source of the smallest priority number,
then the longer text, then the smaller hash. In the bucket of a band lie all documents with the same hash of it, by rank; each is paired
with the first `window` of them. Buckets do not concern each other, so any number of workers takes some of each band's, about PIECE
documents each.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openko.corpus.minhash import Similar
from openko.corpus.runs import ROW, RUN, Runs, save

PIECE = 500_000  # documents of a band that one worker sorts
SLICE, LOOKED = 50_000, 20_000  # documents whose sketches are in memory, and pairs that are looked at at once
SEGMENT = 4_000_000  # pairs that are in memory and become one file
UNRANKED = np.uint32(0xFFFFFFFF)  # the rank of a text's second and later copies: who stands for them is asked once
# A document's standing. OPEN: it may be like one that it was not compared with, or is like an open one.
KEPT, OPEN, REMOVED = 0, 1, 2
LATER = np.uint64(32)  # a pair is one number: later's rank << LATER | earlier's rank
EARLIER = np.uint64(0xFFFFFFFF)
# A rank's key is one number: 10 bits of the source's priority, 26 of what the text lacks to the longest, 28 of its hash. Larger
# priorities and longer texts are cut to what these hold.
PRIORITY, LENGTH, HASH = np.uint64(54), np.uint64(28), np.uint64(36)
LAST_PRIORITY, LONGEST = np.uint64((1 << 10) - 1), np.uint64((1 << 26) - 1)


def rank(directories: list[Path], priorities: list[int], among: list[int], ranks: Path, places: Path) -> dict:
    """Write the rank of each document, uint32 in the order of the runs, and the place of each rank, uint64. {"documents", "bytes"}:
    that have one."""
    runs = Runs(directories, priorities)
    sizes = runs.sizes()
    starts = np.cumsum(sizes) - sizes
    numbers = np.flatnonzero(_first_of_its_text(runs, np.array(among), starts, int(sizes.sum())))
    _, nth = np.unique(runs.priorities, return_inverse=True)
    keys, total = np.empty(len(numbers), np.uint64), 0
    for run, entries in enumerate(runs.indexes()):
        first, last = np.searchsorted(numbers, (starts[run], starts[run] + sizes[run]))
        chosen = entries[numbers[first:last] - starts[run]]
        keys[first:last] = np.minimum(nth[chosen["source"]].astype(np.uint64), LAST_PRIORITY) << PRIORITY
        keys[first:last] |= (LONGEST - np.minimum(chosen["bytes"].astype(np.uint64), LONGEST)) << LENGTH
        keys[first:last] |= chosen["high"] >> HASH
        total += int(chosen["bytes"].sum(dtype=np.int64))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    numbers = numbers[order]
    del order
    for equal in _undecided(keys):
        found = runs.at(_places(numbers[equal], starts))
        exactly = np.lexsort((found["low"], found["high"], -found["bytes"].astype(np.int64), nth[found["source"]]))
        numbers[equal] = numbers[equal][exactly]
    del keys
    ranked = np.full(int(sizes.sum()), UNRANKED)
    ranked[numbers] = np.arange(len(numbers), dtype=np.uint32)
    save(ranks, ranked)
    del ranked
    for start in range(0, len(numbers), PIECE):
        some = slice(start, start + PIECE)
        numbers[some] = _places(numbers[some], starts).view(np.int64)
    save(places, numbers.view(np.uint64))
    return {"documents": len(numbers), "bytes": total}


def _undecided(keys: np.ndarray) -> Iterator[slice]:
    """Neighbours that their sorted keys do not put in order. Below a field that was cut, a key says nothing."""
    says = np.zeros(len(keys), np.uint8)
    says[(keys >> LENGTH) & LONGEST == 0] = LENGTH
    says[keys >> PRIORITY == LAST_PRIORITY] = PRIORITY
    same = np.flatnonzero((says[1:] == says[:-1]) & ((keys[1:] ^ keys[:-1]) >> says[1:] == 0))
    for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else []:
        yield slice(int(run[0]), int(run[-1]) + 2)


def _places(numbers: np.ndarray, starts: np.ndarray) -> np.ndarray:
    run = np.searchsorted(starts, numbers, side="right") - 1
    return run.astype(np.uint64) << RUN | (numbers - starts[run]).astype(np.uint64)


def _first_of_its_text(runs: Runs, among: np.ndarray, starts: np.ndarray, documents: int) -> np.ndarray:
    """bool [documents], by number: the place in all runs laid end to end."""
    first = np.zeros(documents, bool)
    for entries, places in runs.walk():
        order = np.argsort(among[entries["source"]], kind="stable")
        entries, places = entries[order], places[order]
        group, new = among[entries["source"]], np.ones(len(entries), bool)
        new[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1]) | (group[1:] != group[:-1])
        places = places[new]
        first[starts[(places >> RUN).astype(np.int64)] + (places & ROW).astype(np.int64)] = True
    return first


def pair(
    directories: list[Path], priorities: list[int], similar: Similar, ranks: Path, places: Path, standing: Path | None, window: int,
    band: int, piece: int, pieces: int, out: Path,
) -> dict:  # fmt: skip
    """Write the pairs of one piece of one band, sorted, OUT-000.npy and so on, and as OUT.open the ranks of those that are not paired
    with all that lie before them. {"candidates": pairs that were looked at, "segments": files}.

    standing: of each rank, from the first round: who is removed lies in no bucket, and only who is open is paired with those before it.
    """
    runs, stands = Runs(directories, priorities), None if standing is None else np.load(standing, mmap_mode="r")
    ranked, bucket = _buckets(runs, np.load(ranks, mmap_mode="r"), stands, band, piece, pieces)
    depth = np.arange(len(ranked)) - bucket  # how many lie before it in its bucket
    asks = depth > 0 if stands is None else (depth > 0) & (stands[ranked] == OPEN)
    least, found, held, looked, segments = similar.least_equal, [], 0, 0, 0

    def write() -> None:
        nonlocal found, held, segments
        pairs = np.concatenate(found)
        pairs.sort()
        save(out.with_name(f"{out.name}-{segments:03d}.npy"), pairs)
        found, held, segments = [], 0, segments + 1

    place_of = np.load(places, mmap_mode="r")
    for asking, before, start, stop in _slices(bucket, asks, window):
        near = np.concatenate((before, np.arange(start, stop)))
        sketches = runs.sketches(place_of[ranked[near]])
        for some in _portions(np.minimum(depth[asking], window)):
            later, earlier = _with_the_first(asking[some], bucket, depth, window)
            rows = np.searchsorted(near, later), np.searchsorted(near, earlier)
            likely = np.count_nonzero(sketches[rows[0]] == sketches[rows[1]], axis=1) >= least
            found.append(ranked[later[likely]].astype(np.uint64) << LATER | ranked[earlier[likely]])
            looked, held = looked + len(later), held + len(found[-1])
            if held >= SEGMENT:
                write()
    if held:
        write()
    save(out.with_suffix(".open"), np.unique(ranked[asks & (depth > window)]))
    return {"candidates": looked, "segments": segments}


def _buckets(
    runs: Runs, ranks: np.ndarray, stands: np.ndarray | None, band: int, piece: int, pieces: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The documents of all buckets of more than one, bucket by bucket, by rank: their ranks, uint32, and where their buckets begin."""
    found, start = [np.empty(0, np.uint64)], 0
    bits, upper = np.uint64(len(ranks).bit_length()), np.uint64(48)
    for hashes in runs.band(band):
        own = ranks[start : start + len(hashes)]
        start += len(hashes)
        mine = (own != UNRANKED) & ((hashes >> upper) * np.uint64(pieces) >> np.uint64(16) == piece)
        if stands is not None:
            mine[mine] = stands[own[mine]] != REMOVED
        # The upper bits of the hash and the rank in one: one sort, in place. What two hashes have in common by chance is looked at by
        # the sketches, like any other.
        found.append(hashes[mine] >> bits << bits | own[mine])
    keys = np.concatenate(found)
    del found
    keys.sort()
    new = np.append(True, (keys[1:] ^ keys[:-1]) >> bits != 0)[: len(keys)]
    alone = new & np.append(new[1:], True)[: len(keys)]
    ranked, new = (keys[~alone] & np.uint64((1 << int(bits)) - 1)).astype(np.uint32), new[~alone]
    starts = np.flatnonzero(new)
    return ranked, np.repeat(starts, np.diff(np.append(starts, len(ranked))))


def _slices(bucket: np.ndarray, asks: np.ndarray, window: int) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Who asks in [start, stop), and the first of the bucket that reaches into it; slices in which nobody asks are left out."""
    for start in range(0, len(bucket), SLICE):
        asking = start + np.flatnonzero(asks[start : start + SLICE])
        if len(asking):
            # Buckets before the first that asks and behind the last need no sketches.
            first, stop = max(start, int(bucket[asking[0]])), int(asking[-1]) + 1
            yield asking, np.arange(bucket[first], min(bucket[first] + window, first)), first, stop


def _portions(counts: np.ndarray) -> Iterator[slice]:
    """Slices of about LOOKED pairs."""
    portion = np.cumsum(counts) // LOOKED
    starts = np.flatnonzero(np.append(True, portion[1:] != portion[:-1])[: len(counts)])
    yield from map(slice, starts.tolist(), np.append(starts[1:], len(counts)).tolist())


def _with_the_first(asking: np.ndarray, bucket: np.ndarray, depth: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Each that asks, as often as there are others before it, up to `window`, and those others."""
    counts = np.minimum(depth[asking], window)
    later = np.repeat(asking, counts)
    nth = np.arange(len(later)) - np.repeat(np.cumsum(counts) - counts, counts)
    return later, bucket[later] + nth
