"""The interface of a profile writer: a template, or an LLM."""

from __future__ import annotations

from typing import Protocol

from schemas.profiles import Author, Summary, SummaryWork


class SummaryWriter(Protocol):
    @property
    def author(self) -> Author: ...

    async def summarize(self, domain: str, work: SummaryWork, key: bytes) -> Summary | None:
        """None if the writer gives no usable summary of these items. Raises RetryLater or CannotContinue if the writer itself fails."""
