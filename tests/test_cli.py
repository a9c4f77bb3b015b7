"""openko.cli: bad input ends with one message and status 2, and nothing is written; and the main job's small parts."""

import dataclasses
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import nbformat
import numpy as np
import pytest
from conftest import lively_parameters, small_config
from matplotlib import font_manager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from safetensors.numpy import save_file

from openko import bits_per_byte, chat_vector, cli, figures, hf_weights, manifest, notebook, profiles, rehearsal, tokenizers, walkthrough
from openko.errors import InputError
from openko.evaluation import ended_turns, sweep
from openko.rope import Rope
from openko.sampling import Sampler


@pytest.fixture
def openko(monkeypatch, capsys):
    """Run the command line in this process: (status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["openko", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(status=ended.value.code, out=out, err=err)

    return run


@pytest.fixture
def truncated(tmp_path):
    """A model directory whose weights were cut off while they were downloaded."""
    directory = tmp_path / "truncated"
    directory.mkdir()
    hf_weights.write_configs(directory, profiles.MODELS["smoke-llama3"], {})
    save_file({"model.norm.weight": np.ones(64, np.float32)}, directory / "model.safetensors")
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[:-10])
    return directory


@pytest.fixture
def made(tmp_path):
    def make(partial):
        (partial / "hello.txt").write_text("hello")
        return {"words": 1}

    manifest.build(tmp_path / "made", kind="greeting", recipe={}, inputs={}, module="openko.errors", make=make, say=lambda line: None)
    return tmp_path / "made"


def everything_below(directory):
    return sorted(p for p in directory.rglob("*"))


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "unknown profile": ("walkthrough --profile desktop --out {tmp}/run", "unknown profile 'desktop': choose one of smoke, laptop"),
    "out below a file": ("walkthrough --profile smoke --out {tmp}/file.txt/run", "cannot be made"),
    "unknown profile to train": ("train --data {tmp}/a --tokenizer {tmp} --out {tmp}/m --profile pc", "unknown profile 'pc'"),
    "share is no number": ("train --data {tmp}/a=half --tokenizer {tmp} --out {tmp}/m --profile smoke", "'half' is not a number"),
    "no tokenizer": ("train --data {tmp}/a --tokenizer {tmp}/t --out {tmp}/m --profile smoke", "t/tokenizer.json does not exist"),
    "no model to start from": (
        "train --data {tmp}/a --tokenizer {tmp}/t --out {tmp}/m --profile smoke --start {tmp}/nowhere",
        "nowhere/config.json does not exist",
    ),
    "no field of a run": ("train --data {tmp}/a --tokenizer {tmp} --out {tmp}/m --set stepz=4", "NAME one of steps, batch_size"),
    "no mesh": ("train --data {tmp}/a --tokenizer {tmp} --out {tmp}/m --mesh fsdp", "--mesh fsdp: write AXIS=N"),
    "twice the same data": ("train --data {tmp}/a=1 --data {tmp}/a=2 --tokenizer {tmp} --out {tmp}/m", "is given twice"),
    "no text to sweep": ("sweep --target {tmp} --base {tmp} --chat {tmp} --text {tmp}/file.txt", "write NAME=FILE, such as ko=heldout.txt"),
    "twice the same text": (
        "sweep --target {tmp} --base {tmp} --chat {tmp} --text a={tmp}/file.txt --text a={tmp}/file.txt",
        "given twice",
    ),
    "no eval": ("train --data {tmp}/a --tokenizer {tmp} --out {tmp}/m --eval ko", "write NAME=FILE"),
    "half a coordinator": ("train --data {tmp}/a --tokenizer {tmp} --out {tmp}/m --coordinator a:1", "belong together"),
    "no duration": ("train --data {tmp}/a --tokenizer {tmp} --out {tmp}/m --time-budget soon", "8h30m"),
    "no model to sample": ("sample {tmp}/nowhere --prompt 안녕", "nowhere/config.json does not exist"),
    "no model to measure": ("bits-per-byte {tmp}/nowhere --text {tmp}/file.txt", "nowhere/config.json does not exist"),
    "no model to merge": ("merge --target {tmp}/nowhere --base {tmp} --chat {tmp} --out {tmp}/m", "nowhere does not exist"),
    "unknown part to merge": ("merge --target {tmp} --base {tmp} --chat {tmp} --out {tmp}/m --scale heads=1", "found 'heads=1'"),
    "twice the same part to merge": (
        "merge --target {tmp} --base {tmp} --chat {tmp} --out {tmp}/m --scale mlp=1 --scale mlp=0.5",
        "λ of mlp is given twice: 1 and 0.5",
    ),
    "files of no size": ("merge --target {tmp} --base {tmp} --chat {tmp} --out {tmp}/m --shard-size big", "'big' is not a number of bytes"),
    "no model to ask": ("ended-turns {tmp}/nowhere", "nowhere/config.json does not exist"),
    "unknown language to ask in": ("ended-turns {tmp}/nowhere --language fr", "--language must be one of ko, en, found 'fr'"),
    "truncated weights to merge": (
        "merge --target {tmp}/truncated --base {tmp}/truncated --chat {tmp}/truncated --out {tmp}/m",
        "truncated/model.safetensors cannot be read as safetensors",
    ),
    "truncated weights to measure": (
        "bits-per-byte {tmp}/truncated --text {tmp}/file.txt",
        "truncated/model.safetensors cannot be read as safetensors",
    ),
    "no text": ("bits-per-byte {tmp}/truncated --text {tmp}/nowhere.txt", "nowhere.txt does not exist"),
    "text is a directory": ("bits-per-byte {tmp}/truncated --text {tmp}/made", "made"),
    "text in CP949": ("bits-per-byte {tmp}/truncated --text {tmp}/cp949.txt", "cp949.txt is not UTF-8"),
    "unknown model": ("fit --model llama-4 --topology v5e:16x16", "unknown model 'llama-4'"),
    "model too small to rent for": ("fit --model tiny-llama3 --topology v5e:1x1", "choose one of llama-3-8b, llama-3.2-1b"),
    "unknown model in the table": ("fit --model llama-4", "unknown model 'llama-4'"),
    "unknown chip in the table": ("fit --topology v9:2x2", "topology 'v9:2x2' is not KIND:AxB"),
    "grid that nobody rents": ("fit --model llama-3-8b --topology v5e:3x5", "AxB one of 1x1, 2x2"),
    "unknown chip": ("fit --model llama-3-8b --topology v9:16x16", "topology 'v9:16x16' is not KIND:AxB"),
    "no grid": ("fit --model llama-3-8b --topology v5e", "topology 'v5e' is not KIND:AxB"),
    "grid of letters": ("fit --model llama-3-8b --topology v5e:axb", "topology 'v5e:axb' is not KIND:AxB"),
    "grid below zero": ("fit --model llama-3-8b --topology v5e:-16x-16", "topology 'v5e:-16x-16' is not KIND:AxB"),
    "batch of none": ("fit --model llama-3-8b --topology v5e:16x16 --batch 0", "batch 0 does not divide over the 256 chips"),
    "batch for a table": ("fit --batch 8", "name its --model and its --topology"),
    "program to nowhere": (
        "fit --model llama-3-8b --topology v5e:16x16 --compile --dump-hlo {tmp}/nowhere/step.hlo",
        "is not a file in a directory",
    ),
    "program of nothing": ("fit --model llama-3-8b --topology v5e:16x16 --dump-hlo {tmp}/step.hlo", "add --compile"),
    "nothing to verify": ("verify {tmp}/nowhere", "nowhere is missing or has no manifest.json"),
    "no results to draw": ("figures --from {tmp}/nowhere", "nowhere/figures has no results"),
}


@pytest.mark.parametrize(("command", "message"), BAD.values(), ids=BAD)
def test_bad_input_ends_with_one_message_and_status_2_and_nothing_written(openko, tmp_path, truncated, made, command, message):
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "cp949.txt").write_bytes("한글".encode("cp949"))
    before = everything_below(tmp_path)
    ended = openko(*command.format(tmp=tmp_path).split())
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("openko: ") and ended.err.count("\n") == 1
    assert message in ended.err
    assert everything_below(tmp_path) == before


def test_a_real_process_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "openko.cli", "walkthrough", "--profile", "desktop", "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=notebook.ROOT)
    assert ended.returncode == 2 and ended.stdout == "" and not (tmp_path / "run").exists()
    assert ended.stderr == f"openko: unknown profile 'desktop': choose one of {', '.join(profiles.PROFILES)}\n"


def test_a_changed_file_fails_verification(openko, made):
    assert openko("verify", made, "--json").status == 0
    (made / "hello.txt").write_text("hullo")
    ended = openko("verify", made)
    assert ended.status == 2 and "hello.txt has changed" in ended.err


def test_an_interrupt_says_that_the_same_command_goes_on(openko, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(walkthrough, "walkthrough", interrupted)
    ended = openko("walkthrough")
    assert ended.status == 130 and "the same command goes on" in ended.err


def test_a_full_disk_is_named(openko, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "/data/run/summary.json")

    monkeypatch.setattr(walkthrough, "walkthrough", full)
    ended = openko("walkthrough")
    advice = "mend that or choose another --out, then run the same command again"
    assert (ended.status, ended.err) == (2, f"openko: /data/run/summary.json: No space left on device; {advice}\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*arguments):
        raise ValueError("a bug")

    monkeypatch.setattr(walkthrough, "walkthrough", broken)
    monkeypatch.setattr(sys, "argv", ["openko", "walkthrough"])
    with pytest.raises(ValueError, match="a bug"):
        cli.main()


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_profiles_as_json(openko):
    ended = openko("profiles", "--json")
    rows = {row["profile"]: row for row in json.loads(ended.out)}
    assert ended.status == 0 and list(rows) == list(profiles.PROFILES)
    assert (rows["v5e-256"]["parameters"], rows["v5e-256"]["context"]) == (8_030_261_248, 8192)
    assert rows["v5e-256"]["tokens"] == 8_440 * 256 * 8192  # the card's 17.7B


def test_profiles_as_a_table(openko):
    ended = openko("profiles")
    assert ended.status == 0 and all(name in ended.out for name in profiles.PROFILES)


def test_fit_as_json(openko):
    ended = openko("fit", "--model", "llama-3-8b", "--topology", "v5e:16x16", "--json")
    answer = json.loads(ended.out)
    assert ended.status == 0
    assert (answer["chips"], answer["parameters"], answer["tokens_per_step"]) == (256, 8_030_261_248, 256 * 8192)
    assert answer == json.loads(json.dumps(rehearsal.estimate(profiles.get("v5e-256"), "v5e:16x16")))


def test_fit_for_people_says_what_its_bounds_are(openko):
    ended = openko("fit", "--model", "llama-3-8b", "--topology", "v5e:16x16", "--batch", "512")
    assert (
        ended.status == 0 and "tokens_per_step" in ended.out and str(512 * 8192) in ended.out and "neither bound was measured" in ended.out
    )


def test_fit_tells_by_its_status_that_a_step_does_not_fit(openko):
    ended = openko("fit", "--model", "llama-3-8b", "--topology", "v5e:1x1", "--json")
    answer = json.loads(ended.out)
    assert ended.status == 1 and not answer["fits"] and answer["hbm_gb_per_chip"] > answer["hbm_limit_gb"]


def test_fit_without_a_topology_is_a_table(openko):
    ended = openko("fit", "--json")
    assert ended.status == 0 and json.loads(ended.out) == rehearsal.table()
    one = openko("fit", "--model", "llama-3.2-1b", "--json")
    assert json.loads(one.out) == [row for row in rehearsal.table() if row["model"] == "llama-3.2-1b"]
    assert "v6e:16x16" in openko("fit").out


def test_texts_of_one_name_in_two_directories_are_both_measured(openko, monkeypatch, tmp_path):
    for place in ("ko", "en"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "sample.txt").write_text(f"text in {place}")
    measured = []

    def measure(config, tokenizer, texts, *, context):
        measured.extend(documents for documents in texts.values())
        return lambda parameters: dict.fromkeys(texts, 1.0)

    monkeypatch.setattr(hf_weights, "load", lambda directory: (None, None))
    monkeypatch.setattr(tokenizers, "load", lambda directory: None)
    monkeypatch.setattr(bits_per_byte, "BitsPerByte", measure)
    ended = openko("bits-per-byte", tmp_path, "--text", tmp_path / "ko" / "sample.txt", "--text", tmp_path / "en" / "sample.txt", "--json")
    assert ended.status == 0 and sorted(measured) == [["text in en"], ["text in ko"]] and len(json.loads(ended.out)) == 2


def test_verify_tells_kind_files_and_content(openko, made):
    answer = json.loads(openko("verify", made, "--json").out)
    assert answer == {"kind": "greeting", "files": 1, "content": manifest.read(made).content, "words": 1}


def test_a_dry_run_of_the_pod_needs_no_pod(openko, ingredients, tmp_path):
    command = ["train", "--profile", "v5e-256", "--data", ingredients.shards, "--tokenizer", ingredients.tokenizer, "--out", tmp_path / "m"]
    told = json.loads(openko(*command, "--dry-run", "--json").out)
    assert told["mesh"].startswith("data 1 × fsdp 256 × tensor 1 = 256 devices") and told["steps"] == 8_440
    assert told["state_gb_per_device"] == pytest.approx(96.4 / 256, rel=0.01) and told["checkpoint_gb"] == pytest.approx(96.4, rel=0.01)
    assert told["hours"].startswith("12.5 at 40% MFU")
    assert "layers.mlp.down_proj" in openko(*command, "--dry-run", "--set", "seed=1", "--mesh", "data=2,fsdp=8").out
    assert not (tmp_path / "m").exists()


def test_training_stops_by_its_budget_with_status_75_and_goes_on(openko, ingredients, tmp_path):
    heldout = tmp_path / "ko.jsonl"
    heldout.write_text(json.dumps({"text": "한국어와 English. " * 10}) + "\n", encoding="utf-8")
    command = [
        "train", "--profile", "smoke", "--data", f"{ingredients.shards}=2", "--data", f"{ingredients.more}=1", "--tokenizer",
        ingredients.tokenizer, "--out", tmp_path / "m", "--set", "steps=6", "--eval", f"ko={heldout}", "--eval-every", "3",
    ]  # fmt: skip
    stopped = openko(*command, "--time-budget", "0s")
    assert stopped.status == 75 and "the time budget is used up" in stopped.err and "the same command goes on" in stopped.err
    done = openko(*command, "--json")
    assert done.status == 0 and json.loads(done.out)["tokens"] == 6 * 4 * 128
    lines = [json.loads(line) for line in (tmp_path / "m" / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "bits_per_byte/ko" in line] == [3, 6]


def test_one_answer_is_shown_as_it_comes_and_several_are_listed(openko, chat_directory):
    how = ["--greedy", "--max-new-tokens", 12]
    listed = json.loads(openko("sample", chat_directory, "--prompt", "안녕?", "--prompt", "뭐해?", *how, "--json").out)
    assert [set(a) for a in listed] == [{"prompt", "text", "tokens", "stop"}] * 2
    shown = openko("sample", chat_directory, "--prompt", "안녕?", *how).out
    assert shown == f"> 안녕?\n{listed[0]['text']}\n[{listed[0]['tokens']} tokens, ended by {listed[0]['stop']}]\n"
    assert listed[1]["text"] in openko("sample", chat_directory, "--prompt", "안녕?", "--prompt", "뭐해?", *how).out


def test_a_chat_goes_on_until_bye(openko, monkeypatch, chat_directory):
    sampler = Sampler(chat_directory)
    monkeypatch.setattr(sys, "stdin", io.StringIO("안녕?\n\n/clear\n안녕?\n" + "아주 길게 " * 3000 + "\n/bye\n뭐해?\n"))
    found = openko("chat", chat_directory, "--greedy", "--max-new-tokens", 12)
    answer = sampler.answer(["안녕?"], temperature=0.0, max_new_tokens=12)[0]
    assert found.status == 0 and found.out.count(answer.text) == 2  # the second from a clean start
    assert "max_position_embeddings" in found.err


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_sweep_measures_writes_and_draws(openko, monkeypatch, tmp_path, chat_directory):
    monkeypatch.setattr(ended_turns, "PROMPTS", {language: prompts[:4] for language, prompts in ended_turns.PROMPTS.items()})
    base, target = tmp_path / "base", tmp_path / "target"
    config, parameters = hf_weights.load(chat_directory)
    # The target turns by another θ: what is measured must be the merged model, whose config.json is the target's.
    for seed, directory, rope in ((7, base, config.rope), (8, target, Rope(theta=20.0))):
        directory.mkdir()
        moved = jax.tree.map(lambda x, y: x + 0.05 * y, parameters, lively_parameters(config, seed))
        ends = json.loads((chat_directory / "generation_config.json").read_text())
        hf_weights.save(directory, dataclasses.replace(config, rope=rope), moved, carried=ends)
    (tmp_path / "ko.txt").write_text("안녕하세요. 무엇을 도와드릴까요?", encoding="utf-8")
    monkeypatch.setattr(figures, "hangul_font", lambda packages: font_manager.FontProperties())
    models = ["--target", target, "--base", base, "--chat", chat_directory]
    found = openko(
        "sweep", *models, "--text", f"ko={tmp_path / 'ko.txt'}", "--scale", 0, "--scale", 1, "--out", tmp_path / "swept", "--json"
    )
    points = json.loads(found.out)
    assert [p["scale"] for p in points] == [0, 1] and all(set(p["ended_turns"]) == {"ko", "en"} for p in points)
    assert json.loads((tmp_path / "swept" / "sweep.json").read_text()) == points
    assert (tmp_path / "swept" / "curve.png").stat().st_size > 1000
    # λ = 1 is the model that merge writes.
    openko("merge", *models, "--out", tmp_path / "merged")
    merged = json.loads(openko("bits-per-byte", tmp_path / "merged", "--text", tmp_path / "ko.txt", "--json").out)
    assert points[1]["bits_per_byte"]["ko"] == pytest.approx(merged[str(tmp_path / "ko.txt")], rel=1e-5)


def test_a_sweep_answers_as_the_merged_model_does(monkeypatch, tmp_path, chat_directory):
    config, parameters = hf_weights.load(chat_directory)
    for seed, name, rope in ((7, "base", config.rope), (8, "target", Rope(theta=20.0))):
        (tmp_path / name).mkdir()
        ends = json.loads((chat_directory / "generation_config.json").read_text())
        moved = jax.tree.map(lambda x, y: x + 0.05 * y, parameters, lively_parameters(config, seed))
        hf_weights.save(tmp_path / name, dataclasses.replace(config, rope=rope), moved, carried=ends)
    three = {"target": tmp_path / "target", "base": tmp_path / "base", "chat": chat_directory}
    chat_vector.merge(tmp_path / "merged", **three, say=lambda line: None)
    how = {"temperature": 0.0, "max_new_tokens": 20}
    answers, asked = Sampler(tmp_path / "merged").answer(["안녕?"], **how), []
    monkeypatch.setattr(ended_turns, "ask", lambda sampler, language: asked.append(sampler.answer(["안녕?"], **how)) or answers)
    sweep.sweep([1.0], **three, texts={"ko": ["안녕하세요."]}, languages=["ko"], say=lambda line: None)
    assert asked == [answers]


def test_a_sweep_over_other_vocabularies_is_refused(openko, tmp_path, chat_directory):
    config = dataclasses.replace(hf_weights.read_config(chat_directory)[0], vocab_size=304)
    hf_weights.save(tmp_path, config, lively_parameters(config))
    (tmp_path / "ko.txt").write_text("안녕", encoding="utf-8")
    models = ["--target", tmp_path, "--base", tmp_path, "--chat", chat_directory]
    found = openko("sweep", *models, "--text", f"ko={tmp_path / 'ko.txt'}")
    assert found.status == 2 and "embed_tokens" in found.err and "304" in found.err


def test_ended_turns_of_a_model_that_ends_every_turn_at_once(openko, tmp_path):
    tokenizer = tokenizers.train(["바다는 넓고 깊다. The sea is wide and deep. " * 20], 290, "test")
    tokenizer.save(tmp_path)
    config = small_config(vocab_size=tokenizer.vocab_size)
    parameters = jax.tree.map(np.zeros_like, lively_parameters(config))
    parameters["embed_tokens"] += 1.0  # every token leaves the same hidden state, and the output likes one word of it
    parameters["norm"] += 1.0
    parameters["lm_head"][tokenizer[tokenizers.TURN_END]] = 1.0
    hf_weights.save(tmp_path, config, parameters, carried={"eos_token_id": tokenizer[tokenizers.END]})
    answer = json.loads(openko("ended-turns", tmp_path, "--language", "en", "--json").out)
    assert answer["answers"] >= 200 and answer["stopped"] == 1.0 and answer["median_tokens"] == 1.0
    assert answer["share"] == answer["low"] == 0.0 < answer["high"]  # one token is no answer
    assert answer["distinct"] == 1 / answer["answers"]


# ── the main job's small parts ───────────────────────────────────────────────────────────────────────────────────


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        ("10%\r50%\r100%\ndone\n", ["100%\ndone\n"]),
        ("one\r\ntwo\n", ["one\ntwo\n"]),
        ("plain\n", ["plain\n"]),
        ("10%\r50%\r      \r", []),
        ("\r\n", []),
    ],
)
def test_of_a_progress_line_its_last_state_stays(printed, kept):
    picture = new_output("display_data", {"text/plain": "a\rb"})
    out, err = new_code_cell("", outputs=[stream(printed), picture]), new_code_cell("", outputs=[stream(printed, "stderr")])
    prose = new_markdown_cell("a\rb")
    walkthrough.collapse_carriage_returns([prose, out, err])
    assert [o.text for o in out.outputs[:-1]] == [o.text for o in err.outputs] == kept
    assert out.outputs[-1] == picture and prose.source == "a\rb"


def write_notebook(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path)
    return walkthrough.notebook_fingerprint(path)


def test_a_notebook_changes_with_its_code_and_not_with_its_prose(tmp_path):
    path = tmp_path / "story.ipynb"
    code = "%matplotlib inline\nfrom openko import shards\nshards.TOKEN"
    before = write_notebook(path, new_markdown_cell("# 이야기"), new_code_cell(code))
    assert write_notebook(path, new_markdown_cell("# Another story"), new_code_cell(code), new_markdown_cell("end")) == before
    assert write_notebook(path, new_code_cell(code, outputs=[stream("1\n")], execution_count=7)) == before
    assert write_notebook(path, new_code_cell(code + "\n1")) != before


def test_a_notebook_changes_with_the_modules_it_imports(tmp_path, monkeypatch):
    (tmp_path / "openko").mkdir()
    monkeypatch.setattr(manifest, "PACKAGE", tmp_path / "openko")
    fingerprints = []
    for code in ("ONE = 1", "ONE = 1  # one", "ONE = 11"):
        (tmp_path / "openko" / "numbers.py").write_text(code)
        fingerprints.append(write_notebook(tmp_path / "story.ipynb", new_code_cell("from openko import numbers")))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize("name", notebook.NAMES)
def test_every_notebook_has_a_fingerprint(name):
    path = notebook.ROOT / "notebooks" / f"{name}.ipynb"
    assert walkthrough.notebook_fingerprint(path) == walkthrough.notebook_fingerprint(path)


def test_the_display_knows_every_notebook():
    assert set(walkthrough.SHARES) == set(notebook.NAMES)


def test_an_unknown_profile_stops_the_walkthrough_before_it_writes(tmp_path):
    with pytest.raises(InputError, match="unknown profile"):
        walkthrough.walkthrough("desktop", tmp_path / "run")
    assert not (tmp_path / "run").exists()
