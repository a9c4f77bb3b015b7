"""`train`, whole: it stops for many reasons, goes on to the same bits, and refuses what cannot work."""

import dataclasses
import json
import os
import signal
import time
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from openko import hf_weights, manifest, tokenizers
from openko.bits_per_byte import BitsPerByte
from openko.errors import InputError, Interrupted
from openko.profiles import MeshShape, Saving
from openko.training import loop, measure, metrics, stopping
from openko.training.mirror import MARK
from openko.training.plan import make_plan
from openko.training.step import compile_step

TEXTS = {"ko": ["한국어와 English. " * 30], "en": ["English, 1234. " * 30]}


@pytest.fixture
def train(ingredients):
    """train(out, **changes): the ingredients' run with other fields of Training, or other arguments of `loop.train`."""

    def run(out, *, mesh=None, saving=None, said=None, **changes):
        fields = {f.name for f in dataclasses.fields(ingredients.training)}
        training = dataclasses.replace(ingredients.training, **{k: v for k, v in changes.items() if k in fields})
        profile = dataclasses.replace(ingredients.profile, mesh=mesh or MeshShape(), saving=saving or ingredients.profile.saving)
        settings = {"data": {ingredients.shards: 1.0}, "tokenizer": ingredients.tokenizer, "start": ingredients.start}
        settings |= {k: v for k, v in changes.items() if k not in fields}
        say = (lambda line: None) if said is None else said.append
        return loop.train(out, profile=profile, training=training, say=say, **settings)

    return run


