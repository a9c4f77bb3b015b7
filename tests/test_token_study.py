"""openko.token_study: every count equals a slow recount, intervals are the bootstrap's, and a stand-in proves nothing."""

import gzip
import itertools
import json
import re
import unicodedata
from pathlib import Path

import corpus_text
import numpy as np
import pytest
import tokenizers as hf
import typer
from matplotlib import font_manager
from typer.testing import CliRunner

import openko
from openko import figures, tokenizers
from openko.cli import tokens as command
from openko.errors import InputError
from openko.token_study import claims, compare, drawing, intervals, meaning, merges, pictures, round_trips, study
from openko.token_study.counting import Batch, Counter

REAL = (Path(openko.__file__).parent / "rope_lab" / "ko.txt").read_text(encoding="utf-8")
WRITTEN = [
    "ㅋㅋㅋㅋ 1000원이래   진짜?\u3000그래",
    unicodedata.normalize("NFD", "똠방각하는 펲시콜라를 찦차에 싣고 떠났다"),
    "나랏말\u110a\u119e\u1106\u1175 中國에 달아 \u1112\u119e\u11ab",
    "가족 👨‍👩‍👧‍👦 뷁\r\n\tdef f(x): return 뷁\n",
    "no Korean at all",
    " 앞뒤 ",
    "▁밑줄▁",
    "뷁",
]
TEXTS = [*REAL.split("\n"), *WRITTEN]
TEXTS = [text for text in TEXTS if text]


def metaspace(texts: list[str], vocabulary: int = 700) -> tokenizers.HFTokenizer:
    """A tokenizer.json in Llama-2's form: spaces as ▁, one before the text, bytes where a character is not in the vocabulary."""
    backend = hf.Tokenizer(hf.models.BPE())
    backend.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend("▁"), hf.normalizers.Replace(" ", "▁")])
    named = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    backend.train_from_iterator(
        texts, hf.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=named, limit_alphabet=150, show_progress=False)
    )
    form = json.loads(backend.to_str())
    form["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    form["added_tokens"] = form["added_tokens"][:3]
    backend = hf.Tokenizer.from_str(json.dumps(form))
    d = hf.decoders
    backend.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(content=" ", left=1, right=0)])
    return tokenizers.HFTokenizer(backend, "metaspace")


def normalising(texts: list[str]) -> tokenizers.HFTokenizer:
    """WordPiece over decomposed, lower-case text: it gives no text back as it was, and knows not every character."""
    backend = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = hf.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    backend.decoder = hf.decoders.WordPiece()
    backend.train_from_iterator(texts, hf.trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]"], show_progress=False))
    return tokenizers.HFTokenizer(backend, "normalising")


def sentencepiece(path: Path, texts: list[str], **options) -> tokenizers.SentencePieceTokenizer:
    """A small model of Llama-2's kind, by the library's own trainer."""
    import sentencepiece

    settings = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=900, character_coverage=0.98, minloglevel=3, num_threads=1,
            hard_vocab_limit=False, **settings | options,
        )  # fmt: skip
    return tokenizers.load(path)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    here = tmp_path_factory.mktemp("models")
    lines = REAL.split("\n")
    return {
        "llama-3": tokenizers.load("llama-3"),
        "byte-level": tokenizers.train([REAL], 700, "byte-level"),
        "metaspace": metaspace(lines),
        "normalising": normalising(lines),
        "sentencepiece": sentencepiece(here / "llama2-like.model", lines),
        "sentencepiece nfkc": sentencepiece(
            here / "nfkc.model", lines, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True, byte_fallback=False
        ),
    }


KINDS = ("llama-3", "byte-level", "metaspace", "normalising", "sentencepiece", "sentencepiece nfkc")


# ── counts, against a recount that goes token by token ─────────────────────────────────────────────────────────────


def spans_of(tokenizer, text: str) -> list[tuple[int, int]]:
    """Begin and end of each token in the text's UTF-8, for tokenizers that only cut, from the tokens' own bytes."""
    found, place, size = [], 0, len(text.encode())
    pieces = dict((number, piece) for piece, number in tokenizer.vocabulary())
    for number in tokenizer.encode(text):
        length = 1 if pieces[number].startswith("<0x") else len(bytes.fromhex(pieces[number]))
        found.append((place, place + length))
        place += length
    ahead = place - size
    assert ahead in (0, 1)
    return [(max(begin - ahead, 0), end - ahead) for begin, end in found]


def syllables_of(text: str) -> list[tuple[int, int]]:
    """Begin and end, in bytes, of each syllable: found by composing longer and longer beginnings of what follows."""
    found, i = [], 0
    jamo = re.compile("[\u1100-\u11ff]+")
    while i < len(text):
        run = jamo.match(text, i)
        length = 0
        if "가" <= text[i] <= "힣":
            length = 1
        elif run:
            # An initial, its vowels, its finals; there are no others in these texts.
            length = len(re.match("[\u1100-\u115f]+[\u1160-\u11a7]+[\u11a8-\u11ff]*", run[0])[0])
        if length:
            found.append((len(text[:i].encode()), len(text[: i + length].encode())))
        i += length or 1
    return found


