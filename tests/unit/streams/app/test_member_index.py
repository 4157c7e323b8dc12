"""Which members of the streams' group may be in it together, by the index that each fills."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.protocol.admin import DescribeGroupsResponse

from infra.errors import CannotContinue
from infra.kafka.named_clients import Admin
from infra.kafka.names import KafkaNames
from infra.settings import load
from infra.settings.stream import KafkaSettings
from streams.app.app import make_app
from streams.app.member_index import MemberIndex, refused, wait_for_other_indexes
from streams.app.one_index import OneIndexAssignor

NAMES = KafkaNames(KafkaSettings(group_prefix="team."))
FIRST = MemberIndex("one", 11, "/state/index", since=1)
OTHER = MemberIndex("two", 22, "/state/index", since=2)
ON_SERVER = MemberIndex("three", 33, None, since=3, url="http://q:6333", collection="history", identity="a")
WITHOUT_ID = replace(ON_SERVER, identity=None, target="history")


def metadata(index: MemberIndex) -> bytes:
    return json.dumps({"url": "of Faust"} | index.written()).encode()


class Client:
    """Describes the group with each of these answers in turn, and then again with the last one."""

    def __init__(self, *answers: tuple[str, list[bytes | None]]) -> None:
        self._answers = list(answers)

    def group_members(self, group: str) -> tuple[str, list[bytes | None]]:
        assert group == "retouch-streams"
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.mark.parametrize(
    ("one", "other", "conflicts"),
    [
        (FIRST, OTHER, True),
        (FIRST, replace(FIRST, directory="/other/index"), True),
        (FIRST, replace(FIRST, pid=12, since=9), False),  # its successor
        (FIRST, ON_SERVER, True),
        (ON_SERVER, replace(ON_SERVER, host="four"), False),
        (ON_SERVER, replace(ON_SERVER, identity="b"), False),  # a rebuild switched the alias between their starts, or the server was wiped
        (ON_SERVER, replace(ON_SERVER, collection="live"), False),  # an alias of the same collection
        (ON_SERVER, replace(ON_SERVER, collection="live", identity="b"), True),
        (ON_SERVER, replace(ON_SERVER, collection="live", identity=None), True),
        (ON_SERVER, replace(ON_SERVER, url="https://q.example"), False),  # the same server
        (ON_SERVER, replace(ON_SERVER, url="https://q.example", identity="b"), True),
        (ON_SERVER, replace(ON_SERVER, url="https://q.example", identity=None), False),
        (WITHOUT_ID, replace(WITHOUT_ID, collection="live"), False),  # an alias of the same collection
        (replace(WITHOUT_ID, target=None), replace(WITHOUT_ID, collection="live"), False),  # of which the other one knows only the name
        (WITHOUT_ID, replace(WITHOUT_ID, collection="live", target="other"), True),
        (WITHOUT_ID, replace(WITHOUT_ID, collection="live", target=None), True),
        (ON_SERVER, replace(ON_SERVER, url=None, collection=None, identity=None), False),  # an older release, which does not say
    ],
)
def test_two_members_conflict_if_they_fill_different_indexes(one: MemberIndex, other: MemberIndex, conflicts: bool) -> None:
    assert one.conflicts_with(other) is other.conflicts_with(one) is conflicts


def test_the_older_member_stays_unless_another_has_been_accepted() -> None:
    (text,) = refused({"a": OTHER, "b": FIRST}, "team.retouch-streams").values()
    assert text.startswith("this process (two, pid 22, with the index in /state/index) cannot join group team.retouch-streams: its member (one, pid 11, ")
    assert "set index.url (QDRANT_URL) and index.collection of both" in text
    assert refused({"a": OTHER, "b": FIRST}, "g").keys() == {"a"}
    assert refused({"a": replace(OTHER, is_accepted=True), "b": FIRST}, "g").keys() == {"b"}
    assert refused({"a": FIRST, "b": OTHER, "c": ON_SERVER}, "g").keys() == {"b", "c"}
    assert refused({"a": ON_SERVER, "b": replace(ON_SERVER, host="four")}, "g") == refused({}, "g") == {}


def test_the_index_of_a_member_is_read_from_its_metadata() -> None:
    own = MemberIndex.of(load(kafka={"instance": "one"}, stack={"dir": "/state"}), is_embedded=True)
    assert MemberIndex.read(metadata(own)) == own and (own.host, own.directory) == ("one", "/state/index")
    on_server = replace(MemberIndex.of(load(index={"url": "http://q:6333", "collection": "live"}), is_embedded=False), identity="a", target="b")
    assert MemberIndex.read(metadata(on_server)) == on_server and (on_server.url, on_server.collection) == ("http://q:6333", "live")
    for unreadable in (None, b"", b"\xff", b"[]", b'{"url": "an older release"}', b'{"retouch_index": {"host": "one"}}'):
        assert MemberIndex.read(unreadable) is None


def admin_of(state: str, joined_with: bytes) -> Admin:
    """kafka-python's client, with a broker's answer of one member that joined with this."""
    group = DescribeGroupsResponse.DescribedGroup
    member = group.DescribedGroupMember(member_id="m", client_id="c", client_host="h", member_metadata=joined_with, member_assignment=b"")
    described = group(error_code=0, group_id="team.retouch-streams", group_state=state, protocol_type="consumer", protocol_data="faust", members=[member])
    answer = DescribeGroupsResponse(version=2, throttle_time_ms=0, groups=[described]).encode()

    def answered(request: Callable[..., Any], *args: Any) -> Any:
        return python_client._describe_groups_process_response(DescribeGroupsResponse.decode(answer, version=2))

    python_client = object.__new__(KafkaAdminClient)
    python_client._manager = SimpleNamespace(run=answered)
    admin = object.__new__(Admin)
    vars(admin).update(_names=NAMES, _client=python_client, _undecoded=set())
    return admin


def joined_with(index: MemberIndex) -> bytes:
    """What Faust sends to the broker when it joins the group."""
    app = make_app(load(kafka={"bootstrap_servers": "127.0.0.1:1", "group_prefix": "team."}), index)
    encoded: bytes = app.assignor.metadata({"interactions", "drafts"}).encode()
    return encoded


async def test_the_index_of_a_faust_member_is_read_from_the_brokers_answer() -> None:
    (member,) = admin_of("Stable", joined_with(OTHER)).group_members("retouch-streams")[1]
    assert MemberIndex.read(member) == OTHER
    with pytest.raises(CannotContinue, match=r"its member \(two, pid 22, with the index in /state/index\)"):
        wait_for_other_indexes(admin_of("Stable", joined_with(OTHER)), NAMES, FIRST, timeout_s=0)


async def test_a_member_that_cannot_be_decoded_is_unknown_and_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(OneIndexAssignor, "version", 4)
    admin = admin_of("Stable", joined_with(OTHER))
    assert admin.group_members("retouch-streams") == admin.group_members("retouch-streams") == ("Stable", [None])
    assert [record.name for record in caplog.records].count("infra.kafka.named_clients") == 1
    wait_for_other_indexes(admin, NAMES, FIRST, timeout_s=0)


def test_a_group_in_a_rebalance_shows_no_data_of_its_members(caplog: pytest.LogCaptureFixture) -> None:
    assert admin_of("PreparingRebalance", b"").group_members("retouch-streams") == ("PreparingRebalance", [b""])
    assert not caplog.records


@pytest.mark.parametrize("left", [("Empty", []), ("Stable", [None, b"another release", metadata(FIRST)])])
def test_a_process_waits_until_the_others_are_gone(left: tuple[str, list[bytes | None]]) -> None:
    rebalancing: tuple[str, list[bytes | None]] = ("PreparingRebalance", [])
    wait_for_other_indexes(Client(("Stable", [metadata(OTHER)]), rebalancing, left), NAMES, FIRST, timeout_s=60)


def test_a_member_that_stays_is_named_and_one_that_is_not_described_is_not() -> None:
    with pytest.raises(CannotContinue, match=r"\(one, pid 11, .* group team\.retouch-streams: its member \(two, pid 22, "):
        wait_for_other_indexes(Client(("Stable", [metadata(OTHER)])), NAMES, FIRST, timeout_s=0)
    wait_for_other_indexes(Client(("PreparingRebalance", [])), NAMES, FIRST, timeout_s=0)


def test_the_error_names_both_collections_and_the_setting() -> None:
    other = replace(ON_SERVER, host="four", pid=44, collection="other", identity="b", since=4)
    with pytest.raises(CannotContinue, match=r"\(four, pid 44, with the collection 'other' at http://q:6333\) .*\(three, .* 'history' .* index\.collection"):
        wait_for_other_indexes(Client(("Stable", [metadata(ON_SERVER)])), NAMES, other, timeout_s=0)
    assert refused({"a": ON_SERVER, "b": other}, "g").keys() == {"b"}


def test_members_on_a_server_do_not_wait_for_one_another() -> None:
    wait_for_other_indexes(Client(("Stable", [metadata(replace(ON_SERVER, host="four", pid=44))])), NAMES, ON_SERVER, timeout_s=0)
