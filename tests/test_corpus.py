"""openko.corpus and openko.training.chat_data: Korean passes untouched, nothing vanishes, held-out stays held out."""

import importlib.metadata
import json
import re
import unicodedata

import numpy as np
import pytest

from openko import shards, tokenizers
from openko.corpus import build, pack, sources
from openko.corpus.clean import clean, hangul_share, is_hangul, reason_to_reject
from openko.corpus.sources import Document
from openko.errors import InputError
from openko.training import chat_data

# ── cleaning ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    ["ㅋㅋㅋㅋ", "1000원", "나랏말ᄊᆞ미 듕귁에 달아", "ㅠㅠ 진짜?", "中國 한자", "표\t안의\t탭", "한 줄\n두 줄\n\n문단", "이모지 👩‍👩‍👧 🇰🇷"],
)
def test_korean_passes_untouched(text):
    assert clean(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "cleaned", "rules"),
    [
        (unicodedata.normalize("NFD", "한글과 각"), "한글과 각", ["nfc"]),
        ("가\u200b나\ufeff다\u2060라", "가나다라", ["control-characters"]),
        ("가\x00나\x07다\x7f라\x85", "가나다라", ["control-characters"]),
        ("한 줄\r\n두 줄\r세 줄", "한 줄\n두 줄\n세 줄", ["control-characters"]),
        ("  가 \t\n나\u3000\n\n\n\n다\xa0\n", "가\n나\n\n다", ["spaces"]),
        (unicodedata.normalize("NFD", "각") + "\u200b ", "각", ["nfc", "control-characters", "spaces"]),
    ],
)
def test_cleaning_mends_and_names_its_rules(text, cleaned, rules):
    found, touched = clean(text)
    assert found == cleaned and sorted(touched) == sorted(rules)


@pytest.mark.parametrize("between", ["", "\u200b", "\ufeff", "\x00"], ids=ascii)
def test_jamo_are_joined_whatever_invisible_stood_between_them(between):
    cleaned, _ = clean(between.join(unicodedata.normalize("NFD", "각")))
    assert cleaned == "각" and clean(cleaned) == ("각", [])


@pytest.mark.parametrize("character", ["가", "힣", "ㄱ", "ㅋ", "ㆎ", "ᄊ", "ᆞ", "\ua960", "\ud7b0"])
def test_syllables_and_jamo_old_ones_too_are_hangul(character):
    assert is_hangul(character)


@pytest.mark.parametrize("character", ["a", "1", " ", "中", "あ", "!"])
def test_other_scripts_are_not_hangul(character):
    assert not is_hangul(character)


def test_the_share_of_hangul_is_of_what_is_not_space():
    assert hangul_share("가나  ab\n") == 0.5 and hangul_share(" \n") == hangul_share("") == 0.0


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("가" * 49, "ko", "too-short"),
        ("a" * 49, "en", "too-short"),
        ("", "ko", "too-short"),
        ("가" * 50, "ko", None),
        ("가" * 24 + "a" * 76, "ko", "not-korean"),
        ("가" * 25 + "a" * 75, "ko", None),
        ("가" * 25 + "a" * 75, "en", "not-english"),
        ("가" * 24 + "a" * 76, "en", None),
    ],
)
def test_documents_are_rejected_by_a_named_filter(text, language, reason):
    assert reason_to_reject(text, language) == reason


# ── building ─────────────────────────────────────────────────────────────────────────────────────────────────────


def document(name, text, language="ko"):
    return Document(name, text, language, "made-up", "CC0", f"{name}.txt")


KOREAN = [document(f"ko/{i}", f"제{i}조 모든 국민은 법 앞에 평등하다. " * 5) for i in range(60)]
ENGLISH = [document(f"en/{i}", f"Article {i}. All citizens are equal before the law. " * 5, "en") for i in range(40)]
BAD = [document("ko/short", "짧다"), document("ko/english", ENGLISH[0].text), document("ko/copy", KOREAN[3].text + "\u200b\n")]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """build.build on given documents, under a name in tmp_path."""
    (tmp_path / "packages").mkdir()

    def run(name, korean=KOREAN + BAD, english=ENGLISH, *, max_bytes=10**9, held_out=0.1):
        monkeypatch.setattr(sources, "korean", lambda packages: iter(korean))
        monkeypatch.setattr(sources, "english", lambda: iter(english))
        options = {"packages": tmp_path / "packages", "max_bytes": max_bytes, "held_out": held_out, "say": lambda line: None}
        return build.build(tmp_path / name, **options)

    return run


def texts(directory, name):
    return [d["text"] for d in build.read(directory, name)]


