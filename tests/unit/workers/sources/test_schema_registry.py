"""The registry's client against an HTTP server: what it asks, and what each answer means."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infra.errors import DependencyBlocked, DependencyUnavailable, PoisonMessage
from infra.settings.platform_topics import SourcesSettings
from tests.support.schema_registry import StubRegistry, stub_registry
from workers.sources.schema_registry import RegisteredSchema, SchemaRegistry


@pytest.fixture
def registry() -> Iterator[StubRegistry]:
    with stub_registry() as running:
        yield running


def read(settings: SourcesSettings, *ids: int, blocked: list[str | None] | None = None) -> list[RegisteredSchema]:
    async def schemas() -> list[RegisteredSchema]:
        async with SchemaRegistry(settings, blocked.append if blocked is not None else lambda problem: None) as client:
            return [await client.schema(id) for id in ids]

    return asyncio.run(schemas())


def test_a_schema_has_what_it_refers_to(registry: StubRegistry) -> None:
    registry.schemas[1] = {"schemaType": "PROTOBUF", "schema": "a", "references": [{"name": "user.proto", "subject": "shop/user", "version": 3}]}
    registry.subjects["shop/user", 3] = {"schemaType": "PROTOBUF", "schema": "b", "id": 7}
    user = RegisteredSchema("PROTOBUF", "b")
    assert read(SourcesSettings(registry_url=registry.url), 1) == [RegisteredSchema("PROTOBUF", "a", (("user.proto", user),))]
    assert registry.requests == ["/schemas/ids/1", "/subjects/shop%2Fuser/versions/3"]


def test_a_schema_without_a_type_is_avro(registry: StubRegistry) -> None:
    registry.schemas[1] = {"schema": '"string"'}
    assert read(SourcesSettings(registry_url=registry.url), 1) == [RegisteredSchema("AVRO", '"string"')]
    assert registry.requests == ["/schemas/ids/1"]


def test_an_unknown_id_is_the_records_fault(registry: StubRegistry) -> None:
    with pytest.raises(PoisonMessage, match="the schema registry has no schema 5"):
        read(SourcesSettings(registry_url=registry.url), 5)


def test_references_in_a_circle_end(registry: StubRegistry) -> None:
    circle = {"schema": "x", "references": [{"name": "a", "subject": "a", "version": 1}]}
    registry.schemas[1] = registry.subjects["a", 1] = circle
    with pytest.raises(PoisonMessage, match="or to itself"):
        read(SourcesSettings(registry_url=registry.url), 1)


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, DependencyBlocked, "answers 401: check sources.registry_username"),
        (307, DependencyBlocked, "answers 307, and not as a schema registry does"),
        (403, DependencyBlocked, "answers 403: check sources.registry_username"),
        (404, DependencyBlocked, "answers 404, and not as a schema registry does: check sources.registry_url"),
        (429, DependencyUnavailable, "does not answer"),
        (500, DependencyUnavailable, "does not answer"),
        (503, DependencyUnavailable, "does not answer"),
    ],
)
def test_a_registry_that_refuses_or_fails_is_named_as_that(registry: StubRegistry, status: int, error: type[Exception], text: str) -> None:
    registry.status = status
    blocked: list[str | None] = []
    with pytest.raises(error, match=text) as failed:
        read(SourcesSettings(registry_url=registry.url), 1, blocked=blocked)
    assert type(failed.value) is error
    assert blocked == [str(failed.value)]


def test_a_registry_that_is_away_is_retried_later() -> None:
    with stub_registry() as registry:
        url = registry.url
    with pytest.raises(DependencyUnavailable, match=rf"the schema registry at {url} does not answer \(ClientConnectorError\)"):
        read(SourcesSettings(registry_url=url), 1)


def test_user_and_password_are_sent(registry: StubRegistry) -> None:
    registry.schemas[1] = {"schema": '"string"'}
    registry.authorization = "Basic " + b64encode("ann:grüezi".encode()).decode()
    settings = SourcesSettings(registry_url=registry.url, registry_username="ann", registry_password=SecretStr("grüezi"))
    blocked: list[str | None] = []
    assert len(read(settings, 1, blocked=blocked)) == 1
    assert blocked == [None]
    assert "grüezi" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"registry_url": "http://a:8081", "registry_password": "x"}, "needs registry_username"),
        ({"registry_url": "http://a:8081", "registry_username": "a:b", "registry_password": "x"}, "must not hold a colon"),
        ({"registry_username": "ann", "registry_password": "x"}, "registry_username: used only with sources.registry_url"),
        ({"registry_url": "registry:8081"}, "write http://registry:8081"),
        ({"registry_url": "http://a:8081", "registry_cafile": str(Path(__file__))}, "holds no certificate"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        SourcesSettings.model_validate(given)
