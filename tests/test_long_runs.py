"""What only whole runs can show: killed and resumed to the same bits, repeated to the same bytes. Minutes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import lively_parameters, small_config

from openko import hf_weights, manifest, notebook, shards
from openko.profiles import TINY_NAMES
from openko.training import metrics

pytestmark = pytest.mark.slow

TRAIN = """
import dataclasses, sys
from pathlib import Path
from openko import profiles
from openko.training.loop import train
here, out = Path(sys.argv[1]), Path(sys.argv[2])
smoke = profiles.get("smoke")
training = dataclasses.replace(smoke.continued, steps=120, checkpoint_every=10, sequence_length=64)
train(out, profile=smoke, training=training, data={here / "shards": 1.0}, tokenizer=here / "tokenizer", start=here / "start")
"""


def environment():
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TPU_SKIP_MDS_QUERY": "1"}


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
    """A start model, a tokenizer and shards of random documents."""
    from openko import tokenizers

    here = tmp_path_factory.mktemp("ingredients")
    trained = tokenizers.train(["한국어와 English, 그리고 1234. " * 20], 300, "test")
    trained.save(here / "tokenizer")
    config = small_config(vocab_size=trained.vocab_size)
    (here / "start").mkdir()
    hf_weights.save(here / "start", config, lively_parameters(config))
    draw = np.random.default_rng(0)

    def make(partial):
        facts = shards.write(partial, (draw.integers(0, 284, draw.integers(20, 300)) for _ in range(200)))
        return facts | {"tokenizer": trained.fingerprint, "vocab_size": trained.vocab_size}

    manifest.build(here / "shards", kind=shards.KIND, recipe={}, inputs={}, module="openko.shards", make=make)
    return here


def start_training(ingredients, out):
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(ingredients), str(out)], env=environment(), stderr=subprocess.PIPE)


def test_killed_at_any_moment_training_ends_with_the_same_bits(ingredients, tmp_path):
    whole = start_training(ingredients, tmp_path / "whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read().decode()[-2000:]
    draw, kills = np.random.default_rng(1), 0
    for delay in draw.uniform(0.5, 4.0, 8):
        training = start_training(ingredients, tmp_path / "cut")
        lines = tmp_path / "cut.partial" / "training.jsonl"
        seen = len(metrics.read(lines)) if lines.exists() else 0
        # Die some steps after this attempt's own first step, wherever that is.
        while training.poll() is None and (not lines.exists() or len(metrics.read(lines)) <= seen):
            time.sleep(0.02)
        time.sleep(delay / 10)
        if training.poll() is None:
            training.send_signal(signal.SIGKILL)
            kills += 1
        training.wait()
        if (tmp_path / "cut").exists():
            break
    last = start_training(ingredients, tmp_path / "cut")
    assert last.wait(timeout=300) == 0, last.stderr.read().decode()[-2000:]
    assert kills >= 2
    for name in ("training.jsonl", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.fixture(scope="module")
def two_walkthroughs(tmp_path_factory):
    """The smoke profile from empty, twice."""
    outs = [tmp_path_factory.mktemp("walk") / name for name in ("first", "second")]
    for out in outs:
        run_walkthrough(out)
    return outs


def run_walkthrough(out):
    command = [sys.executable, "-m", "openko.cli", "walkthrough", "--profile", "smoke", "--out", str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
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
    assert summary["seconds"] == pytest.approx(sum(summary["notebooks"].values()), abs=0.5)
    assert 0 < summary["peak_rss_gb"] < 4
    for name in vars(TINY_NAMES).values():
        assert set(summary["bits_per_byte"][name]) == {"ko", "en"}
        detail = summary["ended_turns_in_detail"][name]
        assert summary["ended_turns"][name] == detail["ko"]["share"] and detail["en"]["answers"] == detail["ko"]["answers"] >= 200
        hf_weights.load(notebook.ROOT / summary["models"][name])
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
