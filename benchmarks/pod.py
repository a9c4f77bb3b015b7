"""Which mesh and which rematerialisation for 8B on a v5e-256: every candidate's step compiled by the TPU's compiler, on this CPU.

    python benchmarks/pod.py [--json] [--dump-dir DIR] [--results runs/pod.json] [--only NAME …] [--again]

256 × 8,192 tokens a step, the profile v5e-256 with another mesh, remat or unroll. First each candidate is compiled, but for the machine
code, which changes nothing that is looked at here (ten seconds on two quiet cores, 1 GB; needs `pip install -e '.[rehearsal]'`), and
its answer written to --results: a run that was interrupted goes on, and --again compiles anew. Then the table is drawn from that file.
A candidate that does not fit, or that does not compile, is a row that says so, with the compiler's figure or its words. --dump-dir: the
compiled programs as HLO text.

HBM: the compiler's. Bytes on the wire, their overlapped share, FLOPs with what is computed again, bytes of memory: read from the
compiled program (openko.hlo), but the FLOPs in attention's kernels, which are arithmetic. Bounds of the time: openko.rehearsal.work.
None of it was measured on a TPU.

--json ends with a line {name, ours, peer, ratio, unit, limit}: the upper bound of a step's seconds of the chosen profile, of the best
other candidate that fits, peer / ours; limit: the step's FLOPs without any that are computed twice, at 100% of the peak.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import sys
from pathlib import Path

from openko import hardware, profiles, rehearsal
from openko.errors import InputError
from openko.profiles import MeshShape, Profile
from openko.progress import Progress

POD, TOPOLOGY = profiles.get("v5e-256"), "v5e:16x16"


def candidate(remat: str = POD.step.remat, unroll: int = POD.step.unroll, **mesh: int) -> Profile:
    shape = MeshShape(**mesh)
    name = " × ".join(f"{axis} {size}" for axis, size in dataclasses.asdict(shape).items() if size > 1) + f", remat {remat}"
    name += f", unroll {unroll}" if unroll > 1 else ""
    return dataclasses.replace(POD, name=name, mesh=shape, step=dataclasses.replace(POD.step, remat=remat, unroll=unroll))


CANDIDATES = [
    candidate(fsdp=256),
    candidate(fsdp=256, unroll=2),
    candidate(data=2, fsdp=128),
    candidate(data=4, fsdp=64),
    candidate(data=8, fsdp=32),
    candidate(fsdp=128, tensor=2),
    candidate("full", fsdp=256),
    candidate("full", data=2, fsdp=128),
    candidate("full", fsdp=128, tensor=2),
    candidate("full", fsdp=64, tensor=4),
    candidate("full", fsdp=32, tensor=8),
    candidate("dots", fsdp=256),
    candidate("none", fsdp=256),
]


def chosen(one: Profile) -> bool:
    return (one.mesh, one.step) == (POD.mesh, POD.step)


def key_of(one: Profile) -> str:
    return profiles.fingerprint([rehearsal.request_for(one, TOPOLOGY), importlib.metadata.version("libtpu")])


def answer_for(one: Profile, dump_dir: Path | None) -> dict:
    """What the compiler says of a candidate; a failure is an answer too."""
    dump = dump_dir / (one.name.replace(" × ", "_").replace(", ", "_").replace(" ", "-") + ".hlo") if dump_dir else None
    try:
        return rehearsal.compile_for(one, TOPOLOGY, dump, whole=False)
    except (InputError, RuntimeError, ValueError) as problem:
        return {"compiled": False, "fits": False, "said": str(problem)[-600:]}


def compile_all(candidates: list[Profile], results: Path, dump_dir: Path | None, again: bool, say) -> dict[str, dict]:
    """{key: answer} of all candidates, compiled or read from `results`, which holds each answer as soon as there is one."""
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    missing = [one for one in candidates if again or key_of(one) not in known]
    progress = Progress(say, seconds=0)
    for number, one in enumerate(missing):
        progress(f"compiling {number + 1} of {len(missing)}: {one.name}", number / len(missing))
        known[key_of(one)] = answer_for(one, dump_dir) | {"name": one.name}
        results.parent.mkdir(parents=True, exist_ok=True)
        written = results.with_name(results.name + ".partial")
        written.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(written, results)
    return {key_of(one): known[key_of(one)] for one in candidates}


def row(one: Profile, answer: dict) -> str:
    """A line of the table in Markdown."""
    name = f"**{one.name}**" if chosen(one) else one.name
    memory = answer.get("hbm_gb_per_chip")
    memory = f"{memory:.1f}" if memory else "–"
    if "wire" not in answer or not answer["fits"]:
        why = "does not fit" if memory != "–" else "does not compile"
        return f"| {name} | {memory} | {why} | | | | | | |"
    layers = sum(r["bytes_per_step"] for r in answer["wire"] if r["where"].startswith("layer")) / one.model.num_hidden_layers
    return (
        f"| {name} | {memory} | {answer['collective_bytes_per_step'] / 1e9:.1f} | {layers / 1e6:,.0f} | {answer['overlapped_share']:.0%} "
        f"| {answer['computed_flops_per_chip'] / 1e12:.0f} | {answer['step_seconds_low']:.2f} to {answer['step_seconds_high']:.2f} "
        f"| {answer['mfu_high']:.0%} to {answer['mfu_low']:.0%} | {answer['hours_low']:.1f} to {answer['hours']:.1f} |"
    )


def table(candidates: list[Profile], answers: dict[str, dict]) -> str:
    head = ("mesh, remat", "HBM, GB", "wire, GB a step", "MB a layer", "overlapped", "TFLOP", "seconds", "MFU", "hours")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [row(one, answers[key_of(one)]) for one in candidates])


def collectives(answer: dict, layers: int) -> str:
    """The collectives of one program: a layer's by their place, the rest a step's; without those of less than 0.1 MB."""
    lines = ["| where | collective | of | how many | MB | beside products |", "|---" * 6 + "|"]
    for r in answer["wire"]:
        unit, units = ("layer", layers) if r["where"].startswith("layer") else ("step", 1)
        if r["bytes_per_step"] < 1e5:
            continue
        lines.append(
            f"| {r['where']} | {r['kind']} | {r['dtype']}, {r['chips']} chips | {r['count'] * r['runs'] / units:.0f} a {unit} "
            f"| {r['bytes_per_step'] / units / 1e6:,.1f} | {'yes' if r['overlaps'] else 'no'} |"
        )
    at_peak = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in answer["seconds_at_peak"].items())
    return "\n".join([*lines, "", f"all at their peaks: {at_peak}"])


def verdict(candidates: list[Profile], answers: dict[str, dict]) -> dict:
    ours = next(answers[key_of(one)] for one in candidates if chosen(one))
    others = [(answers[key_of(one)], one.name) for one in candidates if not chosen(one) and answers[key_of(one)]["fits"]]
    best, name = min(others, key=lambda pair: pair[0]["step_seconds_high"], default=({"step_seconds_high": float("nan")}, "none"))
    return {
        "name": "pod step, 8B on v5e-256, modelled",
        "ours": round(ours["step_seconds_high"], 3),
        "peer": round(best["step_seconds_high"], 3),
        "ratio": round(best["step_seconds_high"] / ours["step_seconds_high"], 4),
        "unit": "seconds a step, upper bound, not measured",
        "limit": round(ours["flops_per_step"] / 256 / hardware.CHIPS["v5e"].flops, 3),
        "peer_is": name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dump-dir", type=Path)
    parser.add_argument("--results", type=Path, default=Path("runs/pod.json"))
    parser.add_argument("--only", action="append", metavar="NAME", help="candidates whose name holds this; the chosen one is always there")
    parser.add_argument("--again", action="store_true", help="compile what --results holds already")
    given = parser.parse_args()
    if given.dump_dir:
        given.dump_dir.mkdir(parents=True, exist_ok=True)
    candidates = [one for one in CANDIDATES if chosen(one) or not given.only or any(part in one.name for part in given.only)]
    answers = compile_all(candidates, given.results, given.dump_dir, given.again, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(candidates, answers))
    ours = next(answers[key_of(one)] for one in candidates if chosen(one))
    if "wire" in ours:
        print("\n" + collectives(ours, POD.model.num_hidden_layers))
    for one in candidates:
        if "said" in answers[key_of(one)]:
            print(f"\n{one.name}: {answers[key_of(one)]['said']}")
    if "wire" not in ours:
        raise SystemExit("the chosen profile did not compile: nothing to compare with")
    if given.json:
        print(json.dumps(verdict(candidates, answers)))


if __name__ == "__main__":
    main()
