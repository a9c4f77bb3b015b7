"""openko.figures: the same data gives the same bytes, today and from the saved JSON."""

import json
import shutil

import numpy as np
import pytest
from matplotlib import font_manager

from openko import figures
from openko.errors import InputError

LABELS = {"title": ["손실", "Loss"], "x": ["단계", "step"], "y": ["냇", "nats"]}
FIGURES = {
    "lines": LABELS
    | {"kind": "lines", "series": {"tiny": {"x": [1, 2, 3], "y": [3.0, 2.5, 2.25]}, "large": {"x": [1, 3], "y": [2.0, 1.0]}}},
    "lines-log": LABELS | {"kind": "lines", "log": "x", "series": {"tiny": {"x": [1, 10, 100], "y": [3.0, 2.5, 2.25]}}},
    "bars": LABELS
    | {"kind": "bars", "series": {"a": {"한국어 Korean": 1.5, "영어 English": 4.25}, "b": {"한국어 Korean": 3, "영어 English": 4}}},
    "bars-intervals": LABELS
    | {
        "kind": "bars",
        "series": {"a": {"한국어 Korean": 0.5, "영어 English": 0.0}},
        "intervals": {"a": {"한국어 Korean": [0.4, 0.7], "영어 English": [0.0, 0.1]}},
    },
    "lines-many": LABELS | {"kind": "lines", "series": {f"model {i}": {"x": [1, 2], "y": [i, 0.5]} for i in range(6)}},
    "tokens": LABELS
    | {
        "kind": "tokens",
        "x": [],
        "y": [],
        "sentences": [{"text": "가나", "tokenizers": {"a": [[0, 2, True], [2, 3, True], [3, 6, False]]}}],
    },
    "road": LABELS | {"kind": "road", "series": {"base": [1.0, 2.0], "chat": [1.5, 1.0]}, "arrows": [["base", "chat"]]},
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Where the font is looked for; where no font with Hangul is installed, letters without it do."""
    try:
        figures.hangul_font(tmp_path / "packages")
    except InputError:
        monkeypatch.setattr(figures, "hangul_font", lambda packages: font_manager.FontProperties(family="DejaVu Sans"))
    return tmp_path / "packages"


pytestmark = pytest.mark.filterwarnings("ignore:Glyph")


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_data_gives_the_same_picture(tmp_path, packages, name):
    one = figures.save(tmp_path / "one", name, FIGURES[name], packages=packages)
    two = figures.save(tmp_path / "two", name, FIGURES[name], packages=packages)
    assert one == tmp_path / "one" / f"{name}.png" and one.read_bytes().startswith(b"\x89PNG")
    assert one.read_bytes() == two.read_bytes()
    assert json.loads(one.with_suffix(".json").read_text(encoding="utf-8")) == FIGURES[name]


def test_other_data_gives_another_picture(tmp_path, packages):
    changed = FIGURES["lines"] | {"title": ["손실", "Losses"]}
    pictures = [figures.save(tmp_path / n, "figure", data, packages=packages) for n, data in (("one", FIGURES["lines"]), ("two", changed))]
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_figures_drawn_again_from_their_json_have_the_same_bytes(tmp_path, packages):
    drawn = {figures.save(tmp_path, name, data, packages=packages): None for name, data in FIGURES.items()}
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for picture in drawn:
        picture.unlink()
    assert figures.redraw(tmp_path, packages=packages) == sorted(drawn)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_what_has_no_interval_is_drawn_without_one(packages):
    data = FIGURES["bars-intervals"]
    some = data | {"intervals": {"a": {"영어 English": [0.0, 0.1]}}}
    segments = figures.draw(some, figures.hangul_font(packages)).axes[0].collections[0].get_segments()
    drawn = [tuple(np.round(s[:, 1], 6)) for s in segments if len(s) and not np.isnan(s).any()]
    assert drawn == [(0.0, 0.1)]


def test_intervals_reach_from_low_to_high(packages):
    data = FIGURES["bars-intervals"]
    axes = figures.draw(data, figures.hangul_font(packages)).axes[0]
    segments = [s for c in axes.collections for s in c.get_segments()]
    assert [tuple(np.round(s[:, 1], 6)) for s in segments] == [tuple(i) for i in data["intervals"]["a"].values()]


@pytest.mark.parametrize("kind", ["lines", "bars", "road"])
def test_a_figure_takes_as_many_series_as_there_are(tmp_path, packages, kind):
    one = {"lines": {"x": [1, 2], "y": [1, 2]}, "bars": {"a": 1, "b": 2}, "road": [1, 2]}[kind]
    data = LABELS | {"kind": kind, "series": {f"model {i}": one for i in range(9)}, "arrows": []}
    assert figures.save(tmp_path, "many", data, packages=packages).is_file()


@pytest.mark.parametrize(("kind", "series"), [("lines", 4), ("lines", 6), ("bars", 1), ("bars", 4), ("road", 2), ("road", 9)])
def test_a_legend_that_could_cover_something_stands_below_the_axes_and_inside_the_figure(packages, kind, series):
    one = {"lines": {"x": [1, 2], "y": [1, 2]}, "bars": {"a": 1, "b": 2}, "road": [1, 2]}[kind]
    data = LABELS | {"kind": kind, "series": {f"한국어 비트 증가 bits (part {i})": one for i in range(series)}, "arrows": []}
    figure = figures.draw(data, figures.hangul_font(packages))
    figure.draw_without_rendering()
    [legend] = figure.legends
    place, axes = legend.get_window_extent(), figure.axes[0]
    assert axes.get_legend() is None and len(legend.get_texts()) == series
    assert place.y1 <= axes.get_tightbbox().y0 + 1 and place.y0 >= 0 and place.x0 >= 0 and place.x1 <= figure.bbox.x1
    assert axes.bbox.height > 0.5 * 4.2 * figure.dpi  # the legend's rows are not taken from the picture's


@pytest.mark.parametrize("xs", [[0, 1, 2], [3, 4], [0, 1], [1, 2, 3, 4, 5, 6, 7], [10, 400]], ids=str)
def test_whole_numbers_have_whole_ticks(packages, xs):
    figure = figures.draw(LABELS | {"kind": "lines", "series": {"a": {"x": xs, "y": xs}}}, figures.hangul_font(packages))
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
    half = [x / 2 for x in xs]
    figure = figures.draw(LABELS | {"kind": "lines", "series": {"a": {"x": half, "y": xs}}}, figures.hangul_font(packages))
    assert len(figure.axes[0].get_xticks()) >= 2


def of_tokens(text, spans):
    return LABELS | {"kind": "tokens", "x": [], "y": [], "sentences": [{"text": text, "tokenizers": {"a": spans}}]}


def test_short_sentences_fill_more_of_the_width_and_long_ones_still_fit(packages):
    right = {}
    for size in (4, 16, 40):
        text = "가" * size
        axes = figures.draw(of_tokens(text, [[3 * i, 3 * i + 3, False] for i in range(size)]), figures.hangul_font(packages)).axes[0]
        right[size] = max(p.get_x() + p.get_width() for p in axes.patches) / axes.get_xlim()[1]
    assert right[16] > 0.75 and right[40] > 0.9 and right[4] < 0.5  # four syllables over the whole width would be a poster


def test_a_broken_syllable_stands_on_a_light_hatch(packages):
    axes = figures.draw(of_tokens("가나", [[0, 2, True], [2, 3, True], [3, 6, False]]), figures.hangul_font(packages)).axes[0]
    hatched = [p for p in axes.patches if p.get_hatch()]
    broken, whole = (next(t for t in axes.texts if t.get_text() == syllable) for syllable in "가나")
    assert len(hatched) == 2 and all(min(p.get_edgecolor()[:3]) > 0.5 and p.get_zorder() < broken.get_zorder() for p in hatched)
    assert broken.get_path_effects() and not whole.get_path_effects()


@pytest.mark.parametrize("data", [LABELS | {"kind": "pie", "series": {}}, LABELS | {"series": {}}], ids=["pie", "none"])
def test_an_unknown_kind_is_refused_and_nothing_is_written(tmp_path, packages, data):
    with pytest.raises(InputError, match="figure kind must be one of lines, bars, road"):
        figures.save(tmp_path / "figures", "pie", data, packages=packages)
    assert not list((tmp_path / "figures").glob("*"))


def test_without_a_font_with_hangul_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "HANGUL_FONTS", ("No Such Font",))
    with pytest.raises(InputError, match=r"no font with Hangul.*No Such Font.*Notebook 01_tokenizers installs one"):
        figures.hangul_font(tmp_path)


def test_the_font_of_the_text_packages_comes_first(tmp_path):
    path = tmp_path / figures.FONT_FILE
    path.parent.mkdir(parents=True)
    shutil.copyfile(font_manager.findfont("DejaVu Sans"), path)
    assert figures.hangul_font(tmp_path).get_file() == str(path)