def eojeol_of(text: str) -> list[tuple[int, int]]:
    words = [m.span() for m in re.finditer(r"\S+", text) if re.search("[가-힣ㄱ-ㆎ\u1100-\u11ff]", m[0])]
    return [(len(text[:a].encode()), len(text[:b].encode())) for a, b in words]


def recount(tokenizer, text: str) -> list[int]:
    spans, syllables, eojeol = spans_of(tokenizer, text), syllables_of(text), eojeol_of(text)
    broken = sum(not any(begin <= a and b <= end for begin, end in spans) for a, b in syllables)
    data = text.encode()
    # A token that is one space, or the space put before a text, goes with the word that begins there.
    spaces = [data[begin:end] == b" " or begin == end == 0 for begin, end in spans]
    inside = sum(any(a < end <= b or (space and a == end) for a, b in eojeol) for (_, end), space in zip(spans, spaces, strict=True))
    return [len(text.encode()), len(syllables), len(eojeol), len(spans), broken, inside]


def counted(tokenizer, texts: list[str]) -> list[list[int]]:
    batch = Batch.of(texts)
    return np.column_stack([batch.counts, Counter(tokenizer)(batch)]).tolist()


@pytest.mark.parametrize("kind", ["llama-3", "byte-level"])
def test_counts_are_those_of_a_slow_recount(every, kind):
    assert counted(every[kind], TEXTS) == [recount(every[kind], text) for text in TEXTS]


@pytest.mark.parametrize("kind", ["sentencepiece"])
def test_counts_of_a_sentencepiece_model_are_those_of_a_slow_recount(every, kind):
    plain = [text for text in TEXTS if "▁" not in text]  # which it reads as a space
    assert counted(every[kind], plain) == [recount(every[kind], text) for text in plain]


@pytest.mark.parametrize("kind", ["metaspace", "normalising"])
def test_broken_syllables_are_those_that_the_librarys_offsets_break(every, kind):
    """By the tokenizers library's own offsets, in characters: a syllable is whole if one known token covers it, and no second one.

    But for the space that is put before a text, which the library says to come from the first character.
    """
    composed = [text for text in TEXTS if not re.search("[\u1100-\u11ff]", text)]
    for text, row in zip(composed, counted(every[kind], composed), strict=True):
        made = every[kind].backend.encode(text, add_special_tokens=False)
        covers = [0] * len(text)
        for token, (begin, end) in zip(made.tokens, made.offsets, strict=True):
            for i in range(begin, end if token != "▁" or text[begin] == " " else begin):
                covers[i] += 2 if token in ("[UNK]", "<unk>") else 1
        assert row[3] == len(made.ids)
        assert row[4] == sum("가" <= c <= "힣" and n != 1 for c, n in zip(text, covers, strict=True)), text


def test_a_normalising_sentencepiece_model_loses_what_it_does_not_know(every):
    (row,) = counted(every["sentencepiece nfkc"], ["바다  뷁"])
    known = every["sentencepiece nfkc"].encode("바다")
    assert row[:3] == [11, 3, 2] and row[4] >= 1 and row[3] > len(known)


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_a_space_by_itself_is_a_token_of_the_word_that_it_stands_before(every, kind):
    """And so is the one that is put before a text; a space before a number, or at the end, is no eojeol's."""
    for text, spaces in {"뷁": 1, "1 뷁 1 ": 4}.items():
        pieces = [every[kind].pieces[i] for i in every[kind].encode(text)]
        assert pieces.count(b" ") == spaces and [p for p in pieces if p not in b" 1"] == [bytes([b]) for b in "뷁".encode()]
        assert counted(every[kind], [text])[0][5] == 4


def test_several_tokens_of_one_character_are_counted_once_each(tmp_path):
    lines = [*REAL.split("\n"), *["①번 ㈜한국 주(주) (주)한국 한국"] * 3]
    model = sentencepiece(tmp_path / "one.model", lines, normalization_rule_name="nmt_nfkc")
    text = "①번 ㈜한국"
    assert [model.pieces[i].decode() for i in model.encode(text)] == [" 1", "번", " (", "주", ")", "한국"]
    assert model.aligned(text)[3].tolist() == [7, 7, 1]
    assert counted(model, [text]) == [[16, 3, 2, 6, 0, 5]]  # all but " (", which ends with the space


@pytest.mark.parametrize("kind", KINDS)
def test_counts_do_not_depend_on_what_lies_beside_a_document(every, kind):
    together = counted(every[kind], TEXTS)
    assert together == [counted(every[kind], [text])[0] for text in TEXTS]


def test_an_empty_document_counts_nothing(every):
    for kind in ("llama-3", "metaspace", "sentencepiece"):
        assert counted(every[kind], ["", "가", ""])[0][:3] == [0, 0, 0] and counted(every[kind], [""])[0][4:] == [0, 0]


