"""Files of a data set: opened, decompressed and read in lines or as one JSON list, within bounded memory.

A file is UTF-8 text, with or without a byte order mark; a name that ends in `.gz` means gzip. Anything else is a `BadData` with its cause. A file is
opened more than once, to recognize its format and to read it: one that changed in between is refused.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from infra.errors import BadSetting
from infra.process.command_output import printable

#: Bytes of one line, and of one row of a JSON list. A LaMP row with its profile has a few megabytes at most.
MAX_ROW_BYTES = 64 << 20
#: Bytes of a JSON list that are read at once.
CHUNK_BYTES = 1 << 20
GZIP_ENDING = ".gz"

_BLANK = " \t\r\n"
_GZIP = b"\x1f\x8b"
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\xfd7zXZ\x00", "xz-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\x00", "an SQLite file"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class BadData(BadSetting):
    """The data set has an error. Nothing of it was sent."""


class NotJson(ValueError):
    """A text that is no JSON, or that JSON readers read differently. `at`: the position of the error, in characters from 0."""

    def __init__(self, cause: str, at: int | None = None) -> None:
        super().__init__(cause)
        self.at = at


def shown(path: Path | str) -> str:
    """A path for one line of output: control characters, and bytes that are not UTF-8, are escaped."""
    return printable(str(path)).replace("\n", r"\n")


@dataclass
class DataFile:
    """One file. `path` is as the caller gave it."""

    path: Path
    _state: tuple[int, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def plain_name(self) -> str:
        """The name in lower case, without `.gz`."""
        return self.path.name.lower().removesuffix(GZIP_ENDING)

    def bad(self, what: str, line: int | None = None) -> BadData:
        return BadData(f"{shown(self.path)}{'' if line is None else f':{line}'}: {what}")

    def lines(self, *, blank_too: bool = False) -> Iterator[tuple[int, str]]:
        """Lines that are not blank, or all, with their numbers from 1 and without line ends. Only a line feed ends a line."""
        for number, line in self.byte_lines():
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise self.bad(f"not UTF-8 at byte {error.start + 1} of the line; convert the file to UTF-8", number) from None
            if blank_too or text.strip(_BLANK):
                yield number, text

    def byte_lines(self) -> Iterator[tuple[int, bytes]]:
        """All lines, as `lines` has them, before they are decoded."""
        with self._opened() as content:
            for number in itertools.count(1):
                line = content.readline(MAX_ROW_BYTES + 1)
                if not line:
                    return
                if len(line) > MAX_ROW_BYTES:
                    raise self.bad(f"a line of more than {MAX_ROW_BYTES >> 20} MiB; expected one row a line, ended by a line feed", number)
                yield number, line.removesuffix(b"\n").removesuffix(b"\r")

    def text(self) -> str:
        """The whole text, of at most `MAX_ROW_BYTES`."""
        with self._opened() as content:
            whole = content.read(MAX_ROW_BYTES + 1)
        if len(whole) > MAX_ROW_BYTES:
            raise self.bad(f"more than {MAX_ROW_BYTES >> 20} MiB")
        return self._decoded(codecs.getincrementaldecoder("utf-8")(), whole, 0, is_last=True)

    def list_items(self) -> Iterator[tuple[int, int, Any]]:
        """Values of a file that is one JSON list, with their number in the list and their line, both from 1. Read in parts: LaMP's files are large."""
        with self._opened() as content:
            yield from _ListReader(self, content).items()

    def _decoded(self, decoder: codecs.IncrementalDecoder, chunk: bytes, before: int, *, is_last: bool) -> str:
        """`before`: the number of bytes before this chunk."""
        try:
            return decoder.decode(chunk, is_last)
        except UnicodeDecodeError as error:
            at = before + len(chunk) - len(error.object) + error.start
            raise self.bad(f"not UTF-8 at byte {at + 1}; convert the file to UTF-8") from None

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The decompressed bytes, after a byte order mark. Never waits for a writer, as a named pipe would."""
        try:
            with open(self.path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                self._check_unchanged(file)
                is_gzip = self.path.name.lower().endswith(GZIP_ENDING)
                if is_gzip and not _head(file).startswith(_GZIP):
                    raise self.bad("the name ends in .gz, but the content is not gzip-compressed")
                content: IO[bytes] = gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[assignment]  # a GzipFile reads bytes
                head = _head(content)
                self._check_text(head, is_gzip)
                if head.startswith(codecs.BOM_UTF8):
                    content.seek(len(codecs.BOM_UTF8))
                yield content
                self._check_unchanged(file)
        except (OSError, EOFError, zlib.error) as error:
            # gzip's own errors have no strerror
            raise self.bad(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def _check_unchanged(self, file: IO[bytes]) -> None:
        now = os.fstat(file.fileno())
        if not stat.S_ISREG(now.st_mode):
            raise self.bad("not a regular file; expected a file, which can be read twice")
        state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
        if self._state is not None and self._state != state:
            raise self.bad("the file changed while the data set was read; start again when nothing writes to it")
        self._state = state

    def _check_text(self, head: bytes, is_gzip: bool) -> None:
        if head.startswith(_GZIP):
            raise self.bad("compressed twice" if is_gzip else f"the content is gzip-compressed; rename it to {shown(self.path.name)}{GZIP_ENDING}")
        for signature, what in _SIGNATURES:
            if head.startswith(signature):
                raise self.bad(f"the content is {what}; expected UTF-8 text, or that with gzip as *.gz")
        if head[257:262] == b"ustar":
            raise self.bad("the content is a tar archive; unpack it")
        if b"\x00" in head[:2]:
            raise self.bad("the content begins with NUL bytes, as UTF-16 does; convert the file to UTF-8")


def stream_lines(file: io.BufferedReader, name: str) -> Iterator[tuple[int, bytes]]:
    """All lines of a pipe, which is read once, as `DataFile.byte_lines` has those of a file. gzip is recognized by its first bytes. Raises BadData."""
    limited = MAX_ROW_BYTES + 1
    try:
        content: IO[bytes] = gzip.GzipFile(fileobj=file) if file.peek(len(_GZIP)).startswith(_GZIP) else file  # type: ignore[assignment]  # reads bytes
        for number, line in enumerate(iter(lambda: content.readline(limited), b""), 1):
            if len(line) == limited:
                raise BadData(f"{shown(name)}:{number}: a line of more than {MAX_ROW_BYTES >> 20} MiB; expected one row a line, ended by a line feed")
            whole = line.removesuffix(b"\n").removesuffix(b"\r")
            yield number, whole.removeprefix(codecs.BOM_UTF8) if number == 1 else whole
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{shown(name)}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


@dataclass(frozen=True)
class GivenFiles:
    """The files at a path: one file, or a folder without its subfolders. Files of a folder whose names do not look like data are never read."""

    #: A name with one of these in it looks like data: `posts.jsonl`, `posts.jsonl.gz`, `posts.json.bak`.
    ENDINGS = (".jsonl", ".json", ".csv")

    path: Path
    is_folder: bool
    files: tuple[DataFile, ...]
    not_read: tuple[str, ...] = ()

    @classmethod
    def at(cls, path: Path) -> GivenFiles:
        """Raises BadData if there is no such file or folder, or if the folder cannot be listed."""
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                return cls(path, False, (DataFile(path),))
            names = sorted(file.name for file in path.iterdir())
        except FileNotFoundError:
            raise BadData(f"{shown(path)}: {'a link to a file that does not exist' if path.is_symlink() else 'no such file or folder'}") from None
        except OSError as error:
            raise BadData(f"{shown(path)}: cannot be read: {error.strerror}") from None
        data = [name for name in names if cls._looks_like_data(name)]
        return cls(path, True, tuple(DataFile(path / name) for name in data), tuple(name for name in names if name not in data))

    @classmethod
    def _looks_like_data(cls, name: str) -> bool:
        """A hidden file is not data: macOS writes `._posts.jsonl` beside a file."""
        return not name.startswith(".") and any(ending in cls.ENDINGS for ending in Path(name.lower()).suffixes)

    def only(self, used: Collection[DataFile], what: str) -> None:
        """Raises BadData for a file that looks like data and is not `used`: the data of a folder is read whole or not at all."""
        if self.is_folder and (left := [file for file in self.files if file not in used]):
            names = ", ".join(shown(file.path.name) for file in left)
            raise BadData(f"{shown(self.path)}: {names}: not a file of {what}, and its name looks like data; move it away, or name the file to read")


def _head(content: IO[bytes]) -> bytes:
    head = content.read(512)
    content.seek(0)
    return head


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises NotJson."""
    blanks = len(text) - len(text.lstrip(_BLANK))
    value, end = parse_json_at(text, blanks)
    if text[end:].strip(_BLANK):
        raise NotJson("Extra data", end)
    return value


