"""Published scores: no digit of a harness table is lost, in any of its forms; ours beside the card, in standard errors."""

import hashlib
import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openko.cli import card as cli
from openko.errors import InputError
from openko.evaluation import published

BASE = "llama-3-open-ko-8b"

# As 0.3.0 prints: no filter, no n-shot, a measure without standard error.
OF_2023 = """\
hf-causal-experimental (pretrained=ko,use_accelerate=true), limit: None, provide_description: False, num_fewshot: 0, batch_size: 8
|    Task    |Version|    Metric     | Value |   |Stderr|
|------------|------:|---------------|------:|---|-----:|
|kobest_boolq|      0|acc            | 0.5100|±  |0.0134|
|            |       |macro_f1       | 0.3391|±  |0.0060|
|wikitext    |      1|word_perplexity|14.4010|   |      |
"""
# As 0.4.0 prints: N/A for the version of a group and for a standard error; members indented, by depth.
OF_EARLY_2024 = """\
|     Tasks      |Version|Filter|n-shot| Metric |Value |   |Stderr|
|----------------|-------|------|-----:|--------|-----:|---|------|
|haerae          |N/A    |none  |     0|acc     |0.2100|±  |0.0123|
|                |       |none  |     0|acc_norm|0.2111|±  |0.0124|
| - history      |      1|none  |     0|acc     |0.2500|±  |N/A   |
|  - loan_word   |      1|none  |     0|acc     |1.0000|±  |0.0000|
|kobest_hellaswag|      1|none  |     0|acc     |0.4800|±  |0.0224|
|                |       |none  |     0|f1      |0.4771|±  |N/A   |

|Groups|Version|Filter|n-shot| Metric |Value |   |Stderr|
|------|-------|------|-----:|--------|-----:|---|------|
|haerae|N/A    |none  |     0|acc     |0.2100|±  |0.0123|
|      |       |none  |     0|acc_norm|0.2111|±  |0.0124|
"""
# As 0.4.4 and later print: directions, several filters of one task, blanks before N/A, a group that has a name only.
OF_2025 = """\
hf ({'pretrained': 'some/model', 'revision': 'main'}), gen_kwargs: ({}), limit: 10.0, num_fewshot: None, batch_size: auto:4 (64,32)
|  Tasks  |Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|
|---------|------:|----------------|-----:|-----------|---|-----:|---|------|
|ko_all   |    N/A|                |      |           |   |      |   |      |
| - gsm_ko|      3|flexible-extract|     5|exact_match|↑  |0.1234|±  |0.0100|
|         |       |strict-match    |     5|exact_match|↑  |0.0456|±  |   N/A|
| - lambda|    2.1|none            |     5|perplexity |↓  |3.9203|±  |0.0770|
"""
FORMS = {"2023": OF_2023, "early 2024": OF_EARLY_2024, "2025": OF_2025}


def table_of(text: str) -> str:
    """The lines of a text that are tables, with the blank ones between them."""
    return re.sub(r"\A[^|]*", "", text)


def records(text: str) -> list[dict]:
    return [row.record() for row in published.parse(text).rows]


# ── the card ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cards_table_comes_back_byte_for_byte():
    printed = published.markdown(published.card().table)
    # SHA-256 of all lines of the card that begin with |, taken from the card itself.
    assert hashlib.sha256(printed.encode()).hexdigest() == "0bf4974bcb9de62d7f08eac8120a306443ba64bc2953d555dc15d33dd2acfbd9"
    assert published.markdown(published.parse(printed)) == printed


def test_the_card_has_seventy_rows_and_says_of_what():
    card = published.card("beomi/Llama-3-Open-Ko-8B")
    assert card == published.card(BASE) and len(card.table.rows) == 12 + 46 + 9 + 3
    (run,) = card.table.runs
    assert (run.model, run.num_fewshot, run.limit) == ("vllm", "5", "None")
    assert run.arguments["pretrained"] == card.model and run.arguments["revision"] == card.revision == "081e85a"
    assert {row.n_shot for row in card.table.rows} == {"5"} and {row.version for row in card.table.rows} == {"N/A", "1", "2"}


