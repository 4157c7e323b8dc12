#!/usr/bin/env bash
# Builds .venv from the lock files and fetches the broker. Safe to run again, also after it was interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }
step() { echo "setup: $* ($SECONDS s)"; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || fail "Python 3.11 or newer is needed, and neither ${PYTHON:-python3} nor a newer python3.x on the path is one"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv or ensurepip: install them (on Debian and Ubuntu: apt install python3-venv)"
    step "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
step "installing uv, by hash"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-bootstrap.lock
step "installing the locked packages, by hash: several gigabytes the first time"
# Compiled now: ten processes would otherwise each compile torch and vLLM for themselves, at every start where bytecode is not written.
.venv/bin/uv pip install --python .venv/bin/python --no-deps --require-hashes --compile-bytecode -r requirements.lock
.venv/bin/uv pip install --python .venv/bin/python --no-deps --no-build-isolation -e .
step "fetching Apache Kafka, by checksum"
.venv/bin/python -m infra.local.fetch_kafka
step "done"
