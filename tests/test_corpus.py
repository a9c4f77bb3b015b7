"""openko.corpus.build and pack, openko.training.chat_data: nothing vanishes, order is by content, held-out stays held out."""

import errno
import importlib.metadata
import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from corpus_text import english, korean, write_jsonl

from openko import manifest, shards, tokenizers
from openko.corpus import arrange, build, clean, engines, pack, packages, parts, recipe, report, runs, tasks
from openko.corpus.clean import is_hangul
from openko.errors import InputError
from openko.training import chat_data

# ── building ─────────────────────────────────────────────────────────────────────────────────────────────────────

KO = [{"id": f"ko/{n}", "text": korean(n)} for n in range(60)]
EN = [{"id": f"en/{n}", "text": english(n)} for n in range(40)]
BAD = [{"id": "short", "text": "짧다"}, {"id": "english", "text": english(100)}, {"id": "copy", "text": korean(3) + "\u200b\n"}]
SOURCES = [
    {"name": "first", "reader": "jsonl", "path": "ko/*.jsonl", "licence": "CC0", "language": "ko", "priority": 1},
    {"name": "second", "reader": "jsonl", "path": "more/*.jsonl", "licence": "CC-BY", "language": "ko", "priority": 2},
    {"name": "english", "reader": "jsonl", "path": "en/*.jsonl", "licence": "CC0", "language": "en", "priority": 1},
]
PARTS = ("ko.train", "ko.heldout", "en.train", "en.heldout")


@pytest.fixture
def make(tmp_path):
    """Build a corpus of given documents under a name in tmp_path; the input lies in NAME-data."""

    def run(name, ko=KO, more=BAD, en=EN, *, files=1, workers=1, **fields):
        data = tmp_path / f"{name}-data"
        for folder, documents in (("ko", ko), ("more", more), ("en", en)):
            for number in range(files):
                write_jsonl(data / folder / f"{number}.jsonl", documents[number::files])
        made = recipe.parse({"name": "made-up", "held-out": 0.1, "sources": SOURCES} | fields, where="test")
        return build.build(tmp_path / name, made, data=data, engine=engines.Local(workers), say=lambda line: None)

    return run


def texts(directory, part):
    return [d["text"] for d in parts.read(directory, part)] if part in manifest.read(directory).facts["files"] else []


