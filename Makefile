# Two commands to know: `make demo` and `make test`. Everything is installed into $(VENV).

VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first interpreter of a version that Bytewax has wheels for; name another with PYTHON=….
PYTHON ?= $(shell for python in python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

# Processes that share the tests; each has servers of its own.
JOBS ?= 4

.DELETE_ON_ERROR:
.PHONY: help setup demo test test-page test-pooler test-kafka test-contracts chaos bench bench-scoring k8s-rehearsal \
	secrets lint check-manifests check-monitoring test-monitoring format lock clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(INSTALLED) $(BIN)/fraud-stream ## Install everything, exact versions, into .venv

$(BIN)/fraud-stream: | $(INSTALLED)
	ln -sf "$(CURDIR)/fraud-stream" $@

$(INSTALLED): requirements-dev.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name it with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

demo: $(INSTALLED) ## Run the whole job on 20,000 transactions, on servers of its own
	$(BIN)/python -m ops demo $(if $(FAULT),--fault $(FAULT))

test: $(INSTALLED) ## Run all tests that need nothing but Python
	$(BIN)/python -m pytest -m 'not apache_kafka and not flyway and not contracts and not chaos and not browser and not prometheus and not pgbouncer' \
		--numprocesses $(JOBS) --dist worksteal $(ARGS)

test-kafka: $(INSTALLED) ## Run the integration tests against Apache Kafka, and Flyway (Java 17, Maven)
	$(BIN)/python -m pytest --kafka=apache -m 'not chaos and not pgbouncer' tests/integration tests/acceptance tests/chaos $(ARGS)

test-page: $(INSTALLED) ## Look at the status page in a real browser (Debian's chromium)
	$(BIN)/python -m pytest tests/browser $(ARGS)

test-pooler: $(INSTALLED) ## Check the database through PgBouncer (Debian's pgbouncer)
	$(BIN)/python -m pytest -m pgbouncer tests/integration $(ARGS)

test-monitoring: $(INSTALLED) ## Ask a real Prometheus what the dashboard asks, and give it the alerts (Debian's prometheus)
	$(BIN)/python -m pytest tests/monitoring $(ARGS)

test-contracts: $(INSTALLED) .contracts/mlserver/.installed .contracts/mlflow/.installed ## Ask the real model servers, MLServer and MLflow
	$(BIN)/python -m pytest tests/contracts $(ARGS)

.PRECIOUS: .contracts/%/.installed
.contracts/%/.installed: tests/contracts/requirements-%.txt | $(INSTALLED)
	$(BIN)/python -m venv --clear .contracts/$*
	.contracts/$*/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
		--require-hashes -r $<
	touch $@

chaos: $(INSTALLED) ## Kill everything 200 times under load, against Apache Kafka, and count both ends
	$(BIN)/python -m tests.chaos $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

bench: .bench/.installed ## Measure this stream beside two others that do the same job
	.bench/bin/python -m tests.bench $(ARGS)

.bench/.installed: requirements-bench.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name it with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv --clear .bench
	.bench/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
		--require-hashes -r $<
	touch $@

bench-scoring: $(INSTALLED) ## Measure what a slow tail and an outage of the model cost
	$(BIN)/python -m tests.bench.scoring

k8s-rehearsal: $(INSTALLED) ## Run three pods of k8s/ as processes on this machine, kill some, and audit
	$(BIN)/python -m tests.rehearsal $(if $(KAFKA),--kafka $(KAFKA))

secrets: ## Make the passwords of compose.yaml, in files
	compose/secrets.sh

lint: $(INSTALLED) ## Check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_import_contract.py

# kubectl is a development package where there is a wheel of it.
KUBECTL ?= $(firstword $(wildcard $(BIN)/kubectl) kubectl)
KUSTOMIZATIONS = k8s/base $(wildcard k8s/overlays/*)

check-manifests: $(INSTALLED) ## Check image, compose.yaml and k8s/ against linters and schemas
	$(BIN)/hadolint --failure-threshold style Dockerfile
	$(BIN)/yamllint --strict .
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	@rendered=$$(mktemp -d) && trap 'rm -r "$$rendered"' EXIT && set -e && \
	for folder in $(KUSTOMIZATIONS); do \
		$(KUBECTL) kustomize $$folder > $$rendered/$$(basename $$folder).yaml; \
	done; \
	$(BIN)/kubernetes-validate --strict $$rendered/*.yaml k8s/secret.example.yaml
	$(BIN)/python -m pytest -q tests/unit/test_manifests.py

check-monitoring: ## Check Prometheus' rules, and test that alerts fire (promtool, of Debian's prometheus)
	@command -v promtool >/dev/null || { echo "promtool is not here; it comes with Prometheus" >&2; exit 1; }
	promtool check config --syntax-only monitoring/prometheus.yml
	promtool check rules monitoring/rules/*.yaml
	promtool test rules monitoring/tests/*.yaml

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command 'make lock'

lock: $(INSTALLED) ## Resolve the locks anew, to the newest versions
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) pyproject.toml --group dev --output-file requirements-dev.lock
	$(LOCK) pyproject.toml --extra tracing --constraint requirements-dev.lock \
		--output-file requirements-tracing.lock
	$(LOCK) pyproject.toml --group bench --constraint requirements-dev.lock \
		--output-file requirements-bench.lock
	$(LOCK) tests/contracts/requirements-mlserver.in --output-file tests/contracts/requirements-mlserver.txt
	$(LOCK) tests/contracts/requirements-mlflow.in --output-file tests/contracts/requirements-mlflow.txt

clean: ## Remove what the other targets made
	rm -rf .venv .venv-* .bench .bench-results .contracts .kafka .hypothesis .mypy_cache .pytest_cache .ruff_cache
