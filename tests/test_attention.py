"""Every attention implementation equals the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from openko import attention
from openko.errors import InputError


def inputs(seq, heads=4, kv_heads=2, head_dim=16):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, seq, h, head_dim)) for i, h in enumerate((heads, kv_heads, kv_heads)))
    segments = np.sort(np.random.default_rng(0).integers(0, 4, (2, seq)), axis=1).astype(np.int32)
    return q, k, v, segments


@pytest.mark.parametrize("seq", [1, 100, 128, 300])
def test_blocked_equals_the_reference(seq):
    values = inputs(seq)
    np.testing.assert_allclose(jax.jit(attention.blocked)(*values), attention.whole(*values), atol=2e-6)


@pytest.mark.parametrize("seq", [1, 100, 128, 300])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (9, 3)])
def test_blocked_has_the_references_gradients(seq, heads, kv_heads):
    *values, segments = inputs(seq, heads, kv_heads)
    weights = jax.random.normal(jax.random.key(3), values[0].shape)

    def gradients(attend):
        return jax.jit(jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v, segments) * weights), (0, 1, 2)))(*values)

    for found, expected in zip(gradients(attention.blocked), gradients(attention.whole), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_large_scores_stay_finite(size):
    q, k, v, segments = inputs(130)

    def total(q, k, v):
        return jnp.sum(attention.blocked(q, k, v, segments) ** 2)

    out, slopes = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(size * q, size * k, v)
    np.testing.assert_allclose(out, jnp.sum(attention.whole(size * q, size * k, v, segments) ** 2), rtol=1e-4)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_splash_equals_the_reference_in_pallas_interpreter():
    q, k, v, segments = inputs(256, head_dim=128)
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 2, 1), ("data", "fsdp", "tensor"))
    run = attention.implementation("splash", mesh=mesh, batch_axes=("data", "fsdp"), head_axis=None, interpret=True)
    np.testing.assert_allclose(jax.jit(run)(q, k, v, segments), attention.whole(q, k, v, segments), atol=2e-5)


@pytest.mark.parametrize("seq", [100, 128])
def test_cudnns_call_equals_the_reference_when_xla_computes_it(seq):
    values = inputs(seq)
    np.testing.assert_allclose(attention.cudnn(*values, kernel="xla"), attention.whole(*values), atol=2e-6)


def test_cudnn_wants_half_precision():
    with pytest.raises(InputError, match="bfloat16"):
        attention.cudnn(*inputs(128))


def test_a_token_sees_itself_and_the_past_of_its_own_document():
    mask = attention.document_mask(np.array([[0, 0, 1, 1]]))
    np.testing.assert_array_equal(mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]])


def test_unknown_implementation_and_odd_lengths_are_refused():
    with pytest.raises(InputError, match="blocked"):
        attention.implementation("flash")
    with pytest.raises(InputError, match="multiple"):
        attention.splash(*inputs(100), mesh=None, batch_axes=None, head_axis=None)
