"""The chat vector: target + λ (chat − base), streamed through little memory.

Huang et al., "Chat Vector" (arXiv 2310.04799): the difference between a chat model and its base carries the ability
to chat, and can be added to a model that was continued on another language. This is how Llama-3-Open-Ko-8B became
Instruct-preview without one Korean chat.

`merge` writes a model directory; `survey` measures the vector and writes nothing; `add` gives the same sum for parameters
in memory, for trying many λ.
"""

from openko.chat_vector.arithmetic import METHODS, WHOLE, add
from openko.chat_vector.merging import check, merge, survey
from openko.chat_vector.models import parts_from, special_rows

__all__ = ["METHODS", "WHOLE", "add", "check", "merge", "parts_from", "special_rows", "survey"]
