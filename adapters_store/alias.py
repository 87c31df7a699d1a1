"""The human name of an adapter as a record, and every way it can change. Pure: no disk, no clock, no lock.

A record is ordered by (revision, writer) against every other record of the same (tenant, name): each change raises the
revision by one, and of two changes made apart from each other the higher pair wins everywhere. A deleted alias leaves a
tombstone, so that a replica that missed the delete does not bring the name back.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, NamedTuple, NewType

from pydantic import Field, TypeAdapter, ValidationError

from adapters_store.adapter import Version, canonical_json
from adapters_store.errors import AdapterNotFound, AdapterRejected, CatalogConflict

Writer = NewType("Writer", str)  # who made a revision: drawn afresh by every process

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
MAX_DESCRIPTION_CHARS = 4096
MAX_TAGS = 32
MAX_TAG_CHARS = 64
MAX_HISTORY = 64  # versions an alias keeps; the oldest one is forgotten first

_NAME = re.compile(NAME_PATTERN)
_Version = Annotated[Version, Field(pattern="^sha256:[0-9a-f]{64}$")]
_UnixTime = Annotated[float, Field(ge=0, le=253_402_300_799)]  # to the end of the year 9999, where dates end


class AliasKey(NamedTuple):
    tenant: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """``created_at`` is Unix time: when this alias first pointed at the version. ``card`` came with the upload."""

    version: _Version
    created_at: _UnixTime
    base_verified: bool
    card: dict[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRecord:
    """``history`` holds every version that can still be moved to, oldest first, the current one included.

    A tombstone (``deleted``) has an empty history; its ``version`` is the last one the alias had.
    """

    tenant: str
    name: str
    version: _Version
    revision: Annotated[int, Field(ge=1)]
    writer: Annotated[Writer, Field(pattern="^[0-9A-Za-z]{1,64}$")]
    base_verified: bool
    description: str | None
    tags: tuple[str, ...]
    pinned: bool
    created_at: _UnixTime
    updated_at: _UnixTime
    history: tuple[HistoryEntry, ...]
    deleted: bool = False

    @property
    def key(self) -> AliasKey:
        return AliasKey(self.tenant, self.name)

    @property
    def etag(self) -> str:
        """Names this state of the record, for ``if_match``. Without the quotes that HTTP wants."""
        return f"{self.revision}-{self.writer}"

    @property
    def order(self) -> tuple[int, str]:
        return (self.revision, self.writer)

    @property
    def versions(self) -> frozenset[Version]:
        return frozenset(entry.version for entry in self.history)


def check_name(name: str, *, field: str = "name") -> None:
    """Raises AdapterRejected unless it is a name that may stand in a path and a URL."""
    if not _NAME.fullmatch(name):
        raise AdapterRejected("name", tensor=field, expected=NAME_PATTERN, got=repr(name[:140]))


def check_match(current: AliasRecord | None, key: AliasKey, if_match: str | None) -> None:
    """``if_match`` is an etag, ``*`` for any live record, or None for no condition. Raises CatalogConflict."""
    if if_match is None:
        return
    got = "nothing" if current is None or current.deleted else current.etag
    if got == "nothing" or if_match not in ("*", got):
        raise CatalogConflict(key.name, expected=if_match, got=got)


class Stamp(NamedTuple):
    """Who makes a change, and when (Unix time)."""

    writer: Writer
    now: float


def uploaded(
    current: AliasRecord | None,
    key: AliasKey,
    *,
    version: Version,
    base_verified: bool,
    card: dict[str, object] | None,
    description: str | None,
    tags: tuple[str, ...] | None,
    stamp: Stamp,
) -> AliasRecord:
    """The alias pointing at ``version``. Description and tags given as None stay what they were."""
    check_metadata(description, tags)
    alive = current if current is not None and not current.deleted else None
    known = alive.history if alive else ()
    entry = HistoryEntry(version=version, created_at=stamp.now, base_verified=base_verified, card=card)
    same = [old for old in known if old.version == version]
    if same:  # proven once is proven: the version names the same bytes and the same base
        verified = same[0].base_verified or base_verified
        entry = replace(same[0], base_verified=verified, card=card or same[0].card)
        history = tuple(entry if old.version == version else old for old in known)
    else:
        history = (*known, entry)[-MAX_HISTORY:]
    return AliasRecord(
        tenant=key.tenant,
        name=key.name,
        version=version,
        revision=1 if current is None else current.revision + 1,
        writer=stamp.writer,
        base_verified=entry.base_verified,
        description=description if description is not None else (alive.description if alive else None),
        tags=_distinct(tags) if tags is not None else (alive.tags if alive else ()),
        pinned=alive.pinned if alive else False,
        created_at=alive.created_at if alive else stamp.now,
        updated_at=stamp.now,
        history=history,
    )


def moved(
    current: AliasRecord,
    *,
    version: Version | None,
    description: str | None,
    tags: tuple[str, ...] | None,
    pinned: bool | None,
    stamp: Stamp,
) -> AliasRecord:
    """The record with what is not None changed. Raises AdapterNotFound if ``version`` is not in its history."""
    check_metadata(description, tags)
    entry = history_entry(current, version or current.version)
    return replace(
        current,
        version=entry.version,
        base_verified=entry.base_verified,
        description=current.description if description is None else description,
        tags=current.tags if tags is None else _distinct(tags),
        pinned=current.pinned if pinned is None else pinned,
        revision=current.revision + 1,
        writer=stamp.writer,
        updated_at=stamp.now,
    )


def without_version(current: AliasRecord, version: Version, *, stamp: Stamp) -> AliasRecord:
    """The record with one older version forgotten; the current one can only go with the whole alias (or moved away)."""
    history_entry(current, version)
    if version == current.version:
        raise CatalogConflict(
            current.name,
            expected="an older version (point the alias at another one first, or delete the alias)",
            got=f"the current version {version}",
        )
    history = tuple(entry for entry in current.history if entry.version != version)
    return replace(current, history=history, revision=current.revision + 1, writer=stamp.writer, updated_at=stamp.now)


def tombstone(current: AliasRecord, *, stamp: Stamp) -> AliasRecord:
    return replace(
        current,
        deleted=True,
        pinned=False,
        description=None,
        tags=(),
        history=(),
        revision=current.revision + 1,
        writer=stamp.writer,
        updated_at=stamp.now,
    )


def taken_back(change: AliasRecord, before: AliasRecord | None, *, stamp: Stamp) -> AliasRecord:
    """What there was before the change, as a further one above it; a tombstone where there was nothing."""
    if before is None:
        return tombstone(change, stamp=stamp)
    return replace(before, revision=change.revision + 1, writer=stamp.writer, updated_at=stamp.now)


def history_entry(record: AliasRecord, version: Version) -> HistoryEntry:
    for entry in record.history:
        if entry.version == version:
            return entry
    raise AdapterNotFound(record.name, version=version)


def check_metadata(description: str | None, tags: tuple[str, ...] | None) -> None:
    """Raises AdapterRejected naming the field and its limit."""
    if description is not None and len(description) > MAX_DESCRIPTION_CHARS:
        limit = f"at most {MAX_DESCRIPTION_CHARS} characters"
        raise AdapterRejected("length", tensor="description", expected=limit, got=str(len(description)))
    if tags is not None and len(tags) > MAX_TAGS:
        raise AdapterRejected("count", tensor="tags", expected=f"at most {MAX_TAGS}", got=str(len(tags)))
    for field, text in (("description", description or ""), *(("tags", tag) for tag in tags or ())):
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise AdapterRejected("text", tensor=field, expected="Unicode text", got="a lone surrogate")
    for tag in tags or ():
        if not 0 < len(tag) <= MAX_TAG_CHARS:
            raise AdapterRejected(
                "length", tensor="tags", expected=f"1 to {MAX_TAG_CHARS} characters", got=repr(tag[:80])
            )


def _distinct(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Each tag once, where it came first."""
    return tuple(dict.fromkeys(tags))


def encode_record(record: AliasRecord) -> bytes:
    return canonical_json(asdict(record))


def decode_record(data: bytes) -> AliasRecord:
    """Raises ValueError if these are not the very bytes that ``encode_record`` gives of a record."""
    try:
        record = _RECORD.validate_json(data, strict=True)
        check_name(record.name)
        check_name(record.tenant, field="tenant")
        check_metadata(record.description, record.tags)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"not an alias record: {where[:80]}: {first['msg']}") from None
    except AdapterRejected as error:
        raise ValueError(f"not an alias record: {error}") from error
    if encode_record(record) != data:  # an unknown field, a key twice
        raise ValueError("not an alias record: another spelling than ours")
    return record


_RECORD = TypeAdapter(AliasRecord)
