"""The card's sentence, held against the counts: "slightly more than Korean tokenizer(Llama-2-Ko tokenizer)"."""

import re

from openko.errors import InputError
from openko.token_study.intervals import LEAST
from openko.token_study.study import domains_of, part_of

CLAIM = (
    "With the new Llama-3 tokenizer, the pretraining conducted with 17.7B+ tokens, "
    "which slightly more than Korean tokenizer(Llama-2-Ko tokenizer)."
)
LLAMA_3_TOKENS = 17.7e9  # Llama-3-Open-Ko-8B's card: "17.7B+ tokens"
# open-llama-2-ko-7b's card (commit b82ed08): "Final JSONL dataset … 61GB. Total amount of tokens: (Approx.) 15B Tokens (using
# expanded tokenizer. with original Llama tokenizer, >60B tokens.)"; OPEN-SOLAR-KO's card has the same figures.
KOREAN_TOKENS = 15e9
CORPUS_BYTES = 61e9
LAST_DIGIT = {"llama-3": 0.1e9, "korean": 1e9}  # of what the cards write

LLAMA_3_FINGERPRINT = "5485e11b07149c0a"  # of Meta's tokenizer.model, as the package llama-models 0.3.0 carries it
# llama-2-ko-7b's card: "Vocab Size: 46336". That may count rows of an embedding that was padded, of which a tokenizer has fewer.
# Name, size and form tell the tokenizer until somebody with the network records its fingerprint here.
LLAMA_2_KO_VOCABULARY = 46_336
PADDING = 128


def published() -> dict:
    """What the cards of two models say together: 17.7B over 15B.

    interval: what both figures leave if both were rounded to the last digit written (`interval_is` says so). Neither card says that:
    one writes "17.7B+", the other "(Approx.) 15B", so the truth may lie outside. That both models read the same 61 GB is an
    inference (`source`).
    """
    llama_3, korean = LAST_DIGIT["llama-3"] / 2, LAST_DIGIT["korean"] / 2
    interval = [(LLAMA_3_TOKENS - llama_3) / (KOREAN_TOKENS + korean), (LLAMA_3_TOKENS + llama_3) / (KOREAN_TOKENS - korean)]
    return {
        "ratio": LLAMA_3_TOKENS / KOREAN_TOKENS, "interval": interval,
        "interval_is": "if both were rounded to the last digit written; the cards write 17.7B+ and (Approx.) 15B",
        "llama_3_tokens": LLAMA_3_TOKENS, "korean_tokens": KOREAN_TOKENS, "bytes": CORPUS_BYTES,
        "llama_3_bytes_per_token": CORPUS_BYTES / LLAMA_3_TOKENS, "korean_bytes_per_token": CORPUS_BYTES / KOREAN_TOKENS,
        "source": "17.7B+: card of Llama-3-Open-Ko-8B; (Approx.) 15B tokens, 61GB of JSONL: card of open-llama-2-ko-7b (commit b82ed08), "
        "and again that of OPEN-SOLAR-KO. That both read the same 61 GB is inferred: Llama-3-Open-Ko's card says 60GB+ of texts",
    }  # fmt: skip


def is_standin(name: str) -> bool:
    return "standin" in re.sub("[-_ ]", "", name.lower())


def slightly_more(study: dict, *, llama3: str = "llama-3", korean: str, domain: str = "korean") -> dict:
    """Tokens of Llama-3 for each of the Korean tokenizer, on the study's texts, and what that says of the claim.

    study: of `compare`, with `korean` as baseline, for the interval is of that ratio. domain: one domain, or "all"; by default those
    that are mostly Hangul.

    {"claim", "status", "why", "llama_3", "korean", "domain", "domains", "ratio", "interval", "published", "published_ratio_is"}.
    status: "more", "fewer" or "no difference", by whether the interval lies above 1, below or around it, and "much more" where all of
    it lies above all of the published interval; "not checked" where one of the two is not what the claim is about (a stand-in,
    another vocabulary) or there is no interval, and `why` says what it is. The ratio is then that to what was given.
    published_ratio_is: where the cards' 1.18 lies, "inside", "below" or "above" the interval; None without one.

    InputError: a name or a domain that the study has not, no domain that is mostly Hangul, another baseline.
    """
    for name in (llama3, korean):
        if name not in study["tokenizers"]:
            raise InputError(f"tokenizer {name!r} is not in the study, which has {', '.join(study['tokenizers'])}")
    if study["baseline"] != korean:
        raise InputError(
            f"the study's baseline is {study['baseline']!r}: compare with baseline={korean!r} to have an interval of this ratio"
        )
    found, said = part_of(study, domain)["tokenizers"][llama3]["tokens_ratio"], published()
    why = _not_the_claims_own(study["tokenizers"], llama3, korean)
    status, place = "not checked", None
    if found["interval"] is None:
        why = why or f"too few documents for an interval: give {LEAST} at least of each domain"
    else:
        low, high = found["interval"]
        place = "below" if said["ratio"] < low else "above" if said["ratio"] > high else "inside"
        if why is None:
            status = "much more" if low > max(1, said["interval"][1]) else "more" if low > 1 else "fewer" if high < 1 else "no difference"
    return {
        "claim": CLAIM, "status": status, "why": why, "llama_3": llama3, "korean": korean,
        "domain": domain, "domains": domains_of(study, domain),
        "ratio": found["value"], "interval": found["interval"], "published": said, "published_ratio_is": place,
    }  # fmt: skip


def of(study: dict, *, llama3: str = "llama-3") -> dict:
    """`slightly_more` where the study's baseline is Llama-2-Ko's tokenizer or a stand-in, on Korean domains; else no ratio."""
    missing = (
        llama3 if llama3 not in study["tokenizers"]
        else "Llama-2-Ko's tokenizer, as baseline" if not is_korean(study["baseline"])
        else "a domain that is mostly Hangul" if study["korean"] is None
        else None
    )  # fmt: skip
    if missing is None:
        return slightly_more(study, llama3=llama3, korean=study["baseline"])
    return {"claim": CLAIM, "status": "not checked", "why": f"the study is without {missing}", "ratio": None, "interval": None,
            "domains": [], "published": published(), "published_ratio_is": None}  # fmt: skip


def is_korean(name: str) -> bool:
    """Whether a name says Llama-2-Ko, or a stand-in for it."""
    return is_standin(name) or "llama2ko" in re.sub("[-_ ]", "", name.lower())


def _not_the_claims_own(tokenizers: dict[str, dict], llama3: str, korean: str) -> str | None:
    """Why a ratio of these two says nothing of the claim; None where it does."""
    if is_standin(korean):
        return f"{korean} is a stand-in, and Llama-2-Ko's own tokenizer was not there"
    if not is_korean(korean):
        return f"the claim is about Llama-2-Ko's tokenizer, and this is {korean}; if it is that, call it llama-2-ko"
    size = tokenizers[korean]["vocab_size"]
    if not LLAMA_2_KO_VOCABULARY - PADDING < size <= LLAMA_2_KO_VOCABULARY:
        return f"{korean} has {size:,} pieces, and Llama-2-Ko's tokenizer {LLAMA_2_KO_VOCABULARY:,}, or a few less without padding"
    if not tokenizers[korean]["llama_2_form"]:
        return f"{korean} has not Llama-2's form: pieces <0x00> to <0xFF> for bytes, and ▁ for a space"
    if tokenizers[llama3]["fingerprint"] != LLAMA_3_FINGERPRINT:
        return f"{llama3} has not the vocabulary of Meta's Llama-3"
    return None
