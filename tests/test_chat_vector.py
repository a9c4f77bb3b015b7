"""target + λ (chat − base): exact to one rounding, and never a silent mistake."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import psutil
import pytest
from conftest import small_config
from safetensors import safe_open
from typer.testing import CliRunner

from openko import chat_vector, cli, hf_weights, manifest, tokenizers
from openko.chat_vector import arithmetic, merging, streaming
from openko.errors import InputError
from openko.hf_weights import Tensors
from openko.profiles import VectorScale
from openko.rope import Rope

ROLES = ("target", "base", "chat")
SHARE_OF = {"self_attn": "attention", "mlp": "mlp", "norm": "norm", "embed_tokens": "embed", "lm_head": "embed"}


def lively(config, seed):
    """Parameters as openko.llama's, far from their start."""
    draw, tree = np.random.default_rng(seed), {}
    for path, shape in hf_weights.tensor_shapes(config).items():
        stacked = (config.num_hidden_layers, *shape) if path[0] == "layers" else shape
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = np.float32("norm" in path[-1]) + 0.1 * draw.standard_normal(stacked, np.float32)
    return tree


def moved(base, seed, size=0.05):
    """`base` after more training."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + np.float32(size) * 0.1 * draw.standard_normal(x.shape, np.float32), base)


def write(directory, config, parameters, dtype="float32", shard_bytes=10**9):
    directory.mkdir(exist_ok=True)
    hf_weights.save(directory, config, parameters, dtype=dtype, shard_bytes=shard_bytes, carried={"bos_token_id": 0, "eos_token_id": 1})


def write_three(tmp_path, config, dtypes=("bfloat16", "float32", "float16")):
    """target, base and chat directories in three dtypes and three shardings."""
    base = lively(config, 0)
    found = {"target": moved(base, 2), "base": base, "chat": moved(base, 1)}
    for role, dtype, shard in zip(ROLES, dtypes, (50_000, 10**9, 30_000), strict=True):
        write(tmp_path / role, config, found[role], dtype, shard)
    (tmp_path / "chat" / "chat_template.jinja").write_text("{{ messages }}")
    # As Meta published Llama-3-Instruct: the second end token is in generation_config.json alone.
    (tmp_path / "chat" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 9], "temperature": 0.6}))
    return {role: tmp_path / role for role in ROLES}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_three(tmp_path_factory.mktemp("sound"), small_config())


@pytest.fixture
def three(tmp_path, sound):
    """target, base and chat directories, to be changed at will."""
    for role, path in sound.items():
        shutil.copytree(path, tmp_path / role)
    return {role: tmp_path / role for role in ROLES}


@pytest.fixture
def with_special_tokens(monkeypatch):
    """The chat directory's tokenizer: special tokens 157 to 159 of 160; documents end with 158, in every model."""
    special = {"<|start_header_id|>": 157, "<|end_of_text|>": 158, "<|eot_id|>": 159}
    monkeypatch.setattr(tokenizers, "load", lambda _: SimpleNamespace(special=special))


@pytest.fixture
def merge(tmp_path, three):
    """`chat_vector.merge` of the three into `out`, and what it said."""

    def run(out="out", **settings):
        said = []
        made = chat_vector.merge(tmp_path / out, **three | {"say": said.append} | settings)
        return SimpleNamespace(path=tmp_path / out, facts=made.facts, files=made.files, recipe=made.recipe, said=said)

    return run


def wide(directories, name):
    """A tensor of target, base and chat in fp32."""
    return (Tensors(path).read(name).astype(np.float32) for path in directories.values())


def assert_is_sum(directories, out, lambdas, dtype=ml_dtypes.bfloat16):
    """Every tensor of `out` is the fp32 sum, rounded once; lambdas: {part: λ}."""
    merged = Tensors(out)
    for name, info in merged.info.items():
        t, b, c = wide(directories, name)
        scale = next(lambdas[part] for mark, part in SHARE_OF.items() if mark in name)
        expected = (t + np.float32(scale) * (c - b)).astype(dtype)
        assert info.dtype == dtype
        np.testing.assert_array_equal(merged.read(name), expected, err_msg=name)


