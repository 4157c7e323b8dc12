"""The command line."""

from cli.app import main

__all__ = ["main"]