@pytest.mark.parametrize(("task", "metric", "version", "value", "stderr"), [
    ("haerae", "acc_norm", "N/A", "0.6801", "0.0138"),
    ("haerae_history", "acc", "1", "0.7340", "0.0323"),  # the last digit is a zero
    ("kmmlu_direct", "exact_match", "N/A", "0.4054", "0.0026"),
    ("kmmlu_direct_telecommunications_and_wireless_technology", "exact_match", "2", "0.5490", "0.0157"),
    ("kobest_hellaswag", "f1", "1", "0.4771", "N/A"),
    ("kobest_sentineg", "f1", "1", "0.9597", "N/A"),
])  # fmt: skip
def test_rows_of_the_card_are_as_printed(task, metric, version, value, stderr):
    found = {(row.task, row.metric): row.record() for row in published.card().table.rows}[task, metric]
    expected = {"filter": "none", "n_shot": "5", "metric": metric, "value": value, "stderr": stderr}
    assert found == {"task": task, "version": version} | expected


def test_the_cards_groups_are_the_means_of_their_tasks_weighted_by_the_questions_that_the_errors_tell():
    rows = [row for row in published.card().table.rows if row.metric in ("acc", "exact_match")]
    for group, length in (("haerae", 5), ("kmmlu_direct", 45)):
        members = [row for row in rows if row.task.startswith(group + "_")]
        ranges = [published.questions([row]) for row in members]
        sizes = [(low + high) / 2 for low, high in ranges]
        mean = math.fsum(float(row.value) * n for row, n in zip(members, sizes, strict=True)) / sum(sizes)
        (told,) = {row.value for row in rows if row.task == group}
        assert len(members) == length and abs(mean - float(told)) < 1e-4
        pooled = math.fsum((n - 1) * n * float(row.stderr) ** 2 for row, n in zip(members, sizes, strict=True))
        (error,) = {row.stderr for row in rows if row.task == group}
        assert f"{math.sqrt(pooled / (sum(sizes) - length) / sum(sizes)):.4f}" == error


def test_standard_errors_tell_how_many_questions_were_asked():
    rows = published.card().table.rows

    def asked(task):
        return published.questions(row for row in rows if row.task == task)

    # The test sets' own lengths: HAE-RAE Bench and KoBEST.
    for task, n in {"general_knowledge": 176, "history": 188, "loan_word": 169, "rare_word": 405, "standard_nomenclature": 153}.items():
        assert asked(f"haerae_{task}") == (n, n)
    low, high = asked("kobest_boolq")
    assert low <= 1404 <= high and asked("kobest_copa") == (1000, 1000) and asked("kobest_sentineg") == (397, 397)


def test_two_measures_of_a_task_narrow_the_number_of_questions_together():
    def fits(n, value, error):
        shares = (k / n for k in range(n + 1))
        return any((f"{p:.4f}", f"{math.sqrt(p * (1 - p) / (n - 1)):.4f}") == (value, error) for p in shares)

    shown = {"acc": ("0.3333", "0.0334"), "acc_norm": ("0.2600", "0.0311")}
    rows = [published.Row(task="t", metric=metric, value=value, stderr=error) for metric, (value, error) in shown.items()]
    for chosen in (rows, rows[:1], rows[1:]):
        possible = [n for n in range(2, 400) if all(fits(n, *shown[row.metric]) for row in chosen)]
        assert published.questions(chosen) == ((possible[0], possible[-1]) if possible else None)


def test_only_the_base_models_card_has_a_table():
    with pytest.raises(InputError, match=r"Instruct-preview has no benchmark table.*base model only"):
        published.card("beomi/Llama-3-Open-Ko-8B-Instruct-preview")
    with pytest.raises(InputError, match=r"no card is called 'gpt-2': there are llama-3-open-ko-8b, "):
        published.card("gpt-2")


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra eval is not installed")
def test_the_harness_of_today_has_every_task_of_the_card_in_the_same_version():
    tasks = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
    versions = {}
    for path in [*tasks.glob("haerae/*.yaml"), *tasks.glob("kmmlu/direct/*.yaml"), *tasks.glob("kobest/*.yaml")]:
        text = path.read_text(encoding="utf-8")
        if name := re.search(r'^"?task"?: "?(\w+)"?$', text, re.MULTILINE):
            included = re.search(r'^"?include"?: "?([\w.]+)"?$', text, re.MULTILINE)
            text += (path.parent / included[1]).read_text(encoding="utf-8") if included else ""
            versions[name[1]] = float(re.search(r"^ +version: (.*)$", text, re.MULTILINE)[1])
    for row in published.card().table.rows:
        if row.task not in ("haerae", "kmmlu_direct"):
            assert versions[row.task] == float(row.version), row.task


