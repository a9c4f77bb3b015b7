"""Hugging Face directories: what is read, what is written, what is refused and how it is said."""

import json
import struct
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from conftest import lively_parameters, small_config
from jax.sharding import Mesh

from openko import hf_weights, llama
from openko.errors import InputError
from openko.rope import Llama3Scaling, Rope
from openko.training.sharding import place_tree

SCALING = Llama3Scaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


@pytest.fixture
def model(tmp_path, config):
    hf_weights.save(tmp_path, config, lively_parameters(config), shard_bytes=30_000)
    return tmp_path


def edit_config(directory, **fields):
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    for name, value in fields.items():
        raw.pop(name, None) if value is ... else raw.update({name: value})
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("config", [
    small_config(), small_config(tie_word_embeddings=True, rms_norm_eps=1e-6, initializer_range=0.01),
    small_config(rope=Rope(theta=1e4, scaling=SCALING), max_position_embeddings=131_072),
])  # fmt: skip
def test_config_there_and_back_is_the_identity(config):
    carried = {"bos_token_id": 1, "eos_token_id": [2, 9], "torch_dtype": "bfloat16"}
    raw = hf_weights.config_to_hf(config, carried)
    again, carried_again = hf_weights.config_from_hf(raw)
    assert again == config and carried_again == carried | {"architectures": ["LlamaForCausalLM"]}
    assert hf_weights.config_to_hf(again, carried_again) == raw


def test_weights_there_and_back_are_the_identity(model, config):
    again, parameters = hf_weights.load(model)
    assert again == config and (model / hf_weights.INDEX).exists()
    jax.tree.map(np.testing.assert_array_equal, parameters, lively_parameters(config))


def test_the_published_config_of_llama_3_is_read():
    raw = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.40.0.dev0", "use_cache": True,
        "vocab_size": 128256,
    }  # fmt: skip
    from openko.profiles import MODELS

    assert hf_weights.config_from_hf(raw)[0] == MODELS["llama-3-8b"]


@pytest.mark.parametrize(("fields", "said"), [
    ({"sliding_window": 4096}, "sliding_window"),
    ({"attention_bias": True}, "attention_bias"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"model_type": "mistral"}, "model_type"),
    ({"hidden_size": ...}, "hidden_size"),
    ({"rope_theta": ..., "rope_parameters": ..., "rope_scaling": ...}, "rope_theta is missing"),
    ({"rope_theta": 1e4}, "one of them is wrong"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    ({"num_key_value_heads": 3}, "multiple"),
])  # fmt: skip
def test_configs_that_would_be_another_model_are_refused(model, fields, said):
    edit_config(model, **fields)
    with pytest.raises(InputError, match=said):
        hf_weights.load(model)


@pytest.mark.parametrize("gone", [{"rope_theta": ...}, {"rope_parameters": ...}])
def test_either_style_of_theta_is_enough(model, config, gone):
    edit_config(model, **gone)
    assert hf_weights.read_config(model)[0] == config


def test_a_known_theta_can_be_given_for_a_directory_that_lost_it(model):
    edit_config(model, rope_theta=..., rope_parameters=...)
    assert hf_weights.read_config(model, rope=Rope(theta=7e5))[0].rope.theta == 7e5


def test_a_tensor_of_another_shape_is_named(model):
    edit_config(model, intermediate_size=81)
    with pytest.raises(InputError, match=r"mlp\.\w+_proj\.weight has shape"):
        hf_weights.load(model)


def test_a_missing_and_a_truncated_shard_are_named(model):
    shard = sorted(model.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(InputError, match=shard.name):
        hf_weights.load(model)
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        hf_weights.load(model)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"head_dim": 32}], ids=str)
def test_names_and_shapes_are_those_of_the_model(changes):
    config = small_config(**changes)
    expected = {tuple(k.key for k in path): x.shape for path, x in jax.tree_util.tree_flatten_with_path(llama.abstract(config))[0]}
    found = {path: ((3, *shape) if path[0] == "layers" else shape) for path, shape in hf_weights.tensor_shapes(config).items()}
    assert found == expected and list(found) == list(hf_weights.tensor_names(config)) == list(expected)


