"""The harness through openko gives the numbers of the harness through torch, with its own tasks on files of the same form."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import typer
from conftest import lively_parameters, small_config
from corpus_text import english, korean, write_jsonl
from jax.sharding import Mesh
from typer.testing import CliRunner

pytest.importorskip("lm_eval", reason="needs openko[eval]")

from openko import bits_per_byte, decoding, hf_weights, llama, manifest, tokenizers
from openko.cli import evaluate as command
from openko.errors import InputError
from openko.evaluation import forgetting, scores, tasks, trees
from openko.evaluation.contamination import contamination
from openko.evaluation.harness import OpenkoLM

CONTEXT = 512
ALL = ["haerae", "kobest", "kmmlu_direct_math"]


def silent(line):
    pass


@pytest.fixture(scope="session", autouse=True)
def datasets_apart(tmp_path_factory):
    """What `datasets` writes while it reads files."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """A chat model's directory: a small Llama of random weights, and a tokenizer that has seen Korean."""
    made = tmp_path_factory.mktemp("model")
    trained = tokenizers.train([korean(n) for n in range(30)] + [english(n) for n in range(10)], 600, "test", specials=16)
    config = small_config(vocab_size=600, num_hidden_layers=2, max_position_embeddings=CONTEXT)
    ends = {"bos_token_id": trained[tokenizers.BEGIN], "eos_token_id": [trained[tokenizers.END], trained[tokenizers.TURN_END]]}
    hf_weights.save(made, config, lively_parameters(config), carried=ends)
    trained.save(made)
    return made


@pytest.fixture(scope="session")
def lm(directory):
    return OpenkoLM(directory, say=silent)


@pytest.fixture(scope="session")
def hflm(directory):
    return peer(directory)


def peer(directory, **options):
    """The harness's own model over transformers and torch."""
    pytest.importorskip("accelerate", reason="HFLM needs accelerate")
    from lm_eval.models.huggingface import HFLM

    with tasks.quiet():
        return HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=8)


def asked(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=("made-up", n, 1)) for n, a in enumerate(arguments)]


def answers(model, kind, arguments):
    with tasks.quiet():
        return getattr(model, kind)(asked(kind, arguments), disable_tqdm=True)


@pytest.fixture(scope="session")
def practice():
    """The harness's own requests for every practice task, three questions of each, two examples before each."""
    with tasks.quiet():
        loaded = tasks.load(ALL, data_dir=tasks.PRACTICE, num_fewshot=2)["tasks"]
        for task in loaded.values():
            task.set_config(key="num_fewshot", value=2)
            task.set_fewshot_seed(seed=1)
            task.build_all_requests(limit=3)
    return {name: [request.args for request in task.instances] for name, task in loaded.items()}


# ── the same numbers ─────────────────────────────────────────────────────────────────────────────────────────────


PAIRS = [
    (korean(1, 3), " 그래서 그렇다"), (korean(2, 3) + "  ", "예"), (korean(2, 3), " 아니오"), (english(3, 2) + "\n", "yes"),
    ("<|begin_of_text|>오늘", " 비가 온다"), ("", "하늘이 맑다"), ("", "<|begin_of_text|>하늘"), ("정답:", " (A)"), ("정답:", " (B)"),
    ("끝<|eot_id|>", "처음"),
]  # fmt: skip


def test_texts_become_the_ids_that_the_harness_makes_of_them(lm, hflm):
    with_context = [pair for pair in PAIRS if pair[0]]
    assert lm._pairs(with_context) == [hflm._encode_pair(*pair) for pair in with_context]
    assert [lm.tok_encode(text) for pair in PAIRS for text in pair if text] == [hflm.tok_encode(t) for pair in PAIRS for t in pair if t]
    assert lm.tok_encode("비", add_special_tokens=False) == hflm.tok_encode("비", add_special_tokens=False)
    assert (lm.eot_token_id, lm.prefix_token_id, lm.max_length) == (hflm.eot_token_id, hflm.prefix_token_id, hflm.max_length)


