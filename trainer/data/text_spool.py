"""A spool: texts in an unnamed temporary file, so that a snapshot larger than memory can be sorted, digested and read in any order.

The operating system deletes the file when its process ends, however it ends: it contains users' texts. Not safe between threads.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

T = TypeVar("T")

#: Bytes that are buffered before they are written.
BUFFER_BYTES = 1 << 20


class TextSpan(NamedTuple):
    """The bytes of one text in the spool."""

    offset: int
    length: int


class TextSpool:
    """`directory` is created if it is missing. None: the system's directory for temporary files."""

    def __init__(self, directory: Path | None = None) -> None:
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
        self._descriptor, name = tempfile.mkstemp(prefix=".spool-", dir=directory)
        Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)
        self._written = 0
        self._buffer = bytearray()

    def put(self, text: bytes) -> TextSpan:
        span = TextSpan(self._written + len(self._buffer), len(text))
        self._buffer += text
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()
        return span

    def get(self, span: TextSpan) -> bytes:
        if span.offset + span.length > self._written:
            self._flush()
        return os.pread(self._descriptor, span.length, span.offset)

    def _flush(self) -> None:
        while self._buffer:
            written = os.write(self._descriptor, self._buffer)
            self._written += written
            del self._buffer[:written]


class SpooledSequence(Sequence[T]):
    """A sequence that builds an element from its text each time it is read, and keeps none."""

    def __init__(self, spool: TextSpool, spans: Sequence[TextSpan], build: Callable[[bytes], T]) -> None:
        self._spool, self._spans, self._build = spool, spans, build

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> SpooledSequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | SpooledSequence[T]:
        if isinstance(index, slice):
            return SpooledSequence(self._spool, self._spans[index], self._build)
        return self._build(self._spool.get(self._spans[index]))
