"""What libraries write without logging it becomes log lines. In processes of their own: hooks and loggers are global."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from infra.telemetry.json_logs import VLLM_LOGGING

BEGIN = "import sys; from infra.telemetry import json_logs; from infra.telemetry.foreign_output import logged_output; json_logs.configure('INFO')\n"


def lines_of(code: str) -> list[dict[str, Any]]:
    """The lines on standard error, which must all be JSON objects."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert not run.stdout
    lines: list[dict[str, Any]] = [json.loads(line) for line in run.stderr.splitlines()]
    return lines


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('two', 'words', file=sys.stderr)", {"text": "a library printed", "printed": "two words"}),
        ("sys.stderr.write('10 %\\r50 %\\r100 %')", {"text": "a library printed", "printed": "100 %"}),
        (
            "import warnings; warnings.warn('careful\\nhere', FutureWarning)",
            {"category": "FutureWarning", "warning": "careful here"},
        ),
        (
            "import threading; t = threading.Thread(target=lambda: 1 / 0, name='reader'); t.start(); t.join()",
            {"text": "a thread ended by an exception", "in_thread": "reader"},
        ),
        ("type('X', (), {'__del__': lambda self: 1 / 0})()", {"text": "an exception that could not be raised"}),
    ],
)
def test_output_that_is_not_logged_becomes_one_log_line(code: str, expected: dict[str, Any]) -> None:
    (line,) = lines_of(f"{BEGIN}with logged_output():\n    {code}")
    assert expected.items() <= line.items()
    assert ("ZeroDivisionError" in line.get("error", "")) == ("1 / 0" in code)


def test_an_uncaught_exception_becomes_one_log_line() -> None:
    (line,) = lines_of(f"{BEGIN}output = logged_output(); output.__enter__(); raise KeyError('bug')")
    assert line["level"] == "CRITICAL" and line["error"].endswith("KeyError: 'bug'")


def test_a_log_that_cannot_be_written_is_no_endless_loop() -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}import logging\nwith logged_output(): logging.getLogger('x').warning('%d', 'no number')"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "no number" in run.stderr


def test_standard_error_is_restored_after_the_block() -> None:
    (line,) = lines_of(f"{BEGIN}before = sys.stderr\nwith logged_output(): pass\nimport logging; logging.getLogger('x').info('%s', sys.stderr is before)")
    assert line["text"] == "True"


@pytest.mark.parametrize("module", ["workers.__main__", "streams.__main__", "trainer.__main__", "trainer.judge.vllm_process", "pico.server.__main__"])
def test_a_spawned_process_logs_what_libraries_print(module: str) -> None:
    spawned = f"import runpy, sys, warnings; runpy.run_module({module!r}, run_name='__mp_main__')"  # the first that multiprocessing does in the process
    lines = lines_of(f"{spawned}; print('a word', file=sys.stderr); warnings.warn('careful')")
    assert [(line["text"], line["level"]) for line in lines] == [("a library printed", "WARNING"), ("a Python warning", "WARNING")]


@pytest.mark.parametrize("is_child", [False, True], ids=["in the worker", "in a child of vLLM"])
def test_vllms_logging_file_gives_its_lines_our_shape(is_child: bool) -> None:
    configured = "import sys, json, logging, logging.config\n" if is_child else BEGIN + "import json, logging, logging.config\n"
    code = f"logging.config.dictConfig(json.load(open({str(VLLM_LOGGING)!r})))\nlogging.getLogger('vllm.v1.engine').error('out of %s', 'memory')\n"
    code += "logging.getLogger('vllm').warning('advice about hardware')\nlogging.getLogger('torch').warning('also seen')"
    lines = lines_of(configured + code)
    assert [(line["logger"], line["level"], line["text"]) for line in lines] == [
        ("vllm.v1.engine", "ERROR", "out of memory"),
        ("torch", "WARNING", "also seen"),
    ]
