"""openko.release: what is written loads everywhere and carries the licence; what is refused leaves nothing behind."""

import base64
import functools
import http.server
import json
import os
import re
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import release_directories as directories
import typer
import yaml
from huggingface_hub.errors import HfHubHTTPError
from release_directories import LICENCE, POLICY, edit_json, everything_in, overwrite, quiet
from typer.testing import CliRunner

from openko import chat_vector, hf_weights, manifest, tokenizers
from openko.cli import release as commands
from openko.errors import InputError
from openko.evaluation import published
from openko.release import auditing, hub, licences, lineage, making, weights

NAME, AUTHOR = "Llama-3-Ko-test", "홍길동"

code_known_once = directories.code_known_once


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Meta's directory, a model trained from it, one from fresh weights, and the first one's release."""
    here = tmp_path_factory.mktemp("places")
    llama = directories.write_llama(here / "Meta-Llama-3-8B", ends=(tokenizers.END,))
    child = directories.write_trained(here / "child", start=llama)
    fresh = directories.write_trained(here / "fresh", start=None)
    making.release(child, here / NAME, name=NAME, author=AUTHOR, year=2026, say=quiet)
    return SimpleNamespace(here=here, llama=llama, child=child, fresh=fresh, out=here / NAME)


def release(directory, out, **how):
    return making.release(directory, out, **{"name": NAME, "author": AUTHOR, "say": quiet} | how)


def card_of(directory) -> str:
    return (directory / "README.md").read_text(encoding="utf-8")


def front_matter(directory) -> dict:
    return yaml.safe_load(card_of(directory).split("---\n")[1])


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────


def test_transformers_loads_a_release_and_computes_what_it_computed_of_the_source(places):
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(40).reshape(2, 20)
    logits = [AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)(ids).logits for place in (places.child, places.out)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_the_sample_usage_of_the_card_runs_as_it_stands(places, tmp_path, monkeypatch, capsys, kind):
    out = places.out
    if kind == "text":
        base = directories.write_trained(tmp_path / "base", start=None, ends=(tokenizers.END,))
        out = tmp_path / "tiny-base"
        release(base, out, name="tiny-base", licence="apache-2.0")
    (code,) = re.findall(r"```python\n(.*?)```", card_of(out), re.DOTALL)
    assert ("apply_chat_template" in code) == (kind == "chat")
    monkeypatch.chdir(out.parent)
    variables: dict = {}
    exec(code.replace("max_new_tokens=256", "max_new_tokens=8"), variables)
    assert 1 <= variables["outputs"].shape[1] - variables["inputs"]["input_ids"].shape[1] <= 8
    assert capsys.readouterr().out == variables["tokenizer"].decode(
        variables["outputs"][0, variables["inputs"]["input_ids"].shape[1] :], skip_special_tokens=True
    ) + "\n"  # fmt: skip


def test_readers_of_two_generations_find_theta_dtype_and_both_ends(places):
    config, generation = (json.loads((places.out / name).read_text()) for name in ("config.json", "generation_config.json"))
    tokenizer = tokenizers.load(places.out)
    ends = [tokenizer[tokenizers.END], tokenizer[tokenizers.TURN_END]]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5e5 and config["rope_scaling"] is None
    assert config["torch_dtype"] == config["dtype"] == "bfloat16" and config["architectures"] == ["LlamaForCausalLM"]
    assert config["eos_token_id"] == generation["eos_token_id"] == ends and generation["bos_token_id"] == tokenizer[tokenizers.BEGIN]


def test_the_real_vocabulary_gives_metas_terminators():
    from openko.release import configs

    pytest.importorskip("llama_models")
    assert configs.terminators(tokenizers.load(tokenizers.LLAMA_3)) == [128001, 128009]


def test_sampling_settings_that_contradict_each_other_are_left_out_and_the_rest_is_kept(places, tmp_path):
    model = shutil.copytree(places.child, tmp_path / "model")
    (model / "manifest.json").unlink()
    edit_json(model / "generation_config.json", lambda fields: fields.update(temperature=0.6, max_length=4096))
    said = []
    made = release(model, tmp_path / NAME, parent=str(places.llama), say=said.append)
    generation = json.loads((tmp_path / NAME / "generation_config.json").read_text())
    assert generation["max_length"] == 4096 and "temperature" not in generation
    assert "generation_config.json: temperature without do_sample: left out" in said and said[0] in made.facts["notes"]
    edit_json(model / "generation_config.json", lambda fields: fields.update(do_sample=True))
    release(model, tmp_path / NAME, parent=str(places.llama))
    assert json.loads((tmp_path / NAME / "generation_config.json").read_text())["temperature"] == 0.6


def test_the_template_stands_where_old_and_new_readers_look(places, tmp_path):
    model = shutil.copytree(places.child, tmp_path / "model")
    (model / "manifest.json").unlink()
    edit_json(model / "tokenizer_config.json", lambda fields: fields.pop("chat_template"))
    release(model, tmp_path / NAME, parent=str(places.llama))
    for out in (places.out, tmp_path / NAME):
        settings = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert settings["chat_template"] == (out / "chat_template.jinja").read_text(encoding="utf-8") == tokenizers.CHAT_TEMPLATE


def test_what_transformers_5_writes_of_a_tokenizer_is_released_in_words_of_both_generations(places, tmp_path):
    model = shutil.copytree(places.child, tmp_path / "model")
    (model / "manifest.json").unlink()
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": [tokenizers.TURN_END]}
    edit_json(model / "tokenizer_config.json", lambda fields: fields.update(new))
    release(model, tmp_path / NAME, parent=str(places.llama))
    settings = json.loads((tmp_path / NAME / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in settings
    assert settings["additional_special_tokens"] == [tokenizers.TURN_END]


def test_merges_are_written_as_the_oldest_readers_know_them_and_mean_the_same(places):
    before, after = (json.loads((place / "tokenizer.json").read_text(encoding="utf-8")) for place in (places.child, places.out))
    assert all(isinstance(pair, str) for pair in after["model"]["merges"])
    assert [pair.split(" ") for pair in after["model"]["merges"]] == before["model"]["merges"]
    assert tokenizers.load(places.child).fingerprint == tokenizers.load(places.out).fingerprint
    assert tokenizers.load(places.child).encode(directories.KOREAN) == tokenizers.load(places.out).encode(directories.KOREAN)


def test_weights_take_no_second_place_on_the_disk(places):
    assert os.path.samefile(places.child / "model.safetensors", places.out / "model.safetensors")


def test_weights_are_cut_into_files_with_an_index_and_no_byte_changes(places, tmp_path):
    release(places.child, tmp_path / NAME, shard_bytes=60_000)
    files = hf_weights.weight_files(tmp_path / NAME)
    assert len(files) > 2 and all(path.stat().st_size < 62_000 for path in files)
    before, after = hf_weights.Tensors(places.child), hf_weights.Tensors(tmp_path / NAME)
    assert before.info.keys() == after.info.keys()
    for name in before.info:
        assert np.array_equal(before.read(name).view(np.uint16), after.read(name).view(np.uint16))


def test_the_manifest_verifies_and_holds_the_audit(places):
    made = manifest.verify(places.out)
    assert made.facts["audit"]["passed"] and set(made.facts["audit"]["checks"]) == set(auditing.CHECKS)


def test_asked_again_a_release_is_up_to_date_and_another_author_makes_it_anew(places, tmp_path):
    release(places.fresh, tmp_path / "tiny", name="tiny", licence="apache-2.0")
    said = []
    release(places.fresh, tmp_path / "tiny", name="tiny", licence="apache-2.0", say=said.append)
    assert said == [f"{tmp_path / 'tiny'}: up to date"]
    release(places.fresh, tmp_path / "tiny", name="tiny", licence="apache-2.0", author="이영희")
    assert "이영희" in card_of(tmp_path / "tiny") and AUTHOR not in card_of(tmp_path / "tiny")


# ── the licence ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_licence_and_use_policy_are_the_parents_to_the_byte(places):
    assert (places.out / "LICENSE").read_bytes() == LICENCE and (places.out / "USE_POLICY.md").read_bytes() == POLICY


def test_the_licences_duties_are_done(places):
    notice = "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
    assert notice in (places.out / "NOTICE").read_text(encoding="utf-8")
    assert "Built with Meta Llama 3" in card_of(places.out)
    assert front_matter(places.out)["license"] == "llama3"
    assert front_matter(places.out)["base_model"] == ["meta-llama/Meta-Llama-3-8B"]  # as Meta calls its directory


@pytest.mark.parametrize("name", ["Llama-3-Open-Ko-8B", "Llama 3 Open Ko", "Llama-3_ko", "Llama 3", "Llama-3한국어"])
def test_names_that_the_licence_allows(name):
    licences.TERMS["3"].check_name(name)


@pytest.mark.parametrize("name", ["Open-Ko-8B", "llama-3-ko", "Llama3-Ko", "Meta-Llama-3-Ko", "Llama-3.1-Ko", "Llama-30B", "Ko-Llama-3"])
def test_names_that_break_it(name):
    with pytest.raises(InputError, match="begin with 'Llama 3' or 'Llama-3'"):
        licences.TERMS["3"].check_name(name)


def test_later_llamas_have_their_own_words(tmp_path):
    llama = directories.write_llama(tmp_path / "Llama-3.2-1B")
    (llama / "LICENSE").write_bytes(LICENCE.replace(b"META LLAMA 3 ", b"LLAMA 3.2 "))
    child = directories.write_trained(tmp_path / "child", start=llama)
    release(child, tmp_path / "out", name="Llama-3.2-Ko")
    assert "Built with Llama" in card_of(tmp_path / "out") and front_matter(tmp_path / "out")["license"] == "llama3.2"
    assert "Llama 3.2 is licensed under the Llama 3.2 Community License" in (tmp_path / "out" / "NOTICE").read_text()


def test_a_model_from_fresh_weights_is_exempt_and_says_so(places, tmp_path):
    release(places.fresh, tmp_path / "tiny", name="tiny-ko", licence="apache-2.0")
    assert "No Llama parent" in card_of(tmp_path / "tiny") and front_matter(tmp_path / "tiny")["license"] == "apache-2.0"
    assert not [name for name in everything_in(tmp_path / "tiny") if name in ("LICENSE", "NOTICE", "USE_POLICY.md")]
    check = auditing.audit(tmp_path / "tiny", say=quiet)["checks"]["licence"]
    assert check["status"] == "pass" and "no Llama parent" in check["reason"]


def test_descent_is_followed_through_every_step(places, tmp_path):
    for number, start in enumerate([places.child, tmp_path / "0", tmp_path / "1"]):
        directories.write_trained(tmp_path / str(number), start=start)
    found = lineage.descent(lineage.trace(tmp_path / "2"), None)
    assert found.parent.directory == places.llama and found.parent.terms is licences.TERMS["3"]


def test_a_run_that_was_moved_keeps_its_lineage(places, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(places.here / "child", moved / "child")
    shutil.copytree(places.llama, moved / "Meta-Llama-3-8B")
    edit_json(moved / "child" / "manifest.json", lambda fields: fields["inputs"]["start"].update(path="/gone/Meta-Llama-3-8B"))
    assert lineage.descent(lineage.trace(moved / "child"), None).parent.directory == moved / "Meta-Llama-3-8B"


# ── the card ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_data_and_method_come_from_the_manifests(places, tmp_path):
    def made(name, kind, facts, inputs=None, recipe=None):
        manifest.build(
            tmp_path / name, kind=kind, recipe=recipe or {}, inputs=inputs or {}, module="openko.errors", make=lambda p: facts, say=quiet
        )
        return tmp_path / name

    sources = [
        {"name": "wikipedia", "reader": "wikipedia", "language": "ko", "licence": "CC-BY-SA-4.0", "weight": 1.0, "options": {}},
        {"name": "unused", "reader": "modu", "language": "ko", "licence": "no redistribution", "weight": 1.0, "options": {}},
    ]
    corpus = made("corpus", "corpus", {"recipe": {"name": "open-ko", "sources": sources}, "examples": {"cleaned": "한 사람의 글"}})
    counts = {"wikipedia": {"documents": 1234, "tokens": 98765, "bytes": 5}, "unused": {"documents": 0, "tokens": 0, "bytes": 0}}
    facts = {"documents": 1234, "tokens": 98765, "sources": counts, "vocab_size": 300}
    packed = made("ko.train", "token-shards", facts, {"corpus": corpus}, {"part": "ko.train"})
    model = directories.write_trained(tmp_path / "model", start=places.llama, data={"data-0": packed})
    release(model, tmp_path / NAME)
    text = card_of(tmp_path / NAME)
    assert "continued from meta-llama/Meta-Llama-3-8B on 6,144 tokens: 24 steps of 8 × 32" in text
    assert "learning rate 0.002 → 0.0002" in text and "loss at the end 2.500 nats" in text
    assert "wikipedia (wikipedia, ko), 1,234 documents, 98,765 tokens; licence: CC-BY-SA-4.0" in text and "unused" not in text
    assert front_matter(tmp_path / NAME)["language"] == ["ko"]
    for content in (text, (tmp_path / NAME / "provenance.json").read_text(encoding="utf-8")):
        assert "한 사람의 글" not in content  # a corpus' manifest quotes texts that may not be passed on


def test_a_merged_model_tells_its_vector(places, tmp_path):
    chat = directories.write_trained(tmp_path / "chat", start=places.llama)
    chat_vector.merge(tmp_path / "merged", target=places.child, base=places.llama, chat=chat, scale=0.7, say=quiet)
    release(tmp_path / "merged", tmp_path / NAME)
    text = card_of(tmp_path / NAME)
    assert "child + λ (chat − meta-llama/Meta-Llama-3-8B)" in text and "λ = 0.7" in text and "No Korean chat was used" in text
    assert "chat-vector" in front_matter(tmp_path / NAME)["tags"]
    assert text.count("- **meta-llama/Meta-Llama-3-8B**: taken as it was.") == 1


RESULTS = {
    "results": {
        "haerae": {"alias": "haerae", "acc,none": 0.68011, "acc_stderr,none": 0.01384},
        "haerae_history": {"alias": " - haerae_history", "acc,none": 0.73404, "acc_stderr,none": 0.03231},
        "kobest_boolq": {"alias": "kobest_boolq", "acc,none": 0.79843, "acc_stderr,none": 0.01071, "f1,none": 0.79612},
    },
    "versions": {"haerae_history": 1, "kobest_boolq": 1},
    "n-shot": {"haerae_history": 5, "kobest_boolq": 5},
    "higher_is_better": {"haerae_history": {"acc": True}, "kobest_boolq": {"acc": True, "f1": True}},
    "config": {"model": "openko", "limit": None, "num_fewshot": 5},
    "lm_eval_version": "0.4.13",
}  # fmt: skip


@pytest.mark.parametrize("limit", [None, 20.0])
def test_benchmarks_are_those_of_the_results_and_say_when_they_are_partial(places, tmp_path, limit):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | {"config": RESULTS["config"] | {"limit": limit}}))
    release(places.child, tmp_path / NAME, results=tmp_path / "results.json")
    rows = {(row.task, row.metric): (row.value, row.stderr, row.n_shot) for row in published.parse(card_of(tmp_path / NAME)).rows}
    assert rows == {
        ("haerae", "acc"): ("0.6801", "0.0138", None), ("haerae_history", "acc"): ("0.7340", "0.0323", "5"),
        ("kobest_boolq", "acc"): ("0.7984", "0.0107", "5"), ("kobest_boolq", "f1"): ("0.7961", "N/A", "5"),
    }  # fmt: skip
    assert ("not comparable with published scores" in card_of(tmp_path / NAME)) == (limit is not None)


def test_groups_stand_above_their_members_and_versions_read_as_the_harness_prints_them(places, tmp_path):
    """As lm_eval 0.4.13 writes its file: groups last and apart, no blanks in the aliases, versions as fractions."""
    scores = {name: {"alias": name, "acc,none": 0.5} for name in ("kobest_boolq", "haerae_history", "haerae_words", "haerae")}
    content = {
        "results": scores, "group_subtasks": {"haerae": ["haerae_history", "haerae_words"], "a_tag": ["kobest_boolq"]},
        "versions": {"haerae": "1.0", "haerae_history": 1.0, "haerae_words": 2.1, "kobest_boolq": 1.0},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(content))
    release(places.child, tmp_path / NAME, results=tmp_path / "results.json")
    rows = [(row.task, row.depth, row.version) for row in published.parse(card_of(tmp_path / NAME)).rows]
    assert rows == [("kobest_boolq", 0, "1"), ("haerae", 0, "1"), ("haerae_history", 1, "1"), ("haerae_words", 1, "2.1")]


def test_a_bar_in_the_authors_name_does_not_end_a_cell_of_the_card(places, tmp_path):
    release(places.fresh, tmp_path / "tiny", name="tiny", licence="mit", author="A | B")
    assert "| Author | A &#124; B |\n" in card_of(tmp_path / "tiny")


def test_the_card_says_what_the_questions_were_and_whether_they_were_seen(places, tmp_path):
    status = {"questions": 50, "looked_for": 40, "found": 3, "documents": 2}
    ours = {"model": str(places.fresh), "data": "practice", "contamination": {"kobest_boolq": status, "haerae_history": None}}
    samples = {"kobest_boolq": {"original": 1404, "effective": 50}, "haerae_history": {"original": 188, "effective": 188}}
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | {"openko": ours, "n-samples": samples}))
    said = []
    release(places.child, tmp_path / NAME, results=tmp_path / "results.json", say=said.append)
    text = card_of(tmp_path / NAME)
    assert "not the benchmarks" in text and "3 of 40 questions were found in the training texts" in text
    assert "Asked in part: kobest_boolq, 50 questions at least" in text
    assert "the benchmarks are those of fresh, not of child: is it the same model?" in said


def test_without_results_the_card_says_not_evaluated(places):
    assert "## Benchmarks\n\nNot evaluated." in card_of(places.out)


def test_a_table_that_the_harness_printed_will_do_too(places, tmp_path):
    table = (
        "| Tasks |Version|Filter|n-shot|Metric|Value |   |Stderr|\n|-------|------:|------|-----:|------|-----:|---|-----:|\n"
        "|haerae_history|      1|none  |     5|acc   |0.7340|±  |0.0323|\n"
    )
    (tmp_path / "table.md").write_text(table, encoding="utf-8")
    release(places.child, tmp_path / NAME, results=tmp_path / "table.md")
    (row,) = published.parse(card_of(tmp_path / NAME)).rows
    assert (row.task, row.value, row.stderr) == ("haerae_history", "0.7340", "0.0323")


def test_nothing_that_goes_to_the_hub_names_a_path_of_this_machine(places):
    for name in hub.sending(places.out):
        assert str(places.here).encode() not in (places.out / name).read_bytes(), name


def test_provenance_holds_recipe_code_hashes_and_parents(places):
    found = json.loads((places.out / "provenance.json").read_text(encoding="utf-8"))
    assert found["lineage"]["recipe"]["training"]["steps"] == 24 and found["openko"]["code"] == manifest.read(places.out).code
    assert found["descent"] == {"licence": "llama3", "how": found["descent"]["how"], "parents": ["meta-llama/Meta-Llama-3-8B"]}
    for name, entry in found["files"].items():
        assert manifest.file_hash(places.out / name) == entry["sha256"]
    assert set(found["files"]) == set(hub.sending(places.out)) - {"provenance.json"}


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def foreign(places, tmp_path):
    return directories.write_model(tmp_path / "foreign")


def half_there(places, tmp_path):
    model = shutil.copytree(places.child, tmp_path / "half")
    (model / "model.safetensors").unlink()
    return model


def half_of_the_weights(places, tmp_path):
    model = directories.write_model(tmp_path / "half", shard_bytes=60_000)
    hf_weights.weight_files(model)[1].unlink()
    return model


def no_tokenizer(places, tmp_path):
    model = directories.write_model(tmp_path / "mute")
    (model / "tokenizer.json").unlink()
    return model


def small_embedding(places, tmp_path):
    return directories.write_model(tmp_path / "small", vocab=290)


def one_word_more(places, tmp_path):
    model = directories.write_model(tmp_path / "larger")
    directories.add_token(model, special=False)
    return model


def another_form_of_tokenizer(places, tmp_path):
    model = no_tokenizer(places, tmp_path)
    (model / tokenizers.MODEL_FILE).write_bytes(b"\n")
    return model


def of_another_llama(places, tmp_path):
    llama = shutil.copytree(places.llama, tmp_path / "Llama-3.1-8B")
    (llama / "LICENSE").write_bytes(LICENCE.replace(b"META LLAMA 3 ", b"LLAMA 3.1 "))
    return directories.write_trained(tmp_path / "child", start=llama)


def without_theta(places, tmp_path):
    model = directories.write_model(tmp_path / "lost")
    edit_json(model / "config.json", lambda fields: (fields.pop("rope_theta"), fields.pop("rope_parameters")))
    return model


def of_llama_without(name):
    def make(places, tmp_path):
        llama = shutil.copytree(places.llama, tmp_path / "Meta-Llama-3-8B")
        (llama / name).unlink()
        return directories.write_trained(tmp_path / "child", start=llama)

    return make


def of_llama_2(places, tmp_path):
    llama = shutil.copytree(places.llama, tmp_path / "Llama-2-7b")
    (llama / "LICENSE").write_text("LLAMA 2 COMMUNITY LICENSE AGREEMENT")
    return directories.write_trained(tmp_path / "child", start=llama)


def of_a_llama_of_another_name(places, tmp_path):
    return directories.write_trained(tmp_path / "child", start=shutil.copytree(places.llama, tmp_path / "downloaded"))


def of_a_changed_parent(places, tmp_path):
    first = directories.write_trained(tmp_path / "first", start=None)
    second = directories.write_trained(tmp_path / "second", start=first)
    shutil.rmtree(first)
    directories.write_trained(first, start=None, dtype="float32")
    return second


def child(places, tmp_path):
    return places.child


def fresh(places, tmp_path):
    return places.fresh


REFUSED = {
    "a name that breaks the licence": (child, {"name": "Open-Ko-8B"}, "begin with 'Llama 3' or 'Llama-3'"),
    "a name that claims a parent": (fresh, {"name": "Llama-3-tiny", "licence": "mit"}, "no Llama parent"),
    "no name": (child, {"name": " "}, "is no name"),
    "a name that would break the card's tables": (child, {"name": "Llama-3|x"}, "is no name"),
    "a name with a blank at its end": (child, {"name": "Llama-3 "}, "is no name"),
    "a repository that the Hub would not take": (child, {"repository": "me/Llama-3 x"}, "--repo 'me/Llama-3 x'"),
    "a repository whose name breaks it": (child, {"repository": "me/open-ko"}, "begin with"),
    "an author of two lines": (child, {"author": "A\nB"}, "on one line"),
    "no author": (child, {"author": ""}, "lacks fields: --author"),
    "no licence for an exempt model": (fresh, {"name": "tiny", "author": ""}, "lacks fields: --author.*; --licence"),
    "Llama's licence for an exempt model": (fresh, {"name": "tiny", "licence": "llama3"}, "no Llama parent"),
    "Llama's licence in capitals for one": (fresh, {"name": "tiny", "licence": "Llama3"}, "no Llama parent"),
    "another licence than Llama's": (child, {"licence": "mit"}, "is under its licence, llama3"),
    "no name of the parent": (of_a_llama_of_another_name, {}, "lacks fields: --base-model"),
    "no name of the Hub's kind": (child, {"base_model": "llama"}, "--base-model 'llama': write OWNER/NAME"),
    "an unknown parent": (foreign, {}, "is not known .*--parent"),
    "a parent that has changed": (of_a_changed_parent, {}, "has changed since it was used"),
    "no parent, against the manifests": (child, {"parent": "none"}, "carries a Llama licence"),
    "another parent than the manifests'": (of_another_llama, {"parent": "Llama 3"}, "which is under that of Llama 3.1: leave it out"),
    "a parent that is not there": (child, {"parent": "nowhere"}, "parent nowhere does not exist"),
    "a parent without licence": (of_llama_without("LICENSE"), {"parent": None}, "is not known|LICENSE"),
    "a parent without use policy": (of_llama_without("USE_POLICY.md"), {}, "has no USE_POLICY.md.*meta-llama/Meta-Llama-3-8B"),
    "a parent under another Llama's licence": (of_llama_2, {}, "the licence of Llama 2"),
    "no weights": (half_there, {}, "neither model.safetensors"),
    "half of the weights": (half_of_the_weights, {"parent": "none"}, "is missing: download it again"),
    "no tokenizer": (no_tokenizer, {"parent": "none"}, "tokenizer.json does not exist"),
    "a tokenizer larger than the embedding": (small_embedding, {"parent": "none"}, "ids up to 299, but the embedding has 290 rows"),
    "one word that the embedding has no row for": (one_word_more, {"parent": "none"}, "ids up to 300, but the embedding has 300 rows"),
    "a tokenizer in another form": (another_form_of_tokenizer, {"parent": "none"}, "tokenizer.json does not exist.*saves this one"),
    "a text that is not there": (child, {"text": Path("nowhere.txt")}, "nowhere.txt cannot be read"),
    "no θ": (without_theta, {"parent": "none"}, "rope_theta is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_reason_and_nothing_is_written(places, tmp_path, case):
    make, how, message = REFUSED[case]
    model, out = make(places, tmp_path), tmp_path / "somewhere" / "out"
    if how.get("parent") == "Llama 3":
        how = how | {"parent": str(places.llama)}
    with pytest.raises(InputError, match=message):
        release(model, out, **how)
    assert not out.parent.exists()


@pytest.mark.parametrize("content", ["{}", '{"results": {}}', '{"results": {"haerae": {"alias": "haerae"}}}', "[1]", "not json"])
def test_results_that_are_none_are_refused(places, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match="not a results file"):
        release(places.child, tmp_path / "somewhere" / "out", results=tmp_path / "results.json")
    assert not (tmp_path / "somewhere").exists()


def test_a_model_that_fails_its_audit_is_not_released(places, tmp_path):
    model = directories.write_model(tmp_path / "model")
    overwrite(model, "model.norm.weight", np.array([np.nan]))
    with pytest.raises(InputError, match="does not pass its audit, and nothing was written: finite: NaN or infinite: 1 of"):
        release(model, tmp_path / "somewhere" / "out", parent=str(places.llama))
    assert not (tmp_path / "somewhere").exists()  # not even its lock


def test_a_release_that_was_there_outlives_a_refused_one(places, tmp_path):
    release(places.fresh, tmp_path / "tiny", name="tiny", licence="mit")
    before = everything_in(tmp_path / "tiny")
    with pytest.raises(InputError):
        release(places.fresh, tmp_path / "tiny", name="Llama-tiny", licence="mit")
    assert everything_in(tmp_path / "tiny") == before


@pytest.mark.parametrize("moment", ["carry", "write", "write_json", "audit"])
def test_cut_off_anywhere_there_is_no_directory_and_the_next_call_makes_the_whole(places, tmp_path, monkeypatch, moment):
    """KeyboardInterrupt stands for a kill: nothing of ours catches it."""
    release(places.child, tmp_path / "reference", year=2026)
    module = {"carry": weights, "write": making.configs, "write_json": manifest, "audit": auditing}[moment]

    def killed(*arguments, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, moment, killed)
        release(places.child, tmp_path / "out", year=2026)
    assert not (tmp_path / "out").exists()
    release(places.child, tmp_path / "out", year=2026)
    reference, found = everything_in(tmp_path / "reference"), everything_in(tmp_path / "out")
    assert found == reference


# ── push ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class StandInForTheHub:
    """Notes what the Hub would be asked; no network."""

    asked: list

    def create_repo(self, repository, **how):
        self.asked.append(("create_repo", repository, how))

    def create_branch(self, repository, **how):
        self.asked.append(("create_branch", repository, how))

    def upload_folder(self, *, folder_path, allow_patterns, **how):
        self.asked.append(("upload_folder", sorted(allow_patterns), how))
        return SimpleNamespace(commit_url="https://hub.invalid/commit/1")


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(StandInForTheHub, "asked", [], raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", StandInForTheHub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_stand_in")
    return StandInForTheHub


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **how):
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_a_dry_run_lists_what_would_go_without_token_or_network(places, monkeypatch, no_network):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    answer = hub.push(places.out, "me/Llama-3-Ko", dry_run=True, say=quiet)
    assert answer["files"] == {n: len(c) for n, c in everything_in(places.out).items() if n != "manifest.json"}
    assert answer["url"] is None and answer["bytes"] == sum(answer["files"].values())


def test_a_push_sends_exactly_the_files_of_the_dry_run(places, stand_in):
    planned = hub.push(places.out, "me/Llama-3-Ko", dry_run=True, say=quiet)["files"]
    assert stand_in.asked == []
    answer = hub.push(places.out, "me/Llama-3-Ko", private=True, revision="v1", say=quiet)
    (made, branched, sent) = stand_in.asked
    assert made == ("create_repo", "me/Llama-3-Ko", {"private": True, "exist_ok": True})
    assert branched == ("create_branch", "me/Llama-3-Ko", {"branch": "v1", "exist_ok": True})
    assert sent[1] == sorted(planned) and sent[2]["repo_id"] == "me/Llama-3-Ko" and sent[2]["revision"] == "v1"
    assert answer["url"] == "https://hub.invalid/commit/1"


def test_the_audit_of_an_unchanged_release_is_not_done_twice(places, monkeypatch):
    monkeypatch.setattr(auditing, "audit", lambda *a, **k: pytest.fail("audited again"))
    hub.push(places.out, "me/Llama-3-Ko", dry_run=True, say=quiet)


def test_a_file_that_changed_after_the_audit_is_not_sent(places, tmp_path, stand_in):
    out = shutil.copytree(places.out, tmp_path / NAME)
    (out / "README.md").write_text(card_of(out).replace("Llama", "Lamma", 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"README.md has changed"):
        hub.push(out, "me/Llama-3-Ko", say=quiet)
    shutil.copytree(places.out, out, dirs_exist_ok=True)
    (out / "notes.txt").write_text("private")
    with pytest.raises(InputError, match=r"notes.txt came after the audit"):
        hub.push(out, "me/Llama-3-Ko", say=quiet)
    assert stand_in.asked == []


def test_a_directory_that_fails_its_audit_is_not_sent(tmp_path, stand_in):
    model = directories.write_model(tmp_path / "model")
    with pytest.raises(InputError, match=r"nothing was sent: card: there is no README.md"):
        hub.push(model, "me/model", say=quiet)
    assert stand_in.asked == []


@pytest.mark.parametrize(
    ("repository", "message"), [("model", "OWNER/NAME"), ("me/open-ko", "begin with"), ("me/a b", "repository"), ("a/b/c", "OWNER/NAME")]
)
def test_a_repository_of_a_wrong_name_is_refused(places, stand_in, repository, message):
    with pytest.raises(InputError, match=message):
        hub.push(places.out, repository, say=quiet)
    assert stand_in.asked == []


def test_a_foreign_directory_goes_with_a_manifest_of_somebody_elses_and_without_its_folders(tmp_path):
    model = directories.write_model(tmp_path / "model")
    directories.write_card(model)
    (model / "manifest.json").write_text('{"name": "of a web page"}')
    (model / "original").mkdir()
    said = []
    assert "original" not in hub.push(model, "me/model", dry_run=True, say=said.append)["files"]
    assert "folders stay here: original" in said


def test_metas_own_model_is_not_passed_on_as_it_lies_there(tmp_path, stand_in):
    llama = directories.write_llama(tmp_path / "Meta-Llama-3-8B")
    directories.write_card(llama, license="llama3")
    with pytest.raises(InputError, match="is Meta's own model"):
        hub.push(llama, "me/Llama-3-8B", say=quiet)
    assert stand_in.asked == []


def test_without_a_token_the_message_says_how_to_get_one(places, stand_in, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match=r"hf auth login.*HF_TOKEN"):
        hub.push(places.out, "me/Llama-3-Ko", say=quiet)
    assert stand_in.asked == []


class LocalHub(http.server.BaseHTTPRequestHandler):
    """Stands in for the Hub on this machine: takes what the real client sends, and keeps the files of a commit."""

    committed: dict

    @property
    def mine(self):
        return f"http://{self.headers['Host']}"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/preupload/main"):
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.mine}/me/Llama-3-Ko/commit/1", "commitOid": "1", "success": True})
        else:
            self.answer({"url": f"{self.mine}/me/Llama-3-Ko", "id": "me/Llama-3-Ko"})

    def do_GET(self):
        self.answer({"id": "me/Llama-3-Ko", "sha": "0", "siblings": []})

    def answer(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


def test_what_the_real_client_sends_arrives_byte_by_byte(places, monkeypatch):
    LocalHub.committed = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LocalHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=endpoint, token="hf_local"))
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_local")
        answer = hub.push(places.out, "me/Llama-3-Ko", say=quiet)
        server.shutdown()
    assert LocalHub.committed == {name: (places.out / name).read_bytes() for name in answer["files"]}
    assert answer["url"].endswith("/commit/1")


def test_a_hub_that_does_not_answer_is_one_message(places, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and no one listens
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=endpoint, token="hf_local"))
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_local")
        with pytest.raises(InputError, match=r"me/Llama-3-Ko could not be sent .*check the network"):
            hub.push(places.out, "me/Llama-3-Ko", say=quiet)


@pytest.mark.parametrize("problem", [ConnectionError("no route"), "http"])
def test_what_the_hub_or_the_network_refuses_is_one_message(places, stand_in, monkeypatch, problem):
    if problem == "http":
        answer = SimpleNamespace(headers={}, request=None, status_code=403)
        problem = HfHubHTTPError("403 Forbidden", response=answer)

    def refuse(self, *arguments, **how):
        raise problem

    monkeypatch.setattr(stand_in, "create_repo", refuse)
    with pytest.raises(InputError, match="me/Llama-3-Ko"):
        hub.push(places.out, "me/Llama-3-Ko", say=quiet)


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def command():
    app = typer.Typer()
    app.command("release")(commands.release)
    app.command("push")(commands.push)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_releases_and_prints_one_json_object(places, tmp_path, command):
    done = command("release", places.fresh, "--name", "tiny", "--author", AUTHOR, "--licence", "mit", "--out", tmp_path / "tiny", "--json")
    assert done.exit_code == 0, done.exception
    answer = json.loads(done.stdout)
    assert answer["passed"] and answer["name"] == "tiny" and (tmp_path / "tiny" / "README.md").is_file()


def test_the_command_refuses_without_a_traceback_of_its_own(places, tmp_path, command):
    done = command("release", places.child, "--name", "Open-Ko", "--author", AUTHOR, "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError) and not (tmp_path / "out").exists()  # cli.main prints it and ends with 2


def test_the_dry_run_prints_a_file_a_line(places, command):
    done = command("push", places.out, "me/Llama-3-Ko", "--dry-run")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len(lines) == len(hub.sending(places.out)) + 1 and lines[-1].endswith("nothing was sent")
    assert json.loads(command("push", places.out, "me/Llama-3-Ko", "--dry-run", "--json").stdout)["url"] is None