def test_moving_weights_does_not_need_jax():
    code = "import sys, openko.hf_weights, openko.chat_vector; print({'jax', 'flax', 'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_every_tensor_lies_where_the_plan_and_the_header_say(model, config):
    planned = hf_weights.plan_files(
        model, [(name, np.dtype("float32"), shape) for _, name, shape in hf_weights._each(config)], shard_bytes=30_000
    )
    infos, parameters = hf_weights.Tensors(model).info, lively_parameters(config)
    assert [file.path for file in planned] == sorted(model.glob("*.safetensors"))
    assert {name: info for file in planned for name, info in file.tensors.items()} == infos
    for file in planned:
        content = file.path.read_bytes()
        assert len(content) == file.bytes and content.startswith(file.header)
    info = infos["model.norm.weight"]
    np.testing.assert_array_equal(np.fromfile(info.file, info.dtype, info.size, offset=info.start), parameters["norm"])


@pytest.mark.parametrize(("cut", "said"), [
    (lambda raw: raw[:-10], r"by its header it has [\d,]+ bytes, and there are [\d,]+\): is the download complete"),
    (lambda raw: raw[:50], r"the file has 50 bytes"),
    (lambda raw: raw[:5], r"download complete"),
    (lambda raw: b"\xff" * 8 + raw[8:], r"its header ends at byte"),
    (lambda raw: raw[:8] + b"x" + raw[9:], r"is it a safetensors file"),
    (lambda raw: b"<!doctype html>" + raw, r"is it a safetensors file"),
    (lambda raw: raw.replace(b"[48]", b"[47]", 1), r"192 bytes for tensor \S+, F32 \[47\].*is it a safetensors file"),
    (lambda raw: raw + b"x" * 9, r"by its header it has [\d,]+ bytes, and there are [\d,]+: 9 belong to no tensor\): is it a safe"),
])  # fmt: skip
def test_a_damaged_file_says_what_it_should_hold(model, cut, said):
    shard = sorted(model.glob("*.safetensors"))[1]
    shard.write_bytes(cut(shard.read_bytes()))
    with pytest.raises(InputError, match=rf"{shard.name} cannot be read as safetensors.*{said}"):
        hf_weights.Tensors(model)


@pytest.mark.parametrize(("changes", "said"), [
    ({}, None),
    ({"c": [[0], [12, 12]]}, None),  # a tensor without numbers takes no place
    ({"b": [[1], [8, 12]], "size": 12}, r"tensor b begins at byte 8 of the data, and the one before ends at 4: a gap"),
    ({"a": [[1], [4, 8]], "b": [[1], [8, 12]]}, r"tensor a begins at byte 4 of the data, and the one before ends at 0: a gap"),
    ({"b": [[1], [0, 4]]}, r"tensor b begins at byte 0 .* ends at 4: two tensors in one place"),
    ({"a": [[3], [0, 12]]}, r"tensor b begins at byte 4 .* ends at 12: two tensors in one place"),
    ({"a": [[1], [-4, 0]]}, r"tensor a has the offsets \[-4, 0\]"),
    ({"a": [[1], [0.0, 4.0]]}, r"tensor a has the offsets \[0\.0, 4\.0\]"),
    ({"a": [[1], [0, True]]}, r"tensor a has the offsets \[0, True\]"),
    ({"a": [[1], [4, 0]]}, r"tensor a has the offsets \[4, 0\]"),
    ({"a": [[1], [0, 4, 8]]}, r"tensor a has the offsets"),
    ({"a": [[-1, -1], [0, 4]]}, r"tensor a has the shape"),
    ({"a": [[1.0], [0, 4]]}, r"tensor a has the shape"),
    ({"a": [[2], [0, 4]]}, r"4 bytes for tensor a, F32 \[2\]"),
    ({"size": 11}, r"by its header it has \d+ bytes, and there are \d+\): is the download complete\?"),
    ({"size": 13}, r"1 belong to no tensor\): is it a safetensors file\?"),
])  # fmt: skip
def test_the_tensors_of_a_file_fill_it_without_gap_or_overlap(tmp_path, changes, said):
    """As the format's specification asks; a [1], b [2] of fp32 in 12 bytes is right."""
    found = {"a": [[1], [0, 4]], "b": [[2], [4, 12]], "size": 12} | changes
    size = found.pop("size")
    text = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": place} for name, (shape, place) in found.items()}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    if said is None:
        assert hf_weights.header(path)[0] == 8 + len(text)
        return
    with pytest.raises(InputError, match=rf"model\.safetensors cannot be read as safetensors.*{said}"):
        hf_weights.header(path)


