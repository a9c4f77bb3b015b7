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
from openko.evaluation import forgetting, harness, published, scores, tasks, trees
from openko.evaluation.contamination import Status, contamination
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


def peer(directory):
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


class Asked(Exception):
    """The prompts that a model was asked, before it answers."""


def prompts_of(directory, ask):
    lm = OpenkoLM(directory, say=silent)

    def stop(requests, **_):
        raise Asked([request.args for request in requests])

    lm.loglikelihood = stop
    with pytest.raises(Asked) as asked:
        ask(lm)
    return asked.value.args[0]


def test_a_chat_is_asked_as_the_harness_asks_it_each_example_a_turn_of_its_own(directory):
    import lm_eval

    how = {"num_fewshot": 2, "limit": 3}
    ours = prompts_of(
        directory,
        lambda lm: scores.score(
            directory, ["haerae_history"], **how, data_dir=tasks.PRACTICE, apply_chat_template=True, model=lambda *_, **__: lm
        ),
    )
    with tasks.quiet():
        manager = tasks._manager(["haerae_history"])
        manager._factory = tasks._Factory(tasks.PRACTICE)
        theirs = prompts_of(
            directory,
            lambda lm: lm_eval.simple_evaluate(lm, tasks=["haerae_history"], **how, task_manager=manager, apply_chat_template=True),
        )
    assert ours == theirs and len(ours) == 3 * 5
    assert ours[0][0].count(tokenizers.TURN_END) == 5  # two questions with their answers, and the question


def test_what_is_left_to_chance_while_tasks_load_is_as_in_the_harness(directory, monkeypatch):
    import random

    drawn, load = [], tasks.load

    def drawing(*names, **how):
        drawn.append((random.random(), np.random.random()))
        return load(*names, **how)

    monkeypatch.setattr(tasks, "load", drawing)
    scores.score(directory, ["haerae_history"], limit=1, data_dir=tasks.PRACTICE, say=silent)
    assert drawn == [(random.Random(0).random(), np.random.RandomState(1234).random())]


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


@pytest.mark.parametrize("length", [320, 1152])
def test_attention_in_small_parts_is_the_same_attention(monkeypatch, length):
    keys = jax.random.split(jax.random.key(length), 3)
    q, k, v = (jax.random.normal(key, (2, length, heads, 16)) for key, heads in zip(keys, (4, 2, 2), strict=True))
    draw = np.random.default_rng(length)
    end = np.stack([np.minimum(np.arange(length) + draw.integers(1, length, length), length) for _ in range(2)]).astype(np.int32)
    whole = jax.jit(trees.along_stems)(q, k, v, end)
    scores_at_once = []
    monkeypatch.setattr(trees, "SCORES", 32 * 2 * 4 * length)
    cached = trees.attention.cached
    monkeypatch.setattr(trees.attention, "cached", lambda q, *rest: scores_at_once.append(q.shape[1]) or cached(q, *rest))
    np.testing.assert_allclose(jax.jit(lambda *given: trees.along_stems(*given))(q, k, v, end), whole, atol=1e-6, rtol=0)
    assert max(scores_at_once) <= 32


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


def test_a_long_run_compiles_a_few_row_lengths():
    draw = np.random.default_rng(3)
    for seed in range(3):
        sequences = [draw.integers(0, 160, draw.integers(2, 700)).tolist() for _ in range(300)]
        sizes = [len(s) - 1 for s in sequences]
        classes = trees.lengths_for(sizes, 2048)
        assert sorted(n for numbers in classes.values() for n in numbers) == list(range(300))
        assert all(sizes[n] <= length for length, numbers in classes.items() for n in numbers)
        assert len(classes) <= 11 and sum(length * len(numbers) for length, numbers in classes.items()) < 1.25 * sum(sizes), seed


def test_where_compiling_costs_more_rows_have_fewer_lengths(monkeypatch):
    sizes = np.random.default_rng(4).integers(2, 700, 300).tolist()
    counts = {}
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(trees.jax, "default_backend", lambda backend=backend: backend)
        counts[backend] = len(trees.lengths_for(sizes, 2048))
    assert counts["tpu"] < counts["cpu"]


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
    result = scores.score(directory, ["haerae"], num_fewshot=9, limit=1, data_dir=tasks.PRACTICE, say=silent)
    assert len(result["openko"]["truncated"]) == 5
    (line,) = [line for line in scores.report(result).split("\n") if "lost their beginning" in line]
    assert line == "haerae: 5 of 5 prompts were longer than the context of 512 tokens and lost their beginning."


