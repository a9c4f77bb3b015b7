"""openko.corpus.clean: Korean passes untouched, every rule mends what it is for and nothing else, in linear time."""

import random
import time
import unicodedata

import pytest

from openko import tokenizers
from openko.corpus.clean import BOILERPLATE, CLEANERS, FOR_READER, USUAL, clean, hangul_share, is_hangul
from openko.corpus.readers import READERS
from openko.errors import InputError

ALL = tuple(CLEANERS)

UNTOUCHED = [
    "ㅋㅋㅋㅋ", "1000원", "나랏말ᄊᆞ미 듕귁에 달아", "ㅠㅠ 진짜?", "中國 한자", "표\t안의\t탭", "한 줄\n두 줄\n\n문단",
    "이모지 👩‍👩‍👧 🇰🇷",
    "def f(x):\n    if x:\n        return main()", "a && b; c &= d; R&D, Q&A, A & B", "?id=1&copy=2&name=3&num=4", "<br> 과 a < b > c",
    "이름 |  나이 |  주소", "성 명      생년월일", "（전각） ＡＢＣ １２３", "ｱｲｳ ｶﾞ", "제10조제2항(휴직) ① 다음 각 호",
    "3.14 × 2 ≠ 6; f(x) = ∑x",
    "함수()를 부른다", "다음 빈칸( )에 들어갈 말은?", "성명( )을 적는다", "죄송합니다(;;) 제가", "서울( , )은",
    "미국(美) 대통령", "아름다움(美)", "기타(    )", "(      ) 학기", "다음 ( ) 안에 알맞은 말", "괄호()를 쓴다", "main() 함수",
    "café, naïve, forêt",
    "여기 ㅁ에 들어갈 (가)와 (나)", ":) :( ^^ (;_;)", "10:30~11:00", "2024. 1. 5.(금)", "그는 “안녕” 하고 ‘응’ 했다…", "문단 뒤\u3000빈칸",
]  # fmt: skip


@pytest.mark.parametrize("text", UNTOUCHED)
def test_korean_passes_untouched(text):
    assert clean(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "cleaned", "rules"),
    [
        (unicodedata.normalize("NFD", "한글과 각"), "한글과 각", {"nfc"}),
        ("가\u200b나\ufeff다\u2060라", "가나다라", {"control-characters"}),
        ("가\x00나\x07다\x7f라\x85", "가나다라", {"control-characters"}),
        ("한 줄\r\n두 줄\r세 줄", "한 줄\n두 줄\n세 줄", {"control-characters"}),
        ("한 쪽\x0c두 쪽\u2028줄", "한 쪽\n두 쪽\n줄", {"control-characters"}),
        ("가\xa0나\u2009다", "가 나 다", {"control-characters"}),
        ("가\ud83d나", "가나", {"control-characters"}),
        ("  가 \t\n나\u3000\n\n\n\n다 \n", "가\n나\n\n다", {"spaces"}),
        (unicodedata.normalize("NFD", "각") + "\u200b ", "각", {"nfc", "control-characters", "spaces"}),
    ],
)
def test_cleaning_mends_and_names_its_rules(text, cleaned, rules):
    found, shorter = clean(text)
    assert found == cleaned and set(shorter) == rules
    assert sum(shorter.values()) == len(text.encode("utf-8", "surrogatepass")) - len(cleaned.encode())


@pytest.mark.parametrize("between", ["", "\u200b", "\ufeff", "\x00"], ids=ascii)
def test_jamo_are_joined_whatever_invisible_stood_between_them(between):
    cleaned, _ = clean(between.join(unicodedata.normalize("NFD", "각")))
    assert cleaned == "각" and clean(cleaned) == ("각", {})


@pytest.mark.parametrize("character", ["가", "힣", "ㄱ", "ㅋ", "ㆎ", "ᄊ", "ᆞ", "\ua960", "\ud7b0"])
def test_syllables_and_jamo_old_ones_too_are_hangul(character):
    assert is_hangul(character) and hangul_share(character) == 1


@pytest.mark.parametrize("character", ["a", "1", " ", "中", "あ", "!"])
def test_other_scripts_are_not_hangul(character):
    assert not is_hangul(character) and hangul_share(character) == 0


