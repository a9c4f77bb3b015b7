"""What a training step would cost on TPUs that one does not have: memory, time, money; by arithmetic or by the compiler.

`estimate` is arithmetic. `compile_for` hands the very function that `openko train` runs
(openko.training.step.compile_step) to the TPU compiler, which PyPI's `libtpu` holds whole and which works on an
ordinary x86-64 Linux CPU; its memory figure is the compiler's own. It runs in a process of its own, for jax fixes its
platform when it starts. Nobody has run these steps on the hardware: times are bounds, not measurements.

GB is 1e9 bytes throughout; the compiler's messages speak of GiB, and are converted.
"""

import dataclasses
import importlib.util
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from openko.errors import InputError
from openko.hardware import BYTES, CHIPS, Chip, flops_per_token, parameter_count
from openko.profiles import MODELS, POD_STEP, PROFILES, SMALL_TPU_STEP, LlamaConfig, MeshShape, Profile, StepConfig, Training

CARD_TOKENS = 17.7e9  # what Llama-3-Open-Ko-8B learned from, by its model card
SESSION_HOURS = 9  # of Kaggle's TPU
RELEASED = ("llama-3-8b", "llama-3.2-1b")
SLICES = ("v5e:1x1", "v5e:2x4", "v6e:1x1", "v6e:2x4", "v5e:16x16", "v6e:16x16")  # rows of the table

# What the compiler leaves to a program on chips of 16 and 32 GiB, in GiB: "exceeds available HBM (15.75G)".
AVAILABLE_GIB = {"v5e": 15.75, "v6e": 31.24}
# The slices that Google Cloud rents. v4 and v5p have three axes and other rules, and are left out.
GRIDS = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
RING = 16  # chips: an axis so long closes into a ring, a shorter one is a line

PRODUCT_SHARE = 0.6  # of the bf16 peak, in the upper bound: MaxText publishes 61.1% of it for a whole 16B step on v5e-256
LANES = 128  # of a TPU's registers: narrower heads are padded, narrower shards are not scattered
SPLASH_PRODUCTS = 11 / 6  # forward 2, again in the backward pass 2, its dq kernel 3 and dkv kernel 4; 6 are counted as useful
OVERHEAD = 0.3e9  # bytes a chip: the program itself, the collectives' own buffers, gaps between buffers


class Topology(NamedTuple):
    """A slice of TPU: "v5e:16x16" is 256 chips in a square."""

    name: str
    kind: str
    sides: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        return math.prod(self.sides)

    @property
    def hbm_limit(self) -> float:
        """Bytes a program may use on a chip."""
        return AVAILABLE_GIB[self.kind] * 2**30

    @property
    def link_bandwidth(self) -> float:
        """Bytes/s into a corner chip, which all others wait for: two links an axis in a ring, one at the end of a line."""
        links = sum(2 if side >= RING else 1 if side > 1 else 0 for side in self.sides)
        return self.chip.link_bandwidth * links / (2 * len(self.sides))


def topology_of(name: str) -> Topology:
    kind, _, grid = name.partition(":")
    if kind not in AVAILABLE_GIB or grid not in GRIDS:
        kinds = ", ".join(AVAILABLE_GIB)
        raise InputError(f"topology {name!r} is not KIND:AxB with KIND one of {kinds} and AxB one of {', '.join(GRIDS)}: try v5e:16x16")
    return Topology(name, kind, tuple(int(side) for side in grid.split("x")))


