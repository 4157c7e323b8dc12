"""A spool: texts in a file without a name, so that a snapshot larger than memory can be sorted, digested and read by place.

The file is gone when its process is, however that ends: it holds users' words. One thread at a time.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

T = TypeVar("T")

#: Bytes held back before they are written.
BUFFER = 1 << 20


class TextSpan(NamedTuple):
    """Where a text stands."""

    offset: int
    length: int


class TextSpool:
    """Texts by place. `directory` is made where it is missing; None: the system's own for temporary files."""

    def __init__(self, directory: Path | None = None) -> None:
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
        self._descriptor, name = tempfile.mkstemp(prefix=".spool-", dir=directory)
        Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)
        self._written = 0
        self._waiting = bytearray()

    def put(self, text: bytes) -> TextSpan:
        span = TextSpan(self._written + len(self._waiting), len(text))
        self._waiting += text
        if len(self._waiting) >= BUFFER:
            self._flush()
        return span

    def get(self, span: TextSpan) -> bytes:
        if span.offset + span.length > self._written:
            self._flush()
        return os.pread(self._descriptor, span.length, span.offset)

    def _flush(self) -> None:
        while self._waiting:
            written = os.write(self._descriptor, self._waiting)
            self._written += written
            del self._waiting[:written]


class SpooledSequence(Sequence[T]):
    """A sequence whose elements are made from their texts each time they are asked for; none is kept."""

    def __init__(self, spool: TextSpool, spans: Sequence[TextSpan], make: Callable[[bytes], T]) -> None:
        self._spool, self._spans, self._make = spool, spans, make

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> SpooledSequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | SpooledSequence[T]:
        if isinstance(index, slice):
            return SpooledSequence(self._spool, self._spans[index], self._make)
        return self._make(self._spool.get(self._spans[index]))
