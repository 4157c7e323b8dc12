"""PAG on a real broker: a lookup publishes the task of a summary, the profiles worker writes it, and the next query is answered with it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from schemas.profiles import Summary
from schemas.responses import ProfileParts, ResponseStatus
from schemas.strategies import Strategy
from tests.support.openai_server import ScriptedAnswer, completion, serving
from tests.support.profiled_user import ProfiledUser

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

ITEMS = 6
SUMMARY = "most popular tag: comedy"


def answer(body: dict[str, Any]) -> ScriptedAnswer:
    return completion("drama" if SUMMARY in body["messages"][0]["content"] else "comedy")


def test_pag_answers_with_the_summary_that_the_profiles_worker_writes(settings: Settings, tmp_path: Path) -> None:
    with serving(answer) as endpoint, ExitStack() as stack:
        member = ProfiledUser(settings, tmp_path, endpoint, stack, Strategy.PAG, ITEMS)
        processes = [member.process(module) for module in ("streams", "workers base", "workers strategies")]
        member.act()
        first = member.ask_until(ResponseStatus.NO_SUMMARY)
        assert (first.answer, first.provenance.answered_by, first.provenance.profile) == ("comedy", Strategy.RAG, None)

        processes.append(member.process("workers profiles"))
        response = member.ask_until(ResponseStatus.PERSONALIZED)
        assert (response.answer, response.provenance.answered_by, response.provenance.k) == ("drama", None, 4)
        (entry,) = member.entries(at_least=1)
        assert isinstance(entry.content, Summary) and (entry.content.text, entry.content.count) == (SUMMARY, ITEMS)
        assert response.provenance.profile == ProfileParts(summary_id=entry.entry_id)
        assert next(member.prompts()).startswith(f"{SUMMARY}\nUser profile:")
        for process in processes:
            assert "sailors" not in process.log(), "a user's text is in the log"