def profile_for(model: str, topology: str, batch_size: int | None = None, sequence_length: int | None = None) -> Profile:
    """The profile that trains `model` on this slice, or one made from the nearest, with another batch or length if given.

    A made one cuts the weights over all chips (fsdp) and takes as many sequences a chip as the profile it comes from. Its
    state is fp32 where that fits by the estimate, else bf16 with stochastic rounding.
    """
    place = topology_of(topology)
    if model not in RELEASED:
        raise InputError(f"unknown model {model!r}: choose one of {', '.join(RELEASED)}")
    config, chips = MODELS[model], place.chips
    trained = [p for p in PROFILES.values() if p.platform == "tpu" and p.model == config]
    base = min(trained, key=lambda p: abs(math.log(p.mesh.devices / chips)))
    known = base.mesh.devices == chips and base.chip == place.kind
    batch_size = base.continued.batch_size * chips // base.mesh.devices if batch_size is None else batch_size
    sequence_length = base.continued.sequence_length if sequence_length is None else sequence_length
    _check(config, model, place, batch_size, sequence_length)
    continued = dataclasses.replace(base.continued, batch_size=batch_size, sequence_length=sequence_length)
    if known:
        return dataclasses.replace(base, continued=continued)
    made = dataclasses.replace(
        base, name=f"{model} on {place.kind}-{chips}", hardware=f"TPU {place.kind}-{chips}", continued=continued,
        mesh=MeshShape(fsdp=chips), step=POD_STEP,
    )  # fmt: skip
    return made if estimate(made, topology)["fits"] else dataclasses.replace(made, step=SMALL_TPU_STEP)


def _check(config: LlamaConfig, model: str, place: Topology, batch_size: int, sequence_length: int) -> None:
    if batch_size < 1 or batch_size % place.chips:
        raise InputError(
            f"batch {batch_size} does not divide over the {place.chips} chips of {place.name}: take a multiple of {place.chips}"
        )
    # The kernel of attention takes blocks of 512 positions, or one of any multiple of 128 below.
    if sequence_length < 128 or sequence_length % (128 if sequence_length < 512 else 512):
        raise InputError(f"sequence length {sequence_length} must be a multiple of 512, or of 128 below that")
    if sequence_length > config.max_position_embeddings:
        raise InputError(f"sequence length {sequence_length} is more than the {config.max_position_embeddings} positions of {model}")


# ── arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _layer_weights(config: LlamaConfig) -> tuple[int, int]:
    """Weights in the matrix products of one layer: (attention's four projections, the MLP's three)."""
    c = config
    return c.hidden_size * c.head_dim * 2 * (c.num_attention_heads + c.num_key_value_heads), 3 * c.hidden_size * c.intermediate_size


def state_bytes(config: LlamaConfig, training: Training, step: StepConfig) -> int:
    """Weights and moments; also what a checkpoint holds. Adafactor's rows and columns are too small to count."""
    moments = 2 if training.optimizer == "adamw" else 0
    return parameter_count(config) * (BYTES[step.param_dtype] + moments * BYTES[step.moment_dtype])


def memory(profile: Profile, place: Topology) -> dict[str, float]:
    """Bytes a chip by the arithmetic of remat="full": `state`, `kept` (each layer's input), and `peak` with all the rest.

    The peak is the larger of two moments: in the loss (a chunk's logits, the gathered head and its fp32 gradient), or in
    the backward pass of a layer (gradients so far, gathered weights, one layer's activations). Of 14 steps that libtpu 0.0.52
    compiled, it was 0.1% to 16% above the compiler's figure and never below (tests/test_rehearsal.py lists them).
    """
    c, training, step = profile.model, profile.continued, profile.step
    weight, compute, chips = BYTES[step.param_dtype], BYTES[step.compute_dtype], place.chips
    rows = training.batch_size / chips / training.accumulate
    tokens, hidden, head = rows * training.sequence_length, c.hidden_size, c.vocab_size * c.hidden_size
    weights = parameter_count(c)
    state, kept = state_bytes(c, training, step) / chips, tokens * c.num_hidden_layers * hidden * compute
    # Weights in the dtype of the products, before they are gathered: a copy only where they are stored in another.
    cast = weights * compute / chips if weight != compute else 0
    gathered = compute if chips > 1 else 0
    gradients = weights * (weight + (4 if training.accumulate > 1 else 0)) / chips  # sums over parts are fp32

    logits = rows * min(step.loss_chunk, training.sequence_length) * c.vocab_size * 4
    # Around the loss, which many chips run each for itself, something of it lives longer than its turn: as much as this brings
    # the arithmetic to the compiler's side.
    states, leftover = (tokens * hidden * compute, head * gathered / 2) if chips > 1 else (0, 0)
    # The gathered head lies there twice, for its two products want it in two orders.
    loss = kept + cast + logits + 3 * tokens * hidden * compute + states + head * (2 * gathered + 4) + 2 * head * 4 / chips
    wide = c.num_attention_heads * max(c.head_dim, LANES)
    layer = tokens * compute * (4 * c.intermediate_size + 4 * hidden + 6 * wide)
    backward = kept + cast + gradients + layer + states + 2 * sum(_layer_weights(c)) * gathered + leftover
    return {"state": state, "kept": kept, "peak": state + max(loss, backward) + OVERHEAD}


