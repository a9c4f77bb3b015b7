"""What Korean costs in a tokenizer: counts with intervals, the card's claim, what follows from it, round trips, added merges.

    study = compare({"llama-3": tokenizers.load("llama-3"), …}, {"law": texts, …}, baseline="llama-2-ko")
    claims.of(study); meaning.of(study); round_trips.table(…); merges.curve(…); drawing.sentences(…)

Everything returns plain records, that JSON holds.
"""

from openko.token_study.study import compare

__all__ = ["compare"]
