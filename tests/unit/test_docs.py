"""What the docs point to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("*/README.md")])
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_FILE = re.compile(r"`((?:docs|tests|bench|cli|infra|lab|pico|schemas|streams|trainer|traffic|workers)/[\w/.-]+\.(?:py|md))`")

_PAGE = re.compile(r"\b(docs/[\w/-]+\.md)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_and_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    missing = [f"{file}::{name}" for file, name in _TEST.findall(text) if not _defines(ROOT / file, name)]
    missing += [file for file in _FILE.findall(text) if not (ROOT / file).exists()]
    assert missing == []


def test_every_page_that_code_points_to_is_there() -> None:
    sources = [
        path
        for folder in ("bench", "cli", "infra", "lab", "pico", "schemas", "streams", "tests", "traffic", "trainer", "workers")
        for path in (ROOT / folder).rglob("*.py")
    ]
    named = {(str(path.relative_to(ROOT)), page) for path in sources for page in _PAGE.findall(path.read_text())}
    assert named and [(path, page) for path, page in sorted(named) if not (ROOT / page).exists()] == []


def _defines(file: Path, name: str) -> bool:
    return file.exists() and re.search(rf"^(?:async )?def {name}\(", file.read_text(), re.MULTILINE) is not None
