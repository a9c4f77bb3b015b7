"""openko.release.auditing: a sound directory passes, and each way to break one is found by the check that is meant for it."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import release_directories as directories
import typer
from release_directories import edit_json, overwrite, quiet
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from openko import hf_weights, tokenizers
from openko.cli import release as commands
from openko.errors import InputError
from openko.release import auditing, licences, lineage, making, weights
from openko.release.auditing import FAIL, PASS, SKIPPED, audit
from openko.rope import Rope
from openko.rope_lab import diagnosis, faults, probe

NAMES = (
    "loadable", "rope", "dtype", "finite", "tensors", "tokenizer", "special_tokens", "template", "generation", "licence", "card",
)  # fmt: skip
NORM, EMBEDDING, Q = "model.norm.weight", "model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"

code_known_once = directories.code_known_once


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A released child of Llama, in several files."""
    here = tmp_path_factory.mktemp("released")
    llama = directories.write_llama(here / "Meta-Llama-3-8B")
    model = directories.write_trained(here / "model", start=llama, shard_bytes=60_000)
    making.release(model, here / "Llama-3-Ko-test", name="Llama-3-Ko-test", author="홍길동", say=quiet)
    return here / "Llama-3-Ko-test"


@pytest.fixture
def sound(released, tmp_path):
    """A copy of the released directory, to be broken."""
    copy = tmp_path / released.name
    copy.mkdir()
    for name, content in directories.everything_in(released).items():
        (copy / name).write_bytes(content)
    return copy


def judged(directory, **how) -> dict:
    return audit(directory, say=quiet, **how)["checks"]


def failing(directory) -> set[str]:
    return {name for name, check in judged(directory).items() if check["status"] == FAIL}


def test_a_release_passes_every_check_that_can_be_answered(released):
    answer = audit(released, say=quiet)
    assert answer["passed"] and tuple(answer["checks"]) == NAMES
    # A context of 64 positions is too short for the diagnosis, and the audit says so in place of guessing.
    assert {name for name, check in answer["checks"].items() if check["status"] != PASS} == {"rope"}
    assert answer["checks"]["rope"]["status"] == SKIPPED and "64 positions is too short" in answer["checks"]["rope"]["reason"]


# ── one fault, one failing check ─────────────────────────────────────────────────────────────────────────────────


def rewrite_weights(directory, change):
    """All tensors into one file, changed."""
    tensors = {}
    for path in hf_weights.weight_files(directory):
        tensors |= load_file(path)
        path.unlink()
    (directory / hf_weights.INDEX).unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def cut_off(directory):
    path = hf_weights.weight_files(directory)[0]
    path.write_bytes(path.read_bytes()[:-100])


def metadata(content):
    """Other words in the head of a file of weights."""

    def change(directory):
        path = hf_weights.weight_files(directory)[0]
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        head = json.dumps(json.loads(data[8 : 8 + length]) | {"__metadata__": content}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])

    return change


def config(change):
    return lambda directory: edit_json(directory / "config.json", change)


def generation(change):
    return lambda directory: edit_json(directory / "generation_config.json", change)


def for_new_readers_only(fields):
    del fields["rope_theta"], fields["rope_scaling"]


def move_in_index(directory):
    def change(index):
        places = sorted(set(index["weight_map"].values()))
        index["weight_map"][NORM] = next(place for place in places if place != index["weight_map"][NORM])

    edit_json(directory / hf_weights.INDEX, change)


def second_weights(directory):
    save_file({"x": np.zeros(1, np.float32)}, directory / "model.safetensors", metadata={"format": "pt"})


def tokenizer_config(**fields):
    return lambda directory: edit_json(directory / "tokenizer_config.json", lambda content: content.update(fields))


def lose_korean(directory):
    def change(content):
        content["normalizer"] = {"type": "NFD"}

    edit_json(directory / "tokenizer.json", change)


def template(text):
    def change(directory):
        edit_json(directory / "tokenizer_config.json", lambda fields: fields.update(chat_template=text))
        (directory / "chat_template.jinja").unlink()
        if text:
            (directory / "chat_template.jinja").write_text(text, encoding="utf-8")

    return change


def front_matter(old, new):
    def change(directory):
        path = directory / "README.md"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def another_name(directory):
    edit_json(directory / "provenance.json", lambda fields: fields.update(name="Open-Ko-8B"))


