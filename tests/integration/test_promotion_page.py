"""The page in a real browser, in front of a real promoter over a registry in memory."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from infra.settings import load
from lab.promotion.script import PROMOTION, ScriptedInputs
from schemas.gate import GateResult
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.support.memory_registry import MemoryRegistry
from trainer.promotion import state_machine
from trainer.promotion.promoter import Promoter
from trainer.promotion.service import PromoterService
from trainer.promotion.version_history import VersionHistories
from trainer.promotion.web import Server, serve

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed: on Debian, apt install chromium-driver")

TOKEN = "an operator's token"
HOSTILE = "<script>document.title = 'taken over'</script><img src=x onerror=alert(1)>"
#: Figures, and domains whose names are words of the page's own.
EVIDENCE = {"gain": {"mean": 0.03, "low": 0.01, "high": 0.05}, "domains": {"low": {"users": 3}, "high": {"users": 4}}, "constructor": HOSTILE, HOSTILE: [None]}
WAIT_S = 30.0


class Site:
    """A promoter that watches version 2 in its canary, where nothing is found out any more, and its page."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        now = datetime.now(UTC)
        script = ScriptedInputs(gates={"2": GateResult(outcome="passed", reason=HOSTILE, evidence=EVIDENCE)}, now=now)
        script.told = {"shadow": "better", "canary": "equal"}
        self.registry.register()
        while step := state_machine.first_champion(VersionHistories(()), self.registry.get("1"), "bootstrap", "shipped", now):
            self.registry.record("1", step.transition)
        self.registry.register()
        settings = load(
            promotion={"operator_token": TOKEN, "poll_s": 0.1, "canary_answers": 100_000, **PROMOTION.model_dump(include={"shadow_answers", "min_users"})}
        )
        self.promoter = Promoter(self.registry, settings.promotion, feed=script, gates=script, announce=lambda event: None)
        self.service = PromoterService(settings, self.promoter, lambda: None)
        self.settings, self.stop = settings, threading.Event()

    def state(self, version: str) -> VersionState:
        return self.registry.get(version).state


@pytest.fixture
def site() -> Iterator[tuple[Site, Server]]:
    site = Site()
    promoting = threading.Thread(target=site.service.run, args=(site.stop, lambda: None), name="promoter")
    promoting.start()
    try:
        assert site.service.is_established.wait(WAIT_S)
        with serve(site.settings, site.service, site.stop) as server:
            yield site, server
    finally:
        site.stop.set()
        promoting.join(WAIT_S)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # Tests run as root in containers, where the sandbox has no user to change to; /dev/shm is small there.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """What a person sees and does."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def text(self, part: str) -> str:
        return self.browser.find_element(By.ID, part).text

    def wait(self, seen: Callable[[], object]) -> None:
        WebDriverWait(self.browser, WAIT_S, poll_frequency=0.05).until(lambda _: seen())

    def field(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, f"ask-{name}")

    def ask(self, action: str, version: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, f"#versions [data-action={action}][data-version='{version}'], #now [data-action={action}]").click()

    def write(self, **fields: str) -> None:
        for name, text in fields.items():
            self.field(name).clear()
            self.field(name).send_keys(text)

    def complaints(self) -> list[str]:
        """What the browser held against the page; that a refused request was refused is no complaint."""
        found: list[dict[str, str]] = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in found if entry["source"] != "network"]


def test_an_operator_watches_promotes_and_rolls_back(site: tuple[Site, Server], browser: webdriver.Chrome) -> None:
    promoting, server = site
    page = Page(browser, server.url)
    page.wait(lambda: "version 2 is canary" in str(browser.find_element(By.CSS_SELECTOR, "#timeline svg").get_attribute("aria-label")))
    assert "Version 1" in page.text("now") and "fall-backs" in page.text("guardrails")
    # What others wrote is text, and open details stay open while the page looks again.
    assert HOSTILE in page.text("transitions") and browser.title.endswith("version 2 in canary")
    browser.find_elements(By.CSS_SELECTOR, "#transitions summary")[0].click()

    page.ask("promote", "2")
    assert "Version 2 becomes champion" in page.text("ask-effect") and not page.field("do").is_enabled()
    page.write(operator="ada", reason=HOSTILE, confirm="1", token="a wrong token, too")
    assert not page.field("do").is_enabled()
    page.write(confirm="2")
    page.field("do").click()
    page.wait(lambda: "token is missing or wrong" in page.text("ask-error"))
    assert promoting.state("2") is VersionState.CANARY and promoting.registry.aliases[Alias.CHAMPION] == "1"

    page.write(token=TOKEN)
    page.field("do").click()
    page.wait(lambda: "Version 2" in page.text("now") and "canary → champion" in page.text("transitions"))
    assert promoting.state("2") is VersionState.CHAMPION and promoting.registry.aliases[Alias.CHAMPION] == "2"
    assert browser.find_elements(By.CSS_SELECTOR, "#transitions details[open]")
    assert TOKEN not in browser.page_source and not browser.execute_script("return localStorage.length + sessionStorage.length")

    page.ask("rollback", "2")
    page.write(confirm="2", reason="complaints")
    page.field("do").click()
    page.wait(lambda: "Version 1" in page.text("now"))
    assert promoting.state("2") is VersionState.REJECTED and promoting.state("1") is VersionState.CHAMPION
    assert page.complaints() == []


def test_a_promoter_that_is_away_is_said_with_the_age_of_what_is_shown(site: tuple[Site, Server], browser: webdriver.Chrome) -> None:
    _, server = site
    page = Page(browser, server.url)
    page.wait(lambda: "live" in page.text("live"))
    server.close()
    page.wait(lambda: "does not answer. Shown is how things stood at" in page.text("banner"))
    assert "Version 1" in page.text("now") and page.complaints() == []


#: Holds the next answer about the page back until it is let go.
HOLD = """
const real = window.fetch;
window.fetch = (path, ...rest) => {
  if (path !== "/api/page" || window.held) return real(path, ...rest);
  window.held = real(path, ...rest);
  return window.held.then((answer) => new Promise((resolve) => { window.letGo = () => resolve(answer); }));
};
"""
#: What stands there once that answer has been read; the page looks again a second later.
LET_GO = "const tell = arguments[0]; window.letGo(); setTimeout(() => tell(document.getElementById('transitions').textContent), 300);"


def test_an_answer_that_comes_late_does_not_undo_what_was_seen_since(site: tuple[Site, Server], browser: webdriver.Chrome) -> None:
    _, server = site
    page = Page(browser, server.url)
    page.wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#versions [data-action=promote][data-version='2']"))
    browser.execute_script(HOLD)
    page.wait(lambda: browser.execute_script("return Boolean(window.letGo)"))
    page.ask("promote", "2")
    page.write(operator="ada", reason="good", confirm="2", token=TOKEN)
    page.field("do").click()
    page.wait(lambda: "canary → champion" in page.text("transitions"))
    assert "canary → champion" in str(browser.execute_async_script(LET_GO))