def alike(scale):
    return dict.fromkeys(hf_weights.PARTS, scale)


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("scale", "block"), [(1.0, 500), (0.7, 500), (0.0, 500), (0.7, 48), (-1.0, 1 << 18), (0.7, 1 << 18)])
def test_equals_the_fp32_sum_rounded_once(merge, three, scale, block, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", block)  # several blocks for each matrix, that end within rows, at rows, nowhere
    assert_is_sum(three, merge(scale=scale).path, alike(scale))


@pytest.mark.parametrize(
    "dtypes", [("float16", "bfloat16", "float32"), ("float32", "float16", "bfloat16"), ("bfloat16",) * 3], ids=" ".join
)
def test_equals_the_fp32_sum_in_every_dtype(tmp_path, config, dtypes):
    three = write_three(tmp_path, config, dtypes)
    chat_vector.merge(tmp_path / "out", **three, scale=0.7, workers=3)
    assert_is_sum(three, tmp_path / "out", alike(0.7), np.dtype(getattr(ml_dtypes, dtypes[0], dtypes[0])))


def test_nothing_is_rounded_but_the_result():
    """Odd sizes, and a sum whose λ (c − b) lies below a step of t."""
    draw = np.random.default_rng(0)
    for size in (1, 7, 8191, 8192, 8193, 20_000):
        t, b, c = draw.standard_normal((3, size), np.float32)
        summed, squares = arithmetic.Adder(20_000)(t, b, c, 0.001)
        np.testing.assert_array_equal(summed, t + np.float32(0.001) * (c - b))
        wide = [x.astype(np.float64) for x in (c - b, b, t - b, t)]
        np.testing.assert_allclose(squares, [np.vdot(x, x) for x in wide], rtol=1e-5)


def test_every_half_is_widened_as_numpy_does():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    found = np.empty(len(halves), np.float32)
    arithmetic.widen(halves, found)
    np.testing.assert_array_equal(found, halves.astype(np.float32))


PARTS = VectorScale(attention=0.5, mlp=2.0, norm=0.25, embed=0.5, special="transplant")


def test_each_part_takes_its_share(merge, three):
    made = merge(scale=1.5, parts=dataclasses.replace(PARTS, special="merge"))
    lambdas = {"attention": 0.75, "mlp": 3.0, "norm": 0.375, "embed": 0.75}
    assert made.recipe["scale"] == lambdas and made.recipe["special"] == "merge"
    assert_is_sum(three, made.path, lambdas)


@pytest.mark.parametrize("block", [500, 1 << 18])
@pytest.mark.parametrize(("special", "source"), [("merge", None), ("transplant", "chat"), ("keep", "target")])
def test_rows_of_the_chat_formats_tokens(merge, three, with_special_tokens, monkeypatch, special, source, block):
    monkeypatch.setattr(streaming, "BLOCK", block)  # the rows lie in the last of many blocks
    merged = Tensors(merge(parts=VectorScale(embed=0.5, special=special)).path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        t, b, c = wide(three, name)
        expected = t + np.float32(0.5) * (c - b)
        if source:
            expected[[157, 159]] = {"chat": c, "target": t}[source][[157, 159]]  # 158 ends documents: as the rest
        np.testing.assert_array_equal(merged.read(name), expected.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("block", [500, 1 << 18])
def test_damping_spares_what_the_target_moved_most(merge, three, monkeypatch, block):
    monkeypatch.setattr(streaming, "BLOCK", block)
    merged = Tensors(merge(scale=0.7, method="damped").path)
    for name in merged.info:
        t, b, c = wide(three, name)
        apart = np.abs(t - b)
        n = (apart - apart.min()) / (apart.max() - apart.min())
        ratio = 1 / (1 + np.exp(-(n * np.float32(12) - np.float32(6))))
        expected = t + np.float32(0.7) * ((c - b) * (1 - ratio))
        np.testing.assert_array_equal(merged.read(name), expected.astype(ml_dtypes.bfloat16), err_msg=name)
        assert ratio.min() < 0.003 and ratio.max() > 0.997


def test_damping_of_an_unmoved_tensor_is_the_plain_sum(merge, three):
    three["target"] = three["base"]
    plain, damped = merge("plain"), merge("damped", method="damped")
    assert damped.facts["tensor_hashes"] == plain.facts["tensor_hashes"]


@pytest.mark.parametrize("method", chat_vector.METHODS)
@pytest.mark.parametrize("parts", [VectorScale(), PARTS, dataclasses.replace(PARTS, special="keep")], ids=["whole", "transplant", "keep"])
def test_the_sum_in_memory_is_the_sum_on_disk(merge, three, with_special_tokens, parts, method, monkeypatch):
    monkeypatch.setattr(arithmetic, "BLOCK", 700)
    merged = hf_weights.load(merge(scale=0.7, parts=parts, method=method).path)[1]
    trees = {role: hf_weights.load(path)[1] for role, path in three.items()}
    found = chat_vector.add(**trees, scale=0.7, parts=parts, method=method, special=chat_vector.special_rows(three["chat"], parts))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(ml_dtypes.bfloat16), b), found, merged)


# ── directories ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_result_is_sharded_as_asked(merge, three):
    whole, cut = merge("whole"), merge("cut", shard_bytes=40_000)
    assert [name for name in whole.files if name.endswith("safetensors")] == ["model.safetensors"]
    sizes = {path.name: path.stat().st_size for path in cut.path.glob("*.safetensors")}
    assert len(sizes) > 3 and all(size < 42_000 for size in sizes.values())
    assert cut.facts["bytes"] == sum(sizes.values())
    index = json.loads((cut.path / hf_weights.INDEX).read_text())["weight_map"]
    for name, file in index.items():
        with safe_open(cut.path / file, "numpy") as opened:
            np.testing.assert_array_equal(opened.get_tensor(name), Tensors(whole.path).read(name))
    assert manifest.verify(cut.path).facts["tensor_hashes"] == whole.facts["tensor_hashes"]


def test_template_and_end_tokens_come_from_the_chat_model(merge, three):
    out = merge().path
    assert (out / "chat_template.jinja").exists()
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [1, 9], "temperature": 0.6}
    assert hf_weights.read_config(out)[0] == hf_weights.read_config(three["target"])[0]