def traffic(profile: Profile, place: Topology) -> dict[str, float]:
    """What one chip does in one step: `flops` with what remat computes again, bytes through `hbm` and over the `links`."""
    c, training, step = profile.model, profile.continued, profile.step
    tokens, chips, compute = training.tokens_per_step / place.chips, place.chips, BYTES[step.compute_dtype]
    attention, mlp = _layer_weights(c)
    layers, head = c.num_hidden_layers, c.vocab_size * c.hidden_size
    chunks = training.accumulate * math.ceil(training.sequence_length / step.loss_chunk)
    products = 6 * (layers * (attention + mlp) + head)
    scores = flops_per_token(c, training.sequence_length) - products
    # The backward pass computes a layer's forward again, but for the last product, whose result is the next layer's input.
    flops = tokens * (products + 2 * layers * (attention + mlp * 2 / 3) + scores * SPLASH_PRODUCTS)

    # A product reads two operands and writes a result, in four passes (forward, again, two gradients). Norms, rotation, the
    # kernel's transposes and SwiGLU read and write about twice as much again. The compiler's own count, which has buffers
    # that never leave the chip's fast memory in it, is 1.2 to 1.8 times this.
    results = 4 * c.hidden_size + 2 * c.head_dim * (c.num_attention_heads + c.num_key_value_heads)
    results += 3 * (c.hidden_size + c.intermediate_size)
    layer = 3 * 4 * compute * (tokens * results + training.accumulate * (attention + mlp))
    loss = 4 * 4 * tokens * c.vocab_size + chunks * head * (2 * compute + 2 * 4)
    update = 2 * (state_bytes(c, training, step) + parameter_count(c) * BYTES[step.param_dtype]) / chips
    hbm = layers * layer + loss + update

    # Read off the compiled programs: attention's weights are gathered three times, the MLP's twice, in bf16; gradients are
    # summed in bf16, as an all-reduce (twice the bytes) where a chip's part of a row is narrower than the registers; the
    # head is gathered in bf16, and its gradient summed in fp32, once for each part of the batch.
    summed = 2 if c.hidden_size / chips < LANES else 1
    gathers = layers * (3 * attention + 2 * mlp) * compute
    gradients = layers * (attention + mlp) * compute * summed
    links = training.accumulate * (gathers + gradients + head * (compute + 4 * summed)) * (chips - 1) / chips
    return {"flops": flops, "hbm": hbm, "links": links}


