"""The schedules and optimizers of a run, as optax has them, and rounding for weights kept in bf16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from openko.profiles import Training


def learning_rate(training: Training) -> optax.Schedule:
    """Optimizer step -> learning rate."""
    t = training
    if t.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=t.initial_learning_rate, peak_value=t.peak_learning_rate, end_value=t.final_learning_rate,
            warmup_steps=t.warmup_steps, decay_steps=t.steps,
        )  # fmt: skip
    return optax.join_schedules(
        [
            optax.linear_schedule(t.initial_learning_rate, t.peak_learning_rate, t.warmup_steps),
            optax.constant_schedule(t.peak_learning_rate),
            optax.linear_schedule(t.peak_learning_rate, t.final_learning_rate, t.decay_steps),
        ],
        [t.warmup_steps, t.steps - t.decay_steps],
    )


def learning_rates(training: Training) -> Float[np.ndarray, " steps"]:
    """fp32, of all steps of a run."""
    return np.asarray(jax.jit(jax.vmap(learning_rate(training)))(jnp.arange(training.steps)), np.float32)


def make_optimizer(training: Training, moment_dtype) -> optax.GradientTransformation:
    """Clipping by global norm, AdamW or Adafactor. Weights become weights − learning rate × update: the rate is not in here.

    Norm weights are not decayed: pulling a gain to 0 regularises nothing.
    """
    t = training

    def decayed(parameters):
        return jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in path[-1].key, parameters)

    if t.optimizer == "adamw":
        scaling = [keep_dtype(optax.scale_by_adam(b1=t.adam_b1, b2=t.adam_b2, eps=t.adam_eps), moment_dtype)]
    else:
        # As T5 used it (arXiv 1804.04235), but with a rate given from outside in place of one relative to the weights:
        # after clipping, an update has at most the root mean square of 1, like Adam's.
        # Rows and columns stay in fp32: they are small, and in bf16 their slow averages would soon stand still.
        scaling = [keep_dtype(optax.scale_by_factored_rms(), jnp.float32), optax.clip_by_block_rms(1.0)]
    return optax.chain(
        optax.clip_by_global_norm(t.clip_norm),
        *scaling,
        optax.add_decayed_weights(t.weight_decay, mask=decayed),
    )


def keep_dtype(transformation: optax.GradientTransformation, dtype) -> optax.GradientTransformation:
    """Store all moments in `dtype`, computing in fp32 (optax's mu_dtype covers Adam's first only, and Adafactor takes the
    dtype of the weights)."""

    def cast(state, to):
        return jax.tree.map(lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    def init(parameters):
        return cast(transformation.init(parameters), dtype)

    def update(gradients, state, parameters=None):
        wide = None if parameters is None else cast(parameters, jnp.float32)
        updates, state = transformation.update(cast(gradients, jnp.float32), cast(state, jnp.float32), wide)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)


def apply_updates(parameters, updates, key: Array):
    """parameters + updates, added in fp32 and rounded once; stochastically where the weights are bf16.

    A bf16 weight near 0.02 has steps of 6e-5 to 1.2e-4, so nearest rounding loses every update of 1e-5.
    Rounding up with the probability of the remainder keeps the sum right on average.
    """
    leaves, tree = jax.tree.flatten(parameters)
    changes = jax.tree.leaves(updates)
    keys = jax.random.split(key, len(leaves))
    new = []
    for leaf, change, key in zip(leaves, changes, keys, strict=True):
        exact = leaf.astype(jnp.float32) + change.astype(jnp.float32)
        new.append(round_stochastically(exact, key) if leaf.dtype == jnp.bfloat16 else exact.astype(leaf.dtype))
    return jax.tree.unflatten(tree, new)


def round_stochastically(x, key: Array):
    """fp32 → bf16, up or down with probability proportional to closeness.

    bf16 is the upper half of fp32's bits: add 16 random bits below the cut, then cut.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = (bits + noise) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(cut, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)
