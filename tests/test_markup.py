"""openko.corpus.markup: what of Wikipedia's markup is text, and that no article, however broken, takes long."""

import time

import mwparserfromhell
import pytest

from openko.corpus.markup import plain


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''가람시'''는 ''작은'' 도시다.", "가람시는 작은 도시다."), ("'''''굵고 기운''''' 글", "굵고 기운 글"),
        ("[[한빛도]]의 [[도시|큰 도시]]", "한빛도의 큰 도시"), ("[[도시]]들과 [[:분류:도시|도시 분류]]", "도시들과 도시 분류"),
        ("[[사람: 이야기]]", "사람: 이야기"),
        ("앞[[파일:a.jpg|섬네일|설명 [[링크]] 글]]뒤", "앞뒤"), ("앞[[그림:a.png]][[File:b.svg|20px]][[image:c.gif]]뒤", "앞뒤"),
        ("글[[분류:도시]][[Category:Towns]]", "글"), ("글[[en:Garam]][[zh-yue:加覽]]", "글"),
        ("[https://example.org 누리집]과 [https://example.org] https://example.org", "누리집과  https://example.org"),
        ("글<ref>{{웹 인용|제목=가}}</ref> 뒤<ref name=\"a\" />.<ref name=가>나</ref>", "글 뒤."), ("앞<!-- <ref> 주석 -->뒤", "앞뒤"),
        ("글<ref>1<ref>2</ref> 끝", "글 끝"),
        ("<nowiki>[[그대로]]</nowiki>", "[[그대로]]"), ("값 <math>x^2 + 1</math>은", "값 $x^2 + 1$은"), ("H<sub>2</sub>O<br />물<br>끝",
        "H2O\n물\n끝"),
        ("<div style=\"a\">안</div> <span>글</span>", "안 글"), ("A&amp;B &lt;가&gt; &#44032;", "A&B <가> 가"),
        ("<gallery>\n파일:a.jpg|글\n</gallery>뒤", "뒤"),
        ("__TOC__글__목차숨김__", "글"), ("가 __init__ 나", "가 __init__ 나"), ("<pre>\n  들여 쓴\n</pre>", "들여 쓴"),
    ],
)  # fmt: skip
def test_markup_becomes_text(wikitext, text):
    assert plain(wikitext) == text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("{{도시 정보|이름=가람\n|인구={{숫자|1}}}}글", "글"), ("{{다른 뜻|가}}\n글", "글"), ("{{lang|zh|伽藍市}}", "伽藍市"),
        ("({{llang|en|Garam}})", "(영어: Garam)"),
        ("({{lang-ja|ガラム}})", "(일본어: ガラム)"), ("({{llang|xx|Garam}})", "(Garam)"), ("{{한자|歷史}}", "歷史"),
        ("{{nowrap|한 [[줄]]}}", "한 줄"),
        ("{{국기|가람}}", "가람"), ("{{인용문|강은 흐른다.|출처=책}}", "강은 흐른다."), ("{{한자}}글", "글"), ("{{{1|기본}}}글", "글"),
    ],
)  # fmt: skip
def test_a_few_templates_carry_text(wikitext, text):
    assert plain(wikitext) == text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("길이는 {{convert|10.5|km|mi}}이다.", "길이는 10.5 km이다."), ("{{변환|1,200|m|ft|0}}", "1,200 m"), ("{{변환|10|-|20|m}}", ""),
        ("{{convert}}글", "글"), ("{{convert|10|km²}}", "10 km²"), ("인구 {{formatnum:1234567}}명", "인구 1,234,567명"),
        ("{{formatnum:12.5}}", "12.5"), ("{{formatnum:{{인구}}}}명", "명"),
        ("가람(1980년 ~ ) ({{나이|1980|1|2}}세)은", "가람(1980년 ~ )은"),
        ("1980년 1월 2일 (만 {{만 나이|1980|1|2}}세) ~", "1980년 1월 2일 ~"),
    ],
)  # fmt: skip
def test_templates_with_numbers_leave_no_holes(wikitext, text):
    assert plain(wikitext) == text


def test_what_the_parser_gives_up_is_left_to_expressions(monkeypatch):
    def give_up(_):
        raise mwparserfromhell.parser.ParserError("non-empty token stack")

    monkeypatch.setattr(mwparserfromhell, "parse", give_up)
    assert plain("[[한빛도|섬]]의 {{틀}}도시\n== 역사 ==\n글") == "섬의 도시\n역사\n글"


def test_headings_and_items_are_lines_of_their_own():
    assert (
        plain("글.\n== 역사 ==\n* 하나\n** 둘 [[셋]]\n# 넷\n; 용어\n: 풀이\n=== 근대 ===\n끝.")
        == "글.\n역사\n하나\n둘 셋\n넷\n용어\n풀이\n근대\n끝."
    )


def test_tables_go():
    table = '{| class="wikitable"\n! 제목 !! 둘\n|-\n| 칸 || [[칸]]\n{|\n| 안\n|}\n|}'
    assert plain(f"앞\n{table}\n뒤") == "앞\n\n뒤"


@pytest.mark.parametrize("name", ["각주", "같이 보기", "외부 링크", "참고 문헌", "참고 자료", "주석"])
def test_closing_sections_go_and_what_stands_behind_them_stays(name):
    assert (
        plain(f"글.\n=={name}==\n* [[가]]\n=== 밑 ===\n* 나\n== 문화 ==\n문화 글.\n== {name} ==\n{{{{각주}}}}\n[[분류:가]]")
        == "글.\n문화\n문화 글."
    )


def test_a_section_that_only_speaks_of_notes_stays():
    assert plain("== 각주의 역사 ==\n글.") == "각주의 역사\n글."


@pytest.mark.parametrize("wikitext", ["#넘겨주기 [[가람시]]", "#REDIRECT [[가람시]]", " # redirect [[가]]", ""])
def test_a_redirection_has_no_text(wikitext):
    assert plain(wikitext) == ""


def test_what_nobody_closed_does_not_swallow_the_article():
    for opened in ("{{", "[[", "<ref>", "<!--", "{|", "<b>", "''", "[http://a "):
        assert "가람시는 강가에 있다." in plain(f"앞글.\n{opened}\n\n가람시는 강가에 있다.")


def test_a_plain_text_stays_as_it_is():
    text = "가람시는 강가에 있다. 값은 1,000원이다 (2024년). f(x) = a[0] + b < c & d; ㅋㅋㅋ ㆍ 大\n\n둘째 문단."
    assert plain(text) == text


def test_sections_with_more_brackets_than_any_article_are_stripped_by_expressions():
    broken = "{{a|" * 3000 + "'''가람시'''는 [[한빛도|섬]]에 {{틀}}있다.[[분류:도시]]\n== 역사 ==\n* [https://example.org 누리집]<br>글"
    text = plain(broken)
    assert text.endswith("가람시는 섬에 있다.\n역사\n누리집\n글") and "{{" not in plain(broken[12_000:])


@pytest.mark.parametrize(
    "unit",
    ["{", "{{", "{{a|", "[[", "[[a|", "<", "<b>", "<ref>", "<ref", "<!--", "{|", "{|\n|a\n", "'", "''a'''b", "=", "==\n", "== a ==\n",
    "== 각주 ==\n", "*", "*\n",
     "[http://a ", "&", "(", "}}{{", "]][[", "<ref>{{a|", "<nowiki>", "{{{{a}}", "[[a]]", "{{a}}", "|", "[[파일:",
     "({{나이|", "({{나이|1}", "{{convert|1", "{{formatnum:1"],
)  # fmt: skip
def test_no_text_takes_long(unit):
    text = unit * (200_000 // len(unit))
    start = time.process_time()  # of this process alone: other work on the machine does not count
    plain(text)
    assert time.process_time() - start < 12, unit  # the parser alone takes minutes for {{a| and half a minute for *


def test_templates_in_templates_end():
    start = time.process_time()  # of this process alone: other work on the machine does not count
    plain("{{a|" * 50_000 + "}}" * 50_000)
    assert time.process_time() - start < 12
