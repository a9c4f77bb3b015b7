"""Does the RoPE lab name every fault on every model, and never a wrong one?

    python benchmarks/rope_matrix.py [--out runs/rope-matrix] [--only NAME …] [--json]

Trains small models in which position matters (openko.rope_lab.probe), of several shapes and θ, and breaks each in every
way that it can be broken. Faults of config.json leave the weights as they are, so one search serves all that share an
order of rows. Prints the table; --json ends with {name, ours, peer, ratio, unit, limit, wrong}: ours is the share named right,
limit 1, and wrong the number of verdicts that are neither right nor undetermined. peer and ratio are null: no other program says which
RoPE weights were trained with.
"""

import argparse
import json
import time
from pathlib import Path

from side_by_side import print_result

from openko.errors import InputError
from openko.rope import Llama3Scaling, Rope
from openko.rope_lab import faults
from openko.rope_lab.directory import open_directory

SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
MODELS = {  # heads, key-value heads, head dim, tied, Rope
    "8/2 × 32, θ 1e4": (8, 2, 32, True, Rope(theta=1e4)),
    "8/2 × 64, θ 1e5": (8, 2, 64, False, Rope(theta=1e5)),
    "8/2 × 128, θ 5e5": (8, 2, 128, True, Rope(theta=5e5)),
    "9/3 × 64, θ 5e5": (9, 3, 64, False, Rope(theta=5e5)),
    "9/3 × 128, θ 1e6": (9, 3, 128, True, Rope(theta=1e6)),
    "9/3 × 32, θ 1e6": (9, 3, 32, True, Rope(theta=1e6)),
    "8/2 × 64, θ 5e5, scaled": (8, 2, 64, True, Rope(theta=5e5, scaling=SCALING)),
    "9/3 × 32, θ 1e5, scaled": (9, 3, 32, False, Rope(theta=1e5, scaling=SCALING)),
}
ROWS = ((), (faults.INTERLEAVED,), (faults.Q_PERMUTED,), (faults.K_PERMUTED,), (faults.HEAD_COUNT,))
CONFIG = ((), (faults.WRONG_THETA,), (faults.NO_THETA,), (faults.NO_OLD_THETA,), (faults.SPURIOUS,), (faults.MISSING_SCALING,))


def expected(rope: Rope, names: tuple[str, ...]) -> list[str]:
    """θ gone is no fault where readers' own is right."""
    from openko.rope_lab import diagnosis

    left = [n for n in faults.FAULTS if n in names and not (n == faults.NO_THETA and rope.theta == 1e4)]
    return left or [diagnosis.OK]


def verdicts(place: Path, name: str, say) -> list[dict]:
    from openko.rope_lab import diagnosis, probe

    heads, kv_heads, head_dim, tied, rope = MODELS[name]
    source = place / name.replace("/", "-").replace(" ", "").replace("×", "x").replace("θ", "theta").replace(",", "-")
    probe.train(source, rope, heads=heads, kv_heads=kv_heads, head_dim=head_dim, tie_word_embeddings=tied, say=say)
    found = []
    for rows in ROWS:
        findings = None
        # Every fault of the config beside sound rows; beside the others, a few.
        for config in CONFIG if not rows else CONFIG[:3]:
            broken, names = place / "broken", rows + config
            try:
                faults.broken(source, broken, names, say=lambda line: None) if names else None
            except InputError as cannot:
                say(f"{name}: {' + '.join(names)} refused: {str(cannot).rpartition(': ')[2]}")
                continue
            model = open_directory(broken if names else source)
            started = time.monotonic()
            findings = findings or diagnosis.search(model, text=source / probe.TEXT, say=lambda line: None)
            answer = diagnosis.judge(model, findings)
            right = answer["verdict"] == expected(rope, names)
            found.append({
                "model": name, "faults": list(names), "verdict": answer["verdict"], "right": right, "seconds": time.monotonic() - started,
                "wrong": not right and answer["verdict"] != [diagnosis.UNDETERMINED],
                "theta_ratio": findings.theta.estimate / rope.theta, "notes": answer["notes"],
            })  # fmt: skip
            say(f"{name}: {' + '.join(names) or 'clean'} -> {' + '.join(answer['verdict'])} {'' if right else '!'} {answer['notes'] or ''}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rope-matrix"))
    parser.add_argument("--only", nargs="*", default=list(MODELS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = [verdict for name in asked.only for verdict in verdicts(asked.out, name, lambda line: print(line, flush=True))]
    (asked.out / "matrix.json").write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    right, wrong = sum(f["right"] for f in found) / len(found), sum(f["wrong"] for f in found)
    ratios = sorted(f["theta_ratio"] for f in found)
    print(f"{len(found)} cases, named right {right:.1%}, wrong {wrong}; estimate of θ to the true one {ratios[0]:.2f} to {ratios[-1]:.2f}")
    if asked.json:
        print_result("rope_matrix", ours=right, peer=None, ratio=None, unit="share named right", limit=1.0, wrong=wrong, cases=len(found))


if __name__ == "__main__":
    main()
