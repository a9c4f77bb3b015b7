"""One plotting style, Korean and English labels, and the same bytes for the same data.

A figure is a small JSON of results (kind, bilingual title and axes, series) and the PNG drawn from it; the JSON is
kept beside the picture, so that every figure can be redrawn and every number read without running anything.

    {"kind": "lines" | "bars" | "road" | "tokens", "title": [ko, en], "x": [ko, en], "y": [ko, en], "series": {name: …}}

lines: series {name: {"x": [...], "y": [...]}}, optional "log": "x".  bars: series {name: {label: value}}, optional
"intervals": {name: {label: [low, high]}}, of some or all.
road: series {name: [x, y]} in order, joined by "arrows": [[from, to], …].
tokens: in place of series "sentences": [{"text", "tokenizers": {name: [[begin, end, cut], …]}}], begin and end in bytes of UTF-8, cut
where a token begins or ends inside a character; "x" and "y" are empty.
"""

import itertools
import json
import math
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager, patheffects, ticker
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from openko.errors import InputError

FONT_FILE = "koreanize_matplotlib/fonts/NanumGothic.ttf"  # carried by the text packages; the package is never imported
HANGUL_FONTS = ("NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "AppleGothic", "Malgun Gothic")
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.unicode_minus": False,  # the Hangul font has a hyphen and no minus sign
    "axes.formatter.min_exponent": 3,  # 0.01, not a power with such a sign
}  # fmt: skip
COLOURS = ("#0b6e99", "#c8553d", "#588157", "#7b5ea7", "#b08900", "#444444")
SIZE = (7.2, 4.2)  # inches, without a legend below
COLUMNS = 64  # of a line
FEWEST_COLUMNS = 40  # shorter sentences are drawn larger until so many columns fill the width
INCH_A_LINE = 0.24
TOKEN_COLOURS = ("#bcd9ea", "#f6cfc4", "#cfe3c8", "#ddd0ee", "#f2e2ae")
CUT_COLOUR, HATCH_COLOUR = "#a01c1c", "#dc9c9c"
SHOWN = {"\n": "¶", "\t": "→", "\r": "←"}  # two columns each; Korean fonts draw a backslash as ₩


def hangul_font(packages: Path) -> font_manager.FontProperties:
    """NanumGothic of the text packages, else a font of this machine that has Hangul."""
    if (Path(packages) / FONT_FILE).is_file():
        return font_manager.FontProperties(fname=str(Path(packages) / FONT_FILE))
    for name in HANGUL_FONTS:
        if any(f.name == name for f in font_manager.fontManager.ttflist):
            return font_manager.FontProperties(family=name)
    raise InputError(
        f"no font with Hangul: neither {Path(packages) / FONT_FILE} nor one of {', '.join(HANGUL_FONTS)} is there. "
        "Notebook 01_tokenizers installs one, or install a Korean font and try again"
    )


def save(directory: Path, name: str, data: dict, *, packages: Path) -> Path:
    """Write NAME.json and NAME.png into `directory`; returns the picture's path."""
    directory = Path(directory)
    text = json.dumps(data, indent=1, ensure_ascii=False)
    # From the JSON and not from the objects, so that drawing again tomorrow gives the same bytes.
    figure = draw(json.loads(text), hangul_font(packages))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    picture = directory / f"{name}.png"
    with matplotlib.rc_context(STYLE):  # ticks get their text only now
        figure.savefig(picture, dpi=110, metadata={"Software": None})
    return picture


def redraw(directory: Path, *, packages: Path) -> list[Path]:
    """Draw every JSON of a directory again."""
    return [
        save(directory, path.stem, json.loads(path.read_text(encoding="utf-8")), packages=packages)
        for path in sorted(Path(directory).glob("*.json"))
    ]


