"""Checkpoints by orbax: written while training goes on, only complete ones are seen, the newest is found by itself.

A checkpoint holds the state, the run it belongs to, the lines of training.jsonl so far, and a checksum of every
array, so that a damaged one is known for what it is. A directory may be local or in a bucket (gs://), where orbax
writes; in any other place (hf://) lies a copy of the newest local ones.
"""

import gc
import math
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from openko.errors import InputError
from openko.profiles import Saving
from openko.staging import is_remote
from openko.training import hosts
from openko.training.mirror import Mirror
from openko.training.step import TrainState

# Groups of a run's facts that may change between a checkpoint and the run that goes on from it; all others may not.
SCHEDULE, CODE = "schedule", "code"


class Checkpoints:
    """The checkpoints of one run, under one directory; use as a context manager so that writing ends.

    local: where they are written if `directory` is a place that only holds copies.
    run: what the checkpoints belong to, as nested plain JSON: {"model": {...}, "data": {...}, SCHEDULE: {...}, ...}.
    """

    def __init__(self, directory: str | Path, saving: Saving, run: dict, *, local: Path, say=print):
        self.directory, self._saving, self._run, self._say = str(directory), saving, run, say
        self._mirror = None
        if is_copy(directory):
            local.mkdir(parents=True, exist_ok=True)
            self._mirror = Mirror(self.directory, local, saving.keep, say=say)
            self._mirror.fetch()
            directory, self.directory = local, f"{directory} (by way of {local})"
        self._last_save = time.monotonic()
        self.seconds_to_save: float | None = None  # how long the last one that was waited for took
        options = ocp.CheckpointManagerOptions(max_to_keep=saving.keep, enable_async_checkpointing=True, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(_absolute(directory), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
        if self._mirror:
            self._mirror.wait()

    def newest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def is_due(self, step: int) -> bool:
        """Whether `step` is one to be saved, by the number of steps or of minutes; each host answers for itself."""
        return step % self._saving.steps == 0 or time.monotonic() - self._last_save > 60 * self._saving.minutes

    def save(self, state: TrainState, lines: list[str], *, wait: bool = False) -> str:
        """Save in the background (a copied one is first written here); with `wait`, return when the checkpoint is complete.

        On all hosts together. Returns what a person must know, if it could not be copied to its place.
        """
        began = self._last_save = time.monotonic()
        if self._mirror:
            self._mirror.wait()  # or the files that it copies might be deleted
        # A copy of the lines: they are written in the background, while new ones come.
        record = {"run": self._run, "lines": list(lines), "checksums": checksums(state._asdict())}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), record=ocp.args.JsonSave(record))
        if int(state.step) in self._manager.all_steps():
            self._manager.delete(int(state.step))  # one that could not be read
        self._manager.save(int(state.step), args=items, force=True)
        if wait or self._mirror:
            self._manager.wait_until_finished()
        if self._mirror:
            self._mirror.push(int(state.step))
        problem = ""
        if wait:
            problem = self._mirror.wait(try_again=True) if self._mirror else ""
            self.seconds_to_save = time.monotonic() - began
        return problem

    def restore(self, like: TrainState) -> tuple[TrainState, list[str]] | None:
        """The newest state that is whole, laid out as `like` says, and its lines; None if nothing was ever saved.

        Refuses a checkpoint of another run, and a directory in which no checkpoint can be read.
        """
        steps, problem = sorted(self._manager.all_steps(), reverse=True), ""
        for step in steps:
            record, problem = self._read(step, ocp.args.Composite(record=ocp.args.JsonRestore()), "record")
            if record is not None:
                self._check_run(step, record["run"])
                tree, problem = self._read(step, ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict())), "state")
                if tree is not None:
                    damaged = [name for name, sum in checksums(tree).items() if sum != record["checksums"][name]]
                    if not damaged:
                        return TrainState(**tree), record["lines"]
                    problem = f"{', '.join(damaged[:3])} has changed since it was written"
            self._say(f"checkpoint of step {step} in {self.directory} cannot be used ({problem}): trying an older one")
        if steps:
            raise InputError(
                f"none of the checkpoints in {self.directory} can be read, the last because of {problem}: mend that; if they are lost, "
                "delete the directory to begin anew, or name another --checkpoint-dir"
            )
        return None

    def _read(self, step: int, items: ocp.args.Composite, item: str):
        """(content, "") or (None, what went wrong), the same on all hosts."""
        content, problem = None, ""
        try:
            content = self._manager.restore(step, args=items)[item]
        except Exception as error:  # damage shows in many ways: tensorstore, zarr, JSON, missing files
            problem = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        if problem:
            gc.collect()  # the other reads that failed complain when they are collected: better here than in the midst of something else
        if hosts.agree(content is None)[0]:
            return None, problem or "another host could not read it"
        return content, ""

    def _check_run(self, step: int, found: dict) -> None:
        """The checkpoint's run against this one: another schedule or code is said, anything else refused. A run that is
        complete is not made with other numbers by naming its last checkpoint."""
        for group, values in self._run.items():
            others = found.get(group, {})
            changed = [f"{k} {_short(others.get(k))} there, {_short(v)} here" for k, v in values.items() if others.get(k) != v]
            if changed and group not in (SCHEDULE, CODE):
                raise InputError(
                    f"the checkpoint of step {step} in {self.directory} is of another {group} ({'; '.join(changed[:4])}): "
                    "name another --checkpoint-dir, or delete that one to begin anew"
                )
            if changed and step >= self._run[SCHEDULE]["steps"]:
                raise InputError(
                    f"the run in {self.directory} is complete at step {step}, but was made with another {group} "
                    f"({'; '.join(changed[:4])}): name another --checkpoint-dir, or delete that one to begin anew"
                )
            if changed:
                self._say(f"going on from step {step} with another {group}: {'; '.join(changed)}")


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def checksums(tree) -> dict[str, int]:
    """{name: sum of all bits as unsigned integers, modulo 2**32}: exact, and the same on any number of devices."""
    sums = jax.device_get(_sums(tree))
    return {jax.tree_util.keystr(path): int(value) for path, value in jax.tree_util.tree_flatten_with_path(sums)[0]}


