"""Korean Wikipedia's markup to plain text, with mwparserfromhell as the parser.

Kept: running text, headings as lines of their own, words of links, items of lists, the words that a few sure templates show.
Dropped: other templates, references, tables, pictures, categories, and the closing sections that only point elsewhere.
"""

import html
import re
from collections import Counter
from collections.abc import Callable

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode

REDIRECT = re.compile(r"\s*#\s*(?:넘겨주기|redirect)", re.IGNORECASE)
CLOSING = re.compile(
    r"^==\s*(?:각주|주석|각주 및 참고 ?문헌|같이 보기|함께 보기|관련 항목|외부 링크|바깥 고리|참고 문헌|참고 자료|출처)\s*==[ \t]*$",
    re.MULTILINE,
)
NEXT_SECTION = re.compile(r"^==[^=]", re.MULTILINE)
SECTIONS = re.compile(r"^(?==)", re.MULTILINE)
COMMENTS_AND_REFERENCES = re.compile(
    r"(?P<comment><!--)|(?P<comment_end>-->)"
    r"|(?P<whole><ref\b[^<>]{0,500}/>)|(?P<reference><ref\b[^<>]{0,500}>)|(?P<reference_end></ref\s{0,9}>)",
    re.IGNORECASE,
)
ENDED_BY = {"comment": "comment_end", "reference": "reference_end"}

# What is open, by what closes it again.
OPENED_BY = {"}}": "{{", "]]": "[[", "|}": "{|", "]": "[", "</": "<", "/>": "<"}
OPENING = frozenset((*OPENED_BY.values(), "<!--"))
MARK = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}(?!\})|\[(?=https?:|//)|\]|<!--|</(?=[a-z])|/>|<(?=[a-z])(?!(?:br|hr|wbr)\b)|''|^[*#:;]",
    re.IGNORECASE | re.MULTILINE,
)
# The parser goes back to every bracket that nobody closes and reads on from there: 70 ns for each character and open bracket
# were measured, 30 μs for a link or template, 10 μs for a call. In units of 70 ns, one and a half seconds for an article; a
# usual one takes a hundredth. What comes after that is left to expressions.
MOST_WORK = 20_000_000
OF_MARK, OF_CALL = 200, 150
LONG_SIGN = re.compile(r"^[*#:;]{9,}", re.MULTILINE)  # no list, but the parser would make a node of each

DROPPED = frozenset(["파일", "그림", "file", "image", "미디어", "media", "분류", "category"])  # namespaces of pictures and categories
# fmt: off
LANGUAGES = frozenset((  # of the Wikipedias that articles were linked to, in links which stood beside the text
    "aa", "ar", "be", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "eo", "es", "et", "eu", "fa", "fi", "fr", "ga", "gl", "he",
    "hi", "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "kk", "la", "lt", "lv", "mk", "mn", "ms", "my", "nl", "nn", "no", "pl", "pt",
    "ro",
    "ru", "simple", "sk", "sl", "sq", "sr", "sv", "ta", "th", "tl", "tr", "uk", "ur", "uz", "vi", "zh", "zh-classical", "zh-yue",
))
# fmt: on
WITHOUT_TEXT = frozenset(
    ["ref", "references", "table", "gallery", "timeline", "score", "imagemap", "templatestyles", "section", "mapframe", "hr"]
)
LANGUAGE_NAMES = {
    "ar": "아랍어", "de": "독일어", "el": "그리스어", "en": "영어", "es": "스페인어", "fr": "프랑스어", "it": "이탈리아어", "ja": "일본어",
    "ko": "한국어", "la": "라틴어", "nl": "네덜란드어", "pt": "포르투갈어", "ru": "러시아어", "vi": "베트남어", "zh": "중국어",
}  # fmt: skip
# Templates that carry running text in Korean Wikipedia, which is their last parameter without a name, or their first.
LAST_SHOWN = frozenset(["lang", "llang"])
FIRST_SHOWN = frozenset((
    "한자", "nowrap", "nobr", "작게", "small", "크게", "big", "국기", "국기나라", "flag", "언어링크", "ill", "인용문", "인용", "quote",
    "루비", "ruby",
))  # fmt: skip
CONVERTED = frozenset(["convert", "변환"])  # {{convert|10|km|mi}}: what was measured is shown first
NUMBER, DECIMAL = re.compile(r"\d{1,18}", re.ASCII), re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?", re.ASCII)
UNIT = re.compile(r"[^\W\d_][\w²³/°·]{0,15}|[°%℃℉㎞㎡]\w?")
# A person's age is of the day on which the page is seen, so it goes, and the parentheses that it stands in.
AGE = re.compile(r" ?[((](?:만 ?)?\{\{(?:만 ?)?나이\|[^{}]{0,200}\}\} ?세?[))]")
AS_WRITTEN = frozenset(["nowiki", "pre", "syntaxhighlight", "source"])

LEFT_OVER = re.compile(r"'{2,}|__(?:[A-Z]{3,}|[가-힣]{2,8})__|^[ \t]*(?:\{\||\|\}|\|-)[^\n]*$", re.MULTILINE)

# For the sections that are not parsed.
INNERMOST = re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}")
NOT_TEXT = re.compile(
    r"\[\[(?:파일|그림|File|Image|미디어|분류|Category):[^\[\]]{0,1000}\]\]|</?[a-zA-Z][^<>]{0,500}>|^[ \t]*[|!][^\n]*$", re.MULTILINE
)
LINE_BREAK = re.compile(r"<br\s{0,9}/?>", re.IGNORECASE)
LINK = re.compile(r"\[\[(?:[^\[\]|\n]{0,300}\|)?([^\[\]|\n]{0,300})\]\]")
ADDRESS = re.compile(r"\[https?:[^\s\[\]]{1,2000} ?([^\[\]\n]{0,300})\]")
TITLE = re.compile(r"^(={1,6})[ \t]*([^=\n]{1,300})[ \t]*={1,6}[ \t]*$", re.MULTILINE)
SIGN = re.compile(r"^[*#:;]+[ \t]*|\{\{|\}\}|\[\[|\]\]", re.MULTILINE)
DEPTH = 40  # of templates in templates, as the parser has it