# ── tables of every year ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("year", FORMS)
def test_tables_of_every_year_come_back_as_they_were(year):
    assert published.markdown(published.parse(FORMS[year])) == table_of(FORMS[year])


@pytest.mark.parametrize("year", FORMS)
def test_a_table_read_again_is_the_same_table(year):
    table = published.parse(FORMS[year])
    again = published.parse(published.markdown(table))
    assert again.rows == table.rows and [s.columns for s in again.sections] == [s.columns for s in table.sections]


def test_what_a_year_did_not_print_is_none():
    boolq, f1, wikitext = records(OF_2023)
    assert boolq == {
        "task": "kobest_boolq", "version": "0", "filter": None, "n_shot": None, "metric": "acc", "value": "0.5100", "stderr": "0.0134",
    }  # fmt: skip
    assert f1["task"] == "kobest_boolq" and f1["version"] == "0"  # a blank cell goes on with the task above
    assert wikitext["stderr"] is None and wikitext["value"] == "14.4010"


def test_members_are_named_without_their_indentation():
    rows = published.parse(OF_EARLY_2024).rows
    assert [(row.task, row.depth) for row in rows if row.depth] == [("history", 1), ("loan_word", 2)]
    assert [row.value for row in rows] == ["0.2100", "0.2111", "0.2500", "1.0000", "0.4800", "0.4771", "0.2100", "0.2111"]


def test_filters_and_directions_are_kept_and_a_bare_groups_name_is_no_measurement():
    table = published.parse(OF_2025)
    assert [(row.task, row.filter, row.direction) for row in table.rows] == [
        ("gsm_ko", "flexible-extract", "↑"), ("gsm_ko", "strict-match", "↑"), ("lambda", "none", "↓"),
    ]  # fmt: skip
    assert [row.stderr for row in table.rows] == ["0.0100", "N/A", "0.0770"]
    assert len(table.sections[0].rows) == 4


def test_the_line_above_a_table_says_how_it_was_measured():
    (old,), (new,) = published.parse(OF_2023).runs, published.parse(OF_2025).runs
    assert (old.model, old.gen_kwargs, old.num_fewshot, old.batch_size) == ("hf-causal-experimental", None, "0", "8")
    assert old.arguments == {"pretrained": "ko", "use_accelerate": "true"}
    assert new.arguments == {"pretrained": "some/model", "revision": "main"}
    assert (new.limit, new.num_fewshot, new.batch_size) == ("10.0", "None", "auto:4 (64,32)")
    assert published.parse(OF_EARLY_2024).runs == ()


def test_groups_share_the_line_above_their_tasks_and_other_tables_do_not():
    line = OF_2023.splitlines()[0]
    tasks, groups, other = published.parse(line + "\n" + OF_EARLY_2024 + "\n" + table_of(OF_2025)).sections
    assert tasks.run == groups.run != other.run is None


def test_a_groups_table_pasted_without_its_header_stays_narrow():
    lines = OF_EARLY_2024.splitlines(keepends=True)
    pasted = "".join(lines[:8] + lines[11:])
    table = published.parse(pasted)
    assert [section.headed for section in table.sections] == [True, False]
    assert published.markdown(table) == pasted


def relaid(text: str, form: str) -> str:
    """Every table with other blanks around its cells; those that indent a member stay."""
    lines = [[cell.rstrip() if k == 1 else cell.strip() for k, cell in enumerate(line.split("|"))] for line in text.splitlines()]
    return "\n".join("|" + "|".join(form.format(cell) for cell in cells[1:-1]) + "|" if cells[1:] else "" for cells in lines)


