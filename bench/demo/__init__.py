"""The demonstration behind `retouch demo`."""

from bench.demo.command import run

__all__ = ["run"]
