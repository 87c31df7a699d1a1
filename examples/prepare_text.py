"""Makes training texts: ``prepare_text.py kjv DEB OUT``, ``… python OUT`` or ``… wordnet DEB OUT``.

kjv     the King James Bible out of the Debian package bible-kjv-text (needs ``dpkg-deb`` and ``gzip``): one
        paragraph per chapter, without verse numbers.
python  the standard library of the Python that runs this: every ``*.py`` at its top level, in order of name.
wordnet WordNet 3.0 out of the Debian package wordnet-base (needs ``dpkg-deb``): a line per sense, its words, part of
        speech, definition and examples; 40,000 of the 117,659 in an order that a hash decides, so that neighbours have
        nothing to do with each other.
"""

from __future__ import annotations

import hashlib
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
NUM_SENSES = 40_000
ADJECTIVE_PLACE = re.compile(r"\((?:a|p|ip)\)$")  # WordNet marks where an adjective may stand
VERSE = re.compile(r"^((?:[1-3])?[A-Za-z]+\d+):\d+ (.*)$", re.MULTILINE)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["kjv", package, output]:
            text = kjv_text(Path(package))
        case ["python", output]:
            text = python_text()
        case ["wordnet", package, output]:
            text = wordnet_text(Path(package))
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


def wordnet_text(package: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        database = Path(folder) / "usr/share/wordnet"
        senses = [
            _sense(row, part)
            for part, file in (("noun", "noun"), ("verb", "verb"), ("adjective", "adj"), ("adverb", "adv"))
            for row in (database / f"data.{file}").read_text(encoding="ascii").splitlines()
            if not row.startswith("  ")  # the licence
        ]
    shuffled = sorted(senses, key=lambda sense: hashlib.sha256(sense.encode()).digest())
    return "\n".join(shuffled[:NUM_SENSES]) + "\n"


def _sense(row: str, part: str) -> str:
    """A row of the database (wndb(5WN)): offset, file, type, number of words in hex, then pairs of word and id …"""
    data, _, gloss = row.partition(" | ")
    fields = data.split(" ")
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    spelt = ", ".join(ADJECTIVE_PLACE.sub("", word).replace("_", " ") for word in words)
    return f"{spelt} ({part}): {gloss.strip()}"


if __name__ == "__main__":
    main(sys.argv[1:])