PROSE = "# 모델 카드\n\n|항목|값|\n|---|---|\n|크기|8B|\n\n문장 하나 | 둘.\n\n"


@pytest.mark.parametrize("change", [
    pytest.param(lambda text: text.replace("\n", "\r\n"), id="Windows' line ends"),
    pytest.param(lambda text: "\ufeff" + text, id="byte order mark"),
    pytest.param(lambda text: PROSE + text + "\n끝.\n" + PROSE, id="a card with other tables"),
    pytest.param(lambda text: "```\n" + text + "```\n", id="code"),
    pytest.param(lambda text: re.sub("^", "> ", text, flags=re.MULTILINE), id="quotation"),
    pytest.param(lambda text: re.sub("^", "    ", text, flags=re.MULTILINE), id="indented"),
    pytest.param(lambda text: text.replace("_", "\\_"), id="escaped underscores"),
    pytest.param(lambda text: text.rstrip("\n"), id="no last line end"),
    pytest.param(lambda text: re.sub(r"-(-+):?\|", r":\1:|", text), id="centred columns"),
    pytest.param(lambda text: relaid(text, "{}"), id="without padding"),
    pytest.param(lambda text: relaid(text, " {} "), id="as formatters lay it out"),
])  # fmt: skip
@pytest.mark.parametrize("year", FORMS)
def test_the_same_rows_are_read_however_the_table_stands_in_its_file(year, change):
    text = table_of(FORMS[year])
    assert published.parse(change(text)).rows == published.parse(text).rows


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra eval is not installed")
def test_what_the_harness_of_today_prints_comes_back_byte_for_byte():
    from lm_eval.utils import make_table

    results = {
        "results": {
            "한국어": {"alias": "한국어", "acc,none": 0.5, "acc_stderr,none": 0.0123},
            "haerae": {"alias": "haerae", "acc,none": 0.68, "acc_stderr,none": 0.0138, "acc_norm,none": 0.6801},
            "haerae_history": {"alias": "haerae_history", "acc,none": 0.734, "acc_stderr,none": 0.03},
            "kobest_boolq": {"alias": "kobest_boolq", "f1,none": 0.7961, "f1_stderr,none": "N/A", "acc,none": 0.7984},
        },
        "groups": {"haerae": {"alias": "haerae", "acc,none": 0.68, "acc_stderr,none": 0.0138}},
        "versions": {"haerae": 1.0, "haerae_history": 1.0, "kobest_boolq": 1.0},
        "n-shot": {"haerae": 5, "haerae_history": 5, "kobest_boolq": 5, "한국어": 5},
        "group_subtasks": {"haerae": ["haerae_history"]},
        "higher_is_better": {task: {"acc": True, "f1": True} for task in ("haerae", "haerae_history", "kobest_boolq")},
    }
    printed = make_table(results) + "\n" + make_table(results, "groups")
    table = published.parse(printed)
    assert published.markdown(table) == printed
    assert {(row.task, row.metric, row.value) for row in table.rows} >= {("haerae", "acc", "0.6800"), ("한국어", "acc", "0.5000")}


# ── what is no table ───────────────────────────────────────────────────────────────────────────────────────────────

LAST = OF_EARLY_2024.splitlines()[-1]


