"""Published benchmark scores: any harness table, the original's model card, and our numbers beside it."""

from openko.evaluation.published.cards import BASE, CARDS, Card, card
from openko.evaluation.published.comparison import Comparison, against, questions, read_results
from openko.evaluation.published.tables import Row, Run, Section, Table, markdown, parse, read

__all__ = [
    "BASE", "CARDS", "Card", "Comparison", "Row", "Run", "Section", "Table",
    "against", "card", "markdown", "parse", "questions", "read", "read_results",
]  # fmt: skip
