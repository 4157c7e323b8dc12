"""Test files import from `tests.support` only, and test names are short enough for one line of a report."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))
TIERS = sorted(folder.name for folder in (ROOT / "tests").iterdir() if (folder / "__init__.py").is_file() and folder.name != "support")
MODULE_OF_A_TIER = re.compile(rf"\btests\.(?:{'|'.join(TIERS)})\b[.\w]*")
LONGEST_NAME = 80


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_no_module_of_a_test_tier_is_imported_or_started() -> None:
    """In text as well: a test may start a helper by its module name. A test may name its own module."""
    mentions = {(module_name(path), name) for path in FILES for name in MODULE_OF_A_TIER.findall(path.read_text("utf-8"))}
    assert {(module, name) for module, name in mentions if name != module} == set()
    assert [module_name(path) for path in FILES if re.search(r"^\s*from \.", path.read_text("utf-8"), re.MULTILINE)] == []


def test_tiers_hold_test_files_only() -> None:
    others = [path for tier in TIERS for path in (ROOT / "tests" / tier).rglob("*.py") if not path.name.startswith("test_")]
    assert {path.name for path in others} <= {"__init__.py", "conftest.py"}


def test_no_test_name_is_too_long() -> None:
    names = re.findall(r"def (test_\w+)", "\n".join(path.read_text("utf-8") for path in FILES))
    assert [name for name in names if len(name) > LONGEST_NAME] == []


def test_the_pattern_finds_modules_of_tiers_only() -> None:
    text = " ".join(f"tests.{name}" for name in ("unit.traffic.test_plan", "e2e", "support.outcomes", "united"))
    assert MODULE_OF_A_TIER.findall(text) == [f"tests.{name}" for name in ("unit.traffic.test_plan", "e2e")]
