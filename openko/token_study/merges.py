"""Tokens against the number of Korean pieces added to Llama-3's vocabulary.

Byte-pair encoding goes on where Llama-3's stopped: every word with Hangul (a word is what Llama-3's own expression cuts) is a row of
Llama-3's tokens, and the pair that is most frequent in the training texts becomes a piece, again and again. The merges are learned
by the `tokenizers` library, to which each token is one character; the counts are of tiktoken with these pieces behind Llama-3's own.

Learned and counted on one kind of text, such a curve is the best case: a vocabulary that saw this very domain. It says how much a
token could be saved, not how much another corpus would.
"""

import collections
import json
import re
from collections.abc import Callable, Iterable

import tokenizers as hf

from openko.errors import InputError
from openko.progress import Progress
from openko.tokenizers import PATTERN, Llama3Tokenizer

NUMBERS = (0, 250, 1000, 4000, 16_000, 64_000)
FIRST = 0x20000  # characters from here on stand for tokens: no surrogates, and room for 917,000
HANGUL = re.compile("[가-힣ㄱ-ㆎ\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb]")


def learn(base: Llama3Tokenizer, texts: Iterable[str], most: int, *, say: Callable[[str], None] = lambda line: None) -> list[bytes]:
    """Up to `most` pieces, in the order in which they were merged, none of them the base's own; fewer where no pair comes twice any more.

    Holds the words of the texts in memory, one entry for each different one.
    """
    words = _korean_words(texts, Progress(say))
    if sum(words.values()) > 2_000_000:
        say(f"learning pieces from {len(words):,} different words")  # some seconds for each million that is read
    tokens = {word: ids for word, ids in zip(words, base.encode_batch(list(words)), strict=True) if len(ids) > 1}
    written = {word: "".join(chr(FIRST + i) for i in ids) for word, ids in tokens.items()}
    alphabet = {character for text in written.values() for character in text}
    backend = hf.Tokenizer(hf.models.BPE())
    trainer = hf.trainers.BpeTrainer(vocab_size=len(alphabet) + most, min_frequency=2, show_progress=False)
    backend.train_from_iterator((text for word, text in written.items() for _ in range(words[word])), trainer)
    pieces, merges = base.pieces, json.loads(backend.to_str())["model"]["merges"]
    joined = (b"".join(pieces[ord(c) - FIRST] for c in left + right) for left, right in merges)
    # Some of Llama-3's pieces are never reached by its own merges, and these lead to them: no pieces to add.
    known = set(pieces)
    return list(dict.fromkeys(piece for piece in joined if piece not in known))  # one text may be merged out of two different pairs


def _korean_words(texts: Iterable[str], progress: Progress) -> collections.Counter:
    """Words with Hangul as Llama-3 cuts them, with their space, and how often they come."""
    cut = hf.pre_tokenizers.Split(hf.Regex(PATTERN), behavior="isolated")
    counts = collections.Counter()
    for number, text in enumerate(texts, 1):
        counts.update(word for word, _ in cut.pre_tokenize_str(text))
        progress(f"cutting words: {number:,} documents")
    return collections.Counter({word: n for word, n in counts.items() if HANGUL.search(word)})


def curve(
    base: Llama3Tokenizer, train: Iterable[str], held_out: list[str], *, numbers: tuple[int, ...] = NUMBERS,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict]:  # fmt: skip
    """Tokens of texts that nothing was learned from, after 0, 250, 1,000 … added pieces, as far as the training texts go.

    Rows {"added", "vocab_size", "tokens", "bytes_per_token", "ratio"}; ratio: tokens to those of `base` itself. The last row
    has all pieces that could be learned, if these are fewer than the largest of `numbers`.

    InputError: a text that is in both parts; no Korean pair to merge; nothing held out; no number above 0; a base other than
    Llama-3's form.
    """
    if min(numbers, default=0) < 0 or max(numbers, default=0) < 1:
        raise InputError(f"numbers {numbers} ask for no added piece: give counts from 0 on, one above 0 at least, such as {NUMBERS[:3]}")
    if not isinstance(base, Llama3Tokenizer):
        raise InputError(f"merges are added to a tokenizer of tiktoken's form, and {base.name} is none: take llama-3")
    train, size = list(train), sum(len(text.encode()) for text in held_out)
    if not size:
        raise InputError("there is no held-out text to count tokens on: hold a part of the documents out")
    if shared := set(train) & set(held_out):
        raise InputError(f"{len(shared)} of the held-out texts are among the training texts, such as {min(shared)[:40]!r}: keep them apart")
    pieces = learn(base, train, max(numbers), say=say)
    if not pieces:
        raise InputError("no pair of Korean tokens comes twice in the training texts: give more Korean text")
    steps = sorted({n for n in numbers if n < len(pieces)} | {min(len(pieces), max(numbers))})
    rows, progress = [], Progress(say)
    for done, number in enumerate(steps, 1):
        extended = base.extended(pieces[:number], f"{base.name}+{number}")
        tokens = sum(len(ids) for ids in extended.encode_arrays(held_out))
        rows.append({"added": number, "vocab_size": extended.vocab_size, "tokens": tokens, "bytes_per_token": size / tokens})
        progress(f"counting with {number:,} added pieces", done / len(steps))
    own = next((row["tokens"] for row in rows if row["added"] == 0), None) or sum(len(ids) for ids in base.encode_arrays(held_out))
    return [row | {"ratio": row["tokens"] / own} for row in rows]
