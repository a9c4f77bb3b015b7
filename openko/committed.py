"""The notebooks as they are committed: badges and set-up cell made from one field, outputs taken from a run.

The address in pyproject.toml ([project.urls] Repository) is the only one: change it, run `openko notebooks`, and
every badge and set-up cell follows.
"""

import re
import tomllib
from pathlib import Path

import nbformat

from openko import notebook
from openko.errors import InputError

MACHINE_PATH = re.compile(r"(?:/[\w.+-]+)+/(?=site-packages|lib/python|openko/|runs/|notebooks/)")


def repository() -> str:
    """The project's address, from pyproject.toml."""
    return tomllib.loads((notebook.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def badges(name: str) -> str:
    """Markdown of the Colab, Kaggle and GitHub badges of a notebook."""
    address = repository()
    path = f"blob/main/notebooks/{name}.ipynb"
    on_colab = address.removeprefix("https://").removesuffix(".git").replace("github.com", "github")
    opened = {
        "Colab": f"https://colab.research.google.com/{on_colab}/{path}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src={address}/{path}",
        "GitHub": f"{address}/{path}",
    }
    pictures = {
        "Colab": "https://colab.research.google.com/assets/colab-badge.svg",
        "Kaggle": "https://kaggle.com/static/images/open-in-kaggle.svg",
        "GitHub": "https://img.shields.io/badge/GitHub-open-black?logo=github",
    }
    return " ".join(f"[![{k}]({pictures[k]})]({opened[k]})" for k in opened)


def set_up() -> str:
    """The set-up cell: on Colab and Kaggle it brings openko and what the image lacks; where openko is, nothing."""
    folder = repository().rsplit("/", 1)[-1]
    return f"""# Colab, Kaggle: 저장소를 받아 설치합니다. 이미 있으면 아무 일도 하지 않습니다. · Does nothing where openko is installed.
import importlib.util, subprocess, sys
if importlib.util.find_spec("openko") is None:
    subprocess.run(["git", "clone", "--depth", "1", "{repository()}"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", "{folder}"], check=True)
    sys.path.insert(0, "{folder}")
    import openko.notebook
    openko.notebook.install_missing()"""


def refresh(results: Path | None) -> list[str]:
    """Rewrite badges and set-up cells; with `results`, take over the outputs of that run. Returns what was done."""
    done = []
    for name in notebook.NAMES:
        path = notebook.ROOT / "notebooks" / f"{name}.ipynb"
        content = nbformat.read(path, as_version=4)
        content.cells[1].source = badges(name) + "\n\n" + content.cells[1].source.split("\n\n", 1)[-1]
        content.cells[2].source = set_up()
        if results is not None:
            _take_outputs(content, Path(results) / "notebooks" / f"{name}.ipynb")
        _strip(content)
        nbformat.write(content, path)
        done.append(f"notebooks/{name}.ipynb")
    return done


def _take_outputs(content, executed_path: Path) -> None:
    if not executed_path.is_file():
        raise InputError(f"{executed_path} does not exist: run openko walkthrough first")
    executed = [c for c in nbformat.read(executed_path, as_version=4).cells if "injected-parameters" not in c.metadata.get("tags", ())]
    if [c.source for c in executed] != [c.source for c in content.cells]:
        raise InputError(f"{executed_path} was run from other cells than notebooks/{executed_path.name} has now: run it again")
    for cell, ran in zip(content.cells, executed, strict=True):
        if cell.cell_type == "code":
            cell.outputs = ran.outputs


def collapse_carriage_returns(cells) -> None:
    """Leave of each progress line what a terminal would show at the end, and drop it if that is empty."""
    for cell in cells:
        joined = []
        for output in cell.get("outputs", ()):
            last = joined[-1] if joined else None
            if last and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text += output.text
            else:
                joined.append(output)
        for output in joined:
            if output.output_type == "stream":
                output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in output.text.split("\n"))
        if "outputs" in cell:
            cell.outputs = [o for o in joined if o.output_type != "stream" or o.text.strip()]


def _strip(content) -> None:
    """Of progress what a terminal shows at the end; no widget state, no timings, no machine paths; execution counts 1, 2, 3 …
    (nbval wants some, papermill's cell adds one)."""
    content.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })  # fmt: skip
    collapse_carriage_returns(content.cells)
    count = 0
    for number, cell in enumerate(content.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if cell.cell_type != "code":
            continue
        cell.execution_count = count = count + 1
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if output.output_type == "stream":
                output.text = MACHINE_PATH.sub("", output.text)