def test_the_manifest_names_inputs_scale_and_norms(merge, three):
    made = merge(scale=0.5)
    models = {name: hf_weights.load(path)[1] for name, path in three.items()}
    vector = jax.tree.map(lambda c, b: c.astype(jnp.float32) - b, models["chat"], models["base"])
    norm = np.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(vector)))
    np.testing.assert_allclose(made.facts["vector_norm"], norm, rtol=1e-5)
    rows = made.facts["norms"]
    assert [row["place"] for row in rows if row["part"] in ("embed", "norm")] == [
        "embed_tokens", "layer 0", "layer 1", "layer 2", "norm", "lm_head",
    ]  # fmt: skip
    assert sum(row["vector"] ** 2 for row in rows) == pytest.approx(made.facts["vector_norm"] ** 2)
    one = next(row for row in rows if (row["place"], row["part"]) == ("layer 1", "mlp"))
    layer = {role: jax.tree.map(lambda x: np.asarray(x[1], np.float32), models[role]["layers"]["mlp"]) for role in ROLES}
    for field, left, right in (("vector", "chat", "base"), ("moved", "target", "base")):
        apart = jax.tree.leaves(jax.tree.map(np.subtract, layer[left], layer[right]))
        assert one[field] == pytest.approx(np.sqrt(sum(np.vdot(x, x) for x in apart)), rel=1e-5)
    assert set(made.facts["inputs_read"]) == set(ROLES)
    manifest.verify(made.path)


