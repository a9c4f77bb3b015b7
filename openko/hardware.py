"""What machines can do and what a model asks of them: published numbers and arithmetic, no jax."""

import re
from dataclasses import dataclass

from openko.profiles import LlamaConfig

# For hours before anything was measured: a cautious guess for a first run, said wherever it is printed.
CAUTIOUS_MFU = 0.40

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    flops: bf16 peak, FLOP/s. hbm: bytes. hbm_bandwidth: bytes/s. link_bandwidth: bytes/s that a chip sends to its
    neighbours, all links together, one way (half of the "bidirectional" figure in the tables). dollars_per_hour: on
    demand in the USA. kinds: what jax calls the device.
    """

    flops: float
    hbm: float
    hbm_bandwidth: float
    link_bandwidth: float
    dollars_per_hour: float
    kinds: tuple[str, ...]


# Google Cloud's pages on each system ("Key specifications") and on prices, as of 2025; a price is for arithmetic, not for
# a bill. GPUs: dense bf16 (fp16 for the T4) of NVIDIA's data sheets.
CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, 1.20, ("TPU v5 lite", "TPU v5e")),
    "v6e": Chip(918e12, 32e9, 1640e9, 400e9, 2.70, ("TPU v6 lite", "TPU v6e")),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9, 4.20, ("TPU v5p", "TPU v5")),
    "v4": Chip(275e12, 32e9, 1228e9, 300e9, 3.22, ("TPU v4",)),
}
GPU_FLOPS = {"NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA L4": 121e12, "Tesla T4": 65e12}


def peak_flops(device_kind: str) -> float | None:
    """bf16 peak of a jax device's `device_kind`, or None where we know none (a CPU)."""
    for chip in CHIPS.values():
        if device_kind in chip.kinds:
            return chip.flops
    return next((flops for name, flops in GPU_FLOPS.items() if re.match(rf"{name}(?!\w)", device_kind)), None)


def flops_per_token(config: LlamaConfig, sequence_length: int) -> float:
    """Forward and backward, without what remat computes again: 6 per weight in a product, plus causal attention.

    Attention: 2 products × 2 FLOPs × 3 passes × heads × head_dim × the half of the sequence that is seen.
    """
    c = config
    attention_width = c.num_attention_heads * c.head_dim
    per_layer = c.hidden_size * (2 * attention_width + 2 * c.num_key_value_heads * c.head_dim + 3 * c.intermediate_size)
    weights = c.num_hidden_layers * per_layer + c.vocab_size * c.hidden_size
    attention = 12 * c.num_hidden_layers * attention_width * sequence_length / 2
    return 6 * weights + attention


def parameter_count(config: LlamaConfig) -> int:
    """Weights of the model, by arithmetic (a test holds it against the module's own shapes)."""
    c = config
    attention = c.hidden_size * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size
    embeddings = c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
    return embeddings + c.num_hidden_layers * layer + c.hidden_size
