"""Multipart bodies straight to disk: no part that is a file is ever held in memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from adapters_store.errors import StorageFull
from server.api.errors import UnsupportedMediaType
from server.api.workers import Workers
from server.core.errors import RequestRejected

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_TEXT_BYTES = 64 * 1024
MAX_PARTS = 64
WRITE_BYTES = 1024**2  # one hop to a worker thread per so many


@dataclass(slots=True)
class Form:
    """Text parts by name, in order; file parts by name, where they were written."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


async def read_form(
    request: Request, workers: Workers, directory: Path, *, texts: Iterable[str], files: Iterable[str]
) -> Form:
    """Writes each file part to ``directory/<name of the part>``; the part's own file name is ignored.

    Raises UnsupportedMediaType, RequestRejected (not valid multipart, unknown or repeated parts, long texts),
    StorageFull, ClientDisconnect."""
    content_type = request.headers.get("content-type", "")
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise UnsupportedMediaType(expected="multipart/form-data with a boundary", got=content_type)
    parts = _Parts(directory, texts=frozenset(texts), files=frozenset(files))
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            if parts.num_pending_bytes >= WRITE_BYTES:
                await workers.heavy(parts.flush)
        await workers.heavy(parts.flush)
        parser.finalize()
    except FormParserError as error:
        raise RequestRejected(f"the body is not valid multipart: {error}") from error
    finally:
        parts.close()
    if not parts.is_complete:
        raise RequestRejected("the body is not valid multipart: it ends before its last boundary")
    return parts.form


class _Parts:
    """What the parser's callbacks build. ``flush`` writes what they left to write, off the event loop."""

    def __init__(self, directory: Path, *, texts: frozenset[str], files: frozenset[str]) -> None:
        self.form = Form()
        self.is_complete = False
        self.num_pending_bytes = 0
        self._directory = directory
        self._texts = texts
        self._files = files
        self._pending: list[tuple[Path, bytes]] = []
        self._open: dict[Path, BinaryIO] = {}
        self._num_parts = 0
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._text = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_piece,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def flush(self) -> None:
        try:
            self._flush()
        except OSError as error:
            raise StorageFull(f"the disk refused the upload: {error.strerror}") from error

    def _flush(self) -> None:
        pending, self._pending, self.num_pending_bytes = self._pending, [], 0
        for path, data in pending:
            if path not in self._open:
                self._open[path] = path.open("xb")
            self._open[path].write(data)
        for file in self._open.values():
            file.flush()

    def close(self) -> None:
        for file in self._open.values():
            with suppress(OSError):  # it holds what ``flush`` could not write, and said so
                file.close()

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise RequestRejected(f"at most {MAX_PARTS} parts")
        self._name = ""
        self._text.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_piece(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _begin_data(self) -> None:
        name = self._name
        if name not in self._texts | self._files:
            allowed = ", ".join(sorted(self._texts | self._files))
            raise RequestRejected(f"unknown part {name[:80]!r}: the parts here are {allowed}", param=name[:80])
        if name in self._files:
            if name in self.form.files:
                raise RequestRejected(f"the part {name} is given twice", param=name)
            self.form.files[name] = self._directory / name
            self._pending.append((self._directory / name, b""))

    def _data(self, data: bytes, start: int, end: int) -> None:
        name = self._name
        if name in self._files:
            self._pending.append((self.form.files[name], data[start:end]))
            self.num_pending_bytes += end - start
            return
        self._text += data[start:end]
        if len(self._text) > MAX_TEXT_BYTES:
            raise RequestRejected(f"{name}: at most {MAX_TEXT_BYTES} bytes", param=name)

    def _end_part(self) -> None:
        name = self._name
        if name in self._texts:
            try:
                self.form.texts.setdefault(name, []).append(self._text.decode())
            except UnicodeDecodeError as error:
                raise RequestRejected(f"{name}: not UTF-8: {error}", param=name) from error

    def _end(self) -> None:
        self.is_complete = True
