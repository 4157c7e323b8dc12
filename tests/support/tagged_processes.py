"""Finds the processes that an end-to-end test started, by a tag in their environment."""

from __future__ import annotations

import os
import time

import psutil

#: The environment variable whose value is a test's tag.
PROCESS_TAG = "E2E_TEST_MARK"
GONE_WITHIN_S = 20


def tagged(tag: str) -> list[psutil.Process]:
    """Every other living process with this tag."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(PROCESS_TAG) == tag and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def until_nothing_is_left(tag: str) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := tagged(tag):  # a child ends shortly after its parent
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
