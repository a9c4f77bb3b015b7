"""Eight fake CPU devices for the sharding tests, and small models; set before jax starts."""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

# The same programs are compiled again and again by tests that start anew, in several processes: one cache for all, new for each run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**32)  # only with a limit does jax lock it
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from openko import hf_weights, llama, manifest, profiles, shards, tokenizers
from openko.profiles import LlamaConfig, Saving, Training
from openko.rope import Rope


def small_config(**changes) -> LlamaConfig:
    """A Llama of a few thousand weights, whose every number differs from the others."""
    fields = dict(
        vocab_size=160, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, rope=Rope(theta=5e5), max_position_embeddings=4096, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaConfig(**fields | changes)


def lively_parameters(config: LlamaConfig, seed: int = 0) -> dict:
    """Parameters far from their start: norms off one and matrices large enough that every part matters."""
    keys = iter(jax.random.split(jax.random.key(seed), 100))

    def stir(path, x):
        noise = jax.random.normal(next(keys), x.shape)
        return 1 + 0.1 * noise if "norm" in path[-1].key else 0.1 * noise

    return jax.tree_util.tree_map_with_path(stir, llama.abstract(config))


@pytest.fixture
def config() -> LlamaConfig:
    return small_config()


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory):
    """All that a small run of openko.training.loop needs: directory, tokenizer, two shard directories, a start model, a profile.

    A run of 24 steps of 8 × 32 tokens, a checkpoint every 5.
    """
    here = tmp_path_factory.mktemp("ingredients")
    trained = tokenizers.train(["한국어와 English, 그리고 1234. " * 20], 300, "test")
    trained.save(here / "tokenizer")
    config = small_config(vocab_size=trained.vocab_size, num_hidden_layers=2)
    (here / "start").mkdir()
    hf_weights.save(here / "start", config, lively_parameters(config))
    draw = np.random.default_rng(0)

    def make(partial):
        facts = shards.write(partial, (draw.integers(0, 284, draw.integers(20, 300)) for _ in range(200)))
        return facts | {"tokenizer": trained.fingerprint, "vocab_size": trained.vocab_size}

    for name in ("shards", "more"):
        manifest.build(
            here / name, kind=shards.KIND, recipe={"name": name}, inputs={}, module="openko.shards", make=make, say=lambda line: None
        )
    training = Training(
        steps=24, batch_size=8, sequence_length=32, peak_learning_rate=2e-3, final_learning_rate=2e-4, warmup_steps=2, seed=2
    )
    profile = dataclasses.replace(profiles.get("smoke"), model=config, continued=training, saving=Saving(steps=5))
    return SimpleNamespace(here=here, tokenizer=here / "tokenizer", shards=here / "shards", more=here / "more", start=here / "start",
                           profile=profile, training=training)  # fmt: skip


@pytest.fixture
def chat_directory(tmp_path_factory):
    """A chat model's directory: a small Llama of random weights, and a tokenizer whose ids fill its vocabulary."""
    directory = tmp_path_factory.mktemp("chat-model")
    trained = tokenizers.train(["안녕하세요. 무엇을 도와드릴까요? Hello, how can I help you today? " * 3], 300, "test", specials=16)
    config = small_config(vocab_size=300)
    ends = {"bos_token_id": trained[tokenizers.BEGIN], "eos_token_id": [trained[tokenizers.END], trained[tokenizers.TURN_END]]}
    hf_weights.save(directory, config, lively_parameters(config), carried=ends)
    trained.save(directory)
    return directory
