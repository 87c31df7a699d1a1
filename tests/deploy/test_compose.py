"""What the compose file promises the server, and what the server needs."""

from __future__ import annotations

import re
from pathlib import Path

from server.app import LAST_ANSWERS_S
from server.core.settings import ServerConfig

COMPOSE = (Path(__file__).parents[2] / "deploy" / "compose.yaml").read_text()


def test_the_server_is_not_killed_before_it_has_drained() -> None:
    grace = re.search(r"stop_grace_period: (\d+)s", COMPOSE)
    assert grace is not None
    assert int(grace[1]) > ServerConfig.model_fields["drain_s"].default + LAST_ANSWERS_S