def test_asked_again_no_weight_is_read(merge, three, monkeypatch):
    merge()

    def never(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(streaming, "run", never)
    assert merge().said[-1].endswith("up to date")
    with pytest.raises(AssertionError):
        merge(scale=0.5)


def test_large_foreign_files_are_known_by_size_time_and_header(merge, three, monkeypatch):
    monkeypatch.setattr(chat_vector.models, "SMALL", 1000)
    merge()
    weights = three["base"] / "model.safetensors"
    assert "up to date" in merge().said[-1]
    os.utime(weights, ns=(1, 1))
    assert "up to date" not in merge().said[-1]


def flip(path, place):
    """Another byte, at the same size and time of change."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["beginning", "middle", "end"])
def test_of_large_foreign_files_pieces_are_known_too(three, monkeypatch, share):
    monkeypatch.setattr(chat_vector.models, "SMALL", 1000)
    monkeypatch.setattr(chat_vector.models, "PIECE", 64)
    weights = three["base"] / "model.safetensors"
    start, end, before = hf_weights.header(weights)[0], weights.stat().st_size, chat_vector.models.identity(three["base"])
    flip(weights, min(end - 1, int(start + share * (end - start))))
    assert chat_vector.models.identity(three["base"]) != before


@pytest.mark.parametrize("small", [1000, 10**9])
def test_only_what_a_merge_reads_counts(merge, three, monkeypatch, small):
    monkeypatch.setattr(chat_vector.models, "SMALL", small)
    merge()
    (three["chat"] / "README.md").write_text("of no matter")
    (three["chat"] / "original").mkdir()
    (three["chat"] / "model-old.safetensors").write_bytes(b"not in the index")
    assert "up to date" in merge().said[-1]
    (three["chat"] / "chat_template.jinja").write_text("{{ messages[0] }}")
    assert "up to date" not in merge().said[-1]


def test_a_result_inside_an_input_is_up_to_date_too(merge):
    merge("chat/out")
    assert merge("chat/out").said[-1].endswith("up to date")


# ── tied and untied ──────────────────────────────────────────────────────────────────────────────────────────────


def tied(config):
    return dataclasses.replace(config, tie_word_embeddings=True)


def without_head(parameters):
    return {name: x for name, x in parameters.items() if name != "lm_head"}


def test_all_tied(tmp_path, config):
    three = write_three(tmp_path, tied(config))
    chat_vector.merge(tmp_path / "out", **three)
    assert "lm_head.weight" not in Tensors(tmp_path / "out").info
    assert_is_sum(three, tmp_path / "out", alike(1.0))


@pytest.mark.parametrize("others", [("base", "chat"), ("base",), ("chat",)], ids=" ".join)
def test_an_untied_target_receives_a_tied_models_embedding_twice(tmp_path, config, three, others):
    for seed, role in enumerate(others):
        for file in three[role].glob("model*"):
            file.unlink()
        write(three[role], tied(config), without_head(moved(lively(config, 0), seed)))
    chat_vector.merge(tmp_path / "out", **three)
    t, b, c = (
        Tensors(path).read("model.embed_tokens.weight" if role in others else "lm_head.weight").astype(np.float32)
        for role, path in three.items()
    )
    np.testing.assert_array_equal(Tensors(tmp_path / "out").read("lm_head.weight"), (t + (c - b)).astype(ml_dtypes.bfloat16))
    trees = {role: hf_weights.load(path)[1] for role, path in three.items()}
    found = chat_vector.add(**trees, scale=1.0, special=np.array([], np.int64))
    np.testing.assert_array_equal(found["lm_head"].astype(ml_dtypes.bfloat16), Tensors(tmp_path / "out").read("lm_head.weight"))


def test_a_tied_target_cannot_receive_two_vectors_for_one_matrix(tmp_path, config, merge, three):
    for file in three["target"].glob("model*"):
        file.unlink()
    write(three["target"], tied(config), without_head(moved(lively(config, 0), 3)))
    with pytest.raises(InputError, match=r"target.*one matrix.*base.*--scale embed=0 --special-tokens keep"):
        merge()
    made = merge(parts=VectorScale(embed=0.0, special="keep"))
    name = "model.embed_tokens.weight"
    np.testing.assert_array_equal(Tensors(made.path).read(name), Tensors(three["target"]).read(name))


def test_what_a_tied_target_repeats_is_not_written_twice(merge, three, config):
    parameters = moved(lively(config, 0), 4)
    for role in ROLES:
        for file in three[role].glob("model*"):
            file.unlink()
        write(three[role], config, parameters | {"lm_head": parameters["embed_tokens"]})
        raw = json.loads((three[role] / "config.json").read_text())
        (three[role] / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    assert "lm_head.weight" not in Tensors(merge().path).info


# ── another vocabulary ───────────────────────────────────────────────────────────────────────────────────────────

KEEP = VectorScale(embed=0.0, special="keep")


@pytest.fixture
def other_vocabulary(three, config):
    """base and chat with 164 rows where the target has 160, and tokenizers to match."""
    larger = dataclasses.replace(config, vocab_size=164)
    parameters = lively(larger, 0)
    for role, seed in (("base", None), ("chat", 1)):
        for file in three[role].glob("model*"):
            file.unlink()
        write(three[role], larger, parameters if seed is None else moved(parameters, seed))
    (three["chat"] / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 9], "temperature": 0.6}))
    chat = "{{ '<|eot_id|>' }}"
    (three["chat"] / "chat_template.jinja").write_text(chat)
    trained = tokenizers.train(["한국어와 English, 그리고 1234. " * 20], 300, "test")
    for role in ("target", "chat"):
        trained.save(three[role])
    return SimpleNamespace(template=chat, special=trained.special)


def test_another_vocabulary_is_an_error_that_shows_both_and_the_choice(merge, three, other_vocabulary):
    with pytest.raises(InputError, match=r"\(160, 48\) in .*target, but \(164, 48\) in .*base.*--scale embed=0 --special-tokens keep"):
        merge()
    for parts in (VectorScale(embed=0.0), VectorScale(special="keep"), VectorScale(embed=0.0, special="transplant")):
        with pytest.raises(InputError, match=r"\(164, 48\)"):
            merge(parts=parts)
    assert not (three["target"].parent / "out").exists()


def test_with_another_vocabulary_the_targets_rows_and_tokenizer_stay(merge, three, other_vocabulary):
    made = merge(parts=KEEP)
    merged, target = Tensors(made.path), Tensors(three["target"])
    for name in merged.info:
        if "embed_tokens" in name or "lm_head" in name:
            np.testing.assert_array_equal(merged.read(name), target.read(name))
        else:
            t, b, c = wide(three, name)
            np.testing.assert_array_equal(merged.read(name), (t + (c - b)).astype(ml_dtypes.bfloat16))
    assert (made.path / "tokenizer.json").read_bytes() == (three["target"] / "tokenizer.json").read_bytes()
    assert (made.path / "chat_template.jinja").read_text() == other_vocabulary.template
    assert [row["vector"] for row in made.facts["norms"] if row["part"] == "embed"] == [None, None]


def test_with_another_vocabulary_end_tokens_keep_their_names_and_not_their_numbers(merge, three, other_vocabulary, monkeypatch):
    theirs = {token: 3 + number for token, number in other_vocabulary.special.items()}
    tokens = {
        three["target"]: SimpleNamespace(special=other_vocabulary.special),
        three["chat"]: SimpleNamespace(special=theirs, chat_template=other_vocabulary.template),
    }
    monkeypatch.setattr(tokenizers, "load", lambda path: tokens[path])
    ends = [theirs["<|end_of_text|>"], theirs["<|eot_id|>"]]
    (three["chat"] / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.6}))
    written = json.loads((merge(parts=KEEP).path / "generation_config.json").read_text())
    assert written == {"eos_token_id": [n - 3 for n in ends], "temperature": 0.6}


def test_a_template_whose_tokens_the_target_lacks_is_left_out_with_a_warning(merge, three, other_vocabulary, monkeypatch):
    tokens = {
        three["target"]: SimpleNamespace(special={"<s>": 1}),
        three["chat"]: SimpleNamespace(special=other_vocabulary.special, chat_template=other_vocabulary.template),
    }
    monkeypatch.setattr(tokenizers, "load", lambda path: tokens[path])
    made = merge(parts=KEEP)
    assert any("has no <|eot_id|>" in line for line in made.said)
    assert not (made.path / "chat_template.jinja").exists()
    assert any("has no <|eot_id|>" in line for line in made.facts["warnings"])
    assert chat_vector.survey(**three, parts=KEEP, say=lambda line: None)["warnings"] == made.facts["warnings"]


@pytest.fixture
def other_tokens(three):
    """Tokenizers of one size: the target's and the base's learned other words than the chat model's."""
    korean, english = (
        tokenizers.train([text * 20], 290, "test") for text in ("한국어와 우리말, 그리고 1234. ", "English and more words, 1234. ")
    )
    assert korean.vocab_size == english.vocab_size and korean.special == english.special
    for role, trained in (("target", korean), ("base", korean), ("chat", english)):
        trained.save(three[role])
    return SimpleNamespace(korean=korean, english=english)


@pytest.mark.parametrize("odd", ["target", "base", "chat"])
def test_other_tokens_in_as_many_rows_are_another_vocabulary(merge, three, other_tokens, odd):
    for role in ROLES:
        (other_tokens.english if role == odd else other_tokens.korean).save(three[role])
    with pytest.raises(
        InputError, match=r"/(target|base) and \S+/(base|chat) have .*other tokens.*--scale embed=0 --special-tokens keep"
    ) as told:
        merge()
    assert f"/{odd} " in str(told.value)
    with pytest.raises(InputError, match="other tokens"):
        chat_vector.survey(**three, parts=VectorScale(embed=0.0), say=lambda line: None)
    made = merge(parts=KEEP)
    name = "lm_head.weight"
    np.testing.assert_array_equal(Tensors(made.path).read(name), Tensors(three["target"]).read(name))
    assert (made.path / "tokenizer.json").read_bytes() == (three["target"] / "tokenizer.json").read_bytes()
    assert (made.path / "chat_template.jinja").read_text() == (three["chat"] / "chat_template.jinja").read_text()
    assert [row["vector"] for row in made.facts["norms"] if row["part"] == "embed"] == [None, None]


def test_special_tokens_may_have_other_names(merge, three, other_tokens):
    """Llama-3's base calls reserved what Llama-3-Instruct names."""
    for role in ROLES:
        other_tokens.korean.save(three[role])
    for role in ("target", "base"):
        path = three[role] / "tokenizer.json"
        path.write_text(path.read_text().replace("<|eot_id|>", "<|reserved_special_token_99|>"))
    assert merge().said == []


def test_one_tokenizer_is_not_read_to_be_compared_with_itself(merge, three, other_tokens, monkeypatch):
    for role in ROLES:
        other_tokens.korean.save(three[role])
    monkeypatch.setattr(tokenizers, "load", lambda _: pytest.fail("read"))
    merge()


def test_generations_own_tokens_stay_out_of_config_json(merge, three):
    ids = {"bos_token_id": 0, "eos_token_id": [1, 9], "pad_token_id": 5, "decoder_start_token_id": 3}
    (three["chat"] / "generation_config.json").write_text(json.dumps(ids))
    out = merge().path
    assert json.loads((out / "generation_config.json").read_text()) == ids
    config = json.loads((out / "config.json").read_text())
    assert "decoder_start_token_id" not in config and {name: config[name] for name in list(ids)[:3]} == dict(list(ids.items())[:3])


# ── rows that the chat model alone has trained ───────────────────────────────────────────────────────────────────

LLAMA_3 = {token: 128_000 + i for i, token in enumerate(tokenizers.special_tokens(256))}
LAST = 128_255


@pytest.mark.parametrize(("template", "ends", "special", "rows"), [
    (tokenizers.CHAT_TEMPLATE, 128_001, LLAMA_3, [128_006, 128_007, 128_009]),
    (tokenizers.CHAT_TEMPLATE, 128_009, LLAMA_3, [128_006, 128_007, 128_009]),  # Llama-3-Instruct's config.json: the turn's end
    (tokenizers.CHAT_TEMPLATE, [128_001, 128_009], LLAMA_3, [128_006, 128_007, 128_009]),
    ("<|begin_of_text|><|eot_id|><|end_of_text|>", 128_001, LLAMA_3, [128_009]),
    ("{{ messages }}", 128_001, LLAMA_3, [*range(128_002, LAST + 1)]),
    ("", 128_001, LLAMA_3, [*range(128_002, LAST + 1)]),
    ("<s><|im_start|><|im_end|></s>", [2, 4], {"<s>": 128_000, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4}, [3, 4]),
])  # fmt: skip
def test_the_rows_are_those_of_the_tokens_that_the_template_writes(tmp_path, monkeypatch, template, ends, special, rows):
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 128_000, "eos_token_id": ends}))
    if template:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    monkeypatch.setattr(tokenizers, "load", lambda _: SimpleNamespace(special=special))
    assert chat_vector.special_rows(tmp_path, VectorScale(special="transplant")).tolist() == rows


