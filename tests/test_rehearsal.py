"""The real scale: bounds by arithmetic, and the 8B step compiled for a v5e-256, which fits by the TPU compiler's own word."""

import dataclasses
import functools
import json
import math
import tempfile
from pathlib import Path

import jax
import pytest

from openko import hlo, profiles, rehearsal
from openko.errors import InputError
from openko.profiles import POD_STEP, SMALL_TPU_STEP
from openko.training import loop, sharding, step

KEYS = {
    "fits", "hbm_gb_per_chip", "hbm_limit_gb", "tokens_per_step", "step_seconds_low", "step_seconds_high", "mfu_low", "mfu_high",
    "hours", "compiled",
}  # fmt: skip


def plan_of(model, topology, batch=None, sequence_length=None):
    return rehearsal.estimate(rehearsal.profile_for(model, topology, batch, sequence_length), topology)


# ── arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_arithmetic_of_the_card():
    pod = profiles.get("v5e-256")
    plan = rehearsal.estimate(pod, "v5e:16x16")
    assert set(plan) >= KEYS and plan["compiled"] is False
    assert plan["tokens_per_step"] == 256 * 8192
    assert pod.continued.tokens == pytest.approx(rehearsal.CARD_TOKENS, rel=1e-3)
    # 6 FLOPs for each weight that is in a product (all but the input embedding), and 11% more for attention over 8k.
    weights = plan["parameters"] - 128_256 * 4096
    assert plan["flops_per_step"] / plan["tokens_per_step"] == pytest.approx(6 * weights + 6 * 32 * 4096 * 8192, rel=1e-3)


def test_koen_adds_english_and_keeps_the_cards_korean():
    pod, koen = profiles.get("v5e-256"), profiles.get("v5e-256-koen")
    (share,) = koen.english_in_koen
    assert (1 - share) * koen.continued.tokens == pytest.approx(rehearsal.CARD_TOKENS, rel=1e-3)
    assert (koen.model, koen.mesh, koen.step, koen.corpus) == (pod.model, pod.mesh, pod.step, "koen")


def test_the_lower_bound_is_the_peak_by_hand():
    """Per token: 6 FLOPs for a weight, and 2 more for gate and up, which are computed again; and attention's 9 products of 8192 / 2
    keys."""
    attention, mlp, down, head = 4096 * (2 * 4096 + 2 * 1024), 3 * 4096 * 14_336, 4096 * 14_336, 128_256 * 4096
    per_token = 32 * (6 * attention + 8 * mlp - 2 * down) + 6 * head + 9 * 2 * 32 * 4096 * 8192 / 2
    plan = plan_of("llama-3-8b", "v5e:16x16")
    assert plan["step_seconds_low"] == pytest.approx(8192 * per_token / 197e12, rel=1e-6)
    assert plan["mfu_high"] == pytest.approx(plan["flops_per_step"] / 256 / 197e12 / plan["step_seconds_low"])
    assert plan["hours"] == pytest.approx(17.7e9 / 2**21 * plan["step_seconds_high"] / 3600)
    assert plan["dollars"] == pytest.approx(plan["hours"] * 256 * 1.20)


def test_memory_by_hand():
    profile = rehearsal.profile_for("llama-3-8b", "v5e:16x16")
    found = rehearsal.memory(profile, rehearsal.topology_of("v5e:16x16"))
    assert found["state"] == 8_030_261_248 * 12 / 256  # fp32 weights and two fp32 moments
    # Of one sequence in bf16: each layer's input, q, k, v, what attention makes of them, o; and the kernel's log-sum-exp in fp32.
    assert found["kept"] == 32 * 8192 * ((4096 + 4096 + 2 * 1024 + 4096 + 4096) * 2 + 32 * 4)
    # In the loss: logits of 512 positions, the head twice in bf16 and its gradient in fp32, and little else.
    assert found["peak"] - found["state"] - found["kept"] == pytest.approx(512 * 128_256 * 4 + 128_256 * 4096 * (2 + 2 + 4), rel=0.2)


def test_a_ring_has_twice_the_links_of_a_line():
    assert rehearsal.topology_of("v5e:16x16").link_bandwidth == 2 * rehearsal.topology_of("v5e:4x4").link_bandwidth == 200e9
    alone = rehearsal.profile_for("llama-3.2-1b", "v5e:1x1")
    assert rehearsal.estimate(alone, "v5e:1x1")["collective_bytes_per_step"] == 0


