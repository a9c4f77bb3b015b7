"""The training step equals transformers with torch's AdamW, on one device and on eight."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from conftest import lively_parameters, small_config

from openko import attention, hf_weights, llama, profiles
from openko.errors import InputError
from openko.profiles import MeshShape, StepConfig, Training
from openko.training import loop, sharding
from openko.training.loss import cross_entropy
from openko.training.optimizer import apply_updates, learning_rate, learning_rates, make_optimizer, round_stochastically
from openko.training.step import abstract_batch, abstract_state, compile_step, lower_step, make_step, new_state

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
        "source": np.zeros(shape[0], np.int32),
    }


def run_steps(config, parameters, count, mesh_shape=ONE_DEVICE, step=STEP, training=TRAINING, batches=make_batch):
    mesh = sharding.make_mesh(mesh_shape)
    compiled = compile_step(config, training, step, mesh)
    place = lambda tree, like: jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), tree, like)  # noqa: E731
    parameters = jax.tree.map(jnp.copy, parameters)  # the step reuses the memory of the state that it is given
    state = place(new_state(parameters, training, step), abstract_state(config, training, step, mesh))
    losses = []
    for number, rate in enumerate(learning_rates(training)[:count]):
        state, metrics = compiled(state, place(batches(config, number), abstract_batch(training, mesh)), rate)
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
        return cross_entropy(hidden, head, targets, weights, chunk=chunk)[0]

    np.testing.assert_allclose(chunked(hidden, head), whole(hidden, head), rtol=1e-6)
    for ours, theirs in zip(jax.grad(chunked, (0, 1))(hidden, head), jax.grad(whole, (0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.slow)])
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
            group["lr"] = float(learning_rates(TRAINING)[number])
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


def assert_close(ours, theirs, tolerance=1e-5):
    """Every tensor, in norm."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("mesh", "changes"),
    [
        pytest.param(MeshShape(fsdp=8), {}, marks=pytest.mark.slow),
        pytest.param(MeshShape(tensor=2), {}, marks=pytest.mark.slow),
        pytest.param(MeshShape(data=2, fsdp=2, tensor=2), {}, marks=pytest.mark.slow),
        pytest.param(MeshShape(data=2, fsdp=2), {"accumulate": 2, "z_loss": 1e-2}, marks=pytest.mark.slow),
        pytest.param(MeshShape(fsdp=4, tensor=2), {"optimizer": "adafactor"}, marks=pytest.mark.slow),
        (MeshShape(data=2, fsdp=2, tensor=2), {"tied": True}),
    ],
    ids=str,
)
def test_every_mesh_equals_one_device(mesh, changes):
    config = small_config(tie_word_embeddings=changes.get("tied", False))
    training = dataclasses.replace(TRAINING, **{k: v for k, v in changes.items() if k != "tied"})
    parameters = lively_parameters(config)
    alone, losses_alone = run_steps(config, parameters, 2, training=training)
    together, losses = run_steps(config, parameters, 2, mesh, training=training)
    np.testing.assert_allclose(losses, losses_alone, rtol=1e-5)
    assert_close(together.parameters, alone.parameters)


def test_four_parts_of_one_row_equal_one_part_of_four_though_their_tokens_differ(config):
    parameters = lively_parameters(config)

    def uneven(config, number):
        batch = make_batch(config, number)
        batch["weights"][:2] = 0.0  # two rows without a target, one with a few
        batch["weights"][2, 5:] = 0.0
        return batch

    at_once, losses_at_once = run_steps(config, parameters, 3, batches=uneven)
    in_parts, losses = run_steps(config, parameters, 3, training=dataclasses.replace(TRAINING, accumulate=4), batches=uneven)
    np.testing.assert_allclose(losses, losses_at_once, rtol=1e-6)
    assert_close(in_parts.parameters, at_once.parameters)


