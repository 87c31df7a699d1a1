"""A wall clock that a server alone believes in, built on the spot from ``clock_shim.c``.

The machine's own clock is not touched.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SHIM = Path(__file__).with_name("clock_shim.c")


def can_build() -> bool:
    return shutil.which("cc") is not None


class WallClock:
    """``prefix``: what the server's command is run with."""

    def __init__(self, directory: Path) -> None:
        library = directory / "clock_shim.so"
        command = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SHIM)]
        subprocess.run(command, check=True)
        self._offset = directory / "clock_offset"
        self._offset.write_bytes(struct.pack("q", 0))
        self.prefix = ["env", f"LD_PRELOAD={library}", f"CHAOS_CLOCK={self._offset}"]

    def set_offset(self, seconds: int) -> None:
        """The server's clock jumps to so many seconds ahead of the machine's."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("q", seconds))