@pytest.mark.parametrize("topology", rehearsal.SLICES)
@pytest.mark.parametrize("model", rehearsal.RELEASED)
def test_bounds_are_in_order(model, topology):
    plan = plan_of(model, topology)
    assert 0 < plan["step_seconds_low"] < plan["step_seconds_high"] and plan["hours_low"] < plan["hours"]
    assert 0 < plan["mfu_low"] < plan["mfu_high"] < 1 and plan["dollars_low"] < plan["dollars"]
    assert plan["hbm_gb_per_chip"] > plan["state_gb_per_chip"] + plan["kept_gb_per_chip"]
    assert plan["fits"] == (plan["hbm_gb_per_chip"] <= plan["hbm_limit_gb"])
    assert plan["assumptions"] and json.loads(json.dumps(plan)) == plan


def test_what_maxtext_publishes_lies_between_the_bounds():
    """61.1% for 16B on v5e-256: MaxText/configs/v5e/16b.sh, its README. Six sequences of 2048 tokens a chip, full remat."""
    shape = dict(vocab_size=32_000, hidden_size=4096, intermediate_size=28_672, num_attention_heads=64, num_key_value_heads=64)
    pod = profiles.get("v5e-256")
    training = dataclasses.replace(pod.continued, batch_size=6 * 256, sequence_length=2048)
    theirs = dataclasses.replace(pod, model=dataclasses.replace(pod.model, **shape), continued=training, step=POD_STEP)
    plan = rehearsal.estimate(theirs, "v5e:16x16")
    assert plan["parameters"] == pytest.approx(16e9, rel=0.02)
    assert plan["fits"] and plan["mfu_low"] < 0.611 < plan["mfu_high"]


# What libtpu 0.0.52 said of openko's step: model, slice, state in fp32 or bf16, batch, sequence length, GB a chip (17.22: refused).
COMPILED = [
    ("llama-3-8b", "v5e:16x16", profiles.get("v5e-256").step, 256, 8192, 13.93),
    ("llama-3-8b", "v5e:16x16", POD_STEP, 256, 8192, 6.83),
    ("llama-3-8b", "v5e:16x16", POD_STEP, 512, 8192, 10.19),
    ("llama-3-8b", "v5e:16x16", POD_STEP, 1024, 8192, 17.22),
    ("llama-3-8b", "v5e:2x4", SMALL_TPU_STEP, 8, 2048, 11.32),
    ("llama-3-8b", "v5e:2x4", SMALL_TPU_STEP, 64, 2048, 17.22),
    ("llama-3-8b", "v6e:2x4", POD_STEP, 64, 2048, 27.41),
    ("llama-3.2-1b", "v5e:1x1", SMALL_TPU_STEP, 1, 4096, 10.67),
    ("llama-3.2-1b", "v5e:1x1", SMALL_TPU_STEP, 4, 4096, 13.39),
    ("llama-3.2-1b", "v5e:1x1", SMALL_TPU_STEP, 8, 4096, 16.07),
    ("llama-3.2-1b", "v5e:2x4", POD_STEP, 16, 4096, 5.47),
    ("llama-3.2-1b", "v5e:2x4", POD_STEP, 128, 4096, 15.60),
    ("llama-3.2-1b", "v6e:1x1", POD_STEP, 4, 8192, 28.31),
    ("llama-3.2-1b", "v6e:1x1", POD_STEP, 8, 4096, 28.33),
    ("llama-3.2-1b", "v6e:2x4", POD_STEP, 256, 4096, 26.80),
]  # fmt: skip


@pytest.mark.parametrize(("model", "topology", "state", "batch", "sequence_length", "compiled_gb"), COMPILED)
def test_the_estimate_is_on_the_safe_side_of_the_compiler(model, topology, state, batch, sequence_length, compiled_gb):
    profile = dataclasses.replace(rehearsal.profile_for(model, topology, batch, sequence_length), step=state)
    assert compiled_gb <= rehearsal.estimate(profile, topology)["hbm_gb_per_chip"] <= 1.17 * compiled_gb


# ── which profile, and refusals ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("model", "topology", "name"), [
    ("llama-3-8b", "v5e:16x16", "v5e-256"), ("llama-3-8b", "v5e:2x4", "kaggle-v5e-8"), ("llama-3.2-1b", "v5e:1x1", "colab-v5e-1"),
])  # fmt: skip
def test_a_profile_that_trains_it_is_taken_as_it_is(model, topology, name):
    assert rehearsal.profile_for(model, topology) == profiles.get(name)
    changed = rehearsal.profile_for(model, topology, 1024, 512)
    assert (changed.continued.batch_size, changed.continued.sequence_length) == (1024, 512)
    assert dataclasses.replace(changed, continued=profiles.get(name).continued) == profiles.get(name)


