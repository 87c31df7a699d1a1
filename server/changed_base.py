"""That the base was found changed outlives the process, which ends over it before anybody has scraped it: a file in the
data directory, written as soon as the engine has ended."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from server.core.metrics import Metrics

FILE_NAME = "base-changed"
log = logging.getLogger(__name__)


def recall_changed_base(metrics: Metrics, data_dir: Path) -> None:
    file = data_dir / FILE_NAME
    if file.exists():
        metrics.base_changed.set(file.stat().st_mtime)


def keep_changed_base(metrics: Metrics, data_dir: Path) -> None:
    found_s = metrics.registry.get_sample_value("shira_base_changed_timestamp_seconds")
    if found_s:
        file = data_dir / FILE_NAME
        try:
            file.touch()
            os.utime(file, (found_s, found_s))
        except OSError as error:
            log.error("that the base changed could not be noted in %s: %s", file, error)
