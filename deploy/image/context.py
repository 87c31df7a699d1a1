"""The files that a build is sent: the repository's, less those that .dockerignore leaves out."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from docker.utils.build import exclude_paths


class MissingSource(Exception):
    """COPY names what is not there or not sent."""


def files_sent(repository: Path) -> frozenset[PurePosixPath]:
    """Files, no folders, relative to the repository."""
    lines = (repository / ".dockerignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    sent = exclude_paths(str(repository), patterns)
    return frozenset(PurePosixPath(path) for path in sent if (repository / path).is_file())


def under(source: str, sent: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """The files that ``COPY source`` takes. Raises MissingSource."""
    found = sorted(path for path in sent if path.is_relative_to(source))
    if not found:
        raise MissingSource(f"COPY {source}: not in the repository, or left out by .dockerignore")
    return found


def copy_sent(repository: Path, sources: Iterable[str], target: Path, *, is_folder: bool) -> None:
    """As COPY does: files go into a target that is a folder, of a folder its content."""
    sent = files_sent(repository)
    for source in sources:
        for path in under(source, sent):
            into = target / path.name if is_folder and path == PurePosixPath(source) else target
            if path != PurePosixPath(source):
                into = target / path.relative_to(source)
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / path, into)
