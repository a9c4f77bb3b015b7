"""Text from a model: prefill the prompt, then one token at a time through a key-value cache of static shape."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from openko import hf_weights, llama, tokenizers
from openko.errors import InputError
from openko.llama import KVCache

BUCKET = 64  # prompt lengths are rounded up to multiples, so that few programs are compiled


@dataclass(frozen=True)
class Sample:
    """One answer. stop: the special token that ended it, or "length"."""

    prompt: str
    text: str
    tokens: int
    stop: str


class Sampler:
    """A model directory, ready to answer.

    parameters: weights to use in place of the directory's, such as those of a merge that was not written.
    """

    def __init__(self, directory: Path, parameters: dict | None = None):
        self.directory = Path(directory)
        self.config, carried = hf_weights.read_config(directory)
        self.tokenizer = tokenizers.load(directory)
        self.parameters = hf_weights.load(directory)[1] if parameters is None else parameters
        self.terminators = _terminators(self.directory, carried)

    def answer(
        self, prompts: list[str], *, system: str | None = None, temperature: float = 1.0, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int = 0,
    ) -> list[Sample]:  # fmt: skip
        """Each prompt as one user turn through the directory's chat template. temperature 0 is greedy."""
        turns = [[{"role": "system", "content": system}] if system else [] for _ in prompts]
        ids = [self.tokenizer.encode_chat([*t, {"role": "user", "content": p}]) for t, p in zip(turns, prompts, strict=True)]
        return self._samples(prompts, ids, temperature, top_p, max_new_tokens, seed)

    def complete(
        self, prompts: list[str], *, temperature: float = 1.0, top_p: float = 0.9, max_new_tokens: int = 512, seed: int = 0
    ) -> list[Sample]:
        """Each prompt continued as plain text, for models that were never taught to chat."""
        ids = [[self.tokenizer[tokenizers.BEGIN], *self.tokenizer.encode(p)] for p in prompts]
        return self._samples(prompts, ids, temperature, top_p, max_new_tokens, seed)

    def _samples(self, prompts, ids, temperature, top_p, max_new_tokens, seed) -> list[Sample]:
        names = {number: token for token, number in self.tokenizer.special.items()}
        found = generate(
            self.config, self.parameters, ids, terminators=self.terminators, temperature=temperature, top_p=top_p,
            max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip
        samples = []
        for prompt, new in zip(prompts, found, strict=True):
            ended = bool(new) and new[-1] in self.terminators
            stop = names.get(new[-1], str(new[-1])) if ended else "length"
            samples.append(Sample(prompt, self.tokenizer.decode(new[:-1] if ended else new), len(new), stop))
        return samples


def generate(
    config, parameters: dict, prompts: list[list[int]], *, terminators: tuple[int, ...], temperature: float = 1.0,
    top_p: float = 0.9, max_new_tokens: int = 512, seed: int = 0,
) -> list[list[int]]:  # fmt: skip
    """New token ids for prompts of unequal length, each ending with its terminator if one was drawn.

    temperature 0 is greedy; otherwise tokens are drawn from the smallest set of words whose probability reaches
    top_p. A row's draws depend on (seed, row, position) alone.
    """
    if not 0 < top_p <= 1 or temperature < 0:
        raise InputError(f"top_p must be in (0, 1] and temperature at least 0, found {top_p} and {temperature}")
    longest = max(len(p) for p in prompts)
    if longest + max_new_tokens > config.max_position_embeddings:
        raise InputError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed max_position_embeddings "
            f"{config.max_position_embeddings}: shorten the prompt or lower --max-new-tokens"
        )
    # Rounded up, but never beyond what the model can address.
    width = min(-(-longest // BUCKET) * BUCKET, config.max_position_embeddings - max_new_tokens)
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = prompt
    start = np.array([width - len(p) for p in prompts], np.int32)
    drawn = _generate(
        config, parameters, tokens, start, jnp.array(terminators), temperature, top_p, jax.random.key(seed),
        max_new_tokens=max_new_tokens, greedy=temperature == 0,
    )  # fmt: skip
    return [_until_end(row, terminators) for row in np.asarray(drawn).tolist()]


@partial(jax.jit, static_argnames=("config", "max_new_tokens", "greedy"))
def _generate(config, parameters, tokens, start, terminators, temperature, top_p, key, *, max_new_tokens, greedy):
    batch, width = tokens.shape
    model = llama.build(config, parameters)
    cache = KVCache.empty(config, start, width + max_new_tokens, parameters["embed_tokens"].dtype)
    hidden, cache = model.decode(tokens, cache)

    def choose(hidden, number):
        logits = model.logits(hidden[:, -1])
        if greedy:
            return jnp.argmax(logits, axis=-1)
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row), number))(jnp.arange(batch))
        return jax.vmap(jax.random.categorical)(keys, nucleus(logits / temperature, top_p))

    first = choose(hidden, 0)
    drawn = jnp.zeros((batch, max_new_tokens), jnp.int32).at[:, 0].set(first)

    def unfinished(state):
        number, _, ended, _, _ = state
        return (number < max_new_tokens) & ~jnp.all(ended)

    def one_more(state):
        number, last, ended, drawn, cache = state
        hidden, cache = model.decode(last[:, None], cache)
        new = choose(hidden, number)
        return number + 1, new, ended | jnp.isin(new, terminators), drawn.at[:, number].set(new), cache

    state = (jnp.int32(1), first, jnp.isin(first, terminators), drawn, cache)
    return jax.lax.while_loop(unfinished, one_more, state)[3]


def nucleus(logits, top_p):
    """Logits [batch, vocab] with -inf outside the smallest set of words whose probability reaches top_p.

    The set is all words at or above some probability, and the threshold is found by halving: positive floats are
    ordered as their bits are, so 31 sums over the vocabulary find it exactly, where a sort of 200 × 4,096 on CPU takes
    twenty times as long. Words as likely as the last one that is needed are kept too.
    """
    probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    bits = jax.lax.bitcast_convert_type(probability, jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low + 1) // 2
        reached = jnp.sum(jnp.where(bits >= middle, probability, 0), axis=-1, keepdims=True) >= top_p
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle - 1)

    lowest = jnp.zeros((*logits.shape[:-1], 1), jnp.int32)
    threshold, _ = jax.lax.fori_loop(0, 31, halve, (lowest, jnp.full_like(lowest, jnp.float32(1).view(jnp.int32))))
    return jnp.where(bits >= threshold, logits, -jnp.inf)


def _until_end(tokens: list[int], terminators: tuple[int, ...]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in terminators:
            return tokens[: position + 1]
    return tokens


def _terminators(directory: Path, carried: dict) -> tuple[int, ...]:
    """The end tokens of generation_config.json, else of config.json."""
    path = directory / "generation_config.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    found = carried.get("eos_token_id") if found is None else found
    if found is None:
        raise InputError(f"{directory}: no eos_token_id in generation_config.json or config.json: nothing would end an answer")
    return tuple(found) if isinstance(found, list) else (found,)