@pytest.mark.parametrize(("text", "said"), [
    ("", "the text has no table of lm-evaluation-harness: its header is such as"),
    ("|a|b|\n|-|-|\n|1|2|\n", "no table of lm-evaluation-harness .it has other tables, the first at line 1"),
    (OF_EARLY_2024[:-20], r"line 13: a row must end with \|, found .*was the file cut off"),
    (OF_EARLY_2024.replace(LAST, LAST.rsplit("|", 3)[0] + "|"), "line 13: the row has 6 cells and its header 8.*cut off"),
    (OF_EARLY_2024.replace(LAST, LAST + "0.1|"), "line 13: the row has 9 cells and its header 8"),
    (OF_EARLY_2024.replace("0.2500", "0.25oo"), "line 5: Value of history must be a number or N/A, found '0.25oo'"),
    (OF_EARLY_2024.replace("0.0224", "±0.02"), "line 7: Stderr of kobest_hellaswag must be a number"),
    (OF_EARLY_2024.replace("0.2500", "      "), "line 5: history has no Value beside acc"),
    (OF_EARLY_2024.replace("|haerae          |", "|                |", 1), "line 3: the first row names no task"),
    (OF_EARLY_2024.replace("|Groups|", "Groups|"), r"line 10: a table's header must begin and end with \|"),
    ("\n".join(OF_EARLY_2024.splitlines()[:1]), r"line 1: a table's header must be followed by a row of \|---\|"),
    ("\n".join(OF_EARLY_2024.splitlines()[:2]), "line 1: the table has a header and no rows"),
    (OF_EARLY_2024.replace("\n| - history", "\n - history"), r"line 5: a row must begin with \|, found '- history"),
])  # fmt: skip
def test_a_damaged_table_is_refused_with_its_line(text, said):
    with pytest.raises(InputError, match=said):
        published.parse(text)


@pytest.mark.parametrize(("content", "said"), [
    (b"\x89PNG\r\n\x1a\n\x00\x00", "scores.md is not UTF-8 text .*at byte 0"),
    ("|한글|".encode("cp949"), "scores.md is not UTF-8 text .*iconv"),
    (bytes(1000), "scores.md has no table of lm-evaluation-harness"),
    (OF_2025.encode("utf-16"), "scores.md is not UTF-8 text"),
])  # fmt: skip
def test_files_of_another_kind_are_named(tmp_path, content, said):
    path = tmp_path / "scores.md"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        published.read(path)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.md does not exist"):
        published.read(tmp_path / "nothing.md")
    with pytest.raises(InputError, match="is a directory: name one text file"):
        published.read(tmp_path)


# ── ours beside the card ───────────────────────────────────────────────────────────────────────────────────────────


def results_of(tasks: dict, *, shots=5, versions=None, groups=None, counts=None, limited=None) -> dict:
    """What lm_eval 0.4.13 returns, as far as a comparison reads it; tasks: {task: {metric: (value, error)}}.

    counts: {task: questions asked}.  limited: {task: questions that there were}, where --limit was given.
    """
    found = {}
    for task, metrics in tasks.items():
        found[task] = {"name": task, "alias": task}
        for metric, (value, error) in metrics.items():
            found[task] |= {f"{metric},none": value, f"{metric}_stderr,none": error}
    return {
        "results": found, "versions": versions or {}, "n-shot": dict.fromkeys(tasks, shots), "group_subtasks": groups or {},
        "n-samples": {task: {"original": (limited or counts)[task], "effective": n} for task, n in (counts or {}).items()},
    }  # fmt: skip


def compared(results: dict) -> dict:
    return {(row.task, row.metric): row for row in published.against(BASE, results)}


def test_differences_are_in_standard_errors_of_both_sides():
    row = compared(results_of({"kobest_copa": {"acc": (0.78, 0.0131)}}))["kobest_copa", "acc"]
    assert (row.ours, row.stderr, row.published, row.published_stderr) == (0.78, 0.0131, "0.8150", "0.0123")
    assert row.difference == pytest.approx(-0.035)
    assert row.standard_errors == pytest.approx(-0.035 / math.sqrt(0.0131**2 + 0.0123**2))
    assert row.notes == ()


def test_every_row_of_the_card_is_there_once_and_in_its_order_then_what_only_we_have():
    rows = published.against(BASE, results_of({"kobest_wic": {"acc": (0.5, 0.01)}, "kobest_copa": {"acc": (0.8, 0.01)}}))
    keys = [(row.task, row.metric) for row in rows]
    assert keys == [*dict.fromkeys((row.task, row.metric) for row in published.card().table.rows), ("kobest_wic", "acc")]
    wic, copa = rows[-1], rows[keys.index(("kobest_copa", "acc"))]
    assert wic.notes == ("not on the card",) and wic.published is None and wic.difference is None
    assert copa.is_compared and sum(row.is_compared for row in rows) == 1


