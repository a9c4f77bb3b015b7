"""Decoding: prompts into a key-value cache, then one token at a time out of it.

Fast where a training step is not: the layers lie one by one, not stacked, so that no step copies a layer's weights out of
a stack; matrices are [in, out], the order in which one token's product reads them; the cache has a static shape out of a
few, and grows; rotations come from a table. Every number is that of openko.llama, whose layers these are.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from openko import attention, hf_weights, llama
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.progress import Progress

BUCKETS = (64, 128, 256, 512)  # prompt tokens that go through the model at once; longer prompts in pieces of the last
STEPS = 64  # tokens that one call of the compiled loop draws at most
LANES = 128  # words whose probabilities are summed at once before they are told apart

# The mesh axis of a weight's two axes [in, out]: heads, the MLP's width and the vocabulary are cut, so that every device
# multiplies with its own part and two sums a layer cross between them.
CUTS = {
    "q_proj": (None, "tensor"), "k_proj": (None, "tensor"), "v_proj": (None, "tensor"), "o_proj": ("tensor", None),
    "gate_proj": (None, "tensor"), "up_proj": (None, "tensor"), "down_proj": ("tensor", None),
    "lm_head": (None, "tensor"), "embed_tokens": (None, "tensor"),
}  # fmt: skip


class KVCache(NamedTuple):
    """Keys and values of the tokens so far, one pair of arrays a layer, filled from the left.

    Rows of unequal length are padded on the left: row b's text begins at slot start[b].
    """

    keys: tuple[Float[Array, "batch kv_heads head_dim slots"], ...]
    values: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    start: Int[Array, " batch"]
    length: Int[Array, ""]

    @property
    def slots(self) -> int:
        return self.keys[0].shape[-1]


@dataclass(frozen=True)
class Decoder:
    """A model ready to decode: its config, its weights as `load` or `from_parameters` lay them out, and their mesh."""

    config: LlamaConfig
    weights: dict
    mesh: Mesh | None = None

    def generate(
        self, prompts: list[list[int]], *, terminators: tuple[int, ...], temperature: float = 1.0, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int = 0, say: Callable[[str], None] = print,
    ) -> list[list[int]]:  # fmt: skip
        """New token ids for prompts of unequal length, each ending with its terminator if one was drawn.

        temperature 0 is greedy; otherwise tokens are drawn from the smallest set of words whose probability reaches
        top_p. A row's draws depend on (seed, row, position) alone. say: told every five seconds how far it is.
        """
        progress, drawn, pieces = Progress(say), 0, []
        for piece in self.stream(
            prompts, terminators=terminators, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
        ):
            pieces.append(piece)
            drawn += piece.shape[1]
            progress(
                f"answering {len(prompts)} prompts: {drawn} of at most {max_new_tokens} tokens", drawn / max_new_tokens,
                warming_up=len(pieces) <= 2,  # the first token, and the loop for the others: each may be compiled first
            )  # fmt: skip
        return [_until_end(row, terminators) for row in np.concatenate(pieces, axis=1).tolist()]

    def stream(
        self, prompts: list[list[int]], *, terminators: tuple[int, ...], temperature: float = 1.0, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int = 0, steps: int = STEPS,
    ) -> Iterator[Int[np.ndarray, "batch new"]]:  # fmt: skip
        """As `generate`, in pieces of at most `steps` tokens as they are drawn; the first piece is the first token.

        What a row holds after its terminator means nothing. Ends when every row has ended.
        """
        check(self.config, prompts, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
        width = _bucket(max(len(prompt) for prompt in prompts))
        tokens = np.zeros((len(prompts), width), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
        start = np.array([width - len(prompt) for prompt in prompts], np.int32)
        cache = self._empty_cache(start, _slots(width, width + max_new_tokens))
        how = (jnp.float32(max(temperature, 1e-6)), jnp.float32(top_p), jax.random.key(seed))
        ends = jnp.array(terminators, jnp.int32)
        *earlier, last_piece = np.split(tokens, range(BUCKETS[-1], width, BUCKETS[-1]), axis=1)
        for piece in earlier:
            cache = _fill(self.config, self.weights, cache, piece)
        last, ended, cache = _first(self.config, self.weights, cache, last_piece, ends, how, greedy=temperature == 0)
        yield np.asarray(last)[:, None]
        drawn = 1
        while drawn < max_new_tokens and not bool(jnp.all(ended)):
            used = width + drawn - 1
            if used == cache.slots:
                cache = _grown(cache, _slots(used + 1, width + max_new_tokens))
            limit = min(steps, STEPS, max_new_tokens - drawn, cache.slots - used)
            piece, made, last, ended, cache = _draw(
                self.config, self.weights, cache, last, ended, jnp.int32(drawn), jnp.int32(limit), ends, how, greedy=temperature == 0
            )
            made = int(made)
            yield np.asarray(piece)[:, :made]
            drawn += made

    def _empty_cache(self, start: np.ndarray, slots: int) -> KVCache:
        c, dtype = self.config, self.weights["lm_head"].dtype
        where = None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(None, "tensor"))
        rows = (len(start), c.num_key_value_heads)

        def zeros(*shape):
            return tuple(jnp.zeros((*rows, *shape), dtype, device=where) for _ in range(c.num_hidden_layers))

        return KVCache(zeros(c.head_dim, slots), zeros(slots, c.head_dim), jnp.asarray(start), jnp.zeros((), jnp.int32))


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────


def from_parameters(config: LlamaConfig, parameters: dict) -> Decoder:
    """A decoder over openko.llama's tree of stacked parameters (numpy or jax), copied layer by layer, in their dtype."""

    def leaf(path, layer):
        found = parameters
        for key in path:
            found = found[key]
        return found if layer is None else found[layer]

    def read(path, layer, name):
        found = leaf(path, layer).T
        return jnp.asarray(np.ascontiguousarray(found)) if isinstance(found, np.ndarray) else found

    return Decoder(config, _laid_out(config, read))


