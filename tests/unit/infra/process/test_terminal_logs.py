import logging
from collections.abc import Iterator

import pytest

from infra.process import terminal_logs


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    terminal_logs.configure()
    yield
    root.handlers[:], root.level = handlers, level


def test_a_warning_shows_its_fields_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("infra.local.supervisor")
    log.warning("process ended and is started again", extra={"child": "streams", "exit_code": None, "reason": "\x1b[2J", "pause_s": 1.0})
    log.warning("nothing more")
    log.info("not shown")
    shown = capsys.readouterr()
    assert shown.err == "retouch: process ended and is started again (child streams, reason \\x1b[2J, pause_s 1.0)\nretouch: nothing more\n"
    assert not shown.out
