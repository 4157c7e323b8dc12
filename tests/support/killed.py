"""The end of a process, inside a test."""


class Killed(BaseException):
    """Stands for a kill: no `except Exception` catches it."""
