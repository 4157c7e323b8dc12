"""From a decoded record to messages, and from a file to compiled sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadSetting
from infra.kafka.sources_file import BadSources, read_sources
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.positions import Source
from schemas.queries import Query
from workers.sources.mapping import MappedMessage, SourceMapping, Unmappable, compile_sources, map_record

SECRET = "confidential"
POSITION = Source(topic="shop.reviews", partition=1, offset=42)
RECORD: dict[str, Any] = {"key": None, "headers": {}}
REVIEW = {"user_id": 12, "id": "r-1", "text": "a fine film", "stars": 4, "at": "2026-01-01T12:00:00Z", "score": 0.5, "choices": ["a", "b"]}
INTERACTION = """
[[sources]]
topic = "shop.reviews"
message = "interaction"
[sources.fields]
user = "string(value.user_id)"
content = "value.text"
response = "string(value.stars)"
occurred_at = "value.at"
[sources.constants]
tenant = "shop"
domain = "product_rating"
"""
QUERY = """
[[sources]]
name = "asks"
topic = "shop.asks"
message = "query"
fields = { query_id = "value.id", user = "string(value.user_id)", text = "value.text", options = "value.choices", asked_at = "value.at", strategy = "value.by" }
constants = { tenant = "shop", domain = "product_rating" }
"""
FEEDBACK = """
[[sources]]
name = "reactions"
topic = "shop.reactions"
message = "feedback"
fields = { query_id = "value.id", user = "string(value.user_id)", score = "value.score", truth = "value.truth", occurred_at = "value.at" }
constants = { tenant = "shop" }
"""


def compiled(tmp_path: Path, text: str) -> list[SourceMapping]:
    path = tmp_path / "sources.toml"
    path.write_text(text, encoding="utf-8")
    return compile_sources(read_sources(path))


def mapped(tmp_path: Path, text: str, value: object, position: Source = POSITION) -> list[MappedMessage]:
    return map_record(compiled(tmp_path, text), value, RECORD, position)


def changed(**changes: object) -> dict[str, object]:
    return REVIEW | changes


def test_a_record_becomes_an_interaction(tmp_path: Path) -> None:
    (message,) = mapped(tmp_path, INTERACTION, REVIEW)
    assert isinstance(message.message, Interaction)
    assert message.topic.name == "interactions"
    assert message.id == message.message.interaction_id
    found = message.message.model_dump(mode="json", exclude={"interaction_id"})
    assert found == {
        "tenant": "shop",
        "user": "12",
        "domain": "product_rating",
        "content": "a fine film",
        "response": "4",
        "occurred_at": "2026-01-01T12:00:00Z",
        "origin": "platform",
    }


def test_without_an_id_the_position_makes_one(tmp_path: Path) -> None:
    def id_at(offset: int) -> object:
        return mapped(tmp_path, INTERACTION, REVIEW, POSITION.model_copy(update={"offset": offset}))[0].id

    assert id_at(1) == id_at(1)
    assert id_at(1) != id_at(2)


def test_a_query_and_its_feedback_have_one_id(tmp_path: Path) -> None:
    value = changed(by="rag", truth=None)
    (query,), (feedback,) = mapped(tmp_path, QUERY, value), mapped(tmp_path, FEEDBACK, value)
    assert isinstance(query.message, Query)
    assert isinstance(feedback.message, Feedback)
    assert query.message.query_id == feedback.message.query_id
    assert query.message.options == ("a", "b")
    assert query.message.strategy == "rag"
    assert (feedback.message.score, feedback.message.truth) == (0.5, None)


def test_a_uuid_stays_and_other_ids_are_derived_for_each_user(tmp_path: Path) -> None:
    uuid = "6f7d1a52-4d0e-5b0f-9f0e-2f1f4c1b7a11"
    ids = [mapped(tmp_path, QUERY, changed(by=None, id=id, user_id=user))[0].id for id, user in ((uuid, 1), (7, 1), ("7", 1), (7, 2))]
    assert str(ids[0]) == uuid
    assert ids[1] == ids[2] != ids[3]


def test_a_filter_leaves_records_out(tmp_path: Path) -> None:
    text = INTERACTION.replace('message = "interaction"', 'message = "interaction"\nwhen = "value.stars > 3"')
    assert mapped(tmp_path, text, changed(stars=3)) == []
    assert len(mapped(tmp_path, text, REVIEW)) == 1


def test_all_sources_of_a_topic_map_a_record_or_none(tmp_path: Path) -> None:
    both = INTERACTION + FEEDBACK.replace("shop.reactions", "shop.reviews")
    assert [message.source for message in mapped(tmp_path, both, changed(truth="x"))] == ["shop.reviews", "reactions"]
    with pytest.raises(Unmappable, match="source reactions, truth: there is no field truth"):
        mapped(tmp_path, both, REVIEW)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"user_id": None}, "user", "such as null"),
        ({"user_id": "a/b"}, "user", "must be printable, without '/'"),
        ({"user_id": " "}, "user", "without blanks around it"),
        ({"text": SECRET * 5_000}, "content", "at most 32768 characters"),
        ({"text": 5}, "content", r"a whole number, expected a text; string\(\.\.\.\)"),
        ({"text": None}, "content", "null, expected a text"),
        ({"text": ["a"]}, "content", "a list, expected a text"),
        ({"at": "2026-01-01T12:00:00"}, "occurred_at", "no time of RFC 3339 with an offset"),
        ({"at": f"{SECRET}"}, "occurred_at", "no time of RFC 3339 with an offset"),
        ({"at": 1_767_225_600}, "occurred_at", r"a whole number, expected a time; epoch_seconds\(\.\.\.\), epoch_millis"),
        ({"at": True}, "occurred_at", "true or false, expected a time$|true or false, expected a time;"),
        ({"at": "0001-01-01T00:00:00+14:00"}, "occurred_at", "outside the years 1 to 9999"),
    ],
)
def test_what_does_not_map_is_reported_with_its_expression(tmp_path: Path, change: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(Unmappable, match=reason) as failed:
        mapped(tmp_path, INTERACTION, changed(**change))
    error = failed.value
    assert (error.source, error.field) == ("shop.reviews", field)
    assert error.expression in INTERACTION
    assert error.expression in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("text", "change", "reason"),
    [
        (QUERY, {"choices": ["a", 5]}, "options: gives a list whose element 1 is a whole number"),
        (QUERY, {"choices": ["a", "a"]}, "options: options 0 and 1 are the same text"),
        (QUERY, {"choices": "a"}, "options: gives a text, expected a list of texts"),
        (QUERY, {"by": "magic"}, "strategy: Input should be"),
        (QUERY, {"id": " "}, "query_id: gives a blank text"),
        (QUERY, {"id": 1.5}, "query_id: gives a decimal number"),
        (FEEDBACK, {"score": 4}, "score: Input should be less than or equal to 1"),
        (FEEDBACK, {"score": "0.5"}, r"score: gives a text, expected a number; double\(\.\.\.\)"),
        (FEEDBACK, {"score": float("nan")}, "score: Input should be a finite number"),
        (FEEDBACK, {"score": None, "truth": " "}, "needs a truth that is not blank, a score, or both"),
    ],
)
def test_a_field_of_a_query_or_feedback_that_does_not_map(tmp_path: Path, text: str, change: dict[str, object], reason: str) -> None:
    with pytest.raises(Unmappable, match=reason):
        mapped(tmp_path, text, changed(by=None, truth=None) | change)


def test_a_filter_that_is_no_yes_or_no_does_not_map(tmp_path: Path) -> None:
    text = INTERACTION.replace('message = "interaction"', 'message = "interaction"\nwhen = "value.stars"')
    with pytest.raises(Unmappable, match=r"when: gives a whole number, expected true or false; the expression is value\.stars"):
        mapped(tmp_path, text, REVIEW)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('user = "string(value.user_id)"', "", r"sources\[0\]\.fields\.user: is missing"),
        ('"value.text"', '"value."', r"sources\[0\]\.fields\.content: is no expression in CEL: column 7"),
        ('"value.text"', '"text"', r"sources\[0\]\.fields\.content: text is no name here"),
        ("content =", "contents =", r"sources\[0\]\.fields\.contents: interaction has no such field; it has tenant, user"),
        ('domain = "product_rating"', 'domain = "Product Rating"', r"sources\[0\]\.constants\.domain: String should match pattern"),
        ('domain = "product_rating"', "domain = 5", r"sources\[0\]\.constants\.domain: gives a whole number, expected a text"),
        ("[sources.constants]", "domain = \"'Product Rating'\"\n[sources.constants]", r"sources\[0\]\.constants\.domain: is an expression in fields too"),
        ('"value.at"', "\"'yesterday'\"", r"sources\[0\]\.fields\.occurred_at: gives a text that is no time"),
        ('"interaction"', '"interaction"\nwhen = "x"', r"sources\[0\]\.when: x is no name here"),
        ('"interaction"', '"rating"', r"sources\[0\]\.message: Input should be 'interaction', 'query' or 'feedback'"),
        ('"interaction"', '"interaction"\nformat = "xml"', r"sources\[0\]\.format: Input should be 'json', 'avro' or 'protobuf'"),
        ('"interaction"', '"interaction"\nfilter = "x"', r"sources\[0\]\.filter: no such key; there are topic, message"),
        ('"shop.reviews"', '"shop reviews"', r"sources\[0\]\.topic: is no topic of Kafka"),
        ('"shop.reviews"', '"interactions"', r"sources\[0\]\.topic: is the name of one of Retouch's own topics"),
        ("[[sources]]", "[[source]]", "source: no such key; there are sources"),
        ("[[sources]]", "[[sources", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(BadSources, match=problem):
        compiled(tmp_path, INTERACTION.replace(old, new))


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadSources) as refused:
        compiled(tmp_path, INTERACTION.replace('"value.text"', '"x"').replace('"value.at"', '"y"'))
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["sources[0].fields.content", "sources[0].fields.occurred_at"]


def test_sources_need_names_of_their_own_and_a_topic_has_one_format(tmp_path: Path) -> None:
    with pytest.raises(BadSources) as refused:
        compiled(tmp_path, INTERACTION + INTERACTION.replace("[sources.fields]", 'format = "avro"\n[sources.fields]'))
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["sources[0].name", "sources[1].name", "sources[1].format"]


def test_a_topic_of_our_own_prefix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sources.toml"
    path.write_text(INTERACTION.replace("shop.reviews", "team.feedback"))
    read_sources(path)
    with pytest.raises(BadSetting, match=r"sources\[0\]\.topic: team\.feedback is one of Retouch's own topics"):
        read_sources(path, "team.")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSources, match="cannot be read: No such file"):
        read_sources(tmp_path / "none.toml")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[SourceMapping]:
    return compiled(tmp_path_factory.mktemp("sources"), QUERY + FEEDBACK)


@given(change=st.dictionaries(st.sampled_from([*REVIEW, "truth", "by"]), JSON))
def test_any_record_maps_or_is_refused(both: list[SourceMapping], change: dict[str, object]) -> None:
    for mapping in both:
        try:
            messages = map_record([mapping], changed(by=None, truth=None) | change, RECORD, POSITION)
        except Unmappable:
            continue
        for message in messages:
            assert type(message.message).from_bytes(message.message.to_bytes()) == message.message