def test_what_is_missing_says_why():
    found = compared(results_of({"kobest_boolq": {"acc": (0.8, 0.01), "acc_norm": (0.8, 0.01)}, "haerae_history": {"acc": (0.7, 0.03)}}))
    assert found["kobest_copa", "acc"].notes == ("not measured here",)
    assert found["kobest_boolq", "f1"].notes == ("this run has no f1 of it (but acc, acc_norm)",)
    assert found["kobest_boolq", "acc_norm"].notes == ("the card has no acc_norm of it",)
    assert found["haerae", "acc"].notes == ("not measured here (1 of its 5 tasks were)",)
    assert found["kmmlu_direct", "exact_match"].notes == ("not measured here",)


def test_a_measurement_by_another_filter_is_not_compared():
    results = {"results": {"kmmlu_direct_law": {"exact_match,flexible-extract": 0.4, "exact_match_stderr,flexible-extract": 0.01}}}
    rows = [row for row in published.against(BASE, results) if row.task == "kmmlu_direct_law"]
    assert [row.filter for row in rows] == ["none", "flexible-extract"] and not any(row.is_compared for row in rows)
    assert rows[1].notes == ("the card's exact_match is by filter none, not flexible-extract",)


def test_a_measure_without_standard_error_has_a_difference_only():
    row = compared(results_of({"kobest_boolq": {"f1": (0.79, "N/A")}}))["kobest_boolq", "f1"]
    assert row.difference == pytest.approx(0.79 - 0.7961) and row.standard_errors is None
    assert row.notes == ("no standard error here nor on the card",)
    assert compared(results_of({"kobest_boolq": {"f1": (0.79, 0.01)}}))["kobest_boolq", "f1"].notes == ("no standard error on the card",)


@pytest.mark.parametrize(("changes", "note"), [
    ({"shots": 0}, "0 shots here, 5 on the card"),
    ({"versions": {"kobest_copa": 2.0}}, "task version 2.0 here, 1 on the card"),
    ({"versions": {"kobest_copa": "Yaml"}}, "task version Yaml here, 1 on the card"),
    ({"counts": {"kobest_copa": 999}}, "999 questions here, 1,000 on the card"),
    ({"counts": {"kobest_copa": 10}, "limited": {"kobest_copa": 1000}}, "10 of 1,000 questions here"),
])  # fmt: skip
def test_what_was_asked_otherwise_is_said_beside_the_row(changes, note):
    row = compared(results_of({"kobest_copa": {"acc": (0.8, 0.01)}}, **changes))["kobest_copa", "acc"]
    assert row.notes == (note,)


def test_fewer_questions_do_not_hide_that_there_are_others():
    results = results_of({"kobest_copa": {"acc": (0.8, 0.01)}}, counts={"kobest_copa": 10}, limited={"kobest_copa": 999})
    assert compared(results)["kobest_copa", "acc"].notes == ("10 of 999 questions here", "999 questions here, 1,000 on the card")


def test_how_openko_asked_is_said_beside_the_row():
    ours = {"apply_chat_template": True, "truncated": {"kobest_copa": 7, "haerae_history": 3, "haerae_rare_word": 2}, "data": "hub"}
    tasks = {"kobest_copa": {"acc": (0.8, 0.01)}} | haerae(dict.fromkeys(HAERAE, 100))
    found = compared(results_of(tasks, counts=HAERAE | {"kobest_copa": 1000}) | {"openko": ours})
    assert found["kobest_copa", "acc"].notes == ("asked through a chat template", "7 of 1,000 prompts lost their beginning")
    assert "5 of 1,091 prompts lost their beginning" in found["haerae", "acc"].notes
    assert found["haerae_loan_word", "acc"].notes == ("asked through a chat template",)


def test_what_was_asked_alike_has_no_note():
    alike = {"shots": "5", "versions": {"kobest_copa": 1.0}, "counts": {"kobest_copa": 1000}}
    assert compared(results_of({"kobest_copa": {"acc": (0.8, 0.01)}}, **alike))["kobest_copa", "acc"].notes == ()


HAERAE = {"haerae_general_knowledge": 176, "haerae_history": 188, "haerae_loan_word": 169, "haerae_rare_word": 405,
          "haerae_standard_nomenclature": 153}  # fmt: skip


