"""What a model forgot while it learned: bits per byte of the same texts, before and after.

The measure is openko.bits_per_byte's; the model runs as it does for the harness, so that one too large for one accelerator is cut
over several.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openko import bits_per_byte, decoding, hf_weights, tokenizers
from openko.errors import InputError
from openko.evaluation import trees

CONTEXT = 256  # tokens seen at once, as in `openko bits-per-byte`


@dataclass(frozen=True)
class Change:
    """One text. before, after: bits per UTF-8 byte.  difference: after − before; percent of before. More bits: forgotten."""

    text: str
    bytes: int
    before: float
    after: float
    difference: float
    percent: float

    @property
    def verdict(self) -> str:
        return "forgotten" if self.difference > 0 else "learned" if self.difference < 0 else "as before"


def read(path: Path) -> list[str]:
    """The documents of a file: one a line in .jsonl, in the field "text"; of any other file its whole UTF-8 text."""
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            documents = [document["text"] for document in json_lines(path)]
        else:
            documents = [path.read_text(encoding="utf-8-sig")]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: name UTF-8 text files or .jsonl files") from None
    except UnicodeDecodeError as problem:
        raise InputError(f"{path} is not UTF-8 ({problem.reason} at byte {problem.start}): convert it, for example with iconv") from None
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError(f'{path}: every line must be a JSON object with "text" ({problem!r})') from None
    if not all(isinstance(document, str) for document in documents) or not "".join(documents).strip():
        raise InputError(f"{path} holds no text")
    return documents


def json_lines(path: Path) -> Iterator:
    """The JSON values of a UTF-8 file, one a line; a mark at its beginning and blank lines are passed over.

    Lines end at \\n alone: U+2028, U+0085 and others stand inside strings. Raises InputError, with the line, for a string that
    holds half of a surrogate pair, which no tokenizer takes; ValueError for what is no UTF-8 or no JSON.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        value = json.loads(line)
        if "\\ud" in line.lower():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as problem:
                half = problem.object[problem.start]
                raise InputError(
                    f"{path}, line {number}: \\u{ord(half):04x} is half of a surrogate pair and no character: mend or leave out this line"
                ) from None
        yield value


def check_context(directory: Path, context: int) -> None:
    """Raises InputError where a model does not see `context` tokens at once, or the directory holds none."""
    config, _ = hf_weights.read_config(directory)
    if not 2 <= context <= config.max_position_embeddings:
        raise InputError(
            f"a context of {context} tokens: from 2 to max_position_embeddings of {directory}, {config.max_position_embeddings}"
        )


def measure(
    directory: Path, texts: dict[str, list[str]], *, context: int = CONTEXT, dtype=None, say: Callable[[str], None] = print
) -> dict[str, float]:
    """{name: bits per byte} of a Hugging Face directory for {name: documents}. context: tokens seen at once."""
    check_context(directory, context)
    config, _ = hf_weights.read_config(directory)
    tokenizer = tokenizers.load(directory)
    sequences, scored, owners = [], [], []
    for name, documents in texts.items():
        if not sum(map(len, documents)):
            raise InputError(f"bits per byte of {name!r}: there is no text")
        for tokens, targets, counts in zip(*bits_per_byte.windows(tokenizer, documents, context, batch=1), strict=True):
            places = counts.nonzero()[0]
            if len(places):
                stop = int(places[-1]) + 1
                sequences.append([*tokens[:stop].tolist(), int(targets[stop - 1])])
                scored.append(len(places))
                owners.append(name)
    dtype = decoding.dtype_for(directory) if dtype is None else dtype
    decoder = decoding.load(directory, dtype=dtype, mesh=decoding.mesh_for(config, dtype), say=say)
    totals = dict.fromkeys(texts, 0.0)
    for name, (value, _) in zip(owners, trees.log_likelihoods(decoder, sequences, scored, say=say), strict=True):
        totals[name] -= value
    return {name: total / math.log(2) / size_of(texts[name]) for name, total in totals.items()}


def table(
    models: dict[str, Path], texts: dict[str, list[str]], *, context: int = CONTEXT, dtype=None, say: Callable[[str], None] = print
) -> list[dict]:
    """A row for each text: {"text", "bytes", and for each model's name its bits per byte}."""
    found = {name: measure(directory, texts, context=context, dtype=dtype, say=say) for name, directory in models.items()}
    return [
        {"text": text, "bytes": size_of(documents)} | {name: bits[text] for name, bits in found.items()}
        for text, documents in texts.items()
    ]


def compare(
    before: Path, after: Path, texts: dict[str, list[str]], *, context: int = CONTEXT, dtype=None, say: Callable[[str], None] = print
) -> list[Change]:
    """What happened to each text from one model to the other."""
    rows = table({"before": before, "after": after}, texts, context=context, dtype=dtype, say=say)
    return [Change(**row, difference=(gone := row["after"] - row["before"]), percent=100 * gone / row["before"]) for row in rows]


def size_of(documents: Sequence[str]) -> int:
    """UTF-8 bytes."""
    return sum(len(document.encode()) for document in documents)
