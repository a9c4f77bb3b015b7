"""What a run tells: a line per step in a JSONL file, and one progress line for the person."""

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm


class Metrics:
    """Appends {"step", "loss", …} to a file. Resumed at step s, it first forgets what the lost steps wrote."""

    def __init__(self, path: Path, *, name: str, first_step: int, steps: int, tokens_per_step: int):
        kept = [line for line in read(path) if line["step"] <= first_step] if path.exists() else []
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self._tokens, self._clock = tokens_per_step, time.monotonic()
        self._bar = tqdm(desc=name, total=steps, initial=first_step, unit="step", file=sys.stderr, mininterval=1.0, leave=False)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        self._file.close()

    def step(self, step: int, values: dict[str, float]) -> None:
        """One optimizer step done; `step` counts from 1. Seconds go to the display, not to the file: two runs with
        one seed write the same bytes."""
        now = time.monotonic()
        rate, self._clock = self._tokens / (now - self._clock), now
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {rate:,.0f} tokens/s", refresh=False)
        self._bar.update()


def read(path: Path) -> list[dict]:
    """The lines of a metrics file; a last line cut off by a crash is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
