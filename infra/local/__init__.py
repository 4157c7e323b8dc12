"""The local stack: starts, supervises and stops all processes of the system on this machine."""

from infra.local.stack import Stack
from infra.local.stack_record import running_settings

__all__ = ["Stack", "running_settings"]
