"""target + λ (chat − base): exact to one rounding, and never a silent mistake."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import lively_parameters, small_config

from openko import chat_vector, hf_weights, manifest, tokenizers
from openko.errors import InputError
from openko.hf_weights import Tensors
from openko.profiles import VectorScale


@pytest.fixture
def three(tmp_path, config):
    """base, chat and target directories, in three dtypes and three shardings."""
    base = lively_parameters(config, 0)
    moved = {
        name: jax.tree.map(lambda b, d: b + 0.05 * d, base, lively_parameters(config, seed)) for name, seed in (("chat", 1), ("target", 2))
    }
    for (name, parameters), dtype, shard in zip(
        {"base": base, **moved}.items(), ("float32", "float16", "bfloat16"), (10**9, 30_000, 50_000), strict=True
    ):
        (tmp_path / name).mkdir()
        ends = {"bos_token_id": 0, "eos_token_id": 1}
        hf_weights.save(tmp_path / name, config, parameters, dtype=dtype, shard_bytes=shard, carried=ends)
    (tmp_path / "chat" / "chat_template.jinja").write_text("{{ messages }}")
    # As Meta published Llama-3-Instruct: the second end token is in generation_config.json alone.
    (tmp_path / "chat" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 9], "temperature": 0.6}))
    return {name: tmp_path / name for name in ("target", "base", "chat")}


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.0])
def test_equals_the_fp32_sum_rounded_once(tmp_path, three, scale, monkeypatch):
    monkeypatch.setattr(chat_vector, "CHUNK", 500)  # several chunks for each matrix
    chat_vector.merge(tmp_path / "out", **three, scale=scale)
    models, merged = {name: Tensors(path) for name, path in three.items()}, Tensors(tmp_path / "out")
    for name in merged.info:
        t, b, c = (models[m].read(name).astype(np.float32) for m in ("target", "base", "chat"))
        expected = (t + np.float32(scale) * (c - b)).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(merged.read(name), expected)


PARTS = VectorScale(attention=0.5, mlp=2.0, norm=0.25, embed=0.0, special="transplant")
SHARES = {"self_attn": 0.5, "mlp": 2.0, "norm": 0.25, "embed_tokens": 0.0, "lm_head": 0.0}


@pytest.fixture
def with_special_tokens(monkeypatch):
    """The chat directory's tokenizer: special tokens 157 to 159 of 160; documents end with 158, in every model."""
    special = {"<|start_header_id|>": 157, "<|end_of_text|>": 158, "<|eot_id|>": 159}
    monkeypatch.setattr(tokenizers, "load", lambda _: SimpleNamespace(special=special))


def test_each_part_takes_its_share_and_special_rows_are_the_chat_models(tmp_path, three, with_special_tokens, monkeypatch):
    monkeypatch.setattr(chat_vector, "CHUNK", 500)  # the special rows lie in the last of many chunks
    made = chat_vector.merge(tmp_path / "out", **three, scale=1.5, parts=PARTS)
    assert made.recipe["parts"]["special"] == "transplant"
    models, merged = {name: Tensors(path) for name, path in three.items()}, Tensors(tmp_path / "out")
    for name in merged.info:
        t, b, c = (models[m].read(name).astype(np.float32) for m in ("target", "base", "chat"))
        share = next(share for mark, share in SHARES.items() if mark in name)
        expected = t + np.float32(1.5 * share) * (c - b)
        if share == 0.0:
            expected[[157, 159]] = c[[157, 159]]
        np.testing.assert_array_equal(merged.read(name), expected.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("parts", [VectorScale(), PARTS], ids=["whole", "by part"])
def test_the_sum_in_memory_is_the_sum_on_disk(tmp_path, three, with_special_tokens, parts):
    chat_vector.merge(tmp_path / "out", **three, scale=0.7, parts=parts)
    trees = {name: hf_weights.load(path)[1] for name, path in three.items()}
    found = chat_vector.add(**trees, scale=0.7, parts=parts, special=chat_vector.special_rows(three["chat"], parts))
    written = hf_weights.load(tmp_path / "out")[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(ml_dtypes.bfloat16), b), found, written)


def test_parts_are_read_from_assignments():
    assert chat_vector.parts_from(["attention=0.5", "embed=0"], "transplant") == VectorScale(attention=0.5, embed=0.0, special="transplant")
    assert chat_vector.parts_from([]) == VectorScale()
    with pytest.raises(InputError, match="heads=1"):
        chat_vector.parts_from(["heads=1"])
    with pytest.raises(InputError, match="share of mlp must be a number, found 'much'"):
        chat_vector.parts_from(["mlp=much"])


def test_another_way_with_special_tokens_is_refused(tmp_path, three):
    with pytest.raises(InputError, match="found 'keep'"):
        chat_vector.merge(tmp_path / "out", **three, parts=VectorScale(special="keep"))
    assert not (tmp_path / "out").exists()


def test_template_and_end_tokens_come_from_the_chat_model(tmp_path, three):
    chat_vector.merge(tmp_path / "out", **three)
    assert (tmp_path / "out" / "chat_template.jinja").exists()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [1, 9], "temperature": 0.6}
    assert hf_weights.read_config(tmp_path / "out")[0] == hf_weights.read_config(three["target"])[0]


def test_the_manifest_names_inputs_scale_and_norms(tmp_path, three, config):
    made = chat_vector.merge(tmp_path / "out", **three, scale=0.5)
    assert made.recipe["scale"] == 0.5 and set(made.inputs) == {"target", "base", "chat"}
    models = {name: hf_weights.load(path)[1] for name, path in three.items()}
    vector = jax.tree.map(lambda c, b: c.astype(jnp.float32) - b, models["chat"], models["base"])
    norm = np.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(vector)))
    np.testing.assert_allclose(made.facts["vector_norm"], norm, rtol=1e-5)
    assert manifest.verify(tmp_path / "out").content == made.content


def test_another_vocabulary_is_an_error_that_shows_both(tmp_path, three):
    larger = small_config(vocab_size=164)
    hf_weights.save(three["chat"], larger, lively_parameters(larger))
    for path in three["chat"].glob("model-*"):
        path.unlink()
    (three["chat"] / hf_weights.INDEX).unlink()
    with pytest.raises(InputError, match=r"\(160, 48\).*\(164, 48\)"):
        chat_vector.merge(tmp_path / "out", **three)
    assert not (tmp_path / "out").exists()


def test_other_layer_counts_are_an_error(tmp_path, three):
    deeper = small_config(num_hidden_layers=4)
    hf_weights.save(three["base"], deeper, lively_parameters(deeper))
    with pytest.raises(InputError, match="other layers"):
        chat_vector.merge(tmp_path / "out", **three)


def test_nan_is_found_and_named(tmp_path, three, config):
    parameters = lively_parameters(config)
    parameters["norm"] = parameters["norm"].at[3].set(jnp.nan)
    hf_weights.save(three["base"], config, parameters)
    with pytest.raises(InputError, match=r"model.norm.weight.*base"):
        chat_vector.merge(tmp_path / "out", **three)
    assert not (tmp_path / "out").exists()
