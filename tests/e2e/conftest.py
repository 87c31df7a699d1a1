"""Fixtures of the end-to-end tests: the real base, a few adapters over it, one server most tests share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters_store.adapter import Adapter
from adapters_store.base import BaseDescription
from loadtest.live_server import LiveServer
from tests.e2e.picture_world import PictureWorld, picture_world
from tests.e2e.real_adapters import default_base, random_adapter, random_index_set, write_all


@dataclass(frozen=True, slots=True, kw_only=True)
class RealAdapters:
    """``a`` and ``twin`` share an index set; ``b`` and ``c`` have their own."""

    base: BaseDescription
    by_name: dict[str, Adapter]
    paths: dict[str, Path]


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> RealAdapters:
    _, base = default_base()
    shared = random_index_set(base, seed=1)
    by_name = {
        "a": random_adapter(base, seed=1, index_set=shared),
        "twin": random_adapter(base, seed=2, index_set=shared),
        "b": random_adapter(base, seed=3),
        "c": random_adapter(base, seed=4, strength=0.05),
    }
    directory = tmp_path_factory.mktemp("adapters")
    return RealAdapters(base=base, by_name=by_name, paths=write_all(list(by_name.items()), directory))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, adapters: RealAdapters) -> Iterator[LiveServer]:
    """Holds ``a``, ``twin``, ``b`` and ``c``. Tests leave these four as they are."""
    with LiveServer(tmp_path_factory.mktemp("live") / "data", "--calibrate") as live:
        for name, path in adapters.paths.items():
            live.push(name, path)
        yield live


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureWorld]:
    with picture_world(tmp_path_factory.mktemp("pictures")) as world:
        yield world
