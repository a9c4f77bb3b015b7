"""The diagnosis: losses under a hypothesis are the model's own, and verdicts follow from evidence alone."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf_tokenizers
import torch
import transformers
from conftest import lively_parameters, small_config

from openko import hf_weights, llama, tokenizers
from openko.errors import InputError
from openko.rope import Llama3Scaling, Rope
from openko.rope_lab import diagnosis, faults, layouts, probe, windows
from openko.rope_lab.directory import Written, open_directory
from openko.rope_lab.layouts import Layout
from openko.rope_lab.reading import Hypothesis, Reader
from openko.rope_lab.repair import cure, layout_from

SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
TOKENS = np.random.default_rng(0).integers(0, 160, (2, 65))


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small model of 3 layers with a tokenizer whose ids fit, θ 5e5, 4 heads and 2 key-value heads of 16."""
    place = tmp_path_factory.mktemp("sound")
    config = small_config(vocab_size=272)
    hf_weights.save(place, config, lively_parameters(config), carried={"bos_token_id": 256})
    tokenizers.train(["a"], 272, "bytes").save(place)
    return place


def own_losses(directory, rope):
    config, parameters = hf_weights.load(directory, rope=rope)
    model = llama.build(config, parameters)
    return np.asarray(llama.token_losses(model(TOKENS[:, :-1]), model.head, jnp.asarray(TOKENS[:, 1:]), 64))


@pytest.mark.parametrize("rope", [Rope(theta=5e5), Rope(theta=1e4), Rope(theta=5e5, scaling=SCALING)], ids=["sound", "theta", "scaled"])
@pytest.mark.parametrize("tied", [True, False])
def test_losses_of_a_hypothesis_are_those_of_the_whole_model(tmp_path, rope, tied):
    config = small_config(tie_word_embeddings=tied)
    hf_weights.save(tmp_path, config, lively_parameters(config))
    read = Reader(open_directory(tmp_path), say=quiet).losses(TOKENS, [Hypothesis(rope=rope)])
    np.testing.assert_allclose(read[0], own_losses(tmp_path, rope), atol=1e-5)


def test_losses_equal_transformers(sound):
    model = transformers.LlamaForCausalLM.from_pretrained(sound, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor(TOKENS[:, :-1])).logits
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), torch.tensor(TOKENS[:, 1:]), reduction="none")
    read = Reader(open_directory(sound), say=quiet).losses(TOKENS, [Hypothesis(rope=Rope(theta=5e5))])
    np.testing.assert_allclose(read[0], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("fault", [faults.INTERLEAVED, faults.Q_PERMUTED, faults.K_PERMUTED, faults.HEAD_COUNT])
def test_the_right_order_of_rows_undoes_the_fault(sound, tmp_path, fault):
    faults.broken(sound, tmp_path / "broken", [fault], say=quiet)
    names = faults.ROWS[fault]
    right = Layout(q=names.get("q", layouts.SOUND), k=names.get("k", layouts.SOUND))
    read = Reader(open_directory(tmp_path / "broken"), say=quiet).losses(
        TOKENS, [Hypothesis(rope=Rope(theta=5e5), layout=layout) for layout in (right, Layout())]
    )
    np.testing.assert_allclose(read[0], own_losses(sound, Rope(theta=5e5)), atol=1e-5)
    assert np.abs(read[1] - read[0]).mean() > 1e-3


def test_hypotheses_do_not_touch_each_other(sound):
    reader = Reader(open_directory(sound), say=quiet)
    tried = [Hypothesis(rope=Rope(theta=theta), layout=layout) for theta in (1e4, 5e5) for layout in (Layout(), Layout(q=layouts.TWICE))]
    together = reader.losses(TOKENS, tried)
    for number, hypothesis in enumerate(tried):
        np.testing.assert_array_equal(reader.losses(TOKENS, [hypothesis])[0], together[number])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "count"),
    [(4, 2, 16, 12), (9, 3, 64, 9), (32, 8, 128, 12), (4, 4, 16, 9), (4, 2, 4, 4), (32, 1, 64, 9)],
)
def test_every_order_of_rows_is_tried_once(heads, kv_heads, head_dim, count):
    config = small_config(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim)
    found = layouts.possible(config)
    assert found[0] == Layout() and len(found) == count


