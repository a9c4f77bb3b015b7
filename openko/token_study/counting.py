"""Exact counts of what a tokenizer makes of documents: tokens, and the syllables and words that they cut.

A batch of documents is one array of bytes. Where the tokens end in it follows from the lengths of their pieces; for a tokenizer
whose pieces always give the text (`Tokenizer.joins`) nothing is done token by token in Python. For others the pieces of each
text are put together first, and a text that they do not give again (something was normalised, or is unknown) goes through
`Tokenizer.aligned`.

Units. Syllable: a precomposed Hangul syllable (U+AC00 to U+D7A3), or the conjoining jamo that make one, modern or archaic, as
NFD text has them. Compatibility jamo (ㅋㅋ) are Hangul and no syllables. Eojeol: what stands between white space and has Hangul
in it. Its tokens are those that end in it, and a token that is one plain space directly before it: some tokenizers have the
space in the word's first token, and others, where they do not know the word, by itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openko.tokenizers import Tokenizer

# Columns of a count.
BYTES, SYLLABLES, EOJEOL, TOKENS, BROKEN, EOJEOL_TOKENS = range(6)
FIELDS = ("bytes", "syllables", "eojeol", "tokens", "broken_syllables", "eojeol_tokens")
OF_TEXT = 3  # the first three are the text's own; the rest the tokenizer's

# Three bytes of UTF-8 as one number: in the order of the code points. Jamo, compatibility jamo, old initials, syllables, old jamo.
HANGUL = ((0xE18480, 0xE187BF), (0xE384B1, 0xE3868E), (0xEAA5A0, 0xEAA5BC), (0xEAB080, 0xED9EA3), (0xED9EB0, 0xED9FBB))
PRECOMPOSED = HANGUL[3]
INITIALS, MEDIALS, FINALS = "\u1100-\u115f\ua960-\ua97c", "\u1160-\u11a7\ud7b0-\ud7c6", "\u11a8-\u11ff\ud7cb-\ud7fb"
CONJOINING = re.compile(f"[{INITIALS}{MEDIALS}{FINALS}]")
SYLLABLE = re.compile(f"(?:[{INITIALS}]+[{MEDIALS}]+|[{INITIALS}]*[가-힣][{MEDIALS}]*)[{FINALS}]*")

ASCII_SPACE = np.zeros(256, bool)
ASCII_SPACE[list(b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f")] = True
OTHER_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # with those above, all that str.split knows


@dataclass(frozen=True)
class Batch:
    """Documents as bytes, a line end behind each, with what a count of any tokenizer needs of them.

    starts, sizes: int64 [documents], in bytes. syllables: int64 [syllables, 2], begin and end. word: int32 [bytes], which word a
    byte belongs to. eojeol: bool [words]. solid: bool [bytes], no white space.
    """

    texts: Sequence[str]
    encoded: Sequence[bytes]
    starts: np.ndarray
    sizes: np.ndarray
    syllables: np.ndarray
    word: np.ndarray
    eojeol: np.ndarray
    solid: np.ndarray
    counts: np.ndarray  # int64 [documents, OF_TEXT]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Batch":
        encoded = [text.encode() for text in texts]
        sizes = np.array([len(e) for e in encoded], np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]]).astype(np.int64)
        data = np.frombuffer(b"\n".join(encoded) + b"\n", np.uint8)
        spaced = data
        if any(map(OTHER_SPACE.search, texts)):  # as many plain spaces as they have bytes, so that places stay
            spaces = (OTHER_SPACE.sub(lambda m: " " * len(m[0].encode()), text).encode() for text in texts)
            spaced = np.frombuffer(b"\n".join(spaces) + b"\n", np.uint8)
        solid = ~ASCII_SPACE[spaced]
        word = np.cumsum(~solid, dtype=np.int32)

        places = np.flatnonzero(data >= 0xE1)  # first bytes of three and of four
        places = places[places < len(data) - 2]
        value = (data[places].astype(np.int32) << 16) | (data[places + 1].astype(np.int32) << 8) | data[places + 2]
        hangul = np.zeros(len(places), bool)
        for first, last in HANGUL:
            hangul |= (value >= first) & (value <= last)
        eojeol = np.zeros(int(word[-1]) + 1, bool)
        eojeol[word[places[hangul]]] = True

        begins = places[(value >= PRECOMPOSED[0]) & (value <= PRECOMPOSED[1])]
        syllables = _with_conjoining(np.column_stack([begins, begins + 3]), texts, starts, sizes)
        document = np.searchsorted(starts, syllables[:, 0], "right") - 1
        # The word behind a white space is counted from it on, so the words of a document end with the line end behind it.
        before = np.concatenate([[0], np.cumsum(eojeol)])
        first, last = word[starts] - (~solid[starts]).astype(np.int32), word[starts + sizes]
        counts = np.column_stack([sizes, np.bincount(document, minlength=len(texts)), before[last] - before[first]])
        return cls(texts, encoded, starts, sizes, syllables, word, eojeol, solid, counts.astype(np.int64))


def _with_conjoining(precomposed: np.ndarray, texts: Sequence[str], starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Begin and end of every syllable, where texts with conjoining jamo are looked at one by one."""
    parts, done = [], 0
    for number, text in enumerate(texts):
        if CONJOINING.search(text):
            start, stop = np.searchsorted(precomposed[:, 0], [starts[number], starts[number] + sizes[number]])
            in_bytes = starts[number] + byte_places(text)
            found = [m.span() for m in SYLLABLE.finditer(text)]
            parts += [precomposed[done:start], in_bytes[np.array(found, np.int64).reshape(-1, 2)]]
            done = stop
    return np.concatenate([*parts, precomposed[done:]])