@pytest.mark.parametrize("kernel", ["blocked", pytest.param("reference", marks=pytest.mark.slow)])
def test_packed_documents_learn_what_they_teach_alone(config, kernel):
    """Documents of 10, 13 and 9 tokens in one row, or each in a row of its own: the same gradients, so the same weights."""
    lengths, step = (10, 13, 9), dataclasses.replace(STEP, attention=kernel)
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, config.vocab_size, n, dtype=np.int32) for n in lengths]

    def row(texts):
        """One row of 32 tokens."""
        tokens, positions, segments = (np.zeros(32, np.int32) for _ in range(3))
        targets, weights, at = np.zeros(32, np.int32), np.zeros(32, np.float32), 0
        for number, text in enumerate(texts):
            here = slice(at, at + len(text))
            tokens[here], positions[here], segments[here] = text, np.arange(len(text)), number
            targets[at : at + len(text) - 1], weights[at : at + len(text) - 1] = text[1:], 1
            at += len(text)
        segments[at:] = len(texts)
        return {
            "tokens": tokens,
            "targets": targets,
            "positions": positions,
            "segment_ids": segments,
            "weights": weights,
            "source": np.int32(0),
        }

    def batch_of(rows):
        return lambda config, number: {k: np.stack([r[k] for r in rows]) for k in rows[0]}

    packed, alone = [row(documents)], [row([d]) for d in documents]
    results = [
        run_steps(
            config,
            lively_parameters(config),
            2,
            step=step,
            training=dataclasses.replace(TRAINING, batch_size=len(rows)),
            batches=batch_of(rows),
        )
        for rows in (packed, alone)
    ]
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-6)
    assert_close(results[0][0].parameters, results[1][0].parameters)


