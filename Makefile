# Needs a Linux machine with Python 3.11 or newer, GNU make and the package registries; nothing else. Some tests need the
# system packages below; who is root gets them with apt.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

# The first Python that is new enough; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
JAVA_SOURCES := $(shell find jvm -name '*.java' 2>/dev/null)
SYSTEM_PACKAGES := postgresql softhsm2 swtpm \
	containerd runc containernetworking-plugins iptables conntrack iproute2 mmdebstrap
CODE := src tests examples verifier deploy $(wildcard benchmarks)

# A virtual environment, our own Java and our own Spark: what is set on this machine does not reach them.
unexport JAVA_HOME JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS
unexport SPARK_HOME SPARK_CONF_DIR PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON PYSPARK_SUBMIT_ARGS
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_USER := 0

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make demo DATA=PATH     uses your own TLC files (CSV, CSV.gz, Parquet)'
	@echo '  make demo ARGS=...      passes further options to `strongroom demo`; likewise make bench'
	@echo '  make bench-attestation ARGS=...  --quick for a smoke run, --requests N, --json, --out FOLDER'
	@echo '  make bench-keys ARGS=...  --quick for a smoke run, --keys N, --leaves N, --json, --out FOLDER'
	@echo '  make bench-kubernetes ARGS=...  --quick for a smoke run, --rounds N, --executors N, --json, --out FOLDER'
	@echo '  make test ARGS=...      passes further options to pytest'
	@echo '  make test-kubernetes ARGS=...  likewise; KUBECONFIG=FILE uses a cluster of yours'
	@echo '  make fuzz ARGS=...      --target NAME --seconds N, --all or --list'

# --- set-up ------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: .venv/.setup ## Make the virtual environment, Spark and Java included, and build the Java part

.venv/.created:
	@[ -n '$(PYTHON)' ] || { echo 'Python 3.11 or newer was not found. Install it, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) does not run or is older than Python 3.11. Name another: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	'$(PYTHON)' -m venv .venv
	@touch $@

# pyspark comes as sources only. What builds it is pinned and hashed as well, hence --no-build-isolation.
.venv/.installed: .venv/.created requirements/build.txt requirements/runtime.txt pyproject.toml
	$(PIP) install --require-hashes --requirement requirements/build.txt
	$(PIP) install --require-hashes --no-build-isolation --requirement requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.setup: .venv/.installed $(JAVA_SOURCES) $(wildcard src/strongroom/engine/*.py)
	$(BIN)/python -m compileall -q src
	$(BIN)/strongroom setup
	@touch $@

.venv/.developer: .venv/.installed requirements/dev.txt
	$(PIP) install --require-hashes --no-build-isolation --requirement requirements/dev.txt
	$(BIN)/strongroom setup
	@touch $@

# A certified OpenID Provider for the tests of sign-in, on the Node.js that the developer requirements bring.
.venv/.identity-provider: .venv/.developer tests/identity_provider/package-lock.json tests/identity_provider/package.json
	PATH="$(abspath $(BIN)):$$PATH" npm ci --prefix tests/identity_provider --ignore-scripts --no-audit --no-fund
	@touch $@

.PHONY: system
system: .venv/.installed ## Install the system packages that some tests need (as root, with apt)
	@if command -v swtpm >/dev/null && command -v pg_ctlcluster >/dev/null && command -v softhsm2-util >/dev/null && \
		$(BIN)/python -m tests.support.kubernetes.machine; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $(SYSTEM_PACKAGES); \
	else \
		echo 'system: not root with apt, and one of $(SYSTEM_PACKAGES) is not installed: tests that need it are left out'; \
	fi

# --- the product -------------------------------------------------------------------------------------------------

.PHONY: demo
demo: .venv/.setup ## Run the taxi report through all eight steps on this machine
	$(BIN)/strongroom demo $(if $(DATA),--data '$(DATA)') $(ARGS)

.PHONY: bench
bench: .venv/.setup .venv/.developer ## Measure plain against protected; writes docs/benchmarks
	$(BIN)/python benchmarks/nyctaxi.py $(ARGS)

.PHONY: bench-attestation
bench-attestation: .venv/.setup .venv/.developer ## Measure verification, policies and the attestation service; needs two cores
	$(BIN)/python benchmarks/attestation.py $(ARGS)

.PHONY: bench-keys
bench-keys: .venv/.setup .venv/.developer ## Measure releases, wraps, look-ups and starts of the key service; needs two cores
	$(BIN)/python benchmarks/keys.py $(ARGS)

.PHONY: images
images: .venv/.developer system ## Build the images of the containers into build/images
	$(BIN)/python deploy/images/build.py $(ARGS)

.PHONY: bench-crowd
bench-crowd: .venv/.setup .venv/.developer ## Measure a thousand executors that join a run at once; needs two cores
	$(BIN)/python benchmarks/crowd.py $(ARGS)

.PHONY: bench-kubernetes
bench-kubernetes: .venv/.setup .venv/.developer system ## Measure spark-submit against strongroom submit on a cluster
	$(BIN)/python benchmarks/kubernetes.py $(ARGS)

# --- checks ------------------------------------------------------------------------------------------------------

.PHONY: test
test: .venv/.setup .venv/.developer .venv/.identity-provider system lint ## Run every check and every test
	env --unset=KUBECONFIG $(BIN)/python -m tests.support.suite $(ARGS)

.PHONY: test-kubernetes
test-kubernetes: .venv/.setup .venv/.developer system ## Run the tests on a cluster: one made here, or that of KUBECONFIG
	$(BIN)/python -m tests.support.suite $(if $(filter tests/%,$(ARGS)),,tests/kubernetes) $(ARGS)

.venv/.fuzzer: .venv/.developer requirements/fuzz.txt
	$(PIP) install --require-hashes --requirement requirements/fuzz.txt
	@touch $@

.PHONY: fuzz
fuzz: .venv/.fuzzer ## Look for input that a parser does not survive, guided by coverage; no part of make test
	$(BIN)/python -m tests.fuzz.atheris.run $(or $(ARGS),--all)

.PHONY: lint
lint: .venv/.installed .venv/.developer ## Run the checks that need no test: style, types, import layers, generated files
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/strongroom dev check-generated

.PHONY: format
format: .venv/.developer ## Format the code and mend what ruff can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# --- housekeeping ------------------------------------------------------------------------------------------------

LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate

.PHONY: lock
lock: .venv/.developer ## Choose the newest allowed versions and write requirements/*.txt
	$(LOCK) requirements/build.in --output-file requirements/build.txt
	$(LOCK) pyproject.toml --extra services --extra spark --output-file requirements/runtime.txt
	$(LOCK) pyproject.toml --extra services --extra spark --extra postgres --extra azure --extra pkcs11 --extra kubernetes \
		requirements/dev.in \
		--constraint requirements/build.txt --constraint requirements/runtime.txt \
		--output-file requirements/dev.txt
	$(LOCK) requirements/fuzz.in --output-file requirements/fuzz.txt
	$(LOCK) pyproject.toml --extra services --extra postgres --extra azure --extra pkcs11 \
		--constraint requirements/dev.txt --output-file requirements/image-service.txt
	$(LOCK) pyproject.toml --extra spark --constraint requirements/dev.txt --output-file requirements/image-spark.txt
	@! grep -n '://' requirements/*.txt

.PHONY: clean
clean: ## Remove caches; the virtual environment stays (delete .venv to start anew)
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
