"""Which documents of some runs are nearly the same as one that stays.

A document goes if the Jaccard of its shingles with those of a *kept* document is at or above the threshold, so there are no chains: of
A ~ B ~ C with A unlike C, both A and C stay. Who is asked first stays: the source of the smallest priority number, then the longer text,
then the smaller hash. So the result depends on the texts alone, not on files, workers or their order.

In two steps. Documents that share a band are candidates (openko.corpus.minhash); groups connected by such pairs are found band by band,
in about 40 bytes a document. Then the groups, which do not concern each other, are decided in batches, by any number of workers, with
the texts of one batch in memory.
"""

import heapq
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from openko.corpus import shingles, tasks
from openko.corpus.minhash import Similar
from openko.corpus.runs import ROW, RUN, Runs, parsed, save

# A near-duplicate: its place, the place of the document that stays, and how similar they are.
NEAR = np.dtype([("place", "<u8"), ("kept", "<u8"), ("jaccard", "<f8")])
# Of texts that one worker decides about at once. Little input makes small batches, to keep all workers busy.
LEAST_BYTES, MOST_BYTES = 1_000_000, 32_000_000
LOAD_BYTES = 4_000_000  # of texts read together
HELD_BYTES = 400_000_000  # of shingles in memory, of groups that are larger than a batch
# What keeps a hundred thousand forms of one template from being compared each with each: a document is compared with at most so many
# kept ones, those that share most bands with it, and of those that share one band only so many of the first are looked at.
COMPARISONS, CROWD = 100, 1000


def find(
    directories: list[Path], priorities: list[int], among: list[int], similar: Similar, scratch: Path, *, engine: tasks.Engine, say=print
) -> tuple[Path, dict]:  # fmt: skip
    """The path of an array of NEAR, sorted by place, and {"candidates", "compared", "incomplete"}: documents that share a band with
    another, pairs that were compared, and documents that stayed although not all of their candidates were compared; and "largest_group",
    which one worker decided about alone: {"documents", "bytes"}.

    priorities, among: of the sources, by their numbers; only documents of the same `among` are compared (as RunWriter was told).
    Copies of a text are not looked at, but for the first. scratch: a directory for what lies between, and the result.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    groups, decided = scratch / "groups.npy", scratch / "decided"
    decided.mkdir(exist_ok=True)
    options = {"engine": engine, "say": say}
    [grouped] = tasks.run(
        _group, [(directories, priorities, among, similar, groups)], scratch / "grouped", what="finding candidates", **options
    )
    batches = grouped["batches"]
    asked = [
        (directories, priorities, similar, groups, start, stop, decided / f"{number:05d}.npy")
        for number, (start, stop, _) in enumerate(batches)
    ]
    sizes = [size for _, _, size in batches]
    counts = tasks.run(_decide, asked, scratch / "compared", sizes=sizes, what="comparing candidates", **options)
    near = np.concatenate([np.empty(0, NEAR), *(np.load(out) for *_, out in asked)])
    near.sort(order="place")
    save(scratch / "near.npy", near)
    totals = {name: sum(found[name] for found in counts) for name in ("compared", "incomplete")}
    return scratch / "near.npy", {name: grouped[name] for name in ("candidates", "largest_group")} | totals


# ── groups ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _group(directories: list[Path], priorities: list[int], among: list[int], similar: Similar, out: Path) -> dict:
    """Write the places of all candidates, group by group, and say how they are batched: [start, stop, bytes]."""
    runs = Runs(directories, priorities)
    sizes = runs.sizes()
    starts = np.cumsum(sizes) - sizes
    labels = _connected(runs, _first_of_its_text(runs, np.array(among), starts, int(sizes.sum())), similar.bands.count)
    members = np.flatnonzero(np.bincount(labels)[labels] > 1) if len(labels) else labels
    members = members[np.argsort(labels[members], kind="stable")]
    run = np.searchsorted(starts, members, side="right") - 1
    places = run.astype(np.uint64) << RUN | (members - starts[run]).astype(np.uint64)
    save(out, places)
    labels, bytes = labels[members], runs.at(places)["bytes"].astype(np.int64)
    return {"candidates": len(members), "largest_group": _largest(labels, bytes), "batches": _batches(labels, bytes)}


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


def _connected(runs: Runs, chosen: np.ndarray, bands: int) -> np.ndarray:
    """int64 [documents]: the smallest number that a document is connected to by shared bands."""
    labels, numbers = np.arange(len(chosen)), np.flatnonzero(chosen).astype(np.uint64)
    bits = np.uint64(len(chosen).bit_length())
    for band in range(bands):
        # The upper bits of the band's hash and the number in one: one sort, in place. What two hashes have in common by chance is a
        # group too many, no candidate: those are found by the whole hash.
        keys = np.concatenate([np.empty(0, np.uint64), *runs.band(band)])[chosen]
        keys >>= bits
        keys <<= bits
        keys |= numbers
        keys.sort()
        same = np.flatnonzero((keys[1:] ^ keys[:-1]) >> bits == 0)
        mask = np.uint64((1 << int(bits)) - 1)
        labels = _joined(labels, (keys[same] & mask).astype(np.int64), (keys[same + 1] & mask).astype(np.int64))
    return labels


def _joined(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Labels after joining the groups of left[i] and right[i]."""
    # A quarter of a second, which only the process that joins needs to spend.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right = labels[left], labels[right]
    differ = left != right
    left, right = left[differ], right[differ]
    if len(left) == 0:
        return labels
    nodes, ends = np.unique(np.concatenate((left, right)), return_inverse=True)
    edges = coo_matrix((np.ones(len(left), bool), (ends[: len(left)], ends[len(left) :])), shape=(len(nodes), len(nodes)))
    _, component = connected_components(edges, directed=False)
    _, first = np.unique(component, return_index=True)  # nodes are sorted, so the first of a component is its smallest
    table = np.arange(len(labels))
    table[nodes] = nodes[first][component]
    return table[labels]