@pytest.mark.parametrize("remat", [pytest.param("dots", marks=pytest.mark.slow), "attention", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_computed_again_changes_nothing(config, remat):
    parameters = lively_parameters(config)
    kept, losses_kept = run_steps(config, parameters, 2)
    again, losses = run_steps(config, parameters, 2, step=dataclasses.replace(STEP, remat=remat))
    np.testing.assert_allclose(losses, losses_kept, rtol=1e-6)
    assert_close(again.parameters, kept.parameters)


def test_the_rotary_tables_are_computed_once_on_cpu(config):
    """XLA on CPU drops barriers before it fuses, unless it is told not to: the sines were then in every rotation of every layer."""
    step = dataclasses.replace(STEP, unroll=config.num_hidden_layers)
    program = compile_step(config, TRAINING, step, sharding.make_mesh(ONE_DEVICE)).as_text()
    assert len(re.findall(rf"f32\[8,32,{config.head_dim // 2}\]\S* sine\(", program)) == 1


def test_what_is_computed_again_is_what_the_policy_says():
    """dots: attention's two products; attention: also the MLP's three with weights, but for the last, whose result is not asked for; full:
    also attention's four. (What the splash kernel makes is kept by name; this is the reference, which is computed again.)"""
    one_layer = small_config(num_hidden_layers=1)

    def products(remat):
        def objective(parameters):
            return jnp.sum(llama.build(one_layer, parameters, attend=attention.whole, remat=remat)(jnp.zeros((2, 16), jnp.int32)))

        return str(jax.make_jaxpr(jax.grad(objective))(llama.init(one_layer, jax.random.key(0)))).count("dot_general[")

    again = {remat: products(remat) - products("none") for remat in llama.REMAT_POLICIES}
    assert again == {"none": 0, "dots": 2, "attention": 2 + 2, "full": 2 + 6}


@pytest.mark.parametrize("changes", [
    {"peak_learning_rate": 4e-3}, {"final_learning_rate": 1e-3}, {"warmup_steps": 1}, {"schedule": "wsd", "decay_steps": 2},
    {"initial_learning_rate": 1e-3}, {"optimizer": "adafactor"}, {"weight_decay": 0.0}, {"adam_b1": 0.8}, {"adam_b2": 0.9},
    {"adam_eps": 1e-3}, {"clip_norm": 0.1}, {"steps": 5},
], ids=str)  # fmt: skip
def test_every_number_of_the_optimizer_changes_what_is_learned(changes):
    def after_four_steps(training):
        optimizer = make_optimizer(training, "float32")
        weights = {"w": jnp.linspace(-1, 1, 8)}
        state = optimizer.init(weights)
        for number, rate in enumerate(learning_rates(training)[:4]):
            updates, state = optimizer.update({"w": jnp.sin(jnp.arange(8.0) + number) * 0.3**number}, state, weights)
            weights = {"w": weights["w"] - rate * updates["w"]}
        return weights["w"]

    other = dataclasses.replace(TRAINING, **changes)
    assert float(jnp.abs(after_four_steps(TRAINING) - after_four_steps(other)).max()) > 1e-6


def test_the_losses_of_rows_are_sums_over_their_own_tokens(config):
    mesh, batch = sharding.make_mesh(ONE_DEVICE), make_batch(config)
    batch["source"][:] = [0, 2, 0, 0, 2, 2, 0, 0]
    batch["weights"][3] = 0
    step = jax.jit(make_step(config, TRAINING, STEP, mesh))
    _, metrics = step(new_state(lively_parameters(config), TRAINING, STEP), batch, 1e-3)
    tokens, losses = metrics["row_tokens"], metrics["row_losses"]
    np.testing.assert_array_equal(metrics["source"], batch["source"])
    np.testing.assert_array_equal(tokens, batch["weights"].sum(axis=1))
    assert tokens[3] == losses[3] == 0
    np.testing.assert_allclose(losses.sum() / tokens.sum(), metrics["loss"], rtol=1e-6)
    only_one = batch | {"weights": batch["weights"] * (np.arange(8) == 5)[:, None]}
    _, of_one = step(new_state(lively_parameters(config), TRAINING, STEP), only_one, 1e-3)
    np.testing.assert_allclose(losses[5] / tokens[5], of_one["loss"], rtol=1e-6)


def test_losses_by_source_are_means_over_their_own_tokens(config):
    mesh, batch = sharding.make_mesh(ONE_DEVICE), make_batch(config)
    batch["source"][:] = [0, 2, 0, 0, 2, 2, 0, 0]
    step = jax.jit(make_step(config, TRAINING, STEP, mesh))
    _, metrics = step(new_state(lively_parameters(config), TRAINING, STEP), batch, 1e-3)
    losses = loop._losses_by_source(metrics, ["a", "b", "c"])
    assert set(losses) == {"a", "c"}  # of b there is no row
    tokens = [batch["weights"][batch["source"] == s].sum() for s in (0, 2)]
    np.testing.assert_allclose(np.dot(tokens, [losses["a"], losses["c"]]) / sum(tokens), metrics["loss"], rtol=1e-6)
    only_two = batch | {"weights": batch["weights"] * (batch["source"] == 2)[:, None]}
    _, of_two = step(new_state(lively_parameters(config), TRAINING, STEP), only_two, 1e-3)
    np.testing.assert_allclose(losses["c"], of_two["loss"], rtol=1e-6)
    assert set(loop._losses_by_source(of_two, ["a", "b", "c"])) == {"c"}


def test_one_program_serves_every_schedule_and_seed(config):
    """Compiling takes seconds to minutes: what differs between a model and the next must not be in the program."""
    mesh = sharding.make_mesh(ONE_DEVICE)
    other = dataclasses.replace(
        TRAINING, steps=99, warmup_steps=9, peak_learning_rate=1.0, final_learning_rate=0.5, initial_learning_rate=0.1,
        schedule="wsd", decay_steps=7, seed=5,
    )  # fmt: skip
    assert lower_step(config, TRAINING, STEP, mesh).as_text() == lower_step(config, other, STEP, mesh).as_text()


def test_adafactor_keeps_rows_and_columns_instead_of_moments():
    wide = small_config(hidden_size=128, intermediate_size=256, vocab_size=512)
    training = dataclasses.replace(TRAINING, optimizer="adafactor")
    mesh = sharding.make_mesh(MeshShape(fsdp=4, tensor=2))
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(abstract_state(wide, t, STEP, mesh).optimizer))
        for name, t in (("adamw", TRAINING), ("adafactor", training))
    }
    assert sizes["adafactor"] < sizes["adamw"] / 10


def test_adafactors_averages_of_bf16_weights_are_kept_in_fp32():
    """A thousand gradients of 1, then small ones: in bf16 the average would stand still near 1."""
    optimizer = make_optimizer(dataclasses.replace(TRAINING, optimizer="adafactor", clip_norm=1e9), jnp.bfloat16)
    weights = {"w": jnp.ones((128, 128), jnp.bfloat16)}
    state = optimizer.init(weights)
    state = optax.tree_utils.tree_set(state, count=jnp.int32(20_000), v_row={"w": jnp.ones(128)}, v_col={"w": jnp.ones(128)})
    update = jax.jit(optimizer.update)
    for _ in range(50):
        _, state = update({"w": jnp.zeros((128, 128), jnp.bfloat16)}, state, weights)
    rows = optax.tree_utils.tree_get(state, "v_row")["w"]
    assert rows.dtype == jnp.float32 and 0.97 < float(rows[0]) < 0.99


