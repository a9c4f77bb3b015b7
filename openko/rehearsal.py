"""What a training step would cost on TPUs that one does not have: memory, time, money; by arithmetic or by the compiler.

`estimate` is arithmetic. `compile_for` hands the very function that `openko train` runs
(openko.training.step.compile_step) to the TPU compiler, which PyPI's `libtpu` holds whole and which works on an
ordinary x86-64 Linux CPU; its memory figure is the compiler's own. It runs in a process of its own, for jax fixes its
platform when it starts. What the compiled program does (openko.hlo) then gives FLOPs, bytes of memory and bytes on the links, and
which of these pass while the chip computes. Nobody has run these steps on the hardware: times are bounds, not measurements.

GB is 1e9 bytes throughout; the compiler's messages speak of GiB, and are converted.
"""

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from openko import hlo
from openko.errors import InputError
from openko.hardware import BYTES, CHIPS, Chip, flops_per_token, parameter_count
from openko.profiles import MODELS, POD_STEP, PROFILES, SMALL_TPU_STEP, LlamaConfig, MeshShape, Profile, StepConfig, Training, resized

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
LANES = 128  # of a TPU's registers: narrower heads are padded, narrower shards are gathered whole
SCATTERED = 32  # columns a chip: gradients of narrower shards are summed whole and then cut
# Products of splash attention, of which 6 are counted as useful: forward 2, its dq kernel 3 and dkv kernel 4; with remat 2 more.
SPLASH_ONCE, SPLASH_AGAIN = 9 / 6, 2 / 6
# Matrix products of each of the splash kernels, and how many of its operands it reads anew for every block of the others.
KERNELS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
READ_ANEW, BLOCK = 2, 512
PLACES = ("layer forward", "layer backward", "loss", "outside")
ESTIMATED = ("full", "attention")  # the policies of remat that profiles for TPUs have, which the arithmetic knows
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
        return resized(base, continued)
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


def _keeps_attention(step: StepConfig) -> bool:
    """Whether attention is computed once."""
    if step.remat not in ESTIMATED:
        raise InputError(
            f"the estimate is for remat {' or '.join(ESTIMATED)}, found {step.remat}: let the compiler say it (benchmarks/pod.py)"
        )
    return step.remat == "attention"


