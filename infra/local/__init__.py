"""The local stack: every process of the system on this machine, started, watched and stopped as one."""

from infra.local.record import running_settings
from infra.local.stack import Stack

__all__ = ["Stack", "running_settings"]
