"""The λ sweep: what a chat vector buys and what it costs, for many λ, without writing a model.

Three models lie in memory as they are stored, and the sum twice in fp32: for Llama-3.2-1B in bf16 about 17 GB. For larger ones
write the models with `openko merge` and measure each.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import psutil

from openko import chat_vector, hf_weights, llama, tokenizers
from openko.bits_per_byte import BitsPerByte
from openko.errors import InputError
from openko.evaluation import ended_turns
from openko.profiles import LlamaConfig, VectorScale
from openko.sampling import Sampler


@dataclass(frozen=True)
class Point:
    """One λ: bits per byte by text, and ended turns (share of 200 prompts) by language."""

    scale: float
    bits_per_byte: dict[str, float]
    ended_turns: dict[str, float]


def sweep(
    scales: Sequence[float], *, target: Path, base: Path, chat: Path, texts: dict[str, list[str]], languages: Sequence[str] = ("ko", "en"),
    parts: VectorScale = chat_vector.WHOLE, method: str = "add", context: int = 256, say: Callable[[str], None] = print,
    keep: Callable[[list[Point]], None] = lambda points: None,
) -> list[Point]:  # fmt: skip
    """Measure target + λ (chat − base) for every λ of `scales`, as `openko merge` would write it.

    texts: {name: documents} for bits per byte, none of which any of the models should have seen; context: tokens seen at
    once. languages: of the prompts whose ended turns are counted (`ended_turns`). keep: given all points after each λ.
    Refused: what the merge refuses, and models with different vocabularies or too large for memory.
    """
    if not all(map(math.isfinite, scales)):
        raise InputError(f"every λ must be a finite number, found {', '.join(map(str, scales))}")
    chat_vector.check(target=target, base=base, chat=chat, parts=parts)
    _check_memory(target, base, chat)
    (config, into), (_, start), (_, end) = (_in_host_memory(directory) for directory in (target, base, chat))
    measure = BitsPerByte(config, tokenizers.load(chat), texts, context=context)
    special = chat_vector.special_rows(chat, parts)
    points = []
    for number, scale in enumerate(scales):
        tried = chat_vector.add(into, start, end, scale=scale, parts=parts, special=special, method=method)
        sampler = Sampler(target, tried, form=chat, say=say)
        ended = {language: ended_turns.count(ended_turns.ask(sampler, language), language).share for language in languages}
        points.append(Point(float(scale), measure(tried), ended))
        keep(points)
        bits = ", ".join(f"{name} {value:.3f}" for name, value in points[-1].bits_per_byte.items())
        turns = ", ".join(f"{language} {share:.0%}" for language, share in ended.items())
        say(f"λ = {scale:g} ({number + 1} of {len(scales)}): bits per byte {bits}" + (f"; ended turns {turns}" if turns else ""))
    return points


def _in_host_memory(directory: Path) -> tuple[LlamaConfig, dict]:
    """Config and parameters as stored, beside an accelerator and not on it."""
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    config, _ = hf_weights.read_config(directory)
    return hf_weights.load(directory, shardings=jax.tree.map(lambda _: host, llama.abstract(config)))


def figure(points: list[Point]) -> dict:
    """The curve as openko.figures draws it: bits added in percent of those at the smallest λ, and ended turns in percent."""
    points = sorted(points, key=lambda point: point.scale)
    x = [point.scale for point in points]
    bits = {
        f"{name}: 늘어난 비트 bits added": [100 * (p.bits_per_byte[name] / points[0].bits_per_byte[name] - 1) for p in points]
        for name in points[0].bits_per_byte
    }
    turns = {f"{name}: 끝낸 차례 ended turns": [100 * p.ended_turns[name] for p in points] for name in points[0].ended_turns}
    return {
        "kind": "lines", "title": ["λ: 멈춤과 그 대가", "λ: stopping, and its price"], "x": ["λ", "scale"], "y": ["퍼센트", "percent"],
        "series": {name: {"x": x, "y": [round(value, 2) for value in values]} for name, values in (turns | bits).items()},
    }  # fmt: skip


def _check_memory(*directories: Path) -> None:
    """Refuse before hours of swapping."""
    models = [list(hf_weights.Tensors(directory).info.values()) for directory in directories]
    stored = [sum(info.bytes for info in infos) for infos in models]
    wide = 4 * sum(info.size for info in models[0])
    # The sum in fp32 lies there twice: as the tree that is scored, and laid out for decoding.
    needed, there = sum(stored) + 2 * wide, psutil.virtual_memory().total
    if needed > 0.9 * there:
        raise InputError(
            f"a sweep over models of {stored[0] / 1e9:.1f} GB needs {needed / 1e9:.0f} GB of memory, and {there / 1e9:.0f} are there: "
            "write each merge with openko merge --scale and measure it by openko bits-per-byte and openko ended-turns"
        )
