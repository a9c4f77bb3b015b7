"""Causal attention inside documents: one function, one reference, faster implementations behind the same door.

Every implementation takes q [batch, seq, heads, head_dim], k and v [batch, seq, kv_heads, head_dim] and
segment_ids [batch, seq] (int32, one number per packed document), and returns [batch, seq, heads, head_dim].
A token sees itself and the earlier tokens of its own document. `reference` takes any mask; `cached` reads a key-value
cache while decoding.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from openko.errors import InputError

BLOCK = 64  # query rows per block on CPU: fits the cache, and most of the masked keys are never multiplied
KEPT = "context"  # by which openko.llama.REMAT_POLICIES know what the splash kernel keeps for its backward pass


def reference(q, k, v, mask):
    """Grouped-query attention with an explicit mask.

    q [batch, seq, heads, head_dim]; k, v [batch, keys, kv_heads, head_dim]; mask bool, broadcast to
    [batch, seq, keys], True where a query may look. Scores and softmax in fp32, for a bf16 softmax over
    thousands of keys loses the small ones. Returns [batch, seq, heads, head_dim] in q's dtype.
    """
    batch, seq, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, seq, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bskgh,btkh->bkgst", grouped, k, preferred_element_type=jnp.float32)
    scores = scores * (head_dim**-0.5)
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgst,btkh->bskgh", weights, v)
    return out.reshape(batch, seq, heads, head_dim)


def cached(q, keys, values, mask):
    """`reference` over a key-value cache, laid out so that both products read it in order.

    q [batch, seq, heads, head_dim]; keys [batch, kv_heads, head_dim, slots]; values [batch, kv_heads, slots, head_dim];
    mask bool, broadcast to [batch, seq, slots]. Returns [batch, seq, heads, head_dim] in q's dtype.
    """
    batch, seq, heads, head_dim = q.shape
    kv_heads, slots = keys.shape[1], keys.shape[-1]
    # All queries that share a key head are the rows of one matrix, so that both products are plain ones.
    rows = q.reshape(batch, seq, kv_heads, heads // kv_heads, head_dim).swapaxes(1, 2).reshape(batch, kv_heads, -1, head_dim)
    scores = jnp.matmul(rows.astype(keys.dtype), keys, preferred_element_type=jnp.float32) * (head_dim**-0.5)
    scores = scores.reshape(batch, kv_heads, seq, -1, slots)
    scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(jnp.float32).min)
    # The softmax's division waits until after the product with the values, where there is far less to divide.
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.matmul(weights.astype(values.dtype).reshape(batch, kv_heads, -1, slots), values, preferred_element_type=jnp.float32)
    out = out.reshape(batch, kv_heads, seq, -1, head_dim) / total
    return out.swapaxes(1, 2).reshape(batch, seq, heads, head_dim).astype(q.dtype)


def document_mask(segment_ids, rows=slice(None), columns=slice(None)):
    """Bool [batch, rows, columns]: causal, and inside one document."""
    position = jnp.arange(segment_ids.shape[1])
    causal = position[rows, None] >= position[None, columns]
    return causal & (segment_ids[:, rows, None] == segment_ids[:, None, columns])


def whole(q, k, v, segment_ids):
    """The reference over a whole sequence: every score exists at once."""
    return reference(q, k, v, document_mask(segment_ids))


@jax.custom_vjp
def blocked(q, k, v, segment_ids):
    """CPU: blocks of query rows against the keys up to them, so that the upper triangle is never computed.

    As in FlashAttention (arXiv 2205.14135), the forward pass keeps each row's log-sum-exp and not its weights, and the
    backward pass computes the scores again: less memory to write and read than to compute.
    """
    return _blocked_forward(q, k, v, segment_ids)[0]


def _blocked_forward(q, k, v, segment_ids):
    kv_heads = k.shape[2]
    rows, keys, values = _by_key_head(q * q.shape[-1] ** -0.5, kv_heads), k.swapaxes(1, 2), v.swapaxes(1, 2)
    out, normalisers = [], []
    for start, stop in _blocks(q.shape[1]):
        row, key, value = rows[:, :, :, start:stop], keys[:, :, :stop], values[:, :, :stop]
        scores = _block_scores(row, key, segment_ids, start)
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.matmul(_flat(weights.astype(v.dtype)), value, preferred_element_type=jnp.float32)
        out.append(mixed.reshape(row.shape) / total)  # far less to divide than the weights
        normalisers.append((largest + jnp.log(total))[..., 0])
    result = _by_position(jnp.concatenate(out, axis=3)).astype(q.dtype)
    return result, (q, k, v, segment_ids, result, jnp.concatenate(normalisers, axis=3))


def _blocked_backward(kept, slope):
    """The slopes of k and v are summed as [width, keys]: the operand that a product must transpose is then the narrow one of queries,
    and not the scores, which on CPU would halve its speed."""
    q, k, v, segment_ids, result, normaliser = kept
    kv_heads, scale = k.shape[2], q.shape[-1] ** -0.5
    rows, slopes = _by_key_head(q * scale, kv_heads), _by_key_head(slope, kv_heads)
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)
    # The softmax's derivative is weights × (slope of the weights − their mean by weight), and that mean is slope · result.
    mean = _by_key_head(jnp.sum(slope.astype(jnp.float32) * result, axis=-1, keepdims=True), kv_heads)
    q_slopes, k_slope, v_slope = [], 0.0, 0.0
    for start, stop in _blocks(q.shape[1]):
        row, row_slope = rows[:, :, :, start:stop], _flat(slopes[:, :, :, start:stop])
        key, value = keys[:, :, :stop], values[:, :, :stop]
        scores = _block_scores(row, key, segment_ids, start)
        weights = jnp.exp(scores - normaliser[:, :, :, start:stop, None])
        weight_slope = jnp.matmul(row_slope, value.swapaxes(2, 3), preferred_element_type=jnp.float32).reshape(scores.shape)
        score_slope = weights * (weight_slope - mean[:, :, :, start:stop])
        weights, score_slope = (_flat(x.astype(q.dtype)) for x in (weights, score_slope))
        q_slopes.append(jnp.matmul(score_slope, key, preferred_element_type=jnp.float32).reshape(row.shape))
        k_slope = _longer(k_slope, jnp.matmul(_flat(row).swapaxes(2, 3), score_slope, preferred_element_type=jnp.float32))
        v_slope = _longer(v_slope, jnp.matmul(row_slope.swapaxes(2, 3), weights, preferred_element_type=jnp.float32))
    q_slope = _by_position(jnp.concatenate(q_slopes, axis=3)) * scale
    k_slope, v_slope = (x.transpose(0, 3, 1, 2) for x in (k_slope, v_slope))
    return q_slope.astype(q.dtype), k_slope.astype(k.dtype), v_slope.astype(v.dtype), None


blocked.defvjp(_blocked_forward, _blocked_backward)


def _blocks(seq: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, seq)) for start in range(0, seq, BLOCK)]


def _block_scores(row, key, segment_ids, start: int):
    """fp32 [batch, kv_heads, group, rows, keys]: a block of query rows, of which the first stands at `start`, against the keys up to the
    last; as low as can be where a row may not look."""
    stop = key.shape[2]
    scores = jnp.matmul(_flat(row), key.swapaxes(2, 3), preferred_element_type=jnp.float32).reshape(*row.shape[:-1], stop)
    mask = document_mask(segment_ids, slice(start, stop), slice(0, stop))
    return jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)


def _by_key_head(x, kv_heads: int):
    """[batch, seq, heads, width] -> [batch, kv_heads, group, seq, width]: the query heads that share a key head together."""
    batch, seq, heads, width = x.shape
    return x.reshape(batch, seq, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)


def _by_position(x):
    """The inverse of `_by_key_head`."""
    batch, kv_heads, group, seq, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, seq, kv_heads * group, width)


def _flat(x):
    """[batch, kv_heads, group, rows, width] -> [batch, kv_heads, group × rows, width]: the rows of one plain product."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _longer(total, part):
    """part + total, where total covers the first positions only; both [batch, kv_heads, width, keys]."""
    missing = 0 if isinstance(total, float) else part.shape[3] - total.shape[3]
    return part + (jnp.pad(total, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else total)


def splash(q, k, v, segment_ids, *, mesh: Mesh, batch_axes, head_axis, interpret: bool = False):
    """TPU: jax's splash kernel, one call per chip on its own batch rows and heads (through shard_map)."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    seq, heads, head_dim = q.shape[1:]
    block = min(512, seq)
    if seq % 128 or seq % block:
        raise InputError(f"splash attention needs a sequence length that is a multiple of 128, and of 512 from 512 on; found {seq}")
    head_shards = 1 if head_axis is None else mesh.shape[head_axis]
    sizes = kernels.BlockSizes(**{
        name: block
        for name in (
            "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
            "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
        )
    })  # fmt: skip
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([kernels.CausalMask((seq, seq))] * (heads // head_shards)),
        head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret, residual_checkpoint_name=KEPT,
    )  # fmt: skip
    tokens = PartitionSpec(batch_axes, None)
    by_head = PartitionSpec(batch_axes, None, head_axis, None)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(by_head, by_head, by_head, tokens), out_specs=by_head, check_vma=False)
    def on_chip(q, k, v, segments):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # the kernel wants [heads, seq, head_dim]
        run = jax.vmap(lambda q, k, v, s: kernel(q, k, v, segment_ids=kernels.SegmentIds(s, s)))
        return run(q * np.float32(head_dim**-0.5).astype(q.dtype), k, v, segments).swapaxes(1, 2)

    return on_chip(q, k, v, segment_ids)


def cudnn(q, k, v, segment_ids, *, kernel: str = "cudnn"):
    """GPU: cuDNN's flash attention through jax.nn; bf16 or fp16.

    The documents' mask goes in as a bias of [batch, 1, seq, seq]. kernel: jax.nn's name for it; "xla" computes the
    same without a GPU.
    """
    if kernel == "cudnn" and q.dtype == jnp.float32:
        raise InputError("cuDNN's attention computes in bf16 or fp16: set the profile's compute_dtype to bfloat16")
    same_document = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=same_document, is_causal=True, implementation=kernel)


IMPLEMENTATIONS: dict[str, Callable] = {"reference": whole, "blocked": blocked, "splash": splash, "cudnn": cudnn}


def implementation(name: str, **placement) -> Callable:
    """The attention function called `name`; `placement` (mesh, batch_axes, head_axis) is for splash alone."""
    if name not in IMPLEMENTATIONS:
        raise InputError(f"attention must be one of {', '.join(IMPLEMENTATIONS)}, found {name!r}")
    return functools.partial(IMPLEMENTATIONS[name], **placement) if placement else IMPLEMENTATIONS[name]
