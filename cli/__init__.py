"""The command line. `X_commands` holds the options of a group, `X_actions` does the work of a larger one, the rest prints it."""

from cli.app import main

__all__ = ["main"]
