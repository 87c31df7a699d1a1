"""Where a tool may write: to a file in a folder that exists, and never over what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adapters_store.errors import TrainingRefused


def check_output(output: Path, inputs: Iterable[Path], *, field: str = "output") -> None:
    """``inputs`` are files, and folders none of whose files may be replaced. Raises TrainingRefused."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise TrainingRefused(field, expected="a file in a directory that exists", got=str(output))
    folders = (output.parent.resolve() / output.name).parents  # a link is replaced where it lies, not where it leads
    for path in inputs:
        is_read = output.resolve() == path.resolve() or (path.resolve() in folders and output.exists())
        if is_read:
            raise TrainingRefused(field, expected=f"another file than what is read ({path.name})", got=str(output))