def memory(profile: Profile, place: Topology) -> dict[str, float]:
    """Bytes a chip by the arithmetic of remat "full" and "attention": `state`, `kept` (each layer's input, and with "attention" the
    results of its projections and of its kernel), and `peak` with all the rest.

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
    if _keeps_attention(step):  # q, k, v, the kernel's result and its fp32 log-sum-exp, o
        heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
        kept += tokens * c.num_hidden_layers * ((2 * (heads + kv_heads) * c.head_dim + hidden) * compute + 4 * heads)
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
    # The backward pass computes a layer's forward again, or its MLP's alone; but for the last product, whose result is the next
    # layer's input.
    again = 0 if _keeps_attention(step) else 1
    flops = tokens * (products + 2 * layers * (again * attention + mlp * 2 / 3) + scores * (SPLASH_ONCE + again * SPLASH_AGAIN))

    # A product reads two operands and writes a result, in four passes (forward, again, two gradients); what is kept is written and
    # read in place of the second. Norms, rotation, the kernel's transposes and SwiGLU read and write about twice as much again. The
    # compiler's own count, which has buffers that never leave the chip's fast memory in it, is 1.2 to 1.8 times this.
    results = 4 * c.hidden_size + 2 * c.head_dim * (c.num_attention_heads + c.num_key_value_heads)
    results += 3 * (c.hidden_size + c.intermediate_size)
    layer = 3 * 4 * compute * (tokens * results + training.accumulate * (attention + mlp))
    loss = 4 * 4 * tokens * c.vocab_size + chunks * head * (2 * compute + 2 * 4)
    update = 2 * (state_bytes(c, training, step) + parameter_count(c) * BYTES[step.param_dtype]) / chips
    hbm = layers * layer + loss + update

    # Read off 8B's programs for 2x4, 4x8, 8x16 and 16x16 (openko.hlo): attention's weights are gathered three times (twice where it
    # is kept) and the MLP's twice, in bf16; gradients are summed in bf16. Where a chip's part of a row is narrower than the registers, k
    # and v are gathered by all-reduces (twice the bytes), and so are gradients summed where it is very narrow. Else the parts go around
    # from product to product, which sends each of them two times more than a ring would; only gate and up are gathered in the backward
    # pass. The head is gathered in bf16 and its gradient summed in fp32 as an all-reduce. Looking words up, and the way back, trade
    # rows for columns.
    ring = (chips - 1) / chips
    if c.hidden_size / chips < LANES:
        kv = 2 * c.hidden_size * c.num_key_value_heads * c.head_dim
        summed = 2 if c.hidden_size / chips < SCATTERED else 1
        layer_links = ((2 + again) * (attention + kv) + 2 * mlp + summed * (attention + mlp)) * compute * ring
    else:
        gathered = mlp * 2 / 3
        layer_links = ((4 * attention + 3 * mlp - gathered) * (chips + 1) / chips + gathered * ring) * compute
    lookups = 2 * tokens * c.hidden_size * compute * ring
    links = training.accumulate * (layers * layer_links + head * (compute + 4 * 2) * ring) + lookups
    return {"flops": flops, "hbm": hbm, "links": links if chips > 1 else 0.0}


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
        "flops_per_step": flops_per_token(profile.model, training.sequence_length) * tokens,
        "hbm_bytes_per_step": asked["hbm"],
        "collective_bytes_per_step": asked["links"],
        **_times(profile, place, low, high),
        "compiled": False,
        "assumptions": _assumptions(place),
    }


def _times(profile: Profile, place: Topology, low: float, high: float) -> dict[str, float]:
    """Bounds of a step's seconds, as MFU, hours and dollars too."""
    chip, chips, tokens = place.chip, place.chips, profile.continued.tokens_per_step
    useful = flops_per_token(profile.model, profile.continued.sequence_length) * tokens
    hours = {bound: CARD_TOKENS / tokens * seconds / 3600 for bound, seconds in (("low", low), ("high", high))}
    return {
        "step_seconds_low": low,
        "step_seconds_high": high,
        "mfu_low": useful / (high * chips * chip.flops),
        "mfu_high": useful / (low * chips * chip.flops),
        "hours_low": hours["low"],
        "hours": hours["high"],
        "dollars_low": hours["low"] * chips * chip.dollars_per_hour,
        "dollars": hours["high"] * chips * chip.dollars_per_hour,
    }


