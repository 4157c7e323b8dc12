"""A gate process for tests. Version 2 passes, version 3 fails, version 4 never ends, and version 5 finds no broker."""

from __future__ import annotations

import json
import sys
import time

if __name__ == "__main__":
    version = sys.argv[-1]
    if version == "3":
        sys.exit("no such thing")
    if version == "4":
        time.sleep(600)
    if version == "5":
        sys.stderr.write("no broker")
        sys.exit(75)
    evidence = {"candidate": f"sha256-{version}", "champion": "sha256-1"}
    # Written by hand: the imports of a GateResult would take most of the test's time.
    sys.stdout.write(json.dumps({"outcome": "passed", "reason": f"version {version} is better", "evidence": evidence, "canary_prompts": []}))
