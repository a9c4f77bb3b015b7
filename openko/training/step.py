"""The training step: one function, compiled as it is for two CPU cores and for a v5e-256.

`openko train` runs what `compile_step` returns; `openko fit --compile` lowers the same for a TPU topology.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from openko import llama
from openko.profiles import LlamaConfig, StepConfig, Training
from openko.training.loss import summed_cross_entropy
from openko.training.optimizer import apply_updates, learning_rate, make_optimizer
from openko.training.sharding import attention_for, constrainer, place, place_tree


class TrainState(NamedTuple):
    """All that a checkpoint holds."""

    step: Int[Array, ""]
    parameters: dict
    optimizer: optax.OptState


def new_state(parameters: dict, training: Training, step: StepConfig) -> TrainState:
    """Step 0 over given parameters, which are cast to the profile's dtype."""
    parameters = jax.tree.map(lambda x: x.astype(step.param_dtype), parameters)
    return TrainState(jnp.zeros((), jnp.int32), parameters, make_optimizer(training, step.moment_dtype).init(parameters))


def abstract_state(config: LlamaConfig, training: Training, step: StepConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a TrainState, without memory."""
    state = jax.eval_shape(lambda: new_state(llama.init(config, jax.random.key(0)), training, step))
    shardings = place_tree(mesh, llama.logical_axes(config), state.parameters)
    everywhere = NamedSharding(mesh, PartitionSpec())
    # Adam's moments lie as their weights do; counters are on every device.
    moments = optax.tree_map_params(
        make_optimizer(training, step.moment_dtype), lambda _, s: s, state.optimizer, shardings,
        transform_non_params=lambda _: everywhere,
    )  # fmt: skip
    tree = TrainState(everywhere, shardings, moments)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, tree)


def abstract_batch(training: Training, mesh: Mesh) -> dict:
    """Shapes and shardings of one batch as openko.training.data makes it."""
    shape = (training.batch_size, training.sequence_length)
    sharding = place(mesh, ("batch", "seq"))
    dtypes = {"tokens": jnp.int32, "targets": jnp.int32, "positions": jnp.int32, "segment_ids": jnp.int32, "weights": jnp.float32}
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in dtypes.items()}


def make_step(config: LlamaConfig, training: Training, step: StepConfig, mesh: Mesh) -> Callable:
    """(state, batch) -> (state, metrics). Metrics: loss in nats per target token, gradient norm, learning rate."""
    optimizer = make_optimizer(training, step.moment_dtype)
    schedule = learning_rate(training)
    attend, constrain = attention_for(mesh, step), constrainer(mesh)

    def loss(parameters, batch):
        model = llama.build(
            config, parameters, dtype=jnp.dtype(step.compute_dtype), attend=attend, remat=step.remat,
            unroll=step.unroll, constrain=constrain,
        )  # fmt: skip
        hidden = model(batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
        total = summed_cross_entropy(hidden, model.head, batch["targets"], batch["weights"], step.loss_chunk)
        # Over the whole batch, so that a row with few target tokens does not count as much as a full one.
        return total / jnp.maximum(jnp.sum(batch["weights"]), 1.0)

    def train_step(state: TrainState, batch: dict):
        value, gradients = jax.value_and_grad(loss)(state.parameters, batch)
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        # The rounding noise depends on (seed, step) alone, so that a resumed run repeats it.
        key = jax.random.fold_in(jax.random.key(training.seed), state.step)
        parameters = apply_updates(state.parameters, updates, key)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree_utils.tree_norm(gradients),
            "learning_rate": schedule(state.step),
        }
        return TrainState(state.step + 1, parameters, moments), metrics

    return train_step


@functools.lru_cache(maxsize=1)  # two runs of one shape and schedule in a session (a model and its control) share it
def compile_step(config: LlamaConfig, training: Training, step: StepConfig, mesh: Mesh) -> jax.stages.Compiled:
    """The step, compiled for the mesh's devices; the state's memory is reused for the new state."""
    state, batch = abstract_state(config, training, step, mesh), abstract_batch(training, mesh)
    where = jax.tree.map(lambda x: x.sharding, state)
    everywhere = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(
        make_step(config, training, step, mesh), donate_argnums=0, out_shardings=(where, everywhere)
    )  # fmt: skip
    return jitted.lower(state, batch).compile()
