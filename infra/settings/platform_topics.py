"""Settings of the sources worker, which reads a platform's own topics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from infra.settings.section import Seconds, Section
from infra.settings.texts import AnyPath, BrokerPassword, BrokerUser, url_of
from infra.settings.tls_files import certificates


class SourcesSettings(Section):
    """The sources worker: a platform's own topics become interactions, queries and feedback."""

    file: AnyPath | None = None  # sources.toml (docs/sources.md); None: there are no sources
    #: Of a schema registry with Confluent's REST API, which Avro and Protobuf need
    registry_url: Annotated[str, url_of("http://HOST:8081 of a schema registry", "sources.registry_password")] | None = None
    registry_username: BrokerUser | None = None  # for basic authentication; None: without it
    registry_password: BrokerPassword | None = None
    registry_cafile: Annotated[Path, AfterValidator(certificates)] | None = None  # PEM file of the registry's certificate authority; None: the system's
    registry_timeout_s: Seconds = 5.0  # of one request to the registry

    @model_validator(mode="after")
    def _registry_fits(self) -> Self:
        if self.registry_password and not self.registry_username:  # other processes may have the name alone
            raise ValueError("registry_password needs registry_username, the user that it is the password of")
        if ":" in (self.registry_username or ""):
            raise ValueError("registry_username must not hold a colon, which ends it in basic authentication")
        if self.registry_url is None:
            self.refuse_unused(["registry_username", "registry_cafile", "registry_timeout_s"], "with sources.registry_url, the address of a schema registry")
        return self