def draw(data: dict, font: font_manager.FontProperties) -> Figure:
    """The figure of one data dict."""
    painters = {"lines": _lines, "bars": _bars, "road": _road, "tokens": _tokens}
    if data.get("kind") not in painters:
        raise InputError(f"figure kind must be one of {', '.join(painters)}, found {data.get('kind')!r}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        painters[data["kind"]](axes, data)
        axes.set_title("\n".join(data["title"]))
        axes.set_xlabel(" · ".join(data["x"]))
        axes.set_ylabel(" · ".join(data["y"]))
        _legend(figure, axes, data["kind"], font)
    for text in figure.findobj(matplotlib.text.Text):
        size = text.get_fontsize()
        text.set_fontproperties(font)
        text.set_fontsize(size)
    return figure


def _legend(figure: Figure, axes, kind: str, font: font_manager.FontProperties) -> None:
    """Below the axes, in room of its own, with as few rows as fit; only up to three lines have it where they leave a place free."""
    handles, labels = axes.get_legend_handles_labels()
    if kind == "lines" and 0 < len(labels) <= 3:
        axes.legend(frameon=False)
    elif labels:
        small = font.copy()
        small.set_size(9)
        for rows in range(1, len(labels) + 1):
            legend = figure.legend(
                handles, labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows), frameon=False, prop=small,
                handlelength=1.5, handletextpad=0.5, columnspacing=1.5,
            )  # fmt: skip
            if legend.get_window_extent().width <= figure.bbox.width or rows == len(labels):
                break
            legend.remove()
        figure.set_size_inches(SIZE[0], SIZE[1] + 0.2 * rows)


def _columns(text: str) -> int:
    return sum(map(_width, text))


def _lines(axes, data: dict) -> None:
    for (name, line), colour in zip(data["series"].items(), COLOURS * 9, strict=False):
        axes.plot(line["x"], line["y"], color=colour, label=name, linewidth=1.5, marker="o" if len(line["x"]) < 15 else None, markersize=4)
    if data.get("log") == "x":
        axes.set_xscale("log")
    elif all(type(x) is int for line in data["series"].values() for x in line["x"]):
        axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))  # no quarter of a layer


def _bars(axes, data: dict) -> None:
    labels = list(next(iter(data["series"].values())))
    width = 0.8 / len(data["series"])
    for i, (name, values) in enumerate(data["series"].items()):
        places = [x + (i - (len(data["series"]) - 1) / 2) * width for x in range(len(labels))]
        heights = [values[label] for label in labels]
        known = data.get("intervals", {}).get(name, {})
        reach = None
        if known:  # matplotlib wants distances from the bar's end, and draws none for what is not a number
            reach = [[abs(known[label][side] - values[label]) if label in known else math.nan for label in labels] for side in (0, 1)]
        bars = axes.bar(places, heights, width, yerr=reach, capsize=3, color=COLOURS[i % len(COLOURS)], label=name)
        axes.bar_label(bars, fmt="{:,.4g}", fontsize=8, padding=1)
    axes.set_xticks(range(len(labels)), labels)
    axes.grid(axis="x", visible=False)


def _road(axes, data: dict) -> None:
    for (name, (x, y)), colour in zip(data["series"].items(), COLOURS * 9, strict=False):
        axes.plot([x], [y], "o", color=colour, markersize=9, label=name)
    for start, stop in data["arrows"]:
        axes.annotate(
            "",
            xy=data["series"][stop],
            xytext=data["series"][start],
            arrowprops={"arrowstyle": "->", "color": "#666666", "shrinkA": 6, "shrinkB": 6},
        )