def test_log_likelihoods_are_those_of_torch(lm, hflm):
    ours, theirs = (answers(model, "loglikelihood", PAIRS) for model in (lm, hflm))
    np.testing.assert_allclose([a[0] for a in ours], [b[0] for b in theirs], atol=1e-3, rtol=0)
    assert [a[1] for a in ours] == [b[1] for b in theirs]


def test_whole_texts_longer_than_the_context_are_scored_as_torch_scores_them(lm, hflm):
    texts = [(korean(4, 60),), ("짧다",), (english(5),)]
    assert len(lm.tok_encode(texts[0][0])) > 2 * CONTEXT
    np.testing.assert_allclose(*(answers(model, "loglikelihood_rolling", texts) for model in (lm, hflm)), atol=1e-3 * CONTEXT**0.5, rtol=0)


def test_greedy_answers_are_those_of_torch(lm, hflm):
    how = {"until": ["다", "\n\n", "ing"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 30}
    prompts = [(korean(n, 1 + 3 * n), how) for n in range(5)] + [(korean(7, 90), {"until": "요", "max_gen_toks": 40}), (english(8), {})]
    assert answers(lm, "generate_until", prompts) == answers(hflm, "generate_until", prompts)


def test_every_task_has_the_log_likelihoods_of_torch(lm, hflm, practice):
    arguments = [pair for name, pairs in practice.items() for pair in pairs if not name.startswith("kmmlu_direct")]
    assert len(practice) == 11 and len(arguments) == 3 * (5 * 5 + 4 * 2 + 4)
    ours, theirs = (answers(model, "loglikelihood", arguments) for model in (lm, hflm))
    np.testing.assert_allclose([a[0] for a in ours], [b[0] for b in theirs], atol=1e-3, rtol=0)
    assert [a[1] for a in ours] == [b[1] for b in theirs]


@pytest.mark.slow
def test_the_answers_to_a_task_are_those_of_torch(lm, hflm, practice):
    ours, theirs = (answers(model, "generate_until", practice["kmmlu_direct_math"]) for model in (lm, hflm))
    assert ours == theirs


@pytest.mark.parametrize("chat", [False, True])
def test_every_score_is_that_of_torch(directory, chat):
    how = {"num_fewshot": 1, "limit": 3, "data_dir": tasks.PRACTICE, "apply_chat_template": chat, "say": silent}
    names = ["haerae_history"] if chat else ["haerae", "kobest"]
    ours = scores.score(directory, names, **how)
    theirs = scores.score(directory, names, **how, model=lambda place, **_: peer(place))
    assert {key: ours[key] for key in scores.KEYS if key in ours} == {key: theirs[key] for key in scores.KEYS if key in theirs}
    assert set(ours["n-shot"].values()) == {1} and ours["n-samples"]["haerae_history"]["effective"] == 3


def test_a_chat_is_written_as_the_harness_writes_it(lm, hflm):
    turns = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "안녕하세요."}, {"role": "user", "content": "뭐 해?"}]
    for how in ({"add_generation_prompt": True}, {"add_generation_prompt": False}):
        assert lm.apply_chat_template(turns, **how) == hflm.apply_chat_template(turns, **how)


# ── shared beginnings ────────────────────────────────────────────────────────────────────────────────────────────


def questions(seed=0, count=12, vocabulary=160):
    """Sequences of tokens, four answers to each of some questions, all after the same beginning; and how many tokens to score."""
    draw = np.random.default_rng(seed)
    header, sequences, scored = draw.integers(0, vocabulary, 40).tolist(), [], []
    for _ in range(count):
        question = header + draw.integers(0, vocabulary, draw.integers(3, 120)).tolist()
        for _ in range(4):
            answer = draw.integers(0, vocabulary, draw.integers(1, 9)).tolist()
            sequences.append(question + answer)
            scored.append(len(answer))
    return [*sequences, sequences[0], [*sequences[0][:-1], 3]], [*scored, scored[0], 1]


@pytest.fixture(scope="module")
def decoder():
    config = small_config()
    return decoding.from_parameters(config, lively_parameters(config))


