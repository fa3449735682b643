# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Any Python from 3.11 on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
KAFKA := $(BIN)/python tools/kafka/broker.py
# One stamp a set of extras: made anew when pyproject.toml changes, and else nothing is asked of the network.
COMMA := ,
BASE := .venv/.stamp-base
KAFKA_EXTRA := .venv/.stamp-kafka
DEV := .venv/.stamp-dev
# `make demo` on a Kafka needs its client, and only then.
DEMO_NEEDS := $(if $(filter kafka://%,$(KEYLANE_URL)),$(KAFKA_EXTRA),$(BASE))
TESTS ?= tests
PYTEST_OPTIONS ?=
# Most tests wait most of the time. Those marked `alone` come after, one by one.
TEST_JOBS ?= 2
SEED ?= 0
SEEDS ?= 1000
JOBS ?= 1
ROUNDS ?= 5
ONLY ?=
TYPED := build/typed/keylane
PACKAGES := schemas journal telemetry router guards verify workers

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(DEV) ## Make .venv with keylane in it, and all that development needs

.PHONY: demo
demo: $(DEMO_NEEDS) ## The story in a terminal; KEYLANE_URL=kafka://host:port tells it on a Kafka
	$(BIN)/keylane demo

.PHONY: test
test: $(DEV) check jars prometheus postgres ## All checks and tests, with a real Kafka; REWRITE=1 accepts what is new, TESTS=… picks
	@found=0; \
	some() { REWRITE=$(REWRITE) $(BIN)/pytest $(PYTEST_OPTIONS) "$$@" $(TESTS) && found=1 || test $$? -eq 5; }; \
	some -m "not alone" -n $(TEST_JOBS) --dist worksteal; some -m alone; test $$found = 1

.PHONY: sim
sim: $(DEV) ## Simulate many routers, workers and agents under faults: SEED=0 SEEDS=1000 JOBS=1; a seed is one history
	PYTHONPATH=tests $(BIN)/python -m simulation --seed $(SEED) --seeds $(SEEDS) --jobs $(JOBS)

.PHONY: check
check: $(DEV) typed ## Lint, format, strict types, import rules and sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p keylane -p bench
	$(BIN)/pytest -q tests/tidy

.PHONY: bench
bench: $(DEV) jars ## Measure it beside Kafka Streams and its ceilings, into docs/; ROUNDS=5, ONLY="kafka memory" picks
	$(BIN)/python -m bench --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY))

# The folders are not named as their packages are, which mypy does not follow: links are.
.PHONY: typed
typed:
	@rm -rf $(TYPED) && mkdir -p $(TYPED)
	@for file in api/*; do ln -s "../../../$$file" $(TYPED)/; done
	@for package in $(PACKAGES); do ln -s "../../../$$package" $(TYPED)/; done

.PHONY: prove
prove: $(DEV) ## Faults of the real thing at random: BACKEND=kafka MINUTES=30 SEED=7; MODE=…, CYCLES=… for one kind of them
	@PYTHONPATH=tests $(BIN)/python -m chaos $(if $(MODE),--mode $(MODE)) $(if $(BACKEND),--backend $(BACKEND)) \
		$(if $(CYCLES),--cycles $(CYCLES)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

.PHONY: prove-locks
prove-locks: $(DEV) ## Eight rlock at once on one key, again and again: BACKEND=sqlite ROUNDS=1000
	@PYTHONPATH=tests $(BIN)/python -m eight $(if $(BACKEND),--backend $(BACKEND)) \
		$(if $(filter-out file,$(origin ROUNDS)),--rounds $(ROUNDS))

.PHONY: jars
jars: $(BASE)
	$(KAFKA) jars

.PHONY: prometheus
prometheus: $(BASE)
	@$(BIN)/python tools/prometheus/fetch.py >/dev/null

.PHONY: postgres
postgres: $(BASE)
	@$(BIN)/python tools/postgres/fetch.py >/dev/null

.PHONY: kafka-up
kafka-up: $(BASE) ## Start a real Kafka on 127.0.0.1, in the background; KAFKA_PORT chooses the port (9092)
	$(KAFKA) up

.PHONY: kafka-down
kafka-down: $(BASE) ## Stop it
	$(KAFKA) down

.PHONY: clean
clean: ## Remove what was made here, except data in .keylane and .kafka
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `uv` where there is one, since it is faster and can fetch a Python; pip does the same with the one that is there.
.venv/bin/python:
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python "$(or $(PYTHON),3.11)" .venv; \
	elif test -z "$(PYTHON)"; then \
		echo "keylane needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3" >&2; exit 69; \
	elif ! "$(PYTHON)" -m venv .venv; then \
		rm -rf .venv; echo "$(PYTHON) cannot make a venv: on Debian, apt-get install python3-venv" >&2; exit 69; \
	fi

define install
	@echo "installing keylane$(1) in .venv"
	@if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python -e '.$(1)'; \
	else $(BIN)/python -m pip install -qq --disable-pip-version-check -e '.$(1)'; fi
endef

$(BASE): pyproject.toml | .venv/bin/python
	$(call install,)
	@touch $@

$(KAFKA_EXTRA): pyproject.toml | .venv/bin/python
	$(call install,[kafka])
	@touch $(BASE) $@

$(DEV): pyproject.toml | .venv/bin/python
	$(call install,[kafka$(COMMA)dev])
	@touch $(BASE) $(KAFKA_EXTRA) $@
