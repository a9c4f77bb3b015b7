"""Cleaning of single documents. Every rule has a name and is counted; nothing vanishes in silence.

Korean first: NFC at the door, for text from macOS spells 한 as three jamo and would be other tokens; ㅋㅋㅋㅋ,
1000원, hanja and archaic Hangul pass untouched.
"""

import difflib
import html.entities
import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

from openko.corpus import personal
from openko.corpus.filters import hangul_share, is_hangul
from openko.errors import InputError

__all__ = ["CLEANERS", "FOR_READER", "USUAL", "clean", "hangul_share", "is_hangul"]

# ── masks of the Modu corpora ────────────────────────────────────────────────────────────────────────────────────

# The names that stand between two & in the Modu corpora, and what a model is to see: the form of `personal.STAND_INS`.
MASKS = {
    "name": "이름", "affiliation": "소속", "company": "회사", "brand": "상표", "art": "작품", "location": "장소", "address": "주소",
    "tel-num": "전화번호", "social-security-num": "주민등록번호", "card-num": "카드번호", "bank-account": "계좌번호", "account": "계좌번호",
    "online-account": "계정", "num": "번호", "other": "기타", "others": "기타",
}  # fmt: skip
WORDS = "[A-Za-z]{1,24}(?:-[A-Za-z]{1,24}){0,2}"
MASK = re.compile(
    r"[&＆] ?(?P<closed>[A-Za-z]{2,24}(?:[-_ ][A-Za-z]{1,24}){0,2})(?: ?(?P<of_closed>[0-9]{1,3}))?(?:[&＆]| [&＆](?![A-Za-z]))"
    rf"|[&＆](?P<open>{WORDS})(?P<of_open>[0-9]{{0,3}})(?![A-Za-z0-9;=&＆-])"
    rf"|(?<![A-Za-z&＆-])(?P<ended>{WORDS})(?P<of_ended>[0-9]{{0,3}})[&＆](?![A-Za-z])"
)


def name_modu_masks(text: str) -> str:
    """`&name1&` becomes `<이름1>`: the number tells two persons apart. Names in all their misspellings (nmae, affifiation)
    where both & stand, in the right spelling where one is missing; what is no name stays: R&D, A & B."""
    return MASK.sub(_stand_in, text) if "&" in text or "＆" in text else text


def _stand_in(match: re.Match) -> str:
    kind = next(k for k in ("closed", "open", "ended") if match[k])
    written = re.sub("[_ ]", "-", match[kind].lower())
    name = _mask_name(written) if kind == "closed" else MASKS.get(written)
    return f"<{name}{match[f'of_{kind}'] or ''}>" if name else match.group()


@lru_cache(10_000)
def _mask_name(written: str) -> str | None:
    """0.75: one letter of four is another one, or two have changed places."""
    nearest = difflib.get_close_matches(written[:30], MASKS, n=1, cutoff=0.75)
    return MASKS[nearest[0]] if nearest else None


# ── characters ───────────────────────────────────────────────────────────────────────────────────────────────────

# However often the & itself was written as an entity: &amp;amp;lt; is <.
ENTITY = re.compile(r"&(?:(?:amp|#0*38|#[xX]0*26);)*(?P<last>[A-Za-z][A-Za-z0-9]{1,31};|#[0-9]{1,7};|#[xX][0-9A-Fa-f]{1,6};)")


def decode_entities(text: str) -> str:
    """HTML's entities, with their semicolon only: ?a=1&copy=2 is an address."""
    return ENTITY.sub(_character, text) if "&" in text and ";" in text else text


def _character(match: re.Match) -> str:
    last = match["last"]
    return html.unescape("&" + last) if last[0] == "#" else html.entities.html5.get(last, "&" + last)


# Bytes 80 to BF of UTF-8 as cp1252 and latin-1 show them. A syllable of Hangul is EA to ED and two of them.
TAIL = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
MISREAD = re.compile(rf"[\xe1-\xef]{TAIL}{{2}}|[\xc2-\xdf]{TAIL}")
MISREAD_HANGUL = re.compile(rf"[\xea-\xed]{TAIL}{{2}}")
ACCENTED = re.compile("[\xc0-\xff]")
BYTES = {chr(b): b for b in range(0x80, 0x100)} | {
    bytes([b]).decode("cp1252"): b for b in range(0x80, 0xA0) if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}


