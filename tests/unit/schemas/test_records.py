"""Reading of consumed records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.interactions import Interaction
from schemas.messages import Malformed
from schemas.records import ConsumedRecord
from tests.support.streams_fakes import consumed_record, feedback, interaction, query

GOOD = consumed_record("interactions", interaction("sea"), partition=2, offset=9)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, value=b"not json"), "json_invalid"),
        (replace(GOOD, value=b"{}"), "missing"),
        (replace(GOOD, value=b"\xff\xfe"), "json_invalid"),
        (replace(GOOD, value=None), "no value"),
        (replace(GOOD, headers=()), "not a CloudEvents record"),
        (replace(GOOD, headers=(*GOOD.headers, ("ce_type", b"retouch.unknown.v9"))), "got 'retouch.unknown.v9'"),
        (replace(GOOD, headers=consumed_record("feedback", feedback(query())).headers), "expected retouch.interaction.v1"),
        (replace(GOOD, value=GOOD.value and GOOD.value.replace(b'"about sea"', b'"' + b"x" * 40_000 + b'"')), "string_too_long"),
    ],
)
def test_an_unusable_record_is_malformed_and_its_reason_holds_no_text(bad: ConsumedRecord, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        bad.read(Interaction)
    assert "about sea" not in str(caught.value) and "xxx" not in str(caught.value)