def test_decomposed_text_has_as_many_syllables_and_words_as_composed(every):
    nfd = unicodedata.normalize("NFD", REAL)
    (composed,), (decomposed,) = counted(every["llama-3"], [REAL]), counted(every["llama-3"], [nfd])
    assert decomposed[1:3] == composed[1:3] == [sum("가" <= c <= "힣" for c in REAL), len(eojeol_of(REAL))]
    assert decomposed[3] > 3 * composed[3] and decomposed[4] > 0.9 * decomposed[1]


@pytest.mark.parametrize("kind", KINDS)
def test_spans_of_one_text_are_in_order_and_inside_it(every, kind):
    for text in TEXTS:
        spans = Counter(every[kind]).spans(text)
        assert len(spans) == len(every[kind].encode(text))
        assert (spans[:, 0] <= spans[:, 1]).all() and spans.min(initial=0) >= 0 and spans.max(initial=0) <= len(text.encode())


def test_decomposed_text_costs_no_more_where_it_is_composed_first():
    """As in the tokenizers that normalise to NFC before byte-level BPE."""
    plain = tokenizers.train([REAL], 700, "nfc")
    (composed,) = counted(plain, [REAL])
    plain.backend.normalizer = hf.normalizers.NFC()
    changing = tokenizers.HFTokenizer(plain.backend, "nfc")
    (decomposed,) = counted(changing, [unicodedata.normalize("NFD", REAL)])
    assert decomposed[1:] == composed[1:] and decomposed[0] > composed[0]


# ── a study ────────────────────────────────────────────────────────────────────────────────────────────────────────


def two(every) -> dict:
    return {"llama-3": every["llama-3"], "llama2-ko-standin": every["sentencepiece"]}


def domains() -> dict:
    return {"ko": [corpus_text.korean(n) for n in range(60)], "en": [corpus_text.english(n) for n in range(40)], "real": REAL.split("\n")}


@pytest.fixture(scope="module")
def made(every):
    return compare(two(every), domains(), baseline="llama2-ko-standin", draws=500)


def test_the_whole_is_the_sum_of_its_domains(made, every):
    parts = made["domains"]
    for unit in ("documents", "bytes", "syllables", "eojeol"):
        assert made["all"][unit] == sum(part[unit] for part in parts.values())
    for name, tokenizer in two(every).items():
        row = made["all"]["tokenizers"][name]
        assert row["tokens"] == sum(len(ids) for texts in domains().values() for ids in tokenizer.encode_batch(texts))
        assert row["bytes_per_token"]["value"] == made["all"]["bytes"] / row["tokens"]


def test_a_study_does_not_depend_on_threads_or_batches(made, every, monkeypatch):
    monkeypatch.setattr(study, "BATCH", 700)
    again = compare(two(every), {d: iter(t) for d, t in domains().items()}, baseline="llama2-ko-standin", draws=500, workers=3)
    assert again == made


def test_english_has_no_figures_of_syllables(made):
    row = made["domains"]["en"]["tokenizers"]["llama-3"]
    for measure in ("syllables_per_token", "tokens_per_eojeol", "broken_syllables"):
        assert row[measure] == {"value": None, "interval": None}
    assert row["bytes_per_token"]["value"] > 3


def test_a_tokenizer_against_itself_is_one_without_doubt(every):
    found = compare({"a": every["llama-3"], "b": every["llama-3"]}, domains(), draws=200)
    for part in (*found["domains"].values(), found["all"]):
        assert part["tokenizers"]["b"]["tokens_ratio"] == {"value": 1.0, "interval": [1.0, 1.0]}


def test_values_lie_inside_their_intervals(made):
    for part in made["domains"].values():
        for row in part["tokenizers"].values():
            for cell in (v for v in row.values() if isinstance(v, dict) and v["interval"]):
                assert cell["interval"][0] <= cell["value"] <= cell["interval"][1]


@pytest.mark.parametrize("documents, given", [(1, False), (7, False), (8, True)])
def test_few_documents_have_no_interval(every, documents, given):
    texts = [corpus_text.korean(n) for n in range(documents)] + ["", ""]
    found = compare({"llama-3": every["llama-3"]}, {"few": texts}, draws=50)
    for part in (found["domains"]["few"], found["all"], found["korean"]):
        for measure in (*study.MEASURES, "tokens_ratio"):
            assert (part["tokenizers"]["llama-3"][measure]["interval"] is not None) == given
    assert found["bootstrap"]["drawn"]["few"] == {"units": documents + 2, "units_with_text": documents, "documents_in_a_unit": 1}


def test_a_whole_has_no_interval_where_one_of_its_domains_has_none(every):
    many = [corpus_text.korean(n) for n in range(20)]
    found = compare({"llama-3": every["llama-3"]}, {"many": many, "one": [REAL], "en": domains()["en"]}, draws=50)
    cells = {name: part["tokenizers"]["llama-3"]["bytes_per_token"] for name, part in study.parts_of(found).items()}
    assert {name: cell["interval"] is not None for name, cell in cells.items()} == {
        "many": True, "one": False, "en": True, "korean": False, "all": False,
    }  # fmt: skip
    assert all(cell["value"] > 2 for cell in cells.values())