def estimate(profile: Profile, topology: str) -> dict:
    """What a step costs on a slice, by arithmetic alone. Memory and bytes are a chip's; hours and dollars those of CARD_TOKENS.

    step_seconds_low: the roofline, compute, memory and links all at their peaks and all at once. step_seconds_high: one after
    the other, products at PRODUCT_SHARE of the peak. mfu_high and mfu_low are the same bounds as shares of the bf16 peak.
    """
    place, training = topology_of(topology), profile.continued
    chip, chips, tokens = place.chip, place.chips, training.tokens_per_step
    uses, asked = memory(profile, place), traffic(profile, place)
    products, hbm = asked["flops"] / chip.flops, asked["hbm"] / chip.hbm_bandwidth
    links = asked["links"] / place.link_bandwidth if chips > 1 else 0.0
    low, high = max(products, hbm, links), products / PRODUCT_SHARE + hbm + links
    useful = flops_per_token(profile.model, training.sequence_length) * tokens
    hours = {bound: CARD_TOKENS / tokens * seconds / 3600 for bound, seconds in (("low", low), ("high", high))}
    return {
        "profile": profile.name,
        "topology": topology,
        "chips": chips,
        "parameters": parameter_count(profile.model),
        "batch": training.batch_size,
        "sequence_length": training.sequence_length,
        "state_dtype": profile.step.param_dtype,
        "fits": uses["peak"] <= place.hbm_limit,
        "hbm_gb_per_chip": uses["peak"] / 1e9,
        "hbm_limit_gb": place.hbm_limit / 1e9,
        "state_gb_per_chip": uses["state"] / 1e9,
        "kept_gb_per_chip": uses["kept"] / 1e9,
        "tokens_per_step": tokens,
        "flops_per_step": useful,
        "hbm_bytes_per_step": asked["hbm"],
        "collective_bytes_per_step": asked["links"],
        "step_seconds_low": low,
        "step_seconds_high": high,
        "mfu_low": useful / (high * chips * chip.flops),
        "mfu_high": useful / (low * chips * chip.flops),
        "hours_low": hours["low"],
        "hours": hours["high"],
        "dollars_low": hours["low"] * chips * chip.dollars_per_hour,
        "dollars": hours["high"] * chips * chip.dollars_per_hour,
        "compiled": False,
        "assumptions": _assumptions(place),
    }


def _assumptions(place: Topology) -> list[str]:
    chip = place.chip
    links = f"{place.link_bandwidth / 1e9:.0f} GB/s over the links" if place.chips > 1 else "no links"
    return [
        f"published peaks of a {place.kind}: {chip.flops / 1e12:.0f} TFLOP/s in bf16, {chip.hbm_bandwidth / 1e9:.0f} GB/s of HBM, {links}",
        "lower bound of the time: everything at its peak, and all of it at once",
        f"upper bound of the time: one after the other, matrix products at {PRODUCT_SHARE:.0%} of the peak",
        "neither bound was measured on a TPU; loading, checkpoints and restarts are not in them",
        f"hours and dollars: {CARD_TOKENS / 1e9:.1f}B tokens, ${chip.dollars_per_hour:.2f} a chip and hour on demand",
    ]


def table(models: tuple[str, ...] = RELEASED, topologies: tuple[str, ...] = SLICES) -> list[dict]:
    """One row for each model and slice, by the estimate: the largest batch that fits, of a power of two sequences a chip.

    tokens_per_session: in SESSION_HOURS at the upper bound of the step's time. checkpoint_gb: weights and moments, all chips.
    """
    return [_row(model, topology) for model in models for topology in topologies]


def _row(model: str, topology: str) -> dict:
    chips = topology_of(topology).chips
    profile = profile_for(model, topology, chips)
    plan, batch = estimate(profile, topology), chips
    while plan["fits"]:
        larger = dataclasses.replace(profile, continued=dataclasses.replace(profile.continued, batch_size=2 * batch))
        if not estimate(larger, topology)["fits"]:
            break
        batch, profile, plan = 2 * batch, larger, estimate(larger, topology)
    per_session = int(SESSION_HOURS * 3600 / plan["step_seconds_high"]) * plan["tokens_per_step"]
    return {
        "model": model,
        "topology": topology,
        "fits": plan["fits"],
        "state_dtype": profile.step.param_dtype,
        "sequence_length": plan["sequence_length"],
        "batch": batch if plan["fits"] else 0,
        "hbm_gb_per_chip": round(plan["hbm_gb_per_chip"], 1),
        "hbm_limit_gb": round(plan["hbm_limit_gb"], 1),
        "tokens_per_session": per_session if plan["fits"] else 0,
        "checkpoint_gb": round(state_bytes(profile.model, profile.continued, profile.step) / 1e9, 1),
    }


# ── the compiler ─────────────────────────────────────────────────────────────────────────────────────────────────────


