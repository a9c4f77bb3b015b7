"""The real scale: the 8B step compiles for a v5e-256 and fits, by the TPU compiler's own word."""

import dataclasses

import pytest

from openko import profiles, rehearsal
from openko.errors import InputError


def test_the_arithmetic_of_the_card():
    pod = profiles.get("v5e-256")
    plan = rehearsal.estimate(pod, "v5e:16x16")
    assert plan["tokens_per_step"] == 256 * 8192
    assert pod.continued.tokens == pytest.approx(17.7e9, rel=1e-3)
    # 6 FLOPs for each weight that is in a product (all but the input embedding), and 11% more for attention over 8k.
    weights = plan["parameters"] - 128_256 * 4096
    assert plan["flops_per_step"] / plan["tokens_per_step"] == pytest.approx(6 * weights + 6 * 32 * 4096 * 8192, rel=1e-3)
    assert plan["step_seconds_low"] < plan["step_seconds_high"]


@pytest.mark.parametrize(("model", "topology", "said"), [
    ("llama-4", "v5e:16x16", "unknown model"), ("llama-3-8b", "v9:2x2", "KIND:AxB"), ("llama-3-8b", "v5e", "KIND:AxB"),
    ("llama-3-8b", "v5e:2x2", "no profile trains"),
])  # fmt: skip
def test_questions_without_an_answer_name_the_choices(model, topology, said):
    with pytest.raises(InputError, match=said):
        rehearsal.profile_for(model, topology)


def test_a_batch_can_be_given():
    assert rehearsal.profile_for("llama-3-8b", "v5e:16x16", 512).continued.batch_size == 512


@pytest.mark.slow
@pytest.mark.parametrize(("model", "topology", "at_most_gb"), [
    ("llama-3-8b", "v5e:16x16", 7.0), ("llama-3-8b", "v5e:2x4", 12.0), ("llama-3.2-1b", "v5e:1x1", 14.5),
])  # fmt: skip
def test_the_step_compiles_for_the_tpu_and_fits(model, topology, at_most_gb):
    """The bounds are what was compiled when this was written, and a little: a step that grows must say so here."""
    answer = rehearsal.compile_for(rehearsal.profile_for(model, topology), topology)
    assert answer["compiled"] and answer["fits"]
    assert answer["state_gb_per_chip"] < answer["hbm_gb_per_chip"] < at_most_gb < answer["hbm_limit_gb"]
    assert answer["compile_peak_gb"] < 4


@pytest.mark.slow
def test_what_does_not_fit_is_refused_by_the_compiler():
    """Thirty-two sequences a chip: the check above can fail."""
    profile = rehearsal.profile_for("llama-3-8b", "v5e:2x4")
    greedy = dataclasses.replace(profile.continued, batch_size=256)
    with pytest.raises(InputError, match=r"does not fit v5e:2x4.*exceeds available HBM"):
        rehearsal.compile_for(dataclasses.replace(profile, continued=greedy), "v5e:2x4")
