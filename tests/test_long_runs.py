"""What only whole runs can show: killed and resumed to the same bits, two hosts as one, repeated to the same bytes. Minutes."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from openko import hf_weights, notebook
from openko.profiles import TINY_NAMES
from openko.training import metrics

pytestmark = pytest.mark.slow

# A run of the fixture `ingredients` in a process of its own: run.py SETTINGS OUT [COORDINATOR PROCESS]
RUN = """
import dataclasses, pickle, sys
from openko.profiles import MeshShape, Saving
from openko.training import hosts
from openko.training.loop import train
here, steps, mesh, checkpoints = pickle.load(open(sys.argv[1], "rb"))
if len(sys.argv) > 3:
    hosts.join(sys.argv[3], 2, int(sys.argv[4]))
training = dataclasses.replace(here.training, steps=steps)
profile = dataclasses.replace(here.profile, mesh=MeshShape(**mesh), saving=Saving(steps=50))
train(sys.argv[2], profile=profile, training=training, data={here.shards: 0.7, here.more: 0.3}, tokenizer=here.tokenizer,
      start=here.start, checkpoint_dir=checkpoints, evaluate={"ko": ["한국어와 English. " * 30]}, evaluate_every=200)
"""


def environment(devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "TPU_SKIP_MDS_QUERY": "1"}


def start_run(tmp_path, ingredients, out, *hosts, steps=1500, mesh=None, checkpoints=None, devices=1):
    settings = tmp_path / f"{out}.pickle"
    settings.write_bytes(pickle.dumps((ingredients, steps, mesh or {}, checkpoints)))
    command = [sys.executable, "-c", RUN, str(settings), str(tmp_path / out), *map(str, hosts)]
    return subprocess.Popen(command, env=environment(devices), stderr=open(tmp_path / f"{out}.log", "ab"))


def steps_done(out):
    lines = out.with_name(out.name + ".partial") / "training.jsonl"
    return len(metrics.read(lines)) if lines.exists() else 0


def wait_for_step(run, out, step):
    while run.poll() is None and steps_done(out) < step:
        time.sleep(0.01)


def finish(run, log):
    assert run.wait(timeout=300) == 0, log.read_text(encoding="utf-8")[-2000:]


def test_killed_at_ten_random_steps_training_ends_with_the_same_bits(ingredients, tmp_path):
    finish(start_run(tmp_path, ingredients, "whole"), tmp_path / "whole.log")
    killed_at, cut = [], tmp_path / "cut"
    for step in sorted(np.random.default_rng(1).integers(20, 1400, 10)):
        run, seen = start_run(tmp_path, ingredients, "cut"), steps_done(cut)
        wait_for_step(run, cut, max(step, seen + 1))
        assert run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
        killed_at.append(steps_done(cut))
    finish(start_run(tmp_path, ingredients, "cut"), tmp_path / "cut.log")
    print("killed at steps", killed_at)
    assert len(killed_at) == 10 and len(set(killed_at)) >= 5
    for name in ("training.jsonl", "model.safetensors"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_two(tmp_path, ingredients, **settings):
    """Two processes of two devices each; the first writes for both."""
    coordinator = f"localhost:{free_port()}"
    return [start_run(tmp_path, ingredients, "pair", coordinator, number, devices=2, **settings) for number in range(2)]


def assert_same_model(ours, theirs):
    weights, expected = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    for name, value in expected.items():
        assert np.linalg.norm(weights[name] - value) <= 1e-5 * np.linalg.norm(value), name
    for a, b in zip(metrics.read(ours / "training.jsonl"), metrics.read(theirs / "training.jsonl"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("mesh", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}], ids=str)
def test_two_processes_equal_one(ingredients, tmp_path, mesh):
    finish(start_run(tmp_path, ingredients, "one", steps=60), tmp_path / "one.log")
    for run in start_two(tmp_path, ingredients, steps=60, mesh=mesh):
        finish(run, tmp_path / "pair.log")
    assert_same_model(tmp_path / "pair", tmp_path / "one")


def test_two_processes_stop_together_when_one_gets_sigterm_and_one_process_goes_on(ingredients, tmp_path):
    kept = str(tmp_path / "kept")
    finish(start_run(tmp_path, ingredients, "one", steps=300), tmp_path / "one.log")
    pair = start_two(tmp_path, ingredients, steps=300, mesh={"data": 2, "fsdp": 2}, checkpoints=kept)
    wait_for_step(pair[0], tmp_path / "pair", 60)
    pair[1].send_signal(signal.SIGTERM)
    assert [run.wait(timeout=120) != 0 for run in pair] == [True, True]
    assert (tmp_path / "pair.log").read_text(encoding="utf-8").count("asked to by SIGTERM") == 2
    finish(start_run(tmp_path, ingredients, "pair", steps=300, checkpoints=kept), tmp_path / "pair.log")
    assert_same_model(tmp_path / "pair", tmp_path / "one")


@pytest.fixture(scope="module")
def two_walkthroughs(tmp_path_factory):
    """The smoke profile from empty, twice."""
    outs = [tmp_path_factory.mktemp("walk") / name for name in ("first", "second")]
    for out in outs:
        run_walkthrough(out)
    return outs


def run_walkthrough(out):
    """As a user starts it: without the tests' cache of compiled programs."""
    command = [sys.executable, "-m", "openko.cli", "walkthrough", "--profile", "smoke", "--out", str(out)]
    plain = {name: value for name, value in environment().items() if "_CACHE_" not in name}
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_two_runs_with_one_seed_give_the_same_losses_and_figures(two_walkthroughs):
    first, second = two_walkthroughs
    curves = sorted(p.relative_to(first) for p in first.rglob("training.jsonl"))
    pictures = sorted(p.relative_to(first) for p in first.glob("figures/*"))
    assert len(curves) >= 3 and len(pictures) >= 10
    for path in [*curves, *pictures]:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_the_summary_names_all_that_was_promised(two_walkthroughs):
    first, _ = two_walkthroughs
    summary = json.loads((first / "summary.json").read_text())
    assert set(summary["notebooks"]) == set(notebook.NAMES)
    assert max(summary["notebooks"].values()) < summary["seconds"] <= sum(summary["notebooks"].values()) + 0.5
    assert 0 < summary["peak_rss_gb"] < 4
    for name in vars(TINY_NAMES).values():
        assert set(summary["bits_per_byte"][name]) == {"ko", "en"}
        hf_weights.load(notebook.ROOT / summary["models"][name])
    for name in set(vars(TINY_NAMES).values()) - {TINY_NAMES.koen}:  # of KoEn, its sum with the chat vector is asked
        detail = summary["ended_turns_in_detail"][name]
        assert summary["ended_turns"][name] == detail["ko"]["share"] and detail["en"]["answers"] == detail["ko"]["answers"] >= 200
    page = (first / "index.html").read_text(encoding="utf-8")
    assert all(f"html/{name}.html" in page and (first / "html" / f"{name}.html").exists() for name in notebook.NAMES)


def test_a_repeated_walkthrough_says_that_all_is_up_to_date(two_walkthroughs):
    first, _ = two_walkthroughs
    before = (first / "summary.json").read_bytes()
    assert "up to date" in run_walkthrough(first)
    assert (first / "summary.json").read_bytes() == before


def test_a_walkthrough_makes_again_what_was_deleted_or_damaged(two_walkthroughs):
    _, second = two_walkthroughs
    weights = second / "models" / "tiny-llama3-open-ko" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    said = run_walkthrough(second)
    assert "03_pretraining: done" in said and "01_tokenizers: up to date" in said
    assert weights.read_bytes() == content
