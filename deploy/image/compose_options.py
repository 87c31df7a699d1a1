"""What compose.yaml says of a server's container, in its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.image.variables import expand

COMPOSE = Path(__file__).parents[1] / "compose.yaml"


def server_service() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["server"]
    return service


def stop_grace_s() -> float:
    return float(expand(server_service()["stop_grace_period"], {}).removesuffix("s"))


def temporary_folders() -> Mapping[str, str]:
    """Their mount options."""
    return dict(entry.partition(":")[::2] for entry in server_service()["tmpfs"])