def mend_mojibake(text: str) -> str:
    """Lines of UTF-8 that were read as latin-1 or cp1252 (ì•ˆë…• for 안녕). Only where there is no doubt: at least two Hangul
    syllables come out, and no other letter with an accent stands in the line."""
    if not any(lead in text for lead in "\xea\xeb\xec\xed") or not MISREAD_HANGUL.search(text):
        return text
    return "\n".join([_mended(line) if MISREAD_HANGUL.search(line) else line for line in text.split("\n")])


def _mended(line: str) -> str:
    mended = MISREAD.sub(_read_again, line)
    syllables = sum("가" <= _read_again(match) <= "힣" for match in MISREAD_HANGUL.finditer(line))
    return line if syllables < 2 or ACCENTED.search(mended) else mended


def _read_again(match: re.Match) -> str:
    try:
        return bytes(BYTES[c] for c in match.group()).decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


# C0 and C1, soft hyphen, zero-width and direction marks, halves of surrogate pairs. ZWJ and ZWNJ stay: emoji are made of them.
CONTROLS = "\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
SPACES, LINE_ENDS = "\xa0\u2000-\u200a\u202f\u205f", "\r\x0b\x0c\u2028\u2029"
UNUSUAL = re.compile(f"[{CONTROLS}{SPACES}{LINE_ENDS}]")
CONTROL, ODD_SPACE, LINE_END = re.compile(f"[{CONTROLS}]"), re.compile(f"[{SPACES}]"), re.compile(f"\r\n|[{LINE_ENDS}]")


def drop_control_characters(text: str) -> str:
    """Control and zero-width characters go; tab and newline stay. Other line ends and form feeds become newlines, no-break
    spaces and spaces of a fixed width plain ones (U+3000, which indents, stays)."""
    if not UNUSUAL.search(text):
        return text
    return CONTROL.sub("", ODD_SPACE.sub(" ", LINE_END.sub("\n", text)))


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# ── parentheses ──────────────────────────────────────────────────────────────────────────────────────────────────

HANJA = r"\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff"
GLOSS = re.compile(rf"[(（](?P<first>[{HANJA}]+)[{HANJA} ,·ㆍ、]*[)）](?:[(（][{HANJA}][{HANJA} ,·ㆍ、]*[)）])*")


def drop_hanja_glosses(text: str) -> str:
    """대한민국(大韓民國) becomes 대한민국: parentheses with nothing but hanja, directly after a word of Hangul with as many
    syllables as the first hanja word has characters. So 미국(美) and 아름다움(美), which are no glosses, stay, and so does
    hanja outside of parentheses."""
    return GLOSS.sub(_unless_gloss, text) if "(" in text or "（" in text else text


def _unless_gloss(match: re.Match) -> str:
    text, end, size = match.string, match.start(), len(match["first"])
    word = text[max(0, end - size) : end]
    before = text[end - size - 1 : end - size] if end > size else ""
    is_word = len(word) == size and all("가" <= c <= "힣" for c in word) and not "가" <= before <= "힣"
    return "" if is_word else match.group()


EMPTY = re.compile(r"[(（](?:[ ,;:·ㆍ]|[(（][ ,;:·ㆍ]*[)）])*[)）]")
EMPTIES = re.compile(rf" ?{EMPTY.pattern}(?: ?{EMPTY.pattern})*")
CLOSES_WORD = re.compile(rf"[가-힣{HANJA}」』》〉’”\]]")


def drop_emptied_parentheses(text: str) -> str:
    """서울( , )은 becomes 서울은: what is left where someone took foreign words away. For texts of which that is known, as of
    Wikipedia: in others 성명( ) is to be filled in and 함수() is a call. Only after Korean, so main() stays, and so do (    ),
    ( ) at the end of a word, 괄호( ) and the tears of (;;)."""
    return EMPTIES.sub(_unless_emptied, text) if EMPTY.search(text) else text


def _unless_emptied(match: re.Match) -> str:
    text, start, found = match.string, match.start(), match.group()
    if not start or not CLOSES_WORD.match(text[start - 1]) or text.startswith("괄호", max(0, start - 2)):
        return found
    inner = re.sub("[()（）]", "", found.removeprefix(" "))
    if ";;" in inner:
        return found
    directly_between = found[0] != " " and "가" <= text[match.end() : match.end() + 1] <= "힣"
    emptied = bool(inner.strip()) or not inner or (inner == " " and directly_between)
    return "" if emptied else found


# ── plain Wikipedia ──────────────────────────────────────────────────────────────────────────────────────────────