def test_more_tokens_a_chip_than_attention_can_keep_are_computed_with_less():
    pod = profiles.get("v5e-256")
    assert profiles.resized(pod, pod.continued) == pod
    fewer_chips = profiles.resized(pod, pod.continued, profiles.MeshShape(fsdp=128))
    assert (fewer_chips.step.remat, fewer_chips.mesh.fsdp) == ("full", 128)
    in_parts = dataclasses.replace(pod.continued, accumulate=2)
    assert profiles.resized(pod, in_parts, profiles.MeshShape(fsdp=128)).step == pod.step
    larger = rehearsal.profile_for("llama-3-8b", "v5e:16x16", 512)
    assert larger.step == dataclasses.replace(pod.step, remat="full") != pod.step
    assert rehearsal.estimate(larger, "v5e:16x16")["fits"]
    assert not rehearsal.estimate(dataclasses.replace(larger, step=pod.step), "v5e:16x16")["fits"]


def test_the_estimate_is_for_the_policies_of_the_profiles():
    none = dataclasses.replace(profiles.get("v5e-256"), step=dataclasses.replace(POD_STEP, remat="none"))
    with pytest.raises(InputError, match="found none: let the compiler say it"):
        rehearsal.estimate(none, "v5e:16x16")


def test_another_slice_has_fp32_state_where_that_fits():
    wide = rehearsal.profile_for("llama-3-8b", "v6e:2x4")
    assert (wide.step, wide.mesh.fsdp, wide.continued.batch_size) == (POD_STEP, 8, 8)
    narrow = rehearsal.profile_for("llama-3-8b", "v5e:2x2")
    assert (narrow.step, narrow.mesh.fsdp, narrow.continued.batch_size) == (SMALL_TPU_STEP, 4, 4)


@pytest.mark.parametrize(("arguments", "said"), [
    (("llama-4", "v5e:16x16"), "unknown model 'llama-4': choose one of llama-3-8b, llama-3.2-1b"),
    (("tiny-llama3", "v5e:1x1"), "choose one of llama-3-8b, llama-3.2-1b"),
    (("llama-3-8b", "v9:2x2"), "KIND one of v5e, v6e"), (("llama-3-8b", "v5e"), "KIND:AxB"), (("llama-3-8b", "v5e:3x5"), "AxB one of 1x1"),
    (("llama-3-8b", "v5e:16x16", 100), "batch 100 does not divide over the 256 chips of v5e:16x16: take a multiple of 256"),
    (("llama-3-8b", "v5e:16x16", 256, 1000), "sequence length 1000 must be a multiple of 512"),
    (("llama-3-8b", "v5e:16x16", 256, 16_384), "more than the 8192 positions of llama-3-8b"),
])  # fmt: skip
def test_questions_without_an_answer_name_the_choices(arguments, said):
    with pytest.raises(InputError, match=said):
        rehearsal.profile_for(*arguments)


def test_the_table_has_a_row_for_each_model_and_slice():
    rows = rehearsal.table()
    assert [(row["model"], row["topology"]) for row in rows] == [(m, t) for m in rehearsal.RELEASED for t in rehearsal.SLICES]
    assert len(rows) == 12 and json.loads(json.dumps(rows)) == rows
    for row in rows:
        chips = rehearsal.topology_of(row["topology"]).chips
        assert row["fits"] == (row["hbm_gb_per_chip"] <= row["hbm_limit_gb"]) == (row["batch"] > 0) == (row["tokens_per_session"] > 0)
        if row["fits"]:
            assert math.log2(row["batch"] / chips) % 1 == 0
            for batch, fits in ((row["batch"], True), (2 * row["batch"], False)):
                profile = rehearsal.profile_for(row["model"], row["topology"], batch)
                assert rehearsal.estimate(profile, row["topology"])["fits"] == fits
    by_name = {(row["model"], row["topology"]): row for row in rows}
    assert not by_name["llama-3-8b", "v5e:1x1"]["fits"]
    assert by_name["llama-3-8b", "v5e:2x4"]["checkpoint_gb"] == 48.2  # 8.03B weights, three numbers of two bytes each
    assert by_name["llama-3-8b", "v5e:16x16"]["checkpoint_gb"] == 96.4