def _tokens(axes, data: dict) -> None:
    """Characters on a grid, Hangul two columns wide, Latin one; a token is the strip of columns that its bytes are, hatched if it cuts
    a character. The figure becomes as high as the sentences need, and short sentences are drawn larger."""
    line, longest = 0.0, max((_columns(sentence["text"]) for sentence in data["sentences"]), default=0)
    columns = min(COLUMNS, max(FEWEST_COLUMNS, longest))
    for sentence in data["sentences"]:
        for name, spans in sentence["tokenizers"].items():
            cut = sum(cut for _, _, cut in spans)
            label = f"{name}: {len(spans)} tokens" + (f", {cut} of them pieces of characters" if cut else "")
            axes.text(0, line + 0.6, label, fontsize=9, color="#444444", va="center")
            line = _token_block(axes, sentence["text"], spans, line + 1.0, 9 * COLUMNS / columns) + 0.2
        line += 0.3
    axes.set_xlim(-0.2, columns + 0.2)
    axes.set_ylim(line, 0)
    axes.set_axis_off()
    axes.figure.set_size_inches(SIZE[0], 0.7 + INCH_A_LINE * COLUMNS / columns * line)


def _token_block(axes, text: str, spans: list, line: float, points: float) -> float:
    """One sentence of one tokenizer from `line` on, in as many lines as it needs; returns the line behind it. points: of its font."""
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]  # for what stands on a hatch
    places = np.cumsum([0, *(len(c.encode()) for c in text)])
    bases = _bases(text)
    widths = [max(_width(text[i]), 1) for i in bases]
    # A syllable of several characters is as wide as its bytes are long, for the tokens that hold parts of it.
    column = np.interp(places, places[[*bases, len(text)]], np.cumsum([0, *widths]))
    ends = {place for _, place, _ in spans}
    starts_line, first, last_end = [0], 0, 0
    for i, place in enumerate(places):  # a line ends where a token and a character do
        if column[i] - column[first] > COLUMNS and last_end > first:
            first = last_end
            starts_line.append(first)
        if int(place) in ends:
            last_end = i
    starts_line.append(len(text))
    for begin, end in itertools.pairwise(starts_line):
        for number, (left, right, cut) in enumerate(spans):
            if places[begin] <= left < places[end]:
                x, stop = np.interp([left, min(right, places[end])], places, column) - column[begin]
                place, colour = ((x, line), stop - x, 1.0), TOKEN_COLOURS[number % len(TOKEN_COLOURS)]
                if cut:  # a hatch has the colour of its patch's edge, and is to be fainter than it
                    axes.add_patch(Rectangle(*place, facecolor=colour, linewidth=0, edgecolor=HATCH_COLOUR, hatch="///"))
                    axes.add_patch(Rectangle(*place, fill=False, linewidth=0.9, edgecolor=CUT_COLOUR, zorder=1.5))
                else:
                    axes.add_patch(Rectangle(*place, facecolor=colour, linewidth=0.7, edgecolor="white"))
        for i, behind in itertools.pairwise([*bases, len(text)]):
            if begin <= i < end and (drawn := _drawn(text[i:behind])):
                middle = (column[i] + column[behind]) / 2 - column[begin]
                is_cut = any(cut and left < places[behind] and right > places[i] for left, right, cut in spans)
                written = axes.text(middle, line + 0.52, drawn, fontsize=points, ha="center", va="center", clip_on=True)
                written.set_path_effects(halo if is_cut else [])
        line += 1.15
    return line


def _bases(text: str) -> list[int]:
    """Where the characters are that others join; those at the beginning or behind white space join nothing, and stand for themselves."""
    return [i for i, c in enumerate(text) if _width(c) or i == 0 or text[i - 1].isspace()]


def _drawn(cluster: str) -> str:
    """A character with those that join it, composed, without what is never seen (joiners, selectors); empty for a space."""
    if cluster in SHOWN:
        return SHOWN[cluster]
    seen = "".join(c for c in cluster if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return unicodedata.normalize("NFC", seen).strip(" ")


def _width(character: str) -> int:
    """Columns: 2 for wide characters, 0 for those that join others, else 1."""
    if character in SHOWN:
        return 2
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn"):
        return 0
    if "\u1160" <= character <= "\u11ff" or "\ud7b0" <= character <= "\ud7fb":  # vowels and finals
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
