"""URLs without their secrets, for logs, errors and `config print`; and whether a URL leads to this machine."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

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
