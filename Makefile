# Two commands on a fresh machine with Python 3.11+ and pip:
#   make run     every notebook, offline, at laptop size: runs/laptop/index.html
#   make test    the fast tests, and every notebook at size smoke
# Each makes .venv by itself. ENV=active uses the environment that is active now (conda, Colab) and installs nothing.

PYTHON ?= python3
ENV ?= venv

ifeq ($(ENV),active)
  BIN :=
  INSTALLED_LAPTOP :=
  INSTALLED_DEV :=
else
  BIN := .venv/bin/
  INSTALLED_LAPTOP := .venv/.installed-laptop
  INSTALLED_DEV := .venv/.installed-dev
endif

export PYTHONDONTWRITEBYTECODE := 1
# Most tests keep one core busy. The tests of a file stay together, for they share what they build.
TWO_AT_ONCE := -n 2 --dist loadfile
SMOKE := JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 OPENKO_PROFILE=smoke OPENKO_OUT=runs/smoke

.PHONY: run test test-slow test-floor figures clean

run: $(INSTALLED_LAPTOP)
	$(BIN)openko walkthrough --profile laptop --out runs/laptop

test: $(INSTALLED_DEV)
	$(BIN)python -m ruff check --quiet openko tests benchmarks
	$(BIN)python -m pytest -q $(TWO_AT_ONCE) -m "not slow" tests
	rm -rf runs/smoke
	$(SMOKE) $(BIN)python -m pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout=300 -p no:cacheprovider notebooks

test-slow: $(INSTALLED_DEV)
	$(BIN)python -m pytest -q -m slow tests

# The oldest versions that we support: those of Colab's TPU image (August 2026).
FLOOR := jax==0.7.2 flax==0.11.2 optax==0.2.8 orbax-checkpoint==0.12.4 transformers==5.15.0
# The corpus's rules and readers import none of them.
NOT_AT_FLOOR := clean filters personal markup readers* decontaminate corpus* dedup engines planted_copies forecast published token_study
test-floor: .venv-floor/.installed
	.venv-floor/bin/python -m pytest -q $(TWO_AT_ONCE) -m "not slow" $(NOT_AT_FLOOR:%=--ignore-glob='tests/test_%.py') tests

figures: $(INSTALLED_LAPTOP)
	$(BIN)openko figures --from runs/laptop
	$(BIN)openko notebooks --from runs/laptop

.venv/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'openko needs Python 3.11 or newer; say which with make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv

.venv/.installed-laptop: .venv/bin/python pyproject.toml
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[laptop]"
	touch $@

.venv/.installed-dev: .venv/bin/python pyproject.toml
	.venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ .venv/.installed-laptop

.venv-floor/.installed: pyproject.toml Makefile
	test -x .venv-floor/bin/python || $(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check -e ".[laptop,tensorboard]" pytest pytest-xdist $(FLOOR)
	touch $@

clean:
	rm -rf runs .venv .venv-floor