def parse_json_at(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and the position of its end. Raises NotJson, also for what JSON does not define: NaN, a key twice in one object."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        if (name := _constant_in(value)) is not None:
            raise NotJson(f"{name} is no JSON number")
        return value, end
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, error.pos) from None
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except NotJson:
        raise
    except ValueError:  # the interpreter's limit on digits
        raise NotJson("a number of too many digits") from None


@dataclass(frozen=True)
class _Constant:
    """NaN or an infinity, which Python's decoder reads and JSON does not define. Refused where its key is known."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise NotJson(f"the key {_cut(counts.most_common(1)[0][0])} occurs twice in one object{named_by_id(fields)}")
    for key, value in pairs:
        if (name := _constant_in(value)) is not None:
            raise NotJson(f"{name} is no JSON number: key {_cut(key)}{named_by_id(fields)}")
    return fields


def _constant_in(value: Any) -> str | None:
    """The name of a constant that is the value, or in a list of it. Objects in it were checked before."""
    if isinstance(value, _Constant):
        return value.name
    return next((name for each in value if (name := _constant_in(each)) is not None), None) if isinstance(value, list) else None


def named_by_id(fields: Mapping[str, Any]) -> str:
    """The id of an item as it is written in errors. Ids of the formats are numbers; a long one is cut."""
    found = fields.get("id")
    return f" (id {_cut(found)})" if isinstance(found, str | int) else ""


def _cut(value: str | int) -> str:
    return ascii(value)[:40]


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_Constant)


class _ListReader:
    """Reads the values of one JSON list. `text` holds the part of the file that is not yet parsed, from `at`."""

    def __init__(self, file: DataFile, content: IO[bytes]) -> None:
        self._file, self._content, self._decoder = file, content, codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._line, self._bytes, self._is_all = "", 0, 1, 0, False

    def items(self) -> Iterator[tuple[int, int, Any]]:
        if self._next_character() != "[":
            raise self._file.bad("expected a JSON list of objects", self._line)
        self._move(1)
        for number in itertools.count(1):
            character = self._next_character()
            if character == "]" and number == 1:
                break
            value, end = self._value(number)
            yield number, self._line, value
            self._move(end - self._at)
            character = self._next_character()
            if character == "]":
                break
            if character != ",":
                raise self._file.bad(f"after row {number}: {'the file is cut short' if not character else 'not JSON'}; expected a comma or ]", self._line)
            self._move(1)
        self._move(1)
        if self._next_character():
            raise self._file.bad("text after the end of the JSON list; expected one list", self._line)

    def _value(self, number: int) -> tuple[Any, int]:
        while True:
            try:
                return parse_json_at(self._text, self._at)
            except NotJson as error:
                line = self._line + self._text.count("\n", self._at, error.at or self._at)
                if error.at is None:
                    raise self._file.bad(f"row {number}: not JSON: {error}", line) from None
                if len(self._text) - self._at > MAX_ROW_BYTES:
                    raise self._file.bad(f"row {number} is not JSON, or longer than {MAX_ROW_BYTES >> 20} MiB: {error}", self._line) from None
                if not self._read():
                    raise self._file.bad(f"row {number}: not JSON, or cut short: {error}", line) from None

    def _next_character(self) -> str:
        """The next character that is not blank, which `at` then points to. Empty at the end of the file."""
        while True:
            rest = self._at
            while rest < len(self._text) and self._text[rest] in _BLANK:
                rest += 1
            self._move(rest - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _move(self, characters: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + characters)
        self._at += characters

    def _read(self) -> bool:
        """Read more text, twice as much for a row that is not complete. False at the end of the file."""
        self._text, self._at = self._text[self._at :], 0
        chunk = self._content.read(max(CHUNK_BYTES, len(self._text)))
        if self._is_all:
            return False
        self._is_all = not chunk
        self._text += self._file._decoded(self._decoder, chunk, self._bytes, is_last=self._is_all)
        self._bytes += len(chunk)
        return not self._is_all
