"""All that is decided before the first step, checked before the first step: it needs no device and takes seconds."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import AbstractMesh

from openko import hardware, hf_weights, llama, manifest, staging, tokenizers
from openko.errors import InputError
from openko.profiles import LlamaConfig, Profile, Training
from openko.training import checkpoints
from openko.training.data import check_sources
from openko.training.sharding import MESH_AXES
from openko.training.step import TrainState, abstract_batch, abstract_state

# These fields of a model must be the profile's: it says what fits the machine, and with which positions one trains.
SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: every directory local, every number fixed. named_store: the path or URL of the
    checkpoints that outlives the run; empty for one beside the model, which does not."""

    out: Path
    profile: Profile
    training: Training
    config: LlamaConfig
    data: dict[Path, float]
    tokenizer: Path
    start: Path | None
    named_store: str

    @property
    def checkpoint_dir(self) -> str:
        return self.named_store or str(self.beside)

    @property
    def beside(self) -> Path:
        """Where checkpoints lie if no other place is named; what is there goes when the model is whole."""
        return self.out.with_name(self.out.name + ".checkpoints")

    @property
    def inputs(self) -> dict[str, Path]:
        start = {"start": self.start} if self.start else {}
        return {f"data-{i}": path for i, path in enumerate(self.data)} | {"tokenizer": self.tokenizer} | start

    @property
    def sources(self) -> list[str]:
        """Names of the mixture's sources: the directories' names, or all of the path where two are called the same."""
        names = [d.name for d in self.data]
        return names if len(set(names)) == len(names) else [d.as_posix() for d in self.data]

    def recipe(self) -> dict:
        """What shapes the content of the model directory; the mesh and the kernels do not, up to rounding."""
        step = self.profile.step
        return {
            "model": dataclasses.asdict(self.config), "training": dataclasses.asdict(self.training), "shares": list(self.data.values()),
            "precision": [step.param_dtype, step.compute_dtype, step.moment_dtype, self.profile.export_dtype],
        }  # fmt: skip

    def run(self) -> dict:
        """What a checkpoint belongs to (checkpoints.Checkpoints), in plain JSON."""
        schedule = dataclasses.asdict(self.training)
        order = {name: schedule.pop(name) for name in ("batch_size", "sequence_length", "within_documents", "seed")}
        order |= {"shares": list(self.data.values()), "sources": [manifest.read(d).content for d in self.data]}
        step = self.profile.step
        optimizer = {"optimizer": schedule.pop("optimizer"), "param_dtype": step.param_dtype, "moment_dtype": step.moment_dtype}
        groups = {
            "model": dataclasses.asdict(self.config), "optimizer": optimizer, "data order": order,
            "start": {"weights": _mark(self.start) if self.start else None}, checkpoints.SCHEDULE: schedule,
        }  # fmt: skip
        groups[checkpoints.CODE] = {"fingerprint": manifest.code_fingerprint("openko.training.loop")}
        return json.loads(json.dumps(groups))

    def describe(self) -> dict:
        """What a run would do, for `--dry-run`: plain values, bytes a device by the real shardings."""
        shape, training, step = self.profile.mesh, self.training, self.profile.step
        state, batch = self._state(), abstract_batch(training, self._mesh())
        flops = hardware.flops_per_token(self.config, training.sequence_length) * training.tokens
        chip = hardware.CHIPS.get(self.profile.chip)
        hours = flops / (shape.devices * chip.flops * hardware.CAUTIOUS_MFU) / 3600 if chip else None
        last, decay = training.steps, training.decay_steps
        fall = f"to step {last - decay}, then in a line" if training.schedule == "wsd" else "then by a cosine"
        return {
            "model": f"{llama.parameter_count(self.config):,} parameters, θ {self.config.rope.theta:,.0f}",
            "start": str(self.start or "fresh weights"),
            "data": ", ".join(f"{name} × {share:g}" for name, share in zip(self.sources, self.data.values(), strict=True)),
            "mesh": f"data {shape.data} × fsdp {shape.fsdp} × tensor {shape.tensor} = {shape.devices} devices ({self.profile.hardware})",
            "batch": f"{training.batch_size} × {training.sequence_length} tokens in {training.accumulate} part(s); "
            f"a device holds {' × '.join(map(str, batch['tokens'].sharding.shard_shape(batch['tokens'].shape)))}",
            "state_gb_per_device": _bytes_on_device(state) / 1e9,
            "checkpoint_gb": checkpoints.size_of(state) / 1e9,
            "checkpoint_dir": self.checkpoint_dir,
            "steps": training.steps,
            "tokens": training.tokens,
            "schedule": f"{training.schedule}: {training.initial_learning_rate:g} → {training.peak_learning_rate:g} "
            f"in {training.warmup_steps} steps, {fall} → {training.final_learning_rate:g} at step {last}",
            "optimizer": f"{training.optimizer}, weights {step.param_dtype}, moments {step.moment_dtype}, products {step.compute_dtype}",
            "flops": flops,
            "hours": f"{hours:.3g} at {hardware.CAUTIOUS_MFU:.0%} MFU (openko fit has bounds)" if hours else "not known for this machine",
        }

    def shapes(self) -> list[dict]:
        """Each weight: its shape, and that of the part on one device."""
        return [
            {
                "weight": ".".join(k.key for k in path),
                "shape": " × ".join(map(str, leaf.shape)),
                "on_a_device": " × ".join(map(str, leaf.sharding.shard_shape(leaf.shape))),
            }
            for path, leaf in jax.tree_util.tree_flatten_with_path(self._state().parameters)[0]
        ]

    def _mesh(self) -> AbstractMesh:
        """The profile's mesh without its devices."""
        shape = self.profile.mesh
        return AbstractMesh((shape.data, shape.fsdp, shape.tensor), MESH_AXES)

    def _state(self) -> TrainState:
        return abstract_state(self.config, self.training, self.profile.step, self._mesh())


