"""Token shards to batches. Which tokens are in step s is a function of (seed, s) alone.

Not of hosts, workers or restarts: to resume is to ask for the next step. Documents are laid end to end in an order
shuffled anew for each pass, and the endless stream is cut into windows, so no token is dropped; the windows of a
pass are shuffled too, for those of one long document in one batch would teach little. segment_ids keep the
documents of a window apart in attention. Mixing, prefetch and reading in parallel are grain's.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import grain
import numpy as np

from openko.errors import InputError
from openko.profiles import Training
from openko.shards import TokenShards

READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


class PackedWindows:
    """Windows of sequence_length + 1 consecutive tokens of the shuffled, repeated documents of one directory."""

    def __init__(self, shards: TokenShards, sequence_length: int, seed: int, windows: int):
        self.shards, self.width, self.seed, self.windows = shards, sequence_length, seed, windows
        self.pass_tokens = int(shards.lengths.sum())
        self.pass_windows = max(1, self.pass_tokens // sequence_length)
        # Each source keeps its own two newest passes.
        self._order = lru_cache(maxsize=2)(self._shuffle_documents)
        self._shuffled_windows = lru_cache(maxsize=2)(self._shuffle_windows)

    def __len__(self) -> int:
        return self.windows

    def __getitem__(self, window: int) -> dict[str, np.ndarray]:
        """tokens, targets, positions, segment_ids (int32) and weights (fp32), each [sequence_length].

        A target counts (weight 1) when it continues its token's document and the shards' mask wants it learned.
        """
        tokens, mask, segments, positions = [], [], [], []
        pass_number, inside = divmod(window, self.pass_windows)
        window = pass_number * self.pass_windows + int(self._shuffled_windows(pass_number)[inside])
        needed, start = self.width + 1, window * self.width  # windows share one token: last target, next input
        while needed:
            turn, inside = divmod(start, self.pass_tokens)
            order, ends = self._order(turn)
            slot = int(np.searchsorted(ends, inside, side="right"))
            document = int(order[slot])
            offset = inside - (int(ends[slot - 1]) if slot else 0)
            taken = min(needed, int(self.shards.lengths[document]) - offset)
            tokens.append(self.shards[document][offset : offset + taken])
            mask.append(self.shards.mask(document)[offset : offset + taken])
            segments.append(np.full(taken, len(segments)))
            positions.append(np.arange(taken))
            needed, start = needed - taken, start + taken
        tokens, mask, segments, positions = (np.concatenate(x) for x in (tokens, mask, segments, positions))
        return {
            "tokens": tokens[:-1].astype(np.int32),
            "targets": tokens[1:].astype(np.int32),
            "positions": positions[:-1].astype(np.int32),
            "segment_ids": segments[:-1].astype(np.int32),
            "weights": ((segments[1:] == segments[:-1]) & (mask[1:] > 0)).astype(np.float32),
        }

    def _shuffle_documents(self, turn: int):
        """Documents in the order of one pass, and where each ends in it."""
        order = np.random.default_rng([self.seed, turn, 0]).permutation(len(self.shards))
        return order, np.cumsum(self.shards.lengths[order])

    def _shuffle_windows(self, pass_number: int):
        return np.random.default_rng([self.seed, pass_number, 1]).permutation(self.pass_windows)


class Batches:
    """Record s is this host's rows of step s: its part of the rows, in order."""

    def __init__(self, rows: grain.MapDataset, training: Training, host: int, hosts: int):
        self.rows, self.batch_size, self.steps = rows, training.batch_size, training.steps
        self.mine = range(host * self.batch_size // hosts, (host + 1) * self.batch_size // hosts)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        rows = [self.rows[step * self.batch_size + row] for row in self.mine]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def batches(
    sources: dict[Path, float], training: Training, *, first_step: int = 0, host: int = 0, hosts: int = 1, vocab_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """This host's batches from `first_step` on: each array [batch_size / hosts, sequence_length].

    sources: {shard directory: weight}; a weight is the share of rows that come from there. vocab_size: the model's.
    """
    if training.batch_size % hosts:
        raise InputError(f"batch_size {training.batch_size} does not divide over {hosts} hosts")
    opened = {directory: TokenShards(directory, made_by="notebook 02_corpus") for directory in sources}
    for directory, share in sources.items():
        if not (share > 0 and np.isfinite(share)):
            raise InputError(f"the share of {directory} must be a number above 0, found {share}; leave the directory out for none of it")
    fingerprints = {shards.tokenizer for shards in opened.values()}
    if len(fingerprints) > 1:
        raise InputError(f"shards of different tokenizers cannot be mixed: {', '.join(map(str, opened))} have {sorted(fingerprints)}")
    for directory, shards in opened.items():
        if shards.manifest.facts["vocab_size"] > vocab_size:
            found = shards.manifest.facts["vocab_size"]
            raise InputError(f"{directory} has ids of a vocabulary of {found}, but the model's vocab_size is {vocab_size}")
    if first_step >= training.steps:
        return iter(())  # a run that was cut off after its last step
    windows = training.steps * training.batch_size
    parts = [
        grain.MapDataset.source(PackedWindows(shards, training.sequence_length, training.seed + number, windows))
        for number, shards in enumerate(opened.values())
    ]
    weights = np.array(list(sources.values()), float)
    rows = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=list(weights / weights.sum()))
    steps = grain.MapDataset.source(Batches(rows, training, host, hosts))
    return iter(steps.slice(slice(first_step, None)).to_iter_dataset(READ_AHEAD))