# fmt: off
ENDINGS = frozenset((
    "각주", "주석", "각주 및 참고 문헌", "같이 보기", "함께 보기", "관련 항목", "외부 링크", "바깥 고리", "참고 문헌", "참고 자료",
    "출처", "갤러리",
))
# fmt: on
REMNANT = re.compile(r"\[*(?:분류|Category):[^\s][^\n]{0,200}|(?:섬네일|썸네일|thumb|[0-9]{2,4}px)\|[^\n]*")
LANGUAGE = (
    "영어|한자|일본어|중국어|프랑스어|독일어|라틴어|러시아어|스페인어|이탈리아어|포르투갈어|네덜란드어|아랍어|그리스어"
    "|문화어|병음|간체|정체|로마자"
)
REMAINS = re.compile(f"{'|'.join(sorted(ENDINGS))}|분류:|Category:|[섬썸]네일\\||thumb\\||px\\|")
IN_PARENTHESES = re.compile(r"\([^()\n]{1,300}\)")
NO_WORD = re.compile(rf"(?<=[(,;]) *(?:{LANGUAGE}) ?: ?(?=[,;)])")
LEADING, TRAILING = re.compile(r"\( *[,;:·][ ,;:·]*"), re.compile(r"[ ,;·]*[,;·] *\)")
SEVERAL = re.compile(r"([,;])(?: *[,;])+")


def drop_wiki_leftovers(text: str) -> str:
    """What others' conversions of Wikipedia to plain text leave behind: headings of sections that hold nothing (각주, 외부 링크),
    lines of categories and pictures, and in parentheses languages without a word: (영어: , 1545년) becomes (1545년)."""
    if "(" in text:
        text = IN_PARENTHESES.sub(_without_gaps, text)
    if REMAINS.search(text):
        text = _without_remnants(text)
    return text


def _without_gaps(match: re.Match) -> str:
    found, before = match.group(), match.string[max(0, match.start() - 2) : match.start()].rstrip(" ")[-1:]
    if not ("," in found or ";" in found or ":" in found or "·" in found) or not CLOSES_WORD.match(before):
        return found
    filled = NO_WORD.sub("", found) if ":" in found else found
    return TRAILING.sub(")", LEADING.sub("(", SEVERAL.sub(r"\1", filled)))


def _without_remnants(text: str) -> str:
    """From the last line up, for a heading is empty where the next line is a heading of this kind or there is none."""
    kept, is_empty = [], True
    for line in reversed(text.split("\n")):
        content = line.strip("= \t\u3000")
        if REMNANT.match(content) or (is_empty and content in ENDINGS):
            continue
        kept.append(line)
        is_empty = content in ENDINGS or (is_empty and not content)
    return "\n".join(reversed(kept))


# ── lines that every page of a site carries ──────────────────────────────────────────────────────────────────────

