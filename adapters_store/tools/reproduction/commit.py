"""Finished cells into git, so that no machine takes them with it."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def commit(paths: Sequence[Path], message: str) -> bool:
    """Commits these files and nothing else that is staged; False, with a warning, where git refuses."""
    folder, names = paths[0].parent, [str(path.resolve()) for path in paths]
    for command in (["git", "add", "--", *names], ["git", "commit", "--quiet", "-m", message, "--", *names]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            logger.warning("%s not committed: %s", paths[-1].name, (done.stderr or done.stdout).strip())
            return False
    return True