def byte_places(text: str) -> np.ndarray:
    """Where each character of a text begins in its UTF-8, and where the text ends: int64 [characters + 1]."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)])


class Counter:
    """Counts of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        pieces = tokenizer.pieces
        self._pieces = [p or b"" for p in pieces]
        # A token that stands for nothing certain makes its document longer than it can be, and so one to align.
        self._lengths = np.array([1 << 40 if p is None else len(p) for p in pieces], np.int64)
        self._space = np.array([p == b" " for p in pieces], bool)

    def __call__(self, batch: Batch) -> np.ndarray:
        """int64 [documents, 3]: tokens, syllables that no token holds whole, tokens of eojeol."""
        arrays = list(self.tokenizer.encode_arrays(batch.texts))
        number = np.array([len(a) for a in arrays], np.int64)
        joined = self._joined(arrays, batch)
        document = np.repeat(np.arange(len(arrays)), number)
        ids = np.concatenate([np.asarray(a, np.int64) for a in arrays])
        lengths = np.where((joined >= 0)[document], self._lengths[ids], 0)
        ends = np.cumsum(lengths)
        first = np.cumsum(number) - number
        before = np.concatenate([[0], ends])[first]  # bytes of all tokens of the documents before
        ends += (batch.starts - before - joined.clip(0))[document]  # the space that some put before a text has no place in it
        cut = np.zeros(len(batch.word) + 1, bool)
        cut[np.maximum(ends, batch.starts[document])] = True
        for each in np.flatnonzero(joined < 0):
            ends[first[each] : first[each] + number[each]] = self._align(batch, int(each), cut)

        boundaries = np.cumsum(cut, dtype=np.int64)
        begin, end = batch.syllables.T
        owner = np.searchsorted(batch.starts, begin, "right") - 1
        broken = boundaries[end - 1] > boundaries[begin]
        last = ends - 1
        of_eojeol = batch.solid & batch.eojeol[batch.word]  # bool [bytes]
        inside = (last >= batch.starts[document]) & of_eojeol[last.clip(0)]
        inside |= self._space[ids] & of_eojeol[ends]
        size = len(arrays)
        return np.column_stack([number, np.bincount(owner[broken], minlength=size), np.bincount(document[inside], minlength=size)]).astype(
            np.int64
        )

    def _joined(self, arrays: list[np.ndarray], batch: Batch) -> np.ndarray:
        """int64 [documents]: bytes that the pieces have before the document's own (0, or 1 for a space); -1: they do not give it."""
        sums = np.array([self._lengths[a].sum() for a in arrays], np.int64) - batch.sizes
        if self.tokenizer.joins:  # but for added tokens that swallow the spaces beside them
            return np.where(sums == 0, 0, -1)
        for each in np.flatnonzero((sums == 0) | (sums == 1)):
            text = b"".join(map(self._pieces.__getitem__, arrays[each].tolist()))
            if text != b" " * sums[each] + batch.encoded[each]:
                sums[each] = -1
        return np.where((sums == 0) | (sums == 1), sums, -1)

    def spans(self, text: str) -> np.ndarray:
        """Begin and end, in bytes of UTF-8, of each token of one text: int64 [tokens, 2]."""
        batch, ids = Batch.of([text]), np.asarray(self.tokenizer.encode(text), np.int64)
        before = int(self._joined([ids], batch)[0])
        if before < 0:
            return self.tokenizer.aligned(text)[:, :2]
        ends = np.cumsum(self._lengths[ids]) - before
        return np.column_stack([np.concatenate([[0], ends[:-1]]), ends]).clip(0)

    def _align(self, batch: Batch, each: int, cut: np.ndarray) -> np.ndarray:
        """Where the tokens of one document end; sets cuts at their ends, and around every byte that not exactly one of them holds."""
        begin, end, holds = self.tokenizer.aligned(batch.texts[each]).T
        size, start, held = int(batch.sizes[each]), int(batch.starts[each]), holds == 1
        change = np.bincount(begin[held], minlength=size + 1) - np.bincount(end[held], minlength=size + 1)
        loose = np.flatnonzero(np.cumsum(change)[:size] != 1)
        for places in (begin[held], end[held], loose, loose + 1):
            cut[start + places] = True
        # Some give a character's first bytes no width, and the first of several tokens that one character became.
        return start + np.maximum(end, np.minimum(begin + 1, size))