def test_the_korean_part_is_the_domains_that_are_mostly_hangul(made, every):
    assert made["korean"]["domains"] == ["ko", "real"] and made["all"]["domains"] == ["ko", "en", "real"]
    alone = compare(two(every), {d: t for d, t in domains().items() if d != "en"}, baseline="llama2-ko-standin", draws=500)
    assert {k: v for k, v in made["korean"].items() if k != "domains"} == {k: v for k, v in alone["all"].items() if k != "domains"}
    assert compare({"llama-3": every["llama-3"]}, {"en": domains()["en"]}, draws=20)["korean"] is None


def test_a_domains_numbers_do_not_depend_on_the_domains_beside_it(made, every):
    alone = compare(two(every), {"real": domains()["real"]}, baseline="llama2-ko-standin", draws=500)
    assert alone["domains"]["real"] == made["domains"]["real"]


@pytest.mark.parametrize("name", ["all", "korean"])
def test_a_domain_may_not_have_the_name_of_a_whole(every, name):
    with pytest.raises(InputError, match=f"a domain cannot be called '{name}'"):
        compare({"llama-3": every["llama-3"]}, {name: ["글"]})


def test_a_text_that_is_not_unicode_is_named(every, monkeypatch):
    monkeypatch.setattr(study, "BATCH", 5)
    texts = ["글", "", "바다와 하늘", "가\ud83d나", "끝"]
    with pytest.raises(InputError, match=r"sea, document 4: a lone surrogate, U\+D83D, at character 1"):
        compare({"llama-3": every["llama-3"]}, {"land": ["땅"], "sea": texts})


def test_what_cannot_be_compared_is_refused(every):
    one = {"llama-3": every["llama-3"]}
    with pytest.raises(InputError, match="no tokenizer"):
        compare({}, {"a": ["글"]})
    with pytest.raises(InputError, match="baseline 'other' is none of the tokenizers llama-3"):
        compare(one, {"a": ["글"]}, baseline="other")
    with pytest.raises(InputError, match="blank has no text in its 2 documents"):
        compare(one, {"blank": ["", ""]})


# ── intervals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_interval_is_as_wide_as_the_delta_method_says():
    draw = np.random.default_rng(1)
    below = draw.integers(50, 150, 800)
    above = 3 * below + draw.integers(-60, 60, 800)
    sums = intervals.drawn_sums(np.column_stack([above, below]), 4000, np.random.default_rng(0))
    low, high = intervals.interval(sums[:, 0], sums[:, 1])
    ratio = above.sum() / below.sum()
    error = np.std(above - ratio * below) / np.sqrt(800) / below.mean()
    assert low < ratio < high
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.06)


def test_a_paired_interval_is_narrower_than_one_of_separate_draws(made, every):
    """Long and short documents come to both tokenizers alike."""
    numbers = [[len(ids) for ids in t.encode_batch(domains()["ko"])] for t in two(every).values()]
    sums = [intervals.drawn_sums(np.array(n)[:, None], 2000, np.random.default_rng(i))[:, 0] for i, n in enumerate(numbers)]
    separate, paired = intervals.interval(*sums), made["domains"]["ko"]["tokenizers"]["llama-3"]["tokens_ratio"]["interval"]
    assert separate[0] < paired[0] < paired[1] < separate[1]
    assert np.diff(paired)[0] < 0.5 * np.diff(separate)[0]


def test_many_documents_become_runs_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(intervals, "MOST", 8)
    rows = np.arange(2 * 45).reshape(45, 2)
    for parts in ([rows], np.array_split(rows, 7)):
        units = intervals.Units(2)
        for part in parts:
            units.add(part)
        assert units.documents == 45 and units.run == 8
        assert units.rows().tolist() == [rows[i : i + 8].sum(axis=0).tolist() for i in range(0, 45, 8)]


# ── round trips ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_llama_3_gives_every_sample_back(every):
    assert all(row["tokenizers"]["llama-3"]["exact"] for row in round_trips.table({"llama-3": every["llama-3"]}))


def test_a_sentencepiece_model_of_llama_2s_kind_gives_every_sample_back(every):
    rows = round_trips.table({n: every[n] for n in ("sentencepiece", "metaspace")})
    assert all(cell["exact"] for row in rows for cell in row["tokenizers"].values())


def test_what_a_normalising_tokenizer_made_of_a_sample_is_shown(every):
    rows = {row["sample"]: row["tokenizers"]["n"] for row in round_trips.table({"n": every["sentencepiece nfkc"]})}
    assert not rows["NFD"]["exact"] and rows["NFD"]["came_back"] != round_trips.SAMPLES["NFD"]
    assert not rows["white space"]["exact"] and "  " not in rows["white space"]["came_back"]


def test_the_samples_are_what_they_are_called():
    samples = round_trips.SAMPLES
    assert unicodedata.is_normalized("NFD", samples["NFD"]) and unicodedata.normalize("NFC", samples["NFD"]) == samples["NFC"]
    assert "\u119e" in unicodedata.normalize("NFC", samples["archaic"]) and "\u200d" in samples["emoji"] and "\t" in samples["code"]


