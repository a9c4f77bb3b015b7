"""Token shards to batches. Which tokens are in step s is a function of (seed, s) alone.

Not of hosts, workers or restarts: to resume is to ask for the next step. Documents are laid end to end in an order
shuffled anew for each pass, and the endless stream is cut into windows, so no token is dropped; the windows of a
pass are shuffled too, for those of one long document in one batch would teach little. segment_ids keep the
documents of a window apart in attention. Mixing, prefetch and reading in parallel are grain's.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import grain
import jax
import numpy as np

from openko.errors import InputError
from openko.profiles import Training
from openko.shards import TokenShards

READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


class PackedWindows:
    """Windows of sequence_length + 1 consecutive tokens of the shuffled, repeated documents of one directory.

    source: the number of this directory in the mixture, which every row carries.
    """

    def __init__(self, shards: TokenShards, training: Training, source: int):
        self.shards, self.source, self.training = shards, source, training
        self.width, self.seed = training.sequence_length, training.seed + source
        self.windows = training.steps * training.batch_size  # more than one source ever gives
        self.pass_tokens = int(shards.lengths.sum())
        self.pass_windows = max(1, self.pass_tokens // self.width)
        # Each source keeps its own two newest passes.
        self._order = lru_cache(maxsize=2)(self._shuffle_documents)
        self._shuffled_windows = lru_cache(maxsize=2)(self._shuffle_windows)

    def __len__(self) -> int:
        return self.windows

    def __getitem__(self, window: int) -> dict[str, np.ndarray]:
        """tokens, targets, positions, segment_ids (int32) and weights (fp32), each [sequence_length], and source (int32).

        A target counts (weight 1) when it continues its token's document and the shards' mask wants it learned.
        Unless within_documents, the row is one text: one segment, positions from 0, and the step to the next document counts.
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
        if not self.training.within_documents:
            segments, positions = np.zeros_like(segments), np.arange(self.width + 1)
        return {
            "tokens": tokens[:-1].astype(np.int32),
            "targets": tokens[1:].astype(np.int32),
            "positions": positions[:-1].astype(np.int32),
            "segment_ids": segments[:-1].astype(np.int32),
            "weights": ((segments[1:] == segments[:-1]) & (mask[1:] > 0)).astype(np.float32),
            "source": np.int32(self.source),
        }

    def _shuffle_documents(self, turn: int):
        """Documents in the order of one pass, and where each ends in it."""
        order = np.random.default_rng([self.seed, turn, 0]).permutation(len(self.shards))
        return order, np.cumsum(self.shards.lengths[order])

    def _shuffle_windows(self, pass_number: int):
        return np.random.default_rng([self.seed, pass_number, 1]).permutation(self.pass_windows)


class Batches:
    """Record s is this host's rows of step s, in their order."""

    def __init__(self, rows: grain.MapDataset, training: Training, mine: list[int]):
        self.rows, self.batch_size, self.steps, self.mine = rows, training.batch_size, training.steps, mine

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        rows = [self.rows[step * self.batch_size + row] for row in self.mine]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def batches(
    sources: dict[Path, float], training: Training, *, vocab_size: int, first_step: int = 0, mine: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Batches from `first_step` on: tokens, … each [rows, sequence_length], source [rows].

    sources: {shard directory: weight}; a weight is the share of rows that come from there. vocab_size: the model's.
    mine: the rows of the global batch that this host's devices hold (local_rows); all of them by default.
    """
    opened = check_sources(sources, vocab_size=vocab_size)
    if first_step >= training.steps:
        return iter(())  # a run that was cut off after its last step
    parts = [grain.MapDataset.source(PackedWindows(shards, training, number)) for number, shards in enumerate(opened)]
    weights = np.array(list(sources.values()), float)
    rows = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=list(weights / weights.sum()))
    mine = list(range(training.batch_size) if mine is None else mine)
    steps = grain.MapDataset.source(Batches(rows, training, mine))
    return iter(steps.slice(slice(first_step, None)).to_iter_dataset(READ_AHEAD))


def check_sources(sources: dict[Path, float], *, vocab_size: int) -> list[TokenShards]:
    """The opened shard directories; raises where they cannot be mixed or are not for this model."""
    opened = {directory: TokenShards(directory, made_by="notebook 02_corpus") for directory in sources}
    for directory, share in sources.items():
        if not (share > 0 and np.isfinite(share)):
            raise InputError(f"the share of {directory} must be a number above 0, found {share}; leave the directory out for none of it")
    fingerprints = {shards.tokenizer for shards in opened.values()}
    if len(fingerprints) > 1:
        raise InputError(f"shards of different tokenizers cannot be mixed: {', '.join(map(str, opened))} have {sorted(fingerprints)}")
    for directory, shards in opened.items():
        found = shards.manifest.facts["vocab_size"]
        if found > vocab_size:
            raise InputError(f"{directory} has ids of a vocabulary of {found}, but the model's vocab_size is {vocab_size}")
    return list(opened.values())


def local_rows(batch_like: dict) -> list[int]:
    """The rows of the global batch that this process's devices hold, in order. batch_like: step.abstract_batch.

    Taken from the sharding itself, for neighbours in the mesh need not be neighbours in the list of hosts, and where
    heads are cut over hosts several hosts hold the same rows.
    """
    tokens = batch_like["tokens"]
    indices = tokens.sharding.addressable_devices_indices_map(tokens.shape).values()
    return sorted({row for index in indices for row in range(tokens.shape[0])[index[0]]})


def place(batch: dict[str, np.ndarray], batch_like: dict, mine: list[int]) -> dict[str, jax.Array]:
    """This host's rows -> its part of the global arrays."""
    where = {row: i for i, row in enumerate(mine)}

    def array(like, local):
        def part(index):
            rows = range(like.shape[0])[index[0]]
            return local[where[rows[0]] : where[rows[-1]] + 1][:, *index[1:]]

        return jax.make_array_from_callback(like.shape, like.sharding, part)

    return {name: array(like, batch[name]) for name, like in batch_like.items()}
