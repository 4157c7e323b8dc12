"""RPM on a real broker: interactions become features, factors and reasoning, and a query is answered with them, though the profiles worker is killed."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cli.profile import as_data
from cli.profile import request as request_profile
from infra.settings import Settings
from schemas.profiles import ProfileKind
from schemas.responses import ResponseStatus
from schemas.strategies import Strategy
from tests.support.openai_server import ScriptedAnswer, completion, serving
from tests.support.profiled_user import SUBJECTS, WAIT_S, ProfiledUser

pytestmark = [pytest.mark.integration, pytest.mark.long("loads RPM in a worker that is killed"), pytest.mark.timeout(600)]

ITEMS = 90


def answer(body: dict[str, Any]) -> ScriptedAnswer:
    return completion("Reasoning: as before.\nAnswer: drama" if "Factors of the user" in body["messages"][0]["content"] else "comedy")


def test_rpm_answers_with_factors_though_the_profiles_worker_is_killed(settings: Settings, tmp_path: Path) -> None:
    with serving(answer) as endpoint, ExitStack() as stack:
        member = ProfiledUser(settings, tmp_path, endpoint, stack, Strategy.RPM, ITEMS)
        others = [member.process(module) for module in ("streams", "workers base", "workers strategies")]
        member.act()
        assert member.ask_until(ResponseStatus.NO_FACTORS).answer == "comedy"
        worker = member.process("workers profiles")
        member.entries(at_least=1)
        assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
        worker.start()

        found = member.counted()
        assert found.factors is not None
        assert {factor.items for factor in found.factors.factors if "sea" in factor.label} == {ITEMS // len(SUBJECTS)}
        entries = member.entries(at_least=2 * ITEMS)
        ids = Counter(entry.entry_id for entry in entries)
        assert set(ids.values()) == {1} and len(ids) == 2 * ITEMS

        assert others[0].stop(signal.SIGKILL) == -signal.SIGKILL
        others[0].start()
        assert member.counted().factors == found.factors
        shown = as_data(request_profile(settings, member.query(), WAIT_S))
        assert (shown["items"], shown["statistics_version"], shown["summary"]) == (ITEMS, found.factors.version, None)
        response = member.ask_until(ResponseStatus.PERSONALIZED)
        assert (response.answer, response.reasoning) == ("drama", "as before.")
        provenance = response.provenance
        assert (provenance.answered_by, provenance.k) == (None, 3)
        assert provenance.profile and provenance.profile.statistics_version == found.factors.version
        cited = {entry.content.interaction_id: entry.content.statistics_version for entry in entries if entry.content.kind is ProfileKind.REASONING}
        assert provenance.profile.reasoning_versions == tuple(cited[id] for id in provenance.history_ids)
        prompt = next(prompt for prompt in member.prompts() if "Factors of the user" in prompt)
        assert "drama 100 %" in prompt and prompt.count("Reasoning: ") == 3 and prompt.count("stormy sea") >= 3
        for process in (*others, worker):
            assert "sailors" not in process.log(), "a user's text is in the log"
