# The commands for people, hooks and CI. A fresh machine needs Python 3.11 and make; the rest is installed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test attack chaos power-cut kafka-test cluster-test check format graph lock sbom audit docs dashboards screenshots bench clean
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
# Byte code saves seconds at every start of a service, so it is written even where a container forbids it.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml $(wildcard requirements/*.txt)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Lungline needs Python 3.11 to 3.13; found $$($(BIN)/python --version). Try: make PYTHON=python3.11" >&2; rm -r .venv; exit 1; }
	@echo "Installing the locked dependencies into .venv (about 3 GB, a minute or two) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements/dev.txt)" >&2
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

setup: $(INSTALLED) ## install everything into .venv

demo: $(INSTALLED) ## show the whole flow on this machine (ARGS="--exit --json" for scripts)
	@$(BIN)/lungline demo $(ARGS)

# Files in the order of tests/conftest.py, the long ones first. Three on two cores: much of a test is waiting.
# Tracing doubles the CPU time of the tests' own processes. From Python 3.12 on the interpreter itself counts lines, at
# nearly no cost: coverage is measured there, when all tests run; `.venv/bin/coverage report` has the details.
COVERED = $(shell $(BIN)/python -c 'import sys; print("--cov --cov-report=" if sys.version_info >= (3, 12) else "")')
test: $(INSTALLED) ## run all tests (ARGS="-k events" for some)
	@$(if $(ARGS),,COVERAGE_CORE=sysmon) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(or $(ARGS),$(COVERED))

attack: $(INSTALLED) ## try what an attacker tries (ARGS="--home .lungline" against a stack that runs)
	@$(BIN)/python -m tests.support.attacks $(ARGS)

chaos: $(INSTALLED) ## kill every service and every pair of services under 300 uploads
	@$(BIN)/python -m pytest -q -s -m chaos tests/test_chaos.py $(ARGS)

power-cut: $(INSTALLED) ## cut the power under a stack at work, once for each of ten seeds (Linux and root needed)
	@$(BIN)/python -m tests.support.power_cut $(ARGS)

kafka-test: $(INSTALLED) ## run the laptop's tools on Apache Kafka itself (Java 17 and Maven needed)
	@$(BIN)/python -m pytest -q -m kafka tests/test_apache_kafka.py tests/test_apache_kafka_trigger.py tests/test_apache_kafka_stack.py $(ARGS)

cluster-test: $(INSTALLED) ## run the manifests and promotions on a real Kubernetes, Knative and KServe (root and Go needed)
	@$(BIN)/python -m tests.cluster $(ARGS)

check: $(INSTALLED) ## lint, format, types and the import graph
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/basedpyright
	@$(BIN)/python -m tests.support.import_graph --quiet
	@$(BIN)/python -m pytest -q tests/test_house.py -k "not wheel and not help"

format: $(INSTALLED) ## format the code and fix what ruff can fix
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

graph: $(INSTALLED) ## print which room imports which
	@$(BIN)/python -m tests.support.import_graph

lock: $(INSTALLED) ## lock the dependencies of pyproject.toml in requirements/ (ARGS="--upgrade" for the newest)
	@$(BIN)/python requirements/lock.py $(ARGS)

sbom: $(INSTALLED) ## write and validate the bills of materials of wheel and images into dist/sbom/
	@$(BIN)/python requirements/sbom.py $(ARGS)

# Every lock by its name: pip-audit does not follow the `-r` in them.
audit: $(INSTALLED) ## look for known vulnerabilities in what is locked (internet needed)
	@$(BIN)/pip-audit --disable-pip --require-hashes $(patsubst %,-r %,$(wildcard requirements/*.txt)) $(ARGS)

docs: $(INSTALLED) ## write the generated tables of the documents and the version in image tags
	@$(BIN)/python -m tests.support.write_generated

dashboards: $(INSTALLED) ## write the JSON of the Grafana dashboards
	@$(BIN)/python -m dashboards

screenshots: $(INSTALLED) ## take pictures of the worklist into screenshots/ (ARGS="--home .lungline" for a stack that runs)
	@$(BIN)/python -m tests.support.worklist_screenshots screenshots $(ARGS)

bench: $(INSTALLED) ## measure the predictor and the whole flow against peers
	@$(BIN)/lungline bench $(ARGS)

clean: ## stop the stack and remove everything generated, except .venv
	@if test -d .lungline && test -x $(BIN)/lungline; then $(BIN)/lungline down; fi
	rm -rf .lungline .pytest_cache .ruff_cache .hypothesis .coverage dist build
