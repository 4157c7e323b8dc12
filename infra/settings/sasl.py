"""Settings of SASL OAUTHBEARER, and which settings of SASL fit together. Each function raises ValueError, or returns what is wrong."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from infra.settings.section import Section
from infra.settings.texts import BrokerPassword, BrokerUser, Name, web_url
from infra.settings.tls_files import certificates
from infra.urls import is_loopback

OAUTHBEARER = "OAUTHBEARER"
_PROVIDER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_EXTENSION_NAME, _EXTENSION_VALUE = re.compile("[A-Za-z]+"), re.compile(r"[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*")  # RFC 7628, section 3.1, in one line
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, section 3.3

Certificates = Annotated[Path, AfterValidator(certificates)]


def endpoint(text: str) -> str:
    """An https URL, or an http URL of this machine."""
    url = web_url(text, "https://HOST/PATH of the token endpoint", "kafka.oauth.client_secret")
    if url.lower().startswith("http:") and not is_loopback(url):
        raise ValueError(f"would send the client's secret unencrypted: write https{url[4:]}")
    return url


def names(text: str) -> str:
    """Names separated by single spaces."""
    if not _SCOPE.fullmatch(text.strip()):
        raise ValueError("must be names without quotes and backslashes, separated by single spaces: write it such as kafka")
    return text.strip()


def provider(text: str) -> str:
    """`module:function`, which is imported here."""
    if not _PROVIDER.fullmatch(text):
        raise ValueError("must be module:function: write it such as aws_msk_iam_sasl_signer.MSKAuthTokenProvider:generate_auth_token")
    module, _, function = text.partition(":")
    try:
        found = pkgutil.resolve_name(text)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {error.name}: install its package, or add its folder to PYTHONPATH") from None
    except AttributeError:
        raise ValueError(f"module {module} has no {function}: name a function of it") from None
    except Exception as error:  # whatever that module's own code raises
        raise ValueError(f"module {module} cannot be imported ({type(error).__name__}): repair it, or name another") from None
    if not callable(found):
        raise ValueError(f"is a {type(found).__name__}, not a function: name a function that returns a token")
    return text


def kafka_extensions(values: dict[str, str]) -> dict[str, str]:
    """Extensions that Kafka takes (KIP-342): names of letters, of which `auth` is the token's own, and values of printable ASCII."""
    for name, value in values.items():
        if not _EXTENSION_NAME.fullmatch(name) or name == "auth":
            raise ValueError(f"has the name {name!r}: a name has letters only, such as logicalCluster, and is not auth")
        if not _EXTENSION_VALUE.fullmatch(value):
            raise ValueError(f"has for {name} a value that is empty or not printable ASCII: write it as the platform gives it, such as lkc-abc123")
    return values


class OAuthSettings(Section):
    """Where the tokens for SASL OAUTHBEARER come from: a token endpoint, asked with client credentials (RFC 6749, section 4.4), or a Python function."""

    token_url: Annotated[str, AfterValidator(endpoint)] | None = None  # of the token endpoint
    client_id: BrokerUser | None = None  # the user name at the token endpoint
    client_secret: BrokerPassword | None = None
    scope: Annotated[str, AfterValidator(names)] | None = None  # names separated by spaces; None: what the endpoint gives by default
    cafile: Certificates | None = None  # PEM file of the token endpoint's certificate authority; None: the system's
    token_provider: Annotated[str, AfterValidator(provider)] | None = None  # module:function, which returns a token, or a token and its end in Unix ms
    token_arguments: dict[str, Name] = Field(default_factory=dict)  # keyword arguments of that function, such as the region; they are no secrets

    # SASL extensions (KIP-342) that go to the broker beside each token, such as logicalCluster and identityPoolId of Confluent; they are no secrets
    extensions: Annotated[dict[str, str], AfterValidator(kafka_extensions)] = Field(default_factory=dict)

    @property
    def is_set(self) -> bool:
        return bool(set_names(self))

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.token_url and self.token_provider:
            raise ValueError("token_url and token_provider exclude each other: keep the one that your platform has")
        if self.token_url and not (self.client_id and self.client_secret):
            raise ValueError("token_url needs client_id and client_secret, which the platform gives with it")
        of_endpoint = [name for name in ("client_id", "client_secret", "scope", "cafile") if getattr(self, name)]
        if of_endpoint and not self.token_url:
            raise ValueError(f"{' and '.join(of_endpoint)} needs token_url: set it, or leave {'it' if len(of_endpoint) == 1 else 'them'} out")
        if self.token_arguments and not self.token_provider:
            raise ValueError("token_arguments needs token_provider, the function that takes them")
        if self.extensions and not (self.token_url or self.token_provider):
            raise ValueError("extensions needs token_url or token_provider: they go to the broker beside a token")
        return self


def set_names(section: Section) -> list[str]:
    """The settings of a section that have a value."""
    return [name for name in type(section).model_fields if getattr(section, name)]


def sasl_problem(protocol: str, mechanism: str | None, sasl: Mapping[str, Any], oauth: OAuthSettings) -> str | None:
    """What is missing or in contradiction, with what would be right. `sasl`: the values of sasl_username and sasl_password. None if they fit."""
    users = [name for name, value in sasl.items() if value]
    oauths = [f"oauth.{name}" for name in set_names(oauth)]
    if not protocol.startswith("SASL"):
        given = [*(["sasl_mechanism"] if mechanism else []), *users, *oauths]
        return f"{' and '.join(given)}: only with security_protocol=SASL_SSL or SASL_PLAINTEXT, which is {protocol}" if given else None
    if not mechanism:
        return f"security_protocol={protocol} needs sasl_mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or {OAUTHBEARER}"
    if mechanism == OAUTHBEARER:
        if users:
            return f"sasl_mechanism={OAUTHBEARER} takes no {' and no '.join(users)}: its user is oauth.client_id, with oauth.client_secret"
        return None if oauths else f"sasl_mechanism={OAUTHBEARER} needs oauth.token_url, or oauth.token_provider"
    if oauths:
        return f"{' and '.join(oauths)}: only with sasl_mechanism={OAUTHBEARER}, which is {mechanism}"
    return None if len(users) == len(sasl) else f"sasl_mechanism={mechanism} needs sasl_username and sasl_password"