# ── the text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_built_in_text_is_korean_and_english_in_nfc():
    import unicodedata

    english, korean = windows.built_in()
    assert english.isascii() and len(english) > 10_000
    assert sum("가" <= c <= "힣" for c in korean) > 4_000 and unicodedata.is_normalized("NFC", korean)


def test_every_second_long_window_is_a_passage_read_twice(sound):
    made = windows.make(open_directory(sound), tokenizers.load(sound), windows.built_in(), 2)
    assert made.long.shape == (4, windows.LONG + 1) and (made.long[:, 0] == 256).all()
    half = windows.LONG // 2
    for number, row in enumerate(made.long):
        assert np.array_equal(row[1 : half + 1], row[half + 1 :]) == (number % 2 == 1)


def test_text_that_is_too_short_is_refused(sound, tmp_path):
    (tmp_path / "short.txt").write_text("짧은 글", encoding="utf-8")
    with pytest.raises(InputError, match=r"too short: 10 tokens .* 1,536 are needed"):
        diagnosis.diagnose(sound, text=tmp_path / "short.txt", say=quiet)


def test_text_that_is_a_directory_is_refused(sound):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        diagnosis.diagnose(sound, text=sound, say=quiet)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": None}, {"hidden_size": "48"}, {"num_attention_heads": 0}, {"rope_theta": 10**400}, {"rope_theta": "5e5"},
        {"rope_scaling": {"rope_type": "llama3"} | dataclasses.asdict(SCALING) | {"factor": "8"}}, {"max_position_embeddings": 100},
    ],
    ids=lambda changes: f"{next(iter(changes))}",
)  # fmt: skip
def test_odd_values_in_the_config_are_refused(sound, tmp_path, changes):
    shutil.copytree(sound, tmp_path / "odd")
    path = tmp_path / "odd" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"config\.json|odd"):
        diagnosis.diagnose(tmp_path / "odd", say=quiet)


def test_truncation_and_padding_left_in_a_tokenizer_are_not_obeyed(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "left")
    path = tmp_path / "left" / "tokenizer.json"
    backend = hf_tokenizers.Tokenizer.from_file(str(path))
    backend.enable_truncation(4)
    backend.enable_padding(length=6)
    backend.save(str(path))
    assert tokenizers.load(tmp_path / "left").encode("abcdefgh") == tokenizers.load(sound).encode("abcdefgh")


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    config = small_config(vocab_size=100)
    hf_weights.save(tmp_path, config, lively_parameters(config))
    tokenizers.train(["a"], 272, "bytes").save(tmp_path)
    with pytest.raises(InputError, match=r"vocab_size is 100"):
        diagnosis.diagnose(tmp_path, say=quiet)


def test_copies_in_the_probes_text_stand_where_their_capital_says():
    text, copied = probe.text(np.random.default_rng(0), 3000)
    assert copied.mean() > 0.15
    for at in np.flatnonzero(copied):
        assert text[at] == text[at - probe.DISTANCES[probe.CAPITALS.index(text[at - 1])]]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def test_nan_is_named(tmp_path):
    config = small_config(vocab_size=272)
    parameters = lively_parameters(config)
    parameters["layers"]["mlp"]["up_proj"] = parameters["layers"]["mlp"]["up_proj"].at[1, 2, 3].set(np.nan)
    hf_weights.save(tmp_path, config, parameters)
    tokenizers.train(["a"], 272, "bytes").save(tmp_path)
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN .* \(1 of 3,840\)"):
        diagnosis.diagnose(tmp_path, say=quiet)


def test_no_tokenizer_and_other_models_are_refused(tmp_path):
    config = small_config()
    hf_weights.save(tmp_path, config, lively_parameters(config))
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        diagnosis.diagnose(tmp_path, say=quiet)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"model_type": "gpt2"}))
    with pytest.raises(InputError, match="model_type is 'gpt2'"):
        diagnosis.diagnose(tmp_path, say=quiet)


