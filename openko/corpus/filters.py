"""Which cleaned documents are refused, by which measure. Every document that is refused is counted under one filter's name.

Thresholds are those of FineWeb-2's configuration for Korean and of EleutherAI's dps where they measure the same; where
they would refuse law texts, chats or books, ours are wider, and the comment at the filter says so.
"""

import math
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter

import numpy as np
import zstandard

from openko.errors import InputError

HANGUL = (("가", "힣"), ("ㄱ", "ㆎ"), ("\u1100", "\u11ff"), ("\ua960", "\ua97c"), ("\ud7b0", "\ud7fb"))  # syllables, jamo, old jamo
LONE_JAMO = ("ㄱ", "ㅣ")  # as typed alone: ㅋㅋㅋ, ㅠㅠ

SPACE, SYLLABLE, JAMO, LATIN, LETTER, DIGIT, PUNCTUATION, SYMBOL, REPLACEMENT = range(9)
CLASSES = 9
LAST_SPACE = 0x3000
OF_CATEGORY = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "C": SYMBOL, "Z": SPACE}


def is_hangul(character: str) -> bool:
    return any(first <= character <= last for first, last in HANGUL)


def hangul_share(text: str) -> float:
    """Share of Hangul, syllables and jamo, among the characters that are not spaces."""
    return Measured(text).share(SYLLABLE, JAMO)


@cache
def _class_of_code_points() -> np.ndarray:
    """uint8[0x110000]: the class of every code point."""
    categories = map(unicodedata.category, map(chr, range(sys.maxunicode + 1)))  # a million: no loop of Python's own
    table = np.frombuffer(bytes(map(OF_CATEGORY.__getitem__, map(itemgetter(0), categories))), np.uint8).copy()
    table[[code for code in range(LAST_SPACE + 1) if chr(code).isspace()]] = SPACE
    latin = (slice(0x41, 0x250), slice(0x1E00, 0x1F00), slice(0xFF21, 0xFF5B))  # European, Vietnamese, full-width
    for codes in latin:
        table[codes][table[codes] == LETTER] = LATIN
    for first, last in HANGUL:
        table[ord(first) : ord(last) + 1] = SYLLABLE
    table[ord(LONE_JAMO[0]) : ord(LONE_JAMO[1]) + 1] = JAMO
    table[0xFFFD] = REPLACEMENT
    return table


class Measured:
    """A text and what its filters share: characters by class, words, lines. Each is worked out when it is first asked for."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def classes(self) -> list[int]:
        """How many characters there are of each class. One pass, whatever the number of filters."""
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), "<u4")
        return np.bincount(_class_of_code_points()[codes], minlength=CLASSES).tolist()

    @cached_property
    def visible(self) -> int:
        """Characters that are not spaces."""
        return len(self.text) - self.classes[SPACE]

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    def share(self, *classes: int) -> float:
        """Of the characters that are not spaces; 0 where there are none."""
        return sum(self.classes[c] for c in classes) / self.visible if self.visible else 0.0


def characters(text: Measured) -> float:
    return len(text.text)


def replacements(text: Measured) -> float:
    return text.share(REPLACEMENT)


def hangul(text: Measured) -> float:
    return text.share(SYLLABLE, JAMO)


def other_scripts(text: Measured) -> float:
    return text.share(SYLLABLE, JAMO, LETTER)


def symbols(text: Measured) -> float:
    return text.share(SYMBOL, REPLACEMENT)


def lone_jamo(text: Measured) -> float:
    return text.share(JAMO)


def mean_word(text: Measured) -> float:
    """Characters of a word between spaces (어절) on average."""
    return text.visible / len(text.words) if text.words else 0.0


def repeated_lines(text: Measured) -> float:
    """Share of the characters, line ends apart, that stand in lines which stood there before. Rules and borders of tables,
    lines without any letter or digit, are none."""
    lines = text.text.split("\n")
    if len(set(lines)) + max(0, lines.count("") - 1) == len(lines):  # most texts: nothing but empty lines comes twice
        return 0.0
    repeated = ((line, count) for line, count in Counter(lines).items() if count > 1)
    again = sum(len(line) * (count - 1) for line, count in repeated if any(c.isalnum() for c in line))
    return again / (len(text.text) - len(lines) + 1)


def top_pair(text: Measured) -> float:
    """Share of the characters that are not spaces in the pair of neighbouring words which covers most of them. Borders of
    tables, pairs without any letter or digit, are none."""
    pairs = Counter(zip(text.words, text.words[1:], strict=False))
    repeated = [(one + two, count) for (one, two), count in pairs.items() if count > 1]
    most = max((count * len(pair) for pair, count in repeated if any(c.isalnum() for c in pair)), default=0)
    return min(1.0, most / text.visible) if most else 0.0  # above 1 where pairs overlap: 광고 광고 광고


def compressed(text: Measured) -> float:
    """Bytes after zstd's first level for each byte before it. Finds what repeats at any length, with or without spaces."""
    encoded = text.text.encode("utf-8", "surrogatepass")
    return len(_compressor().compress(encoded)) / len(encoded) if encoded else 1.0


@cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1)  # a third of the time of zlib's first


@dataclass(frozen=True)
class Filter:
    """Refuses texts of `languages` whose measure is "below" or "above" a threshold; one that equals it passes."""

    name: str
    measure: Callable[[Measured], float]
    refuses: str
    threshold: float
    languages: tuple[str, ...] = ("ko", "en")

    def refused(self, value: float, threshold: float) -> bool:
        return value < threshold if self.refuses == "below" else value > threshold


# In the order in which they are asked: the cheap ones first, and the script before what makes sense in one's own alone.
FILTERS: dict[str, Filter] = {
    f.name: f
    for f in (
        Filter("too-short", characters, "below", 50),  # FineWeb-2's bound for Korean
        # FineWeb-2's upper bound is 100,000, for web pages. The Modu corpora and AI Hub hold whole books, of half a million
        # characters and more, so ours is only for what is no document: a corpus that its reader took for one text.
        Filter("too-long", characters, "above", 5_000_000),
        Filter("replacement-characters", replacements, "above", 0.005),  # holes in words; one in 200 is every tenth sentence
        Filter("not-korean", hangul, "below", 0.25, ("ko",)),  # FineWeb-2, dps
        Filter("not-english", other_scripts, "above", 0.2499, ("en",)),  # a quarter of another script is enough to be refused
        Filter("jamo-runs", lone_jamo, "above", 0.5),  # a chat with ㅋㅋㅋㅋ in every turn has 0.2 to 0.3
        Filter("symbols", symbols, "above", 0.3),  # laws, manuals and chats with emoji stay under 0.1
        # dps wants 3 to 10 and means words between spaces, as here. Korean prose has 3 to 4, but talk ("나 밥 먹었어") under 2;
        # letters set apart ("가 나 다") have 1, addresses of web pages and text without any spaces more than 10.
        Filter("words-too-short", mean_word, "below", 1.5),
        Filter("words-too-long", mean_word, "above", 10),
        # FineWeb-2's bound, but there for the number of lines: in a dialogue 네 comes often, and takes few characters.
        Filter("duplicate-lines", repeated_lines, "above", 0.37),
        Filter("top-2-gram", top_pair, "above", 0.28),  # FineWeb-2
        # Laws and manuals with their tables have 0.2 to 0.6, an advertisement twenty times over 0.07.
        Filter("repetition", compressed, "below", 0.1),
    )
}


def check(text: str, language: str, thresholds: dict[str, float] | None = None) -> tuple[str, float, float] | None:
    """(name, value, threshold) of the first filter that refuses a cleaned text, or None. thresholds: as from `thresholds`."""
    measured = Measured(text)
    for f in _asked(language):
        value = f.measure(measured)
        threshold = thresholds[f.name] if thresholds and f.name in thresholds else f.threshold
        if f.refused(value, threshold):
            return f.name, value, threshold
    return None


def measures(text: str, language: str) -> dict[str, float]:
    """What every filter of the language measures in a text, for histograms from which thresholds are chosen."""
    measured = Measured(text)
    return {f.name: f.measure(measured) for f in _asked(language)}


@cache
def _asked(language: str) -> tuple[Filter, ...]:
    return tuple(f for f in FILTERS.values() if language in f.languages)


def thresholds(given: dict) -> dict[str, float]:
    """The threshold of every filter: those that a recipe gives, and the usual ones. A filter is switched off by 0 where it
    refuses what is below, by .inf where it refuses what is above."""
    if not isinstance(given, dict):
        raise InputError(f"filters: {given!r} is no mapping: write names and thresholds, as in {{too-short: 50}}")
    for name, value in given.items():
        if name not in FILTERS:
            raise InputError(f"filters: {name!r} is no filter: there are {', '.join(FILTERS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
            raise InputError(f"filters: {name}: {value!r} is no threshold: write a number from 0 up, or .inf")
    return {name: f.threshold for name, f in FILTERS.items()} | given
