from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters_store.replicas import Replicas


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    """Stores that share one real Valkey server, each with a disk of its own."""
    with Replicas(tmp_path) as replicas:
        yield replicas