def test_an_export_whose_carried_fields_say_another_rope_is_refused(tmp_path):
    config = small_config()
    with pytest.raises(InputError, match="weights are turned by"):
        hf_weights.save(tmp_path, config, lively_parameters(config), carried={"rope_theta": 1e4, "rope_parameters": None})


# ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_floor_of_a_parabola_is_found_and_an_edge_has_none():
    x = np.log([1e4, 3e4, 1e5, 3e5])
    losses = np.stack([(x - np.log(4e4)) ** 2, x, -x], axis=1)
    floor = diagnosis._floor(x, losses)
    assert np.exp(floor[0]) == pytest.approx(4e4, rel=1e-6)
    assert floor[1] == -np.inf and floor[2] == np.inf


def test_a_flat_bowl_gives_no_interval():
    theta = diagnosis._theta(np.array([1e4, 1e5, 1e6]), np.ones((3, 50)))
    assert not theta.determined and theta.low == 0 and 1e4 <= theta.estimate <= 1e6


@pytest.mark.parametrize(
    ("low", "estimate", "high", "theta", "agrees"),
    [
        (4.5e5, 5e5, 5.5e5, 5e5, True), (4.5e5, 5e5, 5.5e5, 1e4, False), (4.5e5, 5e5, 5.5e5, 8e5, None), (7e4, 8e4, 1.2e5, 1e5, True),
        (1e5, 5e5, 2e6, 5e5, None), (2.1e5, 2.2e5, 2.3e5, 5e5, None), (2.1e5, 2.2e5, 2.3e5, 2.3e5, True), (6.9e5, 7e5, 7.1e5, 5e5, None),
    ],
    ids=["same", "other", "between", "inside", "too-wide", "of-no-use", "of-ones-own", "one-of-two"],
)  # fmt: skip
def test_when_theta_agrees(low, estimate, high, theta, agrees):
    assert diagnosis.Theta(estimate=estimate, low=low, high=high).agrees(theta) is agrees


def test_an_estimate_that_drifts_with_distance_is_not_believed():
    assert diagnosis.Theta(estimate=5e5, low=4e5, high=6e5, steady=False).agrees(1e4) is None


def test_another_theta_is_not_believed_in_if_the_near_half_allows_the_configs():
    far = {"estimate": 1e5, "low": 9e4, "high": 1.1e5}
    assert diagnosis.Theta(**far, near=(0, np.inf)).agrees(1e4) is None
    assert diagnosis.Theta(**far, near=(4e4, 3e5)).agrees(1e4) is False


def evidence_of(losses: dict) -> diagnosis.Evidence:
    found = diagnosis.Evidence(reader=None, windows=None)
    found.long.update(losses)
    return found


def test_a_second_reading_counts_only_for_a_model_that_copies():
    draw = np.random.default_rng(0)
    rows = 5 + 0.1 * draw.standard_normal((2, 32))
    copies = rows - np.array([[0.0], [4.0]]) * (np.arange(32) >= 16)
    h = Hypothesis(rope=Rope(theta=1e4))
    assert evidence_of({h: rows}).losses(h).size == 48
    assert evidence_of({h: copies}).losses(h).size == 64


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────

NOTHING = Written(old_theta=None, new_theta=None, old_scaling=None, new_scaling=None)


def written(theta=5e5, scaling=None, **other):
    return Written(**{"old_theta": theta, "new_theta": theta, "old_scaling": scaling, "new_scaling": scaling} | other)


