"""Bits per byte: one measure of how well a model predicts text, fair across tokenizers.

Perplexity per token cannot compare two tokenizers; bits per UTF-8 byte of the same text can. Two languages cannot be
compared by it: a Hangul syllable is three bytes. Documents longer than the context are
read in windows that overlap by half, and each token is scored once, with half a context before it or all there is.
"""

import math

import jax
import numpy as np
from jaxtyping import Array, Float

from openko import llama
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.tokenizers import BEGIN, Tokenizer

BATCH, LOSS_CHUNK = 8, 128


class BitsPerByte:
    """Prepared once, then asked for any number of parameters of one shape (inside a training loop, say).

    texts: {name: list of documents}, such as {"ko": [...], "en": [...]}.  context: tokens a model sees at once.
    For parameters that lie over many devices: rows, the number of parts a batch is cut into, out_sharding, where the
    losses are to be seen, and model_options as in llama.Llama.
    """

    def __init__(
        self, config: LlamaConfig, tokenizer: Tokenizer, texts: dict[str, list[str]], *, context: int, rows: int = 1,
        out_sharding=None, **model_options,
    ):  # fmt: skip
        if context < 1:
            raise InputError(f"context must be at least 1 token, found {context}")
        self.bytes = {name: sum(len(t.encode()) for t in documents) for name, documents in texts.items()}
        for name, size in self.bytes.items():
            if not size:
                raise InputError(f"bits per byte of {name!r}: there is no text")
        self._batch = math.ceil(BATCH / rows) * rows
        self._windows = {name: windows(tokenizer, documents, context, self._batch) for name, documents in texts.items()}
        self._losses = jax.jit(
            lambda parameters, tokens, targets: window_losses(config, parameters, tokens, targets, **model_options),
            out_shardings=out_sharding,
        )

    def __call__(self, parameters: dict) -> dict[str, float]:
        """{name: bits per byte}"""
        result = {}
        for name, (tokens, targets, scored) in self._windows.items():
            total = 0.0
            for start in range(0, len(tokens), self._batch):
                rows = slice(start, start + self._batch)
                losses = np.asarray(self._losses(parameters, tokens[rows], targets[rows]), np.float64)
                total += float(np.sum(losses * scored[rows]))
            result[name] = total / math.log(2) / self.bytes[name]
        return result


def window_losses(config: LlamaConfig, parameters: dict, tokens, targets, **model_options) -> Float[Array, "batch seq"]:
    """Negative log-likelihood of each target in nats, each row one document from position 0."""
    model = llama.build(config, parameters, **{"unroll": config.num_hidden_layers} | model_options)
    return llama.token_losses(model(tokens), model.head, targets, math.gcd(tokens.shape[1], LOSS_CHUNK))


def windows(tokenizer: Tokenizer, documents: list[str], context: int, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, targets, scored), each [windows, context]; scored is 1 where a target counts, exactly once each.

    The number of windows is filled up to a multiple of `batch` with rows that count nothing.
    """
    rows = []
    for ids in tokenizer.encode_batch(documents):
        ids = [tokenizer[BEGIN], *ids]
        done = 0  # targets scored so far
        while done < len(ids) - 1:
            start = 0 if done == 0 else done - context // 2
            piece = ids[start : start + context + 1]
            first = done - start
            done = start + len(piece) - 1
            row = np.zeros((3, context))
            row[0, : len(piece) - 1], row[1, : len(piece) - 1] = piece[:-1], piece[1:]
            row[2, first : len(piece) - 1] = 1
            rows.append(row)
    rows += [np.zeros((3, context))] * (-len(rows) % batch)
    tokens, targets, scored = np.stack(rows, axis=1)
    return tokens.astype(np.int32), targets.astype(np.int32), scored
