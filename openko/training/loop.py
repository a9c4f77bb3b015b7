"""`train`: token shards in, a Hugging Face directory out; stopped at any moment, it goes on where it was."""

import math
import shutil
import time
from pathlib import Path

import jax
import numpy as np

from openko import hardware, hf_weights, llama, manifest, tokenizers
from openko.errors import InputError, Interrupted
from openko.profiles import Profile, Training
from openko.training import checkpoints, hosts, measure, stopping
from openko.training.checkpoints import Checkpoints
from openko.training.data import batches, local_rows, place
from openko.training.metrics import Metrics, read
from openko.training.optimizer import learning_rates
from openko.training.pages import compute_in_line, keep_freed_memory
from openko.training.plan import Plan, make_plan
from openko.training.sharding import make_mesh
from openko.training.step import TrainState, abstract_batch, abstract_state, compile_step, new_state
from openko.training.stopping import Stopping

METRICS, SPEED = "training.jsonl", ".speed.jsonl"
GO, NOTHING_TO_DO, REFUSED = 1, 2, 3  # what the first host tells the others
SAVE_BYTES_PER_SECOND = 1e8  # before the first save was timed: a slow disk


def train(
    out: str | Path, *, profile: Profile, training: Training, data: dict, tokenizer: str | Path, start: str | Path | None = None,
    terminators: tuple[str, ...] = (tokenizers.END,), evaluate: dict[str, list[str]] | None = None, evaluate_every: int = 500,
    checkpoint_dir: str | Path | None = None, time_budget: float | None = None, tensorboard: Path | None = None, say=print,
) -> manifest.Manifest | None:  # fmt: skip
    """Train and write the model directory `out` (with training.jsonl beside the weights).

    data: {token-shard directory: share of rows}. tokenizer: the directory whose files go into `out`.
    start: the model directory to continue from; None starts from fresh weights of profile.model. All three may be URLs.
    terminators: special tokens that end a text of this model, for generation_config.json.
    evaluate: {name: documents}, whose bits per byte are recorded every `evaluate_every` steps and at the end.
    checkpoint_dir: a path or URL that is kept; by default the profile's, else one beside `out` that goes when `out` is there.
    time_budget: seconds from now until the session ends; then, and on SIGTERM, the state is saved and Interrupted raised.
    Returns the manifest; on several hosts, the first one writes and the others return None.
    """
    compute_in_line()
    stop, refused = Stopping(time_budget), None
    try:
        plan = make_plan(
            out, profile=profile, training=training, data=data, tokenizer=tokenizer, start=start, checkpoint_dir=checkpoint_dir
        )
        run = _Run(plan, evaluate or {}, evaluate_every, tensorboard, stop, say)
    except InputError as problem:
        refused = problem
    if hosts.agree(int(refused is not None))[0]:
        raise refused or InputError("another host refused to train: its message says why")
    evaluated = {name: manifest.digest(documents) for name, documents in (evaluate or {}).items()}
    recipe = plan.recipe() | {
        "terminators": terminators,
        "evaluate": evaluated,
        "evaluate_every": evaluate_every if evaluated else None,
    }
    if not hosts.is_first():
        answer = hosts.tell(0)
        if answer == REFUSED:
            raise InputError("the first host refused to train: its message says why")
        if answer == GO:
            hf_weights.gather(plan.config, run(None).parameters)
        return None
    told = False

    def make(partial: Path) -> dict:
        nonlocal told
        _check_room(plan)
        told = bool(hosts.tell(GO))
        state = run(partial)
        hf_weights.save(
            partial, plan.config, state.parameters, carried=_special_ids(plan.tokenizer, terminators), dtype=profile.export_dtype
        )
        tokenizers.copy_files(plan.tokenizer, partial)
        losses = [line["loss"] for line in read(partial / METRICS)]
        tail = losses[-max(1, len(losses) // 10) :]
        return {"parameters": llama.parameter_count(plan.config), "tokens": training.tokens, "final_loss": float(np.mean(tail))}

    try:
        made = manifest.build(
            plan.out, kind=hf_weights.KIND, recipe=recipe, inputs=plan.inputs, module="openko.training.loop", make=make, say=say
        )
    except BaseException:
        if not told:
            hosts.tell(REFUSED)
        raise
    if not told:
        hosts.tell(NOTHING_TO_DO)
    if not plan.named_store or checkpoints.is_copy(plan.named_store):
        checkpoints.remove(plan.beside)
    return made


class _Run:
    """One run on this host's devices."""

    def __init__(self, plan: Plan, evaluate, evaluate_every: int, tensorboard: Path | None, stop: Stopping, say):
        self.plan, self.evaluate_every, self.tensorboard, self.stop, self.say = plan, evaluate_every, tensorboard, stop, say
        training, step = plan.training, plan.profile.step
        self.mesh = make_mesh(plan.profile.mesh)
        if self.mesh.devices.flat[0].platform == "cpu":
            keep_freed_memory()
        self.where = abstract_state(plan.config, training, step, self.mesh)
        self.batch_like = abstract_batch(training, self.mesh)
        self.save_bytes = checkpoints.size_of(self.where)
        self.measure, self.measure_seconds = None, 0.0
        if evaluate:
            context = training.sequence_length
            self.measure = measure.on_mesh(plan.config, plan.profile, self.mesh, plan.tokenizer, evaluate, context=context)

    def __call__(self, partial: Path | None) -> TrainState:
        """Train to the end. partial: where training.jsonl and the weights go; None on all hosts but the first."""
        plan, training = self.plan, self.plan.training
        checkpoints.check_store(plan.checkpoint_dir, plan.profile.saving, self.save_bytes, local=plan.beside)
        if self.save_bytes > 2e9:
            self.say(f"{plan.out.name}: loading {self.save_bytes / 1e9:.0f} GB of weights and moments, then compiling the step: minutes")
        with Checkpoints(plan.checkpoint_dir, plan.profile.saving, plan.run(), local=plan.beside, say=self.say) as saved:
            state, lines = saved.restore(self.where) or (self._first_state(), [])
            step, rates = compile_step(plan.config, training, plan.profile.step, self.mesh), learning_rates(training)
            first, mine = int(state.step), local_rows(self.batch_like)
            rows = batches(plan.data, training, vocab_size=plan.config.vocab_size, first_step=first, mine=mine)
            with self._metrics(partial, lines) as record, self.stop:
                # A step is reported while the next one runs, so that the device does not wait for the host. (Several hosts agree
                # at every step, and so do wait for it.)
                pending = None
                for number, batch in enumerate(rows, start=first + 1):
                    rate = rates[number - 1]
                    state, values = step(state, place(batch, self.batch_like, mine), rate)
                    if pending:
                        self._report(record, saved, *pending)
                    pending = (number, rate, values)
                    save_seconds = saved.seconds_to_save or self.save_bytes / SAVE_BYTES_PER_SECOND
                    why = self.stop.reason(step_seconds=2 * record.step_seconds + self.measure_seconds, save_seconds=save_seconds)
                    why, due = hosts.agree(why, int(saved.is_due(number)))
                    measured = self.measure and (number % self.evaluate_every == 0 or number == training.steps)
                    if why or due or measured:
                        self._report(record, saved, *pending, measured=state.parameters if measured else None)
                        pending = None
                    if why or due:
                        record.pause()
                        # The first one is waited for if there is an end to be met: how long it takes must be known.
                        first_of_all = self.stop.has_end and saved.seconds_to_save is None
                        problem = saved.save(state, record.lines, wait=bool(why) or first_of_all)
                        record.resume()
                    if why and number < training.steps:
                        raise Interrupted(
                            f"{plan.out.name}: stopped after step {number:,} of {training.steps:,}, {stopping.REASONS[why]}; "
                            + (problem or f"its checkpoint is in {plan.checkpoint_dir}: the same command goes on from there")
                        )
                if pending:
                    self._report(record, saved, *pending)
            if plan.named_store and saved.newest() != training.steps:
                problem = saved.save(state, record.lines, wait=True)
                if problem:
                    self.say(problem)
        return state

    def _report(self, record: Metrics, saved: Checkpoints, number: int, rate: float, values: dict, measured: dict | None = None) -> None:
        """Write down step `number`, with the bits per byte of its parameters if they are given."""
        values = jax.device_get(values)
        loss, norm = float(values["loss"]), float(values["gradient_norm"])
        if not math.isfinite(loss) or not math.isfinite(norm):
            good = saved.newest()
            kept = f"the last good checkpoint is that of step {good} in {self.plan.checkpoint_dir}" if good else "no checkpoint was written"
            raise InputError(
                f"{self.plan.out.name}: the loss is {loss} and the gradient's norm {norm} at step {number}; {kept}. "
                "Lower peak_learning_rate or look at the data, then run again"
            )
        line = {"loss": loss, "gradient_norm": norm, "learning_rate": float(rate)}
        if len(self.plan.data) > 1:
            line |= {f"loss/{name}": loss for name, loss in _losses_by_source(values, self.plan.sources).items()}
        if measured is not None:
            record.pause()
            began = time.monotonic()
            line |= {f"bits_per_byte/{name}": value for name, value in self.measure(measured).items()}
            self.measure_seconds = time.monotonic() - began
            record.resume()
        record.step(number, line)

    def _metrics(self, partial: Path | None, lines: list[str]) -> Metrics:
        training, devices = self.plan.training, self.mesh.devices
        peak = hardware.peak_flops(devices.flat[0].device_kind)
        flops = hardware.flops_per_token(self.plan.config, training.sequence_length) * training.tokens_per_step
        out = self.plan.out
        return Metrics(
            partial and partial / METRICS, out.with_name(out.name + SPEED), name=out.name, lines=lines, steps=training.steps,
            tokens_per_step=training.tokens_per_step, flops_per_step=flops, peak=peak and peak * devices.size, tensorboard=self.tensorboard,
        )  # fmt: skip

    def _first_state(self) -> TrainState:
        """Step 0, made where it will live: no device ever holds more than its part."""
        plan, shardings = self.plan, jax.tree.map(lambda a: a.sharding, self.where)
        training, step = plan.training, plan.profile.step
        if plan.start is None:
            key = jax.random.key(training.seed)
            return jax.jit(lambda: new_state(llama.init(plan.config, key), training, step), out_shardings=shardings)()
        _, parameters = hf_weights.load(plan.start, shardings=shardings.parameters)
        return jax.jit(lambda p: new_state(p, training, step), out_shardings=shardings)(parameters)


def _losses_by_source(values: dict, sources: list[str]) -> dict[str, float]:
    """{source: nats per target token}, of the sources that have targets in the batch. values: a step's metrics."""
    losses, tokens = (np.bincount(values["source"], values[name], len(sources)) for name in ("row_losses", "row_tokens"))
    return {name: float(losses[n] / tokens[n]) for n, name in enumerate(sources) if tokens[n]}


def _check_room(plan: Plan) -> None:
    """Hours of training must not end in a full disk."""
    needed = llama.parameter_count(plan.config) * hardware.BYTES[plan.profile.export_dtype]
    free = shutil.disk_usage(next(p for p in plan.out.absolute().parents if p.exists())).free
    if free < needed:
        raise InputError(
            f"{plan.out} will take {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f}: free some, or choose another --out"
        )


def _special_ids(tokenizer: Path, terminators: tuple[str, ...]) -> dict:
    loaded = tokenizers.load(tokenizer)
    ends = [loaded[t] for t in terminators]
    return {"bos_token_id": loaded[tokenizers.BEGIN], "eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": None}
