"""An adapter as the outside sees it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from adapters_store.alias import MAX_DESCRIPTION_CHARS, MAX_TAG_CHARS, MAX_TAGS, AliasRecord
from server.api.schemas import Strict, VersionText


class AdapterView(BaseModel):
    """``base_verified``: the uploaded file itself named the base it was made for, by fingerprint."""

    name: str
    version: str
    base_verified: bool
    description: str | None
    tags: list[str]
    pinned: bool
    revision: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: AliasRecord) -> Self:
        return cls(
            name=record.name,
            version=record.version,
            base_verified=record.base_verified,
            description=record.description,
            tags=list(record.tags),
            pinned=record.pinned,
            revision=record.revision,
            created_at=datetime.fromtimestamp(record.created_at, UTC),
            updated_at=datetime.fromtimestamp(record.updated_at, UTC),
        )


class AdapterPage(BaseModel):
    """``next`` is what ``after`` takes for the following page, null on the last one."""

    adapters: list[AdapterView]
    next: str | None


class VersionView(BaseModel):
    version: str
    created_at: datetime
    base_verified: bool
    current: bool


class VersionsPage(BaseModel):
    """Oldest first."""

    name: str
    versions: list[VersionView]

    @classmethod
    def of(cls, record: AliasRecord) -> Self:
        versions = [
            VersionView(
                version=entry.version,
                created_at=datetime.fromtimestamp(entry.created_at, UTC),
                base_verified=entry.base_verified,
                current=entry.version == record.version,
            )
            for entry in record.history
        ]
        return cls(name=record.name, versions=versions)


TagText = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS)]


class AdapterPatch(Strict):
    """What is absent or null stays. ``version`` must be one the alias has had."""

    version: VersionText | None = None
    pinned: bool | None = None
    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION_CHARS)
    tags: list[TagText] | None = Field(default=None, max_length=MAX_TAGS, description="Duplicates are dropped.")

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError(f"nothing to change: give at least one of {', '.join(type(self).model_fields)}")
        return self


class Deleted(BaseModel):
    """``versions`` are those whose memory is free now; one that another name still refers to is not among them."""

    name: str
    versions: list[str]