def compile_for(profile: Profile, topology: str, dump_hlo: Path | None = None, say=lambda line: None) -> dict:
    """`estimate`, with the compiler's word in place of the arithmetic's where it has one.

    fits, hbm_gb_per_chip; compile_seconds, compile_peak_gb (host memory); collectives: how many of each kind stand in the
    program, where the body of a loop over layers or chunks counts once; said: the compiler's message when it does not fit.
    dump_hlo: where to write the program as HLO text.
    """
    place, plan = topology_of(topology), estimate(profile, topology)
    if dump_hlo is not None and (dump_hlo.is_dir() or not dump_hlo.parent.is_dir()):
        raise InputError(f"--dump-hlo {dump_hlo} is not a file in a directory that exists")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for a TPU needs the package libtpu: pip install -e '.[rehearsal]'")
    say("compiling for the TPU: one to three minutes")
    with tempfile.TemporaryDirectory() as dumps:
        child = _run_compiler(request_for(profile, topology), Path(dumps))
        # The compiler writes the text itself, for jaxlib cannot always read a program of a newer libtpu back.
        program = "".join(p.read_text() for p in Path(dumps).glob("*jit_train_step*.after_optimizations.txt"))
    # Two wordings: "… (35.23G) exceeds available HBM" before buffers are laid out, "Used 16.04G of 15.75G hbm" after.
    refused = re.search(r"(RESOURCE_EXHAUSTED|Ran out of memory).*hbm.*", child.stderr, re.IGNORECASE) if child.returncode else None
    if child.returncode and not refused:
        raise RuntimeError(f"compiling {profile.name} for {topology} failed:\n{child.stderr[-3000:]}")
    if dump_hlo is not None:
        dump_hlo.write_text(program)
    plan |= {"compiled": True, "collectives": count_collectives(program)}
    if refused:
        needed = re.search(r"([\d.]+)G(?:\) exceeds| of [\d.]+G hbm)", child.stderr)
        return plan | {"fits": False, "hbm_gb_per_chip": float(needed[1]) * 2**30 / 1e9 if needed else None, "said": refused[0]}
    answer = json.loads(child.stdout.splitlines()[-1])
    return plan | answer | {"fits": answer["hbm_gb_per_chip"] * 1e9 <= place.hbm_limit}


def count_collectives(program: str) -> dict[str, int]:
    """Collectives in HLO text. One that is cut into overlapping pieces has one channel, and counts once."""
    found, computation = set(), ""
    for line in program.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            computation = line
        match = re.search(r" (all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute)(?:-start)?\(", line)
        if match:
            # A TPU's reduce-scatter is written as a fusion of that name around an all-reduce and a slice.
            kind = "reduce-scatter" if "all-reduce-scatter" in computation else match[1]
            found.add((kind, re.search(r"channel_id=(\d+)|$", line)[1] or line))
    return {kind: sum(kind == other for other, _ in found) for kind in sorted({kind for kind, _ in found})}


def request_for(profile: Profile, topology: str) -> dict:
    """All that the compiling process must know, as JSON."""
    model = next(name for name, config in MODELS.items() if config == profile.model)
    parts = {"training": profile.continued, "step": profile.step, "mesh": profile.mesh}
    return {"model": model, "topology": topology} | {name: dataclasses.asdict(part) for name, part in parts.items()}


def _run_compiler(request: dict, dumps: Path) -> subprocess.CompletedProcess:
    # No TPU is touched, so that several of these may run at once (libtpu would otherwise lock the machine's).
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    flags = f"--xla_dump_to={dumps} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_train_step"
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    command = [sys.executable, "-m", "openko.rehearsal", json.dumps(request)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def compiled_step(request: dict, devices):
    """The step of openko.training for a request's model, training and mesh, on these devices."""
    from openko.training import sharding
    from openko.training.step import compile_step

    mesh = sharding.make_mesh(MeshShape(**request["mesh"]), devices)
    return compile_step(MODELS[request["model"]], Training(**request["training"]), StepConfig(**request["step"]), mesh)


def _compile_here(request: dict) -> dict:
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=request["topology"]).devices
    began = time.monotonic()
    memory = compiled_step(request, devices).memory_analysis()
    in_use = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    in_use += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return {
        "hbm_gb_per_chip": in_use / 1e9,
        "compile_seconds": time.monotonic() - began,
        "compile_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(_compile_here(json.loads(sys.argv[1]))))
