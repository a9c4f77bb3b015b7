"""The card's sentence, held against the counts: "slightly more than Korean tokenizer (Llama-2-Ko tokenizer)"."""

import re

from openko.errors import InputError
from openko.token_study.study import part_of

CLAIM = "With the new Llama-3 tokenizer, the pretraining conducted with 17.7B+ tokens, which slightly more than Korean tokenizer"
LLAMA_3_TOKENS = 17.7e9  # Llama-3-Open-Ko-8B's card: "17.7B+ tokens"
KOREAN_TOKENS = 15e9  # OPEN-SOLAR-KO's card: about 15B tokens of the same corpus, with an expanded Korean tokenizer
CORPUS_BYTES = 61e9  # OPEN-SOLAR-KO's card: about 61 GB of JSON lines
ROUNDING = {"llama-3": 0.05e9, "korean": 0.5e9}  # half of the last digit that the cards write

LLAMA_3_FINGERPRINT = "5485e11b07149c0a"  # of Meta's tokenizer.model, as the package llama-models 0.3.0 carries it
LLAMA_2_KO_VOCABULARY = 46_336  # llama-2-ko-7b's card: "Vocab Size: 46336"


def published() -> dict:
    """What the two cards say together: 17.7B over 15B, with the interval that their rounding leaves."""
    low = (LLAMA_3_TOKENS - ROUNDING["llama-3"]) / (KOREAN_TOKENS + ROUNDING["korean"])
    high = (LLAMA_3_TOKENS + ROUNDING["llama-3"]) / (KOREAN_TOKENS - ROUNDING["korean"])
    return {
        "ratio": LLAMA_3_TOKENS / KOREAN_TOKENS, "interval": [low, high],
        "llama_3_tokens": LLAMA_3_TOKENS, "korean_tokens": KOREAN_TOKENS, "bytes": CORPUS_BYTES,
        "llama_3_bytes_per_token": CORPUS_BYTES / LLAMA_3_TOKENS, "korean_bytes_per_token": CORPUS_BYTES / KOREAN_TOKENS,
        "source": "17.7B+: card of Llama-3-Open-Ko-8B; about 15B and about 61 GB of JSON lines, the same corpus: card of OPEN-SOLAR-KO",
    }  # fmt: skip


def is_standin(name: str) -> bool:
    return "standin" in re.sub("[-_ ]", "", name.lower())


def slightly_more(study: dict, *, llama3: str = "llama-3", korean: str, domain: str | None = None) -> dict:
    """Tokens of Llama-3 for each of the Korean tokenizer, on the study's texts, and what that says of the claim.

    study: of `compare`, with `korean` as baseline, for the interval is of that ratio. domain: of one domain; of all by default.

    {"claim", "status", "why", "ratio", "interval", "published", "published_ratio_is"}. status: "more", "fewer" or "no difference", by
    whether the interval lies above 1, below or around it; "not checked" where one of the two is not what the claim is about (a
    stand-in, another vocabulary), and `why` says what it is. The ratio is then that to what was given. published_ratio_is:
    where the cards' 1.18 lies, "inside", "below" or "above" the interval.

    InputError: a name or a domain that the study has not, another baseline.
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
        why = why or "one document gives no interval: give more"
    else:
        low, high = found["interval"]
        place = "below" if said["ratio"] < low else "above" if said["ratio"] > high else "inside"
        if why is None:
            status = "more" if low > 1 else "fewer" if high < 1 else "no difference"
    return {
        "claim": CLAIM, "status": status, "why": why, "llama_3": llama3, "korean": korean, "domain": domain or "all",
        "ratio": found["value"], "interval": found["interval"], "published": said, "published_ratio_is": place,
    }  # fmt: skip


def of(study: dict, *, llama3: str = "llama-3") -> dict:
    """`slightly_more` where the study's baseline is Llama-2-Ko's tokenizer or a stand-in; else "not checked" and no ratio."""
    if llama3 in study["tokenizers"] and is_korean(study["baseline"]):
        return slightly_more(study, llama3=llama3, korean=study["baseline"])
    missing = llama3 if llama3 not in study["tokenizers"] else "Llama-2-Ko's tokenizer, as baseline"
    return {"claim": CLAIM, "status": "not checked", "why": f"the study is without {missing}", "ratio": None, "interval": None,
            "published": published(), "published_ratio_is": None}  # fmt: skip


def is_korean(name: str) -> bool:
    """Whether a name says Llama-2-Ko, or a stand-in for it."""
    return is_standin(name) or "llama2ko" in re.sub("[-_ ]", "", name.lower())


def _not_the_claims_own(tokenizers: dict[str, dict], llama3: str, korean: str) -> str | None:
    """Why a ratio of these two says nothing of the claim; None where it does."""
    if is_standin(korean):
        return f"{korean} is a stand-in, and Llama-2-Ko's own tokenizer was not there"
    if not is_korean(korean):
        return f"the claim is about Llama-2-Ko's tokenizer, and this is {korean}; if it is that, call it llama-2-ko"
    if tokenizers[korean]["vocab_size"] != LLAMA_2_KO_VOCABULARY:
        return f"{korean} has {tokenizers[korean]['vocab_size']:,} pieces, and Llama-2-Ko's tokenizer {LLAMA_2_KO_VOCABULARY:,}"
    if tokenizers[llama3]["fingerprint"] != LLAMA_3_FINGERPRINT:
        return f"{llama3} has not the vocabulary of Meta's Llama-3"
    return None