BROKEN = {
    "loadable: a file of weights is cut off": cut_off,
    "loadable: a file of weights is missing": lambda d: hf_weights.weight_files(d)[0].unlink(),
    "loadable: no format in the metadata": metadata({}),
    "loadable: a format that transformers 4 does not know": metadata({"format": "np"}),
    "loadable: metadata that safetensors does not take": metadata({"format": 5}),
    "loadable: no architectures": config(lambda fields: fields.pop("architectures")),
    "loadable: a model without a head": config(lambda fields: fields.update(architectures=["LlamaModel"])),
    "loadable: more layers than memory holds names of": config(lambda fields: fields.update(num_hidden_layers=10**9)),
    "loadable: a config.json of endless depth": lambda d: (d / "config.json").write_text('{"a":' * 100_000),
    "loadable: quantised": config(lambda fields: fields.update(quantization_config={"bits": 4})),
    "rope: θ for new readers alone": config(for_new_readers_only),
    "rope: no θ": config(lambda fields: (for_new_readers_only(fields), fields.pop("rope_parameters"))),
    "rope: two θ": config(lambda fields: fields.update(rope_theta=1e4)),
    "dtype: config.json says another": config(lambda fields: fields.update(dtype="float32", torch_dtype="float32")),
    "dtype: old and new key differ": config(lambda fields: fields.update(torch_dtype="float16")),
    "dtype: one tensor of another": lambda d: rewrite_weights(d, lambda t: t.update({NORM: t[NORM].astype(np.float32)})),
    "finite: a NaN": lambda d: overwrite(d, Q, np.array([np.nan])),
    "finite: infinity": lambda d: overwrite(d, EMBEDDING, np.array([1.0, -np.inf])),
    "tensors: one missing": lambda d: rewrite_weights(d, lambda t: t.pop(NORM)),
    "tensors: one too many": lambda d: rewrite_weights(d, lambda t: t.update({"model.extra.weight": t[NORM]})),
    "tensors: another shape": lambda d: rewrite_weights(d, lambda t: t.update({NORM: t[NORM][:-1]})),
    "tensors: the index says another file": move_in_index,
    "tensors: other weights beside the index": second_weights,
    "tokenizer: more tokens than the embedding has rows": lambda d: directories.add_token(d, special=True),
    "tokenizer: one more that is not special": lambda d: directories.add_token(d, special=False),
    "tokenizer: one more in tokenizer_config.json": tokenizer_config(added_tokens_decoder={"300": {"content": "<|new|>", "special": True}}),
    "tokenizer: no JSON in tokenizer_config.json": lambda d: (d / "tokenizer_config.json").write_text("{ not json"),
    "tokenizer: a class that nobody has": tokenizer_config(tokenizer_class="NoTokenizer"),
    "tokenizer: a class that transformers 5 alone has": tokenizer_config(tokenizer_class="TokenizersBackend"),
    "tokenizer: extra tokens as transformers 5 alone reads them": tokenizer_config(extra_special_tokens=["<|eot_id|>"]),
    "tokenizer: Korean comes back decomposed": lose_korean,
    "special_tokens: another begin": config(lambda fields: fields.update(bos_token_id=286)),
    "special_tokens: an end that is a word": config(lambda fields: fields.update(eos_token_id=[65])),
    "template: another form": template("{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"),
    "template: an error in it": template("{% for m in messages %}{{ m['content'] }}"),
    "template: another error in it": template("{{ 1 / 0 }}"),
    "template: another one for old readers": tokenizer_config(chat_template="{{ messages[0]['content'] }}"),
    "template: none": template(""),
    "generation: does not end a turn": generation(lambda fields: fields.update(eos_token_id=285)),
    "generation: temperature without sampling": generation(lambda fields: fields.update(temperature=0.6)),
    "generation: none": lambda d: (d / "generation_config.json").unlink(),
    "generation: endless depth": lambda d: (d / "generation_config.json").write_text("[" * 100_000),
    "licence: no licence": lambda d: (d / "LICENSE").unlink(),
    "licence: one byte of it changed": lambda d: (d / "LICENSE").write_bytes(directories.LICENCE.replace(b"\r\n", b"\n", 1)),
    "licence: no use policy": lambda d: (d / "USE_POLICY.md").unlink(),
    "licence: no notice": lambda d: (d / "NOTICE").unlink(),
    "licence: not shown": front_matter("**Built with Meta Llama 3**", ""),
    "licence: a name that hides the parent": another_name,
    "card: no licence named": front_matter("license: llama3\n", ""),
    "card: no parent named": front_matter("base_model:\n- meta-llama/Meta-Llama-3-8B\n", ""),
    "card: no YAML": front_matter("language:\n- ko", "language: [ko"),
    "card: no front matter": front_matter("---\n", ""),
    "card: a day that there is not": front_matter("language:\n", "date: 2024-13-45\nlanguage:\n"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_fails_the_check_that_is_meant_for_it_and_no_other(sound, fault):
    BROKEN[fault](sound)
    assert failing(sound) == {fault.split(":")[0]}


def test_without_a_config_the_rest_is_still_answered(sound):
    (sound / "config.json").write_text("{ not json", encoding="utf-8")
    found = judged(sound)
    assert {name for name, check in found.items() if check["status"] == FAIL} == {"loadable"}
    assert {name for name, check in found.items() if check["status"] == PASS} >= {
        "finite",
        "tokenizer",
        "template",
        "generation",
        "licence",
    }
    assert all("config.json" in found[name]["reason"] for name in ("rope", "dtype", "tensors", "special_tokens"))


def test_without_a_tokenizer_the_weights_are_still_judged(sound):
    (sound / "tokenizer.json").unlink()
    found = judged(sound)
    assert {name for name, check in found.items() if check["status"] == FAIL} == {"tokenizer"}
    assert {name for name, check in found.items() if check["status"] == PASS} >= {"loadable", "dtype", "finite", "tensors", "template"}


def test_a_word_that_tokenizer_config_alone_adds_is_found_where_the_embedding_has_a_row_for_it(tmp_path):
    foreign = directories.write_model(tmp_path / "somebody", vocab=320)
    directories.write_card(foreign)
    assert failing(foreign) == set()
    tokenizer_config(added_tokens_decoder={"300": {"content": "점심", "special": False}})(foreign)
    assert failing(foreign) == {"tokenizer"} and "transformers makes other ids" in judged(foreign)["tokenizer"]["reason"]


def test_a_list_of_templates_without_templates_does_not_hide_licence_and_card(sound):
    template("")(sound)
    tokenizer_config(chat_template=[{"name": "default"}])(sound)
    assert failing(sound) == {"tokenizer", "template"}


def test_a_file_of_weights_without_tensors_lacks_tensors_and_no_dtype(sound):
    rewrite_weights(sound, dict.clear)
    assert failing(sound) == {"tensors"} and judged(sound)["dtype"]["reason"] == "there are no tensors"


def test_two_directories_of_one_content_are_judged_in_the_same_words(sound, tmp_path, monkeypatch):
    for path in hf_weights.weight_files(sound):
        path.unlink()
    (sound / hf_weights.INDEX).unlink()
    (tmp_path / "a").mkdir()
    for name, content in directories.everything_in(sound).items():
        (tmp_path / "a" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert judged(sound) == judged(Path("a"))
    assert auditing._without_place("meta-llama/Meta-Llama-3-8B and a/LICENSE", "a") == "meta-llama/Meta-Llama-3-8B and LICENSE"


def test_several_faults_do_not_hide_each_other(sound):
    for fault in ("finite: a NaN", "template: none", "licence: no notice", "card: no licence named"):
        BROKEN[fault](sound)
    assert failing(sound) == {"finite", "template", "licence", "card"}


# ── foreign directories ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_foreign_directory_is_judged_by_what_it_shows(tmp_path):
    foreign = directories.write_model(tmp_path / "somebody")
    assert failing(foreign) == {"card"}
    assert judged(foreign)["licence"]["status"] == SKIPPED
    directories.write_card(foreign)
    assert audit(foreign, say=quiet)["passed"]


@pytest.mark.parametrize(
    ("fields", "version"),
    [({"license": "llama3"}, "3"), ({"license": "other", "license_name": "llama3.1"}, "3.1"),
     ({"license": "mit", "base_model": "meta-llama/Meta-Llama-3-8B"}, "3")],
)  # fmt: skip
def test_a_foreign_card_that_names_llama_brings_its_duties(tmp_path, fields, version):
    foreign = directories.write_model(tmp_path / "Open-Ko-8B")
    directories.write_card(foreign, **fields)
    reason = judged(foreign)["licence"]["reason"]
    terms = licences.TERMS[version]
    for duty in ("LICENSE", "USE_POLICY.md", terms.notice, terms.built_with, f"begins with {terms.begins}"):
        assert duty in reason


def test_metas_tokenizer_without_any_licence_is_noticed(tmp_path, monkeypatch):
    foreign = directories.write_model(tmp_path / "somebody")
    directories.write_card(foreign)
    monkeypatch.setattr(lineage, "META_FIRST_SPECIAL", tokenizers.load(foreign)[tokenizers.BEGIN])
    assert failing(foreign) == {"licence"}


def test_another_architecture_is_told_so_and_its_rope_is_not_judged(tmp_path):
    foreign = directories.write_model(tmp_path / "gpt")
    directories.write_card(foreign)
    config(lambda fields: (for_new_readers_only(fields), fields.pop("rope_parameters"), fields.update(model_type="gpt2")))(foreign)
    found = judged(foreign)
    assert failing(foreign) == {"loadable"} and "model_type is 'gpt2'" in found["loadable"]["reason"]
    assert found["rope"]["status"] == SKIPPED and "gpt2" in found["rope"]["reason"]


def test_metas_own_directory_owes_nothing_to_itself(tmp_path):
    llama = directories.write_llama(tmp_path / "models--meta-llama--Meta-Llama-3-8B" / "snapshots" / "1")
    directories.write_card(llama, license="llama3")
    answer = audit(llama, say=quiet)
    assert answer["passed"] and answer["checks"]["licence"]["status"] == SKIPPED


def test_a_base_model_needs_no_template_and_only_the_end_of_text(tmp_path):
    base = directories.write_model(tmp_path / "base", ends=(tokenizers.END,))
    edit_json(base / "tokenizer_config.json", lambda fields: fields.pop("chat_template"))
    directories.write_card(base)
    found = judged(base)
    assert (found["template"]["status"], found["generation"]["status"]) == (SKIPPED, PASS)


def test_a_system_turn_of_the_templates_own_is_llama_3s_form_still(sound):
    own = (
        "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>' }}"
        + tokenizers.CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    )  # fmt: skip
    template(own)(sound)
    check = judged(sound)["template"]
    assert check["status"] == PASS and "of the template's own" in check["reason"]


@pytest.mark.parametrize(
    "words", ["{{ strftime_now('%Y')[:0] }}", "{% generation %}{% endgeneration %}", "{% for x in [1] %}{% break %}{% endfor %}"]
)
def test_a_template_may_use_what_transformers_adds_to_jinja(sound, words):
    template(words + tokenizers.CHAT_TEMPLATE)(sound)
    assert judged(sound)["template"]["status"] == PASS


def test_what_is_no_directory_is_refused_and_so_is_a_text_that_is_not_there(released, tmp_path):
    with pytest.raises(InputError, match="not a directory"):
        audit(tmp_path / "nothing", say=quiet)
    with pytest.raises(InputError, match=r"nothing.txt cannot be read"):
        audit(released, text=tmp_path / "nothing.txt", say=quiet)


# ── RoPE and memory ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("verdict", "status"), [([diagnosis.OK], PASS), ([diagnosis.UNDETERMINED], SKIPPED), ([faults.Q_PERMUTED], FAIL)])
def test_the_check_of_rope_is_the_diagnosis(released, monkeypatch, verdict, status):
    answer = {
        "verdict": verdict,
        "theta": {"estimate": 4.9e5, "low": 3e5, "high": None},
        "notes": ["a note"],
        "repair": "openko rope repair",
    }
    monkeypatch.setattr(diagnosis, "diagnose", lambda path, **how: answer)
    check = judged(released)["rope"]
    assert check["status"] == status
    assert {PASS: "490,000 (300,000 to no bound)", SKIPPED: "a note", FAIL: "q-permuted"}[status] in check["reason"]


@pytest.mark.slow
def test_rows_of_a_real_model_in_the_wrong_order_fail_the_check_of_rope_alone(tmp_path):
    """A model in which position matters, trained here: sound, and with the rows of q in Meta's order."""
    probe.train(tmp_path / "sound", Rope(theta=1e5), heads=8, kv_heads=2, head_dim=32, tie_word_embeddings=False, say=quiet)
    faults.broken(tmp_path / "sound", tmp_path / "broken", [faults.Q_PERMUTED], say=quiet)
    text = tmp_path / "sound" / probe.TEXT
    before, after = (judged(tmp_path / name, text=text) for name in ("sound", "broken"))
    assert before["rope"]["status"] == PASS and after["rope"]["status"] == FAIL and "q-permuted" in after["rope"]["reason"]
    assert {name for name in NAMES if before[name]["status"] != after[name]["status"]} == {"rope"}


def test_looking_for_nan_holds_a_piece_of_a_tensor_and_not_the_tensor(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(160_000_000)  # zeros that take no disk
        file.seek(150_000_000)
        file.write(np.array([np.nan], np.float32).tobytes())
    tensor = weights.Stored(file=path, dtype="F32", shape=(40_000, 1_000), start=0)
    tracemalloc.start()
    assert weights.not_finite({"large": tensor}, quiet) == {"large": 1}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80_000_000


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(commands.audit)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_prints_one_json_object_and_ends_with_0(released, command):
    done = command(released, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["passed"] is True
    assert {check["status"] for check in json.loads(done.stdout)["checks"].values()} <= {PASS, FAIL, SKIPPED}


def test_the_command_ends_with_1_and_a_line_for_each_check(sound, command):
    BROKEN["finite: a NaN"](sound)
    done = command(sound)
    assert done.exit_code == 1 and len(done.stdout.splitlines()) == len(auditing.CHECKS) + 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert "finite" in line and Q in line
    assert json.loads(command(sound, "--json").stdout)["passed"] is False
