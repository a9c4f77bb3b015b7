"""`train`: token shards in, a Hugging Face directory out; killed at any moment, it goes on where it was."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np

from openko import hf_weights, llama, manifest, tokenizers
from openko.errors import InputError
from openko.profiles import LlamaConfig, Profile, Training
from openko.training import metrics
from openko.training.checkpoints import Checkpoints
from openko.training.data import batches
from openko.training.sharding import make_mesh
from openko.training.step import TrainState, abstract_batch, abstract_state, compile_step, new_state

METRICS = "training.jsonl"


def train(
    out: Path, *, profile: Profile, training: Training, data: dict[Path, float], tokenizer: Path, start: Path | None = None,
    terminators: tuple[str, ...] = (tokenizers.END,), say=print,
) -> manifest.Manifest:  # fmt: skip
    """Train and write the model directory `out` (with training.jsonl beside the weights).

    data: {token-shard directory: share of rows}. tokenizer: the directory whose files go into `out`.
    start: the model directory to continue from; None starts from fresh weights of profile.model.
    terminators: special tokens that end a text of this model, for generation_config.json.
    """
    config = profile.model if start is None else hf_weights.read_config(start)[0]
    _check(config, training, data, tokenizer)
    inputs = {f"data-{i}": path for i, path in enumerate(data)} | {"tokenizer": tokenizer} | ({"start": start} if start else {})
    recipe = {
        "model": dataclasses.asdict(config), "training": dataclasses.asdict(training), "step": dataclasses.asdict(profile.step),
        "mesh": dataclasses.asdict(profile.mesh), "weights": list(data.values()), "terminators": terminators,
    }  # fmt: skip

    def make(partial: Path) -> dict:
        state = _run(partial, config, profile, training, data, start, Path(out).name)
        hf_weights.save(partial, config, state.parameters, carried=_special_ids(tokenizer, terminators))
        tokenizers.copy_files(tokenizer, partial)
        losses = [line["loss"] for line in metrics.read(partial / METRICS)]
        tail = losses[-max(1, len(losses) // 10) :]
        return {"parameters": llama.parameter_count(config), "tokens": training.tokens, "final_loss": float(np.mean(tail))}

    return manifest.build(out, kind=hf_weights.KIND, recipe=recipe, inputs=inputs, module="openko.training.loop", make=make, say=say)


def _run(partial: Path, config, profile: Profile, training: Training, data, start, name: str) -> TrainState:
    mesh = make_mesh(profile.mesh)
    where, batch_like = abstract_state(config, training, profile.step, mesh), abstract_batch(training, mesh)
    step = compile_step(config, training, profile.step, mesh)
    with Checkpoints(partial / manifest.SCRATCH / "checkpoints", training.checkpoint_every) as checkpoints:
        state = checkpoints.restore(where) or _first_state(config, profile, training, where, start)
        done = int(state.step)
        rows = batches(data, training, first_step=done, vocab_size=config.vocab_size)
        tokens = training.batch_size * training.sequence_length
        with metrics.Metrics(partial / METRICS, name=name, first_step=done, steps=training.steps, tokens_per_step=tokens) as record:
            for number, batch in enumerate(rows, start=done + 1):
                batch = {k: jax.make_array_from_process_local_data(batch_like[k].sharding, v) for k, v in batch.items()}
                state, values = step(state, batch)
                values = {k: float(v) for k, v in values.items()}
                if not math.isfinite(values["loss"]):
                    raise InputError(f"{name}: the loss is {values['loss']} at step {number}: lower peak_learning_rate or look at the data")
                record.step(number, values)
                checkpoints.save(state)
    return state


def _first_state(config: LlamaConfig, profile: Profile, training: Training, where: TrainState, start: Path | None) -> TrainState:
    """Step 0, made where it will live: no device ever holds more than its part."""
    shardings = jax.tree.map(lambda a: a.sharding, where)
    if start is None:
        fresh = jax.jit(
            lambda: new_state(llama.init(config, jax.random.key(training.seed)), training, profile.step), out_shardings=shardings
        )
        return fresh()
    _, parameters = hf_weights.load(start, shardings=shardings.parameters)
    return jax.jit(lambda p: new_state(p, training, profile.step), out_shardings=shardings)(parameters)


def _check(config: LlamaConfig, training: Training, data: dict[Path, float], tokenizer: Path) -> None:
    """What can be wrong before the first step, said before the first step."""
    if jax.process_count() > 1:
        raise InputError(f"training over several hosts is not built yet, and this is one of {jax.process_count()}: use a single host")
    if training.sequence_length > config.max_position_embeddings:
        raise InputError(
            f"sequence_length {training.sequence_length} is longer than the model's "
            f"max_position_embeddings {config.max_position_embeddings}"
        )
    fingerprint = tokenizers.load(tokenizer).fingerprint
    for directory in data:
        facts = manifest.read(directory, made_by="notebook 02_corpus").facts
        if facts["tokenizer"] != fingerprint:
            raise InputError(f"{directory} was packed with tokenizer {facts['tokenizer']}, but {tokenizer} is {fingerprint}: pack it again")


def _special_ids(tokenizer: Path, terminators: tuple[str, ...]) -> dict:
    loaded = tokenizers.load(tokenizer)
    ends = [loaded[t] for t in terminators]
    return {"bos_token_id": loaded[tokenizers.BEGIN], "eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": None}
