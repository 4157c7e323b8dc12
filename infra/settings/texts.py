"""Rules for text settings: URLs, hosts, addresses of brokers, secrets, names and paths.

Each function returns the text in the form that the processes use. For a text that cannot work it raises ValueError with what is wrong and what would be
right. An error never holds a secret.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic_core import Url

from infra.urls import sqlite_file, without_user

_QUOTES = "\"'`“”‘’"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f\"<>\\^`{|}“”‘’]")
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[\w-]{1,63}(\.[\w-]{1,63})*\.?")
_AUTHORITY = re.compile(r"[^:/]+|\[[^\]/]+\]|([^:/]+|\[[^\]/]+\]):\d+")
_WEB_SCHEMES = ("http", "https", "ws", "wss", "tcp")  # the last three are written for http(s) by mistake
_LOCAL = re.compile(r"localhost|\[.*\]|[\d.]+|[^.]*", re.IGNORECASE)
_SERVER = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})")
_NO_KAFKA_NAME = re.compile(r"[^A-Za-z0-9._-]")
_RECORD_PLACE = re.compile(r"[A-Za-z0-9._-]+/(0|[1-9][0-9]*)/(0|[1-9][0-9]*)")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def web_url(text: str, example: str, secret_in: str | None) -> str:
    """An http or https URL without user, query and fragment. `example` is a right value, `secret_in` names the setting for the secret, if there is one."""
    url = text.strip()
    problem = _url_problem(url, secret_in)
    if problem:
        right = _repaired(url)
        raise ValueError(f"{problem}: write {right if right and _url_problem(right, secret_in) is None else example}")
    return url


def tracking_uri(text: str) -> str:
    """The URL of an MLflow server, or `sqlite:///FILE`."""
    uri = text.strip()
    if not uri.startswith("sqlite:"):
        example = "http(s)://HOST of an MLflow server, or sqlite:///FILE; only the server talks to another database"
        return web_url(uri, example, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if not re.fullmatch(r"sqlite:///[^?]+", uri) or sqlite_file(uri).name in ("", ":memory:"):
        raise ValueError("names no database file: write sqlite:///FILE, with %3F for a question mark and %25 for %")
    absolute_path(sqlite_file(uri))
    return uri


def host(text: str) -> str:
    """A host name or an IP address, without a port."""
    name = text.strip()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if not _HOST_NAME.fullmatch(name) or re.fullmatch(r"[\d.]+", name):
            raise ValueError("must be a host name or an IP address alone: write 127.0.0.1, without scheme, port and brackets") from None
    return name


def host_without_ipv6(text: str) -> str:
    """A host name or an IPv4 address."""
    if ":" in host(text):
        raise ValueError("must be a host name or an IPv4 address: write 127.0.0.1; a single Kafka node cannot be formatted for IPv6")
    return host(text)


def servers(text: str) -> str:
    """The addresses of brokers, host:port,host:port."""
    addresses = [address.strip() for address in text.split(",")]
    if all(map(_is_server, addresses)):
        return ",".join(addresses)
    right = ",".join(address for each in addresses if (address := _SCHEME.sub("", each.strip(_QUOTES + " ")).rstrip("/")))
    advice = right if all(map(_is_server, right.split(","))) and "@" not in right else "127.0.0.1:9092, or [::1]:9092 for IPv6"
    raise ValueError(f"each of them must be host:port, with a port from 1 to 65535: write {advice}")


def header_secret(secret: SecretStr) -> SecretStr:
    """A secret that is sent as an HTTP header. White space around it is removed."""
    text = secret.get_secret_value().strip()
    if problem := token_problem(text):
        raise ValueError(problem)
    return SecretStr(text)


def token_problem(secret: str) -> str | None:
    """Why a header cannot carry this key or token, without repeating it. None if it can."""
    if re.match(r"(bearer|basic)\s", secret, re.IGNORECASE):
        return "begins with the name of a scheme: write the secret alone, the scheme is added"
    return header_problem(secret)


def header_problem(secret: str) -> str | None:
    """Why this cannot be the value of a header, without repeating it. None if it can."""
    if not secret.strip():
        return "holds only white space: write the secret, or leave it out"
    if secret != secret.strip():
        return "has white space around it: write the secret alone"
    if secret[0] in _QUOTES or secret[-1] in _QUOTES:
        return "has quotes around it: write the secret alone"
    if any(unicodedata.category(c) == "Cc" for c in secret):
        return "has a line end or another control character inside: write the secret alone, in one line"
    if not secret.isascii():
        return "has a character outside ASCII, which a header does not carry: copy the secret again"
    return None


def header_list_problem(text: str) -> str | None:
    """Why OpenTelemetry's exporter cannot send these headers, `name=value,name=value`. None if it can."""
    from urllib.parse import unquote

    for number, entry in enumerate(filter(str.strip, text.split(",")), start=1):
        name, equals, value = entry.partition("=")
        if not equals or not _HEADER_NAME.fullmatch(unquote(name).strip()):
            return f"its entry {number} is no header: write name=value,name=value"
        if problem := header_problem(unquote(value).strip()):
            return f"its entry {number} {problem}"
    return None


def broker_user(text: str) -> str:
    """The name of a SASL user."""
    name = text.strip("\r\n")
    if problem := _sasl_problem(name):
        raise ValueError(problem)
    return name


def broker_password(secret: SecretStr) -> SecretStr:
    """A password of the broker, of a private key, or of a token endpoint's client. It is no header: it may hold spaces and any printable character.

    Line ends around it, which come from files, are removed.
    """
    password = secret.get_secret_value().strip("\r\n")
    if problem := _sasl_problem(password):
        raise ValueError(problem)
    return SecretStr(password)


