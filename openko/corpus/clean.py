"""Cleaning and filtering of single documents. Every rule has a name and is counted; nothing vanishes in silence.

Korean first: NFC at the door, for text from macOS spells 한 as three jamo and would be other tokens; ㅋㅋㅋㅋ,
1000원 and archaic Hangul pass untouched.
"""

import re
import unicodedata
from collections.abc import Callable

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]")


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def drop_control_characters(text: str) -> str:
    """Control and zero-width characters go; tab and newline stay."""
    return CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def tidy_spaces(text: str) -> str:
    """Trailing spaces and runs of more than one empty line."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t\u3000\xa0]+\n", "\n", text)).strip()


CLEANERS: dict[str, Callable[[str], str]] = {
    "control-characters": drop_control_characters,  # first, for jamo may stand on both sides of one
    "nfc": nfc,
    "spaces": tidy_spaces,
}

HANGUL = (("가", "힣"), ("ㄱ", "ㆎ"), ("\u1100", "\u11ff"), ("\ua960", "\ua97c"), ("\ud7b0", "\ud7fb"))  # syllables, jamo, old jamo

MINIMUM_CHARACTERS = 50  # FineWeb-2's lower bound for Korean documents
MINIMUM_HANGUL_SHARE = 0.25  # of characters that are not spaces (FineWeb-2, EleutherAI dps)


def hangul_share(text: str) -> float:
    """Share of Hangul, syllables and jamo, among the characters that are not spaces."""
    characters = [c for c in text if not c.isspace()]
    return sum(is_hangul(c) for c in characters) / len(characters) if characters else 0.0


def is_hangul(character: str) -> bool:
    return any(first <= character <= last for first, last in HANGUL)


def clean(text: str) -> tuple[str, list[str]]:
    """The cleaned text, and the names of the rules that changed it."""
    touched = []
    for name, rule in CLEANERS.items():
        cleaned = rule(text)
        if cleaned != text:
            touched.append(name)
        text = cleaned
    return text, touched


def reason_to_reject(text: str, language: str) -> str | None:
    """The name of the first filter that refuses a cleaned document, or None."""
    if len(text) < MINIMUM_CHARACTERS:
        return "too-short"
    share = hangul_share(text)
    if language == "ko" and share < MINIMUM_HANGUL_SHARE:
        return "not-korean"
    if language == "en" and share >= MINIMUM_HANGUL_SHARE:
        return "not-english"
    return None