@pytest.mark.parametrize(
    ("says", "theta", "scaling", "layout", "verdict"),
    [
        (written(), 5e5, None, Layout(), ["ok"]),
        (written(), 1e5, None, Layout(), ["wrong-theta"]),
        (written(old_theta=1e4), 5e5, None, Layout(), ["wrong-theta"]),
        (NOTHING, 5e5, None, Layout(), ["theta-missing"]),
        (NOTHING, 1e4, None, Layout(), ["ok"]),
        (written(old_theta=None), 5e5, None, Layout(), ["theta-missing-for-old-readers"]),
        (written(old_theta=None), 1e4, None, Layout(), ["theta-missing-for-old-readers", "wrong-theta"]),
        (written(old_theta=None, old_scaling=None, scaling=SCALING), 5e5, SCALING, Layout(), ["theta-missing-for-old-readers"]),
        (written(scaling=SCALING), 5e5, None, Layout(), ["spurious-scaling"]),
        (written(), 5e5, SCALING, Layout(), ["missing-scaling"]),
        (written(scaling=SCALING), 5e5, SCALING, Layout(), ["ok"]),
        (written(scaling=dataclasses.replace(SCALING, factor=2.0)), 5e5, SCALING, Layout(), ["spurious-scaling", "missing-scaling"]),
        (written(), 5e5, None, Layout(q="interleaved", k="interleaved"), ["interleaved-layout"]),
        (written(), 5e5, None, Layout(q="permuted-twice", k="permuted-twice"), ["interleaved-layout"]),
        (written(), 5e5, None, Layout(q="interleaved"), ["q-permuted"]),
        (written(), 5e5, None, Layout(k="permuted-twice"), ["k-permuted"]),
        (written(), 5e5, None, Layout(k="wrong-head-count"), ["k-wrong-head-count"]),
        (written(1e4), 5e5, SCALING, Layout(q="interleaved", k="wrong-head-count"),
         ["wrong-theta", "missing-scaling", "q-permuted", "k-wrong-head-count"]),
        (written(scaling=dataclasses.replace(SCALING, original_max_position_embeddings=10**6)), 5e5, None, Layout(), ["undetermined"]),
    ],
)  # fmt: skip
def test_the_verdict_names_exactly_what_config_and_evidence_disagree_on(sound, says, theta, scaling, layout, verdict):
    model = dataclasses.replace(open_directory(sound), written=says)
    best = Hypothesis(rope=Rope(theta=theta, scaling=scaling), layout=layout)
    evidence = evidence_of({best: np.ones((2, 4))})
    found = diagnosis.Findings(
        first=evidence, evidence=evidence, best=best, layout_sure=True, scalings=(scaling,),
        theta=diagnosis.Theta(estimate=theta * 1.1, low=theta, high=theta * 1.2),
    )  # fmt: skip
    answer = diagnosis.judge(model, found)
    assert set(answer["verdict"]) == set(verdict) and len(answer["verdict"]) == len(verdict)
    assert (answer["repair"] is None) == (verdict[0] in ("ok", "undetermined"))
    json.dumps(answer)
    for doubt in ({"layout_sure": False}, {"scalings": (None, SCALING)}):
        assert diagnosis.judge(model, dataclasses.replace(found, **doubt))["verdict"] == ["undetermined"]


def test_told_both_theta_and_layout_nothing_is_read(sound):
    told = cure(sound, theta=1e4, layout=layout_from("q=interleaved"))
    assert (told.theta, told.layout, told.scaling) == (1e4, Layout(q="interleaved"), None)


@pytest.mark.parametrize("told", ["spiral", "q=wrong-head-count", "v=interleaved"])
def test_a_layout_that_does_not_exist_is_refused(told):
    with pytest.raises(InputError, match="--layout"):
        layout_from(told)
    assert layout_from("interleaved") == Layout(q="interleaved", k="interleaved")


@pytest.mark.parametrize(
    ("rows", "parameters", "said"),
    [
        (40, 2_624, ("2.6k parameters", "5.6 MFLOP", "10.2 kB in fp32")),
        (128_256, 8_030_261_248, ("8.0B parameters", "17.2 TFLOP", "32.8 MB in fp32")),
    ],
)
def test_the_cost_is_said_in_units_that_fit_tiny_and_large_models(monkeypatch, rows, parameters, said):
    monkeypatch.setattr(diagnosis, "flops_per_second", lambda: 1e12)
    monkeypatch.setattr(diagnosis.layouts, "possible", lambda config: [None])
    texts, lines = SimpleNamespace(short=np.zeros((2, 41)), long=np.zeros((1, 65))), []
    model = SimpleNamespace(config=None, tensors=SimpleNamespace(info={"x": SimpleNamespace(shape=(rows, 64))}))
    diagnosis._say_cost(model, texts, parameters, lines.append)
    assert all(part in lines[0] for part in said), lines[0]
