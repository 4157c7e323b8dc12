"""`python -m infra.local.fetch_kafka`, for the set-up: fetches and verifies Kafka's jars, and prints the Java that will run them."""

from __future__ import annotations

import sys

from infra.errors import BadSetting, RetouchError
from infra.local.java import find_java
from infra.local.kafka_jars import VERSION, ensure_jars
from infra.settings import load


def main() -> int:
    try:
        settings = load()
        java = find_java()
        print(f"Kafka {VERSION}: fetching jars where they are missing", flush=True)  # noqa: T201  # progress for a person
        jars = ensure_jars(settings.stack.cache_dir)
    except RetouchError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, BadSetting) else 1
    print(f"Kafka {VERSION}: {jars} verified, runs on {java}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