def rejected(directory):
    return [json.loads(line) for line in (directory / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("max_bytes", [10**9, 3_000])
def test_nothing_vanishes_what_is_not_kept_is_counted(make, max_bytes):
    facts = make("corpus", max_bytes=max_bytes).facts
    read = len(KOREAN + BAD + ENGLISH)
    assert sum(facts["sources"].values()) == read
    assert sum(facts["documents"].values()) + sum(facts["rejected"].values()) == read


def test_the_rejected_keep_their_reason_and_text_and_copies_their_original(make, tmp_path):
    facts = make("corpus").facts
    assert facts["rejected"] == {"too-short": 1, "not-korean": 1, "exact-copy": 1}
    found = {r["id"]: r for r in rejected(tmp_path / "corpus")}
    assert len(rejected(tmp_path / "corpus")) == 3
    assert {k: (r["reason"], r["copy_of"]) for k, r in found.items()} == {
        "ko/short": ("too-short", None), "ko/english": ("not-korean", None), "ko/copy": ("exact-copy", "ko/3"),
    }  # fmt: skip
    assert found["ko/short"]["text"] == "짧다"
    assert facts["cleaned"]["control-characters"] == 1


def test_documents_keep_source_place_and_licence(make, tmp_path):
    make("corpus")
    for part in ("ko.train", "ko.heldout", "en.train", "en.heldout"):
        for d in build.read(tmp_path / "corpus", part):
            assert (d["source"], d["licence"], d["place"], d["language"]) == ("made-up", "CC0", f"{d['id']}.txt", part[:2])


def test_facts_count_documents_and_bytes_of_each_part(make, tmp_path):
    facts = make("corpus").facts
    for part in ("ko.train", "ko.heldout", "en.train", "en.heldout"):
        found = texts(tmp_path / "corpus", part)
        assert facts["documents"][part] == len(found)
        assert facts["bytes"][part] == sum(len(t.encode()) for t in found)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_training_and_held_out_documents_are_disjoint_and_hold_their_shares(make, tmp_path, language):
    facts = make("corpus").facts
    train, heldout = (texts(tmp_path / "corpus", f"{language}.{part}") for part in ("train", "heldout"))
    assert not set(train) & set(heldout) and train and heldout
    size = facts["bytes"]
    longest = max(len(t.encode()) for t in heldout)
    assert 0 <= size[f"{language}.heldout"] - 0.1 * (size[f"{language}.train"] + size[f"{language}.heldout"]) <= longest


def test_the_split_does_not_depend_on_the_order_of_documents(make, tmp_path):
    make("one")
    make("two", list(reversed(KOREAN + BAD)), list(reversed(ENGLISH)))
    for part in ("ko.train", "ko.heldout", "en.train", "en.heldout"):
        assert texts(tmp_path / "one", part) == texts(tmp_path / "two", part)


def test_two_runs_in_two_places_have_the_same_content(make, tmp_path):
    assert make("one").content == make("elsewhere/two").content


def test_a_budget_is_kept_to(make):
    size = make("corpus", max_bytes=3_000).facts["bytes"]
    assert 2_000 < size["ko.train"] + size["ko.heldout"] <= 3_000 and 2_000 < size["en.train"] + size["en.heldout"] <= 3_000


def test_a_corpus_that_is_not_there_names_its_notebook(tmp_path):
    with pytest.raises(InputError, match=r"corpus is missing.*notebook 01_tokenizers makes it"):
        build.read(tmp_path / "corpus", "ko.train")


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_text_package_is_pinned():
    pins = sources.text_packages()
    assert pins and all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    declared = [line for line in importlib.metadata.requires("openko") if re.search(r"extra == .text", line)]
    assert len(pins) == len(declared)


def test_without_the_packages_the_notebook_is_named(tmp_path):
    with pytest.raises(InputError, match="notebook 01_tokenizers"):
        next(sources.korean(tmp_path / "packages"))


def test_english_of_python_itself_is_prose_with_source_and_licence():
    topics = [d for _, d in zip(range(20), sources.english(), strict=False)]
    assert len({d.id for d in topics}) == 20
    assert all(d.language == "en" and d.licence == "PSF-2.0" and d.place and d.text for d in topics)


# ── shards and chats ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizers.train([d.text for d in KOREAN + ENGLISH], 360, "tiny").save(directory)
    return directory


def test_packed_documents_stand_between_begin_and_end_of_text(make, tokenizer, tmp_path):
    make("corpus")
    made = pack.pack(tmp_path / "shards", corpus=tmp_path / "corpus", part="ko.train", tokenizer=tokenizer, say=lambda line: None)
    loaded, found = tokenizers.load(tokenizer), shards.TokenShards(tmp_path / "shards")
    begin, end = loaded[tokenizers.BEGIN], loaded[tokenizers.END]
    documents = texts(tmp_path / "corpus", "ko.train")
    assert [d.tolist() for d in found] == [[begin, *loaded.encode(t), end] for t in documents]
    assert found.tokenizer == loaded.fingerprint and made.facts["vocab_size"] == 360
    assert made.facts["bytes"] == sum(len(t.encode()) for t in documents)


def test_one_source_of_a_part_can_be_packed_alone(make, tokenizer, tmp_path):
    make("corpus")
    where = {"corpus": tmp_path / "corpus", "part": "ko.train", "tokenizer": tokenizer, "say": lambda line: None}
    documents = build.read(tmp_path / "corpus", "ko.train")
    source = documents[0]["source"]
    made = pack.pack(tmp_path / "one", source=source, **where)
    assert made.facts["documents"] == sum(d["source"] == source for d in documents)
    assert made.recipe["source"] == source
    with pytest.raises(InputError, match="no document of source 'nobody'"):
        pack.pack(tmp_path / "none", source="nobody", **where)


def test_documents_up_to_a_size_are_the_first_ones(make, tmp_path):
    make("corpus")
    documents = build.read(tmp_path / "corpus", "ko.train")
    sizes = [len(d["text"].encode()) for d in documents]
    assert build.up_to(documents, sum(sizes[:3])) == documents[:3]
    assert build.up_to(documents, sum(sizes[:3]) - 1) == documents[:2]
    assert build.up_to(documents, 0) == [] and build.up_to(documents, sum(sizes)) == documents


PROSE = """Return a new list that holds the items of the iterable in order.

Code like x = [1, 2] is not a sentence of prose. The first sentence ends here. This one is broken
over two lines of text. Too short. Neither is this sentence, which stops after the number 12.

>>> list(range(3))
[0, 1, 2]

The Korean word 한국어 stands in the middle of this English sentence."""
DOCUMENTS = [{"id": "pydoc/lists", "text": PROSE}, {"id": "docstrings/os/path", "text": "Join one or more path segments with a separator."}]


def test_sentences_are_whole_plain_prose():
    assert chat_data.sentences(PROSE)[0] == "Return a new list that holds the items of the iterable in order."
    assert "This one is broken over two lines of text." in chat_data.sentences(PROSE)
    assert not any("number" in s for s in chat_data.sentences(PROSE))
    assert all(40 <= len(s) <= 240 and s.endswith(".") and "\n" not in s for s in chat_data.sentences(PROSE))


def test_chats_are_the_same_for_one_seed_and_others_for_another():
    assert chat_data.chats(DOCUMENTS, 50, seed=1) == chat_data.chats(DOCUMENTS, 50, seed=1)
    assert chat_data.chats(DOCUMENTS, 50, seed=1) != chat_data.chats(DOCUMENTS, 50, seed=2)
    assert chat_data.chats(DOCUMENTS, 50, seed=1)[:10] == chat_data.chats(DOCUMENTS, 10, seed=1)


def test_chats_are_one_question_and_one_answer_with_a_system_turn_now_and_then():
    roles = {tuple(m["role"] for m in chat) for chat in chat_data.chats(DOCUMENTS, 200, seed=0)}
    assert roles == {("user", "assistant"), ("system", "user", "assistant")}


def test_answers_are_sentences_of_the_documents_and_more_than_half_begin_with_a_heading():
    answers = [chat[-1]["content"] for chat in chat_data.chats(DOCUMENTS, 1000, seed=0)]
    assert all(a[-1] in ".!?" and not re.search(r"\d[.!?]$", a) for a in answers)
    small_talk = {answer for _, answer in chat_data.SMALL_TALK}
    about = [a for a in answers if a not in small_talk]
    headings = [a for a in about if a.startswith(("Lists. ", "Os.path. "))]
    known = {s for d in DOCUMENTS for s in chat_data.sentences(d["text"])}
    assert {a.removeprefix("Lists. ").removeprefix("Os.path. ") for a in about} == known
    assert 0.85 < len(about) / 1000 < 0.95 and 0.55 < len(headings) / len(about) < 0.65


def test_there_is_not_a_word_of_korean_in_the_chats():
    said = "".join(m["content"] for chat in chat_data.chats(DOCUMENTS, 500, seed=0) for m in chat)
    assert not any(is_hangul(c) for c in said)


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be kind."}]], ids=["no system", "system"])
def test_only_the_answer_and_its_end_of_turn_are_learned(tokenizer, system):
    loaded = tokenizers.load(tokenizer)
    chat = [*system, {"role": "user", "content": "Are all equal?"}, {"role": "assistant", "content": "Before the law."}]
    ids, mask = chat_data.encode(chat, loaded)
    answer = [*loaded.encode("Before the law."), loaded[tokenizers.TURN_END]]
    assert ids.tolist() == loaded.encode_chat(chat, add_generation_prompt=False)
    assert ids[mask == 1].tolist() == answer and mask[-len(answer) :].all()
    assert ids[mask == 0].tolist() == loaded.encode_chat(chat[:-1])


def test_chat_shards_carry_their_mask(make, tokenizer, tmp_path):
    make("corpus")
    made = chat_data.write_shards(
        tmp_path / "chats", corpus=tmp_path / "corpus", documents=DOCUMENTS, tokenizer=tokenizer, count=20, seed=0, say=lambda line: None
    )
    found, loaded = shards.TokenShards(tmp_path / "chats"), tokenizers.load(tokenizer)
    expected = [chat_data.encode(chat, loaded) for chat in chat_data.chats(DOCUMENTS, 20, seed=0)]
    for number, (ids, mask) in enumerate(expected):
        np.testing.assert_array_equal(found[number], ids)
        np.testing.assert_array_equal(found.mask(number), mask)
    assert made.facts["documents"] == 20 and made.facts["targets"] == sum(int(mask.sum()) for _, mask in expected)