def plain(wikitext: str) -> str:
    """The text of one article, "" for a redirection. In bounded time whatever stands in it: what has more brackets than any
    article is stripped by expressions, which know links and templates but not their exceptions."""
    if REDIRECT.match(wikitext):
        return ""
    text = _without_closing_sections(_without_comments_and_references(wikitext))
    shown, work = [], 0
    for section in SECTIONS.split(LONG_SIGN.sub("", AGE.sub("", text))):
        work += _work(section)
        shown.append(_expressions(section) if work > MOST_WORK else _parsed(section))
    lines = LEFT_OVER.sub("", "".join(shown)).split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join([line.rstrip() for line in lines])).strip()


def _without_comments_and_references(text: str) -> str:
    """Half of an article's markup is in its references: without them the parser has half the work. One pass; a comment or
    reference that nobody closes is left as it stands."""
    kept, start = [], 0
    opened, end = None, ""  # where the comment or reference begins that we are in, and which mark ends it
    for mark in COMMENTS_AND_REFERENCES.finditer(text):
        kind = mark.lastgroup
        if opened is None and kind in ENDED_BY:
            opened, end = mark.start(), ENDED_BY[kind]
        elif kind == end or (opened is None and kind == "whole"):
            kept.append(text[start : mark.start() if opened is None else opened])
            start, opened, end = mark.end(), None, ""
    return "".join([*kept, text[start:]])


def _without_closing_sections(text: str) -> str:
    """Without 각주, 외부 링크 and their like, each up to the next section of its level, and with the categories below the last."""
    kept, start = [], 0
    for heading in CLOSING.finditer(text):
        if heading.start() >= start:
            kept.append(text[start : heading.start()])
            after = NEXT_SECTION.search(text, heading.end())
            start = after.start() if after else len(text)
    return "".join([*kept, text[start:]])


