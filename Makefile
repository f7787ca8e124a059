# Everything a user needs on a fresh machine: `make demo` and `make test`. Both make their own .venv and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup demo test test-slow test-gpu notebooks docs lint clean

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip setuptools wheel
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(RUN) -m kmaskrcnn demo --output demo

test: setup
	$(RUN) -m pytest -m "not slow and not gpu"

test-slow: setup
	$(RUN) -m pip install --quiet --editable ".[dev,onnx,litert]"
	$(RUN) -m pytest -m "slow and not gpu"

test-gpu: setup
	$(RUN) -m pytest -m gpu

notebooks: setup
	$(RUN) notebooks/run_notebooks.py notebooks/*.ipynb

docs: setup
	$(RUN) -m pip install --quiet --editable ".[docs]"
	mkdir -p build && cp docs/mkdocs.yml build/mkdocs.yml
	$(RUN) -m mkdocs build --quiet --strict --config-file build/mkdocs.yml

lint: setup
	$(RUN) -m black --check --quiet --line-length 100 kmaskrcnn tests benchmarks notebooks
	$(RUN) -m isort --check-only --quiet kmaskrcnn tests benchmarks notebooks
	$(RUN) -m flake8 kmaskrcnn tests benchmarks notebooks

clean:
	rm -rf build dist *.egg-info demo
