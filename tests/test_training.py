"""The training step equals transformers with torch's AdamW, on one device and on eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from conftest import lively_parameters, small_config

from openko import hf_weights, llama
from openko.errors import InputError
from openko.profiles import MeshShape, StepConfig, Training
from openko.training import sharding
from openko.training.loss import summed_cross_entropy
from openko.training.optimizer import apply_updates, learning_rate, round_stochastically
from openko.training.step import abstract_batch, abstract_state, compile_step, new_state

TRAINING = Training(
    steps=20, batch_size=8, sequence_length=32, peak_learning_rate=3e-3, final_learning_rate=3e-4, warmup_steps=2, clip_norm=0.5
)
ONE_DEVICE = MeshShape()
STEP = StepConfig(
    attention="blocked", remat="none", unroll=1, loss_chunk=16, param_dtype="float32", compute_dtype="float32", moment_dtype="float32"
)


def make_batch(config, seed=0):
    draw = np.random.default_rng(seed)
    shape = (TRAINING.batch_size, TRAINING.sequence_length)
    ids = draw.integers(0, config.vocab_size, (shape[0], shape[1] + 1), dtype=np.int32)
    weights = (draw.random(shape) < 0.7).astype(np.float32)
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "positions": positions,
        "segment_ids": np.zeros(shape, np.int32),
        "weights": weights,
    }


def run_steps(config, parameters, count, mesh_shape=ONE_DEVICE, step=STEP):
    mesh = sharding.make_mesh(mesh_shape)
    compiled = compile_step(config, TRAINING, step, mesh)
    place = lambda tree, like: jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), tree, like)  # noqa: E731
    parameters = jax.tree.map(jnp.copy, parameters)  # the step reuses the memory of the state that it is given
    state = place(new_state(parameters, TRAINING, step), abstract_state(config, TRAINING, step, mesh))
    losses = []
    for number in range(count):
        state, metrics = compiled(state, place(make_batch(config, number), abstract_batch(TRAINING, mesh)))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize("chunk", [4, 12])
def test_loss_by_chunks_equals_the_whole_in_value_and_gradient(chunk):
    hidden, head = jax.random.normal(jax.random.key(0), (2, 12, 8)), jax.random.normal(jax.random.key(1), (50, 8))
    targets = jax.random.randint(jax.random.key(2), (2, 12), 0, 50)
    weights = jnp.linspace(0, 1, 24).reshape(2, 12)

    def whole(hidden, head):
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(hidden @ head.T, targets) * weights)

    def chunked(hidden, head):
        return summed_cross_entropy(hidden, head, targets, weights, chunk)

    np.testing.assert_allclose(chunked(hidden, head), whole(hidden, head), rtol=1e-6)
    for ours, theirs in zip(jax.grad(chunked, (0, 1))(hidden, head), jax.grad(whole, (0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_steps_equal_transformers_with_torch_adamw(tmp_path, tied):
    config = small_config(tie_word_embeddings=tied)
    parameters = lively_parameters(config)
    hf_weights.save(tmp_path, config, parameters)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    norms = [p for n, p in model.named_parameters() if "norm" in n]
    others = [p for n, p in model.named_parameters() if "norm" not in n]
    groups = [{"params": others, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    their_losses = []
    for number in range(3):
        batch = {k: torch.tensor(v.copy()) for k, v in make_batch(config, number).items()}
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate(TRAINING)(number))
        logits = model(batch["tokens"].long()).logits
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten().long(), reduction="none")
        loss = (each * batch["weights"].flatten()).sum() / batch["weights"].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING.clip_norm)
        optimizer.step()
        their_losses.append(loss.item())
    state, losses = run_steps(config, parameters, 3)
    np.testing.assert_allclose(losses, their_losses, rtol=1e-5)
    theirs = {n: p.detach().numpy() for n, p in model.named_parameters()}
    for (path, layer), name, _ in hf_weights._each(config):
        leaf = state.parameters
        for key in path:
            leaf = leaf[key]
        ours = np.asarray(leaf if layer is None else leaf[layer])
        assert np.linalg.norm(ours - theirs[name]) <= 1e-5 * np.linalg.norm(theirs[name]), name


@pytest.mark.parametrize("mesh", [MeshShape(fsdp=8), MeshShape(tensor=2), MeshShape(data=2, fsdp=2, tensor=2)], ids=str)
def test_every_mesh_equals_one_device(config, mesh):
    parameters = lively_parameters(config)
    alone, losses_alone = run_steps(config, parameters, 2)
    together, losses = run_steps(config, parameters, 2, mesh)
    np.testing.assert_allclose(losses, losses_alone, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone.parameters, together.parameters)


def test_the_same_seed_gives_the_same_bits(config):
    parameters = lively_parameters(config)
    first, second = run_steps(config, parameters, 3), run_steps(config, parameters, 3)
    assert first[1] == second[1]
    jax.tree.map(np.testing.assert_array_equal, first[0], second[0])


def test_small_updates_survive_in_bf16_only_by_stochastic_rounding():
    weights = {"w": jnp.full((4096,), 0.02, jnp.bfloat16)}
    update = {"w": jnp.full((4096,), 1e-5)}
    nearest, rounded = weights["w"], weights
    for number in range(100):
        nearest = (nearest.astype(jnp.float32) + 1e-5).astype(jnp.bfloat16)
        rounded = apply_updates(rounded, update, jax.random.key(number))
    start = float(weights["w"][0])
    assert float(nearest[0]) == start  # a hundred updates of 1e-5, all lost
    np.testing.assert_allclose(float(rounded["w"].astype(jnp.float32).mean()), start + 100 * 1e-5, rtol=1e-2)


def test_stochastic_rounding_stays_between_the_neighbours_and_keeps_what_is_exact():
    values = jnp.array([0.02, -1.37, 3.0, 0.0, jnp.inf, -jnp.inf])
    draws = jax.vmap(lambda key: round_stochastically(values, key))(jax.random.split(jax.random.key(0), 64)).astype(jnp.float32)
    for value, column in zip(values, draws.T, strict=True):
        below = jnp.abs(column - value) < jnp.maximum(jnp.abs(value) * 2**-7, 1e-9)
        assert bool(jnp.all((column == value) | below))
    assert bool(jnp.isnan(round_stochastically(jnp.array([jnp.nan]), jax.random.key(0)))[0])


def test_all_bf16_trains(config):
    step = dataclasses.replace(STEP, param_dtype="bfloat16", compute_dtype="bfloat16", moment_dtype="bfloat16")
    state, losses = run_steps(config, lively_parameters(config), 3, step=step)
    _, exact = run_steps(config, lively_parameters(config), 3)
    assert state.parameters["norm"].dtype == jnp.bfloat16
    np.testing.assert_allclose(losses, exact, rtol=2e-2)


def test_the_learning_rate_warms_up_and_ends_where_it_should():
    schedule = learning_rate(TRAINING)
    assert float(schedule(0)) == 0
    np.testing.assert_allclose([schedule(2), schedule(20)], [3e-3, 3e-4], rtol=1e-6)


def test_two_axes_of_one_weight_on_one_mesh_axis_are_a_clash():
    with pytest.raises(ValueError, match="second time"):
        sharding.partition(("heads", "vocab"))


def test_a_mesh_that_does_not_divide_a_weight_names_it(config):
    mesh = sharding.make_mesh(MeshShape(tensor=4))
    odd = small_config(intermediate_size=82)
    with pytest.raises(InputError, match=r"mlp.*82.*does not divide over 4"):
        sharding.place_tree(mesh, llama.logical_axes(odd), llama.abstract(odd))


def test_too_few_devices_are_counted():
    with pytest.raises(InputError, match="needs 256 devices, found 8"):
        sharding.make_mesh(MeshShape(fsdp=256))
