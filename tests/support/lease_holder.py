"""A process that takes a lease, then writes `held`, and after each line on its input whether it still holds it."""

from __future__ import annotations

import sys
import threading

from infra.errors import CannotContinue
from infra.kafka.lease import KafkaLease
from infra.settings import load


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(name: str, servers: str, session_timeout_ms: str) -> None:
    settings = load(kafka={"bootstrap_servers": servers, "session_timeout_ms": int(session_timeout_ms)})
    with KafkaLease(settings, name) as lease:
        lease.wait(threading.Event())
        say("held")
        for _ in sys.stdin:
            try:
                lease.check()
                say("confirmed")
            except CannotContinue as error:
                say(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
