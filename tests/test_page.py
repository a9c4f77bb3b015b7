"""openko.page: what the run made is on one page, in Korean and English, and whatever is missing is a dash."""

import json
import re

import nbformat
import pytest

from openko import page

SUMMARY = {
    "profile": "smoke", "models": {"tiny": "runs/models/tiny"}, "notebooks": {"01_tokenizers": 3.0}, "seconds": 83.4, "peak_rss_gb": 1.2,
    "bits_per_byte": {"tiny": {"ko": 2.5, "en": 3.25}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run with a notebook and a figure; returns its page for a summary."""
    for name in ("notebooks", "figures"):
        (tmp_path / name).mkdir()
    cell = nbformat.v4.new_markdown_cell("# 토크나이저 · Tokenizers")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "01_tokenizers.ipynb")
    (tmp_path / "figures" / "03-loss.png").write_bytes(b"")
    (tmp_path / "figures" / "03-loss.json").write_text(json.dumps({"title": ["손실 <한국어>", "Loss"]}), encoding="utf-8")

    def written(**changed):
        page.write_notebook(tmp_path, "01_tokenizers")
        page.write_index(tmp_path, SUMMARY | changed)
        return (tmp_path / "index.html").read_text(encoding="utf-8")

    return written


def rows(text):
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]


def test_what_was_not_measured_is_a_dash(run):
    found = rows(run(bits_per_byte={"tiny": {"ko": 2.5}, "other": {"code": 1.0}}, ended_turns={"chat": 0.5, "tiny": 0.25}))
    assert ["<code>tiny</code>", "2.500", "–", "25%"] in found
    assert ["<code>other</code>", "–", "–", "–"] in found and ["<code>chat</code>", "–", "–", "50%"] in found


def test_heads_and_the_first_line_are_in_both_languages(run):
    text = run()
    for head in [*re.findall(r"<th>(.*?)</th>", text), *re.findall(r"<h2>(.*?)</h2>", text)]:
        assert re.search("[가-힣]+.* · .*[A-Za-z]{3}", head), head
    first = re.search("<p>(.*?)</p>", text)[1]
    assert "1분 23초" in first and "1 min 23 s" in first


def test_a_notebook_has_a_page_of_its_own_and_a_link_to_it(run, tmp_path):
    assert '<a href="html/01_tokenizers.html">토크나이저 · Tokenizers</a>' in run()
    text = (tmp_path / "html" / "01_tokenizers.html").read_text(encoding="utf-8")
    assert "<title>토크나이저 · Tokenizers</title>" in text and "<h1" in text


def test_a_figure_has_its_title_as_caption_and_as_alternative_text(run):
    text = run()
    assert 'alt="손실 &lt;한국어&gt; · Loss"' in text and "<figcaption>손실 &lt;한국어&gt; · Loss (03-loss)</figcaption>" in text


def test_the_corpus_page_is_linked_where_there_is_one(run, tmp_path):
    assert "corpus.html" not in run()
    (tmp_path / "corpus.html").write_text("", encoding="utf-8")
    assert "href='corpus.html'" in run()