def make_plan(
    out: str | Path, *, profile: Profile, training: Training, data: dict, tokenizer: str | Path, start: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
) -> Plan:  # fmt: skip
    """Bring what is remote to this machine, and refuse what cannot work, naming what to change."""
    out = Path(out)
    data = {staging.local(place): share for place, share in data.items()}
    tokenizer, start = staging.local(tokenizer), staging.local(start) if start else None
    config = profile.model
    if start is not None:
        config, _ = hf_weights.read_config(start)
        _check_model(config, profile, start)
        hf_weights.check_tensors(hf_weights.Tensors(start), config)
    if training.sequence_length > config.max_position_embeddings:
        raise InputError(
            f"sequence_length {training.sequence_length} is longer than the model's "
            f"max_position_embeddings {config.max_position_embeddings}"
        )
    fingerprint = tokenizers.load(tokenizer).fingerprint
    for directory, shards in zip(data, check_sources(data, vocab_size=config.vocab_size), strict=True):
        if shards.tokenizer != fingerprint:
            raise InputError(f"{directory} was packed with tokenizer {shards.tokenizer}, but {tokenizer} is {fingerprint}: pack it again")
    if checkpoint_dir is None and profile.saving.directory:
        checkpoint_dir = f"{profile.saving.directory}/{out.name}"
    elif not _lies_in_store(checkpoint_dir, profile):  # the limit is that of the profile's own place
        profile = dataclasses.replace(profile, saving=dataclasses.replace(profile.saving, limit_gb=None))
    plan = Plan(
        out=out, profile=profile, training=training, config=config, data=data, tokenizer=tokenizer, start=start,
        named_store=str(checkpoint_dir or ""),
    )  # fmt: skip
    plan.shapes()  # a mesh that does not divide the weights is named here
    return plan


def _lies_in_store(checkpoint_dir: str | Path | None, profile: Profile) -> bool:
    """Whether a named directory is on the disk (or in the Drive) whose limit the profile knows."""
    if checkpoint_dir is None or not profile.saving.directory:
        return False
    store = Path(profile.saving.directory).parent
    return store == Path(checkpoint_dir) or store in Path(checkpoint_dir).parents


def _check_model(config: LlamaConfig, profile: Profile, start: Path) -> None:
    found = {field: (getattr(config, field), getattr(profile.model, field)) for field in SHAPE}
    other = [f"{field} {value} in place of {wanted}" for field, (value, wanted) in found.items() if value != wanted]
    if other:
        raise InputError(f"{start} is not the model of profile {profile.name}: {', '.join(other)}; choose the profile of that model")
    if config.rope != profile.model.rope:
        raise InputError(
            f"{start}/config.json says {config.rope}, but the model of profile {profile.name} has {profile.model.rope}: positions would be "
            "turned otherwise than the weights have learned. Mend config.json (rope_theta, rope_scaling), or download the model again"
        )


def _bytes_on_device(state) -> int:
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state))


def _mark(model: Path) -> str:
    """Which model directory: the hash of its manifest's, or of its configuration and file sizes (a released one's 16 GB
    are not read for this)."""
    if (model / manifest.NAME).is_file():
        return manifest.read(model).content
    sizes = {p.name: p.stat().st_size for p in sorted(model.glob("*.safetensors"))}
    return manifest.digest([(model / "config.json").read_text(encoding="utf-8"), sizes])
