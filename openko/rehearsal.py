"""Compile the real training step for a TPU that one does not have, and say whether it fits.

PyPI's `libtpu` holds the whole TPU compiler and works on an ordinary x86-64 Linux CPU. `compile_for` hands it the
very function that `openko train` runs (openko.training.step.compile_step); the memory it reports is the
compiler's own. It runs in a process of its own, for jax fixes its platform when it starts.
"""

import dataclasses
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import time

from openko.errors import InputError
from openko.hardware import flops_per_token, parameter_count
from openko.profiles import MODELS, PROFILES, Profile


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip: bf16 peak in FLOP/s and high-bandwidth memory in bytes (Google Cloud's system pages)."""

    flops: float
    hbm: float


CHIPS = {"v5e": Chip(197e12, 16e9), "v6e": Chip(918e12, 32e9), "v5p": Chip(459e12, 95e9), "v4": Chip(275e12, 32e9)}

BYTES = {"float32": 4, "bfloat16": 2}

# What a step may reach of the peak. MaxText publishes 61.1% to 66.9% on v5e-256 for 16B and 32B models; the lower
# bound is our guess for a first run, and says so wherever it is printed.
MFU_HIGH, MFU_LOW = 0.61, 0.40


def chips_of(topology: str) -> tuple[Chip, int]:
    """The kind of chip and how many of them: "v5e:16x16" is 256 v5e."""
    kind, _, grid = topology.partition(":")
    try:
        sides = [int(n) for n in grid.split("x")]
    except ValueError:
        sides = [0]
    count = math.prod(sides)
    if kind not in CHIPS or min(sides) < 1:
        raise InputError(f"topology {topology!r} is not KIND:AxB with KIND one of {', '.join(CHIPS)}; for example v5e:16x16")
    return CHIPS[kind], count


def profile_for(model: str, topology: str, batch_size: int | None = None) -> Profile:
    """The profile that trains `model` on as many chips as `topology` has, with another batch if one is given."""
    _, count = chips_of(topology)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch must be at least 1 sequence, found {batch_size}")
    if model not in MODELS:
        raise InputError(f"unknown model {model!r}: choose one of {', '.join(MODELS)}")
    trained = [p for p in PROFILES.values() if p.platform == "tpu"]
    for profile in trained:
        if profile.model == MODELS[model] and profile.mesh.devices == count:
            if batch_size is None:
                return profile
            return dataclasses.replace(profile, continued=dataclasses.replace(profile.continued, batch_size=batch_size))
    known = ", ".join(f"{name} on {p.mesh.devices}" for p in trained for name, m in MODELS.items() if m == p.model)
    raise InputError(f"no profile trains {model} on {count} chips ({topology}); there are: {known}")


def estimate(profile: Profile, topology: str) -> dict:
    """What a step costs on a topology, by arithmetic alone; the memory only of what surely lives there.

    Keys: hbm_limit_gb, state_gb_per_chip (weights and moments), tokens_per_step, flops_per_step,
    step_seconds_low/high and mfu_low/high (bounds), hours (for the whole schedule, at the lower MFU).
    """
    chip, count = chips_of(topology)
    training, step = profile.continued, profile.step
    weights = parameter_count(profile.model)
    bytes_per_weight = BYTES[step.param_dtype] + 2 * BYTES[step.moment_dtype]
    tokens = training.batch_size * training.sequence_length
    flops = flops_per_token(profile.model, training.sequence_length) * tokens
    seconds = {bound: flops / (count * chip.flops * mfu) for bound, mfu in (("low", MFU_HIGH), ("high", MFU_LOW))}
    return {
        "profile": profile.name,
        "topology": topology,
        "chips": count,
        "parameters": weights,
        "hbm_limit_gb": chip.hbm / 1e9,
        "state_gb_per_chip": round(weights * bytes_per_weight / count / 1e9, 3),
        "tokens_per_step": tokens,
        "flops_per_step": flops,
        "step_seconds_low": seconds["low"],
        "step_seconds_high": seconds["high"],
        "mfu_low": MFU_LOW,
        "mfu_high": MFU_HIGH,
        "hours": seconds["high"] * training.steps / 3600,
        "compiled": False,
    }


def compile_for(profile: Profile, topology: str) -> dict:
    """`estimate`, and the compiler's word: fits, hbm_gb_per_chip, compile_seconds, compile_peak_gb (host memory)."""
    plan = estimate(profile, topology)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for a TPU needs the package libtpu: pip install -e '.[rehearsal]'")
    request = {"profile": profile.name, "topology": topology, "batch_size": profile.continued.batch_size}
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    child = subprocess.run([sys.executable, "-m", "openko.rehearsal", json.dumps(request)], capture_output=True, text=True, env=environment)
    if child.returncode:
        full = [line for line in child.stderr.splitlines() if "RESOURCE_EXHAUSTED" in line]
        if not full:
            raise RuntimeError(f"compiling {profile.name} for {topology} failed:\n{child.stderr[-3000:]}")
        raise InputError(f"{profile.name} does not fit {topology}, by the TPU compiler: {full[0]}\nLower --batch or take a larger topology")
    answer = json.loads(child.stdout.splitlines()[-1])
    return plan | answer | {"compiled": True, "fits": answer["hbm_gb_per_chip"] <= plan["hbm_limit_gb"]}


def _compile_here(request: dict) -> dict:
    from jax.experimental import topologies

    from openko.training import sharding
    from openko.training.step import compile_step

    profile = PROFILES[request["profile"]]
    training = dataclasses.replace(profile.continued, batch_size=request["batch_size"])
    devices = topologies.get_topology_desc(platform="tpu", topology_name=request["topology"]).devices
    began = time.monotonic()
    compiled = compile_step(profile.model, training, profile.step, sharding.make_mesh(profile.mesh, devices))
    memory = compiled.memory_analysis()
    in_use = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    in_use += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return {
        "hbm_gb_per_chip": in_use / 1e9,
        "compile_seconds": time.monotonic() - began,
        "compile_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(_compile_here(json.loads(sys.argv[1]))))
