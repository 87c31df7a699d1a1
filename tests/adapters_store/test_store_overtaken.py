"""A change that meets what another replica did before the news of it comes."""

from __future__ import annotations

from contextlib import suppress

import pytest

from adapters_store.adapter import Version
from adapters_store.alias import AliasRecord
from adapters_store.errors import AdapterNotFound, CatalogConflict
from adapters_store.peers import CommitOutcome
from adapters_store.replication import Replication
from adapters_store.store import AdapterStore
from tests.adapters_store.replicas import Replicas, knows, num_on_disk, put, wait_for_copy, wait_until
from tests.adapters_store.small_adapters import small_adapter, upload

OLD, NEW = small_adapter(values=0).version, small_adapter(values=1).version


def withhold(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Replication, bytes]]:
    """From now on no replica hears any news; they are in the list that is returned."""
    unheard: list[tuple[Replication, bytes]] = []
    monkeypatch.setattr(Replication, "news", lambda replication, message: unheard.append((replication, message)))
    return unheard


def delete(store: AdapterStore) -> None:
    for version in store.delete("default", "pirate"):
        assert store.destroy(version, timeout_s=1)


@pytest.mark.parametrize("change", ["upload", "conditional upload", "description", "delete"])
def test_what_another_replica_deleted_goes_with_the_change_that_meets_the_delete(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It stayed on every tier until a restart: the news found nothing to do any more."""
    first, second = replicas.open("first"), replicas.open("second")
    gone: list[Version] = []
    first.subscribe(gone.append)
    put(first)
    first.move("default", "pirate", pinned=True)
    first.release(first.acquire(OLD))
    wait_until(lambda: knows(second, "pirate") and second.get_record("default", "pirate").pinned, what="one record")
    etag = first.get_record("default", "pirate").etag
    withhold(monkeypatch)
    delete(second)
    with suppress(AdapterNotFound, CatalogConflict):
        match change:
            case "upload":
                put(first, values=1)
            case "conditional upload":
                first.put(upload(small_adapter(values=1)), tenant="default", name="pirate", if_match=etag)
            case "description":
                first.move("default", "pirate", description="it was")
            case "delete":
                first.delete("default", "pirate")
    assert gone == [OLD]
    assert num_on_disk(first) == (1 if change == "upload" else 0)
    assert first.describe()["host"]["adapters"] == []


def test_what_another_replica_uploaded_is_fetched_also_if_a_change_met_its_record_first(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    put(first)
    wait_for_copy(second)
    hear = Replication.news
    unheard = withhold(monkeypatch)
    put(second, values=1)
    first.move("default", "pirate", description="met the upload")
    assert first.resolve("default", "pirate") == NEW
    wait_until(lambda: len(unheard) >= 2 * 2, what="both changes told to both replicas")
    for replication, message in unheard:
        hear(replication, message)
    wait_for_copy(first, 2)


def test_an_upload_that_another_replica_deletes_before_it_is_acknowledged_leaves_nothing(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    put(first)
    wait_for_copy(second)
    commit = Replication.commit

    def commit_overtaken(replication: Replication, before: AliasRecord | None, record: AliasRecord) -> CommitOutcome:
        outcome = commit(replication, before, record)
        if record.version == NEW and not record.deleted:
            wait_until(lambda: second.resolve("default", "pirate") == NEW, what="the upload elsewhere")
            delete(second)
            wait_until(lambda: not knows(first, "pirate"), what="the delete here")
        return outcome

    monkeypatch.setattr(Replication, "commit", commit_overtaken)
    put(first, values=1)
    assert not knows(first, "pirate")
    assert num_on_disk(first) == 0