def test_the_share_of_hangul_is_of_what_is_not_space():
    assert hangul_share("가나  ab\n") == 0.5 and hangul_share(" \n") == hangul_share("") == 0.0


# ── which rules ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_rules_are_applied_in_their_own_order_and_only_those_that_are_asked_for():
    text = "가&amp;나 \n&name&"
    assert clean(text, ("spaces",)) == ("가&amp;나\n&name&", {"spaces": 1})
    assert clean(text, ("spaces", "modu-masks", "entities")) == clean(text, ("entities", "modu-masks", "spaces"))
    assert clean(text, ()) == (text, {})


def test_an_unknown_rule_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"'speces' is no rule of cleaning: there are modu-masks, .*spaces"):
        clean("가", ("speces",))


def test_the_rules_of_readers_are_rules_beside_the_usual_ones():
    assert set(FOR_READER) <= set(READERS)
    assert {name for names in FOR_READER.values() for name in names} == set(CLEANERS) - set(USUAL)


# ── entities and mojibake ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A&amp;B", "A&B"), ("&lt;가&gt;", "<가>"), ("&#44032;&#xAC00;", "가가"), ("&amp;lt;", "<"), ("&amp;amp;amp;lt;", "<"),
        ("&#38;lt;", "<"), ("가&nbsp;나", "가 나"), ("가&#8203;나", "가나"), ("&middot;", "·"), ("&amp;foo;", "&foo;"), ("&#4352;&#4449;",
        "가"),
    ],
)  # fmt: skip
def test_entities_are_decoded_however_often_they_were_written(text, cleaned):
    assert clean(text)[0] == cleaned


@pytest.mark.parametrize("text", ["&copy=1", "&name&", "&notit;", "&unknown;", "AT&T; 회사", "& lt;", "&#;", "&;"])
def test_what_is_no_entity_stays(text):
    assert clean(text) == (text, {})


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("line", ["안녕하세요. 오늘은 날씨가 좋다", "“따옴표”와 ‘홑’ · 점…", "이 책 1권(한글)"])
def test_misread_lines_are_read_again(line, encoding):
    misread = "".join(bytes([b]).decode(encoding) if encoding == "latin-1" or b not in UNDEFINED else chr(b) for b in line.encode())
    assert clean(f"앞줄\n{misread}\n뒷줄")[0] == f"앞줄\n{line}\n뒷줄"


UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)  # bytes that cp1252 leaves out and browsers show as control characters


@pytest.mark.parametrize("text", ["così…» disse", "même « ça » ê°€", "forêt êtes", "대한민국 ì", "í", "2°C ± 3"])
def test_other_languages_are_not_taken_for_misread_korean(text):
    assert clean(text)[0] == text


# ── parentheses ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("대한민국(大韓民國)은", "대한민국은"), ("임진왜란（壬辰倭亂）", "임진왜란"), ("기피(忌避) 신청", "기피 신청"),
        ("한국(韓國, 大韓)", "한국"),
        ("산(山)과 강(江)", "산과 강"), ("기피(忌避)(忌避)(忌避)", "기피"),
    ],
)  # fmt: skip
def test_a_gloss_has_a_hanja_for_each_syllable_of_its_word(text, cleaned):
    assert clean(text, ALL)[0] == cleaned


@pytest.mark.parametrize(
    "text",
    ["미국(美)", "아름다움(美)", "大韓民國", "《論語》", "이순신(李舜臣, 1545~1598)", "한국어(韓國語: 말)", "(大韓民國)", "A(甲)",
    "가 (家)", "후보단들(候補團)"],
)  # fmt: skip
def test_other_hanja_stays(text):
    assert clean(text, ALL)[0] == text


