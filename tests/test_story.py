"""What the README says of the laptop run is what the committed figures hold, and the story is true of them."""

import json
import re

import pytest

from openko.notebook import ROOT
from openko.profiles import PROFILES, TINY_NAMES


def results(figure: str) -> dict:
    return json.loads((ROOT / "figures" / f"{figure}.json").read_text(encoding="utf-8"))


@pytest.fixture
def bits() -> dict:
    """{model: (Korean, English) bits per byte}"""
    return {name: tuple(values) for name, values in results("05-road")["series"].items()}


@pytest.fixture
def ended() -> dict:
    """{language: [share of each model, in the order base, chat, continued, control, merged]}"""
    return {label.split()[-1]: list(shares.values()) for label, shares in results("05-ended-turns")["series"].items()}


def test_continued_pretraining_gains_korean_and_forgets_english(bits):
    base, continued, control = (bits[n] for n in (TINY_NAMES.base, TINY_NAMES.continued, TINY_NAMES.control))
    assert continued[0] <= 0.45 * base[0] and continued[0] < control[0]
    assert continued[1] > base[1]


def test_the_chat_vector_ends_korean_turns_at_a_bearable_price(bits, ended):
    _, _, continued, _, merged = ended["Korean"]
    assert merged - continued >= 0.5
    assert bits[TINY_NAMES.merged][0] <= 1.15 * bits[TINY_NAMES.continued][0]


def test_the_english_chat_model_ends_english_turns(ended):
    _, chat, *others = ended["English"]
    assert chat > 0.5 > max(others)


def test_the_curve_contains_the_profiles_lambda(ended):
    line = next(line for name, line in results("05-scale")["series"].items() if "ended" in name and "by part" in name)
    at = dict(zip(line["x"], line["y"], strict=True))
    assert at[PROFILES["laptop"].chat_vector_lambda] == pytest.approx(100 * ended["Korean"][-1])


def test_the_korean_text_is_read_at_most_eight_times():
    notebook = (ROOT / "notebooks" / "03_pretraining.ipynb").read_text(encoding="utf-8")
    passes = [float(p) for p in re.findall(r"\(([\d.]+) passes over the Korean text\)", notebook)]
    assert passes and max(passes) + 1 <= 8  # the base reads its share of it less than once


def test_the_readme_shows_these_numbers(bits, ended):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = (TINY_NAMES.base, TINY_NAMES.chat, TINY_NAMES.continued, TINY_NAMES.control, TINY_NAMES.merged)
    for name, korean, english in zip(names, ended["Korean"], ended["English"], strict=True):
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
        cells = [cell.strip().strip("*") for cell in row.split("|")[2:-1]]
        assert cells[:2] == [f"{b:.2f}" for b in bits[name]]
        assert [cell.split()[0] for cell in cells[2:]] == [f"{korean:.0%}", f"{english:.0%}"]


# ── KoEn ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def koen() -> dict:
    """{share of English: (percent fewer bits of Korean, percent more bits of English)}, of models that began as the base."""
    points = {name: values for name, values in results("08-koen")["series"].items() if name != TINY_NAMES.base}
    return {int(re.search(r"\((\d+)%\)", name)[1]) / 100: tuple(values) for name, values in points.items()}


def test_a_tenth_of_english_stops_most_of_the_forgetting_for_little_korean(koen):
    assert {0.0, *PROFILES["laptop"].english_in_koen} == set(koen)
    assert koen[0.1][1] <= koen[0.0][1] / 3
    assert koen[0.0][0] - koen[0.1][0] <= 5


def test_more_english_keeps_more_english_and_costs_more_korean(koen):
    korean, english = zip(*(koen[share] for share in sorted(koen)), strict=True)
    assert sorted(korean, reverse=True) == list(korean) and sorted(english, reverse=True) == list(english)


def test_koen_chats_in_both_languages():
    ended = {label.split()[-1]: shares for label, shares in results("08-ended-turns")["series"].items()}
    name = next(name for name in ended["Korean"] if "koen" in name)
    assert ended["Korean"][name] >= 0.3 and ended["English"][name] >= 0.3
