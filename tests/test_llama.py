"""The model equals transformers' Llama, both ways, and every field of its configuration does something."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import lively_parameters, small_config

from openko import hf_weights, llama, rehearsal
from openko.errors import InputError
from openko.profiles import MODELS
from openko.rope import Llama3Scaling, Rope

SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=512)
POSITIONS = 2304


def our_logits(config, parameters, tokens):
    def run(parameters, tokens):
        model = llama.build(config, parameters)
        return model.logits(model(tokens))

    return np.asarray(jax.jit(run)(parameters, tokens))


def their_logits(directory, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


@pytest.mark.parametrize(("heads", "kv_heads", "tied"), [(8, 2, True), (9, 3, False)])
@pytest.mark.parametrize(
    "rope",
    [
        pytest.param(Rope(theta=1e4), marks=pytest.mark.slow), pytest.param(Rope(theta=1e5), marks=pytest.mark.slow),
        Rope(theta=5e5), Rope(theta=5e5, scaling=SCALING),
    ],
    ids=str,
)  # fmt: skip
def test_our_model_read_by_transformers_gives_our_logits(tmp_path, heads, kv_heads, rope, tied):
    config = small_config(num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=72, rope=rope, tie_word_embeddings=tied)
    parameters = lively_parameters(config)
    hf_weights.save(tmp_path, config, parameters)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, POSITIONS))
    ours = our_logits(config, parameters, tokens)
    assert np.abs(ours).max() > 1  # else equal to 1e-4 would say little
    np.testing.assert_allclose(ours, their_logits(tmp_path, tokens), atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_their_model_read_by_us_gives_their_logits(tmp_path, tied, dtype):
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=160, hidden_size=72, intermediate_size=96, num_hidden_layers=3, num_attention_heads=9, num_key_value_heads=3,
        head_dim=16, rope_theta=5e5, max_position_embeddings=4096, tie_word_embeddings=tied, initializer_range=0.1, rms_norm_eps=1e-5,
    ))  # fmt: skip
    theirs.to(dtype).save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / hf_weights.INDEX).exists()  # several shards
    config, parameters = hf_weights.load(tmp_path)
    assert parameters["norm"].dtype == jnp.dtype(str(dtype).removeprefix("torch."))
    tokens = np.random.default_rng(0).integers(0, 160, (1, POSITIONS))
    np.testing.assert_allclose(our_logits(config, parameters, tokens), their_logits(tmp_path, tokens), atol=1e-4)


def test_a_trip_through_transformers_and_back_changes_no_weight(tmp_path, config):
    parameters = lively_parameters(config)
    (tmp_path / "a").mkdir()
    hf_weights.save(tmp_path / "a", config, parameters)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    again, back = hf_weights.load(tmp_path / "b")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, parameters, back)


CHANGES = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "rope": Rope(theta=1e4), "tie_word_embeddings": True, "rms_norm_eps": 0.1,
    "initializer_range": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(small_config()) if f.name != "max_position_embeddings"])
def test_every_field_changes_the_output(field):
    tokens = np.arange(24)[None]

    def output(config):
        return our_logits(config, jax.tree.map(lambda x: 5 * x, llama.init(config, jax.random.key(0))), tokens)

    before, after = output(small_config()), output(small_config(**{field: CHANGES[field]}))
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-4


@pytest.mark.parametrize("rope", [Rope(theta=1e4), Rope(theta=5e5, scaling=SCALING), Rope(theta=5e5, layout="interleaved")], ids=str)
def test_every_field_of_rope_changes_the_output(config, rope):
    parameters, tokens = lively_parameters(config), np.arange(150)[None]
    other = dataclasses.replace(config, rope=rope)
    assert np.abs(our_logits(config, parameters, tokens) - our_logits(other, parameters, tokens)).max() > 1e-3


def test_more_tokens_than_positions_are_refused(config):
    short = dataclasses.replace(config, max_position_embeddings=16)
    with pytest.raises(InputError, match="max_position_embeddings"):
        our_logits(short, lively_parameters(short), np.zeros((1, 17), int))


def test_packed_documents_equal_the_documents_alone(config):
    parameters, tokens = lively_parameters(config), np.random.default_rng(1).integers(0, 160, (1, 30))
    segments = np.array([[0] * 12 + [1] * 18])
    positions = np.concatenate([np.arange(12), np.arange(18)])[None]
    model = jax.jit(lambda tokens, **more: llama.build(config, parameters)(tokens, **more))
    packed = model(tokens, segment_ids=segments, positions=positions)
    alone = [model(part) for part in (tokens[:, :12], tokens[:, 12:])]
    np.testing.assert_allclose(packed, np.concatenate(alone, axis=1), atol=1e-5)


@pytest.mark.parametrize("options", [{"remat": "full"}, {"unroll": 3}])
def test_how_it_is_computed_does_not_change_what(config, options):
    parameters, tokens = lively_parameters(config), np.arange(20)[None]

    def total(parameters, **options):
        return jnp.sum(llama.build(config, parameters, **options)(tokens) ** 2)

    plain, other = jax.grad(total)(parameters), jax.grad(lambda p: total(p, **options))(parameters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), plain, other)


def test_unknown_remat_is_refused(config):
    with pytest.raises(InputError, match="remat"):
        llama.build(config, lively_parameters(config), remat="sometimes")


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_by_arithmetic_equals_the_shapes(name):
    assert rehearsal.parameter_count(MODELS[name]) == llama.parameter_count(MODELS[name])


def test_llama_3_8b_has_the_published_size():
    assert llama.parameter_count(MODELS["llama-3-8b"]) == 8_030_261_248  # the index of Meta's safetensors: 16,060,522,496 bytes of bf16


def test_config_json_names_theta_for_old_and_new_readers(config):
    raw = json.loads(json.dumps(hf_weights.config_to_hf(config)))
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 5e5
