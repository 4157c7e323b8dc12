"""The command line. `X_commands` declares the options of a command group, `X_actions` does its work, and the other modules print."""

from cli.app import main

__all__ = ["main"]
