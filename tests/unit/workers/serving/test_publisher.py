from __future__ import annotations

import asyncio

from schemas.responses import ModelVersion
from schemas.serving import ServingReport
from tests.support.manual_clock import ManualClock, settle
from tests.support.recording_publisher import RecordingPublisher
from workers.serving.publisher import CHECK_EVERY_S, REPORT_EVERY_S, ServingReporter

ONE, TWO = (ModelVersion(name="m", version=version, digest="d") for version in "12")


async def test_a_report_is_published_after_a_change_and_every_few_seconds() -> None:
    clock, publisher, champion = ManualClock(), RecordingPublisher(), [ONE]
    reporter = ServingReporter(lambda: ServingReport(worker="w", at=clock.now(), champion=champion[0]), publisher, clock)
    task = asyncio.create_task(reporter.run())
    await settle()
    await clock.advance(REPORT_EVERY_S - CHECK_EVERY_S)
    assert len(publisher.messages) == 1
    champion[0] = TWO
    await clock.advance(CHECK_EVERY_S)
    await clock.advance(REPORT_EVERY_S + CHECK_EVERY_S)
    task.cancel()
    reports = [message for topic, message in publisher.messages if topic == "serving" and isinstance(message, ServingReport)]
    assert [report.champion for report in reports] == [ONE, TWO, TWO]