def test_shared_beginnings_change_nothing(decoder):
    sequences, scored = questions()
    model = llama.build(decoder.config, lively_parameters(decoder.config))
    whole = jax.jit(lambda tokens: jax.nn.log_softmax(model.logits(model(tokens))))
    grown, _ = trees.grow(decoder.config, sequences, scored)
    assert sum(len(tree.tokens) for tree in grown) < 0.4 * sum(map(len, sequences))
    for tokens, last, (value, greedy) in zip(sequences, scored, trees.log_likelihoods(decoder, sequences, scored), strict=True):
        row = np.zeros((1, 256), np.int32)
        row[0, : len(tokens)] = tokens
        chances = np.asarray(whole(row)[0])[len(tokens) - 1 - last : len(tokens) - 1]
        assert abs(chances[np.arange(last), tokens[-last:]].sum() - value) < 1e-4
        assert greedy == (chances.argmax(axis=-1).tolist() == tokens[-last:])


def test_the_order_of_requests_changes_not_a_bit(decoder):
    sequences, scored = questions(1)
    first = trees.log_likelihoods(decoder, sequences, scored)
    order = np.random.default_rng(0).permutation(len(sequences))
    again = trees.log_likelihoods(decoder, [sequences[k] for k in order], [scored[k] for k in order])
    assert [again[place] for place in np.argsort(order)] == first


def test_a_greedy_answer_is_known_as_one(decoder):
    prompt = list(range(5, 30))
    (answer,) = decoder.generate([prompt], terminators=(), temperature=0.0, max_new_tokens=6)
    other = [*answer[:-1], (answer[-1] + 1) % 160]
    found = trees.log_likelihoods(decoder, [prompt + answer, prompt + other], [6, 6])
    assert [greedy for _, greedy in found] == [True, False]


def test_more_answers_than_one_place_holds(decoder):
    prompt = [4, 5, 6]
    found = trees.log_likelihoods(decoder, [[*prompt, token] for token in range(160)], [1] * 160)
    assert sum(np.exp(value) for value, _ in found) == pytest.approx(1, abs=1e-4)
    assert sum(greedy for _, greedy in found) == 1


def test_a_token_sees_its_own_stem_and_nothing_beside_it():
    tree = trees.Tree()
    for tokens, shared in (([1, 2, 3, 4], 0), ([1, 2, 3, 5, 6], 3), ([1, 7], 1)):
        tree.add(tokens, shared)
    tree.close()
    assert tree.tokens == [1, 2, 3, 4, 5, 6, 7] and tree.depth == [0, 1, 2, 3, 3, 4, 1]
    seen = [[tree.tokens[j] for j in range(i + 1) if i < tree.end[j]] for i in range(7)]
    assert seen == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 5, 6], [1, 7]]


def test_a_long_run_compiles_a_few_row_lengths(decoder):
    draw = np.random.default_rng(3)
    for seed in range(3):
        sequences = [draw.integers(0, 160, draw.integers(2, 700)).tolist() for _ in range(300)]
        sizes = [len(s) - 1 for s in sequences]
        classes = trees.lengths_for(sizes, 2048)
        assert sorted(n for numbers in classes.values() for n in numbers) == list(range(300))
        assert all(sizes[n] <= length for length, numbers in classes.items() for n in numbers)
        assert len(classes) <= 11 and sum(length * len(numbers) for length, numbers in classes.items()) < 1.25 * sum(sizes), seed


def test_what_was_compiled_serves_the_next_requests(decoder):
    trees.log_likelihoods(decoder, *questions(5))
    before = trees._layer._cache_size()
    trees.log_likelihoods(decoder, *questions(5, count=10))
    trees.log_likelihoods(decoder, *questions(6))
    assert trees._layer._cache_size() <= before + 1


def test_cut_over_devices_the_log_likelihoods_are_the_same(tmp_path):
    config = small_config(num_attention_heads=8, num_key_value_heads=4, hidden_size=64, tie_word_embeddings=True)
    hf_weights.save(tmp_path, config, lively_parameters(config))
    cut = decoding.load(tmp_path, mesh=Mesh(np.array(jax.devices()[:4]), ("tensor",)), say=silent)
    whole, parted = (trees.log_likelihoods(one, *questions(7, count=1)) for one in (decoding.load(tmp_path, say=silent), cut))
    np.testing.assert_allclose([a[0] for a in whole], [b[0] for b in parted], atol=1e-4, rtol=0)
    assert [a[1] for a in whole] == [b[1] for b in parted]


