from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from adapters_store.adapter import Version
from adapters_store.alias import (
    MAX_HISTORY,
    AliasKey,
    AliasRecord,
    Stamp,
    Writer,
    check_name,
    decode_record,
    encode_record,
    moved,
    tombstone,
    uploaded,
)
from adapters_store.catalog import Catalog
from adapters_store.errors import AdapterNotFound, AdapterRejected

KEY = AliasKey("default", "pirate")


def version(number: int) -> Version:
    return Version(f"sha256:{number:064x}")


def upload(current: AliasRecord | None, number: int, *, key: AliasKey = KEY, verified: bool = True) -> AliasRecord:
    return uploaded(
        current,
        key,
        version=version(number),
        base_verified=verified,
        card={"mask": "wm"},
        description=None,
        tags=None,
        stamp=Stamp(Writer("w"), float(number)),
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return open_catalog(tmp_path)


def open_catalog(root: Path) -> Catalog:
    (root / "tmp").mkdir(exist_ok=True)
    return Catalog(root / "catalog", tmp_dir=root / "tmp")


def test_records_survive_a_restart_tombstones_included(catalog: Catalog, tmp_path: Path) -> None:
    kept = upload(None, 1)
    gone = tombstone(upload(None, 2, key=AliasKey("default", "gone")), stamp=Stamp(Writer("w"), 3.0))
    for record in (kept, gone):
        assert catalog.adopt(record)
    again = open_catalog(tmp_path)
    assert again.all() == [gone, kept]
    assert again.referenced_versions() == {version(1)}
    with pytest.raises(AdapterNotFound):
        again.get(gone.key)


def test_of_records_in_any_order_the_highest_stays(tmp_path: Path) -> None:
    first = upload(None, 1)
    second = upload(first, 2)
    rival = replace(second, writer=Writer("x"), version=version(3))
    for number, order in enumerate(permutations([first, second, rival])):
        (tmp_path / str(number)).mkdir()
        catalog = open_catalog(tmp_path / str(number))
        for record in order:
            catalog.adopt(record)
        assert catalog.find(KEY) == rival


def test_pages_follow_each_other_without_gap_or_repeat(catalog: Catalog) -> None:
    names = [f"n{number}" for number in (3, 1, 2, 5, 4)]
    for name in names:
        catalog.adopt(upload(None, 1, key=AliasKey("default", name)))
    catalog.adopt(upload(None, 1, key=AliasKey("other", "n0")))
    seen: list[str] = []
    while page := catalog.page("default", after=seen[-1] if seen else None, limit=2):
        seen += [record.name for record in page]
    assert seen == sorted(names)


def test_an_unreadable_file_is_not_a_record_and_is_kept(catalog: Catalog, tmp_path: Path) -> None:
    catalog.adopt(upload(None, 1))
    path = tmp_path / "catalog" / "default" / "pirate.json"
    path.write_bytes(path.read_bytes()[:-5])
    again = open_catalog(tmp_path)
    assert again.all() == []
    assert not again.is_complete
    assert path.exists()


def test_a_record_under_another_name_is_unreadable(catalog: Catalog, tmp_path: Path) -> None:
    catalog.adopt(upload(None, 1))
    folder = tmp_path / "catalog" / "default"
    (folder / "pirate.json").rename(folder / "poet.json")
    assert not open_catalog(tmp_path).is_complete


def test_a_record_comes_back_from_its_bytes_as_it_was() -> None:
    record = moved(
        upload(upload(None, 1), 2),
        version=version(1),
        description="é",
        tags=("a", "b"),
        pinned=True,
        stamp=Stamp(Writer("v"), 9.5),
    )
    assert decode_record(encode_record(record)) == record
    assert (record.revision, record.version, record.history[0].card) == (3, version(1), {"mask": "wm"})


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b'{"history": 1}', b"\xff"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|Expecting|decode"):
        decode_record(data)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b'"pinned":false', b'"pinned":"no"'),
        (b'"pinned":false', b'"more":1,"pinned":false'),
        (b'"pinned":false', b'"pinned":true,"pinned":false'),
        (b'"tags":[]', b'"tags":[1]'),
        (b'"tags":[]', b'"tags":' + b"[" * 100_000),  # deeper than the parser goes
        (b'"revision":1', b'"revision":' + b"1" * 5000),
        (b'"updated_at":1.0', b'"updated_at":NaN'),
        (b'"version":"sha256', b'"version":"\\ud800sha256'),
        (b'"version":"sha256:00000000', b'"version":"../../00'),
        (b'"revision":1', b'"revision":0'),
        (b'"revision":1', b'"revision":-5'),
        (b'"writer":"w"', b'"writer":"a b"'),
        (b'"writer":"w"', b'"writer":""'),
        (b'"created_at":1.0', b'"created_at":1e+300'),
        (b'"updated_at":1.0', b'"updated_at":-1.0'),
        (b'"tags":[]', b'"tags":[""]'),
        (b'"description":null', b'"description":"' + b"x" * 4097 + b'"'),
    ],
)
def test_a_record_with_one_thing_wrong_is_refused(ours: bytes, theirs: bytes) -> None:
    """It came up later: in an answer to a client, or as an error that kept the names behind it from being read."""
    data = encode_record(replace(upload(None, 1), updated_at=1.0, tags=()))
    assert decode_record(data)
    assert ours in data
    with pytest.raises(ValueError, match=r"not an alias record|not JSON"):
        decode_record(data.replace(ours, theirs))


def test_a_version_once_proven_for_the_base_stays_so() -> None:
    record = upload(upload(upload(None, 1, verified=True), 2, verified=False), 1, verified=False)
    assert record.base_verified
    assert not upload(record, 2, verified=False).base_verified
    assert upload(record, 2, verified=True).base_verified


def test_the_history_is_bounded_and_forgets_the_oldest() -> None:
    record: AliasRecord | None = None
    for number in range(MAX_HISTORY + 1):
        record = upload(record, number)
    assert record is not None
    assert [entry.version for entry in record.history] == [version(number) for number in range(1, MAX_HISTORY + 1)]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "-a", "_a", ".a", "a\0", "a\n", "a b", "ａ", "é", "a" * 129, "a\u202eb"]
)
def test_names_that_could_mean_something_to_a_path_or_a_screen_are_refused(name: str) -> None:
    with pytest.raises(AdapterRejected, match="name: name: expected"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "A.b-c_d", "7", "a" * 128])
def test_plain_names_are_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("description", "tags", "message"),
    [
        ("x" * 4097, None, "description: length: expected at most 4096 characters, got 4097"),
        ("\ud800", None, "lone surrogate"),
        (None, ("t",) * 33, "tags: count: expected at most 32, got 33"),
        (None, ("",), "tags: length"),
        (None, ("x" * 65,), "tags: length: expected 1 to 64 characters"),
    ],
)
def test_metadata_past_a_limit_is_refused_with_the_limit(
    description: str | None, tags: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(AdapterRejected, match=message):
        moved(
            upload(None, 1), version=None, description=description, tags=tags, pinned=None, stamp=Stamp(Writer("w"), 1)
        )
