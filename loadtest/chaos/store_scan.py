"""What is wrong with the data directory of a stopped server: lost bytes, or some that nothing needs."""

from __future__ import annotations

import os
from pathlib import Path

from adapters_store.tools.store_check import check_store


def scan_store(root: Path) -> list[str]:
    """As sentences."""
    check = check_store(root)
    unnamed = [f"{path.relative_to(root)} is no name's" for path in check.unnamed]
    return [*check.problems, *unnamed, *leftovers(root)]


def leftovers(root: Path) -> list[str]:
    """Temporary files and folders. Of a running server only while nothing is on its way."""
    return [
        f"{Path(folder, name).relative_to(root)} was left behind"
        for place in ("tmp", "scratch")
        for folder, folders, files in os.walk(root / place)  # which bears that they go meanwhile
        for name in (*folders, *files)
    ]
