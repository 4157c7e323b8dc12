"""Simulated SIGKILL."""


class Killed(BaseException):
    """Raised in place of a kill of the process: no `except Exception` catches it."""