# ── the claim ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cards_say_eighteen_percent():
    said = claims.published()
    assert said["ratio"] == pytest.approx(1.18) and said["interval"] == pytest.approx([17.65 / 15.5, 17.75 / 14.5])
    assert said["llama_3_bytes_per_token"] == pytest.approx(3.45, abs=0.005)
    assert "if both were rounded" in said["interval_is"] and "inferred" in said["source"] and "open-llama-2-ko-7b" in said["source"]


def test_a_stand_in_leaves_the_claim_not_checked(made):
    found = claims.of(made)
    assert found["status"] == "not checked" and "stand-in" in found["why"]
    assert found["ratio"] == made["korean"]["tokenizers"]["llama-3"]["tokens_ratio"]["value"]
    assert found["ratio"] != made["all"]["tokenizers"]["llama-3"]["tokens_ratio"]["value"] and found["domains"] == ["ko", "real"]
    assert claims.slightly_more(made, korean="llama2-ko-standin", domain="all")["domains"] == ["ko", "en", "real"]


def real_ones(every, korean="llama-2-ko", vocab_size=claims.LLAMA_2_KO_VOCABULARY, tokenizer="sentencepiece") -> dict:
    """A study in which the Korean tokenizer has the published number of pieces."""
    found = compare({"llama-3": every["llama-3"], korean: every[tokenizer]}, {"real": REAL.split("\n")}, baseline=korean, draws=300)
    found["tokenizers"][korean]["vocab_size"] = vocab_size
    return found


def test_the_real_tokenizers_check_the_claim(every):
    found = real_ones(every)
    verdict = claims.slightly_more(found, korean="llama-2-ko", domain="real")
    low, high = verdict["interval"]
    assert verdict["why"] is None
    expected = "much more" if low > 17.75 / 14.5 else "more" if low > 1 else "fewer" if high < 1 else "no difference"
    assert verdict["status"] == expected
    for interval, status, place in (
        [[1.1, 1.2], "more", "inside"], [[0.8, 0.9], "fewer", "above"], [[0.9, 1.1], "no difference", "above"],
        [[1.2, 1.5], "more", "below"], [[1.23, 1.5], "much more", "below"],
    ):  # fmt: skip
        found["korean"]["tokenizers"]["llama-3"]["tokens_ratio"]["interval"] = interval
        verdict = claims.of(found)
        assert (verdict["status"], verdict["published_ratio_is"]) == (status, place)


@pytest.mark.parametrize("size", [46_336, 46_209])
@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_llama_2_ko_is_known_by_its_name_its_size_and_its_form(every, kind, size):
    found = real_ones(every, tokenizer=kind, vocab_size=size)
    assert claims.of(found)["why"] is None


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"vocab_size": 32_000}, "32,000 pieces"),
        ({"vocab_size": 46_337}, "46,337 pieces"),
        ({"vocab_size": 46_208}, "46,208 pieces"),
        ({"korean": "polyglot"}, "this is polyglot"),
        ({"tokenizer": "byte-level"}, "not Llama-2's form"),
        ({"tokenizer": "sentencepiece nfkc"}, "not Llama-2's form"),
    ],
)
def test_another_tokenizer_leaves_the_claim_not_checked(every, changes, why):
    found = real_ones(every, **changes)
    verdict = claims.slightly_more(found, korean=found["baseline"])
    assert verdict["status"] == "not checked" and why in verdict["why"]


def test_the_real_llama_3_is_known_by_its_vocabulary(every):
    assert every["llama-3"].fingerprint == claims.LLAMA_3_FINGERPRINT
    found = real_ones(every)
    found["tokenizers"]["llama-3"]["fingerprint"] = every["byte-level"].fingerprint
    assert "not the vocabulary of Meta's Llama-3" in claims.of(found)["why"]


def test_without_a_korean_tokenizer_there_is_no_ratio(every):
    found = claims.of(compare({"llama-3": every["llama-3"]}, {"real": [REAL]}, draws=20))
    assert found["status"] == "not checked" and found["ratio"] is None and "Llama-2-Ko" in found["why"]


def test_few_documents_leave_the_claim_not_checked(every):
    few = compare({"llama-3": every["llama-3"], "llama-2-ko": every["sentencepiece"]}, {"few": [REAL] * 3}, baseline="llama-2-ko", draws=20)
    few["tokenizers"]["llama-2-ko"]["vocab_size"] = 46_336
    found = claims.of(few)
    assert (found["status"], found["interval"], found["published_ratio_is"]) == ("not checked", None, None) and "too few" in found["why"]


def test_without_korean_text_there_is_no_ratio(every):
    english = compare(two(every), {"en": domains()["en"]}, baseline="llama2-ko-standin", draws=20)
    assert claims.of(english)["ratio"] is None and "mostly Hangul" in claims.of(english)["why"]
    for of in (meaning.of, lambda s: claims.slightly_more(s, korean="llama2-ko-standin")):
        with pytest.raises(InputError, match=r"no domain of the study is mostly Hangul \(en\)"):
            of(english)


