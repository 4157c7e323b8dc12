"""The page in a real browser, served by a real promoter over a registry in memory."""

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
from lab.promotion.scripted_inputs import PROMOTION, ScriptedInputs
from schemas.gate import GateResult
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.support.memory_promoter import MemoryPromoter, example_view
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
#: Figures, and domains whose names the page uses itself.
EVIDENCE = {"gain": {"mean": 0.03, "low": 0.01, "high": 0.05}, "domains": {"low": {"users": 3}, "high": {"users": 4}}, "constructor": HOSTILE, HOSTILE: [None]}
WAIT_S = 30.0


class CanaryPromoter:
    """A promoter with version 2 in a canary that reaches no verdict."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        now = datetime.now(UTC)
        script = ScriptedInputs(gates={"2": GateResult(outcome="passed", reason=HOSTILE, evidence=EVIDENCE)}, now=now)
        script.figures = {"shadow": "better", "canary": "equal"}
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
def served() -> Iterator[tuple[CanaryPromoter, Server]]:
    canary = CanaryPromoter()
    thread = threading.Thread(target=canary.service.run, args=(canary.stop, lambda: None), name="promoter")
    thread.start()
    try:
        assert canary.service.is_established.wait(WAIT_S)
        with serve(canary.settings, canary.service, canary.stop) as server:
            yield canary, server
    finally:
        canary.stop.set()
        thread.join(WAIT_S)


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
    """The page as a person reads and uses it."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def text(self, part: str) -> str:
        return self.browser.find_element(By.ID, part).text

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, WAIT_S, poll_frequency=0.05).until(lambda _: condition())

    def field(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, f"ask-{name}")

    def ask(self, action: str, version: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, f"#versions [data-action={action}][data-version='{version}'], #now [data-action={action}]").click()

    def write(self, **fields: str) -> None:
        for name, text in fields.items():
            self.field(name).clear()
            self.field(name).send_keys(text)

    def browser_errors(self) -> list[str]:
        """Errors of the browser, except for refused requests."""
        entries: list[dict[str, str]] = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["source"] != "network"]


def test_an_operator_watches_promotes_and_rolls_back(served: tuple[CanaryPromoter, Server], browser: webdriver.Chrome) -> None:
    canary, server = served
    page = Page(browser, server.url)
    page.wait(lambda: "version 2 is canary" in str(browser.find_element(By.CSS_SELECTOR, "#timeline svg").get_attribute("aria-label")))
    assert "Version 1" in page.text("now") and "fallbacks" in page.text("guardrails")
    # Text from others is shown as text, and open details stay open while the page polls.
    assert HOSTILE in page.text("transitions") and browser.title.endswith("version 2 in canary")
    browser.find_elements(By.CSS_SELECTOR, "#transitions summary")[0].click()

    page.ask("promote", "2")
    assert "Version 2 becomes champion" in page.text("ask-effect") and not page.field("do").is_enabled()
    page.write(operator="ada", reason=HOSTILE, confirm="1", token="a wrong token, too")
    assert not page.field("do").is_enabled()
    page.write(confirm="2")
    page.field("do").click()
    page.wait(lambda: "token is missing or wrong" in page.text("ask-error"))
    assert canary.state("2") is VersionState.CANARY and canary.registry.aliases[Alias.CHAMPION] == "1"

    page.write(token=TOKEN)
    page.field("do").click()
    page.wait(lambda: "Version 2" in page.text("now") and "canary → champion" in page.text("transitions"))
    assert canary.state("2") is VersionState.CHAMPION and canary.registry.aliases[Alias.CHAMPION] == "2"
    assert browser.find_elements(By.CSS_SELECTOR, "#transitions details[open]")
    assert TOKEN not in browser.page_source and not browser.execute_script("return localStorage.length + sessionStorage.length")

    page.ask("rollback", "2")
    page.write(confirm="2", reason="complaints")
    page.field("do").click()
    page.wait(lambda: "Version 1" in page.text("now"))
    assert canary.state("2") is VersionState.REJECTED and canary.state("1") is VersionState.CHAMPION
    assert page.browser_errors() == []


