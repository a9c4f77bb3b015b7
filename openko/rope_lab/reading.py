"""The losses of one model under many hypotheses about its RoPE, layer by layer.

θ, scaling and the order of the rows are in no weight, but a model reads text well only with those it was trained with.
A layer is read from disk once and run under every hypothesis, so memory holds one layer and the hidden states,
whatever the model's size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from openko import attention, hf_weights, llama
from openko.errors import InputError
from openko.rope import Rope
from openko.rope_lab import layouts
from openko.rope_lab.directory import ModelDirectory
from openko.rope_lab.layouts import Layout

SAY_EVERY = 5.0  # seconds
SOUND = Layout()


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """How the model may have been trained: angles, and the order in which its rows were stored since."""

    rope: Rope
    layout: Layout = SOUND


class Reader:
    """Compiled once for a model, then asked for any windows and hypotheses. Computes in fp32 on the default device."""

    def __init__(self, model: ModelDirectory, *, say: Callable[[str], None] = print):
        self.model, self.say = model, say
        self._checked = False  # weights are looked through for NaN while they are read for the first time
        config = model.config

        def layer(weights, rows, hidden, angles):
            weights = jax.tree.map(lambda w: w.astype(jnp.float32), weights)
            for name, order in rows.items():
                weights["self_attn"][name] = weights["self_attn"][name][order]
            cos, sin = (jnp.broadcast_to(f(angles), (len(hidden), *angles.shape)) for f in (jnp.cos, jnp.sin))
            one_document = jnp.zeros(hidden.shape[:2], jnp.int32)
            with jax.default_matmul_precision("highest"):  # accelerators would round the products to bf16 or TF32
                return llama.layer(config, weights)(
                    hidden, lambda heads: llama.rotate(heads, cos, sin, config.rope),
                    lambda q, k, v: attention.blocked(q, k, v, one_document),
                )  # fmt: skip

        def losses(hidden, norm, head, targets):
            hidden = llama.rms_norm(hidden, norm, config.rms_norm_eps)
            return llama.token_losses(hidden, head, targets, int(np.gcd(hidden.shape[1], 128)))

        self._layer, self._losses = jax.jit(layer), jax.jit(losses)

    def losses(self, windows: np.ndarray, hypotheses: Sequence[Hypothesis], *, what: str = "reading") -> np.ndarray:
        """Loss in nats of every token but the first, fp64 [hypotheses, count, seq], of windows int [count, seq + 1].

        what: how these hypotheses are called in the progress lines.
        """
        config, started, said = self.model.config, time.monotonic(), time.monotonic()
        if windows.ndim != 2 or windows.shape[1] < 2:
            raise InputError(f"windows of shape {windows.shape} have nothing to predict: [count, at least 2] is needed")
        tokens, targets = windows[:, :-1], jnp.asarray(windows[:, 1:])
        table = self._read("model.embed_tokens.weight")
        start = jnp.asarray(table[tokens].astype(np.float32))
        hidden = [start] * len(hypotheses)
        positions = np.arange(tokens.shape[1])
        angles = [jnp.asarray(h.rope.angles(positions, config.head_dim)) for h in hypotheses]
        rows = {layout: self._undo(layout) for layout in {h.layout for h in hypotheses}}
        done, work = 0, config.num_hidden_layers * len(hypotheses)
        for number in range(config.num_hidden_layers):
            weights = self._weights(number)
            for which, h in enumerate(hypotheses):
                hidden[which] = jax.block_until_ready(self._layer(weights, rows[h.layout], hidden[which], angles[which]))
                done, now = done + 1, time.monotonic()
                if now - said > SAY_EVERY and done < work:
                    said, left = now, (now - started) / done * (work - done)
                    self.say(f"{what}: {len(hypotheses)} hypotheses, layer {number + 1} of {config.num_hidden_layers}, {left:.0f} s left")
        norm = self._read("model.norm.weight").astype(np.float32)
        head = jnp.asarray(table if config.tie_word_embeddings else self._read("lm_head.weight"))
        self._checked = True
        found = np.stack([np.asarray(self._losses(x, norm, head, targets), np.float64) for x in hidden])
        if not np.isfinite(found).all():
            raise InputError(f"{self.model.path}: the losses are no numbers, though the weights are: they overflow fp32")
        return found

    def _weights(self, number: int) -> dict:
        tree: dict = {}
        for path, name in hf_weights.tensor_names(self.model.config).items():
            if path[0] == "layers":
                room = tree
                for key in path[1:-1]:
                    room = room.setdefault(key, {})
                room[path[-1]] = jnp.asarray(self._read(name.format(number)))
        return tree

    def _read(self, name: str) -> np.ndarray:
        array = self.model.tensors.read(name)
        if not self._checked and not np.isfinite(array).all():
            raise InputError(
                f"{self.model.tensors.info[name].file}: tensor {name} holds NaN or infinite numbers "
                f"({np.count_nonzero(~np.isfinite(array)):,} of {array.size:,}): nothing can be read from such a model"
            )
        return array

    def _undo(self, layout: Layout) -> dict[str, np.ndarray]:
        """Where each sound row lies. Sound rows too have their indices, so that one compiled layer serves every layout."""
        stored = {"q_proj": ("q", layout.q), "k_proj": ("k", layout.k)}
        return {name: np.argsort(layouts.order(self.model.config, *what)) for name, what in stored.items()}


def flops_per_second() -> float:
    """What the default device does in one large fp32 product; to say beforehand how long a reading takes."""
    product, size = jax.jit(jnp.matmul), 1024
    square = jnp.ones((size, size))
    jax.block_until_ready(product(square, square))
    started = time.monotonic()
    jax.block_until_ready([product(square, square) for _ in range(4)])
    return 4 * 2 * size**3 / (time.monotonic() - started)
