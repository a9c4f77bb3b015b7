"""RoPE lab, the directories: what each fault writes, that repair undoes it to the byte, how two uploads are compared."""

import copy
import dataclasses
import functools
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import lively_parameters, small_config

from openko import hf_weights, llama, manifest
from openko.errors import InputError
from openko.rope import Llama3Scaling, Rope, interleave_rows
from openko.rope_lab import directory, layouts, rewrite
from openko.rope_lab.comparison import compare
from openko.rope_lab.faults import FAULTS, LLAMA_3_1, broken
from openko.rope_lab.layouts import Layout
from openko.rope_lab.repair import repaired

PUBLISHED = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
BLOCK = PUBLISHED | {"original_max_position_embeddings": 512}  # in proportion to the context of 4,096 of these models
TRAINED = Llama3Scaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=2048)
TRAINED_BLOCK = {"rope_type": "llama3"} | dataclasses.asdict(TRAINED)
ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters")
Q, K = "model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.self_attn.k_proj.weight"


def quiet(line):
    pass


@pytest.fixture(scope="module", autouse=True)
def known_once():
    """The code and the shapes are the same in all tests: look at them once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "code_fingerprint", functools.cache(manifest.code_fingerprint))
        patch.setattr(llama, "abstract", functools.cache(llama.abstract))
        yield


@functools.cache
def drawn() -> dict:
    return jax.tree.map(np.asarray, lively_parameters(small_config()))


def parameters() -> dict:
    """fp32 parameters of small_config(), to be changed at will."""
    return copy.deepcopy(drawn())


def save(path, *, rope=None, dtype="bfloat16", shard_bytes=5_000_000_000, **fields):
    """A model directory with a tokenizer file and a config field that openko does not know."""
    config = small_config(**({} if rope is None else {"rope": rope}) | fields)
    # Drawing by jax compiles for each new shape; tests that want another one look at no value.
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), llama.abstract(config)) if fields else parameters()
    path.mkdir()
    hf_weights.save(path, config, weights, dtype=dtype, shard_bytes=shard_bytes)
    (path / "tokenizer.json").write_text('{"model": "토큰"}', encoding="utf-8")
    edit(path, their_field={"kept": [1, "한국어"]})
    return path


def edit(path, **fields):
    raw = hf_weights.read_json(path)
    for name, value in fields.items():
        raw.pop(name, None) if value is ... else raw.update({name: value})
    rewrite.write_config(path, raw)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """bf16, in shards, θ 5e5, no scaling; tests copy what they change."""
    return save(tmp_path_factory.mktemp("sound") / "model", shard_bytes=30_000)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """Trained with a frequency scaling."""
    return save(tmp_path_factory.mktemp("scaled") / "model", rope=Rope(theta=5e5, scaling=TRAINED))


def edited(source, path, **fields):
    shutil.copytree(source, path)
    return edit(path, **fields)


def rope_of(path) -> dict:
    return {name: value for name, value in hf_weights.read_json(path).items() if name in ROPE_FIELDS}


def tensor(path, name) -> np.ndarray:
    return hf_weights.Tensors(path).read(name).astype(np.float32)


def contents(path, pattern="*") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.glob(pattern) if p.name != manifest.NAME}


# ── what each fault does to config.json ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("faults", "theta", "expected"), [
    (["wrong-theta"], None, {"rope_theta": 1e4, "rope_scaling": None, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
    (["wrong-theta"], 1e6, {"rope_theta": 1e6, "rope_scaling": None, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    (["theta-missing"], None, {"rope_scaling": None}),
    (["theta-missing-for-old-readers"], None, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    (["spurious-scaling"], None, {"rope_theta": 5e5, "rope_scaling": BLOCK, "rope_parameters": {"rope_theta": 5e5} | BLOCK}),
    (["spurious-scaling", "theta-missing"], None, {"rope_scaling": BLOCK, "rope_parameters": BLOCK}),
    (["spurious-scaling", "theta-missing-for-old-readers"], None, {"rope_parameters": {"rope_theta": 5e5} | BLOCK}),
    (["wrong-theta", "theta-missing-for-old-readers"], 7e5, {"rope_parameters": {"rope_theta": 7e5, "rope_type": "default"}}),
    (["wrong-theta", "spurious-scaling"], None, {"rope_theta": 1e4, "rope_scaling": BLOCK, "rope_parameters": {"rope_theta": 1e4} | BLOCK}),
])  # fmt: skip
def test_config_faults_write_exactly_these_fields(sound, tmp_path, faults, theta, expected):
    made = broken(sound, tmp_path / "out", faults, theta=theta, say=quiet)
    assert rope_of(tmp_path / "out") == expected and set(made.facts["faults"]) == set(faults)
    before, after = hf_weights.read_json(sound), hf_weights.read_json(tmp_path / "out")
    assert [item for item in after.items() if item[0] not in ROPE_FIELDS] == [item for item in before.items() if item[0] not in ROPE_FIELDS]
    others = contents(sound)
    assert contents(tmp_path / "out") == others | {"config.json": (tmp_path / "out/config.json").read_bytes()}


@pytest.mark.parametrize(("faults", "expected"), [
    (["missing-scaling"], {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    (["theta-missing"], {"rope_scaling": TRAINED_BLOCK, "rope_parameters": TRAINED_BLOCK}),
    (["missing-scaling", "theta-missing"], {"rope_scaling": None}),
    (["theta-missing-for-old-readers"], {"rope_parameters": {"rope_theta": 5e5} | TRAINED_BLOCK}),
    (["wrong-theta"], {"rope_theta": 1e4, "rope_scaling": TRAINED_BLOCK, "rope_parameters": {"rope_theta": 1e4} | TRAINED_BLOCK}),
])  # fmt: skip
def test_config_faults_of_a_model_with_scaling(scaled, tmp_path, faults, expected):
    broken(scaled, tmp_path / "out", faults, say=quiet)
    assert rope_of(tmp_path / "out") == expected


OLD_STYLE = {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": ...}
NEW_STYLE = {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
WITHIN_SCALING = {"rope_theta": ..., "rope_scaling": {"rope_theta": 5e5} | TRAINED_BLOCK, "rope_parameters": ...}


@pytest.mark.parametrize(("style", "fault", "expected"), [
    (OLD_STYLE, "wrong-theta", {"rope_theta": 1e4, "rope_scaling": None}),
    (OLD_STYLE, "theta-missing", {"rope_scaling": None}),
    (OLD_STYLE, "theta-missing-for-old-readers", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    (OLD_STYLE, "spurious-scaling", {"rope_theta": 5e5, "rope_scaling": BLOCK}),
    (NEW_STYLE, "wrong-theta", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
    (NEW_STYLE, "theta-missing", {}),
    (NEW_STYLE, "spurious-scaling", {"rope_parameters": {"rope_theta": 5e5} | BLOCK}),  # rope_scaling would hide θ
    (WITHIN_SCALING, "wrong-theta", {"rope_scaling": {"rope_theta": 1e4} | TRAINED_BLOCK}),
    (WITHIN_SCALING, "theta-missing", {"rope_scaling": TRAINED_BLOCK}),
    (WITHIN_SCALING, "missing-scaling", {"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}}),
])  # fmt: skip
def test_a_config_in_one_style_gets_the_one_fault_alone(sound, tmp_path, style, fault, expected):
    broken(edited(sound, tmp_path / "model", **style), tmp_path / "out", [fault], say=quiet)
    assert rope_of(tmp_path / "out") == expected


def test_a_model_with_ten_thousand_gets_the_other_theta_and_a_word_when_it_is_dropped(tmp_path):
    model, said = save(tmp_path / "model", rope=Rope(theta=1e4)), []
    broken(model, tmp_path / "wrong", ["wrong-theta"], say=quiet)
    assert rope_of(tmp_path / "wrong")["rope_theta"] == 5e5
    broken(model, tmp_path / "gone", ["theta-missing"], say=said.append)
    assert any("10000" in line and "readers take" in line for line in said)


@pytest.mark.parametrize("fields", [
    {}, OLD_STYLE, NEW_STYLE, WITHIN_SCALING,
    {"rope_theta": 1e4}, {"rope_theta": ..., "rope_parameters": ...},
    {"rope_theta": ..., "rope_scaling": TRAINED_BLOCK},  # rope_parameters has a θ that nobody reads
    {"rope_theta": ..., "rope_scaling": {}, "rope_parameters": {"rope_theta": 7e5}},
    {"rope_theta": 5e5, "rope_scaling": BLOCK, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_theta": 1e4} | BLOCK},
])  # fmt: skip
def test_transformers_reads_what_written_says(sound, tmp_path, fields):
    agrees_with_transformers(edited(sound, tmp_path / "model", **fields))


@pytest.mark.parametrize("fault", [f for f in FAULTS if "theta" in f or "scaling" in f])
def test_transformers_reads_broken_directories_as_written_says(sound, scaled, tmp_path, fault):
    broken(scaled if fault == "missing-scaling" else sound, tmp_path / "out", [fault], say=quiet)
    agrees_with_transformers(tmp_path / "out")


def agrees_with_transformers(path):
    from transformers import AutoConfig

    read, found = AutoConfig.from_pretrained(path).rope_parameters, directory.open_directory(path).written
    assert read["rope_theta"] == (found.new_theta or directory.READERS_DEFAULT_THETA)
    expected = {"rope_type": "default"} if found.new_scaling is None else {"rope_type": "llama3"} | dataclasses.asdict(found.new_scaling)
    assert {k: v for k, v in read.items() if k != "rope_theta"} == expected


# ── what each fault does to the weights ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("faults", "q", "k"), [
    (["interleaved-layout"], True, True), (["q-permuted"], True, False), (["k-permuted"], False, True), (["theta-missing"], False, False),
])  # fmt: skip
def test_row_faults_interleave_the_rows_and_nothing_else(sound, tmp_path, config, faults, q, k):
    broken(sound, tmp_path / "out", faults, say=quiet)
    before, after = hf_weights.Tensors(sound), hf_weights.Tensors(tmp_path / "out")
    changed = {"q_proj": (q, config.num_attention_heads), "k_proj": (k, config.num_key_value_heads)}
    for name, info in before.info.items():
        permuted, heads = changed.get(name.split(".")[-2], (False, 1))
        expected = interleave_rows(before.read(name), heads) if permuted else before.read(name)
        np.testing.assert_array_equal(after.read(name), expected)
        assert after.info[name].dtype == info.dtype


def test_the_wrong_head_count_is_the_converters_own_mistake(sound, tmp_path, config):
    broken(sound, tmp_path / "out", ["k-wrong-head-count", "q-permuted"], say=quiet)
    for layer in range(config.num_hidden_layers):
        meta = interleave_rows(tensor(sound, K.format(layer)), config.num_key_value_heads)  # as in Meta's checkpoint
        rows, width = meta.shape
        heads = config.num_attention_heads  # convert_llama_weights_to_hf's permute, left at its default for k
        expected = meta.reshape(heads, rows // heads // 2, 2, width).transpose(0, 2, 1, 3).reshape(rows, width)
        np.testing.assert_array_equal(tensor(tmp_path / "out", K.format(layer)), expected)


COMBINATIONS = [
    (["interleaved-layout"], Layout(q="interleaved", k="interleaved")),
    (["q-permuted"], Layout(q="interleaved")),
    (["k-permuted", "theta-missing"], Layout(k="interleaved")),
    (["k-wrong-head-count", "q-permuted", "wrong-theta"], Layout(q="interleaved", k="wrong-head-count")),
    (["spurious-scaling", "interleaved-layout", "theta-missing-for-old-readers"], Layout(q="interleaved", k="interleaved")),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "shard_bytes"), [
    ("bfloat16", 30_000), ("bfloat16", 5_000_000_000), ("float16", 30_000), ("float32", 5_000_000_000),
])  # fmt: skip
@pytest.mark.parametrize(("faults", "layout"), COMBINATIONS)
def test_repair_gives_the_files_back_byte_for_byte(tmp_path, faults, layout, dtype, shard_bytes):
    model = save(tmp_path / "model", dtype=dtype, shard_bytes=shard_bytes)
    broken(model, tmp_path / "broken", faults, say=quiet)
    assert contents(tmp_path / "broken", "*.safetensors") != contents(model, "*.safetensors")
    made = repaired(tmp_path / "broken", tmp_path / "repaired", theta=5e5, scaling=None, layout=layout, say=quiet)
    originals, again = contents(model), contents(tmp_path / "repaired")
    originals.pop("config.json"), again.pop("config.json")
    assert again == originals and (hf_weights.INDEX in again) == (shard_bytes == 30_000)
    assert hf_weights.read_json(tmp_path / "repaired") == hf_weights.read_json(model)
    assert made.facts == {"theta": 5e5, "scaling": None, "layout": dataclasses.asdict(layout)}


def test_repair_writes_a_scaling_under_both_key_styles(scaled, tmp_path):
    broken(scaled, tmp_path / "broken", ["missing-scaling", "theta-missing"], say=quiet)
    repaired(tmp_path / "broken", tmp_path / "out", theta=5e5, scaling=TRAINED, layout=Layout(), say=quiet)
    assert rope_of(tmp_path / "out") == rope_of(scaled) and contents(tmp_path / "out", "*.safetensors") == contents(scaled, "*.safetensors")


@pytest.mark.parametrize("layout", [Layout(q=q, k=k) for q, k in itertools.product(layouts.OF_Q, layouts.OF_K)])
def test_every_layout_is_undone(tmp_path, sound, config, layout):
    crooked = tmp_path / "crooked"
    shutil.copytree(sound, crooked)
    rewrite.permute(
        directory.open_directory(sound), crooked, {p: layouts.order(config, p, getattr(layout, p)) for p in ("q", "k")}, say=quiet
    )
    repaired(crooked, tmp_path / "out", theta=5e5, scaling=None, layout=layout, say=quiet)
    assert contents(tmp_path / "out") == contents(sound)


def test_a_repaired_copy_that_is_not_as_asked_gets_no_name(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(rewrite, "permute", lambda *args, **kwargs: None)
    with pytest.raises(RuntimeError, match=r"layers\.0\.self_attn\.k_proj"):
        repaired(sound, tmp_path / "out", theta=5e5, scaling=None, layout=Layout(k="interleaved"), say=quiet)
    assert not (tmp_path / "out").exists()


def test_sub_directories_and_other_formats_are_named(sound, tmp_path):
    model, said = tmp_path / "model", []
    shutil.copytree(sound, model)
    (model / "original").mkdir()
    (model / "pytorch_model.bin").write_bytes(b"old")
    (model / "link.txt").symlink_to(model / "tokenizer.json")
    broken(model, tmp_path / "out", ["q-permuted"], say=said.append)
    assert any("original" in line for line in said) and any("pytorch_model.bin" in line and "as they are" in line for line in said)
    assert not (tmp_path / "out/original").exists() and not (tmp_path / "out/link.txt").is_symlink()
    assert (tmp_path / "out/link.txt").read_bytes() == (model / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("faults", [
    ["wrong-theta", "spurious-scaling", "q-permuted"], ["theta-missing-for-old-readers", "spurious-scaling", "interleaved-layout"],
])  # fmt: skip
def test_the_order_of_the_names_does_not_matter(sound, tmp_path, faults):
    made = [broken(sound, tmp_path / str(i), order, say=quiet) for i, order in enumerate((faults, faults[::-1], faults[1:] + faults[:1]))]
    assert len({m.content for m in made}) == 1 and made[0].recipe == made[1].recipe == made[2].recipe


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("faults", "said"), [
    ([], "no fault is named; there are\n  wrong-theta: "),
    (["typo"], "there is no fault 'typo'; there are\n  wrong-theta: "),
    (["q-permuted", "q-permuted"], "q-permuted is named twice"),
    (["theta-missing", "wrong-theta"], "wrong-theta and theta-missing contradict each other: both decide θ;"),
    (["theta-missing", "theta-missing-for-old-readers"], "contradict each other: both decide what old readers find;"),
    (["interleaved-layout", "q-permuted"], "contradict each other: both decide the rows of q_proj;"),
    (["interleaved-layout", "k-wrong-head-count"], "contradict each other: both decide the rows of k_proj;"),
    (["k-permuted", "k-wrong-head-count"], "contradict each other: both decide the rows of k_proj;"),
    (["k-permuted", "q-permuted"], "together they are interleaved-layout"),
    (["spurious-scaling", "missing-scaling"], "contradict each other: both decide the scaling;"),
    (["missing-scaling"], "config.json: has no frequency scaling"),
])  # fmt: skip
def test_faults_that_make_no_sense_are_refused(sound, tmp_path, faults, said):
    with pytest.raises(InputError) as problem:
        broken(sound, tmp_path / "out", faults, say=quiet)
    assert said in str(problem.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("faults", "theta", "said"), [
    (["wrong-theta"], 5e5, "θ is 500000 already"), (["wrong-theta"], 1.0, "theta must be a number above 1, found 1.0"),
    (["wrong-theta"], float("inf"), "above 1, found inf"), (["theta-missing"], 1e4, "goes with the fault wrong-theta alone"),
])  # fmt: skip
def test_a_theta_that_makes_no_sense_is_refused(sound, tmp_path, faults, theta, said):
    with pytest.raises(InputError, match=said):
        broken(sound, tmp_path / "out", faults, theta=theta, say=quiet)


NO_THETA = {"rope_theta": ..., "rope_parameters": ...}


@pytest.mark.parametrize(("fields", "fault", "said"), [
    (NO_THETA, "wrong-theta", "readers find no θ, so none can be replaced; repair it first"),
    (NO_THETA, "theta-missing", "readers find no θ already"),
    (NO_THETA, "theta-missing-for-old-readers", "readers find no θ already"),
    (NEW_STYLE, "theta-missing-for-old-readers", "old readers find none already"),
    (WITHIN_SCALING, "theta-missing-for-old-readers", "old readers find none already"),
    ({"rope_theta": 1e4}, "q-permuted", r"rope_theta is 10000\.0, but rope_parameters\.rope_theta is 500000\.0: .*repair it first"),
    ({"rope_scaling": TRAINED_BLOCK}, "spurious-scaling", "has a frequency scaling"),
])  # fmt: skip
def test_what_a_directory_has_already_is_refused(sound, tmp_path, fields, fault, said):
    model = edited(sound, tmp_path / "model", **fields)
    with pytest.raises(InputError, match=said) as problem:
        broken(model, tmp_path / "out", [fault], say=quiet)
    assert str(model / "config.json") in str(problem.value)


@pytest.mark.parametrize(("shape", "fault", "said"), [
    ({"num_key_value_heads": 4}, "k-wrong-head-count", "4 heads each"),
    ({"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 4}, "k-wrong-head-count", "8 rows of k_proj cannot be cut into 8"),
    ({"head_dim": 2}, "interleaved-layout", "head_dim is 2, and interleaved-layout then leaves the rows where they are"),
])  # fmt: skip
def test_rows_that_cannot_be_so_are_refused(tmp_path, shape, fault, said):
    with pytest.raises(InputError, match=said):
        broken(save(tmp_path / "model", **shape), tmp_path / "out", [fault], say=quiet)


def test_a_missing_scaling_does_not_need_theta(scaled, tmp_path):
    model = edited(scaled, tmp_path / "model", rope_theta=..., rope_parameters=TRAINED_BLOCK)
    broken(model, tmp_path / "out", ["missing-scaling"], say=quiet)
    assert rope_of(tmp_path / "out") == {"rope_scaling": None, "rope_parameters": {"rope_type": "default"}}


# ── two uploads compared ─────────────────────────────────────────────────────────────────────────────────────────


def compared(old, new) -> dict:
    answer = compare(old, new, say=quiet)
    return json.loads(json.dumps(answer, allow_nan=False))  # plain JSON


def test_a_copy_is_identical_however_it_is_sharded(sound, tmp_path):
    answer = compared(sound, save(tmp_path / "other"))
    assert answer["verdict"] == "identical" and answer["sentence"] == "Same weights; same config.json."
    assert answer["config"] == {} and answer["dtype"] is None and answer["other_tensors"] == []
    assert answer["tensors"] == {"equal": len(hf_weights.Tensors(sound).info), "permuted": 0, "other": 0}
    assert answer["theta"]["old"] == {"transformers_4": 5e5, "transformers_5": 5e5}


def test_another_theta_is_read_in_the_config(sound, tmp_path):
    broken(sound, tmp_path / "old", ["wrong-theta"], say=quiet)
    answer = compared(tmp_path / "old", sound)
    assert answer["verdict"] == "config" and answer["config"]["rope_theta"] == [1e4, 5e5]
    assert answer["sentence"] == "Same weights; config.json: rope_theta 10000 → 500000, rope_parameters.rope_theta 10000 → 500000."


def test_an_absent_theta_and_a_lost_scaling_are_compared(scaled, tmp_path):
    broken(scaled, tmp_path / "old", ["theta-missing", "missing-scaling"], say=quiet)
    answer = compared(tmp_path / "old", scaled)
    assert answer["verdict"] == "config" and "rope_theta absent → 500000" in answer["sentence"]
    assert answer["theta"]["old"] == {"transformers_4": None, "transformers_5": None}
    assert answer["scaling"]["old"]["transformers_5"] is None and answer["scaling"]["new"]["transformers_4"] == dataclasses.asdict(TRAINED)


def test_fields_that_are_not_about_rope_are_compared_too(sound, tmp_path):
    answer = compared(sound, edited(sound, tmp_path / "new", their_field=7, max_position_embeddings=8192))
    assert answer["verdict"] == "config" and answer["config"] == {
        "their_field": [{"kept": [1, "한국어"]}, 7], "max_position_embeddings": [4096, 8192],
    }  # fmt: skip
    assert answer["sentence"].endswith("(RoPE reads as before).")


@pytest.mark.parametrize(("faults", "moves"), [
    (["interleaved-layout"], {"q": "interleaved → half-split", "k": "interleaved → half-split"}),
    (["q-permuted"], {"q": "interleaved → half-split"}),
    (["k-wrong-head-count", "q-permuted"], {"q": "interleaved → half-split", "k": "wrong-head-count → half-split"}),
])  # fmt: skip
def test_moved_rows_are_found_and_named(sound, tmp_path, faults, moves):
    broken(sound, tmp_path / "old", [*faults, "wrong-theta"], say=quiet)
    answer = compared(tmp_path / "old", sound)
    assert answer["verdict"] == "rows-permuted" and answer["layout_old_to_new"] == moves
    assert answer["tensors"]["permuted"] == 3 * len(moves) and answer["tensors"]["other"] == 0
    assert answer["config"]["rope_theta"] == [1e4, 5e5]
    assert "rows of q_proj interleaved → half-split" in answer["sentence"] and "rope_theta 10000 → 500000" in answer["sentence"]


@pytest.mark.parametrize(("old", "new"), [p for p in itertools.permutations(layouts.OF_K, 2)])
def test_every_move_between_layouts_of_k_is_found(sound, tmp_path, config, old, new):
    for name in (old, new):
        shutil.copytree(sound, tmp_path / name)
        rewrite.permute(directory.open_directory(sound), tmp_path / name, {"k": layouts.order(config, "k", name)}, say=quiet)
    answer = compared(tmp_path / old, tmp_path / new)
    named = [answer["layout_old_to_new"]["k"], *answer["layout_alternatives"].get("k", [])]
    assert answer["verdict"] == "rows-permuted" and f"{old} → {new}" in named
    assert named[0].endswith("→ half-split") or not any(pair.endswith("→ half-split") for pair in named)


def test_what_the_weights_cannot_tell_apart_is_said(sound, tmp_path):
    """Interleaving sound rows and undoing a second split are the same move."""
    broken(sound, tmp_path / "new", ["q-permuted"], say=quiet)
    answer = compared(sound, tmp_path / "new")
    assert answer["layout_old_to_new"] == {"q": "permuted-twice → half-split"}
    assert answer["layout_alternatives"] == {"q": ["half-split → interleaved"]}
    assert "permuted-twice → half-split (or half-split → interleaved)" in answer["sentence"]


def test_other_weights_are_counted_and_measured(sound, tmp_path, config):
    weights = parameters()
    weights["layers"]["mlp"] = jax.tree.map(lambda x: x * 1.5, weights["layers"]["mlp"])
    (tmp_path / "new").mkdir()
    hf_weights.save(tmp_path / "new", config, weights, dtype="bfloat16")
    answer = compared(sound, tmp_path / "new")
    assert answer["verdict"] == "retrained" and answer["tensors"]["other"] == 9
    assert answer["relative_change"] == pytest.approx({"norm": 0, "attention": 0, "mlp": 0.5, "embed": 0}, abs=1e-3)
    assert f"9 of {len(hf_weights.Tensors(sound).info)} tensors differ" in answer["sentence"]


def test_rows_that_move_in_one_layer_alone_are_other_weights(sound, tmp_path, config):
    new = tmp_path / "new"
    shutil.copytree(sound, new)
    one = dataclasses.replace(directory.open_directory(sound), config=dataclasses.replace(config, num_hidden_layers=1))
    rewrite.permute(one, new, {"q": layouts.order(config, "q", "interleaved")}, say=quiet)
    answer = compared(sound, new)
    assert answer["verdict"] == "retrained" and answer["layout_old_to_new"] == {} and answer["tensors"]["other"] == 1


def test_rows_moved_among_other_changes_are_told_from_them(sound, tmp_path, config):
    broken(sound, tmp_path / "old", ["k-permuted"], say=quiet)
    weights = parameters()
    weights["norm"] *= 2
    (tmp_path / "new").mkdir()
    hf_weights.save(tmp_path / "new", config, weights, dtype="bfloat16")
    answer = compared(tmp_path / "old", tmp_path / "new")
    assert answer["verdict"] == "retrained" and answer["tensors"]["permuted"] == 3 and answer["tensors"]["other"] == 1
    assert answer["layout_old_to_new"] == {"k": "interleaved → half-split"} and answer["relative_change"]["attention"] == 0


def test_another_shape_is_another_model(sound, tmp_path):
    answer = compared(sound, save(tmp_path / "new", vocab_size=176, num_hidden_layers=4))
    assert answer["verdict"] == "other-model" and answer["tensors"] is None and len(answer["other_tensors"]) == 5
    assert answer["other_tensors"][0] == "model.embed_tokens.weight: [160, 48] → [176, 48]"
    assert any(line.endswith("only in new") for line in answer["other_tensors"])
    assert answer["sentence"].startswith("Another model: ") and answer["config"]["vocab_size"] == [160, 176]


@pytest.mark.parametrize(("old", "new"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "bfloat16")])
@pytest.mark.parametrize("faults", [[], ["interleaved-layout"]])
def test_the_same_numbers_in_another_dtype_are_equal(tmp_path, old, new, faults):
    first = edit(save(tmp_path / "first", dtype=old), their_field=...)
    stored = jax.tree.map(np.asarray, hf_weights.load(first)[1])
    shutil.copytree(first, tmp_path / "again")
    hf_weights.save(tmp_path / "again", small_config(), stored, dtype=new)
    if faults:
        broken(first, tmp_path / "moved", faults, say=quiet)
        first = tmp_path / "moved"
    answer = compared(first, tmp_path / "again")
    assert answer["verdict"] == ("rows-permuted" if faults else "config") and answer["tensors"]["other"] == 0
    assert answer["dtype"] == [old, new] and f"stored as {old} → {new}" in answer["sentence"]


def test_nan_weights_equal_themselves(tmp_path, config):
    weights = parameters()
    weights["norm"][0] = np.nan
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        hf_weights.save(tmp_path / name, config, weights, dtype="bfloat16")
    assert compared(tmp_path / "old", tmp_path / "new")["verdict"] == "identical"
    weights["embed_tokens"][0] = np.nan
    hf_weights.save(tmp_path / "new", config, weights, dtype="bfloat16")
    answer = compared(tmp_path / "old", tmp_path / "new")
    assert answer["verdict"] == "retrained" and answer["relative_change"]["embed"] is None


def test_large_tensors_are_read_in_pieces(sound, tmp_path, monkeypatch):
    broken(sound, tmp_path / "new", ["q-permuted"], say=quiet)
    expected = compared(sound, tmp_path / "new")
    monkeypatch.setattr("openko.rope_lab.comparison.CHUNK", 200)
    assert compared(sound, tmp_path / "new") == expected


def test_the_published_scaling_is_llama_3_1s():
    assert {"rope_type": "llama3"} | dataclasses.asdict(LLAMA_3_1) == PUBLISHED


def test_a_context_of_8192_gets_the_published_scaling(sound, tmp_path):
    broken(edited(sound, tmp_path / "long", max_position_embeddings=8192), tmp_path / "out", ["spurious-scaling"], say=quiet)
    assert rope_of(tmp_path / "out")["rope_scaling"] == PUBLISHED
