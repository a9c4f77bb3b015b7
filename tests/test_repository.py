"""What a reader of the repository relies on: one place for versions, rooms in order, notebooks in form."""

import ast
import re
import tomllib

import nbformat
import pytest
import yaml

from openko import committed, notebook, profiles
from openko.notebook import ROOT

# From the ground up: a room imports only rooms of lower floors. Rooms of one floor do not know each other.
FLOORS = (
    {"errors", "progress", "hlo"}, {"rope"}, {"manifest", "profiles"}, {"shards", "hardware", "staging"}, {"attention", "tokenizers"},
    {"llama"}, {"hf_weights"},
    {"bits_per_byte", "figures", "decoding"}, {"rope_lab", "rehearsal", "sampling", "chat_vector", "training", "corpus", "token_study"},
    {"evaluation"}, {"release"}, {"notebook"}, {"page", "committed"}, {"walkthrough"}, {"cli"},
)  # fmt: skip
# rehearsal compiles training's own step; that is its purpose.
ALLOWED = {("rehearsal", "training")}
PACKAGE = sorted((ROOT / "openko").rglob("*.py"))


def room(path):
    return path.relative_to(ROOT / "openko").with_suffix("").parts[0]


def rooms_imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "openko":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("openko.")]


@pytest.mark.parametrize("path", [p for p in PACKAGE if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_rooms_below(path):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    mine = room(path)
    for other in set(rooms_imported(path)) - {mine}:
        assert floor[other] < floor[mine] or (mine, other) in ALLOWED, f"{mine} imports {other}"


def test_the_step_imports_neither_grain_nor_orbax_nor_datatrove():
    import subprocess
    import sys

    code = (
        "import sys, openko.training.step, openko.llama; print({'grain', 'orbax', 'datatrove', 'tokenizers', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_environment_yml_takes_its_versions_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda, (pip,) = environment["dependencies"][:-1], environment["dependencies"][-1].values()
    assert conda == [f"python{project['requires-python']}", "pip"] and pip == ["-e .[dev]"]


def test_versions_are_named_nowhere_else():
    named = re.compile(r"\b(?:jax|flax|optax|orbax-checkpoint|transformers|tokenizers|grain|konlpy|korean-rnd-regs-mcp|libtpu)[=><~]=")
    for path in [*PACKAGE, *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md", ROOT / "environment.yml"]:
        assert not named.search(path.read_text(encoding="utf-8")), path


def test_every_profile_has_a_way_to_its_base_model():
    for profile in profiles.PROFILES.values():
        assert (profile.pretraining is None) == (profile.tokenizer == "llama-3") == (profile.platform != "cpu")
        assert profile.continued.sequence_length % profile.step.loss_chunk == 0
        shares = profile.english_in_koen
        assert all(0 < share < 1 for share in shares) and len(set(shares)) == len(shares) >= (profile.name != "v5e-256")


@pytest.fixture(params=notebook.NAMES)
def content(request):
    return request.param, nbformat.read(ROOT / "notebooks" / f"{request.param}.ipynb", as_version=4)


def test_notebooks_have_the_agreed_order_of_cells(content):
    name, nb = content
    title, info, set_up, parameters, start = nb.cells[:5]
    assert title.source.startswith(f"# {name[:2]} · ") and "**" in title.source and "?" in title.source
    assert info.source.startswith(committed.badges(name)) and "| 시간 · time |" in info.source
    assert set_up.source == committed.set_up()
    assert "parameters" in parameters.metadata["tags"]
    assert {"profile", "out_dir"} <= set(notebook.declared_parameters(ROOT / "notebooks" / f"{name}.ipynb"))
    assert f'nb.start("{name}", globals())' in start.source
    last = nb.cells[-1].source
    assert "## 정리 · Takeaways" in last and "## 연습 · Exercises" in last and 2 <= last.count("<details>") <= 3


def test_notebooks_speak_korean_and_english(content):
    _, nb = content
    for cell in nb.cells[2:]:
        prose = re.sub(r"```.*?```|`[^`]*`|<[^>]*>", "", cell.source, flags=re.DOTALL)
        if cell.cell_type == "markdown":
            assert len(re.findall("[가-힣]", prose)) >= 10, cell.source
            assert len(re.findall(r"\b[A-Za-z]{3,}\b", prose)) >= 8, cell.source


def test_notebook_cells_hold_one_idea(content):
    _, nb = content
    for cell in nb.cells:
        assert len(cell.source.splitlines()) <= (25 if cell.cell_type == "code" else 45), cell.source


def test_notebook_cells_whose_output_is_asserted_have_one(content):
    name, nb = content
    asserted = [c for c in nb.cells if "nbval-check-output" in c.metadata.get("tags", ())]
    assert asserted, f"{name}: nbval would check nothing"
    assert all(c.outputs for c in asserted)


def test_notebooks_are_committed_clean(content):
    _, nb = content
    assert "widgets" not in nb.metadata
    text = nbformat.writes(nb)
    assert not re.search(r'"/(?:home|root|tmp|work|content|kaggle)/', text)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))  # nbval runs no cell without a count


def test_figures_are_committed_with_their_numbers():
    pictures, numbers = ({p.stem for p in (ROOT / "figures").glob(f"*.{kind}")} for kind in ("png", "json"))
    assert pictures == numbers and pictures
    for used in re.findall(r"figures/([\w-]+)\.png", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert used in pictures