def test_draws_depend_on_the_seed(lm, monkeypatch):
    how = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 12}
    drawn = []
    for seed in (1, 1, 2):
        monkeypatch.setattr(lm, "seed", seed)
        drawn.append(answers(lm, "generate_until", [("오늘", how)]))
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_same_prompt_in_another_batch_is_answered_anew(lm):
    how = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    given = answers(lm, "generate_until", [("오늘", how)] * 32)
    assert len(set(given)) > 16 and given[:16] != given[16:]
    other = [("오늘", how)] * 16 + [("오늘", how | {"max_gen_toks": 9})] * 16
    given = answers(lm, "generate_until", other)
    assert all(long[: len(short)] != short for short, long in zip(given[:16], given[16:], strict=True) if short)


def test_a_stop_that_is_a_special_token_ends_an_answer(directory):
    lm = OpenkoLM(directory, say=silent)
    reserved = next(str(token) for number, token in lm.tokenizer.added_tokens_decoder.items() if number not in lm._ends and token.special)
    number, plain = lm.tokenizer.convert_tokens_to_ids(reserved), lm.tok_encode("하늘", add_special_tokens=False)[:1]

    def stream(prompts, terminators, **_):
        assert number in terminators and not set(plain) & set(terminators)
        yield np.array([[*plain, number, *plain]] * len(prompts))

    lm.decoder = SimpleNamespace(stream=stream)
    assert answers(lm, "generate_until", [("오늘", {"until": [reserved, "Q:"]})]) == [lm.tok_decode(plain)]


def test_many_texts_become_the_ids_of_each(lm, monkeypatch):
    monkeypatch.setattr(harness, "ENCODED", 7)
    texts = [korean(n, 1) for n in range(20)] + ["<|begin_of_text|>" + korean(n, 1) for n in range(9)]
    found = lm._encode(texts)
    assert list(found) == texts and all(found[text] == lm.tok_encode(text) for text in texts)


@pytest.mark.parametrize(("field", "value"), [("repetition_penalty", 1.1), ("no_repeat_ngram_size", 3), ("num_beams", 4), ("min_p", 0.05)])
def test_settings_that_the_harness_would_obey_are_refused(directory, tmp_path, field, value):
    copy = changed_tokenizer(directory, tmp_path)
    given = json.loads((copy / "generation_config.json").read_text()) if (copy / "generation_config.json").exists() else {}
    (copy / "generation_config.json").write_text(json.dumps(given | {field: value}))
    lm, asked_for = OpenkoLM(copy, say=silent), {"temperature": 0.5} if field == "min_p" else {"do_sample": False}
    with pytest.raises(InputError, match=rf"generation_config\.json: {field} is {value}.*openko does not have"):
        lm.settings(asked_for)
    if field == "min_p":  # where nothing is drawn it says nothing
        assert lm.settings({"do_sample": False})[1]["temperature"] == 0
    (copy / "generation_config.json").write_text(json.dumps(given | {"repetition_penalty": 1.0, "temperature": 0.6, "top_p": 0.9}))
    assert OpenkoLM(copy, say=silent).settings({"temperature": 0.5})[1]["temperature"] == 0.5


def test_what_answers_need_is_looked_at_before_anything_is_asked(directory, tmp_path):
    copied(tmp_path, "kmmlu/Math")
    copied(tmp_path, "kmmlu/Math", "dev")
    copied(tmp_path)
    short = changed_tokenizer(directory, tmp_path)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    asked = []

    class Watched(OpenkoLM):
        def loglikelihood(self, requests, disable_tqdm=False):
            asked.append(len(requests))
            return [(0.0, False)] * len(requests)

    how = {"data_dir": tmp_path, "limit": 1, "model": Watched, "say": silent}
    with pytest.raises(InputError, match="kmmlu_direct_math: a task asks for up to 256 new tokens, and the model has 128"):
        scores.score(short, ["haerae_history", "kmmlu_direct_math"], **how)
    assert asked == []
    scores.score(short, ["haerae_history"], **how)
    assert asked == [5]