def load(directory: Path, *, dtype=None, mesh: Mesh | None = None, say: Callable[[str], None] = print) -> Decoder:
    """A decoder over a Hugging Face directory, read tensor by tensor.

    dtype: of the weights, the cache and the activations; by default as stored. mesh: with the axis "tensor", over whose
    devices heads, MLP and vocabulary are cut; each reads its own part alone.
    """
    config, _ = hf_weights.read_config(directory)
    tensors = hf_weights.Tensors(directory)
    hf_weights.check_tensors(tensors, config)
    progress, read_so_far = Progress(say), itertools.count(1)

    def read(path, layer, name):
        progress(f"reading {directory}", next(read_so_far) / len(tensors.info))
        shape = tensors.info[name].shape[::-1]
        kind = dtype or tensors.info[name].dtype
        if mesh is None:
            return jnp.asarray(np.ascontiguousarray(tensors.read(name).T, kind))
        cut = NamedSharding(mesh, PartitionSpec(*CUTS.get(path[-1], ())))
        return jax.make_array_from_callback(shape, cut, lambda index: np.ascontiguousarray(tensors.read(name, index[::-1]).T, kind))

    return Decoder(config, _laid_out(config, read), mesh)


def _laid_out(config: LlamaConfig, read: Callable) -> dict:
    """{"embed_tokens" [vocab, hidden], "layers": one tree for each, "norm", "lm_head" [hidden, vocab]}: matrices [in, out].

    read(path, layer, Hugging Face name) gives a transposed weight. Where they are tied, "lm_head" serves for both.
    """
    names = hf_weights.tensor_names(config)
    single = {path[0]: read(path, None, name) for path, name in names.items() if path[0] != "layers"}
    layers = []
    for number in range(config.num_hidden_layers):
        tree = {}
        for path, name in names.items():
            if path[0] == "layers":
                place = functools.reduce(lambda node, key: node.setdefault(key, {}), path[1:-1], tree)
                place[path[-1]] = read(path, number, name.format(number))
        layers.append(tree)
    embedding = single.pop("embed_tokens")
    tied = {"lm_head": embedding} if config.tie_word_embeddings else {"embed_tokens": embedding.T}
    return single | tied | {"layers": tuple(layers)}


def dtype_for(directory: Path) -> np.dtype:
    """In which dtype to compute: as stored on accelerators; fp32 on CPU, where products of bf16 are slow, if half of the
    memory holds it."""
    tensors = hf_weights.Tensors(directory)
    embedding = tensors.info.get("model.embed_tokens.weight")
    stored = embedding.dtype if embedding else np.dtype("float32")  # a missing tensor is `load`'s to name
    if jax.default_backend() != "cpu":
        return stored
    wide = 4 * sum(info.size for info in tensors.info.values())
    return np.dtype("float32") if wide <= 0.5 * psutil.virtual_memory().total else stored


