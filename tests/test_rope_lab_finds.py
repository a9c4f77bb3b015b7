"""The lab on models in which position matters: a probe trained here, and a real pretrained one. Minutes."""

import json
import subprocess
import sys

import pytest

from openko import cli, hf_weights
from openko.notebook import ROOT
from openko.rope import Llama3Scaling, Rope
from openko.rope_lab import diagnosis, faults, probe
from openko.rope_lab.directory import open_directory

pytestmark = pytest.mark.slow
SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    place = tmp_path_factory.mktemp("probe") / "sound"
    probe.train(place, Rope(theta=1e5), heads=8, kv_heads=2, head_dim=32, tie_word_embeddings=False, say=quiet)
    return place


@pytest.fixture(scope="module")
def of_sound_rows(sound):
    return diagnosis.search(open_directory(sound), text=sound / probe.TEXT, say=quiet)


@pytest.mark.parametrize("fault", [None, faults.WRONG_THETA, faults.NO_THETA, faults.NO_OLD_THETA, faults.SPURIOUS])
def test_faults_of_the_config_are_named(sound, of_sound_rows, tmp_path, fault):
    """The weights are those of the sound model to the byte, so its findings serve."""
    if fault:
        faults.broken(sound, tmp_path / "broken", [fault], say=quiet)
    answer = diagnosis.judge(open_directory(tmp_path / "broken" if fault else sound), of_sound_rows)
    assert answer["verdict"] == [fault or diagnosis.OK], answer["notes"]
    assert 0.5 < answer["theta"]["estimate"] / 1e5 < 2


@pytest.mark.parametrize("names", [[faults.INTERLEAVED], [faults.Q_PERMUTED, faults.WRONG_THETA], [faults.K_PERMUTED], [faults.HEAD_COUNT]])
def test_a_broken_directory_is_diagnosed_and_repaired_by_the_command_line(sound, tmp_path, names, capsys, monkeypatch):
    broken, repaired, text = tmp_path / "broken", tmp_path / "repaired", str(sound / probe.TEXT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["openko", "rope", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    run("break", sound, *(part for name in names for part in ("--fault", name)), "--out", broken)
    answer = json.loads(run("diagnose", broken, "--text", text, "--json"))
    assert set(answer["verdict"]) == set(names) and len(answer["losses"]) > 50
    run("repair", broken, "--out", repaired, "--text", text)
    assert (repaired / "model.safetensors").read_bytes() == (sound / "model.safetensors").read_bytes()
    assert hf_weights.read_config(repaired)[0].rope == Rope(theta=1e5)
    assert json.loads(run("compare", broken, repaired, "--json"))["verdict"] == "rows-permuted"


def test_a_scaling_that_was_trained_is_missed_where_it_is_gone(tmp_path):
    sound, rope = tmp_path / "sound", Rope(theta=5e5, scaling=SCALING)
    probe.train(sound, rope, heads=8, kv_heads=2, head_dim=64, tie_word_embeddings=True, say=quiet)
    faults.broken(sound, tmp_path / "broken", [faults.MISSING_SCALING], say=quiet)
    findings = diagnosis.search(open_directory(tmp_path / "broken"), text=sound / probe.TEXT, say=quiet)
    for place, verdict in ((sound, diagnosis.OK), (tmp_path / "broken", faults.MISSING_SCALING)):
        assert diagnosis.judge(open_directory(place), findings)["verdict"] == [verdict]


def test_a_real_pretrained_model_is_read_right(tmp_path):
    """SmolLM2-135M, as benchmarks/rope_real_model.py makes it of a package: sound rows, every fault of the config."""
    script = [sys.executable, ROOT / "benchmarks" / "rope_real_model.py", "--out", tmp_path, "--only", "clean", "--json"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["ours"] == 1.0, done.stdout
