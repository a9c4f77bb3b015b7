"""Documents to token shards: <|begin_of_text|> document <|end_of_text|>."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openko import manifest, shards, tokenizers
from openko.corpus import build
from openko.errors import InputError

BATCH = 256  # documents per call of the tokenizer, which spreads them over the cores


def pack(directory: Path, *, corpus: Path, part: str, tokenizer: Path, source: str | None = None, say=print) -> manifest.Manifest:
    """Shards of one part ("ko.train") of a corpus, or of what one source gave to it, with the tokenizer of a directory."""

    def make(partial: Path) -> dict:
        loaded = tokenizers.load(tokenizer)
        documents = [d for d in build.read(corpus, part) if source in (None, d["source"])]
        if not documents:
            raise InputError(f"{corpus}: {part} has no document of source {source!r}")
        facts = shards.write(partial, _encoded(documents, loaded))
        size = sum(len(d["text"].encode()) for d in documents)
        return facts | {"bytes": size, "tokenizer": loaded.fingerprint, "vocab_size": loaded.vocab_size}

    return manifest.build(
        directory, kind=shards.KIND, recipe={"part": part, "source": source}, inputs={"corpus": corpus, "tokenizer": tokenizer},
        module="openko.corpus.pack", make=make, say=say,
    )  # fmt: skip


def _encoded(documents: list[dict], tokenizer: tokenizers.Tokenizer) -> Iterator[np.ndarray]:
    begin, end = tokenizer[tokenizers.BEGIN], tokenizer[tokenizers.END]
    for start in range(0, len(documents), BATCH):
        for ids in tokenizer.encode_batch([d["text"] for d in documents[start : start + BATCH]]):
            yield np.array([begin, *ids, end])
