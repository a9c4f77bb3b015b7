"""The whole of Llama-3 in one file: grouped-query attention, SwiGLU, RMSNorm, rotary positions.

Weights carry Hugging Face's names, and matrices are [out, in] as they lie in the safetensors files, so loading
is a copy. The layers are stacked: each weight of a layer has a leading axis of num_hidden_layers, and one
`lax.scan` runs them, so that 32 layers compile as fast as one.

    parameters = init(config, jax.random.key(0))            # nested dict of arrays
    model = build(config, parameters)                       # nnx.Module over the same arrays
    hidden = model(tokens, segment_ids=..., positions=...)  # [batch, seq, hidden_size]
    logits = model.logits(hidden)                           # [batch, seq, vocab_size], fp32
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from openko import attention
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.rope import Rope

REMAT_POLICIES = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.save_only_these_names("attention", "mlp"),  # keep the products with weights
    # Keep attention's products and what its kernel made (splash's alone has the name), and compute the MLP again, whose products are wide.
    "attention": jax.checkpoint_policies.save_only_these_names("attention", attention.KEPT),
    "full": jax.checkpoint_policies.nothing_saveable,  # keep each layer's input, compute the rest again
}

# One name per axis of each weight; openko.training.sharding maps the names to mesh axes.
LOGICAL_AXES = {
    "embed_tokens": ("vocab", "embed"),
    "layers": {
        "input_layernorm": ("layers", "embed_replicated"),
        "self_attn": {
            "q_proj": ("layers", "heads", "embed"),
            "k_proj": ("layers", "kv_heads", "embed"),
            "v_proj": ("layers", "kv_heads", "embed"),
            "o_proj": ("layers", "embed", "heads"),
        },
        "post_attention_layernorm": ("layers", "embed_replicated"),
        "mlp": {
            "gate_proj": ("layers", "mlp", "embed"),
            "up_proj": ("layers", "mlp", "embed"),
            "down_proj": ("layers", "embed", "mlp"),
        },
    },
    "norm": ("embed_replicated",),
    "lm_head": ("vocab", "embed"),
}


def rms_norm(x: Float[Array, "... hidden"], weight: Float[Array, " hidden"], eps: float):
    """Root-mean-square norm; the mean of squares in fp32, where bf16 keeps only 8 bits of it."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return weight.astype(x.dtype) * wide.astype(x.dtype)


def rotate(
    x: Float[Array, "batch seq heads head_dim"], cos: Float[Array, "batch seq half"], sin: Float[Array, "batch seq half"], rope: Rope
):  # fmt: skip
    """Turn each pair of elements of every head by the angle of that cosine and sine; in fp32, returned in x's dtype."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    wide = x.astype(jnp.float32)
    if rope.layout == "half-split":
        first, second = jnp.split(wide, 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    else:
        first, second = wide[..., 0::2], wide[..., 1::2]
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)
    return turned.astype(x.dtype)


def linear(x: Float[Array, "... in"], weight: Float[Array, "out in"], *, name: str) -> Float[Array, "... out"]:
    """x · weightᵀ in x's dtype. name: by which REMAT_POLICIES keep it."""
    return checkpoint_name(_product(x, weight.astype(x.dtype)), name)