@pytest.mark.parametrize(("tokens", "scored"), [([1], 1), ([1, 2], 0), ([1, 2], 2), ([1] * 4098, 1)])
def test_sequences_that_cannot_be_scored_are_refused(decoder, tokens, scored):
    with pytest.raises(InputError, match="tokens to score at the end of"):
        trees.log_likelihoods(decoder, [tokens], [scored])


# ── prompts that do not fit, stops, draws ────────────────────────────────────────────────────────────────────────


def test_a_prompt_beyond_the_context_loses_its_beginning_is_counted_and_said(directory):
    lm = OpenkoLM(directory, say=silent)
    long = korean(9, 90)
    found = answers(lm, "loglikelihood", [(long, " 그렇다"), ("짧다", " 그렇다"), (long, " 아니다")])
    assert lm.truncated == {("made-up", 0), ("made-up", 2)}
    ids = lm._pairs([(long, " 그렇다")])[0]
    kept = (ids[0] + ids[1])[-CONTEXT - 1 :]
    assert found[0] == pytest.approx(trees.log_likelihoods(lm.decoder, [kept], [len(ids[1])])[0], abs=1e-4)
    result = scores.score(directory, ["haerae_history"], num_fewshot=9, limit=2, data_dir=tasks.PRACTICE, say=silent)
    assert result["openko"]["truncated"] == {"haerae_history": 2}
    assert "haerae_history: 2 of 2 prompts were longer than the context of 512 tokens and lost their beginning" in scores.report(result)


def test_draws_depend_on_the_seed(lm, monkeypatch):
    how = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 12}
    drawn = []
    for seed in (1, 1, 2):
        monkeypatch.setattr(lm, "seed", seed)
        drawn.append(answers(lm, "generate_until", [("오늘", how)]))
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_a_task_asks_of_decoding_is_done_or_refused(lm):
    with pytest.raises(InputError, match="generation_kwargs num_beams of a task are not supported"):
        answers(lm, "generate_until", [("오늘", {"num_beams": 4})])
    with pytest.raises(InputError, match="up to 512 new tokens, and the model has 512 positions"):
        answers(lm, "generate_until", [("오늘", {"max_gen_toks": 512})])


# ── the tasks ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_task_only_where_its_data_lie_is_changed(monkeypatch):
    from lm_eval.tasks import TaskManager

    with tasks.quiet():
        local = tasks.load(ALL, data_dir=tasks.PRACTICE)["tasks"]
        given = {(task.config.dataset_kwargs["data_files"]["test"]): task.dataset for task in local.values()}
        stock = tasks._manager(ALL)
        assert isinstance(stock, TaskManager)
        for name, task in local.items():
            files = task.config.dataset_kwargs["data_files"]
            monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", lambda path, name, files=files, **_: given[files["test"]])
            original = TaskManager.load(stock, [name])["tasks"][name].dump_config()
            changed = task.dump_config()
            unlike = {key for key in original | changed if original.get(key) != changed.get(key)}
            assert unlike <= {"dataset_path", "dataset_name", "dataset_kwargs"}, name


def test_the_practice_questions_are_sound():
    seen = set()
    for path in sorted(tasks.PRACTICE.rglob("*.jsonl")):
        for row in tasks.records(path):
            text = json.dumps(row, ensure_ascii=False, sort_keys=True)
            assert text not in seen and text == text.strip()
            seen.add(text)
            options = row.get("options") or [row[k] for k in row if k in "ABCD" or k.startswith(("alternative_", "ending_"))]
            assert len(set(options)) == len(options) in (0, 2, 4, 5), path
            if "options" in row:
                assert all(f"({letter}) {option}" in row["query"] for letter, option in zip("ABCDE", options, strict=True))
            if "word" in row:
                assert all(f"[{row['word']}]" in row[context] for context in ("context_1", "context_2"))


def copied(tmp_path, name="haerae/history", split="test"):
    target = tmp_path / name / f"{split}.jsonl"
    rows = tasks.records(tasks.PRACTICE / name / f"{split}.jsonl")
    write_jsonl(target, rows)
    return target, rows


