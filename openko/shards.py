"""The token-shard format: what corpus and training have in common.

A directory of shards holds, for each shard N,
  tokens-N.bin   uint32, the documents' tokens one after the other, no header
  offsets-N.bin  uint64, one more than documents: document i is tokens[offsets[i]:offsets[i + 1]]
  mask-N.bin     uint8 per token, 1 where the token is to be learned (only in shards made with a mask)
and manifest.json, whose facts give counts, the tokenizer's fingerprint and the bytes of text. The files are read
as memory maps: 17.7B tokens (71 GB) cost no memory.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from openko import manifest
from openko.errors import InputError

KIND = "token-shards"
TOKEN, OFFSET, MASK = np.dtype("<u4"), np.dtype("<u8"), np.dtype("u1")


def write(directory: Path, documents: Iterable, *, with_mask: bool = False, shard_tokens: int = 2**28) -> dict:
    """Write documents into `directory` (the temporary one that manifest.build hands out).

    documents: arrays of token ids, or pairs (ids, mask) with_mask. shard_tokens: a shard is closed once it holds
    that many (2**28 tokens are 1 GB). Returns counts for the manifest's facts.
    """
    documents, counts, shards = iter(documents), Counter(), 0
    for first in documents:
        room = itertools.chain([first], documents)
        counts.update(write_one(directory, shards, room, with_mask=with_mask, shard_tokens=shard_tokens))
        shards += 1
    if not counts["tokens"]:
        raise InputError(f"{directory}: no document was left to write")
    facts = {"documents": counts["documents"], "tokens": counts["tokens"], "shards": shards}
    return facts | ({"targets": counts["targets"]} if with_mask else {})


def write_one(directory: Path, number: int, documents: Iterable, *, with_mask: bool = False, shard_tokens: int | None = None) -> dict:
    """One shard, of all documents or as many as make shard_tokens: what `write` does, for those who number shards themselves.

    Returns {"documents", "tokens", "targets"}; targets: tokens that are to be learned, 0 without masks.
    """
    directory, offsets, targets = Path(directory), [0], 0
    with ExitStack() as stack:
        names = ("tokens", "mask") if with_mask else ("tokens",)
        files = {name: stack.enter_context(open(directory / f"{name}-{number:05d}.bin", "wb")) for name in names}
        for document in documents:
            tokens, mask = document if with_mask else (document, None)
            files["tokens"].write(np.asarray(tokens, TOKEN).tobytes())
            if with_mask:
                if len(mask) != len(tokens):
                    raise ValueError(f"a mask of {len(mask)} for a document of {len(tokens)} tokens")
                files["mask"].write(np.asarray(mask, MASK).tobytes())
                targets += int(np.sum(mask))
            offsets.append(offsets[-1] + len(tokens))
            if shard_tokens is not None and offsets[-1] >= shard_tokens:
                break
    # Not ndarray.tofile: on a full disk it may write less than it was given and say nothing.
    (directory / f"offsets-{number:05d}.bin").write_bytes(np.asarray(offsets, OFFSET).tobytes())
    return {"documents": len(offsets) - 1, "tokens": offsets[-1], "targets": targets}


class TokenShards:
    """Random access to the documents of a shard directory."""

    def __init__(self, directory: Path, *, made_by: str = ""):
        directory = Path(directory)
        self.manifest = manifest.read(directory, KIND, made_by=made_by)
        numbers = range(self.manifest.facts["shards"])

        def mapped(name, dtype):
            paths = [directory / f"{name}-{n:05d}.bin" for n in numbers]
            return [np.memmap(p, dtype, mode="r") if p.stat().st_size else np.empty(0, dtype) for p in paths]

        self._tokens = mapped("tokens", TOKEN)
        self._offsets = [np.fromfile(directory / f"offsets-{n:05d}.bin", OFFSET) for n in numbers]  # a map keeps its file open
        self._masks = mapped("mask", MASK) if (directory / "mask-00000.bin").exists() else None
        self._first = np.cumsum([0] + [len(o) - 1 for o in self._offsets])
        self.lengths = np.concatenate([np.diff(o.astype(np.int64)) for o in self._offsets])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer whose ids these are."""
        return self.manifest.facts["tokenizer"]

    def __getitem__(self, document: int) -> np.ndarray:
        """Token ids, uint32 [length]."""
        return self._slice(self._tokens, document)

    def mask(self, document: int) -> np.ndarray:
        """1 where the token is to be learned, uint8 [length]; all ones in shards without a mask."""
        if self._masks is None:
            return np.ones(self.lengths[document], MASK)
        return self._slice(self._masks, document)

    def _slice(self, arrays, document: int):
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} of {len(self)}")
        shard = int(np.searchsorted(self._first, document, side="right")) - 1
        start, stop = self._offsets[shard][document - self._first[shard] :][:2]
        return arrays[shard][int(start) : int(stop)]
