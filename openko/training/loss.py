"""Cross-entropy over 128,256 words without ever holding all the logits.

256 × 8192 tokens × 128,256 words in fp32 would be a terabyte. The sequence is cut into chunks; for each chunk
the forward pass computes logits, loss *and* the gradients of hidden states and output matrix, and throws the
logits away: three matrix products in all, where recomputing the logits in a backward pass would need four.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from openko.llama import cut, join


def cross_entropy(
    hidden: Float[Array, "batch seq hidden"],
    head: Float[Array, "vocab hidden"],
    targets: Int[Array, "batch seq"],
    weights: Float[Array, "batch seq"],
    *,
    chunk: int,
    z_loss: float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
    """(what is minimised, cross-entropy of each row): sums over tokens of weight × nats, fp32.

    What is minimised is the cross-entropy and z_loss × log-normaliser², which keeps the logits from drifting away.
    The rows are for reporting; no gradient flows through them.  chunk: positions whose logits exist at once.
    mesh: where rows lie over data × fsdp and the head's width over fsdp (openko.training.sharding): the head is then gathered
    once, and each device's share of its gradient summed over all chunks before it is sent, once.
    """
    if mesh is None or mesh.shape["data"] * mesh.shape["fsdp"] == 1:
        objective, rows = _by_chunks(hidden, head, targets, weights, chunk, z_loss, False)
    else:

        def on_device(hidden, head, targets, weights):
            objective, rows = _by_chunks(hidden, head, targets, weights, chunk, z_loss, True)
            return objective[None], rows

        by_row = ("data", "fsdp")
        tokens, states, columns = PartitionSpec(by_row, None), PartitionSpec(by_row, None, None), PartitionSpec(None, "fsdp")
        each, rows = jax.shard_map(
            on_device, mesh=mesh, axis_names={"data", "fsdp"}, in_specs=(states, columns, tokens, tokens),
            out_specs=(PartitionSpec(by_row), PartitionSpec(by_row)), check_vma=False,
        )(hidden, head, targets, weights)  # fmt: skip
        objective = jnp.sum(each)
    return objective, jax.lax.stop_gradient(rows)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _by_chunks(hidden, head, targets, weights, chunk, z_loss, sharded):
    return _forward(hidden, head, targets, weights, chunk, z_loss, sharded)[0]


def _forward(hidden, head, targets, weights, chunk, z_loss, sharded):
    weight_dtype, head = head.dtype, head.astype(hidden.dtype)
    if sharded:
        head = jax.lax.all_gather(head, "fsdp", axis=1, tiled=True)
    words = jnp.arange(head.shape[0])

    def one_chunk(carry, piece):
        objective, head_gradient = carry
        hidden, targets, weights = piece
        logits = jnp.einsum("bsd,vd->bsv", hidden, head, preferred_element_type=jnp.float32)
        largest = jnp.max(logits, axis=-1)
        powers = jnp.exp(logits - largest[..., None])  # once, for the sum and for the softmax
        total = jnp.sum(powers, axis=-1)
        normaliser = largest + jnp.log(total)
        losses = normaliser - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        objective += jnp.sum((losses + z_loss * normaliser**2) * weights)
        # d / d logits = softmax × (1 + 2 z_loss × normaliser) − one-hot, in the precision of the activations for the
        # two products below.
        share = weights * (1 + 2 * z_loss * normaliser) / total
        slope = powers * share[..., None] - (words == targets[..., None]) * weights[..., None]
        slope = slope.astype(hidden.dtype)
        hidden_gradient = jnp.einsum("bsv,vd->bsd", slope, head)
        # As [hidden, vocab]: the other way round XLA on CPU would compute the slope a second time, transposed, for this product.
        head_gradient += jnp.einsum("bsd,bsv->dv", hidden, slope, preferred_element_type=jnp.float32)
        return (objective, head_gradient), (hidden_gradient, jnp.sum(losses * weights, axis=1))

    start = (jnp.zeros((), jnp.float32), jnp.zeros(head.shape[::-1], jnp.float32))
    pieces = (cut(hidden, chunk), cut(targets, chunk), cut(weights, chunk))
    (objective, head_gradient), (hidden_gradient, rows) = jax.lax.scan(one_chunk, start, pieces)
    if sharded:
        # Over "data", along which the head is not cut, shard_map itself sums what flows back.
        head_gradient = jax.lax.psum_scatter(head_gradient, "fsdp", scatter_dimension=0, tiled=True)
    return (objective, jnp.sum(rows, axis=0)), (join(hidden_gradient), head_gradient.T.astype(weight_dtype))


def _backward(chunk, z_loss, sharded, gradients, scales):
    hidden_gradient, head_gradient = gradients
    scale, _ = scales  # the rows' is zero: stop_gradient
    return (hidden_gradient * scale).astype(hidden_gradient.dtype), (head_gradient * scale).astype(head_gradient.dtype), None, None


_by_chunks.defvjp(_forward, _backward)
