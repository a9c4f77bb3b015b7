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
    inside = sum(any(a < end <= b for a, b in eojeol) for _, end in spans)
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


def test_one_document_has_no_interval(every):
    found = compare({"llama-3": every["llama-3"]}, {"one": [REAL]}, draws=50)
    assert found["all"]["tokenizers"]["llama-3"]["bytes_per_token"]["interval"] is None


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


def test_a_paired_interval_is_narrower_than_one_of_separate_draws(made):
    """Long and short words come to both tokenizers alike."""
    part = made["domains"]["ko"]["tokenizers"]
    low, high = part["llama-3"]["tokens_ratio"]["interval"]
    alone = [(np.diff(part[n]["bytes_per_token"]["interval"])[0] / part[n]["bytes_per_token"]["value"]) ** 2 for n in part]
    assert (high - low) / part["llama-3"]["tokens_ratio"]["value"] < 1.1 * np.sqrt(sum(alone))


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


def test_a_stand_in_leaves_the_claim_not_checked(made):
    found = claims.of(made)
    assert found["status"] == "not checked" and "stand-in" in found["why"]
    assert found["ratio"] == made["all"]["tokenizers"]["llama-3"]["tokens_ratio"]["value"]


def real_ones(every, korean="llama-2-ko", vocab_size=claims.LLAMA_2_KO_VOCABULARY) -> dict:
    """A study in which the Korean tokenizer has the published number of pieces."""
    found = compare({"llama-3": every["llama-3"], korean: every["sentencepiece"]}, {"real": REAL.split("\n")}, baseline=korean, draws=300)
    found["tokenizers"][korean]["vocab_size"] = vocab_size
    return found


def test_the_real_tokenizers_check_the_claim(every):
    found = real_ones(every)
    verdict = claims.slightly_more(found, korean="llama-2-ko", domain="real")
    low, high = verdict["interval"]
    assert verdict["why"] is None
    assert verdict["status"] == ("more" if low > 1 else "fewer" if high < 1 else "no difference")
    for interval, status, place in ([[1.1, 1.2], "more", "inside"], [[0.8, 0.9], "fewer", "above"], [[0.9, 1.1], "no difference", "above"]):
        found["all"]["tokenizers"]["llama-3"]["tokens_ratio"]["interval"] = interval
        verdict = claims.of(found)
        assert (verdict["status"], verdict["published_ratio_is"]) == (status, place)


@pytest.mark.parametrize("changes, why", [({"vocab_size": 32_000}, "32,000 pieces"), ({"korean": "polyglot"}, "this is polyglot")])
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


# ── what it means ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cards_tokens_cost_what_the_facts_say(made):
    """17.7B tokens of an 8.03B model: 8.5e20 FLOPs, and at 60% of 256 v5e about 7.8 hours."""
    given = json.loads(json.dumps(made))
    given["all"]["tokenizers"]["llama-3"]["bytes_per_token"] = {"value": 61 / 17.7, "interval": [61 / 18, 61 / 17]}
    found = meaning.of(given)
    row = found["tokenizers"]["llama-3"]
    assert row["tokens"] == pytest.approx(17.7e9) and row["interval_tokens"] == pytest.approx([17e9, 18e9])
    assert row["flops"] == pytest.approx(8.5e20, rel=0.005)
    assert row["hours"]["maxtext"] * 0.611 / 0.6 == pytest.approx(7.8, abs=0.05)
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


def test_held_out_texts_must_not_be_learned_from(every):
    with pytest.raises(InputError, match="1 of the held-out texts are among the training texts"):
        merges.curve(every["llama-3"], TRAIN, [TRAIN[3]])
    with pytest.raises(InputError, match="no held-out text"):
        merges.curve(every["llama-3"], TRAIN, [])
    with pytest.raises(InputError, match="no pair of Korean tokens"):
        merges.curve(every["llama-3"], ["English only"], HELD_OUT)
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


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("measure", pictures.LABELS)
def test_bars_show_each_domain_where_the_measure_is_defined(made, measure):
    data = pictures.bars(made, measure)
    shown = {"ko", "real", "all"} | ({"en"} if measure in ("bytes_per_token", "tokens_ratio") else set())
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