def mesh_for(config: LlamaConfig, dtype, devices=None) -> Mesh | None:
    """The fewest devices whose memory holds a model, as a mesh with the axis "tensor"; None where one does.

    Two fifths of a device's memory are left to the cache and to what is computed. On CPU there is one memory, and no mesh.
    """
    devices = jax.local_devices() if devices is None else devices
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return None
    size = llama.parameter_count(config) * np.dtype(dtype).itemsize
    widths = (config.num_key_value_heads, config.vocab_size, config.intermediate_size, config.hidden_size)
    counts = [count for count in range(1, len(devices) + 1) if all(width % count == 0 for width in widths)]
    for count in counts:
        if size / count <= 0.6 * limit:
            return None if count == 1 else Mesh(np.array(devices[:count]), ("tensor",))
    raise InputError(
        f"{size / 1e9:.1f} GB of weights in {np.dtype(dtype)} do not fit {counts[-1]} devices of {limit / 1e9:.1f} GB with room to work, "
        f"and over more of the {len(devices)} here its {config.num_key_value_heads} key-value heads and other widths do not divide: "
        "take larger devices, or weights in a smaller dtype"
    )


# ── one pass through the model ───────────────────────────────────────────────────────────────────────────────────


def extend(
    config: LlamaConfig, weights: dict, cache: KVCache, tokens: Int[Array, "batch seq"]
) -> tuple[Float[Array, "batch seq hidden"], KVCache]:
    """Append tokens to the cache and return their normed last hidden states.

    Slots before a row's start are padding: seen by nobody, and what comes out for them means nothing.
    """
    slots, head_dim = cache.slots, config.head_dim
    slot = cache.length + jnp.arange(tokens.shape[1])
    turns = config.rope.angles(jnp.arange(slots), head_dim)
    position = jnp.maximum(slot[None] - cache.start[:, None], 0)
    cos, sin = jnp.cos(turns)[position], jnp.sin(turns)[position]
    every = jnp.arange(slots)[None, None]
    mask = (every <= slot[None, :, None]) & (every >= cache.start[:, None, None])
    x = weights["embed_tokens"][tokens] if "embed_tokens" in weights else jnp.moveaxis(weights["lm_head"][:, tokens], 0, -1)
    keys, values = [], []
    for tree, old_keys, old_values in zip(weights["layers"], cache.keys, cache.values, strict=True):

        def attend(q, k, v, old_keys=old_keys, old_values=old_values):
            at = cache.length
            new_keys = jax.lax.dynamic_update_slice(old_keys, jnp.transpose(k, (0, 2, 3, 1)), (0, 0, 0, at))
            new_values = jax.lax.dynamic_update_slice(old_values, jnp.swapaxes(v, 1, 2), (0, 0, at, 0))
            keys.append(new_keys)
            values.append(new_values)
            return attention.cached(q, new_keys, new_values, mask)

        x = llama.layer(config, jax.tree.map(jnp.transpose, tree))(x, lambda heads: llama.rotate(heads, cos, sin, config.rope), attend)
    hidden = llama.rms_norm(x, weights["norm"], config.rms_norm_eps)
    return hidden, KVCache(tuple(keys), tuple(values), cache.start, cache.length + tokens.shape[1])


def logits(weights: dict, hidden: Float[Array, "batch hidden"]) -> Float[Array, "batch vocab"]:
    """Scores over the vocabulary, fp32."""
    return jnp.einsum("bd,dv->bv", hidden, weights["lm_head"], preferred_element_type=jnp.float32)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def _fill(config, weights, cache, tokens):
    return extend(config, weights, cache, tokens)[1]


@functools.partial(jax.jit, static_argnames=("config", "greedy"), donate_argnames="cache")
def _first(config, weights, cache, tokens, ends, how, *, greedy):
    hidden, cache = extend(config, weights, cache, tokens)
    new = _choose(logits(weights, hidden[:, -1]), 0, how, greedy)
    return new, jnp.isin(new, ends), cache


@functools.partial(jax.jit, static_argnames=("config", "greedy"), donate_argnames="cache")
def _draw(config, weights, cache, last, ended, drawn, limit, ends, how, *, greedy):
    """Up to `limit` (at most STEPS) tokens more; stops when all rows have ended. drawn: how many each row has."""

    def unfinished(state):
        made, _, ended, _, _ = state
        return (made < limit) & ~jnp.all(ended)

    def one_more(state):
        made, last, ended, piece, cache = state
        hidden, cache = extend(config, weights, cache, last[:, None])
        new = _choose(logits(weights, hidden[:, -1]), drawn + made, how, greedy)
        return made + 1, new, ended | jnp.isin(new, ends), piece.at[:, made].set(new), cache

    piece = jnp.zeros((len(last), STEPS), jnp.int32)
    made, last, ended, piece, cache = jax.lax.while_loop(unfinished, one_more, (jnp.int32(0), last, ended, piece, cache))
    return piece, made, last, ended, cache


