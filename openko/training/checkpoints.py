"""Checkpoints by orbax: written while training goes on, only complete ones are seen, the newest is found by itself."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from openko.training.step import TrainState

KEEP = 2  # the newest, and one more in case the newest cannot be read


class Checkpoints:
    """The checkpoints of one run, under one directory; use as a context manager so that writing ends."""

    def __init__(self, directory: Path, every: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, save_interval_steps=every, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Save in the background if the state's step is one to be saved."""
        step = int(state.step)
        if self._manager.should_save(step):
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()))

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read, laid out as `abstract` says, or None if there is none at all."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract._asdict()))
            except (OSError, ValueError, KeyError) as problem:
                print(f"checkpoint of step {step} cannot be read ({type(problem).__name__}), trying an older one", flush=True)
                continue
            return TrainState(**jax.tree.map(lambda a, x: jax.device_put(x, a.sharding), abstract._asdict(), restored))
        return None