def _parsed(section: str) -> str:
    try:
        return _text(mwparserfromhell.parse(section))
    except mwparserfromhell.parser.ParserError:  # it lost its way, which its authors call a fault of their own
        return _expressions(section)


def _work(section: str) -> int:
    """In units of 70 ns; above all, characters times brackets that are opened and not closed again."""
    opened: Counter[str] = Counter()
    marks = 0
    for mark in MARK.finditer(section):
        marks += 1
        found = mark.group()
        if found not in OPENED_BY:
            opened[found] += found in OPENING
        elif opened[OPENED_BY[found]]:
            opened[OPENED_BY[found]] -= 1
    return len(section) * opened.total() + marks * OF_MARK + OF_CALL


def _text(code: Wikicode) -> str:
    pieces, after_sign = [], False
    for node in code.nodes:
        piece = SHOW[type(node)](node)
        pieces.append(piece.lstrip(" ") if after_sign else piece)
        after_sign = _is_list_sign(node)
    return "".join(pieces)


def _is_list_sign(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Tag) and bool(node.wiki_markup) and node.tag in ("li", "dd", "dt")


def _of_link(node: nodes.Wikilink) -> str:
    title = str(node.title).strip()
    namespace, colon, _ = title.partition(":")  # with a colon before it, [[:분류:서울]] is a link as any other
    if colon and (namespace.strip().lower() in DROPPED or namespace.strip() in LANGUAGES):
        return ""
    return (_text(node.text) if node.text is not None else "") or title.lstrip(":")


def _of_address(node: nodes.ExternalLink) -> str:
    if node.title is not None:
        return _text(node.title)
    return "" if node.brackets else str(node.url)


def _of_template(node: nodes.Template) -> str:
    name = str(node.name).strip().lower()
    values = [_text(p.value).strip() for p in node.params if not p.showkey]
    if name.startswith("formatnum:"):
        number = name.removeprefix("formatnum:").strip()
        return f"{int(number):,}" if NUMBER.fullmatch(number) else number if DECIMAL.fullmatch(number) else ""
    if not values:
        return ""
    if name in CONVERTED:
        return f"{values[0]} {values[1]}" if len(values) > 1 and DECIMAL.fullmatch(values[0]) and UNIT.fullmatch(values[1]) else ""
    if name.startswith("lang-"):
        return _in_language(name.removeprefix("lang-"), values[0])
    if name == "llang" and len(values) > 1:
        return _in_language(values[0], values[1])
    if name in LAST_SHOWN:
        return values[-1]
    return values[0] if name in FIRST_SHOWN else ""


def _in_language(code: str, text: str) -> str:
    return f"{LANGUAGE_NAMES[code]}: {text}" if code in LANGUAGE_NAMES else text


def _of_tag(node: nodes.Tag) -> str:
    name = str(node.tag).strip().lower()
    if name == "br":
        return "\n"
    if name in WITHOUT_TEXT or node.contents is None or _is_list_sign(node):
        return ""
    if name == "math":
        return f"${str(node.contents).strip()}$"
    return str(node.contents) if name in AS_WRITTEN else _text(node.contents)


SHOW: dict[type[nodes.Node], Callable[..., str]] = {
    nodes.Text: lambda node: node.value,
    nodes.HTMLEntity: lambda node: html.unescape(str(node)),
    nodes.Heading: lambda node: _text(node.title).strip(),
    nodes.Comment: lambda node: "",
    nodes.Argument: lambda node: "",
    nodes.Wikilink: _of_link,
    nodes.ExternalLink: _of_address,
    nodes.Template: _of_template,
    nodes.Tag: _of_tag,
}


def _expressions(section: str) -> str:
    for _ in range(DEPTH):
        section, count = INNERMOST.subn("", section)
        if not count:
            break
    section = NOT_TEXT.sub("", LINE_BREAK.sub("\n", section))
    section = ADDRESS.sub(r"\1", LINK.sub(r"\1", section))
    return SIGN.sub("", TITLE.sub(r"\2", section))
