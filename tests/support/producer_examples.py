"""The examples of `docs/producers.md`, run as they are printed: each one's code block, with the broker's address in its environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.kafka_tools import TOOLS, tool_command

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "producers.md"
NODE_MODULES = ROOT / ".cache" / "node" / "node_modules"
TIMEOUT_S = 150.0
_SECTION = re.compile(r"^## (?P<title>.+?)\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """The only code block of a section."""

    title: str
    language: str
    code: str

    def missing(self) -> str | None:
        """What is not installed, with the command that installs it."""
        if "kcat " in self.code and shutil.which("kcat") is None:
            return "kcat is missing: scripts/test-programs.sh installs Debian's package"
        if self.language == "js" and (shutil.which("node") is None or not (NODE_MODULES / "kafkajs").exists()):
            return "node or kafkajs is missing: scripts/test-programs.sh installs kafkajs where there is Node.js with npm"
        return None

    def run(self, broker: str, folder: Path, cache_dir: Path) -> str:
        """What it prints. `cache_dir` has Kafka's jars."""
        environment = {**os.environ, "BROKER": broker}
        if "kafka-console" in self.code:
            environment["PATH"] = f"{_console_tools(folder / 'bin', cache_dir)}{os.pathsep}{os.environ['PATH']}"
        return _output([*self._interpreter(folder), str(self._file(folder))], environment)

    def _interpreter(self, folder: Path) -> list[str]:
        if self.language == "js":
            (folder / "node_modules").symlink_to(NODE_MODULES)
            return ["node"]
        return {"sh": ["bash", "-e"], "python": [sys.executable]}[self.language]

    def _file(self, folder: Path) -> Path:
        file = folder / {"js": "shop.mjs", "python": "shop.py", "sh": "shop.sh"}[self.language]
        file.write_text(self.code)
        return file


def examples() -> dict[str, Example]:
    """By the title of their section."""
    found = {}
    for section in _SECTION.finditer(PAGE.read_text()):
        blocks = list(_BLOCK.finditer(section["text"]))
        assert len(blocks) < 2, f"{section['title']} has several code blocks"
        if blocks:
            found[section["title"]] = Example(section["title"], blocks[0]["language"], blocks[0]["code"])
    return found


def _console_tools(folder: Path, cache_dir: Path) -> Path:
    """A folder with Kafka's console tools under the names that its releases give them."""
    folder.mkdir()
    for name in TOOLS:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {" ".join(tool_command(name, cache_dir))} "$@"\n')
        script.chmod(0o755)
    return folder


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
