# Everything a user needs on a fresh machine: `make demo` and `make test`. Both make their own .venv and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup demo test test-slow test-optional test-gpu notebooks docs lint clean

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10), 'Python 3.10 or later is needed: make PYTHON=python3.12'"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip setuptools wheel
	@echo "Installing TensorFlow and the rest into $(VENV): some minutes the first time."
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(RUN) -m kmaskrcnn demo --output demo

test: setup
	$(RUN) -m pytest -m "not slow and not gpu"

test-slow: setup
	$(RUN) -m pip install --quiet --editable ".[dev,onnx,litert]"
	$(RUN) -m pytest -m "slow and not gpu"

# Packages that only some users install: exported formats, the page in a browser, other backends.
test-optional: setup
	$(RUN) -m pip install --quiet --editable ".[dev,onnx,litert,app]" selenium jax torch
	$(RUN) -m pytest -m "not slow and not gpu" tests/export tests/serving tests/backends

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
