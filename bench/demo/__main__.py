"""`python -m bench.demo`: the same as `retouch demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.demo.command import run
from infra.errors import BadSetting
from infra.process.lifecycle import USAGE
from infra.settings import load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-report"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        return run(load(), arguments.out, arguments.short, arguments.seed, arguments.json)
    except BadSetting as error:
        sys.stderr.write(f"demo: {error}\n")
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