# ── what it means ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cards_tokens_cost_what_the_facts_say(made):
    """17.7B tokens: 8.0e20 FLOPs for the 7.5B weights in products, 1.1e20 for attention; at 60% of 256 v5e about 8.4 hours."""
    given = json.loads(json.dumps(made))
    given["korean"]["tokenizers"]["llama-3"]["bytes_per_token"] = {"value": 61 / 17.7, "interval": [61 / 18, 61 / 17]}
    found = meaning.of(given)
    row = found["tokenizers"]["llama-3"]
    assert row["tokens"] == pytest.approx(17.7e9) and row["interval_tokens"] == pytest.approx([17e9, 18e9])
    weights = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336) + 128_256 * 4096
    attention = 32 * 3 * 2 * 2 * 4096 * 8192 / 2  # layers, passes, products, FLOPs, width, half of the positions
    assert row["flops"] == pytest.approx((6 * weights + attention) * 17.7e9) == pytest.approx(9.1e20, rel=0.005)
    assert (
        row["hours"]["maxtext"] * 0.611 / 0.6 == pytest.approx(row["flops"] / (256 * 197e12 * 0.6) / 3600) == pytest.approx(8.4, abs=0.05)
    )
    assert found["assumptions"]["domains"] == ["ko", "real"]
    assert row["dollars"]["maxtext"] == pytest.approx(row["hours"]["maxtext"] * 256 * found["assumptions"]["dollars_per_chip_hour"])
    assert row["context_bytes"] == pytest.approx(8192 * 61 / 17.7)


def test_english_alone_has_no_syllables_in_its_context(made):
    assert meaning.of(made, domain="en")["tokenizers"]["llama-3"]["context_syllables"] is None


# ── added merges ───────────────────────────────────────────────────────────────────────────────────────────────────


TRAIN, HELD_OUT = [corpus_text.korean(n) for n in range(200)], [corpus_text.korean(n) for n in range(1000, 1040)]


def test_the_first_added_piece_is_the_most_frequent_pair(every):
    pairs = {}
    base = every["llama-3"]
    for text in TRAIN:
        for word in re.findall(r" ?[가-힣]+", text):  # what Llama-3's expression cuts out of these texts
            ids = base.encode(word)
            for pair in itertools.pairwise(ids):
                pairs[pair] = pairs.get(pair, 0) + 1
    most = max(pairs.values())
    best = {base.pieces[a] + base.pieces[b] for (a, b), n in pairs.items() if n == most}
    assert merges.learn(base, TRAIN, 50)[0] in best


def test_added_pieces_take_tokens_away_and_texts_come_back(every):
    rows = merges.curve(every["llama-3"], TRAIN, HELD_OUT, numbers=(0, 10, 50, 100_000))
    assert [row["added"] for row in rows][:3] == [0, 10, 50] and 50 < rows[-1]["added"] < 100_000
    assert all(a["tokens"] > b["tokens"] for a, b in itertools.pairwise(rows))
    assert rows[0]["ratio"] == 1.0 and rows[0]["tokens"] == sum(map(len, every["llama-3"].encode_batch(HELD_OUT)))
    extended = every["llama-3"].extended(merges.learn(every["llama-3"], TRAIN, 50), "more")
    assert extended.vocab_size == 128_306 and extended[tokenizers.BEGIN] == 128_050
    assert all(extended.decode(extended.encode(text)) == text for text in (*HELD_OUT, *TEXTS))


def test_english_tokens_stay_as_they_were(every):
    extended = every["llama-3"].extended(merges.learn(every["llama-3"], TRAIN, 200), "more")
    texts = [corpus_text.english(n) for n in range(20)]
    assert extended.encode_batch(texts) == every["llama-3"].encode_batch(texts)


def test_pieces_that_llama_3_has_and_never_reaches_are_not_added(every):
    """ " 스타" is one of its pieces, but no two of its tokens make it."""
    train = [
        "요즘 스타트업 사이에서 스타일과 스타벅스 이야기가 많다. 스타킹 스타디움 스타트업 스타일.",
        "그 스타트업은 스타일이 다르다. 스타벅스에서 스타일을 봤다.",
    ]
    base = every["llama-3"]
    pieces = merges.learn(base, train, 1000)
    assert " 스타".encode() in base.pieces and not set(pieces) & set(base.pieces) and len(pieces) == len(set(pieces))
    rows = merges.curve(base, train, ["스타트업이 늘었다"], numbers=(0, 5, 1000))
    assert rows[-1]["added"] == len(pieces) and rows[-1]["tokens"] < rows[0]["tokens"]