def test_what_a_task_asks_of_decoding_is_done_or_refused(lm):
    with pytest.raises(InputError, match="do_sample: true and temperature None"):
        answers(lm, "generate_until", [("오늘", {"do_sample": True})])
    with pytest.raises(InputError, match=r"do_sample: true and temperature 0\.0"):
        answers(lm, "generate_until", [("오늘", {"do_sample": True, "temperature": 0.0})])
    with pytest.raises(InputError, match="generation_kwargs num_beams of a task are not supported"):
        answers(lm, "generate_until", [("오늘", {"num_beams": 4})])
    with pytest.raises(InputError, match="up to 512 new tokens, and the model has 512 positions"):
        answers(lm, "generate_until", [("오늘", {"max_gen_toks": 512})])


# ── the tasks ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_task_only_where_its_data_lie_is_changed(monkeypatch):
    with tasks.quiet():
        local = tasks.load(ALL, data_dir=tasks.PRACTICE)["tasks"]
        given = {(task.config.dataset_kwargs["data_files"]["test"]): task.dataset for task in local.values()}
        stock = tasks._manager(ALL)
        for name, task in local.items():
            files = task.config.dataset_kwargs["data_files"]
            monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", lambda path, name, files=files, **_: given[files["test"]])
            original = stock.load([name])["tasks"][name].dump_config()
            changed = task.dump_config()
            unlike = {key for key in original | changed if original.get(key) != changed.get(key)}
            assert unlike == {"dataset_path", "dataset_name", "dataset_kwargs"}, name


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


def test_the_practice_answers_stand_in_another_order_in_each_file():
    orders = {}
    for path in sorted([*tasks.PRACTICE.glob("haerae/*/*.jsonl"), *tasks.PRACTICE.glob("kmmlu/*/*.jsonl")]):
        order = tuple(row["answer"] for row in tasks.records(path))
        counts = [order.count(answer) for answer in set(order)]
        assert len(counts) == (5 if "haerae" in path.parts else 4) and max(counts) - min(counts) <= 1, path
        assert orders.setdefault(order, path) is path
    assert len(orders) == 11


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


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_options_that_a_table_made_numbers_are_asked_as_they_are(tmp_path, kind):
    import pyarrow
    import pyarrow.parquet

    for split in ("dev", "test"):
        path, rows = copied(tmp_path, "kmmlu/Math", split)
        rows = [row | {"A": 12, "B": None if n == 1 else 0.5, "C": f"{n}", "D": "가"} for n, row in enumerate(rows)]
        write_jsonl(path, rows)
        if kind == "parquet":
            path.unlink()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))
    with tasks.quiet():
        task = tasks.load(["kmmlu_direct_math"], data_dir=tmp_path)["tasks"]["kmmlu_direct_math"]
        assert "A. 12\nB. 0.5\nC. 0\nD. 가" in task.doc_to_text(task.dataset["test"][0])
    write_jsonl(path.with_suffix(".jsonl"), [row | {"A": True} for row in rows])
    path.with_suffix(".parquet").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"A is True; needed: .*A \(text or number\)"):
        tasks.local_fields(tmp_path, "kmmlu_direct_math", MATH | {"fewshot_split": "test"}, tasks.KMMLU)


MATH = {"dataset_name": "Math", "test_split": "test", "fewshot_split": "dev"}


def test_files_of_a_field_with_two_types_are_named(tmp_path):
    copied(tmp_path, "kmmlu/Math", "dev")
    path, rows = copied(tmp_path, "kmmlu/Math")
    write_jsonl(path, [row | {"more": n if n % 2 else {"a": n}} for n, row in enumerate(rows)])
    with tasks.quiet(), pytest.raises(InputError, match=r"kmmlu_direct_math: the files in .*kmmlu/Math cannot be read together"):
        tasks.load(["kmmlu_direct_math"], data_dir=tmp_path)


def test_two_files_for_one_split_are_refused(tmp_path):
    path, _ = copied(tmp_path)
    path.with_suffix(".parquet").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"history/test\.jsonl and test\.parquet are both there: keep one"):
        tasks.load(["haerae_history"], data_dir=tmp_path)


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


def test_too_few_questions_to_take_examples_from():
    with pytest.raises(InputError, match="10 questions to take 10 examples from besides the one asked"):
        tasks.load(["haerae_history"], data_dir=tasks.PRACTICE, num_fewshot=10)


