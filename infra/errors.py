"""The project's errors, named by the reaction of the caller: try again, set the record aside, stop the process, correct a setting."""

from __future__ import annotations

import traceback
from pathlib import Path


class RetouchError(Exception):
    """Base class of the errors that this project raises on purpose."""


class RetryLater(RetouchError):
    """A dependency is unavailable for a moment; the same record may succeed after `after_s` seconds.

    `reason` is a `RetryReason` of the metrics. `cause` is a short name of what failed, such as a FailureCause; `reason` by default.
    """

    def __init__(self, message: str, after_s: float = 1.0, reason: str = "other", cause: str = "") -> None:
        super().__init__(message)
        self.after_s = after_s
        self.reason = reason
        self.cause = cause or reason


class DependencyUnavailable(RetryLater):
    """A dependency fails for every record. An attempt that ends like this does not count: the record waits until the dependency works again, or until its own
    deadline."""


class DependencyBlocked(DependencyUnavailable):
    """A dependency refuses every record until someone changes something, such as a key or an account."""


class PoisonMessage(RetouchError):
    """This record can never be handled; it goes to the dead-letter topic with this text, which never holds a user's text."""


class CannotContinue(RetouchError):
    """An assumption of the code does not hold; the process stops and leaves offsets uncommitted."""


class UnreadableBatch(CannotContinue):
    """A batch of records that cannot be decoded. A retry does not help. Its reader stops before it, and may finish what it read before.

    `is_damaged`: its header is wrong, so its end is unknown, and no reader can skip it.
    """

    def __init__(self, topic: str, partition: int, offset: int, reason: str, *, is_damaged: bool = False) -> None:
        batch = f"{topic}/{partition}/{offset}"
        remedy = "restore the partition from a replica" if is_damaged else f'kafka.skip_batches=["{batch}"] skips it'
        super().__init__(f"the batch at {batch} cannot be decoded ({reason}); {remedy} (docs/runtime.md)")
        self.topic, self.partition, self.offset = topic, partition, offset


class BadSetting(RetouchError):
    """A setting is impossible; the text is one line with key, value and what would be right. Exit code 2."""


def reason_of(error: BaseException) -> str:
    """The text of an error that this project raises on purpose; of any other one the type and line."""
    return str(error) if isinstance(error, RetouchError) and str(error) else type_and_line(error)


def type_and_line(error: BaseException) -> str:
    """Type and innermost line of an error. Leaves out its text and its traceback: both can hold a user's text."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else type(error).__name__
