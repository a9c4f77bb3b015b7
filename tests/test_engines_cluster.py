"""openko.corpus.engines.Ray on two nodes: the content of a build is that of one process, also when Ray's processes are killed."""

import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from corpus_text import english, korean, write_jsonl
from engine_work import breaks, double, is_killed, is_killed_once, refuses_while_another_works, runs, wait_for

from openko.corpus import build, engines, recipe, tasks
from openko.errors import InputError

pytestmark = pytest.mark.slow

GB = 1_000_000_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a cluster of two nodes with a CPU each, on this machine."""
    with pytest.MonkeyPatch.context() as own:
        own.setenv("RAY_AUTH_MODE", "token")  # read when ray is imported
        own.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
        own.setenv("PYTHONPATH", str(Path(__file__).parent))  # the nodes find the work of these tests
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "memory": 2 * GB, "object_store_memory": GB // 10}
        for attempt in range(3):
            # Ray gives a node 30 s to come up, which a busy machine does not keep.
            cluster = Cluster()
            try:
                cluster.add_node(**node, include_dashboard=False)
                cluster.add_node(**node)
                break
            except Exception:
                cluster.shutdown()
                if attempt == 2:
                    raise
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def engine(address):
    return engines.Ray(2, address, memory=1)


def run(work, asked, folder, engine):
    return tasks.run(work, asked, folder, engine=engine, what="working", say=lambda line: None)


@pytest.fixture(scope="module")
def made_locally(tmp_path_factory):
    """A recipe, its data, and the corpus that one process makes of it."""
    here = tmp_path_factory.mktemp("local")
    for folder, make in (("ko", korean), ("en", english)):
        for number in range(3):
            write_jsonl(here / "data" / folder / f"{number}.jsonl", [{"id": n, "text": make(n % 110)} for n in range(number, 120, 3)])
    sources = [{"name": n, "reader": "jsonl", "path": f"{n}/*.jsonl", "licence": "CC0", "language": n} for n in ("ko", "en")]
    made = recipe.parse({"name": "made", "held-out": 0.1, "sources": sources}, where="test")
    with pytest.MonkeyPatch.context() as small:
        small.setattr(build, "TASK_BYTES", 30_000)
        return made, here / "data", build.build(here / "corpus", made, data=here / "data", say=lambda line: None)


@pytest.fixture
def build_by_ray(made_locally, engine, tmp_path, monkeypatch):
    """Build the same corpus; returns its manifest and {node: tasks that it did}."""
    from openko.corpus.engines.executors import PlainTasks

    made, data, _ = made_locally
    monkeypatch.setattr(build, "TASK_BYTES", 30_000)
    nodes, really = Counter(), PlainTasks._node

    def noted(executor, ended, rank):
        node = really(executor, ended, rank)
        nodes[node] += 1
        return node

    monkeypatch.setattr(PlainTasks, "_node", noted)
    return lambda: (build.build(tmp_path / "corpus", made, data=data, engine=engine, say=lambda line: None), nodes)


def test_two_nodes_make_the_content_that_one_process_makes(made_locally, build_by_ray):
    made, nodes = build_by_ray()
    assert made.content == made_locally[2].content and made.facts == made_locally[2].facts
    print("tasks of each node:", dict(nodes))
    assert len(nodes) == 2


def test_when_a_worker_of_ray_is_killed_the_content_is_the_same(made_locally, build_by_ray):
    killed, over = [], threading.Event()

    def kill():
        while not over.is_set() and len(killed) < 2:
            for process in psutil.process_iter(["cmdline"]):
                if process.info["cmdline"] and "ray::_do_rank" in process.info["cmdline"][0] and process.pid not in killed:
                    process.kill()
                    killed.append(process.pid)
                    break
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    made, _ = build_by_ray()
    over.set()
    thread.join()
    assert len(killed) == 2
    assert made.content == made_locally[2].content and made.facts == made_locally[2].facts


def test_a_killed_task_is_done_again_and_one_that_is_always_killed_is_named(engine, tmp_path):
    assert run(is_killed_once, [(str(tmp_path), n) for n in range(2)], tmp_path / "once", engine) == [{"number": 0}, {"number": 1}]
    assert len(list(tmp_path.glob("*.killed"))) == 2
    with pytest.raises(InputError, match=r"rank 0 was ended from outside 4 times, by the system if memory ran out: .*task_00000\.log"):
        run(is_killed, [(0,)], tmp_path / "always", engine)


def test_an_error_of_a_rank_is_the_error_of_the_build_and_ends_the_rest(engine, tmp_path, capfd):
    with pytest.raises(InputError, match=r"file 0 is no corpus: give another \(rank 0, on .*; its log: .*task_00000\.log\)") as caught:
        run(refuses_while_another_works, [(str(tmp_path), n) for n in range(2)], tmp_path / "results", engine)
    assert "file 0 is no corpus" in Path(re.search(r"its log: (.*)\)", str(caught.value))[1]).read_text()
    wait_for(lambda: not runs(tmp_path / "1.begun"), seconds=5)
    assert capfd.readouterr() == ("", ""), "datatrove's and Ray's lines go to their logs"


def test_what_ray_began_another_engine_finishes(engine, tmp_path):
    with pytest.raises(ZeroDivisionError) as caught:
        run(breaks, [(0,), (1,)], tmp_path / "results", engine)
    assert 'return {"inverse": 1 / (number - 1)}' in caught.value.__notes__[0]
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*.json")}
    with pytest.raises(ZeroDivisionError):
        run(breaks, [(0,), (1,)], tmp_path / "results", engines.Local())
    assert all(path.stat().st_mtime_ns == before for path, before in begun.items())


def test_what_the_cluster_cannot_give_is_said_at_once(engine, tmp_path):
    with pytest.raises(InputError, match=r"a CPU and 3 GB, but no machine of the Ray cluster has more than 2\.0 GB"):
        run(double, [(1,)], tmp_path / "results", engines.Ray(2, engine.address, memory=3))
    with pytest.raises(InputError, match="this process already works with the Ray cluster at"):
        run(double, [(1,)], tmp_path / "results", engines.Ray(2, "192.0.2.1:6379"))


START = """
import sys
from pathlib import Path
from engine_work import slow
from openko.corpus import engines, tasks
folder, address = sys.argv[1:]
tasks.run(slow, [(folder, 1), (folder, 2)], Path(folder) / "results", engine=engines.Ray(2, address, memory=1), what="working")
"""


def test_tasks_end_with_the_process_that_was_killed(engine, tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", START, str(tmp_path), engine.address])
    try:
        begun = [tmp_path / f"{n}.begun" for n in (1, 2)]
        wait_for(lambda: all(path.exists() and path.read_text() for path in begun), seconds=60)
    finally:
        driver.kill()
    wait_for(lambda: not any(runs(path) for path in begun), seconds=20)
