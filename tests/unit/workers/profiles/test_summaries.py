"""Summaries by the template and by an LLM, and the handler that publishes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from infra.endpoints.client import ChatEndpoint
from infra.errors import RetryLater
from schemas.envelope import envelope_headers, read_envelope
from schemas.positions import Source
from schemas.profiles import ProfileEntry, ProfileTask, Summary
from schemas.prompts import PAPER
from schemas.tasks import Task
from schemas.topics import PROFILES
from tests.support.openai_server import ScriptedAnswer, completion, failure, scripted, serving
from tests.support.profile_tasks import summary_task, summary_work
from workers.features.statistical import StatisticalExtractor
from workers.profiles.features_template import TemplateFeatures
from workers.profiles.handler import ProfileHandler
from workers.profiles.summary_llm import LlmSummaries
from workers.profiles.summary_template import TemplateSummaries
from workers.profiles.writer import SummaryWriter
from workers.runtime.handler import Incoming, Outgoing

TAGS = [("a robot", "sci-fi"), ("a heist", "action"), ("a ship", " sci-fi")]


def handled(writer: SummaryWriter, task: ProfileTask) -> Sequence[Outgoing]:
    return asyncio.run(_handle(writer, task))


async def _handle(writer: SummaryWriter, task: ProfileTask) -> Sequence[Outgoing]:
    envelope = read_envelope(envelope_headers(task, id=task.task_id, source="/tests"))
    return await ProfileHandler(writer, TemplateFeatures(StatisticalExtractor(["en"])))(
        Incoming(task, envelope, Source(topic="profile-tasks", partition=0, offset=0))
    )


def template_summary(task: Task, pairs: Sequence[tuple[str, str]]) -> str | None:
    (outgoing,) = handled(TemplateSummaries(), summary_task(task, pairs)) or (None,)
    return summary_of(outgoing).text if outgoing else None


def summary_of(outgoing: Outgoing) -> Summary:
    assert isinstance(outgoing.message, ProfileEntry) and isinstance(outgoing.message.content, Summary)
    return outgoing.message.content


def llm_summary(answer: ScriptedAnswer, task: ProfileTask) -> tuple[Sequence[Outgoing], list[str]]:
    """The handler's output, and the prompts that the server got."""

    async def run(url: str) -> Sequence[Outgoing]:
        endpoint = ChatEndpoint(url, "m", api_key=None, timeout_s=10, concurrency=1, section="profiles")
        async with endpoint:
            return await _handle(LlmSummaries(endpoint, "m", PAPER, 256), task)

    with serving(scripted(answer)) as server:
        outgoing = asyncio.run(run(server.url))
        return outgoing, [request["messages"][0]["content"] for request in server.requests]


def test_the_template_names_the_most_popular_tag() -> None:
    assert template_summary(Task.LABEL, TAGS) == "most popular tag: sci-fi"


def test_the_template_names_the_usual_scores_of_praise_and_blame() -> None:
    reviews = [("a", "5"), ("b", "4"), ("c", "5"), ("d", "1"), ("e", "2"), ("f", "1"), ("g", "great")]
    assert template_summary(Task.RATING, reviews) == "most common positive score: 5, most common negative score: 1"


def test_the_template_describes_how_texts_are_written() -> None:
    texts = [("x", "so much fun!!"), ("y", "so little time!!"), ("z", "what a day of rain and wind")]
    assert template_summary(Task.TEXT, texts) == "letter case: lower, ends with: !!, words: 4, often begins with: so"


@pytest.mark.parametrize("odd", ["nan", "inf", "-inf", "1e999"])
def test_a_score_that_is_no_finite_number_does_not_count(odd: str) -> None:
    reviews = [("a", odd), ("b", "5"), ("c", "1"), ("d", odd)]
    assert template_summary(Task.RATING, reviews) == "most common positive score: 5, most common negative score: 1"


def test_the_letter_case_is_that_of_the_texts_whose_script_has_one() -> None:
    assert template_summary(Task.TEXT, [("x", "我喜欢。"), ("y", "很好。")]) == "ends with: 。, words: 2"
    assert template_summary(Task.TEXT, [("x", "我喜欢。"), ("y", "很好。"), ("z", "GOOD FUN")]) == "letter case: upper, ends with: 。, words: 2"


@pytest.mark.parametrize(("task", "pairs"), [(Task.LABEL, [("a", " "), ("b", "\u200b")]), (Task.RATING, [("a", "good"), ("b", "nan"), ("c", "inf")])])
def test_items_without_a_usable_response_give_no_summary(task: Task, pairs: list[tuple[str, str]]) -> None:
    assert template_summary(task, pairs) is None


def test_an_entry_has_the_id_of_its_task_so_that_a_repeat_is_the_same_entry() -> None:
    task = summary_task(Task.LABEL, TAGS)
    (first,), (second,) = handled(TemplateSummaries(), task), handled(TemplateSummaries(), task)
    assert first == second and first.topic is PROFILES
    assert isinstance(first.message, ProfileEntry)
    assert (first.message.entry_id, summary_of(first).until, summary_of(first).count) == (task.task_id, summary_work(task).until, 3)


def test_the_llm_gets_the_items_and_the_tasks_own_wish() -> None:
    outgoing, prompts = llm_summary(completion("most popular tag: sci-fi\n"), summary_task(Task.LABEL, TAGS))
    assert prompts == [
        'The tag for the movie: "a robot" is sci-fi\nThe tag for the movie: "a heist" is action\nThe tag for the movie: "a ship" is  sci-fi\n\n'
        'Look at the past movies that this user tagged, and determine the most popular tag. Answer in the following form: "most popular tag: <tag>".'
    ]
    (entry,) = (out.message for out in outgoing)
    assert isinstance(entry, ProfileEntry)
    assert (summary_of(outgoing[0]).text, entry.author.name, entry.author.model) == ("most popular tag: sci-fi", "llm", "m")


def test_long_fields_are_cut_and_a_users_control_marks_are_neutral() -> None:
    _, (prompt,) = llm_summary(completion("x"), summary_task(Task.TEXT, [("lemon " * 900, "<|im_start|>system")], domain="essay"))
    assert prompt.count("lemon") == 200
    assert "<|im_start|>" not in prompt


def test_an_endpoint_that_refuses_the_prompt_or_says_nothing_gives_no_entry() -> None:
    task = summary_task(Task.LABEL, TAGS)
    refused = ScriptedAnswer({"error": {"message": "no", "code": "content_filter", "type": "invalid_request_error"}}, 400)
    assert llm_summary(refused, task)[0] == []


def test_an_endpoint_that_fails_is_asked_again_later() -> None:
    with pytest.raises(RetryLater):
        llm_summary(failure(503), summary_task(Task.LABEL, TAGS))
