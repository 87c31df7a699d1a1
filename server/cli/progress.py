"""A file that shows how far it has been read, when somebody watches."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

WORTH_A_BAR_BYTES = 4 * 1024**2


class _Watched(io.BufferedReader):
    def __init__(self, raw: io.FileIO, bar: object) -> None:
        super().__init__(raw)
        self._bar = bar

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._bar.update(len(data))  # type: ignore[attr-defined]
        return data


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file open for reading, with a progress bar if standard error is a terminal and the file is not small."""
    num_bytes = path.stat().st_size
    if not sys.stderr.isatty() or num_bytes < WORTH_A_BAR_BYTES:
        with path.open("rb") as file:
            yield file
        return
    from tqdm import tqdm

    bar = tqdm(total=num_bytes, unit="B", unit_scale=True, unit_divisor=1024, desc=path.name)
    with bar, _Watched(io.FileIO(path), bar) as file:
        yield file
