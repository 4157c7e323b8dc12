"""Compares, at the start of a process, its topics' settings and its rights with what it needs, and logs the differences. The process works without this."""

from __future__ import annotations

import logging
import threading

from infra.errors import RetouchError
from infra.kafka.rights_check import require_rights
from infra.kafka.topology import connected
from infra.kafka.topology_warnings import topics_of, warn_of_losses
from infra.settings import Settings

log = logging.getLogger(__name__)


def check_in_background(settings: Settings, process: str, *, rights: bool = False) -> None:
    """Logs what `warn_of_losses` says of the topics of this process, one of `infra.kafka.rights.PROCESSES`. Never fails and never delays the caller.

    `rights`: also logs what `require_rights` raises, for a process that starts without its rights.
    """
    threading.Thread(target=_check, args=(settings, process, rights), name="kafka-checks", daemon=True).start()


def _check(settings: Settings, process: str, rights: bool) -> None:
    try:
        with connected(settings) as client:
            warn_of_losses(client, settings, topics_of(settings, process))
    except Exception as error:  # the process works without the comparison
        log.warning("topics are not compared with their declaration", extra={"reason": _reason(error)})
    if not rights:
        return
    try:
        require_rights(settings, process)
    except RetouchError as error:
        log.error("the rights on the broker are not complete", extra={"reason": str(error)})
    except Exception as error:  # the outermost frame of this thread
        log.warning("the rights on the broker are not compared", extra={"reason": _reason(error)})


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, RetouchError) else type(error).__name__
