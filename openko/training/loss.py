"""Cross-entropy over 128,256 words without ever holding all the logits.

256 × 8192 tokens × 128,256 words in fp32 would be a terabyte. The sequence is cut into chunks; for each chunk
the forward pass computes logits, loss *and* the gradients of hidden states and output matrix, and throws the
logits away: three matrix products in all, where recomputing the logits in a backward pass would need four.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from openko.llama import cut, join, logits_and_losses, token_losses


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def summed_cross_entropy(
    hidden: Float[Array, "batch seq hidden"],
    head: Float[Array, "vocab hidden"],
    targets: Int[Array, "batch seq"],
    weights: Float[Array, "batch seq"],
    chunk: int,
) -> Float[Array, ""]:
    """Sum over tokens of weight × negative log-likelihood, in nats, fp32.

    chunk: positions of the sequence whose logits exist at once.
    """
    return jnp.sum(token_losses(hidden, head, targets, chunk) * weights)


def _forward(hidden, head, targets, weights, chunk):
    weight_dtype, head = head.dtype, head.astype(hidden.dtype)
    words = jnp.arange(head.shape[0])

    def one_chunk(carry, piece):
        total, head_gradient = carry
        hidden, targets, weights = piece
        logits, normaliser, losses = logits_and_losses(hidden, head, targets)
        # d loss / d logits = softmax − one-hot, in the precision of the activations for the two products below.
        is_target = words == targets[..., None]
        slope = (jnp.exp(logits - normaliser[..., None]) - is_target) * weights[..., None]
        slope = slope.astype(hidden.dtype)
        hidden_gradient = jnp.einsum("bsv,vd->bsd", slope, head)
        head_gradient += jnp.einsum("bsv,bsd->vd", slope, hidden, preferred_element_type=jnp.float32)
        return (total + jnp.sum(losses * weights), head_gradient), hidden_gradient

    start = (jnp.zeros((), jnp.float32), jnp.zeros(head.shape, jnp.float32))
    pieces = (cut(hidden, chunk), cut(targets, chunk), cut(weights, chunk))
    (total, head_gradient), hidden_gradient = jax.lax.scan(one_chunk, start, pieces)
    return total, (join(hidden_gradient), head_gradient.astype(weight_dtype))


def _backward(chunk, gradients, scale):
    hidden_gradient, head_gradient = gradients
    return (hidden_gradient * scale).astype(hidden_gradient.dtype), (head_gradient * scale).astype(head_gradient.dtype), None, None


summed_cross_entropy.defvjp(_forward, _backward)
