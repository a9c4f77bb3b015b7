"""openko.corpus.engines: who works does not matter; what Slurm is asked; two never write the same; errors keep their text.

There is no Slurm here. Its commands are stand-ins: the script that datatrove renders is run by bash, element by element.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_text import english, korean, write_jsonl
from engine_work import breaks, double, is_killed, refuses_while_another_works, runs, slow, wait_for

from openko import manifest
from openko.cli.corpus import CORES, engine_of
from openko.corpus import build, engines, recipe, tasks
from openko.corpus.engines import ranks, slurm
from openko.errors import InputError

STAND_INS = {
    "sbatch": r"""
for script; do case $script in --export=ALL,*) export "${script#--export=ALL,}";; esac; done
number=$(($(cat "$STAND_INS/count" 2>/dev/null || echo 100) + 1)); echo $number > "$STAND_INS/count"
option() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
cp "$script" "$STAND_INS/$number.sh"; option job-name > "$STAND_INS/$number.name"
array=$(option array); last=${array#0-}; last=${last%\%*}; output=$(option output)
cat > "$STAND_INS/$number.run" <<END
element() {
    out="$output"; out=\${out/\%A/$number}; out=\${out/\%a/\$1}
    export SLURM_JOB_ID=$number SLURM_ARRAY_TASK_ID=\$1 SLURM_NODELIST=stand-in
    bash "$STAND_INS/$number.sh" > "\$out" 2>&1 && state=COMPLETED || state=FAILED
    [ -e "$STAND_INS/state" ] && [ \$state = FAILED ] && state=\$(cat "$STAND_INS/state")
    echo \$state > "$STAND_INS/${number}_\$1.state"
}
for k in \$(seq 0 $last); do element \$k & done
wait
END
setsid bash "$STAND_INS/$number.run" < /dev/null > /dev/null 2>&1 &
echo $! > "$STAND_INS/$number.pid"
echo "Submitted batch job $number"
""",
    "squeue": r"""
for name in "$STAND_INS"/*.name; do
    number=$(basename "${name%.name}" 2>/dev/null)
    kill -0 -- "-$(cat "$STAND_INS/$number.pid" 2>/dev/null)" 2>/dev/null && echo "$number RUNNING $(cat "$name")"
done
exit 0
""",
    "sacct": r"""
for word; do case $word in --jobs=*) cat "$STAND_INS/${word#--jobs=}.state" 2>/dev/null;; esac; done
""",
    "scancel": r"""
kill -KILL -- "-$(cat "$STAND_INS/$1.pid")"
""",
    "srun": r"""
while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done
exec "$@"
""",
    "scontrol": r"""
echo "$3"
""",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A PATH with the stand-ins; what they keep lies in the folder that is returned."""
    pytest.importorskip("datatrove")
    commands, kept = tmp_path / "stand-ins", tmp_path / "kept"
    commands.mkdir()
    kept.mkdir()
    for name, script in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n# A stand-in for Slurm's {name}.{script}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_INS", str(kept))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the nodes find the work of these tests
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(slurm, "LOOK", 0.1)
    monkeypatch.setattr(ranks, "PATIENCE", 0.5)
    yield kept
    for path in kept.glob("*.pid"):
        subprocess.run([commands / "scancel", path.stem], capture_output=True)


SLURM = engines.Slurm(3, partition="cpu", time="1:00:00", memory=2)


def run(work, asked, folder, engine, lines=None):
    say = (lambda line: None) if lines is None else lines.append
    return tasks.run(work, asked, folder, engine=engine, what="working", say=say)


# ── a build by Slurm ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_build_by_slurm_has_the_same_content_as_one_in_this_process(cluster, tmp_path):
    for folder, make in (("ko", korean), ("en", english)):
        write_jsonl(tmp_path / "data" / folder / "0.jsonl", [{"id": n, "text": make(n % 35)} for n in range(40)])
    sources = [{"name": n, "reader": "jsonl", "path": f"{n}/*.jsonl", "licence": "CC0", "language": n} for n in ("ko", "en")]
    made = recipe.parse({"name": "made", "held-out": 0, "sources": sources}, where="test")
    lines, options = [], {"data": tmp_path / "data"}
    local = build.build(tmp_path / "local", made, **options, say=lambda line: None)
    slurm = build.build(tmp_path / "slurm", made, **options, engine=SLURM, say=lines.append)
    assert slurm.content == local.content and slurm.facts == local.facts
    assert any(re.fullmatch(r"reading and cleaning: Slurm job 101 with 2 tasks, 3 at once; logs in .*", line) for line in lines)
    assert not (tmp_path / "slurm" / manifest.SCRATCH).exists()


def script(kept):
    return (kept / "101.sh").read_text().splitlines()


def test_slurm_is_asked_for_what_was_said_and_for_nothing_else(cluster, tmp_path):
    run(double, [(1,)], tmp_path / "results", SLURM)
    directives = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in script(cluster) if line.startswith("#SBATCH"))
    folder = tmp_path / "results" / "engine"
    assert directives.pop("job-name").startswith("openko-")
    assert directives.pop("output") == directives.pop("error") == f"{folder}/slurm_logs/%A_%a.out"
    assert directives == {
        "array": "0-0%3", "cpus-per-task": "1", "mem-per-cpu": "2G", "nodes": "1", "partition": "cpu", "time": "1:00:00", "requeue": "",
    }  # fmt: skip
    commands = [line.strip() for line in script(cluster) if line.strip() and not line.startswith("#")]
    assert commands == [
        'echo "Starting data processing job ' + (cluster / "101.name").read_text().strip() + '"',
        f"export PATH={Path(sys.executable).parent}:$PATH",
        "set -xe",
        "export PYTHONUNBUFFERED=TRUE",
        f"srun  -l -n 1 launch_pickled_pipeline {folder}/executor.pik",
    ]
    assert (cluster / "count").read_text() == "101\n", "one job, and none to merge statistics"


def test_more_tasks_than_an_array_may_have_share_its_elements(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "ARRAY", 2)
    assert run(double, [(n,) for n in range(3)], tmp_path / "results", SLURM) == [{"doubled": 2 * n} for n in range(3)]
    assert "#SBATCH --array=0-1%3" in script(cluster)


def test_an_error_of_a_rank_is_the_error_of_the_build_names_the_log_and_ends_the_rest(cluster, tmp_path, capfd):
    with pytest.raises(InputError, match=r"file 0 is no corpus: give another \(rank 0, on .*; its log: .*task_00000\.log\)") as caught:
        run(refuses_while_another_works, [(str(tmp_path), n) for n in range(2)], tmp_path / "results", SLURM)
    assert "file 0 is no corpus" in Path(re.search(r"its log: (.*)\)", str(caught.value))[1]).read_text()
    assert not runs(tmp_path / "1.begun")
    with pytest.raises(ZeroDivisionError) as caught:
        run(breaks, [(1,)], tmp_path / "more", SLURM)
    assert 'return {"inverse": 1 / (number - 1)}' in caught.value.__notes__[0]
    assert capfd.readouterr() == ("", ""), "datatrove's lines go to its log"


def test_a_rank_that_slurm_ends_is_named_with_its_state(cluster, tmp_path):
    (cluster / "state").write_text("OUT_OF_MEMORY")
    said = r"Slurm job 101_0 \(rank 0\) ended as OUT_OF_MEMORY and left no result: give it more --memory\. Its log: (\S+101_0\.out);"
    with pytest.raises(InputError, match=said) as caught:
        run(is_killed, [(1,)], tmp_path / "results", SLURM)
    assert "Killed" in Path(re.search(said, str(caught.value))[1]).read_text()


START = """
import sys
from pathlib import Path
from engine_work import slow
from openko.corpus import engines, tasks
if __name__ == "__main__":
    folder, engine = sys.argv[1:]
    given = [(folder, n) for n in range(3)]
    tasks.run(slow, given, Path(folder) / "results", engine=eval(engine, vars(engines)), what="working")
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts three slow tasks in a process of their own; the first ends, and the rest when there is a file may-end."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    (tmp_path / "start.py").write_text(START)
    processes = []

    def start(engine):
        processes.append(subprocess.Popen([sys.executable, tmp_path / "start.py", str(tmp_path), repr(engine)]))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def test_a_job_that_was_left_is_waited_for_and_no_one_else_writes_there(cluster, started, tmp_path, monkeypatch):
    driver = started(SLURM)
    wait_for((tmp_path / "1.begun").exists)
    driver.kill()
    asked, results, lines = [(str(tmp_path), n) for n in range(3)], tmp_path / "results", []
    with pytest.raises(InputError, match=r"Slurm job 101 of an earlier start still works in .*scancel 101"):
        run(slow, asked, results, engines.Local())
    with pytest.raises(InputError, match=r"Slurm job 101 .* on another recipe, input or code, .* remove that folder"):
        run(slow, [*asked, (str(tmp_path), 0)], results, SLURM)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "")
        with pytest.raises(InputError, match="there is no squeue here"):
            run(slow, asked, results, engines.Local())
    (tmp_path / "may-end").touch()
    assert run(slow, asked, results, SLURM, lines) == [{"number": n} for n in range(3)]
    assert [len((tmp_path / f"{n}.begun").read_text().split()) for n in range(3)] == [1, 1, 1], "a task was done twice"
    assert lines[0] == "working: waiting for Slurm job 101 of an earlier start" and (cluster / "count").read_text() == "101\n"


def test_what_slurm_began_another_engine_finishes_and_the_other_way_round(cluster, tmp_path):
    asked = [(n,) for n in (0, 1, 2)]
    with pytest.raises(ZeroDivisionError):
        run(breaks, asked, tmp_path / "results", engines.Local())
    done = list((tmp_path / "results").glob("*.json"))
    assert len(done) == 1
    before = done[0].stat().st_mtime_ns
    with pytest.raises(ZeroDivisionError):
        run(breaks, asked, tmp_path / "results", SLURM)
    assert done[0].stat().st_mtime_ns == before
    ranks_run = json.loads((tmp_path / "results" / "engine" / "ranks_to_run.json").read_text())
    assert ranks_run == [1, 2]


def test_completions_and_results_never_disagree(tmp_path):
    paths = [tmp_path / f"{n}.json" for n in range(3)]
    work = [tasks.Task(n, double, (n,), path, 1.0) for n, path in enumerate(paths)]
    job = tasks.Job(work, tmp_path / "engine", "x", print, print)
    (job.folder / "completions").mkdir(parents=True)
    (job.folder / "completions" / "00000").touch()  # complete without a result
    work[1].do()  # a result without completion
    ranks.prepare(job)
    assert [path.name for path in (job.folder / "completions").iterdir()] == ["00001"]
    assert ranks.task_of(job.folder, 2) == work[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, t: m.setenv("PATH", str(t)), "sbatch is not on the PATH"),
        (lambda m, t: m.setenv("SLURM_JOB_ID", "7"), r"inside Slurm job 7.*start from a login node"),
        (lambda m, t: (t / "stand-ins/sbatch").write_text("#!/bin/bash\nexit 3"), r"sbatch refused .*launch_script\.slurm \(status 3\)"),
        (lambda m, t: (t / "stand-ins/squeue").write_text("#!/bin/bash\necho no host >&2; exit 1"), "squeue does not answer: no host"),
        (lambda m, t: m.setattr(sys, "executable", str(t / "a b" / "python")), "has a space"),
        (lambda m, t: m.setattr(sys, "executable", str(t / "python")), "launch_pickled_pipeline is missing"),
    ],
    ids=["no Slurm", "inside a job", "refused", "no controller", "a space", "another Python"],
)  # fmt: skip
def test_what_slurm_lacks_is_said_before_the_work(cluster, tmp_path, monkeypatch, change, said):
    change(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=said):
        run(double, [(1,)], tmp_path / "results", SLURM)


@pytest.mark.parametrize(
    ("engine", "package"), [(SLURM, "datatrove"), (engines.Ray(2), "datatrove"), (engines.Ray(2), "ray")], ids=str
)  # fmt: skip
def test_a_missing_package_is_said_with_what_to_install(cluster, tmp_path, monkeypatch, engine, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name == "openko.corpus.engines.executors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}\S* is missing: pip install 'openko\[cluster\]', on every machine"):
        run(double, [(1,)], tmp_path / "results", engine)


# ── processes of this machine ────────────────────────────────────────────────────────────────────────────────────


def test_workers_end_with_the_process_that_was_killed(started, tmp_path):
    parent = started(engines.Local(3))
    begun = [tmp_path / f"{n}.begun" for n in (1, 2)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in begun))
    parent.kill()
    wait_for(lambda: not any(runs(path) for path in begun), seconds=5)


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────

NOT_GIVEN = dict.fromkeys(("partition", "time", "memory", "address"))


@pytest.mark.parametrize(
    ("name", "workers", "given", "engine"),
    [
        ("local", None, {}, engines.Local(CORES)),
        ("local", 3, {}, engines.Local(3)),
        ("ray", 8, {}, engines.Ray(8)),
        ("ray", 8, {"address": "10.0.0.1:6379", "memory": 6}, engines.Ray(8, "10.0.0.1:6379", 6)),
        ("slurm", 64, {"partition": "cpu", "time": "4:00:00"}, engines.Slurm(64, "cpu", "4:00:00")),
        ("slurm", 64, {"partition": "cpu", "time": "4:00:00", "memory": 8}, engines.Slurm(64, "cpu", "4:00:00", 8)),
    ],
)
def test_options_name_an_engine(name, workers, given, engine):
    assert engine_of(name, workers, **NOT_GIVEN | given) == engine


@pytest.mark.parametrize(
    ("name", "workers", "given", "said"),
    [
        ("spark", None, {}, "--engine is one of local, ray, slurm, found 'spark'"),
        ("local", None, {"memory": 4}, "--memory is for --engine ray or slurm, not for local: leave it out"),
        ("ray", 2, {"partition": "cpu"}, "--partition is for --engine slurm, not for ray"),
        ("slurm", 2, {"address": "auto", "partition": "cpu", "time": "1"}, "--address is for --engine ray, not for slurm"),
        ("slurm", 2, {"partition": "cpu"}, "--engine slurm needs --time"),
        ("slurm", 2, {"time": "1:00:00"}, "--engine slurm needs --partition"),
        ("slurm", None, {"partition": "cpu", "time": "1:00:00"}, "--engine slurm needs --workers, the number of tasks at once"),
        ("ray", None, {}, "--engine ray needs --workers"),
    ],
)
def test_an_option_that_the_engine_does_not_use_is_refused_and_a_missing_one_is_named(name, workers, given, said):
    with pytest.raises(InputError, match=said):
        engine_of(name, workers, **NOT_GIVEN | given)