# ── the compiler ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_compiled_is_what_train_runs():
    """The request as it reaches the other process gives, on this machine's devices, the very object that `train` calls."""
    smoke = profiles.get("smoke")
    smoke = dataclasses.replace(smoke, mesh=profiles.MeshShape(fsdp=4))
    request = json.loads(json.dumps(rehearsal.request_for(smoke, "v5e:2x2")))
    compiled = rehearsal.compiled_step(request, jax.devices())
    assert loop.compile_step is step.compile_step
    assert compiled is loop.compile_step(smoke.model, smoke.continued, smoke.step, sharding.make_mesh(smoke.mesh))


def fake_step(remat: str):
    """The real step of a small model, scanned over its layers, compiled for two times four of this machine's fake devices."""
    smoke = profiles.get("smoke")
    small = dataclasses.replace(
        smoke, mesh=profiles.MeshShape(data=2, fsdp=4), continued=dataclasses.replace(smoke.continued, batch_size=8),
        step=dataclasses.replace(smoke.step, remat=remat, unroll=1),
    )  # fmt: skip
    compiled = step.compile_step(small.model, small.continued, small.step, sharding.make_mesh(small.mesh))
    return small, hlo.read(compiled.as_text())


def test_what_a_program_does_a_layer_and_a_step():
    small, program = fake_step("none")
    place = rehearsal.topology_of("v5e:2x4")
    told = rehearsal.work(program, small, place, [[x, y] for x in range(2) for y in range(4)])
    assert {row["where"] for row in told["wire"]} == set(rehearsal.PLACES)
    # All weights of a layer that are in products are gathered in fp32, by the four devices that hold a part each.
    attention, mlp = rehearsal._layer_weights(small.model)
    forward = sum(row["bytes_per_step"] for row in told["wire"] if row["where"] == "layer forward" and row["kind"] == "all-gather")
    assert forward == small.model.num_hidden_layers * (attention + mlp) * 4 * 3 / 4
    assert told["collective_bytes_per_step"] == pytest.approx(sum(row["bytes_per_step"] for row in told["wire"]))
    assert told["overlapped_share"] == 0  # a CPU program waits for each
    assert told["seconds_at_peak"]["waiting"] == told["seconds_at_peak"]["links"] > 0
    assert 0 < told["step_seconds_low"] < told["step_seconds_high"]


def test_full_remat_computes_the_layers_again():
    (small, none), (_, full) = fake_step("none"), fake_step("full")
    attention, mlp = rehearsal._layer_weights(small.model)
    tokens = small.continued.tokens_per_step / small.mesh.devices
    assert full.flops - none.flops >= 2 * tokens * small.model.num_hidden_layers * (attention + mlp * 2 / 3)


def test_a_groups_bandwidth_is_that_of_the_links_between_its_chips():
    place = rehearsal.topology_of("v5e:16x16")
    whole = [[x, y] for x in range(16) for y in range(16)]
    assert rehearsal.group_bandwidth(place, whole) == place.link_bandwidth == 200e9
    assert rehearsal.group_bandwidth(place, [[3, y] for y in range(16)]) == 100e9  # one ring
    assert rehearsal.group_bandwidth(place, [[3, y] for y in range(8)]) == 50e9  # half of it is a line
    assert rehearsal.group_bandwidth(place, [[3, 0], [3, 1]]) == 50e9
    assert rehearsal.group_bandwidth(place, [[3, y] for y in range(0, 16, 2)]) == 50e9  # two such groups share the ring
    assert rehearsal.group_bandwidth(place, [[0, y] for y in (0, 8)]) == 100e9 / 8
    line = rehearsal.topology_of("v5e:2x4")
    assert rehearsal.group_bandwidth(line, [[x, y] for x in range(2) for y in range(4)]) == line.link_bandwidth == 100e9


# What libtpu 0.0.52's programs send: model, slice, batch, length, GB a chip and step (openko.hlo; the slow tests read them anew).
SENT = [
    ("llama-3-8b", "v5e:16x16", 512, 8192, 65.43), ("llama-3-8b", "v5e:16x16", 256, 8192, 62.07),
    ("llama-3-8b", "v5e:8x16", 128, 8192, 51.17), ("llama-3-8b", "v5e:4x8", 32, 2048, 50.61), ("llama-3-8b", "v5e:2x4", 8, 2048, 52.88),
]  # fmt: skip


@pytest.mark.parametrize(("model", "topology", "batch", "sequence_length", "gigabytes"), SENT)
def test_the_arithmetic_of_the_links_is_what_compiled_programs_send(model, topology, batch, sequence_length, gigabytes):
    assert plan_of(model, topology, batch, sequence_length)["collective_bytes_per_step"] == pytest.approx(gigabytes * 1e9, rel=1e-3)


