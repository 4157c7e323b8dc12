"""`python -m streams`: history, retrieval and outcomes in one process."""

from __future__ import annotations

import sys

from infra.lifecycle import run_process
from streams.service import run

if __name__ == "__main__":
    sys.exit(run_process("streams", run))
