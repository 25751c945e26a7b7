# Two commands matter: `make demo` and `make test`. Both install first.
# The first Python here that the program runs with; `make PYTHON=...` names another.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do \
	$$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
	&& echo $$each && break; done)
VENV   ?= .venv
BIN     = $(VENV)/bin
DEMO   ?= demo
# Two processes, a file of tests at a time each, so that what a file shares is made once.
TOGETHER = -n 2 --dist loadfile --no-loadscope-reorder

# The installed Python, or one that has torch: the check names the other packages that it misses.
GPU_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

.PHONY: demo test test-long quick lint check format install bench gpu-check clean

install: $(VENV)/.installed

# uv where it is present, else put into the virtual environment: it installs everything in under a minute.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 is here; name one: make PYTHON=PATH" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@UV=$$(command -v uv || echo $(BIN)/uv); \
	 test -x "$$UV" || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
	 "$$UV" pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" mtl demo $(DEMO)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) -q -m "not long"

# Five to ten minutes more: clusters, servers and kills at every point.
test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) -q -m long

quick: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) -q -m "not slow and not long"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Ten minutes at most; QUICK=1 takes two and is coarse.
bench: install
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

# On a machine with a GPU, eight minutes; installs nothing (docs/gpu.md).
gpu-check:
	@$(GPU_PYTHON) -m bench.gpu_check $(GPU_CHECK)

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