def test_glosses_of_other_texts_than_wikipedia_stay():
    assert clean("기피(忌避) 신청") == ("기피(忌避) 신청", {})


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("서울( , )은", "서울은"), ("서울()은", "서울은"), ("서울( )은", "서울은"), ("서울(,)", "서울"), ("서울(;)에", "서울에"),
        ("서울 ()은", "서울은"),
        ("세종( )은", "세종은"), ("서울(·)은", "서울은"), ("서울((, ), )은", "서울은"),
        ("서울()()()", "서울"), ("『무정』(, )은", "『무정』은"), ("漢城(, )", "漢城"),
    ],
)  # fmt: skip
def test_emptied_parentheses_close_up_where_someone_is_known_to_have_emptied_them(text, cleaned):
    assert clean(text, (*USUAL, *FOR_READER["wikipedia"]))[0] == cleaned
    assert clean(text) == (text, {})


@pytest.mark.parametrize("text", ["main()을 부른다", "괄호( )에", "기타(    )", "죄송합니다(;;) 제가", "서울 ( ) 부산"])
def test_other_empty_parentheses_stay_even_there(text):
    assert clean(text, ("emptied-parentheses",)) == (text, {})


# ── masks of the Modu corpora ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("&name&이가 &affiliation&에", "<이름>이가 <소속>에"), ("&name1&과 &name2&", "<이름1>과 <이름2>"), ("& name& 씨", "<이름> 씨"),
        ("&name & 씨", "<이름> 씨"), ("&NAME&", "<이름>"), ("＆name＆", "<이름>"), ("&nmae& &anme& &nama& &naem&",
        "<이름> <이름> <이름> <이름>"),
        ("&affifiation& &compnay&", "<소속> <회사>"), ("&name 씨", "<이름> 씨"), ("&name &company& 다녀", "<이름> <회사> 다녀"),
        ("&name&affiliation&", "<이름><소속>"), ("name& 씨", "<이름> 씨"), ("&tel-num&", "<전화번호>"), ("&tel_num&", "<전화번호>"),
        ("&social-security-num&", "<주민등록번호>"), ("&card-num& &bank-account&", "<카드번호> <계좌번호>"), ("&account&", "<계좌번호>"),
        ("&online-account& &address& &num&", "<계정> <주소> <번호>"), ("&others&", "<기타>"),
    ],
)  # fmt: skip
def test_masks_become_korean_stand_ins(text, cleaned):
    assert clean(text, ALL)[0] == cleaned
    assert clean(text)[0] == text  # only in the corpora that have them


@pytest.mark.parametrize(
    "text", ["R&D와 Q&A", "AT&T", "A & B & C", "?a=1&name=kim&num=2", "H&M 옷", "&", "rock & roll", "&zzzzz&", "P&G company"]
)
def test_an_ampersand_alone_is_no_mask(text):
    assert clean(text, ("modu-masks",)) == (text, {})


# ── Wikipedia ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("본문이다.\n\n같이 보기\n\n각주\n\n외부 링크\n", "본문이다."),
        ("본문이다.\n\n각주\n\n외부 링크\n누리집", "본문이다.\n\n외부 링크\n누리집"),
        ("본문이다.\n\n== 각주 ==\n분류:가람시\n분류:도시", "본문이다."),
        ("섬네일|오른쪽|다리\n본문이다.", "본문이다."),
        ("가람(영어: , 1545년)은", "가람(1545년)은"), ("가람(, 1545년 ~ )은", "가람(1545년 ~ )은"), ("가람(한자: , 영어: )은", "가람은"),
        ("가람(영어: Garam, )은", "가람(영어: Garam)은"), ("가람 (; 1545년)", "가람 (1545년)"), ("가람(A, , B)", "가람(A, B)"),
    ],
)  # fmt: skip
def test_leftovers_of_wikipedia_go(text, cleaned):
    assert clean(text, ALL)[0] == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "각주를 달았다.\n본문",
        "각주\n1) 가람의 역사",
        "외부 링크\n누리집",
        "분류: 포유강",
        "f(2,) = (1, )",
        "비율(3:4)",
        "기타(    )",
        "thumb 하나",
    ],
)
def test_what_only_looks_like_a_leftover_stays(text):
    assert clean(text, ALL)[0] == text


# ── boilerplate ──────────────────────────────────────────────────────────────────────────────────────────────────

