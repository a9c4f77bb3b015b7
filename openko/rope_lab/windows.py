"""The text on which hypotheses about RoPE are compared: short windows, where the order of rows shows, and long ones for θ and scaling.

Half of the long windows repeat a passage: what a model copies from afar hangs on positions more than anything else. A
model that does not copy is not judged by the second reading.
The built-in text is Korean and English prose written for this purpose: its names, notices and numbers come again far apart.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from openko import hf_weights
from openko.errors import InputError
from openko.rope_lab.directory import ModelDirectory
from openko.tokenizers import Tokenizer

SHORT, MIDDLE, LONG = 128, 256, 1024  # tokens


@dataclass(frozen=True, kw_only=True)
class Windows:
    """short, long: int [count, 129] (257 where there are several pairs) and [count, LONG + 1], every row from position 0.

    Of the long ones every second row is a passage read twice.
    """

    short: np.ndarray
    long: np.ndarray


def built_in() -> list[str]:
    """The English and the Korean text, about 12 KB each."""
    return [resources.files("openko.rope_lab").joinpath(f"{name}.txt").read_text(encoding="utf-8") for name in ("en", "ko")]


def read_text(path: Path) -> list[str]:
    try:
        return [Path(path).read_text(encoding="utf-8")]
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise InputError(f"{path} is not UTF-8 ({problem.reason} at byte {problem.start}): iconv -f cp949 -t utf-8 may help") from None


def make(model: ModelDirectory, tokenizer: Tokenizer, texts: list[str], pairs: int) -> Windows:
    """At most `pairs` long windows of running text, taken from the texts in turn, and as many of a passage read twice.

    A text that is too short, or a tokenizer whose ids the model does not have, is refused.
    """
    length = min(LONG, model.config.max_position_embeddings) // SHORT * SHORT
    if not length:
        raise InputError(
            f"{model.path}: a context of {model.config.max_position_embeddings} positions is too short to judge; {SHORT} are needed"
        )
    streams = [_ids(model, tokenizer, text) for text in texts]
    need = length + length // 2
    if min(map(len, streams)) < need:
        raise InputError(
            f"the text is too short: {min(map(len, streams)):,} tokens of {tokenizer.name}, and {need:,} are needed "
            f"({len(streams) * need * 6:,} bytes will do for most tokenizers)"
        )
    plain, repeated, short = [], [], []
    # No token twice: what is read again is no new evidence.
    for number in range(min(pairs, len(streams) * (min(map(len, streams)) // need))):
        # Running text from one language, the passage from the next, further on in their streams each time round.
        here, there = streams[number % len(streams)], streams[(number + 1) % len(streams)]
        turn = number // len(streams)
        plain.append(here[turn * need :][:length])
        passage = there[turn * need + length :][: length // 2]
        repeated.append(np.concatenate([passage, passage]))
        short += [plain[-1][:SHORT], passage[:SHORT]] if pairs == 1 else [plain[-1][:MIDDLE]]
    first = _begin(model)
    long = np.stack([row for pair in zip(plain, repeated, strict=True) for row in pair])
    return Windows(short=_with_begin(np.stack(short), first), long=_with_begin(long, first))


def _ids(model: ModelDirectory, tokenizer: Tokenizer, text: str) -> np.ndarray:
    ids = np.array(tokenizer.encode(text), np.int32)
    if ids.size and ids.max() >= model.config.vocab_size:
        raise InputError(
            f"{model.path}: the tokenizer gives id {ids.max()}, but vocab_size is {model.config.vocab_size}: it is another model's"
        )
    return ids


def _begin(model: ModelDirectory) -> int:
    number = hf_weights.read_json(model.path).get("bos_token_id")
    return number if isinstance(number, int) and 0 <= number < model.config.vocab_size else 0


def _with_begin(rows: np.ndarray, first: int) -> np.ndarray:
    return np.concatenate([np.full((len(rows), 1), first, np.int32), rows], axis=1)