@pytest.mark.parametrize(
    ("source", "enough"),
    [
        ({"samples": 2}, True), ({"samples": 1}, False), ({"training_split": "few"}, True), ({"validation_split": "few"}, True),
        ({"validation_split": "test"}, False), ({"split": "few"}, True), ({"split": "test"}, False), ({}, False),
    ],
)  # fmt: skip
def test_examples_come_from_where_the_harness_takes_them(source, enough):
    from lm_eval.api.task import ConfigurableTask

    rows = {"test": [{"q": "하나"}, {"q": "둘"}], "few": [{"q": "셋"}, {"q": "넷"}]}

    def dataset(**_):
        import datasets

        return datasets.DatasetDict({name: datasets.Dataset.from_list(given) for name, given in rows.items()})

    config = {"task": "made-up", "custom_dataset": dataset, "test_split": "test", "output_type": "loglikelihood", "doc_to_text": "q"}
    config |= {"doc_to_target": "q", "num_fewshot": 2}
    config |= {key: value for key, value in source.items() if key.endswith("_split")}
    if "samples" in source:
        config["fewshot_config"] = {"sampler": "first_n", "samples": rows["few"][: source["samples"]]}
    if "split" in source:
        config["fewshot_split"] = source["split"]
    with tasks.quiet():
        task = ConfigurableTask(config=config)
        if enough:
            tasks._check_examples("made-up", task, None)
            task.set_fewshot_seed(1)
            task.build_all_requests()
            assert all("셋" in request.args[0] and "넷" in request.args[0] for request in task.instances)
        else:
            with pytest.raises(InputError, match="questions to take 2 examples from"):
                tasks._check_examples("made-up", task, None)


def test_a_task_named_twice_over_its_group_is_refused():
    with pytest.raises(InputError, match="name the group or the task, not both"):
        tasks.load(["haerae", "haerae_history"], data_dir=tasks.PRACTICE)


def test_other_tasks_have_no_local_form(tmp_path):
    with pytest.raises(InputError, match="serves haerae, kmmlu, kmmlu_direct and kobest"):
        tasks.load(["kmmlu_direct_hard_law"], data_dir=tmp_path)


def test_data_that_the_hub_does_not_give_are_named(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", unreachable)
    with pytest.raises(InputError, match=r"skt/kobest_v1, copa\) could not be had \(no route.*--data-dir: kobest/copa/train\.jsonl and"):
        tasks.load(["kobest_copa"])


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (RuntimeError("Dataset scripts are no longer supported, but found kobest_v1.py"), "runs no loading script"),
        (("DatasetNotFoundError", "Dataset 'skt/kobest_v1' is a gated dataset on the Hub."), "ask for access on its page"),
        (("DatasetNotFoundError", "Dataset 'skt/kobest_v1' doesn't exist on the Hub or cannot be accessed."), "no data set of this name"),
        (ConnectionError("no route to host"), "check the network"),
    ],
)
def test_what_to_do_depends_on_why_the_data_did_not_come(monkeypatch, cause, advice):
    from datasets import exceptions

    problem = getattr(exceptions, cause[0])(cause[1]) if isinstance(cause, tuple) else cause

    def failing(*_, **__):
        raise problem

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", failing)
    with pytest.raises(InputError, match=rf"kobest_copa: .*{advice}.*, or lay files .*--data-dir"):
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


SEPARATORS = "앞\u2028뒤\u2029앞\x85뒤\x0b끝\x0c"


def test_a_line_ends_where_json_lines_end(tmp_path):
    content = [{"text": SEPARATORS}, {"text": "둘"}]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in content).encode())
    assert "\\x0b" not in (tmp_path / "a.jsonl").read_text() and tasks.records(tmp_path / "a.jsonl") == content
    assert forgetting.read(tmp_path / "a.jsonl") == [SEPARATORS, "둘"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "하나\u2028둘".encode())
    assert forgetting.read(tmp_path / "a.txt") == ["하나\u2028둘"]


