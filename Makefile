# Retouch. `make demo` and `make test` set everything up first; nothing else needs to be prepared but Python 3.11+.

OUT ?= demo-report
STAMP := .venv/.set-up

.PHONY: setup demo test lint clean

setup: $(STAMP)

$(STAMP): requirements.lock requirements-bootstrap.lock pyproject.toml infra/local/kafka_jars.sha256 scripts/setup.sh
	@scripts/setup.sh
	@touch $@

# make demo OUT=DIR writes the report there; SHORT=1 does less of everything.
demo: setup
	.venv/bin/retouch demo --out "$(OUT)" $(if $(SHORT),--short)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Tests share the cores, a file at a time, those with few long tests first; what starts the whole stack has the machine to itself.
# PYTEST_ARGS narrows the tests, such as PYTEST_ARGS='-m "not slow"'.
test: lint
	@scripts/test-programs.sh
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/integration tests/contract tests/unit $(PYTEST_ARGS)
	.venv/bin/pytest tests/e2e tests/gpu $(PYTEST_ARGS)
	@echo "make test: lint, types, import layers and tests passed"

# The environment, the broker's jars, local state and reports: everything that is made, nothing that is written.
clean:
	rm -rf .venv .cache .retouch demo-report bench-out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
