"""benchmarks/: what every one of them promises, without running any. Nothing here is timed."""

import ast
import inspect
import json
import multiprocessing
import subprocess
import sys

import pytest

from openko.notebook import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import side_by_side

SIX = {"name", "ours", "peer", "ratio", "unit", "limit"}
# What takes long to import, or would stand beside the other side in its process.
HEAVY = ("datasets", "flax", "jax", "lm_eval", "matplotlib", "torch", "transformers")
TREES = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "benchmarks").glob("*.py"))}
PROGRAMS = [name for name, tree in TREES.items() if any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in tree.body)]
PEERS = [name for name in PROGRAMS if name.endswith("_peer.py")]  # programs that a benchmark starts in an environment of its own
BENCHMARKS = [name for name in PROGRAMS if name not in PEERS]


def test_there_are_benchmarks():
    assert {"train_step.py", "generate.py", "evaluate.py", "merge.py", "dedup.py", "pack.py", "scaling.py"} <= set(BENCHMARKS)


@pytest.fixture(scope="module")
def helped() -> dict:
    """{benchmark: (exit code, what --help says, which of HEAVY are loaded by then)}: one after another in one process."""
    script = f"""
import contextlib, io, json, runpy, sys
sys.path.insert(0, ".")
found = {{}}
for name in {BENCHMARKS!r}:
    sys.argv, said, code = [name, "--help"], io.StringIO(), "none"
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(name, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    found[name] = code, said.getvalue(), [module for module in {HEAVY!r} if module in sys.modules]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_explains_itself_and_loads_nothing_heavy_for_that(helped, name):
    code, said, loaded = helped[name]
    assert code == 0 and "--json" in said
    assert loaded == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_says_in_its_first_lines_what_its_last_line_holds(name):
    told = " ".join(ast.get_docstring(TREES[name]).split())
    assert "{name, ours, peer, ratio, unit, limit" in told
    assert f"python benchmarks/{name}" in told


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_gives_all_six_and_says_why_where_one_is_missing(name):
    nodes = list(ast.walk(TREES[name]))
    written = {n.arg for n in nodes if isinstance(n, ast.keyword)} | {n.value for n in nodes if isinstance(n, ast.Constant)}
    calls = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "print_result"]
    assert calls or written >= SIX  # print_result cannot be called without them
    none = {k.arg for call in calls for k in call.keywords if isinstance(k.value, ast.Constant) and k.value.value is None}
    told = ast.get_docstring(TREES[name])
    assert not none or "null" in told, f"{none} are null, and the first lines do not say why"


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_belongs_to_a_benchmark(name):
    assert ast.get_docstring(TREES[name]).startswith(f"The peer of {name.replace('_peer', '')}")
    assert name.replace("_peer", "") in BENCHMARKS


def test_the_table_names_every_benchmark():
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"python benchmarks/{name}" not in table] == []


def test_the_last_line_cannot_be_made_without_one_of_the_six(capsys):
    parameters = inspect.signature(side_by_side.print_result).parameters.values()
    assert {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD} == SIX
    side_by_side.print_result("x", ours=1234567.8, peer=None, ratio=0.00012345678, unit="MB/s", limit=10_000_000, curve=[{"size": 1 / 3}])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(line)[:6] == ["name", "ours", "peer", "ratio", "unit", "limit"]
    assert line["ours"] == 1234600 and line["peer"] is None and line["ratio"] == 0.00012346
    assert line["limit"] == 10_000_000 and line["curve"] == [{"size": 0.33333}]


def test_a_slope_is_that_of_the_power():
    import scaling

    sizes = [1.0, 3.0, 10.0, 70.0]
    assert scaling.slope(sizes, [5 * x**0.75 for x in sizes]) == pytest.approx(0.75)


def test_the_bend_is_where_the_fixed_part_is_half_of_the_time():
    import scaling

    points = [scaling.Point(size, 1e9 * size, [2.0 + 0.5 * size] * 3, [1.0] * 3) for size in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    found = scaling.summary(points)
    assert found["fixed_seconds"] == pytest.approx(2.0) and found["expected"] == pytest.approx(1.0)
    # Work and size are in proportion, and interpolated between 2 and 8.
    assert found["bend"] == pytest.approx(4.0)
    assert found["slope"] < found["points"][-1]["slope"] < 1.0 and found["slope_beyond_fixed"] == pytest.approx(1.0)

    unbent = scaling.summary([scaling.Point(size, size, [0.5 * size**1.2], [1.0]) for size in (1.0, 2.0, 4.0)])
    assert unbent["fixed_seconds"] == 0.0 and unbent["bend"] is None and unbent["slope"] == pytest.approx(1.2)


def test_expected_slopes_are_those_of_the_arithmetic():
    import scaling

    from openko import hardware

    expected = {}
    for curve in ("tokens", "parameters", "context"):
        points = scaling.steps_of(curve)
        assert len({rows * length for _, _, rows, length in points}) == (len(points) if curve == "tokens" else 1)
        works = [rows * length * hardware.flops_per_token(model, length) for _, model, rows, length in points]
        expected[curve] = scaling.slope([size for size, *_ in points], works)
    assert expected["tokens"] == pytest.approx(1.0)
    assert 0.95 < expected["parameters"] < 1.0  # attention's share falls as the model grows
    assert 0.2 < expected["context"] < 0.3


def squared(factor: int, pipe) -> None:
    side_by_side.answer(pipe, lambda number: factor * number**2)


def failing(pipe) -> None:
    pipe.recv()
    raise SystemExit(3)


def test_a_side_answers_from_a_process_of_its_own_and_tells_its_end():
    side = side_by_side.Side(squared, 2)
    assert [side(number) for number in (1, 2, 3)] == [2, 8, 18]
    children = multiprocessing.active_children()
    side.end()
    assert len(children) == 1 and not children[0].is_alive()
    with pytest.raises(SystemExit, match="exit code 3"):
        side_by_side.Side(failing)(1)