@jax.jit
def _sums(tree):
    def one(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint16 if x.dtype.itemsize == 2 else jnp.uint32)
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def size_of(like: TrainState) -> int:
    """Bytes of one checkpoint, before compression."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(like._asdict()))


def is_copy(directory: str | Path) -> bool:
    """Whether a place holds copies of local checkpoints: orbax itself writes to disks and to gs://."""
    return is_remote(directory) and not str(directory).startswith("gs://")


def check_store(directory: str | Path, saving: Saving, size: int, *, local: Path) -> None:
    """Refuse a place that cannot hold what will be kept, and the next one while it is written. Buckets have no limit.

    size: bytes of one checkpoint. On several hosts, all must see the same directory.
    """
    if is_copy(directory) and jax.process_count() > 1:
        raise InputError(f"checkpoints of several hosts cannot be copied to {directory}: name a bucket (gs://) or a directory that all see")
    if is_remote(directory) and not is_copy(directory):
        return
    place = local if is_copy(directory) else Path(directory)  # a copy's source is written here
    existing = next(p for p in (place, *place.parents) if p.exists())
    mine = sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) if place.exists() else 0
    room = shutil.disk_usage(existing).free + mine
    limit = min(room, saving.limit_gb * 1e9) if saving.limit_gb else room
    needed = (saving.keep + 1) * size
    others_refuse = hosts.agree(int(limit < needed))[0]
    if others_refuse and limit >= needed:
        raise InputError(f"another host has no room for checkpoints in {place}: its message says more")
    if limit < needed:
        gb = 1e9
        raise InputError(
            f"{place} holds {limit / gb:.1f} GB, but a checkpoint of this run has {size / gb:.1f} GB, and keeping {saving.keep} while "
            f"the next is written takes {needed / gb:.1f}: name another place with --checkpoint-dir (gs://BUCKET/DIR, a larger disk), "
            "or train a smaller model, or with --set optimizer=adafactor, whose checkpoints hold hardly more than the weights"
        )
    if jax.process_count() > 1:
        place.mkdir(parents=True, exist_ok=True)
        mark = place / ".hosts"
        token = hosts.tell(int(time.time()) % 2**31)
        if hosts.is_first():
            mark.write_text(str(token))
        hosts.agree(0)
        seen = mark.is_file() and mark.read_text() == str(token)
        if not -hosts.agree(-int(seen))[0]:
            raise InputError(f"{place} is not one directory that all {jax.process_count()} hosts see: name a bucket with --checkpoint-dir")


def remove(directory: str | Path) -> None:
    """Delete the checkpoints of a run that is complete."""
    if hosts.is_first():
        shutil.rmtree(directory, ignore_errors=True)


def _absolute(directory: str | Path) -> epath.Path:
    return epath.Path(directory) if is_remote(directory) else epath.Path(Path(directory).absolute())