def test_the_page_shows_its_age_while_the_promoter_is_away(served: tuple[CanaryPromoter, Server], browser: webdriver.Chrome) -> None:
    _, server = served
    page = Page(browser, server.url)
    page.wait(lambda: "live" in page.text("live"))
    server.close()
    page.wait(lambda: "does not answer. This page shows the state at" in page.text("banner"))
    assert "Version 1" in page.text("now") and page.browser_errors() == []


#: Delays the next reply of /api/page until `window.letGo()`.
HOLD = """
const real = window.fetch;
window.fetch = (path, ...rest) => {
  if (path !== "/api/page" || window.held) return real(path, ...rest);
  window.held = real(path, ...rest);
  return window.held.then((answer) => new Promise((resolve) => { window.letGo = () => resolve(answer); }));
};
"""
#: Releases the delayed reply, and returns the transitions as the page then shows them; the next poll comes a second later.
LET_GO = "const done = arguments[0]; window.letGo(); setTimeout(() => done(document.getElementById('transitions').textContent), 300);"


def test_a_late_reply_does_not_undo_a_newer_one(served: tuple[CanaryPromoter, Server], browser: webdriver.Chrome) -> None:
    _, server = served
    page = Page(browser, server.url)
    page.wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#versions [data-action=promote][data-version='2']"))
    browser.execute_script(HOLD)
    page.wait(lambda: browser.execute_script("return Boolean(window.letGo)"))
    page.ask("promote", "2")
    page.write(operator="ada", reason="good", confirm="2", token=TOKEN)
    page.field("do").click()
    page.wait(lambda: "canary → champion" in page.text("transitions"))
    assert "canary → champion" in str(browser.execute_async_script(LET_GO))


#: From now on, `window.unknownFields` collects the fields that the page reads from replies of /api/page and that view.schema.json lacks.
STRICT = """
const root = await (await fetch("/view.schema.json")).json();
window.unknownFields = [];
window.strictReplies = 0;
const resolve = (schema) => (schema.$ref ? root.$defs[schema.$ref.split("/").pop()] : schema);
function strict(value, schema, path) {
  schema = resolve(schema);
  if (value === null || typeof value !== "object") return value;
  if (schema.anyOf) return strict(value, schema.anyOf.find((option) => option.type !== "null"), path);
  if (Array.isArray(value)) return value.map((item) => strict(item, schema.items ?? {}, path));
  const free = typeof schema.additionalProperties === "object" ? schema.additionalProperties : {};
  const part = (name) => schema.properties?.[name] ?? free;
  const copy = Object.fromEntries(Object.entries(value).map(([name, item]) => [name, strict(item, part(name), `${path}.${name}`)]));
  if (!schema.properties) return copy;
  const known = (name) => typeof name !== "string" || name === "then" || name in schema.properties || name in Object.prototype;
  return new Proxy(copy, { get: (target, name) => { if (!known(name)) window.unknownFields.push(`${path}.${name}`); return target[name]; } });
}
const json = Response.prototype.json;
Response.prototype.json = async function () {
  const value = await json.call(this);
  if (!this.url.endsWith("/api/page")) return value;
  window.strictReplies += 1;
  return strict(value, root, "view");
};
done();
"""


def test_the_page_reads_only_fields_that_its_schema_has(browser: webdriver.Chrome) -> None:
    with serve(load(promotion={"operator_token": TOKEN}), MemoryPromoter(example_view()), threading.Event()) as server:
        page = Page(browser, server.url)
        browser.execute_async_script(f"(async (done) => {{ {STRICT} }})(arguments[0]);")
        page.wait(lambda: browser.execute_script("return window.strictReplies") >= 2)
        page.ask("rollback", "4")
        assert "4" in page.text("ask-confirm-label") and "reflection-host-2" in page.text("workers") and page.text("guardrails")
        strategies = " ".join(page.text("strategies").split())
        assert "Experiment autumn" in strategies and "rpo − rag +0.039 [+0.014, +0.064] better" in strategies and "not decided yet" in strategies
        assert sorted(set(browser.execute_script("return window.unknownFields"))) == [] == page.browser_errors()
