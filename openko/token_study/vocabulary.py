"""What of a vocabulary is Korean."""

from openko.tokenizers import Tokenizer

SYLLABLES = 11_172  # precomposed, U+AC00 to U+D7A3


def describe(tokenizer: Tokenizer) -> dict:
    """vocab_size, fingerprint, llama_2_form, pieces with at least one whole Hangul syllable, and how many of the 11,172 syllables are one
    piece (a piece that is the syllable behind a space does not count)."""
    texts = [piece.decode("utf-8", errors="ignore") for piece in tokenizer.pieces if piece]
    return {
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "llama_2_form": tokenizer.llama_2_form,
        "pieces_with_hangul": sum(any("가" <= c <= "힣" for c in text) for text in texts),
        "syllables_of_one_piece": len({text for text in texts if len(text) == 1 and "가" <= text <= "힣"}),
    }