@functools.cache
def compiled_answer(model, topology, batch):
    """The compiler's answer and its program's text: a minute or two, shared by the tests below."""
    with tempfile.TemporaryDirectory() as place:
        answer = rehearsal.compile_for(rehearsal.profile_for(model, topology, batch), topology, Path(place) / "step.hlo")
        return answer, (Path(place) / "step.hlo").read_text()


POD_COMPILED = ("llama-3-8b", "v5e:16x16", None)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "topology", "batch"), [
    POD_COMPILED, ("llama-3-8b", "v5e:2x4", None), ("llama-3.2-1b", "v5e:1x1", None),
])  # fmt: skip
def test_the_step_compiles_for_the_tpu_and_fits(model, topology, batch):
    """Half as much again as the estimate would be a step that has grown without anybody saying so."""
    profile = rehearsal.profile_for(model, topology, batch)
    answer, text = compiled_answer(model, topology, batch)
    print(f"{answer['hbm_gb_per_chip']:.2f} GB, {answer['compile_seconds']:.0f} s, {answer['compile_peak_gb']:.1f} GB of host memory")
    assert answer["compiled"] and answer["fits"] and set(answer) >= KEYS
    assert answer["state_gb_per_chip"] < answer["hbm_gb_per_chip"] < answer["hbm_limit_gb"]
    plan = rehearsal.estimate(profile, topology)
    assert answer["hbm_gb_per_chip"] <= 1.02 * plan["hbm_gb_per_chip"]
    assert answer["compile_peak_gb"] < 4
    assert "jit_train_step" in text[:200]
    assert ("all-gather" in answer["collectives"]) == (answer["chips"] > 1)
    # The arithmetic does what the program does: each product, each byte over the links, and the bytes of memory on the safe side.
    place = rehearsal.topology_of(topology)
    assert answer["computed_flops_per_chip"] == pytest.approx(rehearsal.traffic(profile, place)["flops"], rel=1e-6)
    assert answer["collective_bytes_per_step"] == pytest.approx(plan["collective_bytes_per_step"], rel=2e-3)
    assert 0.7 * plan["hbm_bytes_per_step"] < answer["hbm_bytes_per_step"] < plan["hbm_bytes_per_step"]
    assert answer["step_seconds_low"] < answer["step_seconds_high"] < 1.02 * plan["step_seconds_high"]


@pytest.mark.slow
def test_what_the_pods_program_sends_a_layer():
    """In bf16, as rings: all weights gathered forward and once more backward; every gradient summed. k and v, and sums, by
    all-reduce, twice the bytes. Nothing but gathers passes beside products, and one of them, down_proj's backward, does not."""
    answer, _ = compiled_answer(*POD_COMPILED)
    config, ring = profiles.MODELS["llama-3-8b"], 255 / 256
    attention, mlp = rehearsal._layer_weights(config)
    kv, down = 2 * 1024 * 4096, 4096 * 14_336
    norms = 2 * 4096  # their gradients are summed too

    def sent(where, kind, overlaps):
        rows = [r for r in answer["wire"] if (r["where"], r["kind"], r["overlaps"]) == (where, kind, overlaps)]
        assert all(r["dtype"] == "bf16" and r["chips"] == 256 and r["runs"] == config.num_hidden_layers for r in rows)
        return sum(r["bytes_per_step"] for r in rows) / config.num_hidden_layers

    assert sent("layer forward", "all-gather", True) == (attention - kv + mlp) * 2 * ring
    assert sent("layer forward", "all-reduce", False) == 2 * kv * 2 * ring
    assert sent("layer backward", "all-gather", True) == (attention - kv + mlp - down) * 2 * ring
    assert sent("layer backward", "all-gather", False) == down * 2 * ring
    assert sent("layer backward", "all-reduce", False) == 2 * (kv + attention + mlp + norms) * 2 * ring
    (gathered,) = (r for r in answer["wire"] if r["where"] == "loss" and r["kind"] == "all-gather")
    assert gathered["bytes_per_step"] == 128_256 * 4096 * 2 * ring
    assert {r["kind"] for r in answer["wire"] if r["where"].startswith("layer")} == {"all-gather", "all-reduce"}


@pytest.mark.slow
def test_what_does_not_fit_is_refused_by_the_compiler():
    """Thirty-two sequences a chip: the check above can fail."""
    answer = rehearsal.compile_for(rehearsal.profile_for("llama-3-8b", "v5e:2x4", 256), "v5e:2x4")
    assert answer["compiled"] and not answer["fits"] and "exceeds available HBM (15.75G)" in answer["said"]
    assert answer["hbm_gb_per_chip"] > 2 * answer["hbm_limit_gb"]