def haerae(rights: dict[str, int]) -> dict:
    """{task: {"acc": (share, standard error)}} of numbers of right answers."""
    shares = {task: right / HAERAE[task] for task, right in rights.items()}
    return {task: {"acc": (p, math.sqrt(p * (1 - p) / (HAERAE[task] - 1)))} for task, p in shares.items()}


def test_a_group_that_was_not_measured_as_one_is_made_of_its_tasks():
    rights = {"haerae_general_knowledge": 77, "haerae_history": 138, "haerae_loan_word": 133, "haerae_rare_word": 284,
              "haerae_standard_nomenclature": 110}  # fmt: skip
    found = compared(results_of(haerae(rights), counts=HAERAE))
    row = found["haerae", "acc"]
    assert row.ours == pytest.approx(742 / 1091) and row.questions == 1091
    # These are the card's own answers: what the harness printed then is what comes out now.
    assert (f"{row.ours:.4f}", f"{row.stderr:.4f}") == (row.published, row.published_stderr) == ("0.6801", "0.0138")
    assert row.notes == ("made here from its 5 tasks, weighted by their questions: the run has no such group",)
    assert all(abs(found[task, "acc"].difference) < 5e-5 and not found[task, "acc"].notes for task in HAERAE)


def test_a_groups_error_is_that_of_all_answers_about_their_tasks_means():
    answers = {task: [1, 0, 1] + [0, 1, 1] * k for k, task in enumerate(HAERAE)}
    shares = {task: sum(given) / len(given) for task, given in answers.items()}
    squares = {task: sum((x - shares[task]) ** 2 for x in given) for task, given in answers.items()}
    errors = {task: math.sqrt(squares[task] / (len(given) - 1) / len(given)) for task, given in answers.items()}
    tasks = {task: {"acc": (shares[task], errors[task])} for task in HAERAE}
    row = compared(results_of(tasks, counts={task: len(given) for task, given in answers.items()}))["haerae", "acc"]
    total = sum(map(len, answers.values()))
    assert row.ours == pytest.approx(sum(map(sum, answers.values())) / total)
    assert row.stderr == pytest.approx(math.sqrt(sum(squares.values()) / (total - 5) / total))


def test_without_the_numbers_of_questions_no_group_is_made():
    row = compared(results_of(haerae(dict.fromkeys(HAERAE, 100))))["haerae", "acc"]
    assert row.ours is None and "do not say how many questions" in row.notes[0]


def test_groups_in_groups_are_the_same_group_and_have_no_version():
    kmmlu = [row.task for row in published.card().table.rows if row.task.startswith("kmmlu_direct_")]
    half = {"kmmlu_direct_stem": kmmlu[:20], "kmmlu_direct_other": kmmlu[20:]}
    groups = {"kmmlu_direct": list(half)} | half
    tasks = {task: {"exact_match": (0.4, 0.01)} for task in [*kmmlu, *groups]}
    versions = dict.fromkeys(kmmlu, 2.0) | dict.fromkeys(groups, "9")
    found = compared(results_of(tasks, groups=groups, versions=versions))
    assert found["kmmlu_direct", "exact_match"].notes == ()
    assert found["kmmlu_direct_stem", "exact_match"].notes == ("not on the card",)

    half["kmmlu_direct_other"] = kmmlu[21:]
    found = compared(results_of(tasks, groups=groups | half, versions=versions | {kmmlu[0]: 3.0}))
    assert found["kmmlu_direct", "exact_match"].notes == (
        "1 of its tasks have another version here", "1 of the card's tasks are not in our group",
    )  # fmt: skip


def test_results_of_0_3_0_are_read_too():
    results = {"results": {"kobest_copa": {"acc": 0.8, "acc_stderr": 0.0126}}, "versions": {"kobest_copa": 0}, "config": {"num_fewshot": 0}}
    row = compared(results)["kobest_copa", "acc"]
    assert row.ours == 0.8 and row.stderr == 0.0126
    assert row.notes == ("task version 0 here, 1 on the card", "0 shots here, 5 on the card")


