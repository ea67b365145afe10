# make test   the suite            make demo   the demo            make lint   style            make docs   the pages
# make test-browser   headless Chromium on the pages of keep-maps and app, and what the app refuses over HTTP
# make soak   a training killed at random moments, thousands of requests, peaks of memory
# make walk   every command of README and pages, as far as it needs nothing that is not here, and the tutorial
# Each does all its own set-up on a machine with only Python 3.11+ and pip, into an environment of its own name.
# STACK=upstream takes the original OpenMMLab packages instead of the maintained forks (onedl).
# OPS=compiled compiles mmcv's operators; without, mmsparse serves those that it needs (mmsparse/mmcv_ops).
STACK ?= onedl
ifeq ($(filter $(STACK),onedl upstream),)
$(error STACK=$(STACK) is unknown; use STACK=onedl or STACK=upstream)
endif
OPS ?= served
ifeq ($(filter $(OPS),served compiled),)
$(error OPS=$(OPS) is unknown; use OPS=served or OPS=compiled)
endif
ENV := .venv$(if $(filter upstream,$(STACK)),-upstream)$(if $(filter compiled,$(OPS)),-compiled)
SETTINGS := $(if $(filter compiled,$(OPS)),compiled-ops.toml)
SYNC := UV_PROJECT_ENVIRONMENT=$(ENV) .uv/bin/uv sync --compile-bytecode --extra $(STACK) --extra deploy $(addprefix --config-file ,$(SETTINGS))
PY := $(ENV)/bin/python
PYTHON ?= python3
# OpenMP threads that spin at barriers starve each other when anything else runs; no cost on an idle machine.
export GOMP_SPINCOUNT ?= 10000

.PHONY: setup space hub app test test-browser soak walk demo lint docs clean

setup: $(ENV)/.ready

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv

# From the cache alone if it can be: an index that is asked again may make uv build again what it has.
# Bytecode for all at once: where Python may not write any, each start of a tool would compile for 13 seconds.
$(ENV)/.ready: pyproject.toml setup.py $(SETTINGS) | .uv/bin/uv
	@if plan=$$($(SYNC) --offline --dry-run --no-install-project 2>&1) && ! echo "$$plan" | grep -q "Would download"; \
	then $(SYNC) --offline || $(SYNC); \
	else $(MAKE) --no-print-directory space && $(SYNC); \
	fi
	$(PY) -m mmsparse.env
	@touch $@

# What is downloaded is unpacked into uv's cache; the environment links to it, or copies it from another disk.
NEEDED := 7
space: | .uv/bin/uv
	@for place in "$$(.uv/bin/uv cache dir)" "$(CURDIR)"; do \
	  mkdir -p "$$place"; free=$$(df -Pk "$$place" | awk 'NR == 2 { print int($$4 / 1048576) }'); \
	  if [ $$free -lt $(NEEDED) ]; then \
	    echo "The first set-up needs $(NEEDED) GB of disk space and $$place has $$free; UV_CACHE_DIR names another cache."; \
	    exit 1; \
	  fi; \
	done
	@echo "The first set-up on a machine downloads about 3 GB (torch). Afterwards all is cached: seconds."
ifeq ($(OPS),compiled)
	@echo "It also compiles mmcv's operators: about 10 minutes on 2 cores."
endif

# timm and transformers, against which converters are tested: beside the environment, for that works without them.
hub: .hub/.ready
.hub/.ready: tests/hub.txt | setup
	@install=".uv/bin/uv pip install --quiet --python $(PY) --target .hub --no-deps --requirements tests/hub.txt"; \
	if $$install --offline 2>/dev/null || $$install; then touch $@; \
	else echo "Tests of converters against timm and transformers are skipped: they could not be installed."; fi

# Gradio and what drives a browser: the same way, for Gradio asks for an older Pillow than it needs.
app: .app/.ready
.app/.ready: tests/app.txt | setup
	@install=".uv/bin/uv pip install --quiet --python $(PY) --target .app --no-deps --requirements tests/app.txt"; \
	if $$install --offline 2>/dev/null || $$install; then touch $@; \
	else echo "Tests in a browser are skipped: Gradio and Playwright could not be installed."; fi

# A process a core, of one thread each: most of the time goes to starting the tools as a user would.
test: setup hub
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# The browser is Debian's, which is installed where that is allowed; without one, its tests say that they are skipped.
test-browser: setup app
	@command -v chromium >/dev/null || [ $$(id -u) -ne 0 ] || ! command -v apt-get >/dev/null || \
	{ timeout 120 apt-get update -qq && timeout 600 apt-get install -qq -y --no-install-recommends chromium; } >/dev/null 2>&1 || \
	echo "Chromium could not be installed."
	OMP_NUM_THREADS=1 $(PY) -m pytest -m browser -rs tests/test_browser.py tests/test_door.py

# Faults and load, about an hour; what it measures goes into docs/soak.json, which docs/reliability.md tells.
soak: setup app
	OMP_NUM_THREADS=1 $(PY) -m pytest -m soak -p no:cacheprovider tests/soak --figures docs/soak.json

walk: setup
	$(PY) -m pytest -m slow tests/test_walk.py tests/test_tutorial.py

demo: setup
	$(PY) tools/demo.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Sphinx is beside the environment, too. Warnings, such as links that lead nowhere, are errors.
docs: .docs/.ready
	PYTHONPATH=.docs $(PY) -m sphinx --builder html --conf-dir docs --doctree-dir build/doctrees --fresh-env \
	  --fail-on-warning --keep-going --quiet . build/docs
	@echo "The pages are in build/docs/index.html."
.docs/.ready: docs/requirements.txt | setup
	@install=".uv/bin/uv pip install --quiet --python $(PY) --target .docs --requirements docs/requirements.txt"; \
	$$install --offline 2>/dev/null || $$install
	@touch $@

clean:
	rm -rf .venv .venv-* .uv .hub .app .docs build mmsparse.egg-info mmsparse/.mim
