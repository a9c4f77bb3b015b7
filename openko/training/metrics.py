"""What a run tells: a line per step in a JSONL file, its speed in another, one progress line for the person."""

import json
import time
from pathlib import Path

from tqdm import tqdm

from openko.errors import InputError
from openko.progress import bar_stream


class Metrics:
    """The record of one run.

    `lines` hold what was learned ({"step", "loss", …}), nothing of the clock: two runs with one seed have the same
    bytes. They go into `path` and into every checkpoint; resumed, they are those of the checkpoint, and the lost steps
    are forgotten. The clock's part goes into `speed` ({"step", "seconds", "tokens_per_second", "mfu"}).

    flops_per_step, peak: of the model, and of all devices together in FLOP/s (None where it is not known) for MFU.
    path None: another host writes. tensorboard: directory for its event files.
    """

    def __init__(
        self, path: Path | None, speed: Path | None, *, name: str, lines: list[str], steps: int, tokens_per_step: int,
        flops_per_step: float, peak: float | None, tensorboard: Path | None = None,
    ):  # fmt: skip
        self.lines = list(lines)
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_step, peak
        self._file = self._speed = self._writer = None
        if path is not None:
            path.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
            self._speed = open(speed, "a", encoding="utf-8")  # noqa: SIM115
            self._writer = _tensorboard(tensorboard, len(self.lines)) if tensorboard else None
        self.step_seconds, self._clock = 0.0, time.monotonic()
        self._bar = tqdm(
            desc=name, total=steps, initial=len(self.lines), unit="step", file=bar_stream(), mininterval=1.0, leave=False,
            disable=path is None,
        )  # fmt: skip

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        for file in (self._file, self._speed, self._writer):
            if file is not None:
                file.close()

    def pause(self) -> None:
        """What happens from here to `resume` (an evaluation, a save) is not the step's time."""
        self._paused = time.monotonic()

    def resume(self) -> None:
        self._clock += time.monotonic() - self._paused

    def step(self, step: int, values: dict[str, float]) -> None:
        """One optimizer step done; `step` counts from 1."""
        line = json.dumps({"step": step, **values})
        self.lines.append(line)
        now = time.monotonic()
        self.step_seconds, self._clock = now - self._clock, now
        speed = {"tokens_per_second": self._tokens / self.step_seconds}
        if self._peak:
            speed["mfu"] = self._flops / self.step_seconds / self._peak
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
            self._speed.write(json.dumps({"step": step, "seconds": self.step_seconds, **speed}) + "\n")
            self._speed.flush()
        if self._writer is not None:
            for name, value in {**values, **speed}.items():
                self._writer.add_scalar(name, value, step)
        mfu = f", MFU {speed['mfu']:.0%}" if "mfu" in speed else ""
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {speed['tokens_per_second']:,.0f} tokens/s{mfu}", refresh=False)
        self._bar.update()


def _tensorboard(directory: Path, first_step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboardX: pip install -e '.[tensorboard]'") from None
    return SummaryWriter(str(directory), purge_step=first_step + 1)


def read(path: Path) -> list[dict]:
    """The lines of a metrics file; a last line cut off by a crash is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
