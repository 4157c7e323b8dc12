"""The local stack: every process of the system on this machine, started, watched and stopped as one."""

from infra.stack.record import running_settings
from infra.stack.stack import Stack

__all__ = ["Stack", "running_settings"]
