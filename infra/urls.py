"""URLs: without their secrets, for logs, errors and `config print`; of SQLite files; and whether one leads to this machine."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: RFC 3986 ends the authority at the first of `/?#`; in a database's URL SQLAlchemy also takes a password with slashes.
_WEB_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_DATABASE_USER = re.compile(r"(?<=://)[^:/@\s]*(:[^\s]*)?@")


def without_user(url: str) -> str:
    """`url` without `user:password@`; other texts unchanged."""
    return (_WEB_USER if url.lower().startswith("http") else _DATABASE_USER).sub("", url)


def is_loopback(url: str) -> bool:
    """Whether the URL leads to this machine, so that no proxy may be used."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite file, also for a path with special characters. SQLAlchemy ends the path at `?` and decodes `%`; it keeps all others."""
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def sqlite_file(url: str) -> Path:
    """The file of a `sqlite:///` URL, as SQLAlchemy finds it."""
    return Path(unquote(url.removeprefix("sqlite:///").partition("?")[0]))
