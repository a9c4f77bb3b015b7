"""openko.notebook: a notebook's parameters are checked, its places known, and the image's own packages left alone."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from openko import manifest, notebook
from openko.errors import InputError

TINY, TPU = "smoke", "kaggle-v5e-8"


@pytest.fixture(autouse=True)
def a_kernel_of_its_own(tmp_path, monkeypatch):
    """start() changes the working directory and the environment: both are put back after each test."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENKO_PROFILE", "OPENKO_OUT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_COMPILATION_CACHE_MAX_SIZE"):
        monkeypatch.setenv(name, "known to be undone")
        monkeypatch.delenv(name)


@pytest.fixture
def parameters(tmp_path):
    """What a notebook's globals() hold when it calls start()."""

    def of(name, **changed):
        declared = notebook.declared_parameters(notebook.ROOT / "notebooks" / f"{name}.ipynb")
        return declared | {"profile": TINY, "out_dir": str(tmp_path / "out"), "nb": notebook, "_": 1, "get_ipython": print} | changed

    return of


@pytest.mark.parametrize("name", notebook.NAMES)
def test_every_notebook_declares_its_parameters(name):
    declared = notebook.declared_parameters(notebook.ROOT / "notebooks" / f"{name}.ipynb")
    assert declared["profile"] == declared["out_dir"] == ""


def test_a_notebook_without_parameters_is_refused(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]), tmp_path / "plain.ipynb")
    with pytest.raises(InputError, match=r"plain\.ipynb has no cell tagged 'parameters'"):
        notebook.declared_parameters(tmp_path / "plain.ipynb")


@pytest.mark.parametrize("name", notebook.NAMES)
def test_a_run_opens_with_its_places(name, parameters, tmp_path):
    run = notebook.start(name, parameters(name))
    assert run.profile.name == TINY and run.out == tmp_path / "out" and run.out.is_dir()
    assert Path.cwd() == notebook.ROOT
    assert run.tokenizer == run.out / "tokenizer" and run.shards("ko") == run.out / "shards" / "ko"
    assert [d.name for d in (run.base, run.chat, run.continued, run.merged)] == [
        "tiny-llama3", "tiny-llama3-instruct", "tiny-llama3-open-ko", "tiny-llama3-open-ko-instruct-preview",
    ]  # fmt: skip


def test_each_share_of_english_has_a_directory_and_the_last_is_koens(parameters):
    run = notebook.start("08_koen", parameters("08_koen", profile="laptop"))
    names = [run.koen(share).name for share in run.profile.english_in_koen]
    assert names == ["tiny-llama3-koen-30", "tiny-llama3-koen"] and run.koen_merged.name == "tiny-llama3-koen-instruct-preview"
    assert len({run.koen(0.05).name, run.koen(0.5).name, *names}) == 4


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mistyped_parameter_is_named_with_those_that_exist(parameters):
    with pytest.raises(InputError, match="01_tokenizers: unknown parameter profil; it takes profile, out_dir"):
        notebook.start("01_tokenizers", parameters("01_tokenizers", profil="smoke"))


@pytest.mark.parametrize(
    ("name", "value"), [("max_new_tokens", "96"), ("max_new_tokens", 96.5), ("max_new_tokens", True), ("profile", None)]
)
def test_a_parameter_of_another_type_is_named(parameters, name, value):
    with pytest.raises(InputError, match=f"parameter {name} must be a (int|str), found {value!r}"):
        notebook.start("06_samples", parameters("06_samples", **{name: value}))


def test_an_unknown_profile_is_refused_with_those_that_exist(parameters):
    with pytest.raises(InputError, match="unknown profile 'desktop': choose one of smoke, laptop"):
        notebook.start("02_corpus", parameters("02_corpus", profile="desktop"))


def test_a_released_model_must_be_given_its_directory(parameters):
    with pytest.raises(InputError, match=f"profile {TPU} uses a released model: set base_dir"):
        notebook.start("03_pretraining", parameters("03_pretraining", profile=TPU))


def test_what_another_notebook_recorded_can_be_read_and_is_asked_for_by_name(parameters, tmp_path):
    run = notebook.start("05_chat_vector", parameters("05_chat_vector", profile="smoke", out_dir=str(tmp_path / "run")))
    with pytest.raises(InputError, match="run notebook 03_pretraining first"):
        run.recorded("03_pretraining")
    run.record(bits_per_byte={"tiny": 1.5})
    assert run.recorded("05_chat_vector") == {"bits_per_byte": {"tiny": 1.5}}
    assert run.control == tmp_path / "run" / "models" / "tiny-ko-from-scratch"


def test_a_profile_of_released_models_has_no_control(parameters, tmp_path):
    (tmp_path / "base").mkdir()
    run = notebook.start("03_pretraining", parameters("03_pretraining", profile=TPU, base_dir=str(tmp_path / "base")))
    assert run.control is None


