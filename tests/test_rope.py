"""RoPE as data: equal to transformers, and the arithmetic of why short prompts hide a wrong θ."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import lively_parameters, small_config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from openko import llama
from openko.errors import InputError
from openko.rope import Llama3Scaling, Rope, interleave_rows, pairs_off, split_rows

SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256)


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6])
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
def test_frequencies_equal_transformers(theta, head_dim):
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    np.testing.assert_allclose(Rope(theta=theta).inv_freq(head_dim), plain.numpy(), rtol=3e-7)
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim, rope_theta=theta,
        rope_scaling={"rope_type": "llama3"} | dataclasses.asdict(SCALING),
    )  # fmt: skip
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    np.testing.assert_allclose(Rope(theta=theta, scaling=SCALING).inv_freq(head_dim), scaled.numpy(), rtol=3e-7)


@pytest.mark.parametrize(("distance", "pairs"), [(8, 3), (64, 27), (512, 42)])
def test_pairs_that_a_lost_theta_turns_by_over_one_radian(distance, pairs):
    assert pairs_off(5e5, 1e4, 128, distance) == pairs


def test_theta_has_no_default():
    with pytest.raises(TypeError, match="theta"):
        Rope()


@pytest.mark.parametrize("fields", [{"theta": 0.0}, {"theta": 5e5, "layout": "spiral"}])
def test_impossible_ropes_are_refused(fields):
    with pytest.raises(InputError):
        Rope(**fields)


def test_the_layouts_are_permutations_of_each_other():
    weight = np.arange(4 * 16 * 3).reshape(64, 3)
    assert not np.array_equal(interleave_rows(weight, 4), weight)
    np.testing.assert_array_equal(split_rows(interleave_rows(weight, 4), 4), weight)


def test_interleaved_weights_read_as_interleaved_are_the_same_model():
    half = small_config()
    inter = small_config(rope=Rope(theta=5e5, layout="interleaved"))
    parameters = lively_parameters(half)
    permuted = dict(parameters, layers=dict(parameters["layers"], self_attn=dict(parameters["layers"]["self_attn"])))
    for name, heads in (("q_proj", 4), ("k_proj", 2)):
        stacked = parameters["layers"]["self_attn"][name]
        permuted["layers"]["self_attn"][name] = jnp.stack([interleave_rows(w, heads) for w in stacked])
    tokens = np.random.default_rng(0).integers(0, 160, (1, 40))
    np.testing.assert_allclose(llama.build(half, parameters)(tokens), llama.build(inter, permuted)(tokens), atol=1e-5)
