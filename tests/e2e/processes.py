"""The processes that an end-to-end test started, known by a mark in their environment."""

from __future__ import annotations

import os
import time

import psutil

#: The variable whose value marks a test's processes among all others.
MARK = "E2E_TEST_MARK"
GONE_WITHIN_S = 20


def marked(mark: str) -> list[psutil.Process]:
    """Every other living process with this mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def until_nothing_is_left(mark: str) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := marked(mark):  # what dies with its parent does so a moment after it
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
