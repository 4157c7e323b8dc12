from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from bench.demo.page import render
from tests.support.demo_report import report

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Outline(HTMLParser):
    """Collects ids, references and loadable addresses, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and value:
                self.loads.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render(report())


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {load.removeprefix("#") for load in outline.loads} <= set(outline.ids)


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert all(load.startswith("#") for load in outline.loads)
    assert not outline.tags & {"script", "iframe", "img", "link", "object"}
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_the_pictures_use_the_page_s_colours(page: str) -> None:
    assert page.count("<svg") == 4
    assert "var(--blue)" in page
    assert not re.search(r"#0102[0-9a-f]{2}", page)


def test_texts_of_records_are_escaped(page: str) -> None:
    assert "<b>quiet</b>" not in page
    assert "&lt;b&gt;quiet&lt;/b&gt;" in page


def test_a_run_without_swap_or_training_has_a_page() -> None:
    bare = report(gain=0.0).model_copy(update={"swap": (), "rewards": (), "sft_losses": (), "latency_ms": None, "latency_ms_by_phase": {}, "served": ()})
    assert "None in this run." in render(bare)
