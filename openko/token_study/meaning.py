"""What bytes a token mean for a training run: tokens of the corpus, FLOPs, hours, dollars, and what a context holds.

Arithmetic that a reader can redo. One model for all: Llama-3-8B with its own vocabulary, so that only the number of tokens
differs; a tokenizer with fewer pieces would have a smaller embedding too, which is not counted.
"""

from openko.hardware import CAUTIOUS_MFU, CHIPS, parameter_count
from openko.profiles import MODELS
from openko.token_study.claims import CORPUS_BYTES
from openko.token_study.study import part_of

CHIP, NUMBER = "v5e", 256  # what the card names: TPU v5e-256
MAXTEXT_MFU = 0.611  # MaxText's README: a 16B model on v5e-256
CONTEXT = 8192  # Llama-3's and the card's


def of(study: dict, *, domain: str | None = None, corpus_bytes: float = CORPUS_BYTES, context: int = CONTEXT) -> dict:
    """{"assumptions", "tokenizers": {name: row}} for `corpus_bytes` of text like the study's (or like one domain's).

    A row: tokens, flops (6 × weights × tokens), chip_hours and dollars ({"cautious", "maxtext"}: at 40% and at 61.1% of the
    chip's peak), hours (on 256 chips, likewise), context_bytes and context_syllables (what `context` tokens hold), and
    interval_tokens and interval_dollars (at 61.1%) by the interval of bytes a token.
    """
    part = part_of(study, domain)
    weights, chip = parameter_count(MODELS["llama-3-8b"]), CHIPS[CHIP]
    rates = {"cautious": CAUTIOUS_MFU, "maxtext": MAXTEXT_MFU}

    def cost(tokens: float, mfu: float) -> float:
        """Chip-hours."""
        return 6 * weights * tokens / (chip.flops * mfu) / 3600

    rows = {}
    for name, row in part["tokenizers"].items():
        density, syllables = row["bytes_per_token"], row["syllables_per_token"]["value"]
        tokens = corpus_bytes / density["value"]
        # More bytes a token are fewer tokens, so the ends change places.
        reach = None if density["interval"] is None else [corpus_bytes / each for each in reversed(density["interval"])]
        hours = {rate: cost(tokens, mfu) for rate, mfu in rates.items()}
        rows[name] = {
            "tokens": tokens, "interval_tokens": reach, "flops": 6 * weights * tokens, "chip_hours": hours,
            "hours": {rate: value / NUMBER for rate, value in hours.items()},
            "dollars": {rate: value * chip.dollars_per_hour for rate, value in hours.items()},
            "interval_dollars": None if reach is None else [cost(each, MAXTEXT_MFU) * chip.dollars_per_hour for each in reach],
            "context_bytes": context * density["value"], "context_syllables": None if syllables is None else context * syllables,
        }  # fmt: skip
    assumptions = {
        "corpus_bytes": corpus_bytes, "parameters": weights, "chip": CHIP, "chips": NUMBER, "peak_flops": chip.flops,
        "dollars_per_chip_hour": chip.dollars_per_hour, "mfu": rates, "context": context,
        "sources": [
            "bytes: OPEN-SOLAR-KO's card, about 61 GB of JSON lines, so its keys and quotation marks are counted as text",
            "6 FLOPs a weight and token, forward and backward; attention to other tokens left out",
            "peak and price: Google Cloud's pages, as of 2025, on demand; a price for arithmetic, not for a bill",
            f"{CAUTIOUS_MFU:.0%}: a guess before measuring; {MAXTEXT_MFU:.1%}: MaxText's README, 16B on v5e-256",
        ],
    }  # fmt: skip
    return {"assumptions": assumptions, "tokenizers": rows}
