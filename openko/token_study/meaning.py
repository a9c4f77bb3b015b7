"""What bytes a token mean for a training run: tokens of the corpus, FLOPs, hours, dollars, and what a context holds.

Arithmetic that a reader can redo. One model for all: Llama-3-8B with its own vocabulary, so that only the number of tokens
differs; a tokenizer with fewer pieces would have a smaller embedding too, which is not counted.
"""

from openko.hardware import CAUTIOUS_MFU, CHIPS, flops_per_token, parameter_count
from openko.profiles import MODELS
from openko.token_study.claims import CORPUS_BYTES
from openko.token_study.study import domains_of, part_of

CHIP, NUMBER = "v5e", 256  # what the card names: TPU v5e-256
MAXTEXT_MFU = 0.611  # MaxText's configs/v5e README, expected performance: 16B on v5e-256
CONTEXT = 8192  # Llama-3's and the card's


def of(study: dict, *, domain: str = "korean", corpus_bytes: float = CORPUS_BYTES, context: int = CONTEXT) -> dict:
    """{"assumptions", "tokenizers": {name: row}} for `corpus_bytes` of text like the study's Korean domains, like "all" or like
    one domain; "assumptions" has the "domains".

    A row: tokens, flops (× tokens, `hardware.flops_per_token` in sequences of `context`, so attention is counted), chip_hours and
    dollars ({"cautious", "maxtext"}: at 40% and at 61.1% of the chip's peak), hours (on 256 chips, likewise), context_bytes and
    context_syllables (what `context` tokens hold), and interval_tokens and interval_dollars (at 61.1%) by the interval of bytes a
    token, None where that is.

    InputError: a domain that the study has not; no domain that is mostly Hangul.
    """
    part = part_of(study, domain)
    model, chip = MODELS["llama-3-8b"], CHIPS[CHIP]
    a_token = flops_per_token(model, context)
    rates = {"cautious": CAUTIOUS_MFU, "maxtext": MAXTEXT_MFU}

    def cost(tokens: float, mfu: float) -> float:
        """Chip-hours."""
        return a_token * tokens / (chip.flops * mfu) / 3600

    rows = {}
    for name, row in part["tokenizers"].items():
        density, syllables = row["bytes_per_token"], row["syllables_per_token"]["value"]
        tokens = corpus_bytes / density["value"]
        # More bytes a token are fewer tokens, so the ends change places.
        reach = None if density["interval"] is None else [corpus_bytes / each for each in reversed(density["interval"])]
        hours = {rate: cost(tokens, mfu) for rate, mfu in rates.items()}
        rows[name] = {
            "tokens": tokens, "interval_tokens": reach, "flops": a_token * tokens, "chip_hours": hours,
            "hours": {rate: value / NUMBER for rate, value in hours.items()},
            "dollars": {rate: value * chip.dollars_per_hour for rate, value in hours.items()},
            "interval_dollars": None if reach is None else [cost(each, MAXTEXT_MFU) * chip.dollars_per_hour for each in reach],
            "context_bytes": context * density["value"], "context_syllables": None if syllables is None else context * syllables,
        }  # fmt: skip
    assumptions = {
        "domains": domains_of(study, domain), "corpus_bytes": corpus_bytes, "parameters": parameter_count(model),
        "flops_per_token": a_token, "chip": CHIP, "chips": NUMBER, "peak_flops": chip.flops,
        "dollars_per_chip_hour": chip.dollars_per_hour, "mfu": rates, "context": context,
        "sources": [
            "bytes: cards of open-llama-2-ko-7b and OPEN-SOLAR-KO, 61 GB of JSON lines, so keys and quotation marks are counted as text",
            "FLOPs: 6 for each weight in a product and token, forward and backward, and causal attention in whole contexts; nothing twice",
            "peak and price: Google Cloud's pages, as of 2025, on demand; a price for arithmetic, not for a bill",
            f"{CAUTIOUS_MFU:.0%}: a guess before measuring",
            f"{MAXTEXT_MFU:.1%}: MaxText's configs/v5e README, expected performance: 16B on v5e-256",
        ],
    }  # fmt: skip
    return {"assumptions": assumptions, "tokenizers": rows}
