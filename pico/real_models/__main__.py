"""`python -m pico.real_models NAME`: converts a real model from its package into a checkpoint folder, and prints the settings that use it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from infra.errors import BadSetting, RetouchError
from infra.settings import load
from pico.real_models import bge_small, smollm2
from pico.real_models.model_folder import ensure_model


class RealModel(NamedTuple):
    folder: str
    digest: str
    write: Callable[[Path], None]
    settings: tuple[str, ...]  # with `{}` for the folder


MODELS = {
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct",
        smollm2.DIGEST,
        lambda folder: smollm2.write_checkpoint(smollm2.package_file(), folder),
        ("base.checkpoint={}", "reflection.checkpoint={}"),
    ),
    "bge-small": RealModel("bge-small-en-v1.5", bge_small.DIGEST, bge_small.write_fetched_model, ("embedder.model={}",)),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 if the folder holds the model, 1 after a failure, 2 for an invalid argument or setting."""
    parser = argparse.ArgumentParser(prog="python -m pico.real_models", description=__doc__)
    parser.add_argument("name", choices=MODELS, help="smollm2: language model, from a Python package; bge-small: embedder, from a Maven jar")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the model; by default one below stack.cache_dir/models")
    given = parser.parse_args(arguments)
    model = MODELS[given.name]
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # before transformers is imported
    try:
        target = (given.out or load().stack.cache_dir / "models" / model.folder).absolute()
        is_new = ensure_model(target, model.digest, model.write)
    except RetouchError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, BadSetting) else 1
    print(f"{target}: {'converted' if is_new else 'there already'}, digest {model.digest}")  # noqa: T201
    print("settings:", *(setting.format(target) for setting in model.settings))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
