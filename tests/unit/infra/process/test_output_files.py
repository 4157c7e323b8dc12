from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.process import output_files


def test_check_writable_creates_the_folder_and_no_file(tmp_path: Path) -> None:
    output_files.check_writable(tmp_path / "new" / "report.json")
    assert (tmp_path / "new").is_dir() and not any((tmp_path / "new").iterdir())


def test_check_writable_does_not_change_an_existing_report(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    output_files.write(report, "é\n")
    output_files.check_writable(report)
    assert report.read_text(encoding="utf-8") == "é\n"


@pytest.mark.parametrize("attempt", [output_files.check_writable, lambda path: output_files.write(path, "")])
@pytest.mark.parametrize(("path", "reason"), [("taken", "Is a directory"), ("file/report.json", "Not a directory|File exists")])
def test_an_unwritable_file_is_an_error_of_one_line(tmp_path: Path, attempt: Callable[[Path], None], path: str, reason: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CannotContinue, match=rf"cannot write .*{path}: ({reason}); choose another --out$"):
        attempt(tmp_path / path)