def test_parquet_files_serve_as_well(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path, rows = copied(tmp_path)
    path.unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))
    with tasks.quiet():
        task = tasks.load(["haerae_history"], data_dir=tmp_path)["tasks"]["haerae_history"]
    assert [row["query"] for row in tasks.texts(task)] == [row["query"] for row in rows]


def test_unknown_tasks_are_refused_with_what_is_near():
    with pytest.raises(InputError, match=r"no task 'kobest_cola'; did you mean kobest_copa"):
        tasks.load(["kobest_cola"], data_dir=tasks.PRACTICE)


def test_a_task_without_data_names_the_file_and_its_fields(tmp_path):
    copied(tmp_path)
    with pytest.raises(
        InputError, match=r"haerae_general_knowledge: .*general_knowledge/test\.jsonl does not exist.*query \(text\), answer"
    ):
        tasks.load(["haerae"], data_dir=tmp_path)
    copied(tmp_path, "kobest/copa")
    with pytest.raises(InputError, match=r"copa/train\.jsonl does not exist.*question \(원인 or 결과\)"):
        tasks.load(["kobest_copa"], data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("answer"), r"history/test\.jsonl, record 2: no field 'answer', found query, options"),
        (lambda row: row.update(answer="F"), r"record 2: answer is 'F'; needed: .*\(A\), \(B\)"),
        (lambda row: row.update(query=None), "record 2: query is None"),
    ],
)
def test_a_file_of_another_form_is_refused_by_record_and_field(tmp_path, change, message):
    path, rows = copied(tmp_path)
    change(rows[1])
    write_jsonl(path, rows)
    with pytest.raises(InputError, match=message):
        tasks.load(["haerae_history"], data_dir=tmp_path)


