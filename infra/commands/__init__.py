"""The command line."""

from infra.commands.app import main

__all__ = ["main"]
