"""Do weights kept in bf16 learn what fp32 weights learn, at a rate of 1e-5?

    python benchmarks/bf16_tracks_fp32.py [--run runs/laptop] [--steps 400] [--json]

Three runs of one small model (tiny-llama3 with weights of 0.02, as Llama-3's are) on the same real batches of a finished run's
Korean shards, at a constant rate of 1e-5: fp32 weights and moments; bf16 weights and moments, rounded stochastically, as
openko trains where memory is short; bf16 rounded to nearest, as `w += update` would. Products are fp32 in all three, so
that only the keeping differs. Draws figures/bf16-tracks-fp32.png. Nothing is timed: --json ends with {name, ours, peer, ratio, unit,
limit, to_nearest}, nats by which the loss falls: ours with stochastic rounding; peer and limit are the same number, fp32's, which
16 bits can follow and not pass.
"""

import argparse
import dataclasses
from pathlib import Path
from unittest import mock

import numpy as np
from side_by_side import print_result
from tqdm import tqdm

from openko import profiles

ROOT = Path(__file__).parent.parent


def losses(shards: Path, steps: int, dtype: str, rounding) -> tuple[np.ndarray, dict]:
    """Loss of every step, and the weights at the end. rounding: None for openko's own."""
    import jax

    from openko import llama
    from openko.training import step as training_step
    from openko.training.data import batches, local_rows, place
    from openko.training.optimizer import learning_rates
    from openko.training.sharding import make_mesh

    laptop = profiles.get("laptop")
    config = dataclasses.replace(laptop.model, initializer_range=0.02)
    training = dataclasses.replace(
        laptop.continued, steps=steps, warmup_steps=0, peak_learning_rate=1e-5, final_learning_rate=1e-5, adam_eps=1e-8, schedule="cosine"
    )
    step = dataclasses.replace(laptop.step, param_dtype=dtype, moment_dtype=dtype)
    mesh = make_mesh(laptop.mesh)
    with mock.patch.object(training_step, "apply_updates", rounding or training_step.apply_updates):
        compiled = training_step.lower_step(config, training, step, mesh).compile()
    state = training_step.new_state(llama.init(config, jax.random.key(0)), training, step)
    like = training_step.abstract_batch(training, mesh)
    mine, found = local_rows(like), []
    rows = tqdm(batches({shards: 1.0}, training, vocab_size=config.vocab_size), total=steps, desc=dtype, leave=False)
    for batch, rate in zip(rows, learning_rates(training), strict=True):
        state, values = compiled(state, place(batch, like, mine), rate)
        found.append(float(values["loss"]))
    return np.array(found), state.parameters


def to_nearest(parameters, updates, key):
    """What plain bf16 does."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda p, u: (p.astype(jnp.float32) + u.astype(jnp.float32)).astype(p.dtype), parameters, updates)


def fall(curve: np.ndarray) -> float:
    """Nats between the first and the last tenth of a run."""
    tenth = len(curve) // 10
    return float(curve[:tenth].mean() - curve[-tenth:].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs/laptop", help="a finished run, whose shards/ko are read")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    from openko import figures

    shards = asked.run / "shards" / "ko"
    curves = {
        "fp32": losses(shards, asked.steps, "float32", None)[0],
        "bf16, stochastic": losses(shards, asked.steps, "bfloat16", None)[0],
        "bf16, to nearest": losses(shards, asked.steps, "bfloat16", to_nearest)[0],
    }
    every = max(1, asked.steps // 40)
    smooth = {name: curve[: len(curve) // every * every].reshape(-1, every).mean(axis=1) for name, curve in curves.items()}
    series = {name: {"x": ((np.arange(len(y)) + 1) * every).tolist(), "y": y.round(4).tolist()} for name, y in smooth.items()}
    figures.save(ROOT / "figures", "bf16-tracks-fp32", {
        "kind": "lines", "title": ["bf16 가중치가 fp32를 따라가는가 (학습률 1e-5)", "Do bf16 weights follow fp32? (rate 1e-5)"],
        "x": ["단계", "step"], "y": ["토큰당 냇", "nats per token"], "series": series,
    }, packages=asked.run / "packages")  # fmt: skip
    falls = {name: fall(curve) for name, curve in curves.items()}
    apart = {name: float(np.abs(smooth[name] - smooth["fp32"]).max()) for name in curves}
    for name in curves:
        print(
            f"{name:<18} loss falls by {falls[name]:.4f} nats, {falls[name] / falls['fp32']:.1%} of fp32's; at most {apart[name]:.4f} apart"
        )
    if asked.json:
        ours, peer = falls["bf16, stochastic"], falls["fp32"]
        nearest = falls["bf16, to nearest"]
        print_result("bf16_tracks_fp32", ours=ours, peer=peer, ratio=ours / peer, unit="nats", limit=peer, to_nearest=nearest)


if __name__ == "__main__":
    main()