def name(text: str, without: str = "") -> str:
    """One line without control characters and without the characters of `without`."""
    if not text.strip() or text != text.strip() or _is_not_one_line(text):
        raise ValueError("must be a name of one line, without white space around it")
    if found := [c for c in without if c in text]:
        raise ValueError(f"must not hold {' '.join(found)}")
    return text


def kafka_prefix(text: str) -> str:
    """The beginning of names that Kafka takes."""
    if found := sorted(set(_NO_KAFKA_NAME.findall(text))):
        raise ValueError(f"must hold only letters, digits, '.', '_' and '-', not {', '.join(map(repr, found))}: write it such as team.retouch.")
    return text


def record_place(text: str) -> str:
    """topic/partition/offset, as errors name a record."""
    place = text.strip()
    if not _RECORD_PLACE.fullmatch(place):
        raise ValueError("must be topic/partition/offset: write it as the error names it, such as queries/0/17")
    return place


def absolute_path(path: Path) -> Path:
    """Any path that programs can open and print in one line."""
    if _is_not_one_line(str(path)):
        raise ValueError("has a control character, or is not UTF-8: rename that folder or choose another")
    return path


def directory(path: Path) -> Path:
    """A directory, or a path where one can be created."""
    absolute_path(path)
    nearest = path.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is no directory: name a directory, which may be missing yet")
    return path


def file(path: Path) -> Path:
    """An existing file."""
    if not absolute_path(path).is_file():
        raise ValueError("there is no such file: name an existing one")
    return path


Host = Annotated[str, AfterValidator(host)]
HostWithoutIPv6 = Annotated[str, AfterValidator(host_without_ipv6)]
Servers = Annotated[str, AfterValidator(servers)]
TrackingUri = Annotated[str, AfterValidator(tracking_uri)]
HeaderSecret = Annotated[SecretStr, AfterValidator(header_secret)]
BrokerUser = Annotated[str, AfterValidator(broker_user)]
BrokerPassword = Annotated[SecretStr, AfterValidator(broker_password)]
Name = Annotated[str, AfterValidator(name)]
ModelName = Annotated[str, AfterValidator(partial(name, without="/:'\"`\\"))]  # of a registered model
KafkaPrefix = Annotated[str, AfterValidator(kafka_prefix)]
RecordPlace = Annotated[str, AfterValidator(record_place)]
AnyPath = Annotated[Path, AfterValidator(absolute_path)]
Directory = Annotated[Path, AfterValidator(directory)]


def url_of(example: str, secret_in: str | None) -> AfterValidator:
    """`web_url` for one setting."""
    return AfterValidator(partial(web_url, example=example, secret_in=secret_in))


def _url_problem(url: str, secret_in: str | None) -> str | None:
    if url[:1] in _QUOTES or url[-1:] in _QUOTES:
        return "has quotes around it" if url else "is empty"
    if without_user(url) != url:
        return "must not hold user:password@, which reports and logs would show" + (f"; the secret belongs in {secret_in}" if secret_in else "")
    scheme = _SCHEME.match(url)
    if not scheme:
        return "has no http:// or https:// at its beginning"
    if scheme[1].lower() not in ("http", "https"):
        return f"begins with {scheme[0]} instead of http:// or https://"
    if unsafe := next((c for c in url if _UNSAFE.match(c) or unicodedata.category(c) == "Cf"), ""):
        return f"has {unicodedata.name(unsafe, 'a control character').lower()} inside"
    if "?" in url or "#" in url:
        return "must end with its path, without ? and #"
    authority = url[scheme.end() :].split("/")[0]
    if not authority or authority.startswith(":"):
        return "has no host"
    return _authority_problem(authority)


def _authority_problem(authority: str) -> str | None:
    try:
        parsed = Url(f"http://{authority}")
    except ValidationError as error:
        return f"has an {error.errors()[0]['ctx']['error']}"
    name = parsed.host or ""
    if not _AUTHORITY.fullmatch(authority) or parsed.port == 0:
        return "has an invalid port number"
    return None if name.startswith("[") or _HOST_NAME.fullmatch(name) else "has an invalid host name"


def _repaired(url: str) -> str:
    """The URL that was probably meant: without quotes, user, query and fragment, and with a scheme. Empty if nothing can be guessed."""
    url = without_user(url.strip(_QUOTES + " "))
    url = re.split(r"[?#]", url)[0]
    scheme = _SCHEME.match(url)
    rest = url[scheme.end() :] if scheme else re.sub(r"^(https?)?:?/*", "", url, flags=re.IGNORECASE)
    if "@" in rest or (scheme and scheme[1].lower() not in _WEB_SCHEMES):
        return ""
    if scheme and scheme[1].lower() in ("http", "https"):
        return url
    is_local = _LOCAL.fullmatch(re.sub(r":\d*$", "", rest.split("/")[0]))
    return f"{'http' if is_local else 'https'}://{rest}"


def _is_server(address: str) -> bool:
    match = _SERVER.fullmatch(address)
    if not match or not 0 < int(match[2]) < 65536:
        return False
    try:
        host(match[1].removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_not_one_line(text: str) -> bool:
    """Whether it holds a control character, or half of a surrogate pair, which stands for a byte that is not UTF-8."""
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def _sasl_problem(text: str) -> str | None:
    if not text:
        return "is empty"
    if _is_not_one_line(text):
        return "has a line end, another control character or an undecodable byte inside: write it in one line of UTF-8"
    return None
