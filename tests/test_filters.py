"""openko.corpus.filters: what is refused, by which measure, and what must not be."""

import time

import numpy as np
import pytest

from openko.corpus import filters
from openko.corpus.filters import FILTERS, check, measures, thresholds
from openko.errors import InputError

# Written for these tests: prose, talk, a law, a table, a list, verse, mixed script, English.
PROSE = (
    "가람시는 큰 강이 바다와 만나는 곳에 있다. 옛날에는 작은 어촌이었으나 다리가 놓이고 나서 사람이 모여들었다. 봄이면 강가에 벚꽃이 피고, "
    "가을에는 갈대가 바람에 눕는다. 시장 골목에서는 아직도 할머니들이 새벽마다 생선을 판다. "
    "아이들은 학교가 끝나면 둑길을 따라 집으로 돌아간다."
)
TALK = "\n".join(
    [
        "너 밥 먹었어?",
        "응 나 지금 먹는 중 ㅋㅋㅋㅋ",
        "뭐 먹는데?",
        "라면 ㅋㅋ 너는?",
        "나는 아직 ㅠㅠ",
        "왜?",
        "일이 안 끝나",
        "헐",
        "응",
        "힘내 ㅎㅎ",
        "응",
        "네",
    ]
)
LAW = "\n".join(
    f"제{i}조({title}) ① {who}은 {what} 한다.\n  1. 제{i + 1}항제2호에 따른 경우\n  2. 그 밖에 대통령령으로 정하는 경우"
    for i, (title, who, what) in enumerate(
        [("목적", "이 법", "가람시의 물을 맑게 함을 목적으로"), ("정의", "시장", "다음 각 호의 뜻을 정하여야"), ("의무", "주민",
        "강을 깨끗이 쓰도록 노력하여야"),
         ("과태료", "시장", "어긴 사람에게 과태료를 매길 수 있다고 고시하여야"), ("시행", "이 법", "공포한 날부터 시행하기로")], 1)
)  # fmt: skip
TABLE = "\n".join(
    [
        "구분\t2021년\t2022년\t비고",
        *(f"{name}\t{n * 37}명\t{n * 41}명\t{n}위" for n, name in enumerate(["강동", "강서", "남촌", "북촌", "다릿목"], 3)),
    ]
)
BILL = "\n".join(f"{line}\n{'-' * 28}" for line in PROSE.replace(". ", ".\n").split("\n"))
VERSE = (
    "산에는 꽃 피네\n꽃이 피네\n갈 봄 여름 없이\n꽃이 피네\n\n물에는 달 뜨네\n달이 뜨네\n밤이나 새벽이나\n달이 뜨네\n강가에 앉아 듣는 노래"
)
MIXED = (
    "吾等은 玆에 우리 市의 獨立과 市民의 自主를 宣言하노라. 此로써 世界萬邦에 告하야 人類平等의 大義를 克明하며 此로써 子孫萬代에 誥하노라."
)
EMOJI = "오늘 날씨 너무 좋다 😊😊 강가에 나가서 사진 찍었는데 벚꽃이 진짜 예쁘더라 🌸🌸🌸 다음 주에 같이 가자 👩‍👩‍👧 김밥도 싸 갈게 ❤️"
OLD_KOREAN = "나랏말ᄊᆞ미 물과 달아 서르 ᄉᆞᄆᆞᆺ디 아니ᄒᆞᆯᄊᆡ 이런 ᄀᆞᄅᆞᆷ ᄆᆞᄉᆞᆯ 사ᄅᆞᆷᄃᆞᆯ히 니르고져 호ᇙ 배 이셔도 ᄆᆞᄎᆞᆷ내 제 ᄠᅳ들 펴디 몯ᄒᆞᄂᆞ니라"
GENUINE = {
    "prose": PROSE,
    "talk": TALK,
    "law": LAW,
    "table": TABLE,
    "bill": BILL,
    "verse": VERSE,
    "mixed": MIXED,
    "emoji": EMOJI,
    "old": OLD_KOREAN,
}
ENGLISH = "The town lies where the river meets the sea. Once it was a village of fishers, but since the bridge was built people have come."


def reason(text: str, language: str = "ko", **given) -> str | None:
    refused = check(text, language, {name.replace("_", "-"): value for name, value in given.items()})
    return refused and refused[0]


