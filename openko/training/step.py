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
from jaxtyping import Array, Float, Int

from openko import llama
from openko.errors import InputError
from openko.profiles import LlamaConfig, StepConfig, Training
from openko.training.loss import cross_entropy
from openko.training.optimizer import apply_updates, make_optimizer
from openko.training.sharding import attention_for, constrainer, place, place_tree

# On CPU, XLA orders the work so that as much as possible could run at once. One product here keeps all cores busy, and the order
# makes every block of attention live at once: twice the memory, fresh pages for it in each step, and nothing found in the cache.
# And it drops optimization barriers before it fuses: the rotary sines were computed anew for every head of every layer.
COMPILER_OPTIONS = {"cpu": {"xla_cpu_enable_concurrency_optimized_scheduler": False, "xla_disable_hlo_passes": "cse_barrier_expander"}}


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
    # A moment of its weight's shape lies as the weight does; Adafactor's rows and columns, and counters, are everywhere.
    moments = optax.tree_map_params(
        make_optimizer(training, step.moment_dtype), lambda m, w, s: s if m.shape == w.shape else everywhere,
        state.optimizer, state.parameters, shardings, transform_non_params=lambda _: everywhere,
    )  # fmt: skip
    tree = TrainState(everywhere, shardings, moments)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, tree)


def abstract_batch(training: Training, mesh: Mesh) -> dict:
    """Shapes and shardings of one batch as openko.training.data makes it; "source" is the number of each row's source."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if training.batch_size // training.accumulate % parts:
        raise InputError(
            f"batch_size {training.batch_size} in {training.accumulate} parts does not divide over data × fsdp = {parts} "
            f"devices: make it a multiple of {training.accumulate * parts}, or change the mesh"
        )
    shape, by_token = (training.batch_size, training.sequence_length), place(mesh, ("batch", "seq"))
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=by_token)
        for name, dtype in {"tokens": jnp.int32, "targets": jnp.int32, "positions": jnp.int32, "segment_ids": jnp.int32,
                            "weights": jnp.float32}.items()
    }  # fmt: skip
    return batch | {"source": jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=place(mesh, ("batch",)))}


def make_step(config: LlamaConfig, training: Training, step: StepConfig, mesh: Mesh) -> Callable:
    """(state, batch, learning rate) -> (state, metrics).

    The rate is an fp32 scalar, one of optimizer.learning_rates: as an input, so that one program serves all schedules.
    metrics, fp32: loss (nats per target token), gradient_norm (before clipping), and for each row of the batch its
    row_losses (nats, the sum over its targets), row_tokens (targets) and source (int32).
    """
    optimizer = make_optimizer(training, step.moment_dtype)
    attend, constrain = attention_for(mesh, step), constrainer(mesh)

    def objective(parameters, batch, tokens):
        model = llama.build(
            config, parameters, dtype=jnp.dtype(step.compute_dtype), attend=attend, remat=step.remat,
            unroll=step.unroll, constrain=constrain,
        )  # fmt: skip
        hidden = model(batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
        total, rows = cross_entropy(
            hidden, model.head, batch["targets"], batch["weights"], chunk=step.loss_chunk, z_loss=training.z_loss, mesh=mesh
        )
        # Over the tokens of the whole batch, so that a row or a part with few of them does not count as much as a full one.
        return total / tokens, rows

    gradient = in_parts(jax.grad(objective, has_aux=True), training.accumulate, constrain)

    def train_step(state: TrainState, batch: dict, learning_rate: Float[Array, ""]):
        row_tokens = jnp.sum(batch["weights"], axis=1)
        tokens = jnp.maximum(jnp.sum(row_tokens), 1.0)
        gradients, rows = gradient(state.parameters, batch, tokens)
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        updates = jax.tree.map(lambda update: -learning_rate * update, updates)
        # The rounding noise depends on (seed, step) alone, so that a resumed run repeats it.
        key = jax.random.fold_in(jax.random.key(training.seed), state.step)
        parameters = apply_updates(state.parameters, updates, key)
        metrics = {
            "loss": jnp.sum(rows) / tokens,
            "gradient_norm": optax.tree_utils.tree_norm(gradients).astype(jnp.float32),
            "row_losses": rows,
            "row_tokens": row_tokens,
            "source": batch["source"],
        }
        return TrainState(state.step + 1, parameters, moments), metrics

    return train_step


def in_parts(gradient: Callable, parts: int, constrain: Callable) -> Callable:
    """gradient(parameters, batch, tokens) -> (gradients, rows), computed over `parts` of the batch in turn and summed in fp32.

    Row r goes to part r modulo `parts`, so that every device keeps its own rows.
    """
    if parts == 1:
        return gradient

    def cut(x):
        x = jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
        return constrain(x, ("parts", "batch", *["seq"] * (x.ndim - 2)))

    def accumulated(parameters, batch, tokens):
        def one_part(total, part):
            gradients, rows = gradient(parameters, part, tokens)
            return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, gradients), rows

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), parameters)
        total, rows = jax.lax.scan(one_part, zeros, jax.tree.map(cut, batch))
        return total, rows.T.reshape(-1)

    return accumulated


@functools.lru_cache(maxsize=1)  # two runs of one shape and schedule in a session (a model and its control) share it
def compile_step(config: LlamaConfig, training: Training, step: StepConfig, mesh: Mesh) -> jax.stages.Compiled:
    """The step, compiled for the mesh's devices; the state's memory is reused for the new state."""
    options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
    return lower_step(config, training, step, mesh).compile(compiler_options=options)


def lower_step(config: LlamaConfig, training: Training, step: StepConfig, mesh: Mesh) -> jax.stages.Lowered:
    """The step as StableHLO, before a compiler has seen it."""
    state, batch = abstract_state(config, training, step, mesh), abstract_batch(training, mesh)
    where = jax.tree.map(lambda x: x.sharding, state)
    everywhere = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(make_step(config, training, step, mesh), donate_argnums=0, out_shardings=(where, everywhere))
    return jitted.lower(state, batch, jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere))