def test_a_score_that_is_no_number_is_not_compared():
    row = compared(results_of({"kobest_copa": {"acc": (math.nan, 0.01)}}))["kobest_copa", "acc"]
    assert row.ours is None and row.notes == ("acc is no number here",)


@pytest.mark.parametrize(("content", "said"), [
    ("{", "ours.json is not JSON"),
    ("[]", 'ours.json has no "results"'),
    ('{"results": {"kobest_copa": 0.8}}', 'ours.json has no "results" with an object for each task'),
    ('{"results": {}, "n-shot": 5}', "ours.json: 'n-shot' must be an object"),
    ('{"results": {}, "group_subtasks": {"haerae": 5}}', "ours.json: 'group_subtasks' of haerae must be a list of names, found 5"),
])  # fmt: skip
def test_results_of_another_form_are_refused(tmp_path, content, said):
    path = tmp_path / "ours.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        published.read_results(path)
    with pytest.raises(InputError, match="is a directory: name the harness's results file"):
        published.read_results(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        published.read_results(tmp_path / "none.json")


# ── the command line ───────────────────────────────────────────────────────────────────────────────────────────────


def run(*words) -> str:
    done = CliRunner().invoke(cli.app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of({"kobest_copa": {"acc": (0.78, 0.0131)}, "kobest_wic": {"acc": (0.5, 0.01)}}, shots=0)))
    return path


def test_parse_prints_one_json_object_with_decimals_as_strings(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(PROSE + OF_2023, encoding="utf-8")
    answer = json.loads(run("parse", path, "--json"))
    assert answer["rows"] == records(OF_2023) and [row["value"] for row in answer["rows"]] == ["0.5100", "0.3391", "14.4010"]
    assert list(answer["rows"][0]) == ["task", "version", "filter", "n_shot", "metric", "value", "stderr"]
    assert answer["runs"][0]["num_fewshot"] == "0"
    assert run("parse", path).endswith(table_of(OF_2023))


def test_parse_of_no_table_is_bad_input(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(PROSE, encoding="utf-8")
    with pytest.raises(InputError, match=r"README\.md has no table of lm-evaluation-harness"):
        run("parse", path, "--json")


def test_show_prints_the_card_with_its_source():
    printed, answer = run("show", BASE), json.loads(run("show", BASE, "--json"))
    assert printed.endswith(published.markdown(published.card().table)) and "081e85a" in printed
    assert answer["rows"] == [row.record() for row in published.card().table.rows] and answer["revision"] == "081e85a"
    assert json.loads(run("show", "--json")) == {BASE: "70 rows", f"{BASE}-instruct-preview": "no benchmark table"}
    assert "no benchmark table" in run("show")


def test_compare_prints_what_both_have_and_why_the_rest_is_missing(results):
    printed = run("compare", BASE, results)
    assert re.search(r"kobest_copa +acc +0\.7800 ±0\.0131 +0\.8150 ±0\.0123 +-0\.0350 +-1\.9 +0 shots here, 5 on the card\n", printed)
    assert "1 compared; 0 of 1 with standard errors differ by more than two" in printed
    assert "only on the card: not measured here\n" in printed and "only here: not on the card\n  kobest_wic acc\n" in printed
    answer = json.loads(run("compare", BASE, results, "--json"))
    copa = next(row for row in answer["rows"] if row["ours"] == 0.78)
    assert (
        copa["published"] == "0.8150" and copa["notes"] == ["0 shots here, 5 on the card"] and copa["published_questions"] == [1000, 1000]
    )
    with pytest.raises(InputError, match="no benchmark table"):
        run("compare", f"{BASE}-instruct-preview", results)


def test_scores_on_practice_questions_are_not_compared(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of({"kobest_copa": {"acc": (0.78, 0.0131)}}) | {"openko": {"data": "practice"}}))
    with pytest.raises(InputError, match="practice questions, and the card has scores on the benchmarks"):
        run("compare", BASE, path)


def test_nothing_in_common_is_said(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of({"arc": {"acc": (0.5, 0.01)}})))
    assert run("compare", BASE, path).startswith("nothing to compare")
