"""benchmarks/planted_copies.py: the truth by which deduplication is judged must itself be true."""

import json
import random
import re
import sys
import unicodedata

import pytest

from openko.notebook import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import planted_copies
from planted_copies import KINDS, Copy, change_words, jaccard, lose_spaces, shingles

WORDS = [a + b for a in "가나다라마바사아자차카타파하" for b in ("무", "비", "소리", "구름", "길목")]


def text_of(words: int, seed: int) -> str:
    draw = random.Random(seed)
    chosen = draw.choices(WORDS, k=words)
    return "\n".join(" ".join(chosen[start : start + 12]) for start in range(0, words, 12))


@pytest.fixture(scope="module")
def planted():
    texts = [text_of(60 + 7 * n % 90, n) for n in range(400)] + ["짧다"] * 3
    documents, truth = planted_copies.plant(texts, share=0.05, seed=1)
    return texts, documents, truth, {d["id"]: d["text"] for d in documents}


@pytest.mark.parametrize(("words", "percent", "changed"), [(100, 1, 1), (100, 3, 3), (101, 1, 2), (50, 5, 3), (20, 1, 1), (300, 0, 0)])
def test_exactly_the_share_of_words_is_changed_rounded_up(words, percent, changed):
    text = text_of(words, 7)
    copy = change_words(text, percent, random.Random(0), WORDS)
    pairs = list(zip(text.split(), copy.split(), strict=True))
    assert sum(a != b for a, b in pairs) == changed and set(copy.split()) <= set(WORDS)
    assert re.findall(r"\s+", copy) == re.findall(r"\s+", text)


@pytest.mark.parametrize(("spaces", "percent", "lost"), [(100, 5, 5), (101, 5, 6), (40, 20, 8), (10, 5, 1)])
def test_exactly_the_share_of_spaces_is_lost_and_nothing_else(spaces, percent, lost):
    words = random.Random(3).choices(WORDS, k=spaces - 1)
    text = " " + "  ".join([" ".join(words[:-1]), words[-1]]) + "\n\n끝\n"  # one begins the text, two are neighbours
    assert text.count(" ") == spaces
    copy = lose_spaces(text, percent, random.Random(0))
    assert copy.count(" ") == spaces - lost
    assert copy.replace(" ", "") == text.replace(" ", "")


def test_every_kind_has_as_many_copies_each_of_an_original_of_its_own(planted):
    texts, documents, truth, by_id = planted
    counts = [sum(copy.kind == kind for copy in truth.values()) for kind in KINDS]
    assert counts == [29] * 6  # 5% of 577
    assert len(documents) == len(by_id) == len(texts) + len(truth)
    assert len({copy.original for copy in truth.values()}) == len(truth)
    assert not truth.keys() & {copy.original for copy in truth.values()}
    assert sorted(by_id[name] for name in by_id.keys() - truth.keys()) == sorted(texts)


