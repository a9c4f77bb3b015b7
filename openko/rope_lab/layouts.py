"""The orders in which the rows of q_proj and k_proj are found in Hugging Face directories; only one of them is right.

Meta's checkpoints pair neighbours (interleaved), Hugging Face pairs halves (half-split), and converters permute the rows
on the way. A permutation left out, done twice, or done with the query heads' number on the keys still has the right
shape, so no loader complains.
"""

from dataclasses import dataclass

import numpy as np

from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.rope import interleave_rows, split_rows

SOUND, INTERLEAVED, TWICE, HEAD_COUNT = "half-split", "interleaved", "permuted-twice", "wrong-head-count"
OF_Q, OF_K = (SOUND, INTERLEAVED, TWICE), (SOUND, INTERLEAVED, TWICE, HEAD_COUNT)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the rows of q_proj and of k_proj lie: each one of OF_Q and OF_K."""

    q: str = SOUND
    k: str = SOUND


def order(config: LlamaConfig, projection: str, name: str) -> np.ndarray:
    """int64 [rows]: at each row of a matrix stored in layout `name`, the row of the sound matrix that lies there.

    projection: "q" or "k". `stored = sound[order]`, and `sound = stored[np.argsort(order)]`.
    """
    if name not in (OF_Q if projection == "q" else OF_K):
        raise InputError(f"layout of {projection} must be one of {', '.join(OF_Q if projection == 'q' else OF_K)}, found {name!r}")
    heads = config.num_attention_heads if projection == "q" else config.num_key_value_heads
    rows = np.arange(heads * config.head_dim)[:, None]
    if name == INTERLEAVED:
        rows = interleave_rows(rows, heads)
    elif name == TWICE:
        rows = split_rows(rows, heads)
    elif name == HEAD_COUNT:
        why = why_no_head_count(config)
        if why:
            raise InputError(why)
        rows = split_rows(interleave_rows(rows, heads), config.num_attention_heads)
    return rows[:, 0]


def why_no_head_count(config: LlamaConfig) -> str | None:
    """Why k_proj of this shape cannot have been permuted with the query heads' number; None where it can."""
    heads, kv_heads, rows = config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads * config.head_dim
    if heads == kv_heads:
        return f"{HEAD_COUNT} cannot exist here: queries and keys have {heads} heads each"
    if rows % (2 * heads):
        return f"{HEAD_COUNT} cannot exist here: the {rows} rows of k_proj cannot be cut into {heads} heads with whole pairs"
    if rows == 2 * heads:
        return f"{HEAD_COUNT} cannot exist here: cut into {heads} heads of one pair each, the rows of k_proj are merely interleaved"
    return None


def names(config: LlamaConfig, projection: str) -> list[str]:
    """The layouts that "q" or "k" of this shape can have, the sound one first."""
    known = OF_Q if projection == "q" else OF_K
    return [name for name in known if name != HEAD_COUNT or why_no_head_count(config) is None]


def possible(config: LlamaConfig) -> list[Layout]:
    """Every layout that rows of this shape can have; those that are the same order of rows only once, the sound one first."""
    found = {}
    for q in names(config, "q"):
        for k in names(config, "k"):
            rows = (order(config, "q", q).tobytes(), order(config, "k", k).tobytes())
            found.setdefault(rows, Layout(q=q, k=k))
    return list(found.values())