LINES = {
    "no-reprint": (
        ["무단 전재 및 재배포 금지", "<저작권자(c) 한빛신문, 무단전재-재배포 금지>",
        "[ⓒ 한빛일보. 무단 전재 및 재배포, AI 학습 이용 금지]"],
        ["무단 전재 및 재배포 금지 조항은 법에 근거한다.", "무단으로 유출･양도･매매 금지", "그는 무단 전재를 했다. 이는 금지"],
    ),
    "copyright": (
        ["ⓒ 한빛일보", "저작권자 ⓒ 한빛뉴스", "Copyright © 2024 Hanbit. All rights reserved.", "© hanbit.co.kr",
        "Copyright (c) 2020 Hanbit", "(c) 2020 Hanbit. All rights reserved.", "(C) 2019 한빛출판사 저작권"],
        ["ⓒ는 저작권을 뜻하는 기호이다.", "저작권자는 이를 허락할 수 있다.", "(c) 셋째 항목", "(c) 국제 경제",
        "(c) 2019 회계연도 보고서 제출",
        "(c) 2020 Hanbit",
        "(a) 책\n(b) 방송\n(c) 2020 All rights reserved", "(A) 책\n(B) 방송\n(C) 2019 저작권",
        "저작권자 표시 신문", "ⓐ 책\nⓑ 방송\nⓒ 신문"],
    ),
    "reporter": (
        ["고길동 기자 gil@hanbit.example", "[한빛일보 고길동 기자]", "(가람=한빛통신) 고길동 기자 =", "/고길동 기자 <전자우편>",
        "한빛=고길동 기자 gil@hanbit.example"],
        ["고길동 기자", "(가람=한빛통신) 고길동 기자 = 시장이 말했다.", "그는 고길동 기자를 만났다.", "어제 고길동 기자 말로는"],
    ),
    "related-articles": (["관련기사", "▶ 관련 기사 보기", "[관련기사]", "많이 본 뉴스", "<인기기사>"], ["관련 기사가 여럿 나왔다.",
    "오늘 많이 본 뉴스는 이것이다."]),
    "share-buttons": (["이 기사를 공유합니다", "기사 스크랩하기", "글자크기 조절"], ["이 기사를 공유합니다만 비밀이다", "공유",
    "링크 복사", "URL 복사",
    "스크랩 문화"]),
    "navigation": (["본문 바로가기", "메뉴 건너뛰기", "맨 위로"], ["본문 바로가기를 누르면 넘어간다.", "바로가기", "산 맨 위로 올랐다"]),
    "cookies": (
        ["이 웹사이트는 사용자 경험을 위해 쿠키를 사용합니다.", "본 사이트는 쿠키를 사용합니다. 계속 이용하면 이에 동의하는 것입니다."],
        ["쿠키를 사용합니다.", "이 사이트는 쿠키를 사용합니다라고 적혀 있었다", "할머니는 쿠키를 구웠다."],
    ),
    "subscribe": (["구독하기", "▶ 네이버 한빛일보 구독하기", "[제보하기]"], ["신문 구독하기가 쉽다", "나는 신문을 구독하기로 했다",
    "잡지 구독하기"]),
}  # fmt: skip


def test_every_pattern_is_tried():
    assert set(LINES) == set(BOILERPLATE)


@pytest.mark.parametrize("line", [line for lines, _ in LINES.values() for line in lines])
def test_lines_of_every_page_go(line):
    text, shorter = clean(f"가람시에 비가 왔다.\n{line}\n내일은 갠다.")
    assert text == "가람시에 비가 왔다.\n내일은 갠다." and shorter["boilerplate"] == len(line.encode()) + 1
    assert clean(f"가람시에 비가 왔다.\n  {line} ")[0] == clean(f"{line}\n\n가람시에 비가 왔다.")[0] == "가람시에 비가 왔다."


@pytest.mark.parametrize("line", [line for _, lines in LINES.values() for line in lines])
def test_lines_that_speak_of_them_stay(line):
    text = f"가람시에 비가 왔다.\n{line}\n내일은 갠다."
    assert clean(text) == (text, {})


