"""Greedy answers equal transformers token by token; sampling is tested as a distribution."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import lively_parameters, small_config

from openko import hf_weights, sampling, tokenizers
from openko.errors import InputError
from openko.sampling import Sampler, generate, nucleus

SETTINGS = {"terminators": (3,), "max_new_tokens": 24}


@pytest.mark.parametrize("config", [
    small_config(), small_config(tie_word_embeddings=True),
    small_config(num_attention_heads=9, num_key_value_heads=3, hidden_size=72),
], ids=["untied", "tied", "9/3 heads"])  # fmt: skip
def test_greedy_equals_transformers_for_prompts_of_unequal_length(tmp_path, config):
    parameters = lively_parameters(config)
    hf_weights.save(tmp_path, config, parameters)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    draw = np.random.default_rng(0)
    prompts = [draw.integers(4, 160, n).tolist() for n in (3, 17, 70)]
    ours = generate(config, parameters, prompts, temperature=0.0, **SETTINGS)
    for prompt, found in zip(prompts, ours, strict=True):
        theirs = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, eos_token_id=3, pad_token_id=0)
        assert found == theirs[0, len(prompt) :].tolist()


def test_an_answer_ends_with_its_terminator(config):
    parameters = lively_parameters(config)
    free = generate(config, parameters, [[5, 6]], terminators=(), temperature=0.0, max_new_tokens=12)[0]
    ended = generate(config, parameters, [[5, 6]], terminators=(159, free[4]), temperature=0.0, max_new_tokens=12)[0]
    assert ended == free[: free.index(free[4]) + 1]


def test_draws_depend_on_seed_and_row_alone(config):
    parameters = lively_parameters(config)
    prompts = [[5, 6, 7], [8, 9]]
    first = generate(config, parameters, prompts, seed=1, **SETTINGS)
    assert first == generate(config, parameters, prompts, seed=1, **SETTINGS)
    assert first != generate(config, parameters, prompts, seed=2, **SETTINGS)
    assert first[0] == generate(config, parameters, prompts[:1], seed=1, **SETTINGS)[0]


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    probabilities = np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.9, 0.03, 0.02]])
    kept = np.isfinite(nucleus(jnp.log(probabilities), 0.9))
    np.testing.assert_array_equal(kept, [[1, 1, 1, 0], [0, 1, 0, 0]])
    assert np.isfinite(nucleus(jnp.log(probabilities), 1.0)).all()


def test_first_tokens_follow_the_model_distribution(config):
    parameters = lively_parameters(config)
    from openko import llama

    model = llama.build(config, parameters)
    expected = np.asarray(jax.nn.softmax(model.logits(model(np.array([[5, 6, 7]])))[0, -1] / 0.5))
    drawn = generate(config, parameters, [[5, 6, 7]] * 4000, terminators=(), temperature=0.5, top_p=1.0, max_new_tokens=1, seed=0)
    counts = np.bincount([d[0] for d in drawn], minlength=160) / 4000
    # Every word within five standard errors of its probability.
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-3).all()


@pytest.mark.parametrize("settings", [{"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}, {"max_new_tokens": 5000}])
def test_impossible_settings_are_refused(config, settings):
    with pytest.raises(InputError):
        generate(config, lively_parameters(config), [[5, 6]], **{"terminators": (), "max_new_tokens": 4} | settings)


@pytest.fixture
def directory(tmp_path):
    """A model directory with a tokenizer whose ids fill the model's vocabulary."""
    text = ["안녕하세요. 무엇을 도와드릴까요? Hello, how can I help you today? " * 3]
    trained = tokenizers.train(text, 300, "test", specials=16)
    config = small_config(vocab_size=300)
    ends = {"bos_token_id": trained[tokenizers.BEGIN], "eos_token_id": [trained[tokenizers.END], trained[tokenizers.TURN_END]]}
    hf_weights.save(tmp_path, config, lively_parameters(config), carried=ends)
    trained.save(tmp_path)
    return tmp_path


def test_a_prompt_is_one_user_turn_and_the_system_turn_is_optional(directory):
    sampler = Sampler(directory)
    plain, with_system = (sampler.answer(["안녕?"], system=s, temperature=0.0, max_new_tokens=8)[0] for s in (None, "친절하게"))
    ids = sampler.tokenizer.encode_chat([{"role": "user", "content": "안녕?"}])
    expected = generate(sampler.config, sampler.parameters, [ids], terminators=sampler.terminators, temperature=0.0, max_new_tokens=8)[0]
    assert plain.tokens == len(expected) and plain.prompt == "안녕?"
    assert plain.text != with_system.text


def test_a_directory_without_template_or_end_token_is_refused(directory):
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": None}))
    with pytest.raises(InputError, match="template"):
        Sampler(directory).answer(["안녕?"])
    for name in ("config.json", "generation_config.json"):
        raw = json.loads((directory / name).read_text())
        raw.pop("eos_token_id")
        (directory / name).write_text(json.dumps(raw))
    with pytest.raises(InputError, match="eos_token_id"):
        Sampler(directory)


def test_plain_completion_starts_at_begin_of_text(directory):
    sampler = Sampler(directory)
    ids = [sampler.tokenizer[tokenizers.BEGIN], *sampler.tokenizer.encode("안녕")]
    expected = generate(sampler.config, sampler.parameters, [ids], terminators=sampler.terminators, temperature=0.0, max_new_tokens=8)[0]
    assert sampler.complete(["안녕"], temperature=0.0, max_new_tokens=8)[0].tokens == len(expected)
    assert sampling.BUCKET % 8 == 0


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_the_nucleus_reaches_top_p_and_nothing_in_it_could_be_spared(top_p):
    logits = 3 * np.random.default_rng(0).normal(size=(50, 1000)).astype(np.float32)
    probabilities = np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)
    for row, kept in zip(probabilities, np.isfinite(nucleus(jnp.array(logits), top_p)), strict=True):
        assert row[kept].min() >= row[~kept].max(initial=0)
        assert row[kept].sum() >= top_p - 1e-6  # sums in fp32
        assert row[kept].sum() - row[kept].min() < top_p + 1e-6