def _apart(x):
    """x, on CPU behind a barrier: nothing on one side of it is merged with the other, as far as the compiler keeps barriers (those of
    openko.training.step.COMPILER_OPTIONS). Elsewhere XLA's own choice is the better one."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def _product(x, weight):
    return jnp.einsum("...i,oi->...o", x, weight)


def _product_slopes(kept, slope):
    """Both slopes; the weight's by the order that transposes the narrower operand: on CPU it is copied for that, and what makes it
    (SwiGLU's derivative, say) would be computed once more for the copy. Kept apart, or XLA would undo it by the transpose behind."""
    x, weight = kept
    tokens = tuple(range(x.ndim - 1))
    narrows = weight.shape[0] < weight.shape[1]
    left, right = (slope, x) if narrows else (x, slope)
    of_weight = jax.lax.dot_general(left, right, ((tokens, tokens), ((), ())))
    return jnp.einsum("...o,oi->...i", slope, weight), of_weight if narrows else _apart(of_weight).T


_product.defvjp(lambda x, weight: (_product(x, weight), (x, weight)), _product_slopes)


@jax.custom_vjp
def swiglu(gate: Float[Array, "... mlp"], up: Float[Array, "... mlp"]) -> Float[Array, "... mlp"]:
    """silu(gate) × up (arXiv 2002.05202). Keeps its two inputs for the backward pass, and nothing else."""
    return jax.nn.silu(gate) * up


def _swiglu_slopes(kept, slope):
    gate, up = _apart(kept)  # or the forward pass would write the sigmoid for the backward one: dearer than computing it again
    sigmoid = jax.nn.sigmoid(gate)
    silu = gate * sigmoid
    return slope * up * (sigmoid + silu * (1 - sigmoid)), slope * silu


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_slopes)


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions. Weights carry a leading layer axis until scanned."""

    def __init__(self, config: LlamaConfig, weight: Callable):
        c = config
        self.config = config
        self.q_proj = weight(c.num_attention_heads * c.head_dim, c.hidden_size)
        self.k_proj = weight(c.num_key_value_heads * c.head_dim, c.hidden_size)
        self.v_proj = weight(c.num_key_value_heads * c.head_dim, c.hidden_size)
        self.o_proj = weight(c.hidden_size, c.num_attention_heads * c.head_dim)

    def __call__(self, x, rotate, attend):
        """x [batch, seq, hidden]; `rotate(heads)` turns q and k, `attend(q, k, v)` sees all three."""
        batch, seq, _ = x.shape
        project = functools.partial(linear, name="attention")
        q, k, v = (project(x, w[...]).reshape(batch, seq, -1, self.config.head_dim) for w in (self.q_proj, self.k_proj, self.v_proj))
        out = attend(rotate(q), rotate(k), v)
        return project(out.reshape(batch, seq, -1), self.o_proj[...])


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig, weight: Callable):
        self.gate_proj = weight(config.intermediate_size, config.hidden_size)
        self.up_proj = weight(config.intermediate_size, config.hidden_size)
        self.down_proj = weight(config.hidden_size, config.intermediate_size)

    def __call__(self, x):
        project = functools.partial(linear, name="mlp")
        return project(swiglu(project(x, self.gate_proj[...]), project(x, self.up_proj[...])), self.down_proj[...])


class Layer(nnx.Module):
    def __init__(self, config: LlamaConfig, weight: Callable, ones: Callable):
        self.eps = config.rms_norm_eps
        self.input_layernorm = ones(config.hidden_size)
        self.self_attn = Attention(config, weight)
        self.post_attention_layernorm = ones(config.hidden_size)
        self.mlp = MLP(config, weight)

    def __call__(self, x, rotate, attend):
        x = x + self.self_attn(rms_norm(x, self.input_layernorm[...], self.eps), rotate, attend)
        return x + self.mlp(rms_norm(x, self.post_attention_layernorm[...], self.eps))


class Llama(nnx.Module):
    """Llama-3 with stacked layers.

    dtype: of activations and of the weights as they are used (the stored ones keep theirs).
    attend: one of openko.attention's implementations.
    remat: a key of REMAT_POLICIES. unroll: layers per step of the scan (all of them is fastest on CPU).
    constrain: pins an activation's sharding; (array, logical axes) -> array.
    """

    def __init__(
        self, config: LlamaConfig, *, rngs: nnx.Rngs, param_dtype=jnp.float32, dtype=jnp.float32,
        attend: Callable = attention.blocked, remat: str = "none", unroll: int = 1,
        constrain: Callable = lambda x, axes: x,
    ):  # fmt: skip
        if remat not in REMAT_POLICIES:
            raise InputError(f"remat must be one of {', '.join(REMAT_POLICIES)}, found {remat!r}")
        c = config
        self.config, self.dtype, self.attend, self.remat = config, dtype, attend, remat
        self.unroll, self.constrain = unroll, constrain

        def normal(*shape):
            return nnx.Param(c.initializer_range * jax.random.normal(rngs.params(), shape, param_dtype))

        stacked = c.num_hidden_layers
        self.embed_tokens = normal(c.vocab_size, c.hidden_size)
        self.layers = Layer(c, lambda *shape: normal(stacked, *shape), lambda *shape: nnx.Param(jnp.ones((stacked, *shape), param_dtype)))
        self.norm = nnx.Param(jnp.ones((c.hidden_size,), param_dtype))
        if not c.tie_word_embeddings:
            self.lm_head = normal(c.vocab_size, c.hidden_size)

    def __call__(
        self, tokens: Int[Array, "batch seq"], *, positions: Int[Array, "batch seq"] | None = None,
        segment_ids: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq hidden"]:  # fmt: skip
        """The normed last hidden states. Documents packed into a row are kept apart by segment_ids, and each
        counts its own positions; without them a row is one document from position 0."""
        if segment_ids is None:
            segment_ids = jnp.zeros(tokens.shape, jnp.int32)
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        angles = self._angles(positions, tokens.shape[1])
        # Once: without the barrier, XLA computes them anew wherever a layer rotates. (On CPU it holds as in `_apart`.)
        cos, sin = jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))
        graph, stacked = nnx.split(self.layers)

        def run_layer(x, weights):
            layer = nnx.merge(graph, weights)
            x = layer(x, lambda h: rotate(h, cos, sin, self.config.rope), lambda q, k, v: self.attend(q, k, v, segment_ids))
            return self.constrain(x, ("batch", "seq", "embed_replicated")), None

        if self.remat != "none":
            run_layer = jax.checkpoint(run_layer, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        x = self.constrain(self._embed(tokens), ("batch", "seq", "embed_replicated"))
        x, _ = jax.lax.scan(run_layer, x, stacked, unroll=min(self.unroll, self.config.num_hidden_layers))
        return rms_norm(x, self.norm[...], self.config.rms_norm_eps)

    def logits(self, hidden: Float[Array, "... hidden"]) -> Float[Array, "... vocab"]:
        """Scores over the vocabulary, fp32. Training never calls this on a whole batch (openko.training.loss)."""
        return jnp.einsum("...d,vd->...v", hidden, self.head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    @property
    def head(self) -> Float[Array, "vocab hidden"]:
        """The output matrix: lm_head, or the embedding where they are tied."""
        return (self.embed_tokens if self.config.tie_word_embeddings else self.lm_head)[...]

    def _embed(self, tokens):
        return self.embed_tokens[...].astype(self.dtype)[tokens]

    def _angles(self, positions, longest: int):
        if longest > self.config.max_position_embeddings:
            raise InputError(
                f"{longest} positions asked of a model whose max_position_embeddings is "
                f"{self.config.max_position_embeddings}: shorten the text or raise the field, knowing it was not trained there"
            )
        return self.config.rope.angles(positions, self.config.head_dim)


def token_losses(
    hidden: Float[Array, "batch seq hidden"], head: Float[Array, "vocab hidden"], targets: Int[Array, "batch seq"], chunk: int
) -> Float[Array, "batch seq"]:
    """Negative log-likelihood of every target in nats, fp32; the logits of `chunk` positions exist at once."""
    head = head.astype(hidden.dtype)

    def one_chunk(_, piece):
        return None, logits_and_losses(piece[0], head, piece[1])[2]

    _, losses = jax.lax.scan(one_chunk, None, (cut(hidden, chunk), cut(targets, chunk)))
    return join(losses)


def logits_and_losses(hidden, head, targets):
    """fp32 logits [batch, seq, vocab], their log-sum-exp [batch, seq], and the loss of each target [batch, seq]."""
    logits = jnp.einsum("bsd,vd->bsv", hidden, head, preferred_element_type=jnp.float32)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return logits, normaliser, normaliser - at_target


def cut(x, chunk: int):
    """[batch, seq, ...] -> [seq / chunk, batch, chunk, ...], to be scanned over."""
    batch, seq, *rest = x.shape
    chunk = min(chunk, seq)
    if seq % chunk:
        raise InputError(f"the loss chunk ({chunk}) must divide the sequence length ({seq})")
    return jnp.moveaxis(x.reshape(batch, seq // chunk, chunk, *rest), 1, 0)


def join(pieces):
    """The inverse of cut."""
    chunks, batch, chunk, *rest = pieces.shape
    return jnp.moveaxis(pieces, 0, 1).reshape(batch, chunks * chunk, *rest)


def init(config: LlamaConfig, key: Array, param_dtype=jnp.float32) -> dict:
    """Fresh parameters as a nested dict: normal(0, initializer_range), norms at one."""
    return nnx.to_pure_dict(nnx.state(Llama(config, rngs=nnx.Rngs(params=key), param_dtype=param_dtype), nnx.Param))


def abstract(config: LlamaConfig, param_dtype=jnp.float32) -> dict:
    """Shapes and dtypes of the parameters, without memory: the same nested dict of jax.ShapeDtypeStruct."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0), param_dtype))


def build(config: LlamaConfig, parameters: dict, **options) -> Llama:
    """The module over given parameters; cheap, and to be called inside jit. `options` as in `Llama`."""
    graph, empty = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0), **options)))
    nnx.replace_by_pure_dict(empty, parameters)
    return nnx.merge(graph, empty)


def layer(config: LlamaConfig, weights: dict) -> Layer:
    """One layer alone over given weights, as under "layers" but without the leading axis; to be called inside jit."""

    def empty(*shape):
        return nnx.Param(jnp.zeros(shape))

    graph, state = nnx.split(nnx.eval_shape(lambda: Layer(config, empty, empty)))
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)


def logical_axes(config: LlamaConfig) -> dict:
    """The tree of parameters with a tuple of axis names in place of each array."""
    return {k: v for k, v in LOGICAL_AXES.items() if k != "lm_head" or not config.tie_word_embeddings}


def parameter_count(config: LlamaConfig) -> int:
    return sum(x.size for x in jax.tree.leaves(abstract(config)))