def test_the_rows_of_our_own_tokenizers_are_the_same_three(three, other_tokens):
    (three["chat"] / "chat_template.jinja").unlink()
    ours = other_tokens.english.special
    expected = [ours[token] for token in (tokenizers.HEADER, tokenizers.HEADER_END, tokenizers.TURN_END)]
    assert chat_vector.special_rows(three["chat"], VectorScale(special="transplant")).tolist() == expected


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────────


def edit_config(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def lose_a_shard(three):
    sorted(three["chat"].glob("model-*"))[1].unlink()


def cut_a_file(three):
    path = three["base"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_a_header(three):
    path = three["base"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def another_architecture(three):
    edit_config(three["chat"], model_type="mistral")


def other_model(three, role="base", **changes):
    config = small_config(**changes)
    for file in three[role].glob("model*"):
        file.unlink()
    write(three[role], config, lively(config, 0))


def more_layers(three):
    other_model(three, num_hidden_layers=4)


def wider(three):
    other_model(three, "chat", intermediate_size=96)


def other_heads(three):
    other_model(three, num_attention_heads=8, num_key_value_heads=4, head_dim=8)


@pytest.mark.parametrize(("spoil", "said"), [
    (lose_a_shard, r"chat: shard model-00002-of-\d+\.safetensors.* is missing"),
    (cut_a_file, r"base/model\.safetensors .*by its header it has [\d,]+ bytes, and there are [\d,]+\): is the download complete"),
    (cut_a_header, r"base/model\.safetensors .*the file has 100 bytes.*is the download complete"),
    (another_architecture, r"chat/config\.json: model_type is 'mistral'"),
    (more_layers, r"target has 3 layers, but .*base has 4: .*other layers"),
    (wider, r"mlp.* is \((80, 48|48, 80)\) in .*target, but \((96, 48|48, 96)\) in .*chat"),
    (other_heads, r"num_attention_heads is 4 in .*target, but 8 in .*base"),
], ids=lambda x: getattr(x, "__name__", ""))  # fmt: skip
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(tmp_path, merge, three, spoil, said):
    spoil(three)
    with pytest.raises(InputError, match=said):
        merge()
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(("settings", "said"), [
    ({"parts": VectorScale(special="drop")}, "found 'drop'"),
    ({"method": "ties"}, "found 'ties'"),
    ({"workers": 0}, "workers must be at least 1"),
    ({"scale": float("nan")}, "finite"),
])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(tmp_path, merge, settings, said):
    with pytest.raises(InputError, match=said):
        merge(**settings)
    assert not (tmp_path / "out").exists()


def test_scales_are_read_from_assignments():
    assert chat_vector.parts_from(["0.7", "embed=0"], "keep") == VectorScale(attention=0.7, mlp=0.7, norm=0.7, embed=0.0, special="keep")
    assert chat_vector.parts_from(["attention=0.5"]) == VectorScale(attention=0.5)
    assert chat_vector.parts_from([]) == VectorScale()
    for wrong, said in (
        (["heads=1"], "heads=1"), (["mlp=much"], "λ of mlp must be a number, found 'much'"), (["strong"], "number, found 'strong'"),
        (["1", "2"], "every part is given twice"), (["mlp=1", "mlp=1"], "mlp is given twice"), (["nan"], "finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            chat_vector.parts_from(wrong)


def spoiled(three, config, role, value, dtype="float32"):
    parameters = lively(config, 0)
    parameters["norm"][3] = value
    for file in three[role].glob("model*"):
        file.unlink()
    write(three[role], config, parameters, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("role", ROLES)
def test_a_number_that_is_none_is_found_and_named(tmp_path, merge, three, config, role, value):
    spoiled(three, config, role, value)
    with pytest.raises(InputError, match=rf"model\.norm\.weight holds NaN or infinity in \S+{role}$"):
        merge()
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="NaN or infinity"):
        chat_vector.survey(**three, say=lambda line: None)


def test_squares_beyond_fp32_are_no_alarm(merge, three, config):
    spoiled(three, config, "chat", 1e30)
    made = merge()
    assert made.facts["vector_norm"] == pytest.approx(1e30, rel=1e-6)


def test_a_sum_beyond_fp16_is_named(merge, three, config):
    spoiled(three, config, "target", 60_000.0, "float16")
    spoiled(three, config, "chat", 10_000.0)
    with pytest.raises(InputError, match=r"model\.norm\.weight: at λ = 1 the sum is beyond the target's float16"):
        merge()


def test_a_full_disk_is_told_before_the_work(merge, three, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="1,000 bytes free"):
        merge()


# ── warned ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sound_models_are_not_warned_of(merge, three):
    trained = tokenizers.train(["한국어와 English, 그리고 1234. " * 20], 300, "test")
    trained.save(three["chat"])
    made = merge()
    assert made.said == [] and made.facts["warnings"] == []


def unrelated(seed):
    return lively(small_config(), seed)


def wrong_base(three):
    three["base"] = replaced(three["base"], unrelated(5))


def wrong_target(three):
    three["target"] = replaced(three["target"], unrelated(6))


def exchanged(three):
    base = lively(small_config(), 0)
    three["target"] = replaced(three["target"], moved(base, 2, 0.5))
    three["base"], three["target"] = three["target"], three["base"]


def no_vector(three):
    three["chat"] = replaced(three["chat"], lively(small_config(), 0))


def replaced(directory, parameters):
    for file in directory.glob("model*"):
        file.unlink()
    write(directory, small_config(), parameters)
    return directory


def no_template(three):
    (three["chat"] / "chat_template.jinja").unlink()


def no_generation_config(three):
    (three["chat"] / "generation_config.json").unlink()


def other_rope(three):
    config = small_config(rope=Rope(theta=1e4))
    hf_weights.write_configs(three["chat"], config, {})


def other_epsilon(three):
    edit_config(three["base"], rms_norm_eps=1e-6)


@pytest.mark.parametrize(("spoil", "said"), [
    (wrong_base, r"\|chat − base\| is 1\.[34]\d of \|base\|.*was \S*chat really tuned from \S*base\?"),
    (wrong_target, r"cosine between target and base is -?0\.0\d, .*did \S*target really go on from \S*base\?"),
    (exchanged, r"nearer to the target .* are \S* and \S* exchanged\?"),
    (no_vector, r"hold the same weights: the vector is zero"),
    (no_template, r"chat has no chat template"),
    (no_generation_config, r"chat has no generation_config\.json: .*, 1$"),
    (lambda three: None, r"chat has no tokenizer\.json: \S*target has none either"),
    (other_rope, r"target: θ 500,000, no scaling; base: θ 500,000, no scaling; chat: θ 10,000"),
    (other_epsilon, r"rms_norm_eps differs \(target: 1e-05, base: 1e-06"),
], ids=lambda x: getattr(x, "__name__", ""))  # fmt: skip
def test_what_is_odd_is_told_with_numbers_and_done(merge, three, spoil, said):
    spoil(three)
    made = merge()
    with_prefix = [line for line in made.said if line.startswith("warning: ")]
    assert [line for line in with_prefix if re.search(said, line)], made.said
    assert [line for line in made.facts["warnings"] if re.search(said, line)]
    surveyed = []
    assert chat_vector.survey(**three, say=surveyed.append)["warnings"] == made.facts["warnings"]
    assert surveyed == with_prefix


def test_the_warning_comes_before_the_work(merge, three, monkeypatch):
    wrong_base(three)
    monkeypatch.setattr(streaming, "run", lambda *_, **__: pytest.fail("not yet"))
    said = []
    with pytest.raises(pytest.fail.Exception):
        merge(say=said.append)
    assert any("really tuned from" in line for line in said)


# ── only the numbers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_survey_finds_the_merges_numbers_and_writes_nothing(tmp_path, merge, three):
    before = sorted(tmp_path.rglob("*"))
    found = chat_vector.survey(**three, shard_bytes=40_000, say=lambda line: None)
    assert sorted(tmp_path.rglob("*")) == before
    made = merge(shard_bytes=40_000)
    for name in ("norms", "vector_norm", "target_norm", "bytes"):
        assert found[name] == made.facts[name]
    assert found["files"] == {name: f["bytes"] for name, f in made.files.items() if name.endswith("safetensors")}
    rows = {row["tensor"]: row for row in found["tensors"]}
    t, b, c = wide(three, "lm_head.weight")
    assert rows["lm_head.weight"]["shape"] == [160, 48]
    for field, x in (("vector", c - b), ("base", b), ("moved", t - b), ("target", t)):
        assert rows["lm_head.weight"][field] == pytest.approx(np.linalg.norm(x), rel=1e-5)


# ── cut off ──────────────────────────────────────────────────────────────────────────────────────────────────────

KILLED = """
import os, signal, sys
from pathlib import Path
from openko import chat_vector
from openko.chat_vector import streaming

add, left = streaming.Journal.add, [int(sys.argv[2])]

def dies(journal, name, done):
    add(journal, name, done)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

streaming.Journal.add = dies
here = Path(sys.argv[1])
chat_vector.merge(here / "out", **{role: here / role for role in ("target", "base", "chat")}, workers=1, shard_bytes=40_000)
"""


def killed_after(tmp_path, tensors):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(tensors)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def counted(monkeypatch):
    """Names of the tensors that are made from here on."""
    made, real = [], streaming._Pass._made

    def counting(self, addition, room):
        made.append(addition.name)
        return real(self, addition, room)

    monkeypatch.setattr(streaming._Pass, "_made", counting)
    return made


def test_killed_and_run_again_it_writes_the_same_files(tmp_path, merge, three, counted):
    whole = merge("whole", shard_bytes=40_000, workers=1)  # several threads take the tensors in an order of their own
    names = list(counted)
    counted.clear()
    killed_after(tmp_path, 13)
    again = merge(shard_bytes=40_000, workers=1)
    assert again.files == whole.files and again.facts == whole.facts
    assert counted == names[13:]
    assert not (again.path / manifest.SCRATCH).exists() and not (tmp_path / "out.partial").exists()
    manifest.verify(again.path)


def test_what_changed_in_the_unfinished_files_is_made_again(tmp_path, merge, three, counted):
    whole = merge("whole", shard_bytes=40_000, workers=1)
    names = list(counted)
    counted.clear()
    killed_after(tmp_path, 13)
    first = tmp_path / "out.partial" / next(name for name in whole.files if name.startswith("model-00001"))
    with open(first, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    journal = tmp_path / "out.partial" / manifest.SCRATCH / "tensors.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])  # as if the machine had stopped within the line
    again = merge(shard_bytes=40_000, workers=1)
    assert again.files == whole.files
    spoiled = list(json.loads((whole.path / hf_weights.INDEX).read_text())["weight_map"].items())
    last_of_first = [name for name, file in spoiled if file == first.name][-1]
    assert counted == [last_of_first, *names[12:]]


def test_other_settings_do_not_go_on_from_there(tmp_path, merge, three, counted):
    killed_after(tmp_path, 13)
    merge(scale=0.5, shard_bytes=40_000)
    assert len(counted) == len(Tensors(three["target"]).info)


def test_an_interrupt_leaves_it_to_go_on(tmp_path, merge, three, counted, monkeypatch):
    real, told = streaming.Journal.add, threading.Event()

    def interrupted(journal, name, done):
        real(journal, name, done)
        if told.is_set():
            time.sleep(0.2)  # the other thread must not be through before it is stopped
        if "layers.1.mlp.down" in name:
            told.set()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streaming.Journal, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge(workers=2)
    assert not (tmp_path / "out").exists()
    before, total = len(counted), len(Tensors(three["target"]).info)
    assert before < total
    merge()
    assert total - 1 <= len(counted) <= total + 2
    assert_is_sum(three, tmp_path / "out", alike(1.0))


@pytest.fixture
def interrupted(merge, monkeypatch):
    """Control-C, which reaches the main thread: while it shows the progress, after five tensors."""
    real, written = streaming.Journal.add, []

    def slow(journal, name, done):
        real(journal, name, done)
        written.append(name)
        if len(written) == 5:
            time.sleep(0.5)

    def progress(through):
        if len(written) >= 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streaming.Journal, "add", slow)
        patch.setattr(merging, "_progress", lambda *_: contextlib.nullcontext(progress))
        with pytest.raises(KeyboardInterrupt):
            merge(workers=1, shard_bytes=40_000)
    return written


def test_an_interrupt_of_the_main_thread_leaves_it_to_go_on(tmp_path, merge, three, interrupted, counted):
    assert threading.active_count() == 1 or not any("_guarded" in thread.name for thread in threading.enumerate())
    assert len(interrupted) < len(Tensors(three["target"]).info) and not (tmp_path / "out").exists()
    again = merge(shard_bytes=40_000)
    assert len(counted) == len(Tensors(three["target"]).info) - len(interrupted)
    assert_is_sum(three, again.path, alike(1.0))
    manifest.verify(again.path)


def test_what_was_written_from_other_inputs_is_made_again(merge, three, monkeypatch, counted, request):
    """The journal tells nothing of inputs: it is believed because the mark of the unfinished directory names them."""
    monkeypatch.setattr(chat_vector.models, "SMALL", 1000)
    request.getfixturevalue("interrupted")
    counted.clear()
    flip(three["base"] / "model.safetensors", (three["base"] / "model.safetensors").stat().st_size - 4)
    again = merge(shard_bytes=40_000)
    assert len(counted) == len(Tensors(three["target"]).info)
    assert_is_sum(three, again.path, alike(1.0))


def test_what_is_not_on_the_disk_as_it_was_written_is_found(merge, three, monkeypatch):
    real, calls = streaming._write, []

    def flips(descriptor, view, offset):
        calls.append(offset)
        if len(calls) == 7:
            view = memoryview(bytes([view[0] ^ 1]) + bytes(view[1:]))
        real(descriptor, view, offset)

    monkeypatch.setattr(streaming, "_write", flips)
    with pytest.raises(InputError, match=r"model\.safetensors: tensor \S+ is not what was written there"):
        merge(workers=1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    """Three models of 600 MB in less than 300."""
    config = small_config(
        vocab_size=32_000, hidden_size=1024, intermediate_size=5632, num_hidden_layers=12, num_attention_heads=16, head_dim=64
    )
    names = [(name, shape) for _, name, shape in hf_weights._each(config)]
    noise = np.random.default_rng(0).standard_normal(1 << 26, np.float32).astype(ml_dtypes.bfloat16)
    for number, role in enumerate(ROLES):
        (tmp_path / role).mkdir()
        entries = [
            (name, noise.dtype, shape, lambda s=shape, n=number: [noise[n : n + int(np.prod(s))]]) for name, shape in names
        ]  # fmt: skip
        hf_weights.write_tensors(tmp_path / role, entries, shard_bytes=200_000_000)
        hf_weights.write_configs(tmp_path / role, config, {})
    size = sum(path.stat().st_size for path in (tmp_path / "target").glob("*.safetensors"))
    assert size > 600e6
    command = [sys.executable, "-m", "openko.cli", "merge", "--out", str(tmp_path / "out")]
    words = [word for role in ROLES for word in (f"--{role}", str(tmp_path / role))]
    child, largest = psutil.Popen([*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0
    while child.poll() is None:  # the system's own maximum would count this process's memory at the fork
        with contextlib.suppress(psutil.NoSuchProcess):
            largest = max(largest, child.memory_info().rss)
        time.sleep(0.01)
    assert child.returncode == 0 and 50e6 < largest < 300e6


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


def command(three, *words):
    given = [word for role, path in three.items() for word in (f"--{role}", str(path))]
    done = CliRunner().invoke(cli.app, ["merge", *given, *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done


def test_the_command_merges_by_part_and_says_little(tmp_path, three):
    words = ["--scale", "0.5", "--scale", "embed=0", "--special-tokens", "keep", "--shard-size", "40kB", "--workers", "2"]
    done = command(three, "--out", str(tmp_path / "out"), *words)
    assert_is_sum(three, tmp_path / "out", alike(0.5) | {"embed": 0.0})
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["out", "vector_norm", "target_norm", "bytes"]
    assert "warning: " in done.stderr and "no tokenizer.json" in done.stderr
    told = json.loads(command(three, "--out", str(tmp_path / "out"), *words, "--json").stdout)
    assert told == {"out": str(tmp_path / "out"), **manifest.read(tmp_path / "out").facts}
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3


def test_the_dry_run_shows_the_vector_by_layer_and_writes_nothing(tmp_path, three):
    before = sorted(tmp_path.rglob("*"))
    table = command(three, "--dry-run").stdout
    for word in ("attention", "mlp", "norm", "embed", "embed_tokens", "layer 0", "layer 2", "lm_head", "would write model.safetensors"):
        assert word in table
    told = json.loads(command(three, "--dry-run", "--json").stdout)
    assert [row["tensor"] for row in told["tensors"]][::29] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert f"{told['bytes']:,} bytes" in table
    assert sorted(tmp_path.rglob("*")) == before
