"""Features and reasoning paths by the template and by an LLM: the exact requests, and what scripted answers become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from infra.endpoints.client import ChatEndpoint
from infra.errors import BadSetting, RetryLater
from infra.settings.profiles import ProfilesSettings
from infra.telemetry.metrics import FEATURE_ANSWERS_REFUSED
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.envelope import envelope_headers, read_envelope
from schemas.feature_extraction import Flaw, features_schema, judgements_schema
from schemas.features import Factor, FactoredFeature, Feature, ItemFeatures, Judgement, Polarity, UserFactors
from schemas.ids import derive
from schemas.positions import Source
from schemas.profiles import ExtractedFeatures, FeaturesWork, ProfileEntry, ProfileTask, Reasoning, ReasoningWork
from schemas.prompts import PAPER
from schemas.rpm_prompts import extraction_prompt, judgement_prompt, reasoning_prompt
from schemas.rpm_texts import template_reasoning
from schemas.tasks import Task
from schemas.topics import PROFILES
from streams.profiles.statistics import FactorCounts
from tests.support.openai_server import ScriptedAnswer, completion, failure, scripted, serving
from tests.support.profile_tasks import history_items
from workers.features.statistical import StatisticalExtractor, statistical_extractor
from workers.profiles.features_llm import TRIES, LlmFeatures
from workers.profiles.features_template import TemplateFeatures
from workers.profiles.handler import ProfileHandler
from workers.profiles.summary_template import TemplateSummaries
from workers.profiles.writer import FeatureWriter
from workers.runtime.handler import Incoming, Outgoing

TEMPLATE = TemplateFeatures(StatisticalExtractor(["en"], 6))
FOUND = {"features": [{"name": "robot", "context": "a friendly robot"}, {"name": "ending", "context": ""}]}
FEATURES = (Feature(name="robot", context="a friendly robot"), Feature(name="ending"))
JUDGED = {"judgements": [{"feature": 1, "influential": True, "polarity": "positive"}, {"feature": 2, "influential": False, "polarity": "neutral"}]}
CONTENT = "a friendly robot; the ending is sad"


def features_task(task: Task = Task.LABEL, content: str = CONTENT, response: str = "sci-fi") -> ProfileTask:
    (item,) = history_items([(content, response)])
    return ProfileTask.features("acme", "ada", "movie_tag", FeaturesWork(task=task, item=item), "llm")


def reasoning_work() -> ReasoningWork:
    (item,) = history_items([(CONTENT, "sci-fi")])
    counts = FactorCounts(derive("factor", 1), "robot")
    counts.count_feature(FEATURES[0])
    counts.count_item("sci-fi")
    factor: Factor = counts.factor(Task.LABEL)
    fields = item.model_dump(include={"interaction_id", "content", "response", "occurred_at"})
    with_factors = (FactoredFeature(feature=FEATURES[0], factor_id=factor.factor_id), FactoredFeature(feature=FEATURES[1], factor_id=None))
    factors = UserFactors.of([factor], 1, item.occurred_at)
    return ReasoningWork(task=Task.LABEL, item=ItemFeatures(**fields, features=FEATURES), features=with_factors, factors=factors)


async def _handle(writer: FeatureWriter, task: ProfileTask) -> Sequence[Outgoing]:
    envelope = read_envelope(envelope_headers(task, id=task.task_id, source="/tests"))
    return await ProfileHandler(TemplateSummaries(), writer)(Incoming(task, envelope, Source(topic="profile-tasks", partition=0, offset=0)))


def entry_of(outgoing: Sequence[Outgoing]) -> ProfileEntry | None:
    if not outgoing:
        return None
    (only,) = outgoing
    assert only.topic is PROFILES and isinstance(only.message, ProfileEntry)
    return only.message


def written(task: ProfileTask) -> ProfileEntry | None:
    return entry_of(asyncio.run(_handle(TEMPLATE, task)))


def asked(task: ProfileTask, *answers: ScriptedAnswer) -> tuple[ProfileEntry | None, list[dict[str, Any]]]:
    """The entry, and the requests that the server got."""

    async def run(url: str) -> Sequence[Outgoing]:
        async with ChatEndpoint(url, "m", api_key=None, timeout_s=10, concurrency=1, section="profiles") as endpoint:
            return await _handle(LlmFeatures(endpoint, "m", PAPER, 500, 90), task)

    with serving(scripted(*answers)) as server:
        outgoing = asyncio.run(run(server.url))
        return entry_of(outgoing), server.requests


def answer(data: object) -> ScriptedAnswer:
    return completion(json.dumps(data))


def prompts(requests: list[dict[str, Any]]) -> list[str]:
    return [request["messages"][0]["content"] for request in requests]


def schemas(requests: list[dict[str, Any]]) -> list[Any]:
    return [request["response_format"]["json_schema"]["schema"] for request in requests]


def test_the_template_finds_key_phrases_and_keeps_the_item_with_its_place_in_the_log() -> None:
    task = features_task()
    entry = written(task)
    assert entry and isinstance(entry.content, ExtractedFeatures) and isinstance(task.work, FeaturesWork)
    assert entry.entry_id == task.task_id and entry.author.name == "template"
    assert [feature.name for feature in entry.content.item.features] == ["friendly robot", "sad"]
    assert all(feature.judgement is None for feature in entry.content.item.features)
    assert (entry.content.source, entry.content.until, entry.content.item.response) == (task.work.item.source, task.work.item.occurred_at, "sci-fi")


def test_features_of_free_text_are_judged_by_the_response() -> None:
    entry = written(features_task(Task.TEXT, response="I love this robot."))
    assert entry and isinstance(entry.content, ExtractedFeatures)
    judgements = {feature.name: feature.judgement for feature in entry.content.item.features}
    assert judgements["friendly robot"] == Judgement(influential=True, polarity=Polarity.POSITIVE)
    assert judgements["sad"] == Judgement(influential=False, polarity=Polarity.NEUTRAL)


@pytest.mark.parametrize("response", ["", " \u200b"])
def test_an_item_without_a_response_gives_no_entry(response: str) -> None:
    assert written(features_task(response=response)) is None


def test_the_templates_reasoning_names_the_version_of_the_statistics_that_it_cites() -> None:
    work = reasoning_work()
    entry = written(ProfileTask.reasoning("acme", "ada", "movie_tag", work))
    assert entry and isinstance(entry.content, Reasoning)
    assert entry.content.text == template_reasoning(work.features, work.factors, "sci-fi")
    assert (entry.content.statistics_version, entry.content.until) == (work.factors.version, work.item.occurred_at)


def test_the_llm_gets_one_request_with_the_schema_for_a_label() -> None:
    entry, requests = asked(features_task(), answer(FOUND))
    assert entry and isinstance(entry.content, ExtractedFeatures)
    assert entry.content.item.features == FEATURES
    assert (entry.author.name, entry.author.model) == ("llm", "m")
    assert prompts(requests) == [extraction_prompt(CONTENT, Task.LABEL, WELL_KNOWN_MARKS)]
    assert schemas(requests) == [features_schema()]
    assert [request["max_tokens"] for request in requests] == [500]


def test_features_of_free_text_are_judged_in_a_second_request() -> None:
    task = features_task(Task.TEXT, response="I love it.")
    entry, requests = asked(task, answer(FOUND), answer(JUDGED))
    assert entry and isinstance(entry.content, ExtractedFeatures)
    assert [f.judgement and f.judgement.influential for f in entry.content.item.features] == [True, False]
    unjudged = entry.content.item.model_copy(update={"features": FEATURES})
    assert prompts(requests) == [extraction_prompt(CONTENT, Task.TEXT, WELL_KNOWN_MARKS), judgement_prompt(unjudged, WELL_KNOWN_MARKS)]
    assert schemas(requests) == [features_schema(), judgements_schema()]


def test_the_llm_writes_the_reasoning_in_one_line() -> None:
    work = reasoning_work()
    entry, requests = asked(ProfileTask.reasoning("acme", "ada", "movie_tag", work), completion("Reasoning: They like\nrobots."))
    assert entry and isinstance(entry.content, Reasoning) and entry.content.text == "They like robots."
    assert prompts(requests) == [reasoning_prompt(work.item, work.features, work.factors, Task.LABEL, WELL_KNOWN_MARKS)]
    assert requests[0]["max_tokens"] == 90 and "response_format" not in requests[0]


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        (Task.LABEL, [completion("no json")]),
        (Task.LABEL, [answer({"features": [{"name": " ", "context": ""}]})]),
        (Task.LABEL, [answer({"features": "robot"})]),
        (Task.LABEL, [ScriptedAnswer({"error": {"message": "no", "code": "content_filter", "type": "invalid_request_error"}}, 400)]),
        (Task.TEXT, [answer(FOUND), answer({"judgements": []})]),
    ],
)
def test_an_answer_that_breaks_the_rules_gives_no_entry_and_nothing_is_invented(task: Task, answers: list[ScriptedAnswer]) -> None:
    assert asked(features_task(task), *answers)[0] is None


def test_after_an_answer_that_breaks_the_rules_the_llm_is_asked_again() -> None:
    no_object = (("flaw", Flaw.NO_OBJECT),)
    before = FEATURE_ANSWERS_REFUSED.values().get(no_object, 0)
    entry, requests = asked(features_task(), completion("no json"), answer(FOUND))
    assert entry and len(requests) == 2 and FEATURE_ANSWERS_REFUSED.values()[no_object] == before + 1
    reasoning = ProfileTask.reasoning("acme", "ada", "movie_tag", reasoning_work())
    entry, requests = asked(reasoning, completion("word " * 300), completion("They like robots."))
    assert entry and len(requests) == 2


def test_a_reasoning_path_that_is_always_too_long_gives_no_entry() -> None:
    entry, requests = asked(ProfileTask.reasoning("acme", "ada", "movie_tag", reasoning_work()), completion("word " * 300))
    assert (entry, len(requests)) == (None, TRIES)


def test_an_endpoint_that_fails_is_asked_again_later() -> None:
    with pytest.raises(RetryLater):
        asked(features_task(), failure(503))


def test_the_id_of_a_task_follows_from_item_and_extractor() -> None:
    first, second = features_task(), features_task()
    assert first.task_id == second.task_id
    assert isinstance(first.work, FeaturesWork)
    assert ProfileTask.features("acme", "ada", "movie_tag", first.work, "template").task_id != first.task_id


def test_a_language_without_stop_words_is_refused_by_the_settings_name() -> None:
    with pytest.raises(BadSetting, match=r"profiles\.languages"):
        statistical_extractor(ProfilesSettings(languages=("xx",)))
