"""The token-shard format: what corpus and training have in common.

A directory of shards holds, for each shard N,
  tokens-N.bin   uint32, the documents' tokens one after the other, no header
  offsets-N.bin  uint64, one more than documents: document i is tokens[offsets[i]:offsets[i + 1]]
  mask-N.bin     uint8 per token, 1 where the token is to be learned (only in shards made with a mask)
and manifest.json, whose facts give counts, the tokenizer's fingerprint and the bytes of text. The files are read
as memory maps: 17.7B tokens (71 GB) cost no memory.
"""

from collections.abc import Iterable
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
    shards = documents_in_all = tokens_in_all = targets_in_all = 0
    files, offsets = {}, [0]

    def close():
        offsets_path = directory / f"offsets-{shards:05d}.bin"
        np.asarray(offsets, OFFSET).tofile(offsets_path)
        for file in files.values():
            file.close()

    for document in documents:
        tokens, mask = document if with_mask else (document, None)
        if not files:
            names = ("tokens", "mask") if with_mask else ("tokens",)
            files, offsets = {n: open(directory / f"{n}-{shards:05d}.bin", "wb") for n in names}, [0]  # noqa: SIM115 (closed by close)
        files["tokens"].write(np.asarray(tokens, TOKEN).tobytes())
        if with_mask:
            if len(mask) != len(tokens):
                raise ValueError(f"a mask of {len(mask)} for a document of {len(tokens)} tokens")
            files["mask"].write(np.asarray(mask, MASK).tobytes())
            targets_in_all += int(np.sum(mask))
        offsets.append(offsets[-1] + len(tokens))
        documents_in_all, tokens_in_all = documents_in_all + 1, tokens_in_all + len(tokens)
        if offsets[-1] >= shard_tokens:
            close()
            shards, files = shards + 1, {}
    if files:
        close()
        shards += 1
    if not tokens_in_all:
        raise InputError(f"{directory}: no document was left to write")
    facts = {"documents": documents_in_all, "tokens": tokens_in_all, "shards": shards}
    return facts | ({"targets": targets_in_all} if with_mask else {})


class TokenShards:
    """Random access to the documents of a shard directory."""

    def __init__(self, directory: Path, *, made_by: str = ""):
        directory = Path(directory)
        self.manifest = manifest.read(directory, KIND, made_by=made_by)
        numbers = range(self.manifest.facts["shards"])

        def mapped(name, dtype):
            paths = [directory / f"{name}-{n:05d}.bin" for n in numbers]
            return [np.memmap(p, dtype, mode="r") if p.stat().st_size else np.empty(0, dtype) for p in paths]

        self._tokens, self._offsets = mapped("tokens", TOKEN), mapped("offsets", OFFSET)
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