def _assumptions(place: Topology, compiled: bool = False) -> list[str]:
    chip = place.chip
    links = f"{place.link_bandwidth / 1e9:.0f} GB/s over the links" if place.chips > 1 else "no links"
    at_once = "at once what the program does at once, memory with it" if compiled else "all of it at once"
    return [
        f"published peaks of a {place.kind}: {chip.flops / 1e12:.0f} TFLOP/s in bf16, {chip.hbm_bandwidth / 1e9:.0f} GB/s of HBM, {links}",
        f"lower bound of the time: everything at its peak, and {at_once}",
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
        larger = profile_for(model, topology, 2 * batch)
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


def compile_for(profile: Profile, topology: str, dump_hlo: Path | None = None, say=lambda line: None, whole: bool = True) -> dict:
    """`estimate`, with the compiler's word in place of the arithmetic's where it has one.

    fits, hbm_gb_per_chip; compile_seconds, compile_peak_gb (host memory); collectives: how many of each kind stand in the
    program, where the body of a loop over layers or chunks counts once; all that `work` says, and the bounds of the time by it;
    said: the compiler's message when it does not fit, and then there is no program to be read.
    dump_hlo: where to write the program as HLO text. whole: without it, the compiler is stopped when every buffer has its place, for
    the program does not change any more, and the machine code is most of the work; hbm_gb_per_chip is then without that code
    (0.05 GB for 8B), and compile_seconds and compile_peak_gb are not known.
    """
    place, known = topology_of(topology), profile
    if profile.step.remat not in ESTIMATED:  # then the compiler alone knows
        known = dataclasses.replace(profile, step=dataclasses.replace(profile.step, remat="full"))
    plan = estimate(known, topology) | ({} if known is profile else {"kept_gb_per_chip": None})
    if dump_hlo is not None and (dump_hlo.is_dir() or not dump_hlo.parent.is_dir()):
        raise InputError(f"--dump-hlo {dump_hlo} is not a file in a directory that exists")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for a TPU needs the package libtpu: pip install -e '.[rehearsal]'")
    say("compiling for the TPU: one to three minutes" if whole else "compiling for the TPU, but for the machine code: seconds")
    with tempfile.TemporaryDirectory() as dumps:
        child = _run_compiler(request_for(profile, topology), Path(dumps), whole)
        # The compiler writes the text itself, for jaxlib cannot always read a program of a newer libtpu back.
        program = "".join(p.read_text() for p in Path(dumps).glob("*jit_train_step*.after_optimizations.txt"))
        report = "".join(p.read_text() for p in Path(dumps).glob("*jit_train_step*memory-usage-report.txt"))
    # Two wordings: "… (35.23G) exceeds available HBM" before buffers are laid out, "Used 16.04G of 15.75G hbm" after.
    refused = re.search(r"(RESOURCE_EXHAUSTED|Ran out of memory).*hbm.*", child.stderr, re.IGNORECASE) if child.returncode else None
    stopped = child.returncode == -signal.SIGKILL and not whole and report
    if child.returncode and not refused and not stopped:
        raise RuntimeError(f"compiling {profile.name} for {topology} failed:\n{child.stderr[-3000:]}")
    if dump_hlo is not None:
        dump_hlo.write_text(program)
    plan |= {"compiled": True}
    if refused:
        needed = re.search(r"([\d.]+)G(?:\) exceeds| of [\d.]+G hbm)", child.stderr)
        return plan | {"fits": False, "hbm_gb_per_chip": float(needed[1]) * 2**30 / 1e9 if needed else None, "said": refused[0]}
    coordinates, *rest = (json.loads(line) for line in child.stdout.splitlines() if line.startswith(("[", "{")))
    if stopped:
        planned = re.search(r"Memory Space: default.*\nTotal bytes: (\d+)", report)
        rest = [{"hbm_gb_per_chip": int(planned[1]) / 1e9, "compile_seconds": None, "compile_peak_gb": None}]
    (answer,) = rest
    plan |= work(hlo.read(program), profile, place, coordinates) | {"assumptions": _assumptions(place, compiled=True)}
    return plan | answer | {"fits": answer["hbm_gb_per_chip"] * 1e9 <= place.hbm_limit}


def work(program: hlo.Program, profile: Profile, place: Topology, coordinates: list) -> dict:
    """What a compiled step does on one chip, by its program: the plan's keys that it knows better than the arithmetic, and more.

    coordinates: where each of the mesh's devices, in its order, stands in the slice: (x, y). computed_flops_per_chip: with what is
    computed again. overlapped_share: of the bytes on the wire, those of collectives beside which products run. wire: a row for
    each kind of collective in each of PLACES: how many there are, how often each runs, bytes a chip sends in a step.
    seconds_at_peak: of the products, of memory, of all collectives, and of the `waiting` for those that no product hides.

    step_seconds_low: nothing but what a product hides is hidden, and all is at its peak. step_seconds_high: as `estimate` has it.
    """
    chip, kernel_flops, kernel_bytes = place.chip, *_kernels(program, profile)
    flops, hbm = program.flops + kernel_flops, program.hbm_bytes + kernel_bytes
    links, hidden, rows = 0.0, 0.0, {}
    for one in program.collectives:
        seconds = one.wire_bytes / group_bandwidth(place, [coordinates[device] for device in one.group]) if len(one.group) > 1 else 0.0
        links += one.runs * seconds
        hidden += one.runs * min(seconds, one.overlapped_flops / chip.flops if one.asynchronous else 0.0)
        where = place_of(one)
        key = (PLACES.index(where), one.kind, one.dtype, len(one.group), one.runs, one.overlaps)
        row = rows.setdefault(key, {"where": where, "kind": one.kind, "dtype": one.dtype, "chips": len(one.group), "overlaps": one.overlaps,
                                    "count": 0, "runs": one.runs, "bytes_per_step": 0.0})  # fmt: skip
        row["count"] += 1
        row["bytes_per_step"] += one.runs * one.wire_bytes
    wire = sum(row["bytes_per_step"] for row in rows.values())
    products, memory_seconds, waiting = flops / chip.flops, hbm / chip.hbm_bandwidth, links - hidden
    low, high = max(products, memory_seconds, hidden) + waiting, products / PRODUCT_SHARE + memory_seconds + links
    counts = Counter(one.kind for one in program.collectives)
    return {
        "computed_flops_per_chip": flops,
        "hbm_bytes_per_step": hbm,
        "collective_bytes_per_step": wire,
        "overlapped_share": sum(row["bytes_per_step"] for row in rows.values() if row["overlaps"]) / wire if wire else 0.0,
        "collectives": dict(sorted(counts.items())),
        "wire": [rows[key] for key in sorted(rows)],
        "seconds_at_peak": {"products": products, "hbm": memory_seconds, "links": links, "waiting": waiting},
        **_times(profile, place, low, high),
    }


def _kernels(program: hlo.Program, profile: Profile) -> tuple[float, float]:
    """FLOPs and bytes of memory of the splash kernels, of which a program's text shows operands and results only."""
    c, training, mesh = profile.model, profile.continued, profile.mesh
    heads = training.batch_size / training.accumulate / (mesh.data * mesh.fsdp) * c.num_attention_heads / mesh.tensor
    product = 2 * heads * c.head_dim * training.sequence_length**2 / 2
    blocks = max(1, training.sequence_length / BLOCK)
    anew = READ_ANEW * heads * training.sequence_length * c.head_dim * BYTES[profile.step.compute_dtype] * ((blocks + 1) / 2 - 1)
    flops = moved = 0.0
    for name, runs in program.kernels.items():
        products = next((count for kernel, count in KERNELS.items() if name.startswith(kernel)), 0)
        flops, moved = flops + runs * products * product, moved + runs * bool(products) * anew
    return flops, moved


def place_of(collective: hlo.Collective) -> str:
    """In which of PLACES a collective of the training step stands, by jax's names of the loops around it."""
    loops = collective.loops
    if any(name.endswith("transpose(jvp())/while") for name in loops):
        return "layer backward"
    if any(name.endswith("jvp()/while") for name in loops):
        return "layer forward"
    return "loss" if any("shard_map" in name for name in (*loops, collective.op_name)) else "outside"


def group_bandwidth(place: Topology, coordinates: list) -> float:
    """Bytes/s that a chip at the end of a group can send within it, by where the group's chips stand.

    Along each of the slice's axes: two links where the group goes all around a ring, one where it is a line. Where every k-th chip
    is in the group, k such groups share the links.
    """
    links = 0.0
    for axis, side in enumerate(place.sides):
        at = sorted({chip[axis] for chip in coordinates})
        if len(at) > 1:
            step = min(b - a for a, b in itertools.pairwise(at))
            around = side >= RING and step * len(at) == side
            links += (2 if around else 1) / step
    return place.chip.link_bandwidth * links / (2 * len(place.sides))


def request_for(profile: Profile, topology: str) -> dict:
    """All that the compiling process must know, as JSON."""
    model = next(name for name, config in MODELS.items() if config == profile.model)
    parts = {"training": profile.continued, "step": profile.step, "mesh": profile.mesh}
    return {"model": model, "topology": topology} | {name: dataclasses.asdict(part) for name, part in parts.items()}


def _run_compiler(request: dict, dumps: Path, whole: bool) -> subprocess.CompletedProcess:
    # No TPU is touched, so that several of these may run at once (libtpu would otherwise lock the machine's).
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    flags = f"--xla_dump_to={dumps} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_train_step"
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    command = [sys.executable, "-m", "openko.rehearsal", json.dumps(request)]
    said = [dumps / "stdout", dumps / "stderr"]
    with said[0].open("w") as out, said[1].open("w") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            # Written after the program and the report on memory, once buffers have their places.
            while child.poll() is None and (whole or not any(dumps.glob("*jit_train_step*after_buffer_assignment.txt"))):
                time.sleep(0.2)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    return subprocess.CompletedProcess(command, child.returncode, *(path.read_text(errors="replace") for path in said))


def compiled_step(request: dict, devices):
    """The step of openko.training for a request's model, training and mesh, on these devices."""
    from openko.training import sharding
    from openko.training.step import compile_step

    mesh = sharding.make_mesh(MeshShape(**request["mesh"]), devices)
    return compile_step(MODELS[request["model"]], Training(**request["training"]), StepConfig(**request["step"]), mesh)


def _compile_here(request: dict) -> dict:
    from jax.experimental import topologies

    from openko.training.sharding import make_mesh

    devices = topologies.get_topology_desc(platform="tpu", topology_name=request["topology"]).devices
    mesh = make_mesh(MeshShape(**request["mesh"]), devices)
    print(json.dumps([list(device.coords[:2]) for device in mesh.devices.flat]), flush=True)
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