@pytest.mark.parametrize("read", [tasks.records, forgetting.read])
def test_half_a_character_is_refused_by_file_and_line(tmp_path, read):
    path = tmp_path / "half.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00 \\\\ud800"}\n\n{"text": "\\uD83D"}\n')
    with pytest.raises(InputError, match=r"half\.jsonl, line 3: \\ud83d is half of a surrogate pair"):
        read(path)
    path.write_text('{"text": "\\ud83d\\ude00 \\\\ud800"}\n')
    assert read(path)[0] in ("😀 \\ud800", {"text": "😀 \\ud800"})


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


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status(12, 12, 0, 0), "none of 12 found"), (Status(8, 0, 0, 0), "not looked for"),
        (Status(56, 34, 0, 0), "none of 34 found, 22 not looked for"), (Status(12, 10, 2, 3), "at least 2 of 10 found, 2 not looked for"),
    ],
)  # fmt: skip
def test_a_status_says_what_was_not_looked_for(status, said):
    assert str(status) == said


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


def test_a_harness_table_of_ours_can_be_read_beside_the_card(directory, tmp_path):
    copied(tmp_path)
    how = ("--tasks", "haerae_history", "--data-dir", tmp_path, "--limit", 4, "--against", "card", "--json")
    done = run(directory, *how, "--num-fewshot", 5)
    assert done.exit_code == 0, done.output
    assert "5-shot" not in done.stderr
    found = json.loads(done.stdout)
    rows = {(row["task"], row["metric"]): row for row in found["openko"]["against"]}
    row = rows["haerae_history", "acc"]
    assert row["ours"] == found["results"]["haerae_history"]["acc,none"] in (0, 0.25, 0.5, 0.75, 1)
    assert (row["published"], row["questions"]) == ("0.7340", 4)
    assert row["difference"] == pytest.approx(row["ours"] - 0.734)
    assert "4 of 10 questions here" in row["notes"] and "10 questions here, 188 on the card" in row["notes"]
    lost = found["openko"]["truncated"].get("haerae_history", 0)
    assert (f"{lost} of 4 prompts lost their beginning" in row["notes"]) == (lost > 0)
    assert "the card's scores are 5-shot" in run(directory, *how).stderr


@pytest.mark.parametrize("chat", [False, True])
def test_results_say_how_they_were_asked(directory, tmp_path, chat):
    link = tmp_path / "link"
    link.symlink_to(tasks.PRACTICE, target_is_directory=True)
    results = scores.score(directory, ["haerae_history"], limit=1, seed=7, data_dir=link, apply_chat_template=chat, say=silent)
    ours = results["openko"]
    assert (ours["seed"], ours["dtype"], ours["data"]) == (7, "float32", "practice")
    assert ours["apply_chat_template"] is ours["fewshot_as_multiturn"] is chat
    with pytest.raises(InputError, match="practice questions"):
        published.against("llama-3-open-ko-8b", results)


def test_scores_are_written_before_what_may_fail(directory, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(korean(30))
    out = tmp_path / "results.json"
    how = ("--tasks", "haerae_history", "--practice", "--limit", 1, "--bits-per-byte", tmp_path / "text.txt", "--out", out)

    def failing(*_, **__):
        raise InputError("the device is gone")

    monkeypatch.setattr(forgetting, "compare", failing)
    done = run(directory, *how, "--before", directory)
    assert "the device is gone" in str(done.exception)
    assert set(json.loads(out.read_text())["results"]) == {"haerae_history"}


def test_models_and_context_are_looked_at_before_the_scores(directory, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(korean(30))
    monkeypatch.setattr(scores, "score", lambda *_, **__: pytest.fail("scores came first"))
    how = ("--tasks", "haerae_history", "--practice", "--bits-per-byte", tmp_path / "text.txt")
    done = run(directory, *how, "--before", tmp_path)
    assert isinstance(done.exception, InputError) and "config.json" in str(done.exception)
    smaller = changed_tokenizer(directory, tmp_path)
    config = json.loads((smaller / "config.json").read_text())
    (smaller / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 200}))
    done = run(directory, *how, "--before", smaller)
    assert isinstance(done.exception, InputError) and "a context of 256 tokens: from 2 to" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to measure"),
        (("--tasks", "haerae", "--practice", "--data-dir", "."), "give one of the two"),
        (("--tasks", "haerae", "--practice", "--against", "card"), "nothing to compare"),
        (("--tasks", "haerae", "--data-dir", tasks.PRACTICE, "--against", "card"), "nothing to compare"),
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
