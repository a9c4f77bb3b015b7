"""Copies planted in a corpus, with the truth about them, and what a deduplication made of them.

Kinds: exact; words changed; spaces lost. Of each kind equally many copies are made, every one of an original of its own, and all
stand in random order among the other documents. A share of 3% of the words is exactly that share, rounded up to whole words, at
random places; what stands at a place is replaced by a different word of the corpus, drawn as often as it occurs there. So it is with the
spaces, of which only U+0020 counts: line breaks stay.

Likeness is Jaccard's: of the sets of 5-character strings of the NFC text without white space. It is written here from that
definition, in Python's own sets, and shares no code with what is measured.
"""

import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# What is edited, and how many of a hundred.
KINDS = {
    "exact": ("words", 0), "words 1%": ("words", 1), "words 3%": ("words", 3), "words 5%": ("words", 5),
    "spaces 5%": ("spaces", 5), "spaces 20%": ("spaces", 20),
}  # fmt: skip
LENGTH = 5  # characters of a shingle
# In a shorter text one changed word is more than the share that a kind names; one with few spaces may have nothing to lose.
ENOUGH_WORDS, ENOUGH_SPACES = 20, 10


class Copy(NamedTuple):
    """original: id of the document that it was made of. kind: one of KINDS."""

    original: str
    kind: str


def edited(text: str, kind: str, draw: random.Random, words: Sequence[str]) -> str:
    """A copy of that kind. words: the corpus's own, at least two different ones."""
    what, percent = KINDS[kind]
    return change_words(text, percent, draw, words) if what == "words" else lose_spaces(text, percent, draw)


def change_words(text: str, percent: int, draw: random.Random, words: Sequence[str]) -> str:
    parts = re.split(r"(\s+)", text)  # words and, at odd places, what is between them
    for place in _some([k for k in range(0, len(parts), 2) if parts[k]], percent, draw):
        before = parts[place]
        while parts[place] == before:
            parts[place] = draw.choice(words)
    return "".join(parts)


def lose_spaces(text: str, percent: int, draw: random.Random) -> str:
    parts = text.split(" ")
    lost = set(_some(range(1, len(parts)), percent, draw))
    return parts[0] + "".join(part if k in lost else " " + part for k, part in enumerate(parts[1:], start=1))