@pytest.mark.parametrize(("text", "size"), [
    ("5GB", 5_000_000_000), ("500MB", 500_000_000), ("1.5 kb", 1500), ("2GiB", 2 << 30), ("7", 7), ("1T", 10**12),
])  # fmt: skip
def test_sizes_are_read_as_transformers_reads_them(text, size):
    assert hf_weights.bytes_from(text) == size


@pytest.mark.parametrize("text", ["", "big", "-5GB", "0GB", "5 apples"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="not a number of bytes"):
        hf_weights.bytes_from(text)


def test_missing_directories_and_foreign_formats_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        hf_weights.Tensors(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match=r"neither model\.safetensors .* but pytorch_model\.bin: .*save_pretrained"):
        hf_weights.Tensors(tmp_path)


def test_a_tied_model_may_repeat_its_embedding_but_not_contradict_it(tmp_path):
    config = small_config(tie_word_embeddings=False)
    parameters = lively_parameters(config)
    hf_weights.save(tmp_path, config, parameters)
    edit_config(tmp_path, tie_word_embeddings=True)
    with pytest.raises(InputError, match="lm_head"):
        hf_weights.load(tmp_path)
    hf_weights.save(tmp_path, config, parameters | {"lm_head": parameters["embed_tokens"]})
    edit_config(tmp_path, tie_word_embeddings=True)
    assert "lm_head" not in hf_weights.load(tmp_path)[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_repeated_embedding_is_compared_in_pieces_and_not_mapped(tmp_path, monkeypatch, dtype):
    """A memory map of both counts as memory: twice the largest matrix of the model."""
    config = small_config(tie_word_embeddings=False)
    parameters = lively_parameters(config)
    monkeypatch.setattr(hf_weights, "PIECE", 1000)  # the last piece is not whole
    monkeypatch.setattr(hf_weights.Tensors, "read", lambda *_: pytest.fail("mapped"))
    tied = small_config(tie_word_embeddings=True)
    other = np.array(parameters["embed_tokens"])
    hf_weights.save(tmp_path, config, parameters | {"lm_head": other}, dtype=dtype)
    assert "lm_head.weight" not in hf_weights.check_tensors(hf_weights.Tensors(tmp_path), tied)
    other[-1, -1] += 1
    hf_weights.save(tmp_path, config, parameters | {"lm_head": other}, dtype=dtype)
    with pytest.raises(InputError, match="lm_head"):
        hf_weights.check_tensors(hf_weights.Tensors(tmp_path), tied)


def test_interleaved_models_are_not_exported_as_half_split(tmp_path):
    config = small_config(rope=Rope(theta=5e5, layout="interleaved"))
    with pytest.raises(InputError, match="half-split"):
        hf_weights.save(tmp_path, config, lively_parameters(config))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_saving_in_half_precision_rounds_once(tmp_path, config, dtype):
    parameters = lively_parameters(config)
    hf_weights.save(tmp_path, config, parameters, dtype=dtype)
    stored = hf_weights.load(tmp_path)[1]["layers"]["mlp"]["up_proj"]
    expected = np.asarray(parameters["layers"]["mlp"]["up_proj"]).astype(getattr(ml_dtypes, dtype, dtype))
    np.testing.assert_array_equal(np.asarray(stored), expected)


def test_each_device_reads_only_its_slices(model, config, monkeypatch):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(1, 2, 2), ("data", "fsdp", "tensor"))
    shardings = place_tree(mesh, llama.logical_axes(config), llama.abstract(config))
    read, plain = [], hf_weights.Tensors.read
    monkeypatch.setattr(
        hf_weights.Tensors, "read", lambda self, name, index=slice(None): read.append((name, index)) or plain(self, name, index)
    )
    _, parameters = hf_weights.load(model, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, parameters, lively_parameters(config))
    q_parts = [index for name, index in read if name == "model.layers.0.self_attn.q_proj.weight"]
    assert len(q_parts) == 4  # one for each device, a quarter of [64, 48] each
    assert all((rows.stop - rows.start, columns.stop - columns.start) == (32, 24) for rows, columns in q_parts)