@pytest.mark.parametrize("text", GENUINE.values(), ids=GENUINE)
def test_korean_of_every_kind_passes(text):
    assert check(text, "ko") is None


def test_english_passes_as_english_alone():
    assert check(ENGLISH, "en") is None
    assert reason(ENGLISH, "ko") == "not-korean" and reason(PROSE, "en") == "not-english"


@pytest.mark.parametrize("length", [49, 50])
def test_fifty_characters_are_enough(length):
    assert reason(PROSE[: length - 1] + ".") == ("too-short" if length < 50 else None)
    assert reason(ENGLISH[: length - 1] + ".", "en") == ("too-short" if length < 50 else None)


def test_nothing_is_too_short():
    assert check("", "ko") == ("too-short", 0, 50) and measures("", "ko")["not-korean"] == measures("", "en")["not-english"] == 0


def test_a_book_is_not_too_long_but_a_whole_corpus_in_one_text_is():
    book = "\n".join(f"{i}장. {PROSE}" for i in range(5000))
    assert 700_000 < len(book) < FILTERS["too-long"].threshold
    assert reason(book, repetition=0, duplicate_lines=1) is None  # it is the same page five thousand times, which two filters see
    assert reason("가 " * 2_500_001) == "too-long"


def share(hangul: int, latin: int) -> str:
    """A text with so many letters of each, in words of five."""
    letters = "".join(chr(0xAC00 + 577 * i % 11172) for i in range(hangul)) + "".join(chr(97 + 7 * i % 26) for i in range(latin))
    return " ".join(letters[i : i + 5] for i in range(0, len(letters), 5))


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (share(24, 76), "ko", "not-korean"), (share(25, 75), "ko", None), (share(25, 75), "en", "not-english"), (share(24, 76), "en", None),
        ("これは 日本語の 文章です。川と 海が 出会う 町に 人が 集まって きました。" * 2, "ko", "not-korean"),
        ("这座 城市 位于 河流 与 大海 交汇 的 地方，从前 是 一个 小 渔村。" * 2, "ko", "not-korean"),
        ("これは 日本語の 文章です。川と 海が 出会う 町に 人が 集まって きました。" * 2, "en", "not-english"),
        ("Город стоит там, где большая река впадает в море, и живут в нём рыбаки.", "en", "not-english"),
        ("Thành phố nằm ở nơi dòng sông gặp biển, ngày xưa là một làng chài nhỏ.", "en", None),  # by script, not by language
    ],
)  # fmt: skip
def test_languages_are_told_by_script(text, language, expected):
    assert reason(text, language) == expected


