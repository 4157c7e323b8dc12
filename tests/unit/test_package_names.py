"""Our top-level names are common words: nothing that is installed may stand in front of the checkout."""

from __future__ import annotations

import importlib.util
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "infra", "streams", "workers", "trainer", "traffic", "pico", "bench", "lab", "cli")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_name_resolves_into_the_checkout(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"


def test_no_other_distribution_claims_a_name() -> None:
    owners = packages_distributions()
    assert {name: owners[name] for name in PACKAGES if set(owners.get(name, [])) - {"retouch"}} == {}
