"""`python -m bench.demo`: the same as `retouch demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.demo.command import run
from infra.process.command_output import Json, run_command


def main(out: Path = Path("demo-report"), short: Annotated[bool, typer.Option("--short")] = False, seed: int = 0, as_json: Json = False) -> None:
    run_command(lambda settings: run(settings, out, short, seed, as_json))


if __name__ == "__main__":
    typer.run(main)
