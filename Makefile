# Retouch. `make demo` and `make test` set everything up first. They need Python 3.11 or newer and nothing else.

OUT ?= demo-report
STAMP := .venv/.set-up

# make setup EXTRA=real also installs requirements-real.lock: packages with real models (docs/real-models.md).
EXTRA_STAMP := $(if $(EXTRA),.venv/.set-up-$(EXTRA))

.PHONY: setup demo bench-quality test test-all test-long-list lint lint-deploy clean

setup: $(STAMP) $(EXTRA_STAMP)

$(STAMP): requirements.lock requirements-bootstrap.lock pyproject.toml infra/local/kafka_jars.sha256 scripts/setup.sh
	@scripts/setup.sh
	@touch $@

.venv/.set-up-%: requirements-%.lock $(STAMP)
	.venv/bin/uv pip install --python .venv/bin/python --no-deps --require-hashes --compile-bytecode -r $<
	@touch $@

# make demo OUT=DIR writes the report there; SHORT=1 does less of everything.
demo: setup
	.venv/bin/retouch demo --out "$(OUT)" $(if $(SHORT),--short)

# Every strategy and RPO's ablations on the persona world, with the tiny models.
bench-quality: setup
	.venv/bin/retouch bench quality --strategies all,ablations --out bench-out/quality

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# infra/deploy with all its tools: scripts/deploy-tools.sh builds Helm the first time.
lint-deploy: setup
	@scripts/deploy-tools.sh
	.venv/bin/pytest tests/unit/infra/deploy

# Four processes share the tests, a file at a time, those with few long tests first: on two cores, because most of these tests wait for brokers and
# processes. Tests that start the whole stack have the machine to themselves.
# PYTEST_ARGS narrows the tests, such as PYTEST_ARGS='-m "not slow"'. `test` leaves out the tests marked long, `test-all` runs every test.
test: TIERS := -m "not long"
test: TOOLS := quick
test test-all: lint
	@scripts/test-programs.sh
	@scripts/deploy-tools.sh $(TOOLS)
	.venv/bin/pytest -n 4 --dist loadfile --no-loadscope-reorder tests/integration tests/contract tests/unit $(TIERS) $(PYTEST_ARGS)
	.venv/bin/pytest tests/e2e tests/gpu $(TIERS) $(PYTEST_ARGS)
	@echo "make $@: lint, types, import layers and tests passed"

# The tests that only `make test-all` runs, with their reasons.
test-long-list: setup
	@grep -rn --include='*.py' -o 'mark.long("[^"]*")' tests

# The environment, the broker's jars, local state and reports: all generated files.
clean:
	rm -rf .venv .cache .retouch demo-report bench-out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
