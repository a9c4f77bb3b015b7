"""openko.corpus.report: one page that needs nothing else, shows hostile text as text, and says when sums do not hold."""

import html.parser
import json
import re

import numpy as np
import pytest

from openko import manifest, shards
from openko.corpus import report
from openko.errors import InputError

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'one' \u202egnp.exe \x00 \u200b {{ 7 * 7 }} 한국어"


def counted(documents, size):
    return {"documents": documents, "bytes": size}


def facts():
    """Two sources; every sum holds."""
    return {
        "recipe": {
            "name": "작은 말뭉치",
            "sources": [
                {"name": "법령", "reader": "text", "licence": "CC0", "language": "ko", "priority": 1, "weight": 1.0},
                {"name": "news", "reader": "aihub", "licence": "AI Hub", "language": "ko", "priority": 2, "weight": 1.0},
                {"name": "idle", "reader": "text", "licence": "ask the owner", "language": "en", "priority": 3, "weight": 1.0},
            ],
        },
        "read": {"법령": counted(10, 10_000), "news": counted(20, 30_000)},
        "faults": {"법령": {}, "news": {"invalid-json": 2}},
        "cleaned": {"spaces": counted(7, 500), "nfc": counted(1, -100)},
        "rejected": {
            "법령": {"too-short": counted(2, 60)},
            "news": {
                "exact-copy": counted(3, 3_000), "contaminated": counted(2, 4_000), "too-short": counted(1, 40), "symbols": counted(4, 100),
                "over-max-bytes": counted(1, 400),
            },
        },
        "kept": {"ko.heldout": {"법령": counted(1, 1_000)}, "ko.train": {"법령": counted(7, 8_800), "news": counted(9, 22_200)}},
        "files": {"ko.heldout": ["ko.heldout-00000.jsonl"], "ko.train": ["ko.train-00000.jsonl"]},
        "questions": {"kmmlu.csv": {"questions": 35_000, "looked-for": 30_000, "too-short": 4_000, "copies": 1_000}},
        "near_duplicates": {"candidates": 900, "compared": 700, "incomplete": 3},
        "warnings": [],
        "examples": {"cleaned": {"spaces": [{"id": "법령/1", "before": "앞  \n뒤", "after": "앞\n뒤"}]}},
    }  # fmt: skip


def rejected_lines(found):
    for source, reasons in found["rejected"].items():
        for reason, counts in reasons.items():
            for n in range(counts["documents"] if reason != "over-max-bytes" else 0):
                line = {"id": f"{source}/{reason}/{n}", "source": source, "place": f"a.zip!b.json#{n}", "reason": reason}
                if reason == "exact-copy":
                    yield line | {"copy_of": "법령/0"}
                elif reason == "contaminated":
                    question = {"dataset": "kmmlu.csv", "number": 3, "field": "question", "piece": "함께 있는 글귀", "share": 0.5}
                    yield line | {"question": question, "text": HOSTILE}
                else:
                    yield line | {"value": 12.25, "threshold": 50, "text": HOSTILE * 20}


@pytest.fixture
def corpus(tmp_path):
    def make(change=lambda found, lines: None, name="corpus"):
        found = facts()
        lines = list(rejected_lines(found))
        change(found, lines)

        def write(partial):
            for file, some in (("rejected-00000.jsonl", lines[::2]), ("rejected-00001.jsonl", lines[1::2])):
                (partial / file).write_text("".join(json.dumps(x) + "\n" for x in some), encoding="utf-8")
            faults = [
                {"source": "news", "place": f"c.zip!{HOSTILE}.json#{n}", "reason": "invalid-json", "detail": "Expecting value" + HOSTILE}
                for n in range(2)
            ]
            (partial / "faults.jsonl").write_text("".join(json.dumps(x) + "\n" for x in faults), encoding="utf-8")
            return found

        recipe = {"name": name, "facts": found}
        manifest.build(tmp_path / name, kind="corpus", recipe=recipe, inputs={}, module="openko.errors", make=write, say=lambda line: None)
        return tmp_path / name

    return make