# fmt: off
MENU = frozenset((
    "페이스북", "트위터", "카카오톡", "카카오스토리", "카카오", "네이버", "네이버블로그", "네이버밴드", "블로그", "밴드", "라인",
    "텔레그램", "인스타그램", "유튜브", "핀터레스트", "구글", "링크", "링크복사", "URL", "URL복사", "주소복사", "복사", "공유",
    "공유하기", "이메일", "메일", "인쇄", "프린트", "스크랩", "좋아요", "댓글", "글자크기", "가", "본문", "닫기", "로그인", "로그아웃",
    "회원가입", "마이페이지", "고객센터", "사이트맵", "장바구니", "전체메뉴", "메뉴", "검색", "공지사항", "이용약관", "개인정보처리방침",
    "개인정보취급방침",
    "청소년보호정책", "이메일무단수집거부", "회사소개", "광고문의", "제휴문의", "찾아오시는길", "목록", "이전글", "다음글",
    "이전", "다음", "홈",
))
# One of these at least is in a menu; the others alone (검색 | 목록) may be a line of a text.
SURE = frozenset((
    "페이스북", "트위터", "카카오톡", "카카오스토리", "로그인", "회원가입", "공유하기", "이용약관", "개인정보처리방침", "이전글", "스크랩",
))
# fmt: on
BETWEEN = re.compile(r"[|·ㆍ/,>&+\s-]+")
MAIL = r"(?:[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{3,80}|<전자우편>)"
PERSON = "[가-힣]{2,4}"
NO_SENTENCE = r"(?:(?!다\.)[^:!?])"
CLOSING = r"[ .>\])】」]{0,4}"
RIGHTS, RESERVED = "저작권자|[Cc]opyrights?|COPYRIGHTS?", "[Rr]eserved|RESERVED"
MEDIA = r"(?:신문|일보|뉴스|방송|닷컴|미디어|타임[스즈]|통신|경제|\.com|\.kr|\.net)"
# Each is a line as a whole.
BOILERPLATE: dict[str, str] = {
    "no-reprint": rf"{NO_SENTENCE}{{0,80}}무단 ?(?:전재|복제|복사|배포|게재|도용)[^.!?]{{0,50}}(?:금지|금합니다|금함|불허){CLOSING}",
    "copyright": (
        rf"[<\[(【「]{{0,2}} ?(?:(?:{RIGHTS})? ?[ⓒ©]|(?:{RIGHTS}) ?\([cC]\)) ?"
        rf"(?:{NO_SENTENCE}{{1,40}}{MEDIA}|(?:19|20)[0-9]{{2}}\b.{{0,80}}|.{{1,80}}(?:{RESERVED})){CLOSING}"
        # (c) alone is the third of a list: (c) 국제 경제, (c) 2019 회계연도 보고서 제출
        rf"|\([cC]\) ?(?:19|20)[0-9]{{2}}\b.{{1,80}}(?:{RESERVED}|저작권){CLOSING}"
    ),
    "reporter": (
        rf"[/\[(=◇▶]{{0,2}} ?(?:[가-힣A-Za-z]{{1,12}}[=·/ ]{{1,3}})?{PERSON}(?:[·,/ ]{{1,2}}{PERSON})? (?:선임|전문|인턴|객원|수습)?기자"
        rf"(?: ?=| ?[\])/]| ?[(/<]?{MAIL}[)/>]?)\]?"
        rf"|[\[(][가-힣]{{2,8}}=[가-힣]{{2,12}}[\])] ?{PERSON} (?:선임|전문|인턴|객원|수습)?기자 ?=?"
    ),
    "related-articles": (
        r"[▶▷■□◆◇●○☞※*\[<\- ]{0,4}(?:관련 ?(?:기사|뉴스)|(?:가장 )?많이 본 (?:뉴스|기사)|(?:인기|추천) ?기사)"
        r"(?: ?(?:보기|더 ?보기|목록))?[\]> :]{0,3}"
    ),
    "share-buttons": (r"(?:이|본) ?기사를 공유합니다|기사 ?(?:공유|스크랩)(?:하기)?|글자 ?크기 ?(?:조절|변경|설정|크게|작게)"),
    "navigation": (
        r"(?:본문|주메뉴|메뉴|하단|콘텐츠|컨텐츠)(?: ?영역)?(?:으로|로)? ?(?:바로 ?가기|건너뛰기)"
        r"|(?:페이지 )?(?:맨 위로|위로 가기)(?: 이동)?"
    ),
    "cookies": (
        r"(?:이|본|저희|당사) (?:웹 ?)?사이트(?:는|에서는) [^.]{0,60}쿠키를 (?:사용|이용)(?:합니다|하고 있습니다)\.?"
        r"(?: [^.]{0,80}(?:동의|확인|수락|설정)[^.]{0,30}\.?)?"
    ),
    "subscribe": r"[▶▷☞\[<\- ]{0,4}(?:(?:네이버|카카오|다음|유튜브|채널|뉴스레터)[^.!?]{0,30} )?(?:구독하기|제보하기)[\]> ]{0,3}",
}
LINE = re.compile("|".join(f"(?:{pattern})" for pattern in BOILERPLATE.values()))
LONGEST = 200  # characters of such a line; keeps the expressions above to bounded work
# A text with such a line, or with a menu, holds one of these.
HINT = re.compile(
    r"무단|ⓒ|©|\([cC]\)|기자|기사|관련 ?뉴스|많이 본|공유|스크랩|글자 ?크기|바로 ?가기|건너뛰기|위로|쿠키|구독하기|제보하기"
    "|페이스북|트위터|카카오|로그인|회원가입|이용약관|개인정보처리방침|이전글"
)


