"""The run as one page: the notebooks as HTML, the figures, the numbers, the model directories, Korean beside English."""

import html
import json
from pathlib import Path

import nbformat

from openko import manifest

STYLE = """body{font:16px/1.6 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
.wide{overflow-x:auto}td code{white-space:nowrap}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
img{max-width:31rem;width:100%}figure{display:inline-block;margin:.5rem;max-width:31rem;vertical-align:top}
figcaption{font-size:.85rem;color:#555}code{background:#f3f3f3;padding:0 .2rem}"""
NONE = "–"


def write_notebook(out: Path, name: str) -> None:
    """html/NAME.html of the executed notebook, unless there is one of it."""
    executed, final = out / "notebooks" / f"{name}.ipynb", out / "html" / f"{name}.html"
    if final.is_file() and final.stat().st_mtime >= executed.stat().st_mtime:
        return
    from nbconvert import HTMLExporter  # half a second, which the first notebook need not wait for

    final.parent.mkdir(exist_ok=True)
    content = nbformat.read(executed, as_version=4)
    body, _ = HTMLExporter(template_name="lab").from_notebook_node(content, {"metadata": {"name": _title(content.cells[0].source)}})
    manifest.write_text(final, body)


def write_index(out: Path, summary: dict) -> None:
    """index.html, with links to the pages of the notebooks that are there."""
    titles = {}
    for path in sorted((out / "notebooks").glob("[0-9]*.ipynb")):
        if (out / "html" / f"{path.stem}.html").is_file():
            titles[path.stem] = _title("".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]))
    manifest.write_text(out / "index.html", _index(out, summary, titles))


def _title(heading: str) -> str:
    return heading.splitlines()[0].lstrip("# ")


def _index(out: Path, summary: dict, titles: dict[str, str]) -> str:
    seconds = summary["notebooks"]
    notebooks = _table(
        ("노트북 · notebook", "초 · seconds"),
        [(f'<a href="html/{n}.html">{html.escape(t)}</a>', f"{seconds.get(n, 0):.0f}") for n, t in titles.items()],
    )
    measured, ended = summary.get("bits_per_byte", {}), summary.get("ended_turns", {})
    scores = _table(
        (
            "모델 · model", "한국어, 바이트마다 비트 · Korean, bits per byte", "영어, 바이트마다 비트 · English, bits per byte",
            "한국어로 끝낸 차례 · ended turns in Korean",
        ),
        [
            (_code(n), *(_number(measured.get(n, {}).get(language), ".3f") for language in ("ko", "en")), _number(ended.get(n), ".0%"))
            for n in {**measured, **ended}
        ],
    )  # fmt: skip
    models = _table(("모델 · model", "폴더 · directory"), [(_code(n), _code(p)) for n, p in summary["models"].items()])
    corpus = (
        "<h2>말뭉치 · Corpus</h2><p><a href='corpus.html'>무엇을 찾고 무엇을 남겼는지, 이유와 이용 조건과 함께 · "
        "What was found and what was kept, with reasons and licences</a></p>"
    ) if (out / "corpus.html").is_file() else ""  # fmt: skip
    figures = "".join(_figure(p) for p in sorted((out / "figures").glob("*.png")))
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    return (
        f'<!doctype html><html lang="ko"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>openko · {summary['profile']}</title><style>{STYLE}</style><h1>openko · {summary['profile']}</h1>"
        f"<p>{minutes}분 {seconds}초, 메모리는 많아야 {summary['peak_rss_gb']} GB. 숫자는 모두 "
        "<a href='summary.json'>summary.json</a>에 있고, 그림을 누르면 그 그림의 숫자가 열립니다.<br>"
        f"{minutes} min {seconds} s, {summary['peak_rss_gb']} GB of memory at most. All numbers: <a href='summary.json'>summary.json</a>. "
        "A click on a figure opens the numbers that it was drawn from.</p>"
        f"<h2>노트북 · Notebooks</h2>{notebooks}{corpus}<h2>모델이 한 일 · What the models did</h2>{scores}"
        f"<h2>그림 · Figures</h2>{figures}<h2>모델 · Models</h2>{models}</html>\n"
    )


def _figure(picture: Path) -> str:
    """The picture with its title in both languages, from the JSON that it was drawn from."""
    title = html.escape(" · ".join(json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))["title"]))
    return (
        f'<figure><a href="figures/{picture.stem}.json"><img src="figures/{picture.name}" alt="{title}"></a>'
        f"<figcaption>{title} ({picture.stem})</figcaption></figure>"
    )


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = ["".join(f"<th>{h}</th>" for h in head)] + ["".join(f"<td>{c}</td>" for c in row) for row in rows]
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"
