"""Numbers and addresses of persons: found by form and check digit, and replaced by the name of what stood there.

A model should neither learn a person's number nor meet a hole in the sentence: `<전화번호>` keeps the sentence whole,
says what it was about, and can be searched for in what a model writes. What names a company and no person
(1588-0000, 080) stays, as do numbers of which neither form nor check digit is sure: bank accounts, passports.
"""

import datetime
import re
from collections.abc import Callable
from typing import NamedTuple

RULE = "personal-data"  # the cleaning rule's name; what it takes away is shown nowhere
STAND_INS = {
    "resident-number": "<주민등록번호>",
    "foreigner-number": "<외국인등록번호>",
    "card": "<카드번호>",
    "phone": "<전화번호>",
    "e-mail": "<전자우편>",
}

# What digits and the signs between them are written with beside ASCII, character by character.
HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"
WIDE = "０１２３４５６７８９．（）＋\u3000"
ASCII = str.maketrans(HYPHENS + WIDE, "-" * len(HYPHENS) + "0123456789.()+ ")
NOT_ASCII = re.compile(f"[{HYPHENS}{WIDE}]")
# Nine digits with at most four signs between any two, as in (02) - 123 - 4567: fewer are none of the numbers below.
NUMBER = re.compile(f"[0-9０-９](?:[-.)( {HYPHENS}．（）\u3000]{{0,4}}[0-9０-９]){{8}}")

RESIDENT = re.compile(r"(?<![0-9])(?<![0-9][-.])([0-9]{6})( ?- ?| ?)([1-8][0-9]{6})(?![-.]?[0-9])")
CENTURY = {"1": 1900, "2": 1900, "3": 2000, "4": 2000, "5": 1900, "6": 1900, "7": 2000, "8": 2000}  # 5 to 8: foreigners
WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
# From this day on the last six digits are drawn at random (resident registration act, rules of enforcement, § 2).
WITHOUT_CHECK_DIGIT = datetime.date(2020, 10, 5)

BETWEEN = "(?: ?[-.] ?| )"
AREA = "0(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4])"
# The prefix as 010-, (010) or 010), two more groups, of which a mobile's and an internet telephone's may be written as one.
PREFIXED = rf"(?:(?:\({{0}}\)|{{0}}\)) ?-? ?|{{0}}{BETWEEN})[0-9]{{{{3,4}}}}"
MOBILE = rf"{PREFIXED.format('(?:01[016789]|070|050[2-8])')}{BETWEEN}?[0-9]{{4}}"
LANDLINE = rf"{PREFIXED.format(AREA)} ?[-.] ?[0-9]{{4}}|(?<![0-9] ){AREA} [0-9]{{3,4}} [0-9]{{4}}(?! [0-9])"
# In one, or after seven digits: every other prefix begins all kinds of numbers.
IN_ONE = "010[0-9]{4}[-.]?[0-9]{4}"
ABROAD = (
    rf"\+82{BETWEEN}?(?:\(0\){BETWEEN}?)?(?:[17]0|{AREA[1:]}){BETWEEN}?[0-9]{{3,4}}{BETWEEN}?[0-9]{{4}}"
    rf"|82 ?- ?(?:[17]0|{AREA[1:]}) ?- ?[0-9]{{3,4}} ?- ?[0-9]{{4}}"
)
PHONE = re.compile(rf"(?<![0-9])(?<![0-9][-.,])(?:{MOBILE}|{LANDLINE}|{IN_ONE}|{ABROAD})(?![-.,]?[0-9])(?! ?원)")

# As printed on cards (4-4-4-4, American Express 4-6-5, Diners 4-6-4), or 14 to 16 digits in one.
CARD = re.compile(
    r"(?<![0-9])(?<![0-9][-.,])"
    r"(?:[0-9]{4}([- ])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?|[0-9]{4}([- ])[0-9]{6}\2[0-9]{4,5}|[0-9]{14,16})"
    r"(?![-.,]?[0-9])(?!(?:\1|\2)[0-9])"
)
# First digits and lengths of the networks: Visa, Mastercard, American Express, Diners, JCB, Discover and UnionPay, Korea alone.
NETWORKS = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}|(?:5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|35[0-9]{14}|6[0-9]{15,18}|9[0-9]{15}"
)

# Up to 64 characters, and only from the first one of a run, so that a long run is read once (lengths: RFC 5321).
E_MAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)


class Found(NamedTuple):
    """kind: one of STAND_INS. start, end: of the text, in characters."""

    kind: str
    start: int
    end: int


def mask(text: str) -> str:
    """The text with stand-ins in place of what `find` finds."""
    pieces, position = [], 0
    for kind, start, end in find(text):
        pieces += text[position:start], STAND_INS[kind]
        position = end
    return "".join([*pieces, text[position:]]) if pieces else text


def find(text: str) -> list[Found]:
    """Every number and address in the order of the text; none overlaps another."""
    found: list[Found] = []
    if NUMBER.search(text):
        plain = text.translate(ASCII) if NOT_ASCII.search(text) else text  # as long as the text, so places are the same
        for pattern, kind_of in NUMBERS:
            spans = ((kind_of(match), *match.span()) for match in pattern.finditer(plain))
            found += (Found(*span) for span in spans if span[0])
    if "@" in text:
        found += (Found("e-mail", *match.span()) for match in E_MAIL.finditer(text))
    return _apart(sorted(found, key=lambda f: f.start))


def _apart(found: list[Found]) -> list[Found]:
    """Of two that overlap the one that begins first."""
    apart: list[Found] = []
    for one in found:
        if not apart or one.start >= apart[-1].end:
            apart.append(one)
    return apart


def _resident(match: re.Match) -> str | None:
    """A real date of birth and a right check digit; or a real date since October 2020, when the check digit was given up,
    and a hyphen, without which thirteen digits are any number. Older persons whose number was changed since are missed."""
    front, between, back = match.groups()
    birth = _date(CENTURY[back[0]] + int(front[:2]), int(front[2:4]), int(front[4:]))
    if birth is None:
        return None
    kind = "resident-number" if back[0] in "1234" else "foreigner-number"
    if back[-1] == check_digit(front + back):
        return kind
    return kind if birth >= WITHOUT_CHECK_DIGIT and between.strip() else None


def check_digit(number: str) -> str:
    """The thirteenth digit that belongs to the first twelve of a resident or a foreigner's number."""
    total = sum(weight * int(digit) for weight, digit in zip(WEIGHTS, number, strict=False))
    return str((11 - total % 11 + (2 if number[6] in "5678" else 0)) % 10)


def _date(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def _phone(match: re.Match) -> str | None:
    """Only 0s and 1s with nothing but spaces between them are a number in base two."""
    return "phone" if re.search("[^01 ]", match.group()) else None


def _card(match: re.Match) -> str | None:
    if match[1] == " " and re.search("[0-9] $", match.string[max(0, match.start() - 2) : match.start()]):
        return None  # the end of a longer row of groups
    digits = re.sub("[^0-9]", "", match.group())
    return "card" if NETWORKS.fullmatch(digits) and luhn(digits) else None


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others by ISO/IEC 7812: every second digit from the right is doubled."""
    doubled = sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (sum(int(d) for d in digits[-1::-2]) + doubled) % 10 == 0


NUMBERS: list[tuple[re.Pattern, Callable[[re.Match], str | None]]] = [(RESIDENT, _resident), (CARD, _card), (PHONE, _phone)]