def drop_boilerplate(text: str) -> str:
    """Notices of copyright, reporters' lines, buttons and menus: whole lines only, so that a sentence about them stays."""
    enumerates = "ⓑ" in text or "(b)" in text or "(B)" in text  # then ⓒ is the third of a list and no copyright
    kept, start, seen = [], 0, 0  # kept: what comes before start, without such lines; seen: the end of the last line that was judged
    for hint in HINT.finditer(text):
        if hint.start() < seen:
            continue
        first, last = text.rfind("\n", seen, hint.start()) + 1 or seen, text.find("\n", hint.end())
        seen = last + 1 if last >= 0 else len(text)
        if seen - first <= LONGEST and _is_boilerplate(text[first:seen].strip(), enumerates):
            kept.append(text[start:first])
            start = seen
    return "".join([*kept, text[start:]]) if kept else text


def _is_boilerplate(line: str, enumerates: bool) -> bool:
    if enumerates and line.startswith(("ⓒ", "(c)", "(C)")):
        return False
    if LINE.fullmatch(line):
        return True
    words = {word for word in BETWEEN.split(line) if word}
    return len(words) > 1 and words <= MENU and not words.isdisjoint(SURE)


# ── spaces, and all of it ────────────────────────────────────────────────────────────────────────────────────────

EMPTY_LINES = re.compile("\n{3,}")
# tiktoken's expression for Llama-3 overflows its stack somewhere between 200,000 and 1,000,000 blanks without a line end, and the
# packing with it. Runs of as many letters, signs, digits, line ends do it no harm. No table is 1,000 blanks wide. The blank
# before the run is asked for first, so that a run is tried from its beginning alone.
LONG_BLANK = re.compile(r"(?<![^\S\n])([^\S\n]{1000})[^\S\n]+")


def tidy_spaces(text: str) -> str:
    """Spaces at the ends of lines, runs of more than one empty line, and what surrounds the text. Spaces inside of lines
    stay, 1,000 in a row at most: they indent code and set tables and forms."""
    lines = [line.rstrip() for line in text.split("\n")]
    text = "\n".join([LONG_BLANK.sub(r"\1", line) if len(line) > 1000 else line for line in lines])
    return (EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


# In the order in which they are applied, whatever the order in a recipe.
CLEANERS: dict[str, Callable[[str], str]] = {
    "modu-masks": name_modu_masks,  # before entities, whose & they share
    "entities": decode_entities,  # may hide anything that the others look for
    "mojibake": mend_mojibake,  # before the control characters, for they are bytes of it
    "control-characters": drop_control_characters,  # before nfc, for jamo may stand on both sides of one
    "nfc": nfc,
    "wiki-leftovers": drop_wiki_leftovers,
    "hanja-glosses": drop_hanja_glosses,
    "emptied-parentheses": drop_emptied_parentheses,
    "boilerplate": drop_boilerplate,
    personal.RULE: personal.mask,
    "spaces": tidy_spaces,
}
# Reader: the rules that its texts need beside the usual ones. A source adds others by name, such as one of Wikipedia as parquet.
# A law that glosses 기피(忌避) means to; in Wikipedia every other name has such a gloss, or had one.
FOR_READER: dict[str, tuple[str, ...]] = {
    "wikipedia": ("wiki-leftovers", "hanja-glosses", "emptied-parentheses"),
    "modu": ("modu-masks",),
}
# Of every text.
USUAL = tuple(name for name in CLEANERS if not any(name in rules for rules in FOR_READER.values()))
PASSES = 8  # at most; what is still not done then was nested on purpose


def clean(text: str, rules: tuple[str, ...] = USUAL) -> tuple[str, dict[str, int]]:
    """The cleaned text, and for each rule that changed it by how many UTF-8 bytes it became shorter (below 0: longer).

    What one rule leaves may be work for an earlier one (a decoded &#8203; is a control character): the rules are applied
    again until none but the last finds anything, so that cleaning a cleaned text changes nothing.
    """
    shorter: dict[str, int] = {}
    for _ in range(PASSES):
        found_more = False
        for name, rule in _in_order(rules):
            cleaned = rule(text)
            if cleaned != text:
                shorter[name] = shorter.get(name, 0) + _size(text) - _size(cleaned)
                found_more |= name != "spaces"  # the spaces that it takes are seen by no other rule
                text = cleaned
        if not found_more:
            break
    return text, shorter


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


@cache
def _in_order(rules: tuple[str, ...]) -> tuple[tuple[str, Callable[[str], str]], ...]:
    unknown = [name for name in rules if name not in CLEANERS]
    if unknown:
        raise InputError(f"clean: {unknown[0]!r} is no rule of cleaning: there are {', '.join(CLEANERS)}")
    return tuple((name, rule) for name, rule in CLEANERS.items() if name in rules)