def rejected(directory):
    return [json.loads(line) for line in (directory / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


def total(counters, name="documents"):
    """Of {…: {…: {"documents", "bytes"}}}."""
    return sum(c[name] for inner in counters.values() for c in inner.values())


@pytest.mark.parametrize("fields", [{}, {"max-bytes": {"ko": 9_000, "en": 5_000}}, {"max-bytes": {"ko": 1}}], ids=str)
def test_nothing_vanishes_what_is_not_kept_is_counted(make, fields):
    facts = make("corpus", **fields).facts
    assert sum(counts["documents"] for counts in facts["read"].values()) == len(KO + BAD + EN)
    assert total(facts["kept"]) + total(facts["rejected"]) == len(KO + BAD + EN)


def test_the_rejected_keep_their_reason_and_text_and_copies_their_original(make, tmp_path):
    facts = make("corpus").facts
    assert {reason: c["documents"] for reason, c in facts["rejected"]["second"].items()} == {
        "too-short": 1,
        "not-korean": 1,
        "exact-copy": 1,
    }
    assert not facts["rejected"]["first"] and not facts["rejected"]["english"]
    found = {r["id"]: r for r in rejected(tmp_path / "corpus")}
    assert len(found) == len(rejected(tmp_path / "corpus")) == 3
    assert found["second/short"] | {"place": ""} == {
        "id": "second/short", "source": "second", "place": "", "reason": "too-short", "value": 2, "threshold": 50, "text": "짧다",
    }  # fmt: skip
    assert found["second/copy"]["copy_of"] == "first/ko/3"


def test_of_equal_texts_the_one_from_the_source_with_the_smallest_priority_stays(make, tmp_path):
    make("corpus", more=KO)
    kept = parts.read(tmp_path / "corpus", "ko.train") + parts.read(tmp_path / "corpus", "ko.heldout")
    assert {d["source"] for d in kept} == {"first"} and len(kept) == len(KO)
    turned = [s | {"priority": 3 - s["priority"]} if s["language"] == "ko" else s for s in SOURCES]
    make("turned", more=KO, sources=turned)
    assert {d["source"] for d in parts.read(tmp_path / "turned", "ko.train")} == {"second"}


def test_documents_keep_source_place_and_licence(make, tmp_path):
    make("corpus", files=2)
    for part in PARTS:
        for d in parts.read(tmp_path / "corpus", part):
            assert d["language"] == part[:2] and d["id"].startswith(d["source"] + "/")
            file, _, position = d["place"].partition("#")
            line = (tmp_path / "corpus-data" / file).read_bytes()[int(position) :].splitlines()[0]
            assert json.loads(line)["text"] == d["text"]
    licences = {d["source"]: d["licence"] for part in PARTS for d in parts.read(tmp_path / "corpus", part)}
    assert licences == {"first": "CC0", "english": "CC0"}


def test_facts_count_documents_and_bytes_of_each_part(make, tmp_path):
    facts = make("corpus").facts
    for part in PARTS:
        found = texts(tmp_path / "corpus", part)
        assert sum(c["documents"] for c in facts["kept"][part].values()) == len(found)
        assert sum(c["bytes"] for c in facts["kept"][part].values()) == sum(len(t.encode()) for t in found)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_training_and_held_out_documents_are_disjoint_and_hold_their_shares(make, tmp_path, language):
    make("corpus")
    train, heldout = (texts(tmp_path / "corpus", f"{language}.{part}") for part in ("train", "heldout"))
    assert not set(train) & set(heldout) and train and heldout
    held, size = (sum(len(t.encode()) for t in some) for some in (heldout, heldout + train))
    assert 0 <= held - 0.1 * size <= max(len(t.encode()) for t in heldout)


def shuffled(documents):
    return random.Random(0).sample(documents, len(documents))


def without_places(directory, part):
    return [{k: v for k, v in d.items() if k != "place"} for d in parts.read(directory, part)]


@pytest.fixture
def small_files(monkeypatch):
    """Files, runs and tasks of a few kB, so that there are many of each."""
    monkeypatch.setattr(arrange, "FILE_BYTES", 5_000)
    monkeypatch.setattr(runs, "RUN_BYTES", 7_000)
    monkeypatch.setattr(build, "TASK_BYTES", 9_000)


def test_documents_are_the_same_however_they_lie_in_files_and_whoever_works(make, tmp_path, small_files):
    copies = [d | {"id": f"again/{d['id']}"} for d in KO[10:20]]
    make("one", ko=KO + copies)
    made = make("many", ko=shuffled(KO + copies), more=shuffled(BAD), en=shuffled(EN), files=5)
    assert len(made.facts["files"]["ko.train"]) > 5 and total(made.facts["rejected"]) == 13
    for part in PARTS:
        assert without_places(tmp_path / "one", part) == without_places(tmp_path / "many", part)


def test_two_processes_make_the_same_bytes_as_one(make, tmp_path):
    assert make("one", files=3).content == make("two", files=3, workers=2).content


def test_a_build_that_was_cut_off_goes_on_and_ends_in_the_same_bytes(make, tmp_path, small_files, monkeypatch):
    whole, done = make("whole", files=4), []
    really = tasks.Task.do

    def cut(task):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(task.path.parent.name + "/" + task.path.stem)
        really(task)

    for stop in (2, 5, 12):  # noqa: B007 (read by `cut`)
        monkeypatch.setattr(tasks.Task, "do", cut)
        with pytest.raises(KeyboardInterrupt):
            make("cut", files=4)
    monkeypatch.setattr(tasks.Task, "do", really)
    made = make("cut", files=4)
    assert len(done) == len(set(done)) == 12, "a finished task was done again"
    assert made.content == whole.content and not (tmp_path / "cut.partial").exists()


def test_another_recipe_makes_the_corpus_anew_and_the_same_one_does_not(make, tmp_path):
    first = make("corpus")
    before = (tmp_path / "corpus" / "ko.train-00000.jsonl").stat().st_ino
    assert make("corpus").content == first.content and (tmp_path / "corpus" / "ko.train-00000.jsonl").stat().st_ino == before
    assert make("corpus", filters={"too-short": 1}).facts["kept"] != first.facts["kept"]


def test_texts_that_share_an_id_all_stay_and_are_told_apart_by_their_place(make, tmp_path):
    """Own ids that begin anew in every file are common; a text is not thrown away for its name."""
    facts = make("corpus", ko=[*KO, {"id": "ko/7", "text": korean(500)}], more=[{"id": "ko/7", "text": korean(7)}]).facts
    assert facts["renamed"] == {"first": 2} and "2 documents share their id" in facts["warnings"][0]
    kept = {d["id"]: d["text"] for part in ("ko.train", "ko.heldout") for d in parts.read(tmp_path / "corpus", part)}
    assert len(kept) == len(KO) + 1
    seventh = {name: text for name, text in kept.items() if name.startswith("first/ko/7@ko/0.jsonl#")}
    assert set(seventh.values()) == {korean(7), korean(500)} and "first/ko/7" not in kept


def test_a_cap_is_kept_to_and_takes_the_first_in_order(make, tmp_path):
    make("whole")
    facts = make("capped", **{"max-bytes": {"ko": 9_000}}).facts
    size = sum(c["bytes"] for part in ("ko.train", "ko.heldout") for c in facts["kept"][part].values())
    assert 7_000 < size <= 9_000
    everything, some = ([t for part in ("ko.heldout", "ko.train") for t in texts(tmp_path / name, part)] for name in ("whole", "capped"))
    assert some == everything[: len(some)]


def test_what_cannot_be_read_is_kept_with_its_reason(make, tmp_path):
    make("corpus")
    data = tmp_path / "broken-data"
    write_jsonl(data / "ko" / "0.jsonl", KO)
    with open(data / "ko" / "0.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": 1, "text": \n{"id": 2}\n{"id": 3, "text": "' + "가나다 " * 40 + '\\ud800"}\n')
    made = recipe.parse({"name": "broken", "sources": SOURCES[:1]}, where="test")
    facts = build.build(tmp_path / "broken", made, data=data, say=lambda line: None).facts
    assert facts["faults"] == {"first": {"invalid-json": 1, "missing-field": 1, "wrong-encoding": 1}}
    lines = [json.loads(line) for line in (tmp_path / "broken" / "faults.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["reason"] for line in lines} == set(facts["faults"]["first"])
    assert all(line["place"].startswith("ko/0.jsonl#") and line["detail"] and line["source"] == "first" for line in lines)
    assert total(facts["kept"]) == len(KO)


def test_a_corpus_that_keeps_nothing_or_little_says_so(make):
    assert "no document was kept" in make("nothing", ko=[], more=[], en=[]).facts["warnings"]
    some = [{"id": n, "text": "짧다"} for n in range(3)]
    assert "source second: 3 of 3 documents were refused" in make("little", more=some).facts["warnings"]


def test_sources_can_be_left_out(make):
    made = recipe.parse({"name": "x", "sources": SOURCES}, where="test")
    assert [s.name for s in made.without(["second"]).sources] == ["first", "english"]
    with pytest.raises(InputError, match="x has no source 'third'; there are first, second, english"):
        made.without(["third"])


def test_examples_show_what_a_rule_changed(make):
    facts = make("corpus", ko=[{"id": "a", "text": "앞\u200b뒤. " + korean(1)}]).facts
    [example] = facts["examples"]["cleaned"]["control-characters"][:1]
    assert "\u200b" in example["before"] and example["after"].startswith(example["before"].replace("\u200b", ""))
    assert facts["cleaned"]["control-characters"]["documents"] == 2  # the copy in BAD has one too


PHONE, MAIL = "010-1234-5678", "hong@example.com"
# Every rule that has something to do in a text with a number or an address; some write it so that only a later rule finds it.
PERSONAL = {
    "personal-data": f"문의: {PHONE}, {MAIL}로 주세요. ",
    "spaces": f"전화 {PHONE} \n\n\n\n로 주세요. ",
    "control-characters": f"{PHONE}\u200b. ",
    "hidden by a zero-width space": "010-12\u200b34-5678로 주세요. ",
    "entities": f"A &amp; B, {PHONE}. ",
    "hidden by an entity": "hong&#64;example.com 으로. ",
    "boilerplate": f"홍길동 기자 {MAIL}\n",
    "boilerplate and an entity": "홍길동 기자 hong&#64;example.com\n",
}


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "the recipe leaves it in"])
@pytest.mark.parametrize("text", PERSONAL.values(), ids=PERSONAL)
def test_nothing_that_is_written_beside_the_documents_shows_personal_data(make, tmp_path, text, masked):
    fields = {} if masked else {"clean": [rule for rule in clean.USUAL if rule != "personal-data"]}
    facts = make("corpus", ko=[{"id": "a", "text": text + korean(1)}], **fields).facts
    beside = json.dumps(facts, ensure_ascii=False) + report.write(tmp_path / "corpus").read_text(encoding="utf-8")
    plain = clean.clean(beside, ("entities", "control-characters"))[0].replace("⟨200B⟩", "")
    assert PHONE not in plain and MAIL not in plain
    for rule in facts["cleaned"]:  # and yet each has its place and its cleaned text
        assert facts["examples"]["cleaned"][rule][0]["id"] and facts["examples"]["cleaned"][rule][0]["after"]


def test_of_the_rule_that_takes_personal_data_only_the_cleaned_text_is_shown(make):
    facts = make("corpus", ko=[{"id": "a", "text": f"문의: 홍길동 {PHONE} \n\n\n\n로. " + korean(1)}]).facts
    [example] = facts["examples"]["cleaned"]["personal-data"]
    assert set(example) == {"id", "after"} and example["after"].startswith("문의: 홍길동 <전화번호>")
    assert facts["examples"]["cleaned"]["spaces"][0]["before"].startswith("문의: 홍길동 <전화번호> \n\n\n\n로. ")


def test_a_fault_that_quotes_its_record_masks_it(tmp_path):
    write_jsonl(tmp_path / "data" / "ko" / "0.jsonl", [{"id": "a", "text": korean(1)}, {"id": "b", MAIL: PHONE}])
    build.build(tmp_path / "other", recipe.parse({"name": "x", "sources": SOURCES[:1]}, where="test"), data=tmp_path / "data")
    assert "<전자우편>" in (found := (tmp_path / "other" / "faults.jsonl").read_text(encoding="utf-8")) and MAIL not in found


def test_documents_with_evaluation_questions_leave_with_the_question(make, tmp_path):
    question = korean(7)[30:130]
    write_jsonl(tmp_path / "corpus-data" / "eval" / "exam.jsonl", [{"question": question, "A": "1", "B": "2", "C": "3", "D": "4"}])
    facts = make("corpus", decontaminate={"files": ["eval/*.jsonl"]}).facts
    assert facts["rejected"]["first"] == {"contaminated": {"documents": 1, "bytes": len(korean(7).encode())}}
    [aside] = [r for r in rejected(tmp_path / "corpus") if r["reason"] == "contaminated"]
    assert aside["id"] == "first/ko/7" and aside["question"]["piece"] in korean(7) and "exam" in aside["question"]["dataset"]


def test_bad_input_is_named(make, tmp_path):
    with pytest.raises(InputError, match=r"corpus is missing.*notebooks: 01_tokenizers"):
        parts.read(tmp_path / "corpus", "ko.train")
    make("corpus")
    with pytest.raises(InputError, match=r"no part 'ko.test'; there are .*ko.train"):
        parts.read(tmp_path / "corpus", "ko.test")
    with pytest.raises(InputError, match="nowhere is no folder"):
        build.build(tmp_path / "x", recipe.load("laptop"), data=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sources": []}, "sources is empty"),
        ({"name": 3}, "name must be a text, found 3"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"sources": [SOURCES[0], SOURCES[0]]}, "more than one source is called first"),
        ({"sources": [SOURCES[0] | {"reader": "pdf"}]}, r"no reader 'pdf'; there are .*jsonl"),
        ({"sources": [SOURCES[0] | {"language": "jp"}]}, "language is one of ko, en, found 'jp'"),
        ({"sources": [SOURCES[0] | {"split": "train"}]}, "reader jsonl has no split .train.; it knows none"),
        ({"sources": [SOURCES[0] | {"weight": -1}]}, "weight says how often"),
        ({"sources": [SOURCES[0] | {"txet": "body"}]}, "unknown field 'txet'"),
        ({"sources": [{k: v for k, v in SOURCES[0].items() if k != "licence"}]}, "licence is missing"),
        ({"sources": [{k: v for k, v in SOURCES[0].items() if k != "path"}]}, "reader jsonl needs a path"),
        ({"clean": ["nfd"]}, r"no cleaning rule 'nfd'; there are .*nfc"),
        ({"filters": {"too-shrot": 3}}, "too-shrot"),
        ({"sources": [SOURCES[0] | {"text": ["a", "b"]}]}, "text must be a text or a whole number or true or false"),
        ({"sources": [SOURCES[0] | {"reader": ["jsonl"]}]}, "reader must be a text"),
        ({"sources": [SOURCES[0] | {"path": [1]}]}, "a list of texts is needed, found 1 in it"),
        ({"clean": [["nfc"]]}, "a list of texts is needed"),
        ({"max-bytes": {"ko": True}}, "max-bytes is"),
        ({"decontaminate": {"files": [1]}}, "a list of texts is needed"),
        ({"held-out": 1.0}, "held-out is a share"),
        ({"max-bytes": {"ko": "1 GB"}}, "max-bytes is"),
        ({"decontaminate": {"file": []}}, "decontaminate: unknown field 'file'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_recipe_is_refused_with_its_field(change, said):
    with pytest.raises(InputError, match=said):
        recipe.parse({"name": "x", "sources": SOURCES} | change, where="corpus.yaml")


def test_a_recipe_is_read_from_yaml_and_the_shipped_ones_are_sound(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nsources:\n  - {name: a, reader: jsonl, path: '*.jsonl', licence: CC0, language: ko}\n")
    assert recipe.load(tmp_path / "mine.yaml").sources[0].path == ("*.jsonl",)
    assert recipe.names() == ["koen", "laptop", "open-ko"]
    assert all(recipe.load(name).name == name for name in recipe.names())
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(InputError, match=r"broken\.yaml is not YAML"):
        recipe.load(tmp_path / "broken.yaml")
    with pytest.raises(InputError, match=r"nothing\.yaml cannot be read.*laptop"):
        recipe.load(tmp_path / "nothing.yaml")


def test_every_text_package_is_pinned():
    pins = packages.pinned()
    assert pins and all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    declared = [line for line in importlib.metadata.requires("openko") if re.search(r"extra == .text", line)]
    assert len(pins) == len(declared)


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def double(number):
    return {"doubled": 2 * number}


def dies(number):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def finds_the_disk_full(number):
    raise OSError(errno.ENOSPC, "No space left on device", f"part-{number}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_a_build_clearly_and_leaves_nothing_under_its_name(tmp_path, workers):
    def make(partial):
        engine = engines.Local(workers)
        tasks.run(finds_the_disk_full, [(1,), (2,)], partial / manifest.SCRATCH, engine=engine, what="x", say=lambda line: None)

    with pytest.raises(InputError, match=r"no space left while writing .*corpus\.partial: free some and run again"):
        manifest.build(tmp_path / "corpus", kind="corpus", recipe={}, inputs={}, module="openko.errors", make=make)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_their_tasks(tmp_path, workers):
    asked, engine = [(n,) for n in range(7)], engines.Local(workers)
    found = tasks.run(double, asked, tmp_path / "results", engine=engine, what="doubling", say=lambda line: None)
    assert found == [{"doubled": 2 * n} for n in range(7)]


def test_a_worker_that_is_killed_is_said_to_be(tmp_path):
    with pytest.raises(InputError, match="worker process was ended from outside"):
        tasks.run(dies, [(1,), (2,)], tmp_path / "results", engine=engines.Local(2), what="dying", say=lambda line: None)


# ── shards and chats ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizers.train([d["text"] for d in KO + EN], 360, "tiny").save(directory)
    return directory


def test_packed_documents_stand_between_begin_and_end_of_text(make, tokenizer, tmp_path):
    make("corpus")
    made = pack.pack(tmp_path / "shards", corpus=tmp_path / "corpus", part="ko.train", tokenizer=tokenizer, say=lambda line: None)
    loaded, found = tokenizers.load(tokenizer), shards.TokenShards(tmp_path / "shards")
    begin, end = loaded[tokenizers.BEGIN], loaded[tokenizers.END]
    documents = texts(tmp_path / "corpus", "ko.train")
    assert [d.tolist() for d in found] == [[begin, *loaded.encode(t), end] for t in documents]
    assert found.tokenizer == loaded.fingerprint and made.facts["vocab_size"] == 360
    assert made.facts["bytes"] == sum(len(t.encode()) for t in documents)


def test_one_source_of_a_part_can_be_packed_alone(make, tokenizer, tmp_path):
    make("corpus", more=[{"id": n, "text": korean(1000 + n)} for n in range(20)])
    where = {"corpus": tmp_path / "corpus", "part": "ko.train", "tokenizer": tokenizer, "say": lambda line: None}
    documents = parts.read(tmp_path / "corpus", "ko.train")
    made = pack.pack(tmp_path / "one", source="second", **where)
    assert 0 < made.facts["documents"] == sum(d["source"] == "second" for d in documents) < len(documents)
    assert made.recipe["source"] == "second"
    with pytest.raises(InputError, match="no source 'nobody'; there are first, second, english"):
        pack.pack(tmp_path / "none", source="nobody", **where)
    with pytest.raises(InputError, match=r"ko\.train has no document of source 'english'"):
        pack.pack(tmp_path / "none", source="english", **where)


def test_bytes_and_tokens_are_known_for_every_document_by_source(make, tokenizer, tmp_path, small_files):
    make("corpus", more=[{"id": n, "text": korean(1000 + n)} for n in range(20)])
    made = pack.pack(
        tmp_path / "shards", corpus=tmp_path / "corpus", part="ko.train", tokenizer=tokenizer, engine=engines.Local(2),
        say=lambda line: None,
    )  # fmt: skip
    assert made.facts["shards"] > 3
    found, loaded = pack.per_document(tmp_path / "shards"), tokenizers.load(tokenizer)
    for source in ("first", "second"):
        documents = [d["text"] for d in parts.read(tmp_path / "corpus", "ko.train") if d["source"] == source]
        assert found[source][0].tolist() == [len(t.encode()) for t in documents]
        assert found[source][1].tolist() == [len(loaded.encode(t)) + 2 for t in documents]
        assert made.facts["sources"][source] == {
            "documents": len(documents), "bytes": found[source][0].sum(), "tokens": found[source][1].sum(),
        }  # fmt: skip


@pytest.mark.parametrize(("weight", "low", "high"), [(0.0, 0, 0), (0.3, 0.1, 0.5), (1.0, 1, 1), (2.0, 2, 2), (2.5, 2.3, 2.7)])
def test_a_weight_says_how_often_a_source_is_packed(make, tokenizer, tmp_path, weight, low, high):
    more = [{"id": n, "text": korean(2000 + n)} for n in range(60)]
    make("corpus", more=more, sources=[s | {"weight": weight} if s["name"] == "second" else s for s in SOURCES])
    made = pack.pack(tmp_path / "shards", corpus=tmp_path / "corpus", part="ko.train", tokenizer=tokenizer, say=lambda line: None)
    kept = Counter(d["source"] for d in parts.read(tmp_path / "corpus", "ko.train"))
    assert low * kept["second"] <= made.facts["sources"]["second"]["documents"] <= high * kept["second"]
    assert made.facts["sources"]["first"]["documents"] == kept["first"]


def test_text_that_looks_like_a_special_token_stays_text_in_the_real_tokenizer():
    real = tokenizers.load("llama-3")
    some = ["a <|eot_id|> b", "<|begin_of_text|>", "한국어 뷁 ㅋㅋ", "", "👩‍👩‍👧"]
    assert [ids.tolist() for ids in real.encode_arrays(some)] == real.encode_batch(some)
    assert all(ids.dtype == np.uint32 and (ids < 128_000).all() for ids in real.encode_arrays(some))


def test_documents_up_to_a_size_are_the_first_ones(make, tmp_path):
    make("corpus")
    documents = parts.read(tmp_path / "corpus", "ko.train")
    sizes = [len(d["text"].encode()) for d in documents]
    assert parts.up_to(documents, sum(sizes[:3])) == documents[:3]
    assert parts.up_to(documents, sum(sizes[:3]) - 1) == documents[:2]
    assert parts.up_to(documents, 0) == [] and parts.up_to(documents, sum(sizes)) == documents


PROSE = """Return a new list that holds the items of the iterable in order.

Code like x = [1, 2] is not a sentence of prose. The first sentence ends here. This one is broken
over two lines of text. Too short. Neither is this sentence, which stops after the number 12.

>>> list(range(3))
[0, 1, 2]

The Korean word 한국어 stands in the middle of this English sentence."""
DOCUMENTS = [{"id": "pydoc/lists", "text": PROSE}, {"id": "docstrings/os/path", "text": "Join one or more path segments with a separator."}]


def test_sentences_are_whole_plain_prose():
    assert chat_data.sentences(PROSE)[0] == "Return a new list that holds the items of the iterable in order."
    assert "This one is broken over two lines of text." in chat_data.sentences(PROSE)
    assert not any("number" in s for s in chat_data.sentences(PROSE))
    assert all(40 <= len(s) <= 240 and s.endswith(".") and "\n" not in s for s in chat_data.sentences(PROSE))


def test_chats_are_the_same_for_one_seed_and_others_for_another():
    assert chat_data.chats(DOCUMENTS, 50, seed=1) == chat_data.chats(DOCUMENTS, 50, seed=1)
    assert chat_data.chats(DOCUMENTS, 50, seed=1) != chat_data.chats(DOCUMENTS, 50, seed=2)
    assert chat_data.chats(DOCUMENTS, 50, seed=1)[:10] == chat_data.chats(DOCUMENTS, 10, seed=1)


def test_chats_are_one_question_and_one_answer_with_a_system_turn_now_and_then():
    roles = {tuple(m["role"] for m in chat) for chat in chat_data.chats(DOCUMENTS, 200, seed=0)}
    assert roles == {("user", "assistant"), ("system", "user", "assistant")}


def test_answers_are_sentences_of_the_documents_and_more_than_half_begin_with_a_heading():
    answers = [chat[-1]["content"] for chat in chat_data.chats(DOCUMENTS, 1000, seed=0)]
    assert all(a[-1] in ".!?" and not re.search(r"\d[.!?]$", a) for a in answers)
    small_talk = {answer for _, answer in chat_data.SMALL_TALK}
    about = [a for a in answers if a not in small_talk]
    headings = [a for a in about if a.startswith(("Lists. ", "Os.path. "))]
    known = {s for d in DOCUMENTS for s in chat_data.sentences(d["text"])}
    assert {a.removeprefix("Lists. ").removeprefix("Os.path. ") for a in about} == known
    assert 0.85 < len(about) / 1000 < 0.95 and 0.55 < len(headings) / len(about) < 0.65


def test_there_is_not_a_word_of_korean_in_the_chats():
    said = "".join(m["content"] for chat in chat_data.chats(DOCUMENTS, 500, seed=0) for m in chat)
    assert not any(is_hangul(c) for c in said)


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be kind."}]], ids=["no system", "system"])
def test_only_the_answer_and_its_end_of_turn_are_learned(tokenizer, system):
    loaded = tokenizers.load(tokenizer)
    chat = [*system, {"role": "user", "content": "Are all equal?"}, {"role": "assistant", "content": "Before the law."}]
    ids, mask = chat_data.encode(chat, loaded)
    answer = [*loaded.encode("Before the law."), loaded[tokenizers.TURN_END]]
    assert ids.tolist() == loaded.encode_chat(chat, add_generation_prompt=False)
    assert ids[mask == 1].tolist() == answer and mask[-len(answer) :].all()
    assert ids[mask == 0].tolist() == loaded.encode_chat(chat[:-1])


def test_chat_shards_carry_their_mask(make, tokenizer, tmp_path):
    make("corpus")
    made = chat_data.write_shards(
        tmp_path / "chats", corpus=tmp_path / "corpus", documents=DOCUMENTS, tokenizer=tokenizer, count=20, seed=0, say=lambda line: None
    )
    found, loaded = shards.TokenShards(tmp_path / "chats"), tokenizers.load(tokenizer)
    expected = [chat_data.encode(chat, loaded) for chat in chat_data.chats(DOCUMENTS, 20, seed=0)]
    for number, (ids, mask) in enumerate(expected):
        np.testing.assert_array_equal(found[number], ids)
        np.testing.assert_array_equal(found.mask(number), mask)
    assert made.facts["documents"] == 20 and made.facts["targets"] == sum(int(mask.sum()) for _, mask in expected)
