"""A small model in which position is everything: what the lab's claims are tested on.

Ordinary small models hardly lean on distant positions, so a wrong θ costs them nothing that could be measured. This one
reads text of random letters in which a capital stands for a distance: after it comes the letter that stood so far back.
A minute of training, and nearly every copy is right; with θ a quarter off, few are.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from openko import hf_weights, llama, manifest, tokenizers
from openko.profiles import LlamaConfig
from openko.progress import Progress
from openko.rope import Rope

LETTERS, CAPITALS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMN"
DISTANCES = (2, 3, 5, 9, 17, 33, 65, 97, 129, 193, 257, 321, 385, 449)  # of the copied letter from its original
CONTEXT, BATCH, WIDTH, PEAK_RATE = 512, 6, 96, 4e-3
COPIES = 0.4  # of all places where a copy is possible, how many are one
TEXT = "probe.txt"  # text for the diagnosis, beside the weights


def train(
    out: Path, rope: Rope, *, heads: int, kv_heads: int, head_dim: int, tie_word_embeddings: bool, steps: int = 220, seed: int = 0,
    say=print,
) -> manifest.Manifest:  # fmt: skip
    """Write the directory `out`: one layer of width 96 with the given attention, its tokenizer, and `probe.txt` of 12,000 letters."""

    def make(partial: Path) -> dict:
        tokenizer = tokenizers.train(["a"], 256 + 16, "rope-probe")
        config = LlamaConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=head_dim, rope=rope, max_position_embeddings=CONTEXT,
            tie_word_embeddings=tie_word_embeddings, initializer_range=WIDTH**-0.5,
        )  # fmt: skip
        parameters, loss = _train(config, tokenizer, steps, np.random.default_rng(seed), say)
        hf_weights.save(partial, config, parameters, carried={"bos_token_id": tokenizer[tokenizers.BEGIN]})
        tokenizer.save(partial)
        (partial / TEXT).write_text(text(np.random.default_rng(seed + 1), 12_000)[0], encoding="utf-8")
        return {"loss_of_copies": loss}

    recipe = {
        "rope": repr(rope), "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "tied": tie_word_embeddings, "steps": steps,
        "seed": seed,
    }  # fmt: skip
    return manifest.build(out, kind=hf_weights.KIND, recipe=recipe, inputs={}, module="openko.rope_lab.probe", make=make, say=say)


def text(random: np.random.Generator, length: int) -> tuple[str, np.ndarray]:
    """Random letters with copies, and bool [length]: which letters are copies."""
    symbols = np.array(list(LETTERS + CAPITALS))
    found, copied = random.integers(0, len(LETTERS), length), np.zeros(length, bool)
    wanted, which = random.random(length) < COPIES, random.integers(0, len(DISTANCES), length)
    at = 0
    while at < length - 1:
        if wanted[at] and at + 1 >= DISTANCES[which[at]]:
            found[at], found[at + 1] = len(LETTERS) + which[at], found[at + 1 - DISTANCES[which[at]]]
            copied[at + 1] = True
            at += 1
        at += 1
    return "".join(symbols[found]), copied


def _train(config: LlamaConfig, tokenizer: tokenizers.Tokenizer, steps: int, random: np.random.Generator, say) -> tuple[dict, float]:
    """Parameters, and the last step's loss of the copies in nats."""
    parameters = llama.init(config, jax.random.key(0))
    schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, min(30, steps // 4), steps, PEAK_RATE / 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.0))

    def loss(parameters, tokens, copied):
        model = llama.build(config, parameters)
        losses = llama.token_losses(model(tokens[:, :-1]), model.head, tokens[:, 1:], 128)
        of_copies = jnp.sum(losses * copied) / jnp.sum(copied)
        return of_copies + losses.mean(), of_copies  # all losses, so that the rest is not read at random

    @jax.jit
    def step(parameters, state, tokens, copied):
        (_, of_copies), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, tokens, copied)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, of_copies

    state, progress = optimizer.init(parameters), Progress(say)
    for number in range(steps):
        # Rows begin in the middle of a text, as windows do: some copies have their original before the row.
        rows = [text(random, max(DISTANCES) + CONTEXT + 1) for _ in range(BATCH)]
        tokens = np.array(tokenizer.encode_batch([row[max(DISTANCES) :] for row, _ in rows]), np.int32)
        parameters, state, now = step(parameters, state, tokens, np.stack([copied[max(DISTANCES) + 1 :] for _, copied in rows]))
        line = f"probe: step {number + 1} of {steps}, copies at {float(now):.2f} nats"
        progress(line, (number + 1) / steps, warming_up=number == 0)  # the first step is mostly compiling
    return parameters, float(now)