class Page(html.parser.HTMLParser):
    """Which elements and attributes a browser would find, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.rows, self.in_cell = set(), [], "", [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, *begins):
        found = [[" ".join(c.split()) for c in row] for row in self.rows]
        return next(row for row in found if row[: len(begins)] == list(begins))


def page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_stands_beside_the_corpus_or_where_it_is_told_and_has_the_same_bytes_each_time(corpus, tmp_path):
    directory = corpus()
    assert report.write(directory) == tmp_path / "corpus.html"
    assert report.write(directory, tmp_path / "new" / "page.html").read_bytes() == (tmp_path / "corpus.html").read_bytes()
    manifest.verify(directory)


def test_the_page_needs_no_network_and_no_script_and_hostile_text_stays_text(corpus):
    path = report.write(corpus())
    found, source = page(path), path.read_text(encoding="utf-8")
    assert not found.tags & {"script", "img", "iframe", "link", "object", "svg", "a", "form"}
    assert not re.search(r"https?:|url\(|@import", source)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    assert "<script>alert(1)</script>" in found.text and "{{ 7 * 7 }}" in found.text and "49" not in found.text.split("한국어")[0]
    assert not re.search("[\x00\u200b\u202e]", source) and "⟨202E⟩gnp.exe ⟨0000⟩ ⟨200B⟩" in found.text
    assert dict(found.attributes)["http-equiv"] == "Content-Security-Policy"


def test_half_a_surrogate_pair_in_a_document_does_not_stop_the_page(corpus):
    def change(found, lines):
        lines[0]["text"] = "앞 \ud800 뒤"

    assert "⟨D800⟩" in page(report.write(corpus(change))).text


def test_the_waterfall_goes_from_what_was_found_to_what_is_kept():
    steps = {step.name: step for step in report.waterfall(facts())}
    assert list(steps) == [
        "found", "invalid-json", "read", "cleaning", "symbols", "too-short", "contaminated", "exact-copy", "over-max-bytes", "kept",
        "ko.heldout", "ko.train",
    ]  # fmt: skip
    assert [s.documents for s in steps.values()] == [32, 2, 30, None, 4, 3, 2, 3, 1, 17, 1, 16]
    assert [s.bytes for s in steps.values()] == [None, None, 40_000, 400, 100, 100, 4_000, 3_000, 400, 32_000, 1_000, 31_000]
    goes = [step for step in steps.values() if step.kind == "goes"]
    after = [(s.before[0] - (s.documents or 0), s.before[1] - (s.bytes or 0)) for s in goes]
    assert [s.before for s in goes[1:]] == after[:-1] and after[-1] == (17, 32_000)


def test_every_number_of_the_facts_is_on_the_page(corpus):
    found = page(report.write(corpus()))
    assert found.row("법령", "ko", "CC0")[3:9] == ["10", "10.00 kB", "8", "9.80 kB", "98.0%", "0"]
    assert found.row("news", "ko", "AI Hub")[3:9] == ["20", "30.00 kB", "9", "22.20 kB", "74.0%", "2"]
    assert found.row("idle")[7] == "–"
    assert found.row("거르개 · symbols")[1] == "−4" and found.row("정제 · cleaning")[3] == "−400 B"
    assert "7 documents, 500 bytes shorter" in found.text and "1 documents, -100 bytes shorter" in found.text
    assert "→ 앞\n뒤" in found.text
    assert found.row("kmmlu.csv#3") == ["kmmlu.csv#3", "2", "함께 있는 글귀"]
    assert "measured 12.25, threshold 50" in found.text and "copy of 법령/0" in found.text and "50.0% of it" in found.text
    assert found.row("news", next(r[1] for r in found.rows if len(r) == 3 and r[0] == "news"))[2].startswith("Expecting value<script>")


def test_names_of_sources_stand_on_one_line_and_wide_tables_scroll(corpus):
    source = report.write(corpus()).read_text(encoding="utf-8")
    assert re.search(r"\.name[^{]*\{[^}]*white-space:nowrap", source) and re.search(r"\.wide\{overflow-x:auto", source)
    assert '<td class="name"><code>news</code></td>' in source and '<span class="name"><code>news</code></span>' in source
    assert source.count("<table>") == source.count('<div class="wide"><table>')


def test_examples_are_cut_and_few(corpus):
    path = report.write(corpus())
    shown = [len(text) for text in re.findall(r'<div class="text">(.*?)</div>', path.read_text(encoding="utf-8"), re.DOTALL)]
    texts = [text for text in shown if text > 300]
    assert len(texts) == report.EXAMPLES * 2  # of too-short and of symbols
    assert report.shown("가" * 1000) == "가" * report.EXCERPT + "…" and report.shown("가" * report.EXCERPT) == "가" * report.EXCERPT


def test_a_page_masks_what_an_older_manifest_or_a_recipe_without_masking_holds(corpus):
    def change(found, lines):
        found["cleaned"]["personal-data"] = counted(1, 0)
        example = {"id": "법령/2", "before": "문의: 홍길동 010-1234-", "after": "문의: 홍길동 <전화번호>"}  # cut where no rule knows it
        found["examples"]["cleaned"]["personal-data"] = [example]
        found["examples"]["cleaned"]["nfc"] = [{"id": "법령/3", "before": "hong@example.com 각", "after": "hong@example.com 각"}]
        lines[0]["text"] = "가" * (report.EXCERPT - 8) + " 010-1234-5678"

    text = page(report.write(corpus(change))).text
    assert "010-1234" not in text and "hong@" not in text and text.count("<전자우편>") == 2
    assert text.count("문의: 홍길동") == 1 and "법령/2" in text


def test_sums_that_hold_are_said_to_hold(corpus):
    found = page(report.write(corpus()))
    assert "The totals add up" in found.text
    assert found.row("bytes read = kept + rejected + what cleaning took")[1:] == ["40,000", "40,000", "0"]


def lost_document(found, lines):
    found["kept"]["ko.train"]["news"]["documents"] -= 1


def lost_bytes(found, lines):
    found["kept"]["ko.train"]["news"]["bytes"] -= 7


def lost_line(found, lines):
    lines.remove(next(x for x in lines if x["reason"] == "symbols"))


def line_too_many(found, lines):
    lines.append(lines[0] | {"reason": "unheard-of"})


def lost_fault(found, lines):
    found["faults"]["법령"]["empty"] = 1


def kept_unread(found, lines):
    found["kept"]["ko.train"]["ghost"] = counted(5, 0)


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (lost_document, ["news: read = kept + rejected (documents)", "20", "19", "1"]),
        (lost_bytes, ["bytes read = kept + rejected + what cleaning took", "40,000", "39,993", "7"]),
        (lost_line, ["rejected: news, symbols", "4", "3", "1"]),
        (line_too_many, ["rejected: 법령, unheard-of", "0", "1", "-1"]),
        (lost_fault, ["fault: 법령, empty", "1", "0", "1"]),
        (kept_unread, ["ghost: read = kept + rejected (documents)", "0", "5", "-5"]),
    ],
)
def test_a_sum_that_does_not_hold_is_red_with_its_difference(corpus, change, row):
    path = report.write(corpus(change))
    assert "The totals do not add up" in page(path).text and "The totals add up" not in page(path).text
    assert page(path).row(row[0]) == row
    assert re.search(f'<tr class="wrong"><td>{re.escape(row[0])}</td>', path.read_text(encoding="utf-8"))


def test_a_corpus_without_the_bytes_of_every_rule_is_refused(corpus):
    def change(found, lines):
        found["cleaned"]["spaces"] = {"documents": 7, "changes": 300}

    with pytest.raises(InputError, match="facts without cleaned: spaces: bytes: make the corpus again"):
        report.write(corpus(change))


def test_a_corpus_without_cleaning_has_its_sum_of_bytes_too(corpus):
    def change(found, lines):
        found["cleaned"] = {}

    assert page(report.write(corpus(change))).row("bytes read = kept + rejected + what cleaning took")[1:] == ["40,000", "39,600", "400"]


def test_warnings_stand_red_at_the_top_as_text(corpus):
    def change(found, lines):
        found["warnings"] = ["news: half of its records cannot be read", HOSTILE]

    source = report.write(corpus(change)).read_text(encoding="utf-8")
    before = source[: source.index("<h2>")]
    assert '<p class="wrong">news: half of its records cannot be read</p>' in before and before.count('class="wrong"') == 2
    assert "&lt;script&gt;" in before and "<script>" not in source
    quiet = report.write(corpus(name="quiet")).read_text(encoding="utf-8")
    assert 'class="wrong"' not in quiet


def test_a_corpus_that_keeps_nothing_says_so(corpus):
    def change(found, lines):
        for source, counts in found["read"].items():
            kept = [by_source[source] for by_source in found["kept"].values() if source in by_source]
            found["rejected"][source]["too-long"] = {name: sum(k[name] for k in kept) for name in ("documents", "bytes")}
            counts["bytes"] -= 400 if source == "news" else 0
        found["kept"], found["files"], found["cleaned"] = {}, {}, {}
        lines[:] = rejected_lines(found)

    path = report.write(corpus(change))
    assert "The totals add up" in page(path).text and "No document is kept" in page(path).text
    assert page(path).row("남은 글 · kept")[1] == "0"
    assert "No document is kept" not in page(report.write(corpus(name="full"))).text


def test_questions_that_were_looked_for_and_not_are_listed_by_file(corpus):
    found = page(report.write(corpus()))
    assert found.row("kmmlu.csv") == ["kmmlu.csv", "35,000", "30,000", "4,000", "0", "1,000"]
    without = page(report.write(corpus(lambda found, lines: found.update(questions={}), name="without")))
    assert "Evaluation questions" in found.text and "Evaluation questions" not in without.text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("AI Hub: use as its terms allow", "forbidden"), ("모두의 말뭉치: no redistribution", "forbidden"), ("CC-BY-ND-4.0", "forbidden"),
        ("CC-BY-SA-4.0", "allowed"), ("PSF-2.0", "allowed"), ("공공누리 제1유형", "allowed"), ("as the publisher says", "unknown"),
        ("공공누리 제4유형", "unknown"),
    ],
)  # fmt: skip
def test_a_licence_that_forbids_redistribution_is_told(licence, expected):
    found = facts()
    found["recipe"]["sources"][1]["licence"] = licence
    row = next(r for r in report.licences(found) if r["licence"] == licence)
    assert (row["redistribution"], row["sources"], row["bytes"]) == (expected, ["news"], 22_200)


def test_licences_share_out_all_that_is_kept(corpus):
    rows = report.licences(facts())
    assert sum(r["bytes"] for r in rows) == 32_000 and sum(r["documents"] for r in rows) == 17
    assert page(report.write(corpus())).row("AI Hub")[3:] == [
        "22.20 kB", "금지 · forbidden: this text, its shards and pages with excerpts of it stay where they are",
    ]  # fmt: skip


def pack(directory, corpus):
    def make(partial):
        made = shards.write(partial, [np.arange(2_000), np.arange(6_000)])
        by_source = {"법령": {"documents": 1, "tokens": 2_000, "bytes": 7_000}, "news": {"documents": 1, "tokens": 6_000, "bytes": 21_600}}
        return made | {"bytes": 28_600, "sources": by_source, "tokenizer": "x"}

    return manifest.build(
        directory, kind=shards.KIND, recipe={"part": "ko.train", "source": None}, inputs={"corpus": corpus}, module="openko.errors",
        make=make, say=lambda line: None,
    )  # fmt: skip


def test_tokens_and_bytes_per_token_come_from_shards_of_this_corpus(corpus, tmp_path):
    directory = corpus()
    pack(tmp_path / "shards", directory)
    found = page(report.write(directory, shards=[tmp_path / "shards"]))
    assert found.row("법령", "ko", "CC0")[9:] == ["2,000", "3.500"] and found.row("news", "ko", "AI Hub")[9:] == ["6,000", "3.600"]
    assert found.row("shards", "ko.train")[2:] == ["2", "28.60 kB", "8,000", "3.575"]
    other = corpus(lost_line, name="other")
    with pytest.raises(InputError, match="was not packed from"):
        report.write(other, shards=[tmp_path / "shards"])


def test_what_is_no_corpus_is_refused(corpus, tmp_path):
    with pytest.raises(InputError, match="openko corpus build"):
        report.write(tmp_path / "nothing")
    directory = corpus()
    pack(tmp_path / "shards", directory)
    with pytest.raises(InputError, match="holds 'token-shards'"):
        report.write(tmp_path / "shards")
    with pytest.raises(InputError, match="facts without read"):
        report.write(corpus(lambda found, lines: found.pop("read") and None, name="old"))
    with pytest.raises(InputError, match=r"rejected-00000\.jsonl, line 1 has no reason"):
        report.write(corpus(lambda found, lines: lines[0].pop("reason") and None, name="odd"))