def _largest(labels: np.ndarray, sizes: np.ndarray) -> dict:
    if len(labels) == 0:
        return {"documents": 0, "bytes": 0}
    starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    documents, bytes = np.diff(np.append(starts, len(labels))), np.add.reduceat(sizes, starts)
    return {"documents": int(documents[bytes.argmax()]), "bytes": int(bytes.max())}


def _batches(labels: np.ndarray, sizes: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, stop, bytes) of LEAST_BYTES to MOST_BYTES, or of one group; a group is never cut."""
    if len(labels) == 0:
        return []
    wanted = min(MOST_BYTES, max(LEAST_BYTES, int(sizes.sum()) // 32))
    ends = np.append(np.flatnonzero(labels[1:] != labels[:-1]) + 1, len(labels))
    totals, batches, start, done = np.cumsum(sizes)[ends - 1], [], 0, 0
    while done < totals[-1]:
        last = min(int(np.searchsorted(totals, done + wanted)), len(ends) - 1)
        batches.append((start, int(ends[last]), int(totals[last]) - done))
        start, done = int(ends[last]), int(totals[last])
    return batches


# ── decisions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _decide(directories: list[Path], priorities: list[int], similar: Similar, groups: Path, start: int, stop: int, out: Path) -> dict:
    """Write the near-duplicates of some groups, an array of NEAR."""
    runs = Runs(directories, priorities)
    places = np.load(groups, mmap_mode="r")[start:stop]
    entries = runs.at(places)
    order = np.lexsort((entries["low"], entries["high"], -entries["bytes"].astype(np.int64), runs.priorities[entries["source"]]))
    places, sizes = places[order], entries["bytes"][order]
    texts = _Texts(runs, places, similar.unit)
    near, counts = [], Counter(compared=0, incomplete=0)
    kept: dict[int, list[int]] = defaultdict(list)  # by a band that several share: who of them stays
    crowded, loaded = set(), 0
    for k, row in enumerate(_shared(runs.bands(places))):
        if k == loaded:
            loaded = max(k + 1, int(np.searchsorted(np.cumsum(sizes[k:], dtype=np.int64), LOAD_BYTES)) + k)
            texts.load(range(k, loaded))
        bands, shared = row[row >= 0].tolist(), Counter()
        for band in bands:
            shared.update(kept.get(band, ()))
        twin = None
        candidates = [other for _, other in heapq.nsmallest(COMPARISONS, ((-count, other) for other, count in shared.items()))]
        texts.load(candidates)
        for other in candidates:
            counts["compared"] += 1
            likeness = shingles.jaccard(texts[k], texts[other])
            if likeness >= similar.threshold:
                twin = other
                near.append((places[k], places[other], likeness))
                break
        if twin is None:
            counts["incomplete"] += len(shared) > COMPARISONS or not crowded.isdisjoint(bands)
            for band in bands:
                if len(kept[band]) < CROWD:
                    kept[band].append(k)
                else:
                    crowded.add(band)
    save(out, np.array(near, NEAR))
    return dict(counts)


def _shared(bands: np.ndarray) -> np.ndarray:
    """int32 [texts, bands]: a number for each value of a band that several texts have, and -1 for a text's own."""
    numbers, first = np.empty(bands.shape, np.int32), 0
    for band in range(bands.shape[1]):
        _, which, counts = np.unique(bands[:, band], return_inverse=True, return_counts=True)
        numbers[:, band] = np.where(counts > 1, first + np.arange(len(counts)), -1)[which]
        first += len(counts)
    return numbers


class _Texts:
    """The shingles of documents by their number in `places`; the last HELD_BYTES of them stay in memory."""

    def __init__(self, runs: Runs, places: np.ndarray, unit: str):
        self._runs, self._places, self._unit = runs, places, unit
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, number: int) -> np.ndarray:
        if number not in self._held:
            self.load([number])
        self._held.move_to_end(number)
        return self._held[number]

    def load(self, numbers: Iterable[int]) -> None:
        missing = [number for number in numbers if number not in self._held]
        texts = [parsed(line)["text"] for line in self._runs.scattered_lines(self._places[missing])]
        for number, found in zip(missing, shingles.sets(texts, self._unit), strict=True):
            self._held[number] = found
            self._bytes += found.nbytes
        while self._bytes > HELD_BYTES and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