def test_damaged_and_empty_files_are_refused(tmp_path):
    path, _ = copied(tmp_path)
    path.write_text('{"query": ', encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        tasks.load(["haerae_history"], data_dir=tmp_path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="holds no record"):
        tasks.load(["haerae_history"], data_dir=tmp_path)


def test_too_few_questions_to_take_examples_from(tmp_path):
    with pytest.raises(InputError, match="10 questions to take 10 examples from besides the one asked"):
        tasks.load(["haerae_history"], data_dir=tasks.PRACTICE, num_fewshot=10)


def test_a_task_named_twice_over_its_group_is_refused():
    with pytest.raises(InputError, match="name the group or the task, not both"):
        tasks.load(["haerae", "haerae_history"], data_dir=tasks.PRACTICE)


def test_other_tasks_have_no_local_form(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="serves haerae, kmmlu, kmmlu_direct and kobest"):
        tasks.load(["kmmlu_direct_hard_law"], data_dir=tmp_path)


def test_data_that_the_hub_does_not_give_are_named(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", unreachable)
    with pytest.raises(InputError, match=r"skt/kobest_v1, copa\) could not be had \(no route.*--data-dir: kobest/copa/train\.jsonl and"):
        tasks.load(["kobest_copa"])


# ── models that will not do ──────────────────────────────────────────────────────────────────────────────────────


def changed_tokenizer(directory, tmp_path, **settings):
    copy = tmp_path / "changed"
    copy.mkdir()
    for path in directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = json.loads((copy / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in (found | settings).items() if value is not None}
    (copy / "tokenizer_config.json").write_text(json.dumps(kept))
    return copy


def test_a_model_without_the_tokens_a_task_needs(directory, tmp_path):
    with pytest.raises(InputError, match="neither bos_token nor eos_token"):
        OpenkoLM(changed_tokenizer(directory, tmp_path, bos_token=None, eos_token=None))


def test_a_model_whose_answers_nothing_would_end(directory, tmp_path):
    copy = changed_tokenizer(directory, tmp_path, eos_token=None)
    config = json.loads((copy / "config.json").read_text())
    config.pop("eos_token_id")
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "generation_config.json").unlink(missing_ok=True)
    lm = OpenkoLM(copy, say=silent)
    assert answers(lm, "loglikelihood", [("오늘", " 비")])
    with pytest.raises(InputError, match="nothing would end an answer"):
        answers(lm, "generate_until", [("오늘", {})])


def test_a_model_without_a_chat_template(directory, tmp_path):
    copy = changed_tokenizer(directory, tmp_path, chat_template=None)
    with pytest.raises(InputError, match="has no chat template"):
        scores.score(copy, ["haerae_history"], data_dir=tasks.PRACTICE, apply_chat_template=True, say=silent)


def test_a_directory_that_is_no_model(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        OpenkoLM(tmp_path)


# ── bits per byte and forgetting ─────────────────────────────────────────────────────────────────────────────────


def test_bits_per_byte_are_those_of_the_measure(directory):
    texts = {"ko": [korean(11), korean(12, 40)], "en": [english(13)]}
    config, parameters = hf_weights.load(directory)
    measure = bits_per_byte.BitsPerByte(config, tokenizers.load(directory), texts, context=64)
    assert forgetting.measure(directory, texts, context=64, say=silent) == pytest.approx(measure(parameters), rel=1e-5)


def test_what_was_forgotten_and_what_was_learned(directory, tmp_path):
    config, _ = hf_weights.read_config(directory)
    hf_weights.save(tmp_path, config, lively_parameters(config, seed=3))
    tokenizers.copy_files(directory, tmp_path)
    texts = {"ko": [korean(14)], "en": [english(15)]}
    there, back = (forgetting.compare(*pair, texts, context=64, say=silent) for pair in ((directory, tmp_path), (tmp_path, directory)))
    for one, other in zip(there, back, strict=True):
        assert one.difference == pytest.approx(one.after - one.before) and one.difference == pytest.approx(-other.difference)
        assert one.percent == pytest.approx(100 * (one.after / one.before - 1))
        assert {one.verdict, other.verdict} == {"forgotten", "learned"}
    assert [change.bytes for change in there] == [len(korean(14).encode()), len(english(15).encode())]


def test_texts_are_read_by_file_and_refused_by_name(tmp_path):
    write_jsonl(tmp_path / "two.jsonl", [{"text": "하나"}, {"text": "둘"}])
    assert forgetting.read(tmp_path / "two.jsonl") == ["하나", "둘"]
    (tmp_path / "bad.jsonl").write_text('{"body": 1}\n')
    (tmp_path / "cp949.txt").write_bytes("한글".encode("cp949"))
    (tmp_path / "empty.txt").write_text(" \n")
    for name, message in (("bad.jsonl", 'with "text"'), ("cp949.txt", "not UTF-8"), ("empty.txt", "no text"), ("gone.txt", "not exist")):
        with pytest.raises(InputError, match=f"{name}.*{message}"):
            forgetting.read(tmp_path / name)


# ── questions in the training text ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def corpus(tmp_path):
    """A corpus directory whose documents hold two of the boolq questions, and a third only in the part that is held out."""
    rows = tasks.records(tasks.PRACTICE / "kobest/boolq/test.jsonl")

    def make(partial):
        write_jsonl(partial / "ko.train-00000.jsonl", [
            {"text": korean(20)}, {"text": f"{korean(21, 2)} {rows[0]['paragraph']}"}, {"text": f"{rows[3]['paragraph']} {korean(22, 2)}"},
            {"text": rows[0]["paragraph"]},
        ])  # fmt: skip
        write_jsonl(partial / "ko.heldout-00000.jsonl", [{"text": rows[5]["paragraph"]}])
        return {"files": {"ko.train": ["ko.train-00000.jsonl"], "ko.heldout": ["ko.heldout-00000.jsonl"]}}

    manifest.build(
        tmp_path / "corpus", kind="corpus", recipe={}, inputs={}, module="openko.evaluation.contamination", make=make, say=silent
    )
    return tmp_path / "corpus"


def test_questions_that_the_training_text_holds_are_counted(corpus):
    rows = {name: tasks.records(tasks.PRACTICE / f"kobest/{name}/test.jsonl") for name in ("boolq", "copa")}
    found = contamination(corpus, rows, say=silent)
    assert (found["boolq"].questions, found["boolq"].found, found["boolq"].documents) == (12, 2, 3)
    assert str(found["boolq"]) == "at least 2 of 12 found" and found["copa"].found == 0 and str(found["copa"]).startswith("none of")


def test_the_status_stands_beside_every_score(directory, corpus):
    how = {"limit": 2, "data_dir": tasks.PRACTICE, "say": silent}
    lines = scores.report(scores.score(directory, ["kobest_boolq", "haerae"], corpus=corpus, **how)).split("\n")
    status = {line.split("|")[1].strip(" -"): line.split("|")[-2].strip() for line in lines if line.startswith("|")}
    assert status["kobest_boolq"] == "at least 2 of 12 found"
    assert status["haerae_history"].startswith("none of ") and status["haerae"].startswith("none of ")
    without = scores.report(scores.score(directory, ["kobest_boolq"], **how))
    assert "|not checked|" in without and "--corpus DIR" in without


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────

app = typer.Typer()
app.command()(command.evaluate)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_one_object_and_writes_it(directory, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(korean(30))
    how = ("--tasks", "haerae_history,kobest_copa", "--practice", "--limit", 2, "--num-fewshot", 1)
    done = run(directory, *how, "--bits-per-byte", text, "--before", directory, "--out", tmp_path / "results.json", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "results.json").read_text())
    assert set(printed["results"]) == {"haerae_history", "kobest_copa"} and printed["versions"]["haerae_history"] == 1.0
    assert printed["n-shot"]["kobest_copa"] == 1 and printed["openko"]["data"] == "practice"
    assert printed["openko"]["bits_per_byte"][0]["verdict"] == "as before"


def test_the_command_prints_the_harness_table(directory):
    done = run(directory, "--tasks", "haerae", "--practice", "--limit", 2)
    assert done.exit_code == 0, done.output
    assert "n-shot" in done.stdout and "| - haerae_history" in done.stdout and "not the benchmarks" in done.stdout
    rows = [line for line in done.stdout.split("\n") if line.startswith("|")]
    assert len({len(line) for line in rows[: rows.index(next(r for r in rows if r.startswith("|Groups")))]}) == 1


def test_a_harness_table_of_ours_can_be_read_beside_the_card(directory, tmp_path, monkeypatch):
    published = pytest.importorskip("openko.evaluation.published")
    how = ("--tasks", "haerae_history", "--data-dir", tasks.PRACTICE, "--limit", 4, "--num-fewshot", 5, "--against", "card", "--json")
    done = run(directory, *how)
    assert done.exit_code == 0, done.output
    rows = {(row["task"], row["metric"]): row for row in json.loads(done.stdout)["openko"]["against"]}
    assert rows["haerae_history", "acc"]["published"] is not None and rows["haerae_history", "acc"]["ours"] is not None
    assert published.card(published.BASE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to measure"),
        (("--tasks", "haerae", "--practice", "--data-dir", "."), "give one of the two"),
        (("--tasks", "haerae", "--practice", "--against", "card"), "nothing to compare"),
        (("--tasks", "haerae", "--data-dir", "nowhere"), "nowhere is no directory"),
        (("--tasks", "haerae", "--out", "nowhere/results.json"), "nowhere/results.json cannot be written"),
        (("--tasks", "haerae", "--before", "."), "name the texts with --bits-per-byte"),
        (("--practice", "--bits-per-byte", "a.txt"), "name them with --tasks"),
        (("--bits-per-byte", "a.txt", "--bits-per-byte", "a.txt"), "given twice"),
        (("--tasks", "haerae", "--data-dir", ".", "--against", "no-card"), "no card is called"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_read(tmp_path, arguments, message):
    done = run(tmp_path, *arguments)
    assert isinstance(done.exception, InputError) and message in str(done.exception), done.output


def test_without_the_harness_the_command_names_what_to_install(monkeypatch, tmp_path):
    find = command.importlib.util
    monkeypatch.setattr(command.importlib, "util", SimpleNamespace(find_spec=lambda name: None))
    done = run(tmp_path, "--tasks", "haerae", "--practice")
    monkeypatch.setattr(command.importlib, "util", find)
    assert "pip install 'openko[eval]'" in str(done.exception)


def test_the_command_line_starts_without_jax_and_without_the_harness():
    code = "import sys, openko.cli.evaluate; print({'jax', 'lm_eval', 'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
