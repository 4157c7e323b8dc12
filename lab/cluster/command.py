"""`retouch lab cluster`: runs the cluster in the foreground until Ctrl-C or SIGTERM, and keeps its data."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from infra.local.restart_pauses import RestartPauses
from infra.process.lifecycle import OK
from infra.settings import Settings
from lab.cluster import acls
from lab.cluster.cluster import Cluster
from lab.cluster.layout import NODES, Security, node_name
from lab.cluster.properties import ADMIN
from lab.cluster.users import check_names

STEP_S = 0.5
DEFAULT_USERS = ("retouch",)


def run(settings: Settings, *, out: Path | None, users: Sequence[str], deployment: bool, security: Security) -> int:
    """Blocks until an interrupt, which is its normal end. Call it from the main thread. Raises CannotContinue if the cluster does not start.

    `deployment` adds a user for each process, with the rights that it needs.
    """
    names = tuple(dict.fromkeys((*users, *(acls.users() if deployment else ())))) or DEFAULT_USERS
    check_names(names)
    with suppress(KeyboardInterrupt), Cluster(settings, out or settings.stack.dir / "cluster", users=names, security=security) as cluster:
        if deployment and security.acls:
            acls.allow(cluster, settings)
        sys.stdout.write("\n".join(lines(cluster, names)) + "\n")
        sys.stdout.flush()
        _keep_running(cluster)
    return OK


def lines(cluster: Cluster, users: Sequence[str]) -> list[str]:
    """What a person needs to use the running cluster."""
    security, files = cluster.security, ", ".join(str(cluster.settings_file(user)) for user in users)
    return [
        f"bootstrap servers: {cluster.layout.bootstrap_servers}",
        f"protocol: {security.protocol}{', SCRAM-SHA-512' if security.scram else ''}; "
        f"ACLs: {'a user may do nothing that no ACL allows' if security.acls else 'none'}",
        f"settings of the super user: {cluster.settings_file(ADMIN)}; of users: {files}",
        f"for example: RETOUCH_CONFIG={cluster.settings_file(ADMIN)} retouch topics apply",
        f"for Kafka's own tools: --command-config {cluster.settings_file(ADMIN).with_suffix('.properties')}",
        "Ctrl-C stops the cluster; the same command starts it again with its data, addresses and passwords",
    ]


def _keep_running(cluster: Cluster) -> None:
    """Starts a node again that has ended, such as one that was killed on purpose. Does not return."""
    pauses = {number: RestartPauses() for number in NODES}
    start_at: dict[int, float] = {}
    while True:
        now = time.monotonic()
        for number in NODES:
            if cluster.is_running(number):
                pauses[number].serves(now)
            elif number not in start_at:
                pause_s = pauses[number].ended(now)
                start_at[number] = now + pause_s
                sys.stderr.write(f"cluster: {node_name(number)} ended: {cluster.why_ended(number)}; it starts again in {pause_s:.0f} s\n")
            elif now >= start_at.pop(number):
                cluster.launch(number)
        time.sleep(STEP_S)
