# Every target creates .venv when it is missing and installs the exact versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-processors fuzz lint examples bench clean

demo: $(VENV)/.installed
	$(BIN)/genreg demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

# 5,000 random operators, functionals and precisions, new ones in every run; `make test` has 1,300, always the same.
fuzz: $(VENV)/.installed
	GENREG_FUZZ=5000 $(BIN)/python -m pytest -n 2 --dist=load tests/operators/test_random_*.py

# All nine, and the whole suite; PROCESSORS="default:SSE4_2" PYTEST_ARGUMENTS=tests/solvers for a part of them.
test-processors: $(VENV)/.installed
	PYTHON=$(BIN)/python bash tests/processors.sh $(PROCESSORS) -- $(PYTEST_ARGUMENTS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed && cp -r genreg build/typed
	cp -r operators solvers build/typed/genreg
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/setup.cfg --cache-dir $(CURDIR)/.mypy_cache

examples: $(VENV)/.installed
	mkdir -p build/examples
	for script in examples/*.py; do \
		(cd build/examples && $(CURDIR)/$(BIN)/python $(CURDIR)/$$script --quick) || exit 1; done

bench: $(VENV)/.installed
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script --quick --threads 1 || exit 1; done

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,tomo,data]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
