"""The interfaces of profile writers: a template, or an LLM."""

from __future__ import annotations

from typing import Protocol

from schemas.profiles import Author, ExtractedFeatures, FeaturesWork, Reasoning, ReasoningWork, Summary, SummaryWork


class SummaryWriter(Protocol):
    @property
    def author(self) -> Author: ...

    async def summarize(self, domain: str, work: SummaryWork, key: bytes) -> Summary | None:
        """None if the writer gives no usable summary of these items. Raises RetryLater or CannotContinue if the writer itself fails."""


class FeatureWriter(Protocol):
    """Both methods return None if the writer gives nothing usable. They raise RetryLater or CannotContinue if the writer itself fails."""

    @property
    def author(self) -> Author: ...

    async def extract(self, work: FeaturesWork, key: bytes) -> ExtractedFeatures | None: ...

    async def reason(self, work: ReasoningWork, key: bytes) -> Reasoning | None: ...
