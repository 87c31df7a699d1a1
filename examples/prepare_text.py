"""Makes the two training texts: ``prepare_text.py kjv DEB OUT`` and ``prepare_text.py python OUT``.

kjv     the King James Bible out of the Debian package bible-kjv-text (needs ``dpkg-deb`` and ``gzip``): one
        paragraph per chapter, without verse numbers.
python  the standard library of the Python that runs this: every ``*.py`` at its top level, in order of name.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import sysconfig
import tempfile
from itertools import groupby, pairwise
from pathlib import Path

WINDOW_TABLE = 0x54  # window size, number of windows, then the offset of each: big-endian uint32
MAGIC = b"\x1f\x9d\x90"  # of compress(1), stored once for all windows
VERSE = re.compile(r"^((?:[1-3])?[A-Za-z]+\d+):\d+ (.*)$", re.MULTILINE)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["kjv", package, output]:
            text = kjv_text(Path(package))
        case ["python", output]:
            text = python_text()
        case _:
            raise SystemExit(__doc__)
    Path(output).write_text(text, encoding="utf-8")


def kjv_text(package: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        data = (Path(folder) / "usr/lib/bible.data").read_bytes()
    verses = VERSE.findall(_decompress(data).decode("ascii"))
    chapters = groupby(verses, key=lambda verse: verse[0])
    return "\n\n".join(" ".join(verse for _, verse in chapter) for _, chapter in chapters) + "\n"


def _decompress(data: bytes) -> bytes:
    """Each window of ``bible.data`` is a compress(1) stream of its own, without the magic."""
    _, num_windows = struct.unpack_from(">II", data, WINDOW_TABLE)
    offsets = struct.unpack_from(f">{num_windows}I", data, WINDOW_TABLE + 8)
    streams = [MAGIC + data[start:end] for start, end in pairwise([*offsets, len(data)])]
    return b"".join(subprocess.run(["gzip", "-dc"], input=s, check=True, capture_output=True).stdout for s in streams)


def python_text() -> str:
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "\n\n".join(module.read_text(encoding="utf-8") for module in modules)


if __name__ == "__main__":
    main(sys.argv[1:])
