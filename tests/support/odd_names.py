"""A name for folders that hold state. Each of its signs means something in a format of another program: Java properties, class paths, URLs, SQL, shells."""

from __future__ import annotations

ODD = "ë,\\%20?#:;*'\"= x\\"