@pytest.fixture(scope="module")
def whole(ingredients, tmp_path_factory):
    """The run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "model"
    loop.train(
        out, profile=ingredients.profile, training=ingredients.training, data={ingredients.shards: 1.0}, tokenizer=ingredients.tokenizer,
        start=ingredients.start, say=lambda line: None,
    )  # fmt: skip
    return out


def at_step(monkeypatch, number, action):
    """Do something when step `number` is reported."""
    plain = metrics.Metrics.step

    def step(self, step, values):
        plain(self, step, values)
        if step == number:
            action()

    monkeypatch.setattr(metrics.Metrics, "step", step)


class Crash(Exception):
    pass


def crash():
    raise Crash


def same_bytes(one, other):
    for name in ("training.jsonl", "model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def checkpoint_steps(directory):
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


# ── it goes on ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_crashed_goes_on_to_the_same_bits(train, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 13, crash)
        train(tmp_path / "m")
    assert checkpoint_steps(tmp_path / "m.checkpoints") == [5, 10]
    train(tmp_path / "m")
    same_bytes(tmp_path / "m", whole)
    assert not (tmp_path / "m.checkpoints").exists()  # those beside the model go when it is there
    assert manifest.read(tmp_path / "m").facts["tokens"] == 24 * 8 * 32


def test_sigterm_saves_and_the_next_run_goes_on(train, whole, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"of 24, asked to by SIGTERM.*goes on"):
        at_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(tmp_path / "m")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint_steps(tmp_path / "m.checkpoints")[-1] in (7, 8)  # a step is reported while the next one runs
    train(tmp_path / "m")
    same_bytes(tmp_path / "m", whole)


def test_a_time_budget_stops_with_a_checkpoint_and_no_step_is_lost(train, whole, tmp_path):
    for attempt in range(3):
        with pytest.raises(Interrupted, match="time budget"):
            train(tmp_path / "m", time_budget=0.0)
        assert checkpoint_steps(tmp_path / "m.checkpoints")[-1] == attempt + 1
    train(tmp_path / "m", time_budget=3600)
    same_bytes(tmp_path / "m", whole)


@pytest.mark.slow
def test_continued_on_other_devices_it_comes_to_the_same_weights(train, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 12, crash)
        train(tmp_path / "m", mesh=MeshShape(fsdp=4, tensor=2))
    train(tmp_path / "m", mesh=MeshShape(data=2))
    ours, theirs = load_file(tmp_path / "m" / "model.safetensors"), load_file(whole / "model.safetensors")
    for name, expected in theirs.items():
        assert np.linalg.norm(ours[name] - expected) <= 1e-5 * np.linalg.norm(expected), name
    losses = [[line["loss"] for line in metrics.read(d / loop.METRICS)] for d in (tmp_path / "m", whole)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content) // 2 + 64):
        content[i] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink()],
                         ids=["flipped", "cut", "gone"])  # fmt: skip
def test_a_damaged_checkpoint_is_skipped_with_a_word(train, whole, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 13, crash)
        train(tmp_path / "m")
    damage(largest_file(tmp_path / "m.checkpoints" / "10" / "state"))
    said = []
    train(tmp_path / "m", said=said)
    assert any("checkpoint of step 10" in line and "trying an older one" in line for line in said)
    same_bytes(tmp_path / "m", whole)


def test_when_no_checkpoint_can_be_read_nothing_is_thrown_away(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 8, crash)
        train(tmp_path / "m")
    flip(largest_file(tmp_path / "m.checkpoints" / "5" / "state"))
    with pytest.raises(InputError, match=r"none of the checkpoints in .* can be read, the last because of .*: mend that"):
        train(tmp_path / "m")
    assert checkpoint_steps(tmp_path / "m.checkpoints") == [5]


def test_checkpoints_by_minutes(train, tmp_path):
    train(tmp_path / "m", steps=6, saving=Saving(steps=1000, minutes=0.0, keep=100), checkpoint_dir=tmp_path / "kept")
    assert checkpoint_steps(tmp_path / "kept") == [1, 2, 3, 4, 5, 6]


def test_a_named_checkpoint_directory_is_kept_and_holds_the_last_step(train, whole, tmp_path):
    train(tmp_path / "m", checkpoint_dir=tmp_path / "kept")
    assert checkpoint_steps(tmp_path / "kept") == [20, 24]
    same_bytes(tmp_path / "m", whole)


def test_a_profile_names_the_store_that_survives(train, tmp_path):
    train(tmp_path / "m", steps=6, saving=Saving(steps=5, directory=str(tmp_path / "drive")))
    assert checkpoint_steps(tmp_path / "drive" / "m") == [5, 6]


@pytest.fixture
def hub():
    """A place that orbax does not write to."""
    files = fsspec.filesystem("memory")
    yield files
    if files.exists("/hub"):
        files.rm("/hub", recursive=True)


def test_checkpoints_are_copied_where_orbax_cannot_write_and_fetched_by_a_new_machine(train, whole, tmp_path, monkeypatch, hub):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 13, crash)
        train(tmp_path / "m", checkpoint_dir="memory://hub/run")
    assert [int(p["name"].rsplit("/", 1)[1]) for p in hub.ls("/hub/run", detail=True)] == [5, 10]
    train(tmp_path / "another-machine" / "m", checkpoint_dir="memory://hub/run")
    same_bytes(tmp_path / "another-machine" / "m", whole)
    speeds = metrics.read(tmp_path / "another-machine" / "m.speed.jsonl")
    assert speeds[0]["step"] == 11  # it went on from the copy
    assert [int(p["name"].rsplit("/", 1)[1]) for p in hub.ls("/hub/run", detail=True)] == [20, 24]
    assert not (tmp_path / "another-machine" / "m.checkpoints").exists()


def test_half_a_copy_is_none(train, whole, tmp_path, monkeypatch, hub):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 13, crash)
        train(tmp_path / "m", checkpoint_dir="memory://hub/run")
    hub.rm_file(f"/hub/run/10/{MARK}")
    train(tmp_path / "n", checkpoint_dir="memory://hub/run")
    assert metrics.read(tmp_path / "n.speed.jsonl")[0]["step"] == 6
    same_bytes(tmp_path / "n", whole)


def test_a_service_that_is_away_does_not_end_the_training(train, whole, tmp_path, monkeypatch, hub):
    def away(self, source, target, **options):
        raise OSError("503 Service Unavailable")

    monkeypatch.setattr(type(hub), "put_file", away)
    said = []
    train(tmp_path / "m", checkpoint_dir="memory://hub/run", said=said)
    assert sum("could not be copied" in line and "503" in line for line in said) == 6  # the last was tried twice
    assert "step 24 is in" in said[-1]
    same_bytes(tmp_path / "m", whole)


def test_a_stop_whose_checkpoint_could_not_be_copied_says_where_it_is(train, tmp_path, monkeypatch, hub):
    def away(self, source, target, **options):
        raise OSError("503 Service Unavailable")

    monkeypatch.setattr(type(hub), "put_file", away)
    with pytest.raises(Interrupted, match=r"step 1 is in .*m\.checkpoints only, for copying it .* failed twice"):
        train(tmp_path / "m", checkpoint_dir="memory://hub/run", time_budget=0.0)
    assert checkpoint_steps(tmp_path / "m.checkpoints") == [1]


def test_a_copy_that_does_not_come_whole_gives_way_to_an_older_one(train, whole, tmp_path, monkeypatch, hub):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        at_step(patch, 13, crash)
        train(tmp_path / "m", checkpoint_dir="memory://hub/run")
    name = next(n for n in json.loads(hub.cat_file(f"/hub/run/10/{MARK}")) if n.startswith("state/"))
    hub.pipe_file(f"/hub/run/10/{name}", b"")
    said = []
    train(tmp_path / "n", checkpoint_dir="memory://hub/run", said=said)
    assert any("trying an older copy" in line for line in said)
    same_bytes(tmp_path / "n", whole)


@pytest.mark.parametrize(("changes", "said"), [
    ({"steps": 4}, r"is complete at step 6, but was made with another schedule \(steps 6 there, 4 here\)"),
    ({"steps": 6, "peak_learning_rate": 1e-4}, "is complete at step 6, but was made with another schedule"),
])  # fmt: skip
def test_a_complete_run_is_not_given_other_numbers(train, tmp_path, changes, said):
    train(tmp_path / "m", steps=6, checkpoint_dir=tmp_path / "kept")
    with pytest.raises(InputError, match=said):
        train(tmp_path / "n", checkpoint_dir=tmp_path / "kept", **changes)


@pytest.mark.slow
def test_a_run_can_be_made_longer_from_a_checkpoint_before_the_fall(train, tmp_path):
    """What schedule wsd is for: twelve steps of sixteen were at the peak; sixteen of twenty-four are."""
    settings = {"schedule": "wsd", "decay_steps": 4, "checkpoint_dir": tmp_path / "kept", "saving": Saving(steps=12, keep=9)}
    train(tmp_path / "short", steps=16, **settings)
    (tmp_path / "kept" / "16").rename(tmp_path / "16")
    said = []
    train(tmp_path / "long", steps=24, said=said, **settings)
    assert "going on from step 12 with another schedule: steps 16 there, 24 here" in said
    train(tmp_path / "at-once", steps=24, **settings | {"checkpoint_dir": tmp_path / "other"})
    same_bytes(tmp_path / "long", tmp_path / "at-once")


# ── it says what it sees ─────────────────────────────────────────────────────────────────────────────────────────


def test_loss_by_source_and_bits_per_byte_stand_in_the_lines(train, ingredients, tmp_path):
    train(tmp_path / "m", steps=9, data={ingredients.shards: 0.75, ingredients.more: 0.25}, evaluate=TEXTS, evaluate_every=4)
    lines = metrics.read(tmp_path / "m" / loop.METRICS)
    for line in lines:
        parts = [line[f"loss/{name}"] for name in ("shards", "more")]
        assert min(parts) <= line["loss"] <= max(parts)
    assert [line["step"] for line in lines if "bits_per_byte/ko" in line] == [4, 8, 9]
    config, parameters = hf_weights.load(tmp_path / "m")
    measure = BitsPerByte(config, tokenizers.load(ingredients.tokenizer), TEXTS, context=32)
    for name, bits in measure(parameters).items():
        assert lines[-1][f"bits_per_byte/{name}"] == pytest.approx(bits, rel=1e-5)


@pytest.mark.slow
def test_bits_per_byte_inside_the_loop_are_those_of_one_device(train, tmp_path):
    found = []
    for mesh in (MeshShape(), MeshShape(fsdp=4, tensor=2)):
        train(tmp_path / str(mesh.devices), steps=4, mesh=mesh, evaluate=TEXTS)
        found.append(metrics.read(tmp_path / str(mesh.devices) / loop.METRICS)[-1]["bits_per_byte/ko"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_clock_stands_in_a_file_of_its_own(train, tmp_path):
    train(tmp_path / "m", steps=3)
    lines = metrics.read(tmp_path / "m.speed.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["tokens_per_second"] == pytest.approx(8 * 32 / line["seconds"]) for line in lines)


def test_mfu_where_the_peak_is_known(tmp_path):
    with metrics.Metrics(
        tmp_path / "a", tmp_path / "b", name="m", lines=[], steps=1, tokens_per_step=10, flops_per_step=1e9, peak=1e12
    ) as record:
        time.sleep(0.05)
        record.step(1, {"loss": 1.0})
    (line,) = metrics.read(tmp_path / "b")
    assert line["mfu"] == pytest.approx(1e9 / line["seconds"] / 1e12)


def test_tensorboard_gets_what_the_lines_hold(train, tmp_path):
    train(tmp_path / "m", steps=3, tensorboard=tmp_path / "board")
    (events,) = (tmp_path / "board").iterdir()
    content = events.read_bytes()
    assert all(content.count(name) >= 3 for name in (b"loss", b"learning_rate", b"tokens_per_second"))


@pytest.mark.parametrize(("saving", "said"), [
    (Saving(steps=1), r"the last good checkpoint is that of step 3 in .*m\.checkpoints"),
    (Saving(steps=5), r"no checkpoint was written"),
])  # fmt: skip
def test_a_loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(train, tmp_path, monkeypatch, saving, said):
    def poisoned(*arguments):
        step = compile_step(*arguments)

        def run(state, batch, rate):
            poison = int(state.step) == 3
            state, values = step(state, batch, rate)
            return state, values | ({"loss": np.float32("nan")} if poison else {})

        return run

    monkeypatch.setattr(loop, "compile_step", poisoned)
    with pytest.raises(InputError, match=r"the loss is nan and the gradient's norm [\d.]+ at step 4; " + said):
        train(tmp_path / "m", saving=saving)


# ── it begins anywhere ───────────────────────────────────────────────────────────────────────────────────────────


def test_everything_may_lie_in_a_bucket(train, ingredients, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENKO_CACHE", str(tmp_path / "cache"))
    bucket = fsspec.filesystem("memory")
    for name in ("shards", "tokenizer", "start"):
        bucket.put(str(ingredients.here / name), f"/bucket/{name}", recursive=True)
    data = {"memory://bucket/shards": 1.0}
    train(tmp_path / "m", data=data, tokenizer="memory://bucket/tokenizer", start="memory://bucket/start")
    bucket.rm("/bucket", recursive=True)
    same_bytes(tmp_path / "m", whole)


def test_a_finished_model_is_not_trained_again(train, whole, tmp_path, monkeypatch):
    train(tmp_path / "m", steps=3)
    monkeypatch.setattr(loop, "compile_step", None)
    said = []
    train(tmp_path / "m", steps=3, said=said)
    assert said == [f"{tmp_path / 'm'}: up to date"]


# ── it refuses ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_of_another_run_is_refused(train, ingredients, tmp_path):
    kept = {"checkpoint_dir": tmp_path / "kept", "steps": 6}
    train(tmp_path / "m", **kept)
    for changes, said in (
        ({"seed": 9}, r"another data order \(seed 2 there, 9 here\)"),
        ({"data": {ingredients.more: 1.0}}, "another data order"),
        ({"optimizer": "adafactor"}, "another optimizer"),
        ({"start": None}, "another start"),
    ):
        with pytest.raises(InputError, match=said):
            train(tmp_path / "n", **kept | changes)


@pytest.mark.parametrize(("field", "said"), [("num_hidden_layers", "num_hidden_layers 2 in place of 3"), ("rope", "positions would be")])
def test_a_model_that_is_not_the_profiles_is_refused(ingredients, tmp_path, field, said):
    value = {"num_hidden_layers": 3, "rope": dataclasses.replace(ingredients.profile.model.rope, theta=1e4)}[field]
    profile = dataclasses.replace(ingredients.profile, model=dataclasses.replace(ingredients.profile.model, **{field: value}))
    with pytest.raises(InputError, match=said):
        make_plan(
            tmp_path / "m", profile=profile, training=ingredients.training, data={ingredients.shards: 1.0},
            tokenizer=ingredients.tokenizer, start=ingredients.start,
        )  # fmt: skip


def test_a_store_that_cannot_hold_a_checkpoint_is_refused_at_once(train, tmp_path):
    too_small = Saving(limit_gb=0.0001, directory=str(tmp_path / "drive" / "openko"))
    with pytest.raises(InputError, match=r"holds 0\.0 GB, but a checkpoint .* --checkpoint-dir \(gs://"):
        train(tmp_path / "m", saving=too_small)
    assert not (tmp_path / "m").exists()
    with pytest.raises(InputError, match=r"holds 0\.0 GB"):
        train(tmp_path / "m", saving=too_small, checkpoint_dir=tmp_path / "drive" / "mine")
    train(tmp_path / "m", steps=3, saving=too_small, checkpoint_dir=tmp_path / "elsewhere")  # the limit is not that of another place


def test_a_disk_too_small_for_the_model_is_refused_before_the_training(train, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(InputError, match=r"m will take 0\.0 GB, but its disk has 0\.0"):
        train(tmp_path / "m", checkpoint_dir="gs://not-asked")


def test_models_are_measured_over_the_profiles_mesh(ingredients, whole):
    profile = dataclasses.replace(ingredients.profile, mesh=MeshShape(fsdp=4, tensor=2))
    scores = measure.of_directories([ingredients.start, whole], profile, ingredients.tokenizer, TEXTS, context=32)
    for directory in (ingredients.start, whole):
        config, parameters = hf_weights.load(directory)
        alone = BitsPerByte(config, tokenizers.load(ingredients.tokenizer), TEXTS, context=32)(parameters)
        assert scores[directory.name] == pytest.approx(alone, rel=1e-5)


def test_a_context_longer_than_the_models_is_refused(train, tmp_path):
    with pytest.raises(InputError, match=r"sequence_length 8192 is longer than .* 4096"):
        train(tmp_path / "m", sequence_length=8192)


def test_shards_of_another_tokenizer_are_refused(train, ingredients, tmp_path):
    other = tokenizers.train(["다른 토크나이저. " * 20], 290, "other")
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match=r"was packed with tokenizer .* pack it again"):
        train(tmp_path / "m", tokenizer=tmp_path / "other")


def test_a_bucket_that_is_not_there_is_named(train, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENKO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="memory://bucket/nowhere has no files"):
        train(tmp_path / "m", data={"memory://bucket/nowhere": 1.0})


@pytest.mark.parametrize(("text", "seconds"), [("8h30m", 30_600), ("45m", 2_700), ("90s", 90), ("1.5h", 5_400)])
def test_time_budgets(text, seconds):
    assert stopping.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "30m8h", "soon"])
def test_other_time_budgets_are_refused(text):
    with pytest.raises(InputError, match="8h30m"):
        stopping.seconds(text)


def test_a_plan_describes_the_pod_without_having_one(ingredients, tmp_path):
    profile = dataclasses.replace(ingredients.profile, mesh=MeshShape(fsdp=8, tensor=2), chip="v5e")
    plan = make_plan(
        tmp_path / "m", profile=profile, training=ingredients.training, data={ingredients.shards: 1.0}, tokenizer=ingredients.tokenizer
    )
    told = json.loads(json.dumps(plan.describe()))
    assert told["mesh"].startswith("data 1 × fsdp 8 × tensor 2 = 16 devices")
    assert "a device holds 1 × 32" in told["batch"] and told["state_gb_per_device"] < told["checkpoint_gb"] / 8
    parts = {row["weight"]: (row["shape"], row["on_a_device"]) for row in plan.shapes()}
    assert parts["layers.self_attn.q_proj"] == ("2 × 64 × 48", "2 × 32 × 6")
    with pytest.raises(InputError, match="does not divide over 5 devices"):
        make_plan(
            tmp_path / "m", profile=dataclasses.replace(profile, mesh=MeshShape(fsdp=5)), training=ingredients.training,
            data={ingredients.shards: 1.0}, tokenizer=ingredients.tokenizer,
        )  # fmt: skip
