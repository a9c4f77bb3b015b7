"""Log-likelihoods of many sequences of tokens, every beginning that some of them share computed once.

The sequences are sorted, so that those with a common beginning stand together, and laid out as trees of tokens: a tree is a row
in which each token comes after the one it follows, a branch after its stem, the next branch after the whole of the one before it.
A token sees its own stem and nothing of its sister branches. Four answers to a question cost the question once.

    stem  [의 자 에]  branch [앉 는 다]  branch [쉰 다]        depth 0 1 2 | 3 4 5 | 3 4

Rows are length-sorted into a few lengths, each with its own batch size, and a layer is compiled, not a model: each length costs
four small programs (embedding, angles, a layer, scores; the last once for each power of two of positions). Logits exist at the
scored positions alone, a chunk of them at a time.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from openko import attention, llama
from openko.decoding import Decoder, logits
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.progress import Progress

BATCH_TOKENS = {"cpu": 2048}  # of a batch, as many rows as hold them; elsewhere:
ACCELERATOR_TOKENS = 8192
LONGEST_TREE = 4096  # tokens that a tree may grow to by taking branches in; one sequence may be longer
BLOCK = 128  # query rows of attention at once, or an eighth of a long row: as fast as 64 rows on CPU, and half of the compiling
SCORES = 2**28  # attention scores that exist at once, so that a row of a long context fits: 1 GiB of fp32
CHUNK = 128  # scored positions whose logits exist at once
WAYS = 8  # targets of one position; more than so many take the position several times
COMPILING = {"cpu": 2048}  # tokens of padding that are worth one row length less; elsewhere, where tokens are quicker and XLA is not:
ACCELERATOR_COMPILING = 65_536


@dataclass
class Tree:
    """A row in the making. end[slot]: first slot that is no descendant of it, so that slot j is on i's stem where j <= i < end[j].

    scored: {slot: {target: None}}, in order.
    """

    tokens: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    scored: dict[int, dict[int, None]] = field(default_factory=dict)
    path: list[int] = field(default_factory=list)  # slots of the branch that was put in last

    def add(self, tokens: Sequence[int], shared: int) -> None:
        """A branch that leaves the last one after its first `shared` tokens."""
        first = len(self.tokens)
        for slot in self.path[shared:]:
            self.end[slot] = first
        new = len(tokens) - shared
        self.tokens += tokens[shared:]
        self.depth += range(shared, len(tokens))
        self.end += [0] * new
        self.path = self.path[:shared] + list(range(first, first + new))

    def close(self) -> "Tree":
        for slot in self.path:
            self.end[slot] = len(self.tokens)
        return self


@dataclass(frozen=True)
class Place:
    """Where a request's scored tokens are: in which tree, at which slots, which targets."""

    tree: int
    slots: list[int]
    targets: list[int]


def grow(config: LlamaConfig, sequences: Sequence[Sequence[int]], scored: Sequence[int]) -> tuple[list[Tree], list[Place]]:
    """Trees that hold all sequences, and where each sequence's last `scored` tokens are predicted.

    A sequence joins the tree before it where that saves more of the common beginning than attention over a longer row costs.
    """
    embeddings = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    a_token = 2 * (llama.parameter_count(config) - embeddings)  # operations of its products with weights
    a_pair = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim  # of two tokens of a row, half of them masked

    def cost(tokens: int) -> int:
        return a_token * tokens + a_pair * tokens * tokens

    inputs = [np.asarray(s[:-1], ">u4") for s in sequences]  # as big-endian bytes they sort as their numbers do
    order = sorted(range(len(inputs)), key=lambda number: inputs[number].tobytes())
    trees: list[Tree] = []
    places: list[Place | None] = [None] * len(inputs)
    before = np.empty(0, ">u4")
    for number in order:
        new = inputs[number]
        shared = _common(before, new)
        if trees:
            row = len(trees[-1].tokens)
            longer = row + len(new) - shared
            joins = shared == len(new) or (longer <= LONGEST_TREE and cost(longer) - cost(row) < cost(len(new)))
        if not trees or not joins:
            if trees:
                trees[-1].close()
            trees.append(Tree())
            shared = 0
        trees[-1].add(new.tolist(), shared)
        before = new
        slots, targets = trees[-1].path[-scored[number] :], list(sequences[number][-scored[number] :])
        for slot, target in zip(slots, targets, strict=True):
            trees[-1].scored.setdefault(slot, {})[target] = None
        places[number] = Place(len(trees) - 1, slots, targets)
    if trees:
        trees[-1].close()
    return trees, places


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin with in common."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    return int(different.argmax()) if different.any() else n


# ── rows of few lengths ──────────────────────────────────────────────────────────────────────────────────────────


