"""openko.corpus.personal: numbers of persons are found by form and check digit; dates, prices and law articles are none."""

import random
import time

import pytest

from openko.corpus.personal import STAND_INS, check_digit, find, luhn, mask

# The check digits of the tests are computed here, by the published definitions, and belong to nobody on purpose.


def resident(front: str, back: str) -> str:
    """Twelve digits and the check digit: the weights are 2 to 9 and 2 to 5; the sum and the digit add up to 11 modulo 11."""
    digits = [int(d) for d in front + back]
    rest = sum(d * w for d, w in zip(digits, [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5], strict=True)) % 11
    last = (11 - rest) % 10 if back[0] in "1234" else (13 - rest) % 10
    return f"{front}-{back}{last}"


def card(digits: str) -> str:
    """The digits with the last one that makes the sum of ISO/IEC 7812 divisible by ten."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def groups(digits: str, between: str, *sizes: int) -> str:
    pieces, rest = [], digits
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    return between.join(pieces)


def kinds(text: str) -> list[str]:
    return [kind for kind, _, _ in find(text)]


OLD, FOREIGN, NEW = resident("800101", "100000"), resident("900228", "500000"), "201105-3000000"
WRONG = OLD[:-1] + str((int(OLD[-1]) + 1) % 10)
VISA = card("400000000000000")


# ── resident numbers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_check_digit_is_the_published_one():
    chance = random.Random(1)
    for _ in range(200):
        back = str(chance.randint(1, 8)) + "".join(chance.choices("0123456789", k=5))
        number = resident("851231", back).replace("-", "")
        assert check_digit(number) == number[-1]


@pytest.mark.parametrize("number", [OLD, OLD.replace("-", ""), OLD.replace("-", " "), OLD.replace("-", " - "), OLD.replace("-", "–")])
def test_a_number_with_a_right_check_digit_is_one_however_it_is_written(number):
    assert mask(f"번호는 {number}입니다.") == "번호는 <주민등록번호>입니다."


def test_foreigners_have_a_number_of_their_own():
    assert mask(f"({FOREIGN})") == "(<외국인등록번호>)"


def test_since_october_2020_there_is_no_check_digit_to_ask_for():
    assert NEW[-1] != check_digit(NEW.replace("-", ""))
    assert kinds(f"아기 {NEW}") == ["resident-number"]
    assert kinds(f"아기 {NEW.replace('-', '')}") == []  # without a hyphen it is any number
    before = "201004-3000000"
    assert before[-1] != check_digit(before.replace("-", "")) and kinds(before) == []


@pytest.mark.parametrize(
    "text",
    [WRONG, resident("800230", "100000"), resident("801301", "100000"), resident("801232", "200000"), f"1{OLD}", f"{OLD}1", f"12-{OLD}",
    f"{OLD}-12",
     "123456-1234567", "800101-9******", "9788900000000"],
)  # fmt: skip
def test_what_is_no_date_or_part_of_more_or_fails_the_check_is_no_resident_number(text):
    assert kinds(text) == []


def test_a_leap_day_is_asked_of_its_century():
    assert kinds(resident("000229", "300000")) == ["resident-number"]  # 2000 had one
    assert kinds(resident("000229", "100000")) == []  # 1900 had none


# ── telephones ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "number",
    ["010-1234-5678", "01012345678", "010 1234 5678", "010.1234.5678", "011-123-4567", "019-1234-5678", "02-123-4567", "02)123-4567",
    "(02) 123-4567",
     "031-123-4567", "064)123-4567", "070-1234-5678", "0505-123-4567", "+82-10-1234-5678", "+82 10 1234 5678", "+821012345678",
     "+82-2-123-4567",
     "+82 (0)10-1234-5678",
     "010 - 1234 - 5678", "(010)1234-5678", "(010) 1234-5678", "010)1234-5678", "010\u20101234\u20105678", "010\u20111234\u20115678",
     "０１０－１２３４－５６７８", "（０２）１２３－４５６７", "02 123 4567", "031 123 4567", "02 - 123 - 4567", "(02) - 123 - 4567",
     "82-10-1234-5678",
     "010-12345678", "0101234-5678", "070)1234-5678", "010-1111-0000"],
)  # fmt: skip
def test_telephones_of_korea(number):
    assert mask(f"연락처 {number}로") == "연락처 <전화번호>로"
    assert mask(f"연락처:{number}, 또는") == "연락처:<전화번호>, 또는"


@pytest.mark.parametrize(
    "text",
    ["1588-1234", "1577-0000", "080-123-4567", "제10조제2항", "2010. 12. 3.", "2010-12-03", "1,000,000원", "010원", "02-2010",
    "20101012345678", "01012345678원",
     "010-1234-56789", "3010-1234-5678", "1-010-1234-5678", "010-1234-5678-9", "978-89-010-1234-5", "021234567",
     "2진수 0110101010", "01101010101", "01010101010",
     "010 1010 1010", "0111234567", "07012345678", "3 02 123 4567", "02 123 4567 8", "1821012345678", "821012345678", "182-10-1234-5678",
     "０.０１０１２３４５６７８",
     "예산 02,123,4567", "012-345-6789",
     "0.01012345678", "035-123-4567", "10-1234-5678"],
)  # fmt: skip
def test_what_is_no_telephone_of_a_person(text):
    assert mask(text) == text


# ── cards ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "number",
    [VISA, groups(VISA, "-", 4, 4, 4, 4), groups(VISA, " ", 4, 4, 4, 4), groups(card("510000000000000"), "-", 4, 4, 4, 4),
     groups(card("222100000000000"), "-", 4, 4, 4, 4), groups(card("34000000000000"), "-", 4, 6, 5), groups(card("3600000000000"), "-", 4,
     6, 4),
     groups(card("940000000000000"), "-", 4, 4, 4, 4), groups(card("620000000000000000"), " ", 4, 4, 4, 4, 3), card("352800000000000")],
)  # fmt: skip
def test_cards_of_the_networks(number):
    assert luhn("".join(d for d in number if d.isdigit()))
    assert mask(f"카드 {number}로 결제") == "카드 <카드번호>로 결제"


@pytest.mark.parametrize(
    "text",
    [VISA[:-1] + str((int(VISA[-1]) + 1) % 10), card("100000000000000"), card("800000000000000"), f"1{VISA}", f"{VISA}0", f"1-{VISA}",
    f"{VISA}-1", f"0.{VISA}",
     "1234 " + groups(VISA, " ", 4, 4, 4, 4), groups(VISA, " ", 4, 4, 4, 4) + " 1234567", groups(VISA, "-", 4, 4, 4, 4) + "-1234567",
     VISA[:4] + "-" + VISA[4:8] + " " + VISA[8:12] + "-" + VISA[12:], "1234567890123456", "0000-0000-0000-0000"],
)  # fmt: skip
def test_a_wrong_check_digit_an_unknown_network_and_parts_of_more_are_no_cards(text):
    assert kinds(text) == []


# ── mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "address", ["gil@hanbit.example", "gil.dong+news@mail.hanbit.co.kr", "a_b-c%d@x1.kr", "G@EXAMPLE.COM", "12345@hanbit.example"]
)
def test_addresses_of_mail(address):
    assert mask(f"문의는 {address}로 하세요.") == "문의는 <전자우편>로 하세요."
    assert mask(f"({address})") == "(<전자우편>)"


@pytest.mark.parametrize("text", ["@gil", "gil@", "gil@hanbit", "길동@한빛", "a @ b.kr", "a@.kr", "a@b..kr", "3@5", "@", "골뱅이@ 표시"])
def test_what_is_no_address_of_mail(text):
    assert mask(text) == text


# ── all together ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_everything_is_found_in_order_with_its_place():
    text = f"{VISA} 010-1234-5678 {OLD} a@b.kr {FOREIGN}"
    found = find(text)
    assert [kind for kind, _, _ in found] == ["card", "phone", "resident-number", "e-mail", "foreigner-number"]
    assert [text[start:end] for _, start, end in found] == text.split()
    assert mask(text) == " ".join(STAND_INS[kind] for kind, _, _ in found)


def test_a_masked_text_has_nothing_more_to_mask():
    text = mask(f"{OLD} {NEW} {VISA} 02-123-4567,a@b.kr")
    assert find(text) == [] and mask(text) == text


def test_a_number_in_an_address_is_masked_with_it_and_not_twice():
    assert mask("01012345678@hanbit.example") in ("<전자우편>", "<전화번호>@hanbit.example")
    assert mask("gil01012345678@hanbit.example") == "<전자우편>"


def test_only_one_in_ten_random_numbers_passes_the_check_of_cards():
    chance = random.Random(3)
    found = sum(bool(kinds("4" + "".join(chance.choices("0123456789", k=15)))) for _ in range(2000))
    assert 140 < found < 260


def test_full_width_numbers_of_every_kind_are_found_in_their_place():
    wide = str.maketrans("0123456789-", "０１２３４５６７８９－")
    text = f"가 {OLD.translate(wide)} 나 {VISA.translate(wide)} 다"
    assert mask(text) == "가 <주민등록번호> 나 <카드번호> 다"
    assert mask("제１０조제２항 １，０００，０００원") == "제１０조제２항 １，０００，０００원"


@pytest.mark.parametrize(
    "unit",
    [
        "０",
        "０－",
        "010 - ",
        "(010)",
        "1",
        "1-",
        "1 ",
        "12345678-",
        "010",
        "010-",
        "(02)",
        "+82",
        "a",
        "a@",
        "@.",
        "a.",
        "a@a.",
        "a@a-",
        "4000 ",
        "800101-",
        "1)",
    ],
)
def test_time_is_linear_in_whatever_comes(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()  # of this process alone: other work on the machine does not count
    mask(text)
    assert time.process_time() - start < 10, unit