def _choose(logits, number, how, greedy):
    """One token for each row; `number` counts the row's tokens from 0."""
    if greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    temperature, top_p, key = how
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row), number))(jnp.arange(len(logits)))
    return draw_from_nucleus(jax.nn.softmax(logits / temperature, axis=-1), top_p, keys)


def draw_from_nucleus(probability: Float[Array, "batch vocab"], top_p, keys: Key[Array, " batch"]) -> Int[Array, " batch"]:
    """One word a row, from the smallest set of words whose probability reaches top_p (Holtzman et al. 2020, arXiv:1904.09751).

    Words as likely as the last one that is needed belong to the set. There is no sort and no threshold to find: a word is
    drawn from all, and stays if those that are likelier do not reach top_p by themselves. If they do, it is not of the set,
    nor is anything as unlikely, and the next draw is from what is likelier; so a draw takes about three rounds, of two
    sums over the vocabulary each and one random number. Rows with NaN get word 0.
    """
    blocks = jnp.pad(probability, ((0, 0), (0, -probability.shape[1] % LANES))).reshape(len(keys), -1, LANES)

    def one_round(state):
        number, word, floor, open_ = state
        likelier = jnp.where(blocks > floor[:, None, None], blocks, 0)
        ends = jnp.cumsum(jnp.sum(likelier, axis=-1), axis=-1)
        mark = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number)))(keys) * ends[:, -1]
        block = jnp.argmax(ends > mark[:, None], axis=-1)
        within = jnp.take_along_axis(likelier, block[:, None, None], axis=1)[:, 0]
        before = jnp.where(block > 0, jnp.take_along_axis(ends, block[:, None] - 1, axis=1)[:, 0], 0)
        lane = jnp.argmax(jnp.cumsum(within, axis=-1) > (mark - before)[:, None], axis=-1)
        found = jnp.take_along_axis(within, lane[:, None], axis=1)[:, 0]
        above = jnp.sum(jnp.where(blocks > found[:, None, None], blocks, 0), axis=(1, 2))
        again = open_ & ((above >= top_p) | (found == 0))  # 0: rounding put the mark behind the last word
        word = jnp.where(open_, block * LANES + lane, word)
        return number + 1, word.astype(jnp.int32), jnp.where(again, jnp.maximum(floor, found), floor), again

    start = (jnp.int32(0), jnp.zeros(len(keys), jnp.int32), jnp.zeros(len(keys)), ~jnp.isnan(probability[:, 0]))
    return jax.lax.while_loop(lambda state: jnp.any(state[-1]), one_round, start)[1]


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _bucket(length: int) -> int:
    """A prompt's length rounded up: to a bucket, or to whole pieces of the last one."""
    return next((b for b in BUCKETS if b >= length), -(-length // BUCKETS[-1]) * BUCKETS[-1])


def _slots(needed: int, most: int) -> int:
    """Slots for a cache that must hold more than `needed` tokens and will at last hold `most`: 128, 192, 256, 384, 512, …

    Attention pays for empty slots, and every number of them is one more program to compile.
    """
    sizes = (size << doubled for doubled in itertools.count() for size in (2 * BUCKETS[0], 3 * BUCKETS[0]))
    return min(next(size for size in sizes if size > needed), -(-most // BUCKETS[0]) * BUCKETS[0])


@functools.partial(jax.jit, static_argnames="slots")
def _grown(cache: KVCache, slots: int) -> KVCache:
    more = slots - cache.slots
    keys = tuple(jnp.pad(k, ((0, 0), (0, 0), (0, 0), (0, more))) for k in cache.keys)
    values = tuple(jnp.pad(v, ((0, 0), (0, 0), (0, more), (0, 0))) for v in cache.values)
    return cache._replace(keys=keys, values=values)


def check(config: LlamaConfig, prompts: list[list[int]], *, temperature: float, top_p: float, max_new_tokens: int) -> None:
    """Refuse settings and prompts that `Decoder.stream` would refuse; needs no weights."""
    if not 0 < top_p <= 1 or temperature < 0:
        raise InputError(f"top_p must be in (0, 1] and temperature at least 0, found {top_p} and {temperature}")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
    if not prompts or not all(prompts):
        raise InputError("a prompt without a token cannot be continued")
    longest = max(len(p) for p in prompts)
    if longest + max_new_tokens > config.max_position_embeddings:
        raise InputError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed max_position_embeddings "
            f"{config.max_position_embeddings}: shorten the prompt or lower --max-new-tokens"
        )


def _until_end(tokens: list[int], terminators: tuple[int, ...]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in terminators:
            return tokens[: position + 1]
    return tokens
