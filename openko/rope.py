"""Rotary position embedding as data: one frozen object drives the model, config.json and the diagnosis.

The published Llama-3-Open-Ko-8B had to be uploaded again ("RoPE fixed model", model card, 2024-05-20). Such
accidents happen when the angles in the trainer, the numbers in config.json and the order of the weight rows
are kept in three places. Here they are one `Rope`, and `theta` has no default.

Two layouts exist for the same rotation. *Half-split* (Hugging Face, ours) pairs element i of a head with
i + head_dim/2; *interleaved* (Meta's original checkpoints, GPT-J) pairs 2i with 2i + 1. `interleave_rows` and
`split_rows` convert the rows of q_proj and k_proj between them.
"""

from dataclasses import dataclass

import numpy as np

from openko.errors import InputError

LAYOUTS = ("half-split", "interleaved")


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama-3.1's stretching of the slow frequencies (HF `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How positions turn queries and keys. `theta` is the base of the frequencies (Llama-2 1e4, Llama-3 5e5)."""

    theta: float
    scaling: Llama3Scaling | None = None
    layout: str = "half-split"

    def __post_init__(self):
        if not self.theta > 1:
            raise InputError(f"rope theta must be a number above 1, found {self.theta!r}; Llama-3 uses 500000.0")
        if self.layout not in LAYOUTS:
            raise InputError(f"rope layout must be one of {', '.join(LAYOUTS)}, found {self.layout!r}")

    def inv_freq(self, head_dim: int) -> np.ndarray:
        """Radians per position of each pair, fp32 [head_dim / 2]."""
        exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        freq = np.float32(1.0) / np.power(np.float32(self.theta), exponent, dtype=np.float32)
        if self.scaling is None:
            return freq
        s = self.scaling
        wavelength = 2 * np.pi / freq
        # Fast pairs stay, slow pairs turn `factor` times more slowly, those between are blended (Llama-3.1).
        blend = (s.original_max_position_embeddings / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return ((1 - blend) * freq / s.factor + blend * freq).astype(np.float32)

    def angles(self, positions, head_dim: int):
        """Rotation angles in radians, fp32 [..., head_dim / 2], for integer positions [...] (numpy or jax).

        fp32 because position × frequency in bf16 is wrong by whole radians beyond a few hundred positions.
        """
        return positions[..., None].astype(np.float32) * self.inv_freq(head_dim)


def pairs_off(theta: float, other: float, head_dim: int, distance: int) -> int:
    """How many pairs of a head are turned by over one radian more (or less) at a distance when θ is read as `other`."""
    apart = Rope(theta=theta).angles(np.array(distance), head_dim) - Rope(theta=other).angles(np.array(distance), head_dim)
    return int(np.sum(np.abs(apart) > 1))


def interleave_rows(weight, heads: int):
    """Rows of q_proj or k_proj [heads * head_dim, in] from half-split to interleaved order."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def split_rows(weight, heads: int):
    """Rows of q_proj or k_proj [heads * head_dim, in] from interleaved to half-split order."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