def test_held_out_texts_must_not_be_learned_from(every):
    with pytest.raises(InputError, match="1 of the held-out texts are among the training texts"):
        merges.curve(every["llama-3"], TRAIN, [TRAIN[3]])
    with pytest.raises(InputError, match="no held-out text"):
        merges.curve(every["llama-3"], TRAIN, [])
    with pytest.raises(InputError, match="no pair of Korean tokens"):
        merges.curve(every["llama-3"], ["English only"], HELD_OUT)
    with pytest.raises(InputError, match=r"numbers \(0,\) ask for no added piece"):
        merges.curve(every["llama-3"], TRAIN, HELD_OUT, numbers=(0,))
    with pytest.raises(InputError, match="metaspace is none: take llama-3"):
        merges.curve(every["metaspace"], TRAIN, HELD_OUT)


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Where the font is looked for; where no font with Hangul is installed, letters without it do."""
    try:
        figures.hangul_font(tmp_path / "packages")
    except InputError:
        monkeypatch.setattr(figures, "hangul_font", lambda packages: font_manager.FontProperties(family="DejaVu Sans"))
    return tmp_path / "packages"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_the_same_sentences_give_the_same_picture(every, tmp_path, packages):
    data = drawing.sentences(two(every), ["대한민국은 민주공화국이다.", REAL[:150] + " 뷁\n"], title=("문장", "Sentences"))
    one, two_ = (figures.save(tmp_path / n, "tokens", data, packages=packages) for n in ("a", "b"))
    assert one.read_bytes() == two_.read_bytes() and one.read_bytes().startswith(b"\x89PNG")
    assert json.loads(one.with_suffix(".json").read_text(encoding="utf-8")) == data


def test_tokens_that_cut_a_character_are_marked(every):
    for kind in ("llama-3", "byte-level", "sentencepiece", "metaspace"):
        spans = Counter(every[kind]).spans("바다 뷁").tolist()
        marked = drawing.cut_tokens("바다 뷁", spans)
        assert marked.any(), kind
        assert [not 바이트 for 바이트 in marked] == [_is_text("바다 뷁".encode()[a:b]) for a, b in spans], kind


def test_decomposed_hangul_is_drawn_as_the_syllables_that_it_is(every):
    """And archaic syllables and emoji as one character with all that joins it."""
    font = font_manager.FontProperties(family="DejaVu Sans")

    def drawn(text: str) -> tuple[list[str], float]:
        figure = figures.draw(drawing.sentences({"llama-3": every["llama-3"]}, [text], title=("", "")), font)
        axes = figure.axes[0]
        return [t.get_text() for t in axes.texts][1:], max(p.get_x() + p.get_width() for p in axes.patches)

    text = "훈민정음은 뷁!"
    composed, width = drawn(text)
    assert drawn(unicodedata.normalize("NFD", text)) == (composed, width) and "".join(composed) == text.replace(" ", "") and width == 14
    old = "\u1112\u119e\u11ab\ud7cb \u1161\u11ab"
    assert drawn(old) == (["\u1112\u119e\u11ab\ud7cb", "\u1161\u11ab"], 4) and drawn("❤\ufe0f")[0] == ["❤"]


def test_tokens_that_hold_a_part_of_a_decomposed_syllable_have_their_share_of_its_width(every):
    data = drawing.sentences({"llama-3": every["llama-3"]}, [unicodedata.normalize("NFD", "한")], title=("", ""))
    patches = figures.draw(data, font_manager.FontProperties(family="DejaVu Sans")).axes[0].patches
    strips = [patch for patch in patches if patch.get_fill()]  # a part of a character has a border of its own besides
    assert len(strips) > 1 and all(strip.get_width() > 0 for strip in strips)
    assert sum(strip.get_width() for strip in strips) == pytest.approx(2)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("measure", pictures.LABELS)
def test_bars_show_each_domain_where_the_measure_is_defined(made, measure):
    data = pictures.bars(made, measure)
    shown = {"ko", "real", "korean", "all"} | ({"en"} if measure in ("bytes_per_token", "tokens_ratio") else set())
    for name in made["tokenizers"]:
        assert set(data["series"][name]) == set(data["intervals"][name]) == shown
    figures.draw(data, font_manager.FontProperties(family="DejaVu Sans"))


def test_the_curve_of_merges_is_drawn_with_the_levels_of_others():
    rows = [{"added": 0, "bytes_per_token": 3.0}, {"added": 250, "bytes_per_token": 4.0}]
    data = pictures.merges(rows, levels={"llama2-ko-standin": 5.0})
    assert data["series"] == {"llama-3": {"x": [0, 250], "y": [3.0, 4.0]}, "llama2-ko-standin": {"x": [0, 250], "y": [5.0, 5.0]}}


# ── the command ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def files(tmp_path, every):
    corpus_text.write_jsonl(tmp_path / "ko.jsonl", [{"text": text} for text in domains()["ko"]])
    with gzip.open(tmp_path / "en.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join(domains()["en"]))
    every["metaspace"].save(tmp_path / "standin")
    return tmp_path


def openko_tokens(*arguments):
    app = typer.Typer()
    app.add_typer(command.app, name="tokens")
    return CliRunner().invoke(app, ["tokens", "compare", *map(str, arguments)])


def test_the_command_answers_in_one_json_object(files):
    done = openko_tokens(
        files / "ko.jsonl", files / "en.txt.gz", "--tokenizer", "llama-3", "--tokenizer", f"llama2-ko-standin={files / 'standin'}", "--json"
    )
    assert done.exit_code == 0, done.exception
    answer = json.loads(done.stdout)
    assert set(answer["study"]["domains"]) == {"ko", "en"} and answer["study"]["baseline"] == "llama2-ko-standin"
    assert answer["study"]["domains"]["en"]["documents"] == 40 and answer["study"]["domains"]["ko"]["documents"] == 60
    assert answer["claim"]["status"] == "not checked" and len(answer["round_trips"]) == len(round_trips.SAMPLES)


def test_the_command_prints_tables_and_says_how_to_add_others(files):
    done = openko_tokens(files / "ko.jsonl")
    assert done.exit_code == 0, done.exception
    assert "ko: 60 documents" in done.stdout and "not checked" in done.stdout and "--tokenizer NAME=PATH" in done.stderr
    assert "if both were rounded to the last digit written" in done.stdout and "GB like ko," in done.stdout


def test_the_commands_claim_and_meaning_are_of_the_korean_files(files):
    both = [f"--tokenizer={t}" for t in ("llama-3", f"llama2-ko-standin={files / 'standin'}")]
    one, two_ = (openko_tokens(*inputs, *both, "--json") for inputs in ([files / "ko.jsonl"], [files / "ko.jsonl", files / "en.txt.gz"]))
    one, two_ = json.loads(one.stdout), json.loads(two_.stdout)
    assert one["claim"] == two_["claim"] and one["meaning"] == two_["meaning"] and two_["claim"]["domains"] == ["ko"]
    assert two_["study"]["all"]["tokenizers"]["llama-3"]["tokens_ratio"] != two_["study"]["korean"]["tokenizers"]["llama-3"]["tokens_ratio"]
    said = openko_tokens(files / "ko.jsonl", *both).stdout
    assert f"the cards' 1.18 lies {one['claim']['published_ratio_is']} this interval" in said and " on ko;" in said


def test_the_command_says_that_english_alone_tells_nothing_of_korean(files):
    done = openko_tokens(files / "en.txt.gz")
    assert done.exit_code == 0, done.exception
    assert "no file is mostly Hangul" in done.stdout
    assert json.loads(openko_tokens(files / "en.txt.gz", "--json").stdout)["meaning"] is None


def test_the_command_says_why_few_documents_have_no_interval(files):
    corpus_text.write_jsonl(files / "few.jsonl", [{"text": REAL}])
    assert "no interval: fewer than 8 documents" in openko_tokens(files / "few.jsonl").stdout


def test_a_file_that_is_called_all_keeps_its_path_for_a_name(files, monkeypatch):
    monkeypatch.chdir(files)
    Path("all.jsonl").write_bytes(Path("ko.jsonl").read_bytes())
    done = openko_tokens("all.jsonl", "en.txt.gz", "--json")
    assert done.exit_code == 0, done.exception
    assert {d: part["documents"] for d, part in json.loads(done.stdout)["study"]["domains"].items()} == {"all.jsonl": 60, "en.txt.gz": 40}


@pytest.mark.filterwarnings("ignore:Glyph")
def test_the_command_writes_pictures_with_their_numbers(files, packages):
    done = openko_tokens(files / "ko.jsonl", "--out", files / "pictures", "--packages", packages, "--json")
    assert done.exit_code == 0, done.exception
    pictures_ = [Path(p) for p in json.loads(done.stdout)["pictures"]]
    assert len(pictures_) == len(pictures.LABELS) and all(p.is_file() and p.with_suffix(".json").is_file() for p in pictures_)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["empty.txt"], "empty.txt is empty"),
        (["blank.txt"], "blank has no text"),
        (["bad.jsonl"], r"bad\.jsonl#\d+: .*mend the file"),
        (["data.xlsx"], "its name tells no form"),
        (["ko.jsonl", "ko.jsonl"], "a file is given twice"),
        (["ko.jsonl", "--tokenizer", "llama2"], "write NAME=PATH"),
        (["ko.jsonl", "--tokenizer", "=standin"], "write NAME=PATH"),
        (["ko.jsonl", "--tokenizer", "a=standin", "--tokenizer", "a=llama-3"], "a is given twice"),
        (["ko.jsonl", "--tokenizer", "a=ko.jsonl"], r"ko\.jsonl"),
        (["ko.jsonl", "--out", "ko.jsonl"], "--out ko.jsonl is a file: name a directory"),
        (["ko.jsonl", "--baseline", "other"], "--baseline other: choose one of llama-3"),
    ],
)
def test_the_command_refuses_by_name(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    (files / "empty.txt").touch()
    (files / "blank.txt").write_text("\n \n")
    (files / "bad.jsonl").write_text('{"text": "글"}\n{"text": 3\n')
    (files / "data.xlsx").write_text("a")
    done = openko_tokens(*arguments)
    assert isinstance(done.exception, InputError) and re.search(message, str(done.exception)), done.exception
