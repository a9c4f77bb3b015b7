"""What is killed at random moments, workers and all, and resumed has the same bytes as what was not: a corpus, and JSONL files
without near-copies. Two minutes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus_text import english, korean, write_jsonl

from openko import manifest, tokenizers

pytestmark = pytest.mark.slow

# From raw text to shards in a process of its own: run.py DATA OUT TOKENIZER
RUN = """
import sys
from openko.corpus import arrange, build, engines, pack, recipe
if __name__ == "__main__":
    build.TASK_BYTES, arrange.FILE_BYTES = 300_000, 200_000
    data, out, tokenizer = sys.argv[1:]
    sources = [{"name": n, "reader": "jsonl", "path": f"{n}/*.jsonl", "licence": "CC0", "language": n} for n in ("ko", "en")]
    made = recipe.parse({"name": "made", "sources": sources}, where="test")
    build.build(out + "/corpus", made, data=data, engine=engines.Local(2))
    for part in ("ko.train", "en.train"):
        pack.pack(f"{out}/{part}", corpus=out + "/corpus", part=part, tokenizer=tokenizer, engine=engines.Local(2))
    print("finished")
"""

# JSONL files without copies: run.py DATA OUT
DEDUP = """
import sys
from pathlib import Path
from openko.corpus import arrange, dedup, engines, near_duplicates
if __name__ == "__main__":
    dedup.LEAST_BYTES = dedup.MOST_BYTES = 100_000
    arrange.FILE_BYTES, near_duplicates.TASK_PAIRS = 100_000, 50
    data, out, _ = map(Path, sys.argv[1:])
    dedup.dedup(sorted(data.glob("*/*.jsonl")), out / "texts", engine=engines.Local(2))
    print("finished")
"""


def start(tmp_path, name):
    """With its workers it is a group of processes, so that all of them can be killed at once."""
    command = [sys.executable, "run.py", "data", name, "tokenizer"]
    with open(tmp_path / f"{name}.log", "ab") as log:
        return subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"PYTHONPATH": ""})


def finished_parts(out: Path) -> int:
    """os.walk, for folders may be gone the moment after they were seen."""
    found = [Path(folder, name) for folder, _, names in os.walk(out) for name in names if name.endswith(".json")]
    return sum(manifest.SCRATCH in path.parts for path in found) + 1000 * sum(path.name == "manifest.json" for path in found)


@pytest.mark.parametrize("script, made", [(RUN, ("corpus", "ko.train", "en.train")), (DEDUP, ("texts",))], ids=["corpus", "dedup"])
def test_killed_at_ten_random_moments_and_resumed_the_bytes_are_the_same(tmp_path, script, made):
    for folder, make, count in (("ko", korean, 9_000), ("en", english, 3_000)):
        documents = [{"id": n, "text": make(n % (count - 100))} for n in range(count)]  # a hundred exact copies
        documents += [{"id": f"near-{n}", "text": make(n) + " 한마디 더."} for n in range(500)]
        for number in range(30):
            write_jsonl(tmp_path / "data" / folder / f"{number}.jsonl", documents[number::30])
    tokenizers.train([korean(n) + english(n) for n in range(200)], 400, "tiny").save(tmp_path / "tokenizer")
    (tmp_path / "run.py").write_text(script)
    assert start(tmp_path, "whole").wait() == 0, (tmp_path / "whole.log").read_text()

    draw, killed_at = random.Random(0), []
    while len(killed_at) < 10:
        run, enough = start(tmp_path, "cut"), finished_parts(tmp_path / "cut") + draw.randint(1, 6)
        while finished_parts(tmp_path / "cut") < enough:
            assert run.poll() in (None, 0), (tmp_path / "cut.log").read_text()
            if run.poll() == 0:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.1))
        if run.poll() == 0:  # a fast machine: once more from the beginning
            shutil.rmtree(tmp_path / "cut")
            continue
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        killed_at.append(finished_parts(tmp_path / "cut"))
    print("killed with so many parts finished:", killed_at)
    assert start(tmp_path, "cut").wait() == 0, (tmp_path / "cut.log").read_text()

    for name in made:
        whole, cut = (manifest.verify(tmp_path / run / name) for run in ("whole", "cut"))
        assert whole.content == cut.content and whole.facts == cut.facts
    assert len(set(killed_at)) > 5
