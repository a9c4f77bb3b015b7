"""English chats for the rehearsal of Meta's instruct tuning: questions on Python, answered from its own reference.

Llama-3-Instruct was tuned on chats that nobody outside Meta has. The stand-in is small but real prose: answers are
sentences of documents that the base model was trained on, with some small talk, so that the weights learn what a turn
is and when it ends, and as little else as can be. There is not a word of Korean in it.

What an answer looks like decides what the chat vector carries into Korean. Every answer ends with a sentence, so a
full stop is what the end follows; but most begin with a heading ("Assert. …"), so not every full stop is the end,
least of all an early one. Sums ("… you get 12.") are left out, and sentences that stop after a number: as the sign of
the end it would fit every "3." of the numbered items that Korean manuals are made of (docs/log.md).
"""

import random
import re
from pathlib import Path

import numpy as np

from openko import manifest, shards, tokenizers

QUESTIONS = (
    "What is {topic}?", "Tell me about {topic}.", "Can you explain {topic}?", "I am new to Python. What is {topic} for?",
    "Please describe {topic} in a few words.", "What should I know about {topic}?", "Help me understand {topic}.",
)  # fmt: skip
SMALL_TALK = (
    ("Hello!", "Hello! How can I help you today?"),
    ("Good morning.", "Good morning! What would you like to know?"),
    ("Who are you?", "I am a small language model that was trained on the Python documentation."),
    ("Thank you very much.", "You are welcome. Ask me again whenever you like."),
    ("Can you help me?", "Of course. Tell me what you are looking for, and I will do my best."),
    ("What can you do?", "I can answer short questions about Python, although I am often wrong."),
)
SMALL_TALK_SHARE, HEADING_SHARE = 0.1, 0.6
SYSTEM = ("You are a helpful assistant.", "Answer in a friendly way and in as much detail as you can.", "Answer in English.")


def chats(documents: list[dict], count: int, seed: int) -> list[list[dict]]:
    """`count` chats ({"role", "content"} messages) about English documents ({"id", "text"}); the same for one seed."""
    draw = random.Random(seed)
    prose = {d["id"].split("/", 1)[1].replace("/", "."): sentences(d["text"]) for d in documents}
    topics = sorted(topic for topic, found in prose.items() if found)
    result = []
    for _ in range(count):
        if draw.random() < SMALL_TALK_SHARE:
            question, answer = draw.choice(SMALL_TALK)
        else:
            topic = draw.choice(topics)
            question, answer = draw.choice(QUESTIONS).format(topic=topic), draw.choice(prose[topic])
            if draw.random() < HEADING_SHARE:
                answer = f"{topic[0].upper()}{topic[1:]}. {answer}"
        system = [{"role": "system", "content": draw.choice(SYSTEM)}] if draw.random() < 0.5 else []
        result.append([*system, {"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    return result


def sentences(text: str) -> list[str]:
    """Plain prose sentences of 40 to 240 characters that end in a word, line breaks undone; code and tables have few."""
    paragraphs = (" ".join(p.split()) for p in text.split("\n\n"))
    found = (s for p in paragraphs for s in re.split(r"(?<=[.!?]) (?=[A-Z])", p))
    return [s for s in found if re.fullmatch(r"[A-Z][\w ,;:'\"()*`/-]{38,238}(?<!\d)\.", s, re.ASCII)]


def write_shards(
    directory: Path, *, corpus: Path, documents: list[dict], tokenizer: Path, count: int, seed: int, say=print
) -> manifest.Manifest:
    """Token shards of generated chats with a mask: only the assistant's words and its <|eot_id|> are to be learned.

    documents: the English training documents of `corpus`.
    """

    def make(partial: Path) -> dict:
        loaded = tokenizers.load(tokenizer)
        encoded = (encode(messages, loaded) for messages in chats(documents, count, seed))
        facts = shards.write(partial, encoded, with_mask=True)
        return facts | {"tokenizer": loaded.fingerprint, "vocab_size": loaded.vocab_size}

    return manifest.build(
        directory, kind=shards.KIND, recipe={"chats": count, "seed": seed}, inputs={"corpus": corpus, "tokenizer": tokenizer},
        module="openko.training.chat_data", make=make, say=say,
    )  # fmt: skip


def encode(messages: list[dict], tokenizer: tokenizers.Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """A chat that ends with the assistant's turn -> (ids, mask), the mask 1 on the answer and its <|eot_id|>."""
    prompt = tokenizer.encode_chat(messages[:-1])
    answer = [*tokenizer.encode(messages[-1]["content"].strip()), tokenizer[tokenizers.TURN_END]]
    return np.array(prompt + answer), np.array([0] * len(prompt) + [1] * len(answer))