def test_z_loss_equals_its_formula_in_value_and_gradient():
    hidden, head = jax.random.normal(jax.random.key(0), (2, 12, 8)), jax.random.normal(jax.random.key(1), (50, 8))
    targets = jax.random.randint(jax.random.key(2), (2, 12), 0, 50)
    weights = jnp.linspace(0, 1, 24).reshape(2, 12)

    def formula(hidden, head):
        logits = hidden @ head.T
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.sum((losses + 0.01 * jax.nn.logsumexp(logits, axis=-1) ** 2) * weights)

    def ours(hidden, head):
        return cross_entropy(hidden, head, targets, weights, chunk=4, z_loss=0.01)[0]

    np.testing.assert_allclose(ours(hidden, head), formula(hidden, head), rtol=1e-6)
    for mine, theirs in zip(jax.grad(ours, (0, 1))(hidden, head), jax.grad(formula, (0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    rows = cross_entropy(hidden, head, targets, weights, chunk=4, z_loss=0.01)[1]
    plain = optax.softmax_cross_entropy_with_integer_labels(hidden @ head.T, targets)
    np.testing.assert_allclose(rows, jnp.sum(plain * weights, axis=1), rtol=1e-5)


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


@pytest.mark.parametrize(("changes", "at"), [
    ({}, {0: 0, 2: 3e-3, 11: 1.65e-3, 20: 3e-4}),
    ({"initial_learning_rate": 1e-3}, {0: 1e-3, 1: 2e-3, 2: 3e-3, 20: 3e-4}),
    ({"schedule": "wsd", "decay_steps": 6}, {0: 0, 1: 1.5e-3, 2: 3e-3, 14: 3e-3, 17: 1.65e-3, 20: 3e-4}),
    ({"warmup_steps": 0}, {0: 3e-3, 20: 3e-4}),
], ids=str)  # fmt: skip
def test_the_learning_rate_at_steps_worked_out_by_hand(changes, at):
    training = dataclasses.replace(TRAINING, **changes)
    schedule = learning_rate(training)
    np.testing.assert_allclose([schedule(step) for step in at], list(at.values()), rtol=1e-6)
    np.testing.assert_allclose(learning_rates(training), [schedule(step) for step in range(training.steps)], rtol=1e-6)


@pytest.mark.parametrize(("changes", "said"), [
    ({"schedule": "linear"}, "schedule must be one of cosine, wsd"), ({"optimizer": "sgd"}, "optimizer must be one of adamw, adafactor"),
    ({"schedule": "wsd"}, "decay_steps"), ({"decay_steps": 3}, "decay_steps"), ({"warmup_steps": 20}, "do not fit into 20 steps"),
    ({"accumulate": 3}, "batch_size 8 cannot be computed in 3"), ({"steps": 0}, "steps must be at least 1"),
])  # fmt: skip
def test_a_run_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(TRAINING, **changes)


def test_fields_are_changed_by_name():
    changed = profiles.changed(TRAINING, ["steps=40", "peak_learning_rate=1e-4", "within_documents=false", "schedule=wsd", "decay_steps=5"])
    assert (changed.steps, changed.peak_learning_rate, changed.within_documents, changed.decay_steps) == (40, 1e-4, False, 5)
    for bad, said in (("stepz=4", "NAME one of steps"), ("steps=many", "steps must be a int"), ("steps", "NAME=VALUE")):
        with pytest.raises(InputError, match=said):
            profiles.changed(TRAINING, [bad])
    assert profiles.mesh_from("fsdp=4,data=2") == MeshShape(data=2, fsdp=4)
    for bad in ("fsdp", "model=2", "fsdp=0", "fsdp=2,fsdp=2"):
        with pytest.raises(InputError, match="AXIS=N"):
            profiles.mesh_from(bad)


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