def test_its_chat_version_too(parameters, tmp_path):
    with pytest.raises(InputError, match=f"profile {TPU} uses a released model: set chat_dir"):
        notebook.start("05_chat_vector", parameters("05_chat_vector", profile=TPU, base_dir=str(tmp_path)))


def test_given_directories_are_the_models_of_the_run(parameters, tmp_path):
    for name in ("base", "chat"):
        (tmp_path / name).mkdir()
    given = {"base_dir": str(tmp_path / "base"), "chat_dir": str(tmp_path / "chat")}
    run = notebook.start("05_chat_vector", parameters("05_chat_vector", profile=TPU, **given))
    assert (run.base, run.tokenizer, run.chat) == (tmp_path / "base", tmp_path / "base", tmp_path / "chat")


@pytest.mark.parametrize("profile", [TINY, TPU])
def test_a_base_dir_that_is_no_directory_is_named(parameters, tmp_path, profile):
    (tmp_path / "model.zip").touch()
    with pytest.raises(InputError, match=r"base_dir '.*model\.zip' is not a directory"):
        notebook.start("03_pretraining", parameters("03_pretraining", profile=profile, base_dir=str(tmp_path / "model.zip")))


def test_a_relative_base_dir_counts_from_the_repository_as_out_dir_does(parameters):
    """Jupyter starts in notebooks/, papermill in the repository: both must find the same model."""
    run = notebook.start("03_pretraining", parameters("03_pretraining", base_dir="notebooks"))
    assert run.base.is_dir()


def test_an_out_dir_that_cannot_be_made_is_named(parameters, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out_dir .*file/out cannot be made"):
        notebook.start("01_tokenizers", parameters("01_tokenizers", out_dir=str(tmp_path / "file" / "out")))


def test_the_environment_gives_profile_and_place_where_the_parameters_do_not(parameters, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENKO_PROFILE", "laptop")
    monkeypatch.setenv("OPENKO_OUT", str(tmp_path / "elsewhere"))
    run = notebook.start("01_tokenizers", parameters("01_tokenizers", profile="", out_dir=""))
    assert run.profile.name == "laptop" and run.out == tmp_path / "elsewhere"
    assert notebook.start("01_tokenizers", parameters("01_tokenizers")).profile.name == TINY


def test_a_cpu_profile_keeps_jax_on_the_cpu(parameters, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    notebook.start("01_tokenizers", parameters("01_tokenizers"))
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_what_is_compiled_is_kept_in_the_run(parameters, tmp_path):
    notebook.start("03_pretraining", parameters("03_pretraining"))
    command = [sys.executable, "-c", "import jax; print(jax.config.jax_compilation_cache_dir)"]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.stdout.strip() == str(tmp_path / "out/.cache/jax")


def test_the_cell_can_be_run_again_when_the_story_has_names_of_its_own(parameters):
    namespace = parameters("01_tokenizers")
    first = notebook.start("01_tokenizers", namespace)
    assert notebook.start("01_tokenizers", namespace | {"run": first, "ids": [1, 2], "sentence": "안녕"}) == first
    with pytest.raises(InputError, match="parameter profile must be a str"):
        notebook.start("01_tokenizers", namespace | {"profile": 3})


# ── between notebooks ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_needed_names_the_notebook_that_makes_it(parameters):
    run = notebook.start("02_corpus", parameters("02_corpus"))
    with pytest.raises(InputError, match=r"corpus is missing.*notebook 01_tokenizers makes it"):
        run.need(run.corpus, "01_tokenizers")
    manifest.build(run.corpus, kind="corpus", recipe={}, inputs={}, module="openko.errors", make=lambda partial: {}, say=lambda line: None)
    assert run.need(run.corpus, "01_tokenizers") == run.corpus


def test_results_are_kept_key_by_key(parameters):
    run = notebook.start("06_samples", parameters("06_samples"))
    run.record(a=1, b={"말": 2})
    run.record(a=3)
    assert json.loads((run.out / "results" / "06_samples.json").read_text(encoding="utf-8")) == {"a": 3, "b": {"말": 2}}


# ── on Colab and Kaggle ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def image(monkeypatch):
    """A machine that has some packages; returns the commands that were run."""
    commands = []

    def set_up(required, present):
        def version(name):
            if name not in present:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1.0"

        monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command))
        return commands

    return set_up


def test_only_what_the_image_lacks_is_installed(image):
    commands = image(["jax>=0.7.2", "ml_dtypes>=0.5", "grain>=0.2.12", 'torch==2.13.0; extra == "dev"'], {"jax", "ml_dtypes"})
    assert notebook.install_missing() == ["grain>=0.2.12"]
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", "grain>=0.2.12"]]


def test_where_nothing_is_missing_nothing_is_run(image):
    commands = image(["jax>=0.7.2"], {"jax"})
    assert notebook.install_missing() == [] and commands == []
