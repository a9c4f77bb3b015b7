"""Which documents of some runs are to be compared: pairs that share a band and whose sketches do not say that chance did it.

Documents are numbered in the order in which they are asked whether they stay, their *rank*: the source of the smallest priority number,
then the longer text, then the smaller hash. In the bucket of a band lie all documents with the same hash of it, by rank; each is paired
with the first `window` of them. Buckets do not concern each other, so any number of workers takes some of each band's, in pieces of
PIECE documents whatever the corpus.
"""

from pathlib import Path

import numpy as np

from openko.corpus.minhash import Similar
from openko.corpus.runs import ROW, RUN, Runs, save

PIECE = 2_000_000  # documents of a band that one worker sorts
SLICE, PAIRS = 50_000, 200_000  # documents whose sketches are in memory, and pairs that are looked at at once
UNRANKED = np.uint32(0xFFFFFFFF)  # the rank of a text's second and later copies: who stands for them is asked once
KEPT, OPEN, REMOVED = np.uint8(0), np.uint8(1), np.uint8(2)  # a document's standing; OPEN: some of its candidates were not looked at
LATER = np.uint64(32)  # a pair is one number: later's rank << LATER | earlier's rank
EARLIER = np.uint64(0xFFFFFFFF)
# Of a document's rank in one number: its source's priority, how much it lacks to the longest text, the hash. What does not fit in is
# looked up where two are the same.
PRIORITIES, LONGEST = np.uint64(1023), np.uint64((1 << 26) - 1)


def rank(directories: list[Path], priorities: list[int], among: list[int], ranks: Path, places: Path) -> dict:
    """Write the rank of each document, uint32 in the order of the runs, and the place of each rank, uint64. {"documents", "bytes"}:
    that have one."""
    runs = Runs(directories, priorities)
    sizes = runs.sizes()
    starts = np.cumsum(sizes) - sizes
    numbers = np.flatnonzero(_first_of_its_text(runs, np.array(among), starts, int(sizes.sum())))
    _, priority = np.unique(runs.priorities, return_inverse=True)
    keys, bytes = np.empty(len(numbers), np.uint64), 0
    for run, entries in enumerate(runs.indexes()):
        first, last = np.searchsorted(numbers, (starts[run], starts[run] + sizes[run]))
        chosen = entries[numbers[first:last] - starts[run]]
        keys[first:last] = np.minimum(priority[chosen["source"]].astype(np.uint64), PRIORITIES) << np.uint64(54)
        keys[first:last] |= (LONGEST - np.minimum(chosen["bytes"].astype(np.uint64), LONGEST)) << np.uint64(28)
        keys[first:last] |= chosen["high"] >> np.uint64(36)
        bytes += int(chosen["bytes"].sum(dtype=np.int64))
    order = np.argsort(keys, kind="stable")
    numbers, keys = numbers[order], keys[order]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    for alike in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else []:
        equal = slice(int(alike[0]), int(alike[-1]) + 2)
        found = runs.at(_places(numbers[equal], starts))
        exactly = np.lexsort((found["low"], found["high"], -found["bytes"].astype(np.int64), runs.priorities[found["source"]]))
        numbers[equal] = numbers[equal][exactly]
    del keys
    save(places, _places(numbers, starts))
    ranked = np.full(int(sizes.sum()), UNRANKED)
    ranked[numbers] = np.arange(len(numbers), dtype=np.uint32)
    save(ranks, ranked)
    return {"documents": len(numbers), "bytes": bytes}


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
    """Write the pairs of one piece of one band, sorted, and beside them, as `.open`, the ranks of those that are not paired with all
    that lie before them. {"candidates": pairs that were looked at, "pairs", "open"}.

    standing: of each rank, from the last time: who is removed lies in no bucket, and only who is open is paired with those before it.
    """
    runs, stands = Runs(directories, priorities), None if standing is None else np.load(standing, mmap_mode="r")
    ranked, bucket = _buckets(runs, np.load(ranks, mmap_mode="r"), stands, band, piece, pieces)
    place_of, least = np.load(places, mmap_mode="r"), similar.least_equal
    depth = np.arange(len(ranked)) - bucket  # how many lie before it in its bucket
    asks = depth > 0 if stands is None else (depth > 0) & (stands[ranked] == OPEN)
    found, looked = [np.empty(0, np.uint64)], 0
    for start in range(0, len(ranked), SLICE):
        stop = min(start + SLICE, len(ranked))
        asking = start + np.flatnonzero(asks[start:stop])
        if len(asking) == 0:
            continue
        # The first of the bucket that the slice begins in may lie before it.
        before = np.arange(bucket[start], min(bucket[start] + window, start))
        sketches = runs.sketches(place_of[ranked[np.concatenate((before, np.arange(start, stop)))]])
        row = lambda at, start=start, before=before: np.where(at < start, at - bucket[start], at - start + len(before))  # noqa: E731
        counts = np.minimum(depth[asking], window)
        for some in np.split(np.arange(len(asking)), np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS)) + 1):
            later = np.repeat(asking[some], counts[some])
            nth = np.arange(len(later)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
            earlier = bucket[later] + nth
            likely = np.count_nonzero(sketches[row(later)] == sketches[row(earlier)], axis=1) >= least
            looked += len(later)
            found.append(ranked[later[likely]].astype(np.uint64) << LATER | ranked[earlier[likely]])
    pairs, not_all = np.unique(np.concatenate(found)), np.unique(ranked[asks & (depth > window)])
    save(out, pairs)
    save(out.with_suffix(".open"), not_all)
    return {"candidates": looked, "pairs": len(pairs), "open": len(not_all)}


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
    keys.sort()
    new = np.append(True, (keys[1:] ^ keys[:-1]) >> bits != 0)[: len(keys)]
    alone = new & np.append(new[1:], True)[: len(keys)]
    ranked, new = (keys[~alone] & np.uint64((1 << int(bits)) - 1)).astype(np.uint32), new[~alone]
    starts = np.flatnonzero(new)
    return ranked, np.repeat(starts, np.diff(np.append(starts, len(ranked))))