@pytest.mark.parametrize(
    "line",
    ["페이스북 트위터 카카오톡", "로그인 | 회원가입 | 고객센터", "이용약관 · 개인정보처리방침", "이전글\t다음글", "공유하기 가+ 가-"],
)
def test_menus_go(line):
    assert clean(f"앞\n{line}\n뒤")[0] == "앞\n뒤"


@pytest.mark.parametrize("line", ["로그인 회원가입 절차", "로그인", "카카오톡", "검색 목록", "페이스북과 트위터", "가 나 다"])
def test_a_word_alone_or_with_others_is_no_menu(line):
    assert clean(f"앞\n{line}\n뒤")[0] == f"앞\n{line}\n뒤"


# ── long blanks ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000", " \t"])
def test_a_thousand_blanks_in_a_row_stay_and_no_more(blank):
    thousand = blank * (1000 // len(blank))
    assert clean(f"가{thousand}나") == (f"가{thousand}나", {})
    assert clean(f"앞\n가{thousand} 나{blank * 5000}다\n뒤") == (
        f"앞\n가{thousand}나{thousand}다\n뒤",
        {"spaces": len((" " + blank * 5000).encode()) - len(thousand.encode())},
    )


@pytest.mark.parametrize("unit", [" ", "\t", "\u3000", "\n", " \n", "가", "ㅋ", "a", "!", "1", "\u0301"], ids=ascii)
def test_what_was_cleaned_can_be_packed_whatever_repeats_a_million_times(unit, llama):
    cleaned, _ = clean(f"가나{unit * 1_000_000}다라")
    assert llama.decode(llama.encode(cleaned)) == cleaned


@pytest.fixture(scope="module")
def llama():
    return tokenizers.load("llama-3")


# ── all together ─────────────────────────────────────────────────────────────────────────────────────────────────

PIECES = [
    "가", "나", "서울", "大", "韓國", " ", "  ", "\n", "\n\n\n", "\t", "(", ")", "（", "）", ",", ";", ":", "·", "&", "＆", "amp;", "lt;",
    "&lt;", "&amp;",
    "#38;", "&#8203;", "&nbsp;", "\xa0", "\u200b", "\r", "\x0c", "\x85", "name", "&name&", "nmae", "num", "-", "1", "010", "1234",
    "010-1234-5678", "@", "800101", "1000008", "80", "0",
    "a@b.kr", ".", "ì", "•", "ˆ", "ë", "…", "\x95", "ì•ˆë…•", "ᄒ", "ᅡ", "ᆫ", "각주", "분류:", "외부 링크", "영어: ", "무단 전재 금지",
    "ⓒ 신문", "기자",
    "로그인", "회원가입", "관련기사", "<", ">", "ㅋㅋㅋ", "👩", "\u200d", "\ufeff", "\ud83d", "豈", "=", "'", "|", "괄호", "[", "]",
    "e\u0301", "\u3000",
]  # fmt: skip


def test_cleaning_a_cleaned_text_changes_nothing():
    chance = random.Random(7)
    for _ in range(6000):
        text = "".join(chance.choices(PIECES, k=chance.randint(1, 25)))
        for rules in (USUAL, ALL):
            cleaned, _ = clean(text, rules)
            assert clean(cleaned, rules) == (cleaned, {}), ascii(text)


@pytest.mark.parametrize(
    "unit",
    ["(", ")", "가(", "(,", "()", "가()", "((,)", "(大", "가(大)", "&", "&amp;", "&a", "&name", "& ", "a-", "<", "1", "1-", "1 ", "010-",
    "ㅋ", "{", "@.", "a@", "a.", "a@a.",
     " ", " " * 999 + "가", " " * 1001 + "가", "\t\u3000", " \n", "\n",
     "ì", "ì•ˆ", "각주\n", "분류:", "ⓒ", "ⓒ ", "기자 ", "기자\n", "무단 ", "로그인 ", "로그인\n", "영어: ", "(영어: ",
     "(가,", "\x0c", "가", "쿠키를 ", "[", "a", "ᄒ"],
)  # fmt: skip
def test_time_is_linear_in_whatever_comes(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()  # of this process alone: other work on the machine does not count
    clean(text, ALL)
    assert time.process_time() - start < 10, unit  # the slowest was measured at 1 s; with a square in it, minutes
