"""Eight fake CPU devices for the sharding tests, and small models; set before jax starts."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

from openko import llama
from openko.profiles import LlamaConfig
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