REFUSED = {
    "replacement-characters": PROSE.replace("는", "\ufffd"),
    "jamo-runs": "ㅋㅋㅋㅋㅋㅋ ㅎㅎㅎㅎ 아 진짜 ㅋㅋㅋㅋㅋ ㅠㅠㅠㅠㅠ 뭐야 ㅋㅋㅋ ㅋㅋㅋㅋㅋㅋ 응 ㅋㅋㅋㅋ ㅎㅎㅎ",
    "symbols": "★☆ 특가 ★☆★☆ →→ ◆◆◆ 오늘만 ◆◆◆ ▶▶▶ 클릭 ◀◀◀ ♥♥ 무료 ♥♥ ■■ 상담 ■■ ★★★",
    "words-too-short": "가 람 시 는 큰 강 이 바 다 와 만 나 는 곳 에 있 다 옛 날 에 는 작 은 어 촌 이 었 다",
    "words-too-long": "가람시는큰강이바다와만나는곳에있다옛날에는작은어촌이었으나다리가놓이고나서사람이모여들었다봄이면강가에벚꽃이핀다",
    "duplicate-lines": "\n".join(
        [
            "오늘 가람시의 날씨는 맑습니다",
            "내일 강가에는 비가 옵니다",
            *["자세한 내용은 아래를 보십시오"] * 4,
            "모레는 흐리고 바람이 붑니다",
        ]
    ),
    "top-2-gram": "가람 대출 빠른 상담 가람 대출 당일 입금 가람 대출 무직자 가능 가람 대출 문의 환영 가람 대출 지금 바로 전화 가람 대출",
    "repetition": "가람시 강가에 새로 지은 집을 지금 바로 보러 오십시오 전화 문의 환영 " * 40,
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_filter_refuses_what_it_is_for_with_its_measure(name):
    found, value, threshold = check(REFUSED[name], "ko")
    assert (found, threshold) == (name, FILTERS[name].threshold) and value == measures(REFUSED[name], "ko")[name]
    assert value < threshold if FILTERS[name].refuses == "below" else value > threshold


def test_every_filter_has_its_example():
    assert set(REFUSED) | {"too-short", "too-long", "not-korean", "not-english"} == set(FILTERS)


def test_what_repeats_without_spaces_is_found_at_any_length():
    for unit in ("광고", "오늘만특가무료상담", PROSE[:40].replace(" ", "")):
        text = " ".join((unit * 100)[i : i + 7] for i in range(0, 2000 if len(unit) > 2 else 200, 7))
        assert measures(text, "ko")["repetition"] < 0.25 < measures(PROSE, "ko")["repetition"]


# ── measures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_measures_are_those_of_a_hand_count():
    text = "가나 다라\n가나 다라\n\nab ㅋㅋ\n★\ufffd"
    found = measures(text, "ko")
    assert found["too-short"] == found["too-long"] == len(text) == 21
    assert found["not-korean"] == 10 / 14 and found["jamo-runs"] == 2 / 14
    assert found["symbols"] == 2 / 14 and found["replacement-characters"] == 1 / 14
    assert found["words-too-short"] == found["words-too-long"] == 14 / 7
    assert found["duplicate-lines"] == 5 / (21 - 4)
    assert found["top-2-gram"] == 8 / 14


def test_rules_of_tables_are_no_repeated_lines_and_no_repeated_pairs():
    rules = PROSE.replace(". ", ".\n") + "\n+----+ +----+\n-------- ----" * 20
    assert measures(rules, "ko")["duplicate-lines"] == measures(rules, "ko")["top-2-gram"] == 0


def test_classes_agree_with_python_on_every_character():
    characters = [chr(c) for c in [*range(0x3000), *range(0x3000, 0x110000, 97)]]
    measured = filters.Measured("".join(characters))
    assert measured.classes[filters.SPACE] == sum(c.isspace() or c in "\u2028\u2029" for c in characters)
    assert measured.classes[filters.SYLLABLE] + measured.classes[filters.JAMO] == sum(map(filters.is_hangul, characters))
    assert sum(measured.classes) == len(characters)


def test_half_a_surrogate_pair_ends_no_build():
    assert reason(PROSE + "\ud83d") is None
    assert reason("\ud83d" * 60) == "not-korean"


# ── thresholds ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_thresholds_are_the_usual_ones_but_for_those_given():
    usual = thresholds({})
    assert usual == {name: f.threshold for name, f in FILTERS.items()}
    assert thresholds({"too-short": 10}) == usual | {"too-short": 10}


@pytest.mark.parametrize("name", REFUSED)
def test_every_threshold_is_heard(name):
    off = 0 if FILTERS[name].refuses == "below" else float("inf")
    given = thresholds({name: off})
    refused = check(REFUSED[name], "ko", given)
    assert refused is None or refused[0] != name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"too-shrot": 50}, r"'too-shrot' is no filter: there are too-short, too-long"), ({"too-short": "50"},
        r"too-short: '50' is no threshold"),
        ({"too-short": True}, r"True is no threshold"), ({"symbols": -1}, r"symbols: -1"), ({"symbols": float("nan")}, r"symbols: nan"),
        ({"symbols": None}, r"symbols: None"), (["too-short"], r"\['too-short'\] is no mapping"),
    ],
)  # fmt: skip
def test_thresholds_that_make_no_sense_are_refused_with_the_reason(given, message):
    with pytest.raises(InputError, match=message):
        thresholds(given)


@pytest.mark.parametrize("unit", ["(", "&", "1", "ㅋ", "{", "@.", "가 ", "가\n", " ", "\n", "가나 다라 ", "\ufffd", "😀"])
def test_time_is_linear_in_whatever_comes(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()  # of this process alone: other work on the machine does not count
    assert np.isfinite(list(measures(text, "ko").values())).all()
    assert time.process_time() - start < 10, unit