def test_copies_are_what_the_truth_says(planted):
    _, _, truth, by_id = planted
    for name, (original, kind) in truth.items():
        copy, text = by_id[name], by_id[original]
        what, percent = KINDS[kind]
        if what == "spaces":
            assert copy.split() != text.split() and shingles(copy) == shingles(text)
        else:
            changed = sum(a != b for a, b in zip(copy.split(), text.split(), strict=True))
            assert changed == -(-len(text.split()) * percent // 100) and (copy == text) == (kind == "exact")


def test_nothing_but_the_truth_tells_copies_from_originals(planted, tmp_path):
    _, documents, truth, _ = planted
    assert [d["id"] for d in documents] == sorted(d["id"] for d in documents)
    places = [k for k, d in enumerate(documents) if d["id"] in truth]
    assert 0.4 < sum(places) / len(places) / len(documents) < 0.6
    before = sum(name < copy.original for name, copy in truth.items())
    assert 0.35 < before / len(truth) < 0.65
    paths = planted_copies.write(documents, tmp_path, files=4)
    lines = [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in paths]
    assert sorted((d["id"], d["text"]) for some in lines for d in some) == [(d["id"], d["text"]) for d in documents]
    for some in lines:
        assert 0.15 < sum(d["id"] in truth for d in some) / len(some) < 0.45


def test_the_same_seed_plants_the_same(planted):
    texts, documents, truth, _ = planted
    assert planted_copies.plant(texts, share=0.05, seed=1) == (documents, truth)
    assert planted_copies.plant(texts, share=0.05, seed=2)[0] != documents


def test_texts_that_no_copies_can_be_made_of_are_refused():
    with pytest.raises(ValueError, match="30 texts, 0 of them"):
        planted_copies.plant(["너무 짧은 글"] * 30, share=0.05)
    with pytest.raises(ValueError, match="1 different"):
        planted_copies.plant(["말 " * 40] * 100, share=0.05)
    with pytest.raises(ValueError, match="too few for 0 copies"):
        planted_copies.plant([text_of(50, 0)], share=0.05)


def test_shingles_are_five_characters_of_nfc_text_without_white_space():
    assert shingles("가나 다\n라마바") == {"가나다라마", "나다라마바"}
    assert shingles(unicodedata.normalize("NFD", "가나다 라마바")) == shingles("가나다라\u3000마바")
    assert shingles("가 나") == {"가나"} and shingles(" \n") == {""}
    assert jaccard(shingles("가나다라마바"), shingles("가나다라마사")) == 1 / 3


# b is a with its last syllable changed: of 6 shingles each they share 5, which is 5 of 7. c is like neither.
A, B, C = "가나다라마바사아자차", "가나다라마바사아자카", "거너더러머버서어저처"
TEXTS = {"a": A, "b": B, "copy": A, "c": C, "twin": C}
TRUTH = {"copy": Copy("a", "exact"), "b": Copy("a", "words 1%"), "twin": Copy("c", "exact")}


def test_a_copy_is_caught_unless_it_and_its_original_survive():
    assert planted_copies.caught(TRUTH, set(TEXTS)) == {"exact": 0.0, "words 1%": 0.0}
    assert planted_copies.caught(TRUTH, {"copy", "b", "c"}) == {"exact": 1.0, "words 1%": 1.0}
    assert planted_copies.caught(TRUTH, {"a", "copy", "c"}) == {"exact": 0.5, "words 1%": 1.0}
    assert planted_copies.alike(TRUTH, TEXTS, 5 / 7) == {"exact": 1.0, "words 1%": 1.0}
    assert planted_copies.alike(TRUTH, TEXTS, 0.72) == {"exact": 1.0, "words 1%": 0.0}


def test_a_removed_document_has_a_twin_or_is_told_with_its_best():
    def found(survivors, threshold, likely):
        return planted_copies.twinless(TEXTS, survivors, likely, threshold)

    for likely in ({}, {"copy": "a", "b": "c", "twin": "b"}, {"b": "nowhere"}):
        assert found({"a", "c"}, 0.7, likely) == {}
        assert found({"a", "c"}, 0.8, likely) == {"b": 5 / 7}
        assert found({"b", "c"}, 1.0, likely) == {"a": 5 / 7, "copy": 5 / 7}
        assert found({"a"}, 0.7, likely) == {"c": 0.0, "twin": 0.0}
        assert found(set(), 0.7, likely) == dict.fromkeys(TEXTS, 0.0)


def test_twins_are_those_that_comparing_all_with_all_finds():
    draw, texts = random.Random(5), {}
    for n in range(120):
        old = draw.choice(list(texts.values())) if n > 20 else text_of(40, n)
        texts[str(n)] = change_words(old, draw.choice([2, 5, 20]), draw, WORDS)
    survivors = set(draw.sample(sorted(texts), 60))
    best = {a: max(jaccard(shingles(texts[a]), shingles(texts[b])) for b in survivors) for a in texts.keys() - survivors}
    expected = {name: value for name, value in best.items() if value < 0.7}
    assert 5 < len(expected) < 55
    assert planted_copies.twinless(texts, survivors, {name: draw.choice(sorted(texts)) for name in texts}, 0.7) == pytest.approx(expected)


def test_a_list_of_duplicates_is_believed_only_if_every_line_is_true():
    survivors = {"a", "c"}
    right = [
        {"id": "copy", "kept": "a", "jaccard": 1.0, "exact": True}, {"id": "b", "kept": "a", "jaccard": 5 / 7},
        {"id": "twin", "kept": "c", "jaccard": 1.0},
    ]  # fmt: skip

    def wrong(lines, threshold=0.7):
        return planted_copies.misstated(lines, TEXTS, survivors, threshold)

    assert wrong(right) == []
    assert wrong(right[1:]) == ["copy: removed, and not listed"]
    assert len(wrong([*right, right[0]])) == 1 and "listed 2 times" in wrong([*right, right[0]])[0]
    assert "is 0.7142857, stated 0.7150000" in wrong([right[0], right[1] | {"jaccard": 0.715}, right[2]])[0]
    assert "is 0.7142857" in wrong(iter(right), threshold=0.72)[0]
    assert "is 0.0000000" in wrong([right[0], right[1] | {"kept": "c"}, right[2]])[0]
    assert "copy, for which it went, did not survive" in wrong([right[0], right[1] | {"kept": "copy"}, right[2]])[0]
    assert "survives: True" in wrong([*right, {"id": "c", "kept": "a", "jaccard": 1.0}])[0]
    assert "known: False" in wrong([*right, {"id": "x", "kept": "a", "jaccard": 1.0}])[0]
