"""What the two model cards of the original publish as benchmark scores: one table, on the base model's card.

The table lies beside this module as data, row for row as printed, with its source; nothing is read from anywhere else.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from openko.errors import InputError
from openko.evaluation.published.tables import Table, from_data

# Name -> why there is no table, or None where there is one (as NAME.json).
CARDS = {
    "llama-3-open-ko-8b": None,
    "llama-3-open-ko-8b-instruct-preview": (
        "the card of Llama-3-Open-Ko-8B-Instruct-preview has no benchmark table: its author published scores for the base model only "
        "(llama-3-open-ko-8b)"
    ),
}
BASE = "llama-3-open-ko-8b"


@dataclass(frozen=True)
class Card:
    """A card's benchmark table.

    model: name on the Hugging Face hub.  revision: that the scores are of, as the card says.
    harness: which versions of lm-evaluation-harness print such a table, and how that is known.
    notes: what the card leaves open.
    """

    name: str
    model: str
    url: str
    revision: str
    harness: str
    notes: tuple[str, ...]
    table: Table


@cache
def card(name: str = BASE) -> Card:
    """The card of that name ("llama-3-open-ko-8b", or as on the hub, "beomi/Llama-3-Open-Ko-8B").

    Raises InputError for a card that has no benchmark table and for one that is not known.
    """
    short = name.rsplit("/", 1)[-1].lower()
    if short not in CARDS:
        raise InputError(f"no card is called {name!r}: there are {', '.join(CARDS)}")
    if CARDS[short] is not None:
        raise InputError(CARDS[short])
    data = json.loads((Path(__file__).parent / f"{short}.json").read_text(encoding="utf-8"))
    return Card(name=short, **data["source"] | {"notes": tuple(data["source"]["notes"]), "table": from_data(data)})
