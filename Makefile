# make test   the suite            make demo   the demo            make lint   style
# Each does all its own set-up on a machine with only Python 3.11+ and pip. STACK=upstream takes the original
# OpenMMLab packages instead of the maintained forks (onedl).
STACK ?= onedl
ifeq ($(filter $(STACK),onedl upstream),)
$(error STACK=$(STACK) is unknown; use STACK=onedl or STACK=upstream)
endif
ENV := $(if $(filter onedl,$(STACK)),.venv,.venv-upstream)
PY := $(ENV)/bin/python
PYTHON ?= python3
# OpenMP threads that spin at barriers starve each other when anything else runs; no cost on an idle machine.
export GOMP_SPINCOUNT ?= 10000

.PHONY: setup test demo lint clean

setup: $(ENV)/.ready

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv

$(ENV)/.ready: pyproject.toml setup.py | .uv/bin/uv
	@echo "Setting up $(ENV) with the $(STACK) stack. The first time on a machine this downloads about 3 GB (torch)"
	@echo "and compiles mmcv's operators: 10 to 15 minutes on 2 cores. Afterwards it is cached: seconds."
	@# From the cache alone if it can be: an index that is asked again may make uv compile again what it has.
	@# Bytecode for all at once: where Python may not write any, each start of a tool would compile for 13 seconds.
	UV_PROJECT_ENVIRONMENT=$(ENV) .uv/bin/uv sync --quiet --compile-bytecode --offline --extra $(STACK) 2>/dev/null \
	  || UV_PROJECT_ENVIRONMENT=$(ENV) .uv/bin/uv sync --quiet --compile-bytecode --extra $(STACK)
	$(PY) -m mmsparse.env
	@touch $@

# A process a core, of one thread each: most of the time goes to starting the tools as a user would.
test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

demo: setup
	$(PY) tools/demo.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf .venv .venv-upstream .uv build mmsparse.egg-info mmsparse/.mim
