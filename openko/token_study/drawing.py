"""Sentences as coloured tokens, for `openko.figures.save`: a block for each tokenizer, tokens that cut a character hatched."""

import numpy as np

from openko.errors import InputError
from openko.token_study.counting import Counter, byte_places
from openko.tokenizers import Tokenizer


def sentences(tokenizers: dict[str, Tokenizer], texts: list[str], *, title: tuple[str, str]) -> dict:
    """The record of a picture. title: Korean and English."""
    if not texts or not all(texts) or not tokenizers:
        raise InputError("there is nothing to draw: give sentences that are not empty, and tokenizers")
    counters = {name: Counter(t) for name, t in tokenizers.items()}
    drawn = [{"text": text, "tokenizers": {name: _rows(text, c.spans(text)) for name, c in counters.items()}} for text in texts]
    return {"kind": "tokens", "title": list(title), "x": [], "y": [], "sentences": drawn}


def _rows(text: str, spans: np.ndarray) -> list[list]:
    return [[*span, bool(cut)] for span, cut in zip(spans.tolist(), cut_tokens(text, spans.tolist()), strict=True)]


def cut_tokens(text: str, spans: list) -> np.ndarray:
    """bool [tokens]: begins or ends inside a character."""
    whole = byte_places(text)
    bounds = np.array(spans, np.int64).reshape(-1, 2)
    same = bounds[:, 0] == bounds[:, 1]  # an alignment gives some bytes of a character no width; the space before a text has none either
    inside_nothing = same & (bounds[:, 0] > 0)
    return ~np.isin(bounds, whole).all(axis=1) | inside_nothing
