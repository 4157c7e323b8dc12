"""`python -m traffic convert`: exit code 0 means that standard output has the whole set, but for what the warning names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.small_datasets import paper, write_jsonl


def _convert(path: Path, out: IO[Any] | int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "traffic", "convert", str(path)]
    return subprocess.run(
        command, stdout=out, stderr=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)} | environment, timeout=60, check=False
    )


def test_the_output_is_utf_8_in_any_locale_and_the_rest_of_a_folder_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "papers.jsonl", [paper("Bøb 北", 1, "2007-01-01")])
    (tmp_path / "README.md").touch()
    done = _convert(tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode())["data"]["user"] == "Bøb 北"
    (warning,) = [line for line in map(json.loads, done.stderr.splitlines()) if line["level"] == "WARNING"]
    assert (warning["skipped"], warning["shortened"], warning["not_read"]) == ({}, 0, ["README.md"])


def test_a_bad_row_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "papers.jsonl", [paper("Ann", 1, "2007-01-01"), paper("Ann", 2, "soon")])
    done = _convert(path)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == f"traffic convert: {path}:2: field 'date' is not a date such as 2009-05-01, 2009, or a time as in RFC 3339"
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_fails_the_command(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "papers.jsonl", [paper("Ann", 1, "2007-01-01")])
    with Path("/dev/full").open("wb") as full:
        done = _convert(path, full)
    assert done.returncode != 0
    assert b"cannot write standard output: No space left on device" in done.stderr and b"Traceback" not in done.stderr
