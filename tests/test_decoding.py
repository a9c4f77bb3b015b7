"""Decoding: greedy equals transformers token by token, sampling is a distribution, and shapes change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import lively_parameters, small_config
from jax.sharding import Mesh

from openko import decoding, hf_weights, llama
from openko.decoding import draw_from_nucleus, extend
from openko.errors import InputError

SETTINGS = {"terminators": (3,), "max_new_tokens": 24}


def decoder(config, seed: int = 0):
    return decoding.from_parameters(config, lively_parameters(config, seed))


def cache_for(made, start, slots):
    return made._empty_cache(np.asarray(start, np.int32), slots)


def test_passing_through_the_cache_equals_the_whole_text(config):
    made, tokens = decoder(config), np.random.default_rng(2).integers(0, 160, (2, 20))
    whole = llama.build(config, lively_parameters(config))(tokens)
    cache, pieces = cache_for(made, [0, 0], 24), []
    for part in (tokens[:, :11], tokens[:, 11:12], tokens[:, 12:]):
        hidden, cache = extend(config, made.weights, cache, part)
        pieces.append(hidden)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)


def test_padding_on_the_left_changes_nothing(config):
    made, tokens = decoder(config), np.random.default_rng(3).integers(0, 160, (1, 9))
    padded = np.concatenate([np.full((1, 5), 7), tokens], axis=1)
    hidden, _ = extend(config, made.weights, cache_for(made, [5], 16), padded)
    np.testing.assert_allclose(hidden[:, 5:], llama.build(config, lively_parameters(config))(tokens), atol=1e-5)


@pytest.mark.parametrize("config", [
    small_config(), small_config(tie_word_embeddings=True),
    pytest.param(small_config(num_attention_heads=9, num_key_value_heads=3, hidden_size=72), marks=pytest.mark.slow),
    pytest.param(small_config(num_attention_heads=4, num_key_value_heads=4, head_dim=32), marks=pytest.mark.slow),
], ids=["untied", "tied", "9/3 heads", "4/4 heads"])  # fmt: skip
def test_greedy_equals_transformers_for_prompts_of_unequal_length(tmp_path, config):
    hf_weights.save(tmp_path, config, lively_parameters(config))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    draw = np.random.default_rng(0)
    prompts = [draw.integers(4, 160, n).tolist() for n in (3, 17, 70)]
    for ours in (decoder(config), decoding.load(tmp_path)):
        for prompt, found in zip(prompts, ours.generate(prompts, temperature=0.0, **SETTINGS), strict=True):
            theirs = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, eos_token_id=3, pad_token_id=0)
            assert found == theirs[0, len(prompt) :].tolist()


def test_long_prompts_go_in_pieces_and_the_cache_grows(config, monkeypatch):
    prompt = np.random.default_rng(0).integers(4, 160, 100).tolist()
    how = {"terminators": (), "max_new_tokens": 70, "temperature": 0.0}
    expected = decoder(config).generate([prompt], **how)
    monkeypatch.setattr(decoding, "BUCKETS", (16, 32))  # 100 tokens: four pieces
    monkeypatch.setattr(decoding, "_slots", lambda needed, most: next(s for s in (130, 150, 256) if s > needed))
    assert decoder(config).generate([prompt], **how) == expected


def test_an_answer_ends_with_its_terminator(config):
    free = decoder(config).generate([[5, 6]], terminators=(), temperature=0.0, max_new_tokens=12)[0]
    ended = decoder(config).generate([[5, 6]], terminators=(159, free[4]), temperature=0.0, max_new_tokens=12)[0]
    assert ended == free[: free.index(free[4]) + 1]


def test_pieces_put_together_are_the_answer(config):
    made, how = decoder(config), {"terminators": (3,), "max_new_tokens": 30, "seed": 5}
    whole = made.generate([[5, 6, 7]], **how)[0]
    pieces = list(made.stream([[5, 6, 7]], steps=4, **how))
    assert [p.shape[1] for p in pieces[:3]] == [1, 4, 4]
    assert np.concatenate(pieces, axis=1)[0].tolist()[: len(whole)] == whole


def test_draws_depend_on_seed_and_row_alone(config):
    made, prompts = decoder(config), [[5, 6, 7], [8, 9]]
    first = made.generate(prompts, seed=1, **SETTINGS)
    assert first == made.generate(prompts, seed=1, **SETTINGS)
    assert first != made.generate(prompts, seed=2, **SETTINGS)
    assert first[0] == made.generate(prompts[:1], seed=1, **SETTINGS)[0]


def test_first_tokens_follow_the_model_distribution(config):
    model = llama.build(config, lively_parameters(config))
    expected = np.asarray(jax.nn.softmax(model.logits(model(np.array([[5, 6, 7]])))[0, -1] / 0.5))
    drawn = decoder(config).generate([[5, 6, 7]] * 4000, terminators=(), temperature=0.5, top_p=1.0, max_new_tokens=1, seed=0)
    counts = np.bincount([d[0] for d in drawn], minlength=160) / 4000
    # Every word within five standard errors of its probability.
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-3).all()


def test_second_tokens_follow_the_distribution_after_the_first(config):
    """Of 4,000 draws of two tokens, those that begin with the most frequent first token."""
    model = llama.build(config, lively_parameters(config))
    drawn = np.array(decoder(config).generate([[5, 6, 7]] * 4000, terminators=(), temperature=0.3, top_p=1.0, max_new_tokens=2, seed=1))
    first = np.bincount(drawn[:, 0]).argmax()
    seconds = drawn[drawn[:, 0] == first, 1]
    expected = np.asarray(jax.nn.softmax(model.logits(model(np.array([[5, 6, 7, first]])))[0, -1] / 0.3))
    counts = np.bincount(seconds, minlength=160) / len(seconds)
    assert len(seconds) > 500
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / len(seconds)) + 2e-3).all()


def nucleus(probabilities, top_p):
    """By sorting: the words of the smallest set that reaches top_p, and how probable each of all words is when drawn from it."""
    order = np.argsort(-probabilities)
    inside = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
    expected = np.zeros(len(probabilities))
    expected[inside] = probabilities[inside] / probabilities[inside].sum()
    return inside, expected


def test_tokens_outside_the_nucleus_are_never_drawn(config):
    model = llama.build(config, lively_parameters(config))
    warm = np.asarray(jax.nn.softmax(model.logits(model(np.array([[5, 6, 7]])))[0, -1] / 0.5), np.float64)
    inside, expected = nucleus(warm, 0.6)
    drawn = decoder(config).generate([[5, 6, 7]] * 4000, terminators=(), temperature=0.5, top_p=0.6, max_new_tokens=1, seed=2)
    counts = np.bincount([d[0] for d in drawn], minlength=160) / 4000
    assert 1 < len(inside) < 100 and set(np.flatnonzero(counts)) <= set(inside)
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-3).all()


@pytest.mark.parametrize(
    "settings", [{"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}, {"max_new_tokens": 5000}, {"max_new_tokens": 0}]
)
def test_impossible_settings_are_refused(config, settings):
    with pytest.raises(InputError):
        decoder(config).generate([[5, 6]], **{"terminators": (), "max_new_tokens": 4} | settings)


@pytest.mark.parametrize("prompts", [[], [[]], [[5], []]])
def test_prompts_without_tokens_are_refused(config, prompts):
    with pytest.raises(InputError, match="without a token"):
        decoder(config).generate(prompts, **SETTINGS)


def test_matrices_in_bf16_and_norms_in_fp32_decode(tmp_path, config):
    parameters = jax.tree_util.tree_map_with_path(
        lambda path, x: x if "norm" in path[-1].key else x.astype(jnp.bfloat16), lively_parameters(config)
    )
    mixed = decoding.from_parameters(config, parameters)
    assert mixed._empty_cache(np.zeros(1, np.int32), 8).keys[0].dtype == jnp.bfloat16
    assert len(mixed.generate([[5, 6, 7]], terminators=(), max_new_tokens=4)[0]) == 4


def test_a_tree_of_numpy_arrays_is_laid_out_once(config):
    made = decoding.from_parameters(config, jax.tree.map(np.asarray, lively_parameters(config)))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(made.weights))
    assert made.generate([[5, 6, 7]], temperature=0.0, **SETTINGS) == decoder(config).generate([[5, 6, 7]], temperature=0.0, **SETTINGS)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cut_over_devices_the_answers_are_the_same(tmp_path, tied):
    config = small_config(num_attention_heads=8, num_key_value_heads=4, hidden_size=64, tie_word_embeddings=tied)
    hf_weights.save(tmp_path, config, lively_parameters(config), shard_bytes=30_000)
    mesh = Mesh(np.array(jax.devices()[:4]), ("tensor",))
    cut = decoding.load(tmp_path, mesh=mesh)
    assert {s.data.shape for s in cut.weights["layers"][0]["mlp"]["gate_proj"].addressable_shards} == {(64, 20)}
    prompts = [[5, 6, 7], list(range(4, 60))]
    for how in ({"temperature": 0.0}, {"seed": 4}):
        assert cut.generate(prompts, **how, **SETTINGS) == decoding.load(tmp_path).generate(prompts, **how, **SETTINGS)


class Accelerator:
    """A device of 16 GB, as far as `mesh_for` looks at one."""

    def __init__(self, number):
        self.id = number

    def memory_stats(self):
        return {"bytes_limit": 16e9}


def test_a_model_is_cut_over_no_more_devices_than_it_needs(monkeypatch):
    from openko.profiles import MODELS

    monkeypatch.setattr(decoding, "Mesh", lambda devices, axes: devices.shape)
    eight = [Accelerator(n) for n in range(8)]
    assert decoding.mesh_for(MODELS["llama-3.2-1b"], "bfloat16", eight) is None
    assert decoding.mesh_for(MODELS["llama-3-8b"], "bfloat16", eight) == (2,)
    assert decoding.mesh_for(MODELS["llama-3-8b"], "float32", eight) == (4,)
    with pytest.raises(InputError, match=r"32\.1 GB of weights in float32 do not fit 2 devices of 16\.0 GB"):
        decoding.mesh_for(MODELS["llama-3-8b"], "float32", eight[:2])
    assert decoding.mesh_for(MODELS["llama-3-8b"], "float32", jax.devices()) is None  # CPUs tell no limit


def drawn_words(probabilities, top_p, rows=20_000):
    return np.asarray(
        draw_from_nucleus(jnp.tile(jnp.array(probabilities, "float32"), (rows, 1)), top_p, jax.random.split(jax.random.key(7), rows))
    )


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_words_are_drawn_from_the_smallest_set_that_reaches_top_p_by_their_probabilities(top_p):
    probabilities = np.asarray(jax.nn.softmax(3 * np.random.default_rng(0).normal(size=1000)), np.float64)
    inside, expected = nucleus(probabilities, top_p)
    counts = np.bincount(drawn_words(probabilities, top_p), minlength=1000) / 20_000
    assert set(np.flatnonzero(counts)) <= set(inside)
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-4).all()


def test_words_as_likely_as_the_last_that_is_needed_are_drawn_too():
    assert set(drawn_words([0.5, 0.3, 0.15, 0.05], 0.9).tolist()) == {0, 1, 2}
    assert set(drawn_words([0.25] * 4, 0.3).tolist()) == {0, 1, 2, 3}
    assert set(drawn_words([0.0, 0.9, 0.1], 1.0).tolist()) == {1, 2}


def test_a_row_of_nan_ends_and_leaves_the_others_alone():
    rows = jnp.array([[0.0, 1.0], [jnp.nan, jnp.nan], [1.0, 0.0]])
    assert draw_from_nucleus(rows, 0.9, jax.random.split(jax.random.key(0), 3)).tolist() == [1, 0, 0]