def _some(places: Sequence[int], percent: int, draw: random.Random) -> list[int]:
    return draw.sample(places, -(-len(places) * percent // 100))


def plant(texts: Sequence[str], share: float, seed: int = 0) -> tuple[list[dict], dict[str, Copy]]:
    """All documents as {"id", "text"} in random order, and {id of a copy: what it is}. share: of one kind, of all documents.

    Ids are numbers by place, so that they tell nothing of what is a copy. ValueError: too few texts that copies can be made of.
    """
    draw = random.Random(seed)
    each = round(share * len(texts) / (1 - len(KINDS) * share))
    originals = [k for k, text in enumerate(texts) if len(text.split()) >= ENOUGH_WORDS and text.count(" ") >= ENOUGH_SPACES]
    if not each or len(originals) < each * len(KINDS):
        raise ValueError(
            f"{len(texts)} texts, {len(originals)} of them with {ENOUGH_WORDS} words and {ENOUGH_SPACES} spaces: too few for {each} copies "
            f"of each of {len(KINDS)} kinds"
        )
    words = own_words(texts, draw)
    chosen = draw.sample(originals, each * len(KINDS))
    kinds = [kind for kind in KINDS for _ in range(each)]
    all_texts = [*texts, *(edited(texts[k], kind, draw, words) for k, kind in zip(chosen, kinds, strict=True))]
    order = draw.sample(range(len(all_texts)), len(all_texts))
    ids = {number: f"{place:08d}" for place, number in enumerate(order)}
    documents = [{"id": ids[number], "text": all_texts[number]} for number in order]
    truth = {ids[len(texts) + n]: Copy(ids[k], kind) for n, (k, kind) in enumerate(zip(chosen, kinds, strict=True))}
    return documents, truth


def own_words(texts: Sequence[str], draw: random.Random, documents: int = 1000) -> list[str]:
    """The words of so many random texts, each as often as it occurs. ValueError: not two different ones."""
    words = [word for text in draw.sample(texts, min(documents, len(texts))) for word in text.split()]
    if len(set(words)) < 2:
        raise ValueError(f"{len(texts)} texts have {len(set(words))} different words: none can be changed")
    return words


def write(documents: Sequence[dict], directory: Path, files: int) -> list[Path]:
    """The documents as JSON lines, in as many files of equally many."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"planted-{number:02d}.jsonl" for number in range(files)]
    for number, path in enumerate(paths):
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in documents[number::files])
    return paths


def shingles(text: str) -> set[str]:
    """A text of fewer characters than a shingle is one shingle."""
    bare = "".join(unicodedata.normalize("NFC", text).split())
    return {bare[start : start + LENGTH] for start in range(max(1, len(bare) - LENGTH + 1))}


def jaccard(one: set[str], other: set[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def alike(truth: Mapping[str, Copy], texts: Mapping[str, str], threshold: float) -> dict[str, float]:
    """{kind: share of its copies whose Jaccard with their original is at or above the threshold}: what can be caught with good reason."""
    reached = Counter(
        copy.kind for name, copy in truth.items() if jaccard(shingles(texts[name]), shingles(texts[copy.original])) >= threshold
    )
    return {kind: reached[kind] / count for kind, count in _planted(truth).items()}


def caught(truth: Mapping[str, Copy], survivors: set[str]) -> dict[str, float]:
    """{kind: share of its copies that are caught}. A copy is not caught if both it and its original survive."""
    missed = Counter(copy.kind for name, copy in truth.items() if name in survivors and copy.original in survivors)
    return {kind: 1 - missed[kind] / count for kind, count in _planted(truth).items()}


def _planted(truth: Mapping[str, Copy]) -> dict[str, int]:
    return dict(Counter(copy.kind for copy in truth.values()))


def twinless(texts: Mapping[str, str], survivors: set[str], likely: Mapping[str, str], threshold: float) -> dict[str, float]:
    """{id of a removed document: its highest Jaccard with any survivor} of those where that is below the threshold.

    likely: {id: another's} where a twin is looked for first; documents without a twin there are compared to every survivor, so the
    result does not depend on it.
    """
    suspects = {}
    for name in texts.keys() - survivors:
        own, twin = shingles(texts[name]), likely.get(name)
        if twin not in survivors or jaccard(own, shingles(texts[twin])) < threshold:
            suspects[name] = own
    return {name: best for name, best in _best(suspects, (texts[name] for name in survivors)).items() if best < threshold}


def _best(suspects: Mapping[str, set[str]], texts: Iterable[str]) -> dict[str, float]:
    holders = defaultdict(list)
    for name, own in suspects.items():
        for shingle in own:
            holders[shingle].append(name)
    wanted, best = set(holders), dict.fromkeys(suspects, 0.0)
    for text in texts if suspects else ():
        found = shingles(text)
        shared = Counter(name for shingle in found & wanted for name in holders[shingle])
        for name, count in shared.items():
            best[name] = max(best[name], count / (len(suspects[name]) + len(found) - count))
    return best


def misstated(duplicates: Iterable[dict], texts: Mapping[str, str], survivors: set[str], threshold: float) -> list[str]:
    """What is wrong in a list of {"id", "kept", "jaccard"}, a line each; empty where it is true, and tells of every removed document."""
    duplicates = list(duplicates)
    wrong, told = [], Counter(line["id"] for line in duplicates)
    for name, count in told.items():
        if count > 1 or name in survivors or name not in texts:
            wrong.append(f"{name}: listed {count} times; survives: {name in survivors}; known: {name in texts}")
    wrong += [f"{name}: removed, and not listed" for name in sorted(texts.keys() - survivors - told.keys())]
    for line in duplicates:
        name, kept, stated = line["id"], line["kept"], line["jaccard"]
        if kept not in survivors:
            wrong.append(f"{name}: {kept}, for which it went, did not survive")
        elif name in texts:
            true = jaccard(shingles(texts[name]), shingles(texts[kept]))
            if true < threshold or abs(true - stated) > 1e-6:
                wrong.append(f"{name}: its Jaccard with {kept} is {true:.7f}, stated {stated:.7f}")
    return wrong
