"""The run as one page: the notebooks as HTML, the figures, the numbers, the model directories."""

import html
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

STYLE = """body{font:16px/1.6 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
img{max-width:31rem;width:100%}figure{display:inline-block;margin:.5rem}code{background:#f3f3f3;padding:0 .2rem}"""


def write(out: Path, summary: dict) -> None:
    """index.html, and a page for each executed notebook under html/."""
    (out / "html").mkdir(exist_ok=True)
    exporter = HTMLExporter(template_name="lab")
    titles = {}
    for path in sorted((out / "notebooks").glob("[0-9]*.ipynb")):
        if path.name.endswith(".partial.ipynb"):
            continue
        content = nbformat.read(path, as_version=4)
        titles[path.stem] = content.cells[0].source.splitlines()[0].lstrip("# ")
        body, _ = exporter.from_notebook_node(content, {"metadata": {"name": titles[path.stem]}})
        (out / "html" / f"{path.stem}.html").write_text(body, encoding="utf-8")
    (out / "index.html").write_text(_index(out, summary, titles), encoding="utf-8")


def _index(out: Path, summary: dict, titles: dict[str, str]) -> str:
    seconds = summary["notebooks"]
    notebooks = _table(
        ("notebook", "seconds"),
        [(f'<a href="html/{n}.html">{html.escape(t)}</a>', f"{seconds.get(n, 0):.0f}") for n, t in titles.items()],
    )
    measured, ended = summary.get("bits_per_byte", {}), summary.get("ended_turns", {})
    scores = _table(
        ("model", "Korean, bits per byte", "English, bits per byte", "ended turns in Korean"),
        [
            (f"<code>{html.escape(n)}</code>", f"{v['ko']:.3f}", f"{v['en']:.3f}", f"{ended[n]:.0%}" if n in ended else "–")
            for n, v in measured.items()
        ],
    )
    models = _table(
        ("model", "directory"), [(f"<code>{html.escape(n)}</code>", f"<code>{html.escape(p)}</code>") for n, p in summary["models"].items()]
    )
    figures = "".join(
        f'<figure><a href="figures/{p.stem}.json"><img src="figures/{p.name}" alt="{p.stem}"></a></figure>'
        for p in sorted((out / "figures").glob("*.png"))
    )
    return (
        f'<!doctype html><html lang="ko"><meta charset="utf-8"><title>openko · {summary["profile"]}</title><style>{STYLE}</style>'
        f"<h1>openko · {summary['profile']}</h1>"
        f"<p>{summary['seconds']:.0f} s, {summary['peak_rss_gb']} GB peak. Numbers: <a href='summary.json'>summary.json</a>. "
        "A click on a figure opens the numbers that it was drawn from.</p>"
        f"<h2>노트북 · Notebooks</h2>{notebooks}<h2>모델이 한 일 · What the models did</h2>{scores}"
        f"<h2>그림 · Figures</h2>{figures}<h2>모델 · Models</h2>{models}</html>\n"
    )


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = ["".join(f"<th>{h}</th>" for h in head)] + ["".join(f"<td>{c}</td>" for c in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