def row_length(tokens: int) -> int:
    """A tree's length rounded up: 64, 128, 192, 256, 320, …, 512, 640, 768, …: by at most 63, and from 257 on by a quarter."""
    step = 64
    while tokens > 8 * step:
        step *= 2
    return -(-tokens // step) * step


def lengths_for(sizes: Sequence[int], tokens: int) -> dict[int, list[int]]:
    """{row length: numbers of the trees that go into it}, longest first, for batches of about `tokens` tokens.

    A length that saves fewer tokens of padding than compiling its programs is worth gives its trees to the next longer one.
    """
    worth = COMPILING.get(jax.default_backend(), ACCELERATOR_COMPILING)
    classes: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        classes.setdefault(row_length(size), []).append(number)

    def padded(length: int, count: int) -> int:
        rows = rows_of(length, tokens)
        return -(-count // rows) * rows * length

    def loss(shorter: int, longer: int) -> int:
        a, b = len(classes[shorter]), len(classes[longer])
        return padded(longer, a + b) - padded(shorter, a) - padded(longer, b)

    while len(classes) > 1:
        least, shorter, longer = min((loss(*pair), *pair) for pair in itertools.pairwise(sorted(classes)))
        if least > worth:
            break
        classes[longer] += classes.pop(shorter)
    return {length: classes[length] for length in sorted(classes, reverse=True)}


def rows_of(length: int, tokens: int) -> int:
    return max(1, tokens // length)


@dataclass(frozen=True)
class Batch:
    """Rows of one length. tokens, depth, end: int32 [rows, length]; where int32 [positions]: slots in the flattened rows, the first
    `count` of them meant; targets int32 [positions, WAYS]."""

    trees: list[int]
    tokens: np.ndarray
    depth: np.ndarray
    end: np.ndarray
    where: np.ndarray
    targets: np.ndarray
    count: int
    found: dict[tuple[int, int, int], tuple[int, int]]  # (tree, slot, target): (position, way)


def batches(trees: list[Tree], tokens: int) -> Iterator[Batch]:
    """All trees as batches of about `tokens` tokens, whatever the number of rows of a length."""
    for length, numbers in lengths_for([len(tree.tokens) for tree in trees], tokens).items():
        rows = rows_of(length, tokens)
        numbers = sorted(numbers, key=lambda number: -len(trees[number].tokens))
        for start in range(0, len(numbers), rows):
            yield _batch(trees, numbers[start : start + rows], rows, length)


def _batch(trees: list[Tree], numbers: list[int], rows: int, length: int) -> Batch:
    padded = np.broadcast_to(np.arange(1, length + 1, dtype=np.int32), (rows, length)).copy()  # padding sees itself alone
    tokens, depth = np.zeros((2, rows, length), np.int32)
    where, targets, found = [], [], {}
    for row, number in enumerate(numbers):
        tree = trees[number]
        size = len(tree.tokens)
        tokens[row, :size], depth[row, :size], padded[row, :size] = tree.tokens, tree.depth, tree.end
        for slot, wanted in tree.scored.items():
            for way, target in enumerate(wanted):
                if way % WAYS == 0:
                    where.append(row * length + slot)
                    targets.append([0] * WAYS)
                targets[-1][way % WAYS] = target
                found[number, slot, target] = len(where) - 1, way % WAYS
    chunks = 1  # a power of two of chunks, so that few programs serve all
    while chunks * CHUNK < len(where):
        chunks *= 2
    space = chunks * CHUNK
    all_where, all_targets = np.zeros(space, np.int32), np.zeros((space, WAYS), np.int32)
    all_where[: len(where)], all_targets[: len(where)] = where, targets
    return Batch(numbers, tokens, depth, padded, all_where, all_targets, len(where), found)


# ── the model over them ──────────────────────────────────────────────────────────────────────────────────────────


def log_likelihoods(
    decoder: Decoder, sequences: Sequence[Sequence[int]], scored: Sequence[int], say: Callable[[str], None] = print
) -> list[tuple[float, bool]]:
    """(sum of the log-probabilities of each sequence's last `scored` tokens in nats, whether each of them was the most probable).

    A sequence has at least one token before those that are scored, and at most max_position_embeddings + 1 in all. Softmax in
    fp32. What comes out depends on the set of sequences, not on their order. say: told every five seconds how far it is.
    """
    for tokens, last in zip(sequences, scored, strict=True):
        if not 1 <= last < len(tokens) <= decoder.config.max_position_embeddings + 1:
            raise InputError(
                f"{last} tokens to score at the end of {len(tokens)}: at least one must be, at least one must stand before them, and "
                f"{decoder.config.max_position_embeddings} positions are what config.json allows (max_position_embeddings)"
            )
    trees, places = grow(decoder.config, sequences, scored)
    progress, done, total = Progress(say), 0, max(1, sum(len(tree.tokens) for tree in trees))
    values: dict[tuple[int, int, int], float] = {}
    greedy: dict[tuple[int, int], int] = {}

    def keep(batch: Batch, answers) -> None:
        at_targets, best = map(np.asarray, answers)
        for (tree, slot, target), (position, way) in batch.found.items():
            values[tree, slot, target] = float(at_targets[position, way])
            greedy[tree, slot] = int(best[position])

    waiting = None
    for batch in batches(trees, BATCH_TOKENS.get(jax.default_backend(), ACCELERATOR_TOKENS)):
        answers = _run(decoder, batch)
        if waiting is not None:  # read while the device has the next one already
            keep(*waiting)
        waiting = batch, answers
        done += sum(len(trees[number].tokens) for number in batch.trees)
        progress(f"log-likelihoods: {done:,} of {total:,} tokens", done / total)
    if waiting is not None:
        keep(*waiting)
    return [
        (
            sum(values[p.tree, slot, target] for slot, target in zip(p.slots, p.targets, strict=True)),
            all(greedy[p.tree, slot] == target for slot, target in zip(p.slots, p.targets, strict=True)),
        )
        for p in places
    ]


def _run(decoder: Decoder, batch: Batch):
    config, weights = decoder.config, decoder.weights
    head = weights["lm_head"]
    x = _embed(weights.get("embed_tokens"), None if "embed_tokens" in weights else head, batch.tokens)
    cos, sin = _turns(config, batch.depth)
    for tree in weights["layers"]:
        x = _layer(config, tree, x, cos, sin, batch.end)
    return _score(config, weights["norm"], head, x, batch.where, batch.targets, np.int32(batch.count))


@jax.jit
def _embed(embedding, head, tokens):
    return embedding[tokens] if head is None else jnp.moveaxis(head[:, tokens], 0, -1)


@functools.partial(jax.jit, static_argnames="config")
def _turns(config, depth):
    angles = config.rope.angles(depth, config.head_dim)
    return jnp.cos(angles), jnp.sin(angles)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="x")
def _layer(config, tree, x, cos, sin, end):
    layer = llama.layer(config, jax.tree.map(jnp.transpose, tree))
    return layer(x, lambda heads: llama.rotate(heads, cos, sin, config.rope), lambda q, k, v: along_stems(q, k, v, end))


def along_stems(
    q: Float[Array, "rows length heads head_dim"], k: Float[Array, "rows length kv_heads head_dim"],
    v: Float[Array, "rows length kv_heads head_dim"], end: Int[Array, "rows length"],
) -> Float[Array, "rows length heads head_dim"]:  # fmt: skip
    """Attention of each token over its own stem and itself, in blocks of queries against the keys up to them.

    A block whose scores would be more than SCORES is gone through in equal parts, one after the other.
    """
    rows, length, heads, _ = q.shape
    block, slot, out = max(BLOCK, length // 8), jnp.arange(length), []
    most = max(16, SCORES // (rows * heads * length))
    keys, values = jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2)

    def attend(queries, at, stop):
        at = at[None, :, None]
        mask = (slot[None, None, :stop] <= at) & (at < end[:, None, :stop])
        return attention.cached(queries, keys[..., :stop], values[:, :, :stop], mask)

    for start in range(0, length, block):
        stop = min(start + block, length)
        size = stop - start
        while size > most and size % 2 == 0:
            size //= 2
        if size == stop - start:
            out.append(attend(q[:, start:stop], slot[start:stop], stop))
        else:
            parts = jnp.moveaxis(q[:, start:stop].reshape(rows, -1, size, *q.shape[2:]), 1, 0)
            done = jax.lax.map(lambda part, stop=stop: attend(*part, stop), (parts, slot[start:stop].reshape(-1, size)))
            out.append(jnp.moveaxis(done, 0, 1).reshape(rows, stop - start, *q.shape[2:]))
    return jnp.concatenate(out, axis=1)


@functools.partial(jax.jit, static_argnames="config")
def _score(config, norm, head, x, where, targets, count):
    """(log-probabilities [positions, WAYS], the most probable token [positions]) of the first `count` positions."""
    hidden = x.reshape(-1, x.shape[-1])

    def one_chunk(number, found):
        at = number * CHUNK
        rows, wanted = (jax.lax.dynamic_slice_in_dim(a, at, CHUNK) for a in (where, targets))
        scores = logits({"lm_head": head}, llama.rms_norm(hidden[rows], norm, config.rms_norm_eps))
        likely = jnp.take_along_axis(scores, wanted, axis=-1) - jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        best = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        return tuple(jax.lax.dynamic_update_slice_in_dim(a, new, at, 0) for a, new in zip(found, (likely, best), strict=True))

    empty = jnp.zeros(targets.shape, jnp.float32), jnp.zeros(where.shape, jnp.int32)
    return jax.lax.fori_loop(0, -(-count // CHUNK), one_chunk, empty)
